//! `cofferdam deploy`

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use url::Url;

use super::arguments::{FormatArgs, RegistryArgs};
use super::cluster::{ClusterArgs, Connection};
use super::deploy_doctor::{self, DoctorArgs};
use super::error::CliError;
use super::manifests::ManifestArgs;
use super::outcome::{Outcome, Row};
use super::rollout_wait::{WaitArgs, wait_for};
use super::session::Session;
use super::undeploy::not_of_others;
use crate::deploy::apply::{self, Action, ApplyOptions, Done, Force, Target, Validation};
use crate::deploy::apply_set::ApplySet;
use crate::deploy::cluster::Cluster;
use crate::deploy::inventory::{self, Inventory, Member};
use crate::deploy::object::{Object, ObjectId, Source};
use crate::deploy::remove::{self, Removal};
use crate::deploy::rollback::Before;
use crate::deploy::rollout::{Undone, Workload};
use crate::deploy::wait::{Awaited, WaitOptions};
use crate::deploy::{DeployError, smoke};
use crate::settings::{Given, Origin, RegistryFlags, parse_age};

/// The variable that names a deployment if nobody else does: GitLab's short name of an environment.
pub(super) const ENVIRONMENT: &str = "CI_ENVIRONMENT_SLUG";
/// Who kubectl is where it applies on the server.
const KUBECTL: &str = "kubectl";
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
    /// Take over what `kubectl apply --applyset` keeps under NAME: --prune then removes what is left of it
    #[arg(long, value_name = "[KIND/]NAME")]
    applyset: Option<String>,
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

/// Deploys.
pub(super) async fn run(arguments: DeployArgs, session: &Session) -> Result<(), CliError> {
    match arguments.command {
        None => {
            let outcome = Outcome::new(&arguments.options.form);
            let result = session.or_cancelled(deploy(arguments.options, session, &outcome)).await;
            outcome.end(result)
        }
        Some(DeployCommand::Doctor(arguments)) => deploy_doctor::run(*arguments, session).await,
    }
}

async fn deploy(options: DeployOptions, session: &Session, outcome: &Outcome) -> Result<(), CliError> {
    let DeployOptions {
        manifests,
        cluster,
        name,
        applyset,
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
        form: _,
    } = options;
    outcome.is_dry(dry_run);
    let check = checks(&check_urls, check_timeout.as_ref())?;
    let name = needed_name(name, prune, applyset.is_some(), session)?;
    let mut objects = manifests.read(session)?;
    let connection = cluster.connect(session).await?;
    let Connection { cluster, namespace, .. } = &connection;
    outcome.place(cluster.server(), name.as_deref());
    let home = namespace.as_deref().unwrap_or(cluster.namespace());
    if create_namespace {
        add_namespace(&mut objects, home);
    }
    let (waiting, registry) = (wait.lower()?, registry.lower());
    let mut options = apply.lower();
    let set = handed_over(cluster, applyset.as_deref(), home, &mut options, session).await?;
    let targets = apply::resolve(cluster, objects, namespace.as_deref()).await?;
    let warn = |id: &ObjectId, warning: &str| session.report.warn(format!("{id}: {warning}"));
    let mut tried = apply::try_all(cluster, &targets, &options, warn).await?;
    if dry_run {
        tell_tried(&tried, outcome);
        return Ok(());
    }
    let inventory = match &name {
        Some(name) => Some(announced(&connection, home, name, &targets, set.as_ref()).await?),
        None => None,
    };
    let before = match rollback_on_failure {
        true => Before::of(cluster, &targets, &tried).await,
        false => Before::default(),
    };
    tried.iter_mut().for_each(Done::forget_content);
    for (id, error) in before.unknown() {
        session.report.warn(format!("{id} could not go back: its revisions cannot be read: {error}"));
    }
    let inventory = Mutex::new(inventory);
    let tell = |done: &Done| {
        if let Some(inventory) = inventory.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            inventory.record(done);
        }
        outcome.row(Row::new(&done.id, done.action.name()));
        for manager in &done.taken_from {
            session.report.note(format!("{}: taken over from `{manager}`", done.id));
        }
    };
    let applied = apply::apply_all(cluster, &targets, &tried, &options, tell, warn).await;
    let mut inventory = inventory.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Known before it is waited for: what fails to be applied or to come to life belongs to the deployment as far as it is there.
    let settled = match &mut inventory {
        Some(inventory) if !matches!(applied, Err(DeployError::Api(_))) => {
            inventory.settle(cluster, &targets).await.map_err(DeployError::from)
        }
        _ => Ok(Vec::new()),
    };
    let (done, gone) = (applied?, settled?);
    let summary = summary(&done);
    if let Some((set, _)) = set {
        let parent = set.parent.clone();
        set.dissolve(cluster).await.map_err(DeployError::from)?;
        session
            .report
            .note(format!("the ApplySet of {parent} is no more: the list is this deployment's now"));
    }
    if !no_wait {
        let mut done: BTreeMap<ObjectId, Done> =
            done.into_iter().map(|done| (done.id.clone(), done)).collect();
        let awaited =
            targets.iter().filter_map(|target| Some(Awaited::applied(target, done.remove(&target.id)?)));
        let awaited = awaited.collect();
        let alive = async {
            wait_for(cluster, awaited, &waiting, &registry, session).await?;
            answering(&check, session).await
        };
        if let Err(error) = alive.await {
            if rollback_on_failure {
                roll_back(cluster, before, &error, &waiting, &registry, session, outcome).await;
            }
            return Err(error);
        }
    }
    if let Some(inventory) = &mut inventory {
        prune_or_say(&connection, inventory, gone, prune, prune_everything, session, outcome).await?;
    }
    session.report.note(summary);
    Ok(())
}

/// The set of kubectl's that is to be taken over, with its objects. What kubectl has applied on the server is taken over
/// with it.
async fn handed_over(
    cluster: &Cluster,
    word: Option<&str>,
    home: &str,
    options: &mut ApplyOptions,
    session: &Session,
) -> Result<Option<(ApplySet, Vec<Member>)>, CliError> {
    let Some(word) = word else { return Ok(None) };
    let Some(set) = ApplySet::find(cluster, word, home).await? else {
        session
            .report
            .note(format!("there is no ApplySet `{word}` in namespace `{home}`: nothing to take over"));
        return Ok(None);
    };
    let members = set.members(cluster).await.map_err(DeployError::from)?;
    let count = members.len();
    let objects = if count == 1 { "object" } else { "objects" };
    session
        .report
        .note(format!("the ApplySet of {} has {count} {objects}, which are taken over", set.parent));
    options.take_over.push(KUBECTL.to_owned());
    Ok(Some((set, members)))
}

/// Goes back. Why is said before, for it may take its time; what comes of it is told and changes nothing about the failure.
async fn roll_back(
    cluster: &Cluster,
    before: Before,
    error: &CliError,
    waiting: &WaitOptions,
    registry: &RegistryFlags,
    session: &Session,
    outcome: &Outcome,
) {
    if before.is_empty() {
        let why = match before.unknown().is_empty() {
            true => "nothing that keeps revisions was there before",
            false => "what was there before could not be read",
        };
        session.report.note(format!("there is nothing to go back to: {why}"));
        return;
    }
    session.report.note(format!("going back, for {error}"));
    let mut awaited = Vec::new();
    for (Workload { id, resource, .. }, number, undone) in before.restore(cluster).await {
        match undone {
            Ok(Undone::Back(_, object)) => {
                session.report.note(format!("{id} is back at revision {number}"));
                outcome.rolled_back(Row::new(&id, "rolled back"));
                awaited.push(Awaited::existing(id, resource, object));
            }
            Ok(Undone::Same(_)) => {}
            Err(error) => {
                session.report.warn(format!("{id} cannot go back to revision {number}: {error}"));
                outcome.rolled_back(Row::new(&id, "cannot be rolled back"));
            }
        }
    }
    if awaited.is_empty() {
        return;
    }
    match wait_for(cluster, awaited, waiting, registry, session).await {
        Ok(_) => session.report.note("what was there before is ready again"),
        Err(error) => session.report.warn(format!("what was there before is not ready again: {error}")),
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
///
/// # Errors
/// If it cannot be one.
pub(super) fn name_of(given: Option<String>, session: &Session) -> Result<Option<String>, CliError> {
    let environment = &session.settings.surroundings().environment;
    let name = given.or_else(|| environment.get(ENVIRONMENT).map(str::to_owned));
    match name {
        Some(name) if !inventory::is_name(&name) => Err(CliError::usage(
            format!("`{name}` cannot be the name of a deployment"),
            "names have lower-case letters, digits and hyphens",
        )),
        name => Ok(name),
    }
}

/// The same where something was asked for that cannot be done without.
fn needed_name(
    given: Option<String>,
    prune: bool,
    takes_over: bool,
    session: &Session,
) -> Result<Option<String>, CliError> {
    let hint = "name the deployment with --name, this time and from now on";
    match name_of(given, session)? {
        None if prune => Err(CliError::usage("`--prune` needs to know what was deployed before", hint)),
        None if takes_over => {
            Err(CliError::usage("`--applyset` needs a list to take the objects over into", hint))
        }
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

/// The list of what was deployed, with what will be. A namespace that the run itself makes is made first.
async fn announced(
    connection: &Connection,
    home: &str,
    name: &str,
    targets: &[Target],
    set: Option<&(ApplySet, Vec<Member>)>,
) -> Result<Inventory, CliError> {
    let Connection { cluster, .. } = connection;
    let mut inventory = Inventory::load(cluster, home, name).await?;
    if let Some((_, members)) = set {
        inventory.adopt(members);
    }
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
    session: &Session,
    outcome: &Outcome,
) -> Result<(), CliError> {
    if gone.is_empty() {
        return Ok(());
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
    let (own, shared) = not_of_others(cluster, inventory, removed, session).await?;
    inventory.forget(cluster, &shared).await.map_err(DeployError::from)?;
    let told = remove::remove(cluster, &own, |member, removal| {
        if removal != Removal::Absent {
            outcome.pruned(Row::new(&member.id(), removal.name()));
        }
    });
    told.await.map_err(DeployError::from)?;
    inventory.forget(cluster, &own).await.map_err(DeployError::from)?;
    Ok(())
}

fn tell_tried(tried: &[Done], outcome: &Outcome) {
    for done in tried {
        let action = match (done.object.is_null(), done.action) {
            (true, Action::Created) => "would be created (not tried: what it stands on is not there yet)",
            (true, _) => "would be applied (not tried: what it stands on is not there yet)",
            (_, Action::Created) => "would be created",
            _ => "would be applied",
        };
        outcome.row(Row::new(&done.id, action));
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
