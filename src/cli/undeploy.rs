//! `cofferdam undeploy`

use std::time::Duration;

use clap::Args;

use super::arguments::FormatArgs;
use super::cluster::{ClusterArgs, Connection};
use super::deploy::{name_of, removal_patience, time};
use super::error::CliError;
use super::outcome::{Outcome, Row};
use super::session::Session;
use crate::deploy::DeployError;
use crate::deploy::apply_set::ApplySet;
use crate::deploy::cluster::Cluster;
use crate::deploy::inventory::{Inventory, Member};
use crate::deploy::remove::{self, Removal};

const AFTER_HELP: &str = "\
The list that `deploy --name NAME` keeps in the cluster says what there is: no manifest is needed, so
a job that stops a review app needs no checkout. Objects are removed if they are the very ones that were
deployed. Namespaces and custom resource definitions that were there before the deployment stay.
The command ends when everything is gone, and with 0 if it was before. With --applyset it is what
`kubectl apply --applyset` keeps that is removed; namespaces and definitions of it stay.

Examples:
  cofferdam undeploy web -n shop
  cofferdam undeploy \"$CI_ENVIRONMENT_SLUG\" --keep-volumes
  cofferdam undeploy --applyset configmap/web -n shop";

/// Flags of `undeploy`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct UndeployArgs {
    /// The name that it was deployed under [default: $CI_ENVIRONMENT_SLUG]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Remove what `kubectl apply --applyset` keeps under NAME, of a Secret if no kind is given
    #[arg(long, value_name = "[KIND/]NAME", conflicts_with = "name")]
    applyset: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Leave volumes and the claims to them
    #[arg(long)]
    keep_volumes: bool,
    /// Do not wait until everything is gone
    #[arg(long)]
    no_wait: bool,
    /// How long to wait [default: 2m]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    #[command(flatten)]
    form: FormatArgs,
}

/// How objects are removed.
struct Manner {
    keep_volumes: bool,
    /// How long they may take; nothing to not wait.
    patience: Option<Duration>,
}

/// Removes a deployment.
pub(super) async fn run(arguments: UndeployArgs, session: &Session) -> Result<(), CliError> {
    let outcome = Outcome::new(&arguments.form);
    let result = session.or_cancelled(undeploy(arguments, session, &outcome)).await;
    outcome.end(result)
}

async fn undeploy(arguments: UndeployArgs, session: &Session, outcome: &Outcome) -> Result<(), CliError> {
    let UndeployArgs { name, applyset, cluster, keep_volumes, no_wait, timeout, form: _ } = arguments;
    let timeout = time(timeout.as_ref(), "--timeout")?.unwrap_or(removal_patience());
    let manner = Manner { keep_volumes, patience: (!no_wait).then_some(timeout) };
    let name = match applyset {
        Some(_) => None,
        None => Some(name_of(name, session)?.ok_or_else(|| {
            CliError::usage("which deployment?", "give the name that it was deployed under")
        })?),
    };
    let Connection { cluster, namespace, .. } = cluster.connect(session).await?;
    outcome.place(cluster.server(), name.as_deref());
    let home = namespace.as_deref().unwrap_or(cluster.namespace());
    match (name, applyset) {
        (Some(name), _) => of_name(&cluster, home, &name, &manner, session, outcome).await,
        (None, word) => of_set(&cluster, home, &word.unwrap_or_default(), &manner, session, outcome).await,
    }
}

async fn of_name(
    cluster: &Cluster,
    home: &str,
    name: &str,
    manner: &Manner,
    session: &Session,
    outcome: &Outcome,
) -> Result<(), CliError> {
    let mut inventory = Inventory::load(cluster, home, name).await?;
    if !inventory.is_there() {
        session.report.note(format!("there is no deployment `{name}` in namespace `{home}`: nothing to do"));
        return Ok(());
    }
    let members = inventory.members().to_vec();
    let (own, shared) = not_of_others(cluster, &inventory, members, session).await?;
    inventory.forget(cluster, &shared).await.map_err(DeployError::from)?;
    let removed = remove_all(cluster, &own, manner, session, outcome).await?;
    // A list that lay in a namespace which is gone is gone with it.
    inventory.forget(cluster, &removed).await.or_else(gone).map_err(DeployError::from)?;
    if inventory.members().is_empty() {
        inventory.remove(cluster).await.map_err(DeployError::from)?;
    }
    Ok(())
}

async fn of_set(
    cluster: &Cluster,
    home: &str,
    word: &str,
    manner: &Manner,
    session: &Session,
    outcome: &Outcome,
) -> Result<(), CliError> {
    let Some(set) = ApplySet::find(cluster, word, home).await? else {
        session.report.note(format!("there is no ApplySet `{word}` in namespace `{home}`: nothing to do"));
        return Ok(());
    };
    let members = set.members(cluster).await.map_err(DeployError::from)?;
    let removed = remove_all(cluster, &members, manner, session, outcome).await?;
    if removed.len() < members.len() {
        session.report.note(format!("{} stays, for objects of the set do", set.parent));
        return Ok(());
    }
    let parent = set.parent.clone();
    set.remove(cluster).await.or_else(gone).map_err(DeployError::from)?;
    outcome.row(Row::new(&parent, Removal::Removed.name()));
    Ok(())
}

/// Parts what is to be removed into what nobody else has, and what another deployment of the namespace has in its list: that
/// is the other's now, and stays.
pub(super) async fn not_of_others(
    cluster: &Cluster,
    inventory: &Inventory,
    members: Vec<Member>,
    session: &Session,
) -> Result<(Vec<Member>, Vec<Member>), CliError> {
    if members.is_empty() {
        return Ok((members, Vec::new()));
    }
    let others = match inventory.of_others(cluster).await {
        Ok(others) => others,
        Err(error) if error.is_forbidden() => {
            let what = "whether other deployments have any of it cannot be seen";
            session.report.note(format!("{what}: {error}"));
            return Ok((members, Vec::new()));
        }
        Err(error) => return Err(DeployError::from(error).into()),
    };
    let (shared, own): (Vec<Member>, Vec<Member>) =
        members.into_iter().partition(|member| others.contains_key(&member.id()));
    for id in shared.iter().map(Member::id) {
        if let Some(name) = others.get(&id) {
            session.report.note(format!("{id} stays: it is part of the deployment `{name}`"));
        }
    }
    Ok((own, shared))
}

/// Removes what is not to be kept; gives what that was.
async fn remove_all(
    cluster: &Cluster,
    members: &[Member],
    manner: &Manner,
    session: &Session,
    outcome: &Outcome,
) -> Result<Vec<Member>, CliError> {
    let (kept, removed): (Vec<Member>, Vec<Member>) =
        members.iter().cloned().partition(|member| is_kept(member, manner.keep_volumes));
    for member in &kept {
        session.report.note(format!("{} stays", member.id()));
    }
    let told = remove::remove(cluster, &removed, |member, removal| {
        if removal != Removal::Absent {
            outcome.row(Row::new(&member.id(), removal.name()));
        }
    });
    told.await.map_err(DeployError::from)?;
    if let Some(patience) = manner.patience {
        let left = remove::until_gone(cluster, &removed, patience).await.map_err(DeployError::from)?;
        if !left.is_empty() {
            return Err(DeployError::NotGone(left).into());
        }
    }
    Ok(removed)
}

fn gone(error: crate::deploy::cluster::ApiError) -> Result<(), crate::deploy::cluster::ApiError> {
    let is_gone = error.is_not_found() || error.to_string().contains("is being terminated");
    if is_gone { Ok(()) } else { Err(error) }
}

/// What others may live in stays, if it was there before.
fn is_kept(member: &Member, keep_volumes: bool) -> bool {
    let kind = member.id().kind;
    let is_volume = kind.is("", "PersistentVolumeClaim") || kind.is("", "PersistentVolume");
    if is_volume { keep_volumes } else { remove::is_precious(&kind) && !member.made }
}
