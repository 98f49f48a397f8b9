//! `cofferdam prune`

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::arguments::{Format, FormatArgs};
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::report::bytes;
use crate::settings::{Given, Origin, parse_age, parse_size};
use crate::store::{NamedImages, PrunePolicy, Pruned};

const AFTER_HELP: &str = "\
Examples:
  cofferdam prune                      Remove what nothing refers to, as failed builds leave it
  cofferdam prune --older-than 7d      And what was not used for a week
  cofferdam prune --keep 10GB          And what was not used for longest, down to 10 GB
  cofferdam prune --all                And the whole cache

Images with a name stay. Without flags, so do the cache and base images, as their tags were last
seen; those that only a digest names go, and the next build reads its whole context again.
Nothing is removed while a build uses the state directory.";

/// Flags of `prune`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PruneArgs {
    /// Forget the whole cache
    #[arg(long, conflicts_with_all = ["older_than", "keep"])]
    all: bool,
    /// Remove what was not used for so long: 36h, 7d
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// Remove what was not used for longest, until the store has at most so much: 500MB, 10GiB
    #[arg(long, value_name = "SIZE")]
    keep: Option<String>,
    /// Wait so long for running builds to end [default: 0s]
    #[arg(long, value_name = "AGE")]
    wait: Option<String>,
    #[command(flatten)]
    form: FormatArgs,
}

impl PruneArgs {
    fn policy(&self) -> Result<PrunePolicy, CliError> {
        let age = |flag: &'static str, value: &Option<String>| -> Result<Option<Duration>, CliError> {
            let given = value.clone().map(|value| Given::new(value, Origin::Flag(flag)));
            Ok(given.as_ref().map(parse_age).transpose()?)
        };
        let keep = self.keep.clone().map(|value| Given::new(value, Origin::Flag("--keep")));
        Ok(PrunePolicy {
            names: NamedImages::Stay,
            all: self.all,
            older_than: age("--older-than", &self.older_than)?,
            keep_bytes: keep.as_ref().map(parse_size).transpose()?,
            wait: age("--wait", &self.wait)?.unwrap_or_default(),
        })
    }
}

/// Prunes.
pub(super) async fn run(arguments: PruneArgs, session: &Session) -> Result<(), CliError> {
    let pruned = session.prune(arguments.policy()?).await?;
    match arguments.form.format {
        Format::Text => stdout::write(&in_words(&pruned)),
        Format::Json => stdout::write_json(&Freed::from(pruned)),
    }
}

/// The result for programs.
#[derive(Debug, Serialize)]
struct Freed {
    blobs: u64,
    records: u64,
    cache_mounts: u64,
    downloads: u64,
    roots: u64,
    freed_bytes: u64,
    left_bytes: u64,
}

impl From<Pruned> for Freed {
    fn from(pruned: Pruned) -> Self {
        let Pruned { blobs, names: _, records, mounts, downloads, roots, bytes, left } = pruned;
        Self { blobs, records, cache_mounts: mounts, downloads, roots, freed_bytes: bytes, left_bytes: left }
    }
}

fn in_words(pruned: &Pruned) -> String {
    let counted = |number: u64, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    format!(
        "freed {}: {}, {}, {}, {}, {}; {} left\n",
        bytes(pruned.bytes),
        counted(pruned.blobs, "blob"),
        counted(pruned.records, "cache record"),
        counted(pruned.mounts, "cache mount"),
        counted(pruned.downloads, "unfinished download"),
        counted(pruned.roots, "root filesystem"),
        bytes(pruned.left)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;
    use crate::cli::arguments::{Arguments, Command};

    fn policy(line: &[&str]) -> Result<PrunePolicy, CliError> {
        let mut typed = vec!["cofferdam", "prune"];
        typed.extend(line);
        let Command::Prune(prune) = Arguments::try_parse_from(typed).unwrap().command else { panic!() };
        prune.policy()
    }

    #[rstest]
    #[case(&[], PrunePolicy::default())]
    #[case(&["--all"], PrunePolicy { all: true, ..PrunePolicy::default() })]
    #[case(
        &["--older-than", "1d", "--keep=1GB", "--wait", "90s"],
        PrunePolicy {
            names: NamedImages::Stay,
            all: false,
            older_than: Some(Duration::from_secs(86_400)),
            keep_bytes: Some(1_000_000_000),
            wait: Duration::from_secs(90),
        }
    )]
    fn flags_come_to(#[case] line: &[&str], #[case] expected: PrunePolicy) {
        assert_eq!(policy(line).unwrap(), expected);
    }

    #[rstest]
    #[case(&["--older-than", "7"], "`--older-than`: `7` is no age")]
    #[case(&["--keep", "much"], "`--keep`: `much` is no size")]
    #[case(&["--wait", "x"], "`--wait`: `x` is no age")]
    fn what_is_no_age_or_size_names_its_flag(#[case] line: &[&str], #[case] message: &str) {
        let error = policy(line).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn what_was_freed_in_words() {
        let pruned = Pruned {
            blobs: 1,
            names: 0,
            records: 0,
            mounts: 1,
            downloads: 2,
            roots: 1,
            bytes: 1_500_000,
            left: 12,
        };
        assert_eq!(
            in_words(&pruned),
            "freed 1.5 MB: 1 blob, 0 cache records, 1 cache mount, 2 unfinished downloads, 1 root filesystem; 12 B left\n"
        );
    }
}
