//! `cofferdam undeploy`

use clap::Args;

use super::cluster::{ClusterArgs, Connection};
use super::deploy::{name_of, removal_patience, time};
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::deploy::DeployError;
use crate::deploy::inventory::{Inventory, Member};
use crate::deploy::remove::{self, Removal};

const AFTER_HELP: &str = "\
The list that `deploy --name NAME` keeps in the cluster says what there is: no manifest is needed, so
a job that stops a review app needs no checkout. Objects are removed if they are the very ones that were
deployed. Namespaces and custom resource definitions that were there before the deployment stay.
The command ends when everything is gone, and with 0 if it was before.

Examples:
  cofferdam undeploy web -n shop
  cofferdam undeploy \"$CI_ENVIRONMENT_SLUG\" --keep-volumes";

/// Flags of `undeploy`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct UndeployArgs {
    /// The name that it was deployed under [default: $CI_ENVIRONMENT_SLUG]
    #[arg(value_name = "NAME")]
    name: Option<String>,
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
}

/// Removes a deployment.
pub(super) async fn run(arguments: UndeployArgs, session: &Session) -> Result<(), CliError> {
    let UndeployArgs { name, cluster, keep_volumes, no_wait, timeout } = arguments;
    let timeout = time(timeout.as_ref(), "--timeout")?.unwrap_or(removal_patience());
    let name = name_of(name, false, session)?
        .ok_or_else(|| CliError::usage("which deployment?", "give the name that it was deployed under"))?;
    let work = async {
        let Connection { cluster, namespace, .. } = cluster.connect(session).await?;
        let home = namespace.as_deref().unwrap_or(cluster.namespace());
        let mut inventory = Inventory::load(&cluster, home, &name).await?;
        if !inventory.is_there() {
            session
                .report
                .note(format!("there is no deployment `{name}` in namespace `{home}`: nothing to do"));
            return Ok(());
        }
        let (kept, removed): (Vec<Member>, Vec<Member>) =
            inventory.members().iter().cloned().partition(|member| is_kept(member, keep_volumes));
        for member in &kept {
            session.report.note(format!("{} stays", member.id()));
        }
        let told = remove::remove(&cluster, &removed, |member, removal| {
            let what = match removal {
                Removal::Removed => "deleted",
                Removal::Absent => return,
                Removal::Replaced => "left, for it is another object of that name",
            };
            let _ = stdout::write(&format!("{} {what}\n", member.id()));
        });
        told.await.map_err(DeployError::from)?;
        if !no_wait {
            let left = remove::until_gone(&cluster, &removed, timeout).await.map_err(DeployError::from)?;
            if !left.is_empty() {
                return Err(DeployError::NotGone(left).into());
            }
        }
        // A list that lay in a namespace which is gone is gone with it.
        inventory.forget(&cluster, &removed).await.or_else(gone).map_err(DeployError::from)?;
        if inventory.members().is_empty() {
            inventory.remove(&cluster).await.map_err(DeployError::from)?;
        }
        Ok(())
    };
    session.or_cancelled(work).await
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
