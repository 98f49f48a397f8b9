//! `cofferdam rollout`

use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::{Format, FormatArgs, RegistryArgs};
use super::cluster::{ClusterArgs, Connection};
use super::error::CliError;
use super::rollout_wait::{WaitArgs, wait_for};
use super::session::Session;
use super::stdout;
use crate::deploy::cluster::Cluster;
use crate::deploy::rollout::{self, Revision, Undone, Workload};
use crate::deploy::wait::Awaited;

const AFTER_HELP: &str = "\
Objects are named as KIND/NAME: deployment/web, sts/db, daemonset/agent.

Examples:
  cofferdam rollout status deployment/web -n shop
  cofferdam rollout history deployment/web -n shop
  cofferdam rollout undo deployment/web -n shop --to-revision 3
  cofferdam rollout restart deployment/web statefulset/db -n shop";

/// Flags of `rollout`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RolloutArgs {
    #[command(subcommand)]
    command: RolloutCommand,
}

/// What can be done with a rollout.
#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// Wait until objects are ready, or say why they are not going to be
    Status(StatusArgs),
    /// List the revisions that are kept, with their images
    History(HistoryArgs),
    /// Go back to an earlier revision, and wait
    Undo(UndoArgs),
    /// Have all pods made anew, and wait
    Restart(RestartArgs),
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The objects
    #[arg(value_name = "KIND/NAME", required = true)]
    objects: Vec<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// The object
    #[arg(value_name = "KIND/NAME")]
    object: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    form: FormatArgs,
}

#[derive(Debug, Args)]
struct UndoArgs {
    /// The objects
    #[arg(value_name = "KIND/NAME", required = true)]
    objects: Vec<String>,
    /// Go back to this revision [default: the one before the newest]
    #[arg(long, value_name = "NUMBER")]
    to_revision: Option<u64>,
    /// Do not wait until everything is ready
    #[arg(long, help_heading = "Waiting")]
    no_wait: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Args)]
struct RestartArgs {
    /// The objects
    #[arg(value_name = "KIND/NAME", required = true)]
    objects: Vec<String>,
    /// Do not wait until everything is ready
    #[arg(long, help_heading = "Waiting")]
    no_wait: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// A revision, as it is shown.
#[derive(Debug, Serialize)]
struct Row<'a> {
    revision: u64,
    current: bool,
    created: &'a str,
    images: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

/// Asks about, undoes or repeats a rollout.
pub(super) async fn run(arguments: RolloutArgs, session: &Session) -> Result<(), CliError> {
    let work = async {
        match arguments.command {
            RolloutCommand::Status(arguments) => status(arguments, session).await,
            RolloutCommand::History(arguments) => history(arguments, session).await,
            RolloutCommand::Undo(arguments) => undo(arguments, session).await,
            RolloutCommand::Restart(arguments) => restart(arguments, session).await,
        }
    };
    session.or_cancelled(work).await
}

async fn found(connection: &Connection, names: &[String]) -> Result<Vec<Workload>, CliError> {
    let Connection { cluster, namespace, .. } = connection;
    let namespace = namespace.as_deref().unwrap_or(cluster.namespace());
    let mut workloads = Vec::with_capacity(names.len());
    for name in names {
        workloads.push(rollout::find(cluster, name, namespace).await?);
    }
    Ok(workloads)
}

async fn status(arguments: StatusArgs, session: &Session) -> Result<(), CliError> {
    let waiting = arguments.wait.lower()?;
    let connection = arguments.cluster.connect(session).await?;
    let workloads = found(&connection, &arguments.objects).await?;
    let awaited = workloads.into_iter().map(|one| Awaited::existing(one.id, one.resource, one.object));
    let registry = arguments.registry.lower();
    let settled = wait_for(&connection.cluster, awaited.collect(), &waiting, &registry, session).await?;
    let lines = settled.iter().map(|one| {
        let state = if one.is_skipped { "not waited for" } else { "ready" };
        let note = one.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        format!("{} {state}{note}\n", one.id)
    });
    stdout::write(&lines.collect::<String>())
}

async fn history(arguments: HistoryArgs, session: &Session) -> Result<(), CliError> {
    let connection = arguments.cluster.connect(session).await?;
    let workloads = found(&connection, std::slice::from_ref(&arguments.object)).await?;
    let mut revisions = Vec::new();
    for workload in &workloads {
        revisions.extend(rollout::history(&connection.cluster, workload).await?);
    }
    match arguments.form.format {
        Format::Json => {
            let rows: Vec<Row<'_>> = revisions.iter().map(row).collect();
            stdout::write_json(&rows)
        }
        Format::Text => stdout::write(&revisions.iter().map(|one| line(&row(one))).collect::<String>()),
    }
}

fn row(revision: &Revision) -> Row<'_> {
    Row {
        revision: revision.number,
        current: revision.is_current,
        created: &revision.created,
        images: revision.images(),
        cause: revision.cause.as_deref(),
    }
}

fn line(row: &Row<'_>) -> String {
    let mark = if row.current { '*' } else { ' ' };
    let cause = row.cause.map(|cause| format!("  {cause}")).unwrap_or_default();
    format!("{mark} {:>3}  {}  {}{cause}\n", row.revision, row.created, row.images.join(", "))
}

async fn undo(arguments: UndoArgs, session: &Session) -> Result<(), CliError> {
    let waiting = arguments.wait.lower()?;
    let connection = arguments.cluster.connect(session).await?;
    let mut awaited = Vec::new();
    for workload in found(&connection, &arguments.objects).await? {
        match rollout::undo(&connection.cluster, &workload, arguments.to_revision).await? {
            Undone::Back(number, object) => {
                stdout::write(&format!("{} is back at revision {number}\n", workload.id))?;
                awaited.push(Awaited::existing(workload.id, workload.resource, object));
            }
            Undone::Same(number) => {
                stdout::write(&format!("{} is the same as revision {number} already\n", workload.id))?;
            }
        }
    }
    if arguments.no_wait {
        return Ok(());
    }
    waited(&connection.cluster, awaited, &waiting, arguments.registry, session).await
}

async fn restart(arguments: RestartArgs, session: &Session) -> Result<(), CliError> {
    let waiting = arguments.wait.lower()?;
    let connection = arguments.cluster.connect(session).await?;
    let now = jiff::Timestamp::now();
    let mut awaited = Vec::new();
    for workload in found(&connection, &arguments.objects).await? {
        let object = rollout::restart(&connection.cluster, &workload, &format!("{now:.0}")).await?;
        stdout::write(&format!("{} is restarted\n", workload.id))?;
        awaited.push(Awaited::existing(workload.id, workload.resource, object));
    }
    if arguments.no_wait {
        return Ok(());
    }
    waited(&connection.cluster, awaited, &waiting, arguments.registry, session).await
}

async fn waited(
    cluster: &Cluster,
    awaited: Vec<Awaited>,
    options: &crate::deploy::wait::WaitOptions,
    registry: RegistryArgs,
    session: &Session,
) -> Result<(), CliError> {
    wait_for(cluster, awaited, options, &registry.lower(), session).await.map(drop)
}
