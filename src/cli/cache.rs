//! `cofferdam cache`

use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::arguments::{Format, FormatArgs, RegistryArgs};
use super::build::BuildArgs;
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::cache::{ChainStep, LayerRecord, LocalCache, RegistryCache};
use crate::image::Repository;
use crate::plan::Key;
use crate::report::{bytes, duration, short};
use crate::settings::{Given, Method, Origin, parse_age, parse_repository};

/// Questions that a registry is asked at a time.
const AT_ONCE: usize = 16;

const AFTER_HELP: &str = "\
Examples:
  cofferdam cache why .                                Say of each step whether it would be carried out, and why
  cofferdam cache ls                                   List the results of steps in the state directory
  cofferdam cache ls registry.example.com/group/cache  List those that are shared there
  cofferdam cache show 3f0c1d                          Show what is known of one
  cofferdam cache prune registry.example.com/group/cache --older-than 30d

`cofferdam prune` removes results from the state directory.";

/// Flags of `cache`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CacheArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List results of steps
    Ls(LookArgs),
    /// Show what is known of a result
    Show(ShowArgs),
    /// Remove results from a repository
    Prune(PruneArgs),
    /// Say of each step of a build whether it would be carried out, and why
    Why(Box<WhyArgs>),
}

/// Where results are looked for, and how they are told.
#[derive(Debug, Args)]
struct LookArgs {
    /// The repository that results are shared in [default: the state directory]
    #[arg(value_name = "REPOSITORY")]
    repository: Option<String>,
    #[command(flatten)]
    form: FormatArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The key of the step, or how it begins
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    /// Remove results of steps that were carried out so long ago: 36h, 30d
    #[arg(long, value_name = "AGE")]
    older_than: String,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Args)]
struct WhyArgs {
    #[command(flatten)]
    build: BuildArgs,
    #[command(flatten)]
    form: FormatArgs,
}

/// A result of a step.
#[derive(Debug, Serialize)]
struct Row {
    key: Key,
    #[serde(flatten)]
    record: LayerRecord,
    /// The steps below it, as far as an entry of a repository tells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    below: Vec<ChainStep>,
}

/// Does what is asked.
pub(super) async fn run(arguments: CacheArgs, session: &Session) -> Result<(), CliError> {
    match arguments.verb {
        Verb::Ls(arguments) => list(arguments, session).await,
        Verb::Show(arguments) => show(arguments, session).await,
        Verb::Prune(arguments) => prune(arguments, session).await,
        Verb::Why(arguments) => why(*arguments, session).await,
    }
}

async fn why(arguments: WhyArgs, session: &Session) -> Result<(), CliError> {
    let (flags, registry) = arguments.build.lower();
    let settings = session.settings.build(&flags)?;
    if settings.call.method != Method::Build {
        let what =
            "`cofferdam cache why` says what a build would do; `--call` and `--check` ask for something else";
        return Err(CliError::usage(what, "ask one of them: `cofferdam build --call=…` is the other"));
    }
    let services = session.services(&registry.lower())?;
    let explained = crate::build::explain(settings.request, services).await?;
    match arguments.form.format {
        Format::Json => stdout::write_json(&explained),
        Format::Text => {
            let lines = explained.iter().flat_map(|step| step.lines());
            stdout::write(&lines.map(|line| format!("{line}\n")).collect::<String>())
        }
    }
}

async fn list(arguments: LookArgs, session: &Session) -> Result<(), CliError> {
    let place = place(arguments.repository.as_deref(), arguments.registry, session)?;
    let mut rows = rows(place.as_ref(), "", session).await?;
    rows.sort_by(|a, b| b.record.made.cmp(&a.record.made).then_with(|| a.key.cmp(&b.key)));
    match arguments.form.format {
        Format::Json => stdout::write_json(&rows),
        Format::Text => stdout::write(&table(&rows, now())),
    }
}

async fn show(arguments: ShowArgs, session: &Session) -> Result<(), CliError> {
    let LookArgs { repository, form, registry } = arguments.look;
    let place = place(repository.as_deref(), registry, session)?;
    let rows = rows(place.as_ref(), &arguments.key, session).await?;
    let row = match rows.as_slice() {
        [row] => row,
        [] => {
            let what = format!("there is no result whose key begins with `{}`", arguments.key);
            return Err(CliError::usage(what, "`cofferdam cache ls` lists them"));
        }
        several => {
            let what = format!("the keys of {} results begin with `{}`", several.len(), arguments.key);
            return Err(CliError::usage(what, "give more of it"));
        }
    };
    match form.format {
        Format::Json => stdout::write_json(row),
        Format::Text => stdout::write(&in_words(row, now())),
    }
}

async fn prune(arguments: PruneArgs, session: &Session) -> Result<(), CliError> {
    let age = parse_age(&Given::new(arguments.older_than.clone(), Origin::Flag("--older-than")))?;
    let oldest = now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    let place = place(Some(&arguments.repository), arguments.registry, session)?;
    let all = rows(place.as_ref(), "", session).await?;
    let (old, young): (Vec<Row>, Vec<Row>) = all.into_iter().partition(|row| row.record.made < oldest);
    let removed = async {
        for (row, cache) in old.iter().zip(place.iter().cycle()) {
            cache.remove(&row.key).await?;
        }
        Ok(())
    };
    session.or_cancelled(removed).await?;
    let results = |number: usize| format!("{number} result{}", if number == 1 { "" } else { "s" });
    stdout::write(&format!("removed {}; {} left\n", results(old.len()), results(young.len())))
}

/// The results whose keys begin with `prefix`.
async fn rows(place: Option<&RegistryCache>, prefix: &str, session: &Session) -> Result<Vec<Row>, CliError> {
    let Some(cache) = place else {
        let cache = LocalCache::new(&session.store()?);
        let found = cache.list()?.into_iter().filter(|(key, _)| key.to_string().starts_with(prefix));
        return Ok(found.map(|(key, record)| Row { key, record, below: Vec::new() }).collect());
    };
    let work = async {
        let keys = cache.keys().await?;
        let keys = keys.into_iter().filter(|key| key.to_string().starts_with(prefix));
        let answers = stream::iter(keys).map(|key| async move { (key, cache.chain(&key).await) });
        let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
        let mut rows = Vec::new();
        for (key, chain) in answers {
            let Some(mut chain) = chain? else { continue };
            if let Some(step) = chain.steps.pop() {
                rows.push(Row { key, record: step.record, below: chain.steps });
            }
        }
        Ok(rows)
    };
    session.or_cancelled(work).await
}

/// The cache in a repository, if one is named.
fn place(
    repository: Option<&str>,
    registry: RegistryArgs,
    session: &Session,
) -> Result<Option<RegistryCache>, CliError> {
    let Some(text) = repository else { return Ok(None) };
    let repository: Repository = parse_repository(&Given::new(text.to_owned(), Origin::Flag("REPOSITORY")))?;
    Ok(Some(RegistryCache::new(&session.client(&registry.lower())?, &repository)))
}

fn table(rows: &[Row], now: i64) -> String {
    let mut cells = vec![["KEY", "SIZE", "AGE", "STEP"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let key: String = row.key.to_string().chars().take(12).collect();
        [key, bytes(row.record.size), age(&row.record, now), first_line(&row.record.title)]
    }));
    stdout::table(&cells, &[1, 2])
}

fn in_words(row: &Row, now: i64) -> String {
    let record = &row.record;
    let mut lines = vec![
        format!("step         {}", first_line(&record.title)),
        format!("key          {}", row.key),
        format!("layer        {}", record.digest),
        format!("diff ID      {}", record.diff_id),
        format!("size         {}", bytes(record.size)),
        format!("compression  {}", record.compression),
        format!("media type   {}", record.media_type),
        format!("carried out  {} ago; the image says {}", age(record, now), record.created),
    ];
    for step in row.below.iter().rev() {
        let layer = short(&step.record.digest);
        lines.push(format!("above        {layer}  {}", first_line(&step.record.title)));
    }
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

fn age(record: &LayerRecord, now: i64) -> String {
    // Records of older programs do not say.
    if record.made == 0 {
        return "-".to_owned();
    }
    let seconds = u64::try_from(now.saturating_sub(record.made)).unwrap_or(0);
    match seconds {
        0..86_400 => duration(Duration::from_secs(seconds)),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn first_line(title: &str) -> String {
    title.lines().next().unwrap_or_default().chars().take(100).collect()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;
    use crate::plan::KeyBuilder;

    fn row() -> Row {
        let record = LayerRecord {
            digest: Digest::of(b"layer"),
            size: 1_500_000,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            diff_id: Digest::of(b"diff"),
            compression: "gzip".to_owned(),
            created: "2026-11-21T00:00:00Z".to_owned(),
            made: 1_000_000,
            title: "RUN make\nmore".to_owned(),
            above: None,
        };
        let step = ChainStep { key: KeyBuilder::new("a").finish().0, record: record.clone() };
        Row { key: KeyBuilder::new("b").finish().0, record, below: vec![step] }
    }

    #[test]
    fn results_in_a_table_and_in_words() {
        let row = row();
        let key = row.key.to_string();
        let lines = table(&[row], 1_000_000 + 3 * 86_400);
        assert_eq!(
            lines,
            format!("KEY             SIZE  AGE  STEP\n{}  1.5 MB   3d  RUN make\n", &key[..12])
        );
        let words = in_words(&super::tests::row(), 1_000_060);
        assert!(words.contains("carried out  1m 00s ago; the image says 2026-11-21T00:00:00Z"), "{words}");
        assert!(words.contains("above        "), "{words}");
    }
}
