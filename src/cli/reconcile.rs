//! `cofferdam reconcile`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::arguments::FormatArgs;
use super::cluster::ClusterArgs;
use super::deploy::time;
use super::error::CliError;
use super::outcome::Outcome;
use super::session::Session;
use crate::deploy::object::ObjectId;
use crate::deploy::reconcile::{self, ArgoOptions, FluxOptions, Reconciled, Sync};

/// Where Flux keeps what its bootstrap makes.
const FLUX: &str = "flux-system";
/// Where Argo CD keeps applications.
const ARGO: &str = "argocd";
/// How long it may take, as with Flux' own command.
const PATIENCE: Duration = Duration::from_secs(300);

const AFTER_HELP: &str = "\
After a push to the repository that a cluster is made from, the controller there is told to look now,
and the command ends when it has done what the repository says: with 19 and the controller's own words
if it cannot. Nothing but the cluster's API is needed, and the rights to get and patch the objects.
Standard output has a line for each object, with the revision that is applied.";

const AFTER_FLUX: &str = "\
Objects are named as KIND/NAME: kustomization/apps, hr/web, gitrepository/app.

Examples:
  cofferdam reconcile flux --with-source --revision \"$CI_COMMIT_SHA\"
  cofferdam reconcile flux kustomization/apps helmrelease/web -n shop --timeout 3m";

const AFTER_ARGO: &str = "\
An application that is out of sync and not synced by itself is a failure without --sync.

Examples:
  cofferdam reconcile argo web --revision \"$CI_COMMIT_SHA\"
  cofferdam reconcile argo web api --sync --prune -n argocd";

/// Flags of `reconcile`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ReconcileArgs {
    #[command(subcommand)]
    command: ReconcileCommand,
}

/// Whose controllers there are.
#[derive(Debug, Subcommand)]
enum ReconcileCommand {
    /// Have Flux reconcile Kustomizations, HelmReleases or sources, and wait
    Flux(FluxArgs),
    /// Have Argo CD refresh applications, and sync them if asked to, and wait
    Argo(ArgoArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = AFTER_FLUX,
    mut_arg("namespace", |namespace| namespace.help("The namespace of the objects [default: flux-system]"))
)]
struct FluxArgs {
    /// The objects [default: kustomization/flux-system, which `flux bootstrap` makes]
    #[arg(value_name = "KIND/NAME")]
    objects: Vec<String>,
    /// Have the sources fetched first
    #[arg(long)]
    with_source: bool,
    /// Upgrade Helm releases even if nothing has changed
    #[arg(long)]
    force: bool,
    /// Have Helm releases forget how often they have failed
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(
    after_help = AFTER_ARGO,
    mut_arg("namespace", |namespace| namespace.help("The namespace of the applications [default: argocd]"))
)]
struct ArgoArgs {
    /// The applications
    #[arg(value_name = "APP", required = true)]
    applications: Vec<String>,
    /// Have manifests made anew, without what is cached of them
    #[arg(long)]
    hard_refresh: bool,
    /// Sync the applications, and do not only compare
    #[arg(long)]
    sync: bool,
    /// Have what the repository no longer has removed
    #[arg(long, requires = "sync")]
    prune: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// What must be applied at the end: a commit or its first digits, a digest, a tag, the version of a chart
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// How long everything together may take [default: 5m]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    form: FormatArgs,
}

/// What was reconciled, as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
}

/// Has a controller look now.
pub(super) async fn run(arguments: ReconcileArgs, session: &Session) -> Result<(), CliError> {
    let form = match &arguments.command {
        ReconcileCommand::Flux(FluxArgs { common, .. }) | ReconcileCommand::Argo(ArgoArgs { common, .. }) => {
            &common.form
        }
    };
    let outcome = Outcome::new(form);
    let work = async {
        match arguments.command {
            ReconcileCommand::Flux(arguments) => flux(arguments, session, &outcome).await,
            ReconcileCommand::Argo(arguments) => argo(arguments, session, &outcome).await,
        }
    };
    let result = session.or_cancelled(work).await;
    outcome.end(result)
}

async fn flux(arguments: FluxArgs, session: &Session, outcome: &Outcome<Row>) -> Result<(), CliError> {
    let FluxArgs { mut objects, with_source, force, reset, common } = arguments;
    let CommonArgs { revision, timeout, cluster, form: _ } = common;
    if objects.is_empty() {
        objects.push(reconcile::bootstrapped());
    }
    let timeout = time(timeout.as_ref(), "--timeout")?.unwrap_or(PATIENCE);
    let options = FluxOptions { with_source, force, reset, revision, timeout };
    let namespace = cluster.namespace().unwrap_or(FLUX).to_owned();
    let cluster = cluster.connect(session).await?.cluster;
    outcome.place(cluster.server(), None);
    tell(reconcile::flux(&cluster, &objects, &namespace, &options, &session.report).await?, outcome);
    Ok(())
}

async fn argo(arguments: ArgoArgs, session: &Session, outcome: &Outcome<Row>) -> Result<(), CliError> {
    let ArgoArgs { applications, hard_refresh, sync, prune, common } = arguments;
    let CommonArgs { revision, timeout, cluster, form: _ } = common;
    let timeout = time(timeout.as_ref(), "--timeout")?.unwrap_or(PATIENCE);
    let sync = sync.then_some(Sync { prune });
    let options = ArgoOptions { revision, hard: hard_refresh, sync, timeout };
    let namespace = cluster.namespace().unwrap_or(ARGO).to_owned();
    let cluster = cluster.connect(session).await?.cluster;
    outcome.place(cluster.server(), None);
    tell(reconcile::argo(&cluster, &applications, &namespace, &options, &session.report).await?, outcome);
    Ok(())
}

fn tell(done: Vec<Reconciled>, outcome: &Outcome<Row>) {
    for Reconciled { id, revision } in done {
        let line = match &revision {
            Some(revision) => format!("{id} {revision}\n"),
            None => format!("{id}\n"),
        };
        let ObjectId { kind, namespace, name } = id;
        outcome.object(Row { kind: kind.to_string(), namespace, name, revision }, &line);
    }
}
