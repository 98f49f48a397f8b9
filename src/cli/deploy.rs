//! `cofferdam deploy`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

use super::arguments::{Format, FormatArgs, RegistryArgs};
use super::cluster::{ClusterArgs, Connection};
use super::deploy_doctor::{self, DoctorArgs};
use super::error::CliError;
use super::manifests::ManifestArgs;
use super::rollout_wait::{WaitArgs, wait_for};
use super::session::Session;
use super::stdout;
use crate::deploy::apply::{self, Action, ApplyOptions, Done, Force, Target, Validation};
use crate::deploy::cluster::Cluster;
use crate::deploy::inventory::{self, Inventory, Member};
use crate::deploy::object::{Object, ObjectId, Source};
use crate::deploy::remove::{self, Removal};
use crate::deploy::rollback::Before;
use crate::deploy::rollout::Undone;
use crate::deploy::wait::Awaited;
use crate::deploy::{DeployError, smoke};
use crate::settings::{Given, Origin, parse_age};

/// The variable that names a deployment if nobody else does: GitLab's short name of an environment.
pub(super) const ENVIRONMENT: &str = "CI_ENVIRONMENT_SLUG";
/// How long an address is asked.
const CHECK: Duration = Duration::from_secs(60);
/// How long what is removed may take to be gone.
const REMOVAL: Duration = Duration::from_secs(120);

const AFTER_HELP: &str = "\
Everything is tried first (a server-side dry run), then applied in the order of what stands on what,
then waited for. Nothing is overwritten that somebody else owns. Standard output has a line for each
object: created, configured or unchanged.

With --name (or $CI_ENVIRONMENT_SLUG) the cluster keeps a list of what the deployment consists of, in
the ConfigMap cofferdam-NAME: --prune removes what is no longer in the manifests, and
`cofferdam undeploy NAME` all of it.

Examples:
  cofferdam deploy -f app.yaml --images image.json
  cofferdam deploy -f k8s/ -n shop --name web --prune --timeout 5m
  helm template web chart/ | cofferdam deploy -f - --image web=registry.example.com/web:v1@sha256:…
  cofferdam deploy -f k8s/ --dry-run";

/// Flags of `deploy`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct DeployArgs {
    #[command(subcommand)]
    command: Option<DeployCommand>,
    #[command(flatten)]
    options: DeployOptions,
}

/// What else `deploy` can do.
#[derive(Debug, Subcommand)]
enum DeployCommand {
    /// Show which cluster is asked and as whom, and what a deployment is allowed to do
    Doctor(Box<DoctorArgs>),
}

#[derive(Debug, Args)]
struct DeployOptions {
    #[command(flatten)]
    manifests: ManifestArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Keep a list of what is deployed under this name [default: $CI_ENVIRONMENT_SLUG]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Create the namespace, if it is not there
    #[arg(long)]
    create_namespace: bool,
    /// Remove what was deployed under the name before and is no longer in the manifests
    #[arg(long)]
    prune: bool,
    /// Let --prune remove namespaces, volumes and their claims, and custom resource definitions too
    #[arg(long, requires = "prune")]
    prune_everything: bool,
    /// Try everything, and apply nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    apply: ApplyArgs,
    /// Do not wait until everything is ready
    #[arg(long, help_heading = "Waiting")]
    no_wait: bool,
    #[command(flatten)]
    wait: WaitArgs,
    /// Go back to what was there if something does not come to life, once it is known why
    #[arg(long, help_heading = "Waiting", conflicts_with = "no_wait")]
    rollback_on_failure: bool,
    /// Ask URL when everything is ready, until it answers with success; may be given several times
    #[arg(long = "check-url", value_name = "URL", help_heading = "Waiting", conflicts_with = "no_wait")]
    check_urls: Vec<String>,
    /// How long --check-url asks [default: 1m]
    #[arg(long, value_name = "TIME", help_heading = "Waiting")]
    check_timeout: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    form: FormatArgs,
}

/// How objects are applied.
#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// Overwrite fields that others own: all of them, or those at and below PATH (.spec.replicas)
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    force_conflicts: Vec<String>,
    /// Take over the fields of this manager, as is done with those of `kubectl apply`
    #[arg(long, value_name = "MANAGER")]
    take_over: Vec<String>,
    /// Change objects that Flux or Argo CD owns
    #[arg(long)]
    take_from_gitops: bool,
    /// What is done about fields that the cluster does not know
    #[arg(long, value_enum, default_value_t)]
    validate: Validate,
}

/// What is done about unknown fields.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Validate {
    /// They are an error
    #[default]
    Strict,
    /// They are warned of
    Warn,
    /// They are dropped
    Ignore,
}

impl ApplyArgs {
    pub(super) fn lower(self) -> ApplyOptions {
        let Self { force_conflicts, take_over, take_from_gitops, validate } = self;
        let force = match force_conflicts.as_slice() {
            [] => Force::No,
            paths if paths.iter().any(String::is_empty) => Force::All,
            _ => Force::Paths(force_conflicts),
        };
        let validation = match validate {
            Validate::Strict => Validation::Strict,
            Validate::Warn => Validation::Warn,
            Validate::Ignore => Validation::Ignore,
        };
        ApplyOptions { force, validation, take_over, take_from_gitops }
    }
}

/// What a deployment has come to.
#[derive(Debug, Serialize)]
struct Report {
    server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    dry_run: bool,
    objects: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pruned: Vec<Row>,
}

/// What became of an object.
#[derive(Debug, Serialize)]
struct Row {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    action: &'static str,
}

impl Row {
    fn new(id: &ObjectId, action: &'static str) -> Self {
        let ObjectId { kind, namespace, name } = id;
        Self { kind: kind.to_string(), namespace: namespace.clone(), name: name.clone(), action }
    }

    fn line(&self) -> String {
        format!("{}/{} {}\n", self.kind, self.name, self.action)
    }
}

/// Deploys.
pub(super) async fn run(arguments: DeployArgs, session: &Session) -> Result<(), CliError> {
    match arguments.command {
        None => session.or_cancelled(deploy(arguments.options, session)).await,
        Some(DeployCommand::Doctor(arguments)) => deploy_doctor::run(*arguments, session).await,
    }
}

async fn deploy(options: DeployOptions, session: &Session) -> Result<(), CliError> {
    let DeployOptions {
        manifests,
        cluster,
        name,
        create_namespace,
        prune,
        prune_everything,
        dry_run,
        apply,
        no_wait,
        wait,
        rollback_on_failure,
        check_urls,
        check_timeout,
        registry,
        form,
    } = options;
    let check = checks(&check_urls, check_timeout.as_ref())?;
    let name = name_of(name, prune, session)?;
    let mut objects = manifests.read(session)?;
    let connection = cluster.connect(session).await?;
    let Connection { cluster, namespace, .. } = &connection;
    if create_namespace {
        add_namespace(&mut objects, namespace.as_deref().unwrap_or(cluster.namespace()));
    }
    let waiting = wait.lower()?;
    let options = apply.lower();
    let targets = apply::resolve(cluster, objects, namespace.as_deref()).await?;
    let tried = apply::try_all(cluster, &targets, &options).await?;
    warn_of(&tried, session);
    if dry_run {
        return tell_tried(&connection, name, &targets, &tried, form);
    }
    let home = namespace.as_deref().unwrap_or(cluster.namespace());
    let mut inventory = match &name {
        Some(name) => Some(announced(&connection, home, name, &targets).await?),
        None => None,
    };
    let before = match rollback_on_failure {
        true => Before::of(cluster, &targets, &tried).await,
        false => Before::default(),
    };
    let is_text = matches!(form.format, Format::Text);
    let tell = |done: &Done| {
        if is_text {
            // Who does not read on is told by the write of the end.
            let _ = stdout::write(&Row::new(&done.id, done.action.name()).line());
        }
        for manager in &done.taken_from {
            session.report.note(format!("{}: taken over from `{manager}`", done.id));
        }
    };
    let done = apply::apply_all(cluster, &targets, &tried, &options, tell).await?;
    // Known before it is waited for: a rollout that fails belongs to the deployment all the same.
    let gone = match &mut inventory {
        Some(inventory) => inventory.settle(cluster, &done).await.map_err(DeployError::from)?,
        None => Vec::new(),
    };
    if !no_wait {
        let awaited = targets.iter().filter_map(|target| {
            let done = done.iter().find(|done| done.id == target.id)?;
            Some(Awaited::applied(target, done))
        });
        let awaited = awaited.collect();
        let alive = async {
            wait_for(cluster, awaited, &waiting, &registry.lower(), session).await?;
            answering(&check, session).await
        };
        if let Err(error) = alive.await {
            if rollback_on_failure {
                roll_back(cluster, before, &error, session).await;
            }
            return Err(error);
        }
    }
    let mut pruned = Vec::new();
    if let Some(inventory) = &mut inventory {
        pruned =
            prune_or_say(&connection, inventory, gone, prune, prune_everything, is_text, session).await?;
    }
    if !is_text {
        let objects = done.iter().map(|done| Row::new(&done.id, done.action.name())).collect();
        let server = cluster.server().to_owned();
        stdout::write_json(&Report { server, name, dry_run: false, objects, pruned })?;
    }
    session.report.note(summary(&done));
    Ok(())
}

/// Goes back. Why is said before, for it may take its time; what comes of it is told and changes nothing about the failure.
async fn roll_back(cluster: &Cluster, before: Before, error: &CliError, session: &Session) {
    session.report.note(format!("going back, for {error}"));
    for (id, number, outcome) in before.restore(cluster).await {
        match outcome {
            Ok(Undone::Back(..)) => session.report.note(format!("{id} is back at revision {number}")),
            Ok(Undone::Same(_)) => {}
            Err(error) => session.report.warn(format!("{id} cannot go back to revision {number}: {error}")),
        }
    }
}

/// Asks every address.
async fn answering(check: &(Vec<Url>, Duration), session: &Session) -> Result<(), CliError> {
    let (urls, patience) = check;
    for url in urls {
        let answer = smoke::check(url, *patience, &session.settings.surroundings().environment).await;
        let failed = |why| DeployError::Smoke { url: url.to_string(), why };
        session.report.note(format!("{url} answers: {}", answer.map_err(failed)?));
    }
    Ok(())
}

/// Addresses to ask, and for how long.
fn checks(urls: &[String], patience: Option<&String>) -> Result<(Vec<Url>, Duration), CliError> {
    let parsed = urls.iter().map(|url| {
        url.parse().map_err(|_| {
            CliError::usage(format!("`{url}` is no address"), "an address begins with http:// or https://")
        })
    });
    let patience = time(patience, "--check-timeout")?.unwrap_or(CHECK);
    Ok((parsed.collect::<Result<_, _>>()?, patience))
}

/// The deployment's name, if it has one.
pub(super) fn name_of(
    given: Option<String>,
    is_needed: bool,
    session: &Session,
) -> Result<Option<String>, CliError> {
    let environment = &session.settings.surroundings().environment;
    let name = given.or_else(|| environment.get(ENVIRONMENT).map(str::to_owned));
    match name {
        Some(name) if !inventory::is_name(&name) => Err(CliError::usage(
            format!("`{name}` cannot be the name of a deployment"),
            "names have lower-case letters, digits and hyphens",
        )),
        None if is_needed => Err(CliError::usage(
            "`--prune` needs to know what was deployed before",
            "name the deployment with --name, this time and from now on",
        )),
        name => Ok(name),
    }
}

/// Puts the namespace beside the objects, if it is not among them.
fn add_namespace(objects: &mut Vec<Object>, name: &str) {
    let is_there =
        objects.iter().any(|object| object.gvk().group_kind().is("", "Namespace") && object.name() == name);
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    if let (false, Value::Object(fields)) = (is_there, made) {
        objects.insert(0, Object { fields, source: Source::made("--create-namespace") });
    }
}

fn warn_of(tried: &[Done], session: &Session) {
    for done in tried {
        for warning in &done.warnings {
            session.report.warn(format!("{}: {warning}", done.id));
        }
    }
}

/// The list of what was deployed, with what will be. A namespace that the run itself makes is made first.
async fn announced(
    connection: &Connection,
    home: &str,
    name: &str,
    targets: &[Target],
) -> Result<Inventory, CliError> {
    let Connection { cluster, .. } = connection;
    let mut inventory = Inventory::load(cluster, home, name).await?;
    match inventory.announce(cluster, targets).await {
        // It will be there when the objects are.
        Err(error) if error.is_not_found() => {}
        other => other.map_err(DeployError::from)?,
    }
    Ok(inventory)
}

/// Removes what is no longer part of the deployment, or says what that is.
async fn prune_or_say(
    connection: &Connection,
    inventory: &mut Inventory,
    gone: Vec<Member>,
    prune: bool,
    everything: bool,
    is_text: bool,
    session: &Session,
) -> Result<Vec<Row>, CliError> {
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let (kept, removed): (Vec<Member>, Vec<Member>) = gone
        .into_iter()
        .partition(|member| !prune || (!everything && remove::is_precious(&member.id().kind)));
    if !kept.is_empty() {
        let names: Vec<_> = kept.iter().map(|member| member.id().to_string()).collect();
        let how = if prune { "--prune-everything removes it" } else { "--prune removes it" };
        session
            .report
            .note(format!("no longer in the manifests, and still there: {} ({how})", names.join(", ")));
    }
    let cluster = &connection.cluster;
    let rows = std::sync::Mutex::new(Vec::new());
    let outcome = remove::remove(cluster, &removed, |member, removal| {
        let row = Row::new(&member.id(), removal_name(removal));
        if is_text && removal != Removal::Absent {
            let _ = stdout::write(&row.line());
        }
        rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(row);
    });
    outcome.await.map_err(DeployError::from)?;
    inventory.forget(cluster, &removed).await.map_err(DeployError::from)?;
    Ok(rows.into_inner().unwrap_or_default())
}

fn removal_name(removal: Removal) -> &'static str {
    match removal {
        Removal::Removed => "deleted",
        Removal::Absent => "was gone",
        Removal::Replaced => "left, for it is another object of that name",
    }
}

fn tell_tried(
    connection: &Connection,
    name: Option<String>,
    targets: &[Target],
    tried: &[Done],
    form: FormatArgs,
) -> Result<(), CliError> {
    let rows = targets.iter().zip(tried).map(|(target, done)| {
        let action = match (target.is_ahead, done.action) {
            (true, _) => "would be created (not tried: what it stands on is not there yet)",
            (_, Action::Created) => "would be created",
            _ => "would be applied",
        };
        Row::new(&done.id, action)
    });
    let rows: Vec<Row> = rows.collect();
    match form.format {
        Format::Text => stdout::write(&rows.iter().map(Row::line).collect::<String>()),
        Format::Json => stdout::write_json(&Report {
            server: connection.cluster.server().to_owned(),
            name,
            dry_run: true,
            objects: rows,
            pruned: Vec::new(),
        }),
    }
}

/// `7 objects applied: 1 created, 2 configured, 4 unchanged`
fn summary(done: &[Done]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    done.iter().for_each(|done| *counts.entry(done.action.name()).or_default() += 1);
    let parts: Vec<_> = ["created", "configured", "unchanged"]
        .iter()
        .filter_map(|name| Some(format!("{} {name}", counts.get(name)?)))
        .collect();
    let objects = if done.len() == 1 { "object" } else { "objects" };
    format!("{} {objects} applied: {}", done.len(), parts.join(", "))
}

/// Reads a time such as `90s` or `5m`.
pub(super) fn time(text: Option<&String>, flag: &'static str) -> Result<Option<Duration>, CliError> {
    let given = text.map(|text| Given::new(text.clone(), Origin::Flag(flag)));
    Ok(given.map(|given| parse_age(&given)).transpose()?)
}

/// How long what is removed is waited for.
pub(super) const fn removal_patience() -> Duration {
    REMOVAL
}
