//! `cofferdam rbac`

use clap::{Args, Subcommand};

use super::cluster::ClusterArgs;
use super::error::CliError;
use super::manifests::ManifestArgs;
use super::session::Session;
use super::stdout;
use crate::deploy::DeployError;
use crate::deploy::cluster::Kinds;
use crate::deploy::object::Gvk;
use crate::deploy::rbac::{self, Named, RbacOptions, Subject};

/// Whom GitLab's agent says every CI job belongs to.
const CI_JOBS: &str = "gitlab:ci_job";

const AFTER_HELP: &str = "\
Prints a Role and its binding for each namespace, and a ClusterRole where objects belong to the whole
cluster. No cluster is asked, but for kinds that neither Kubernetes nor the manifests define.

Examples:
  cofferdam rbac generate -f k8s/ -n shop | kubectl apply -f -
  cofferdam rbac generate -f k8s/ -n shop --service-account ci:deployer --prune --deployment web";

/// Flags of `rbac`.
#[derive(Debug, Args)]
pub struct RbacArgs {
    #[command(subcommand)]
    command: RbacCommand,
}

/// What `rbac` can do.
#[derive(Debug, Subcommand)]
enum RbacCommand {
    /// Print the least Role with which manifests can be deployed
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct GenerateArgs {
    #[command(flatten)]
    manifests: ManifestArgs,
    /// The group that deploys [default: gitlab:ci_job, the CI jobs of GitLab's agent]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["user", "service_account"])]
    group: Option<String>,
    /// The user that deploys
    #[arg(long, value_name = "NAME", conflicts_with = "service_account")]
    user: Option<String>,
    /// The service account that deploys
    #[arg(long, value_name = "NAMESPACE:NAME")]
    service_account: Option<String>,
    /// What Role and binding are called
    #[arg(long, value_name = "NAME", default_value = "cofferdam-deploy")]
    name: String,
    /// The name that the deployment is kept under, or * for any: the list of its objects needs rights too
    #[arg(long, value_name = "NAME")]
    deployment: Option<String>,
    /// Allow what is no longer in the manifests to be removed
    #[arg(long, requires = "deployment")]
    prune: bool,
    /// Allow all of it to be removed, claims and namespaces that it has made as well
    #[arg(long, requires = "deployment")]
    undeploy: bool,
    /// Leave out what waiting for the deployment needs
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Prints it.
pub(super) async fn run(arguments: RbacArgs, session: &Session) -> Result<(), CliError> {
    let RbacCommand::Generate(arguments) = arguments.command;
    let objects = arguments.manifests.read(session)?;
    let subject = subject(&arguments)?;
    let GenerateArgs { name, deployment, prune, undeploy, no_wait, cluster, .. } = arguments;
    let known = |gvk: &Gvk| rbac::defined_by(&objects, gvk).or_else(|| rbac::built_in(gvk));
    let kinds = if objects.iter().all(|object| known(&object.gvk()).is_some()) {
        None
    } else {
        session.or_cancelled(async { Ok(ask(&cluster, session).await) }).await?
    };
    let served = |gvk: &Gvk| {
        let resource = kinds.as_ref()?.get(gvk)?;
        Some(Named { plural: resource.plural.clone(), namespaced: resource.namespaced })
    };
    let namespace = cluster.namespace().map(str::to_owned);
    let options = RbacOptions { name, subject, namespace, wait: !no_wait, prune, undeploy, deployment };
    let text = rbac::generate(&objects, |gvk| known(gvk).or_else(|| served(gvk)), &options)
        .map_err(DeployError::Manifests)?;
    stdout::write(&text)
}

/// The kinds of the cluster, if there is one: that there is none is said of the kinds that nobody knows.
async fn ask(cluster: &ClusterArgs, session: &Session) -> Option<std::sync::Arc<Kinds>> {
    let connection = match cluster.connect(session).await {
        Ok(connection) => connection,
        Err(error) => {
            session.report.warn(format!("no cluster can be asked: {error}"));
            return None;
        }
    };
    match connection.cluster.kinds().await {
        Ok(kinds) => Some(kinds),
        Err(error) => {
            session.report.warn(format!("the cluster cannot be asked: {error}"));
            None
        }
    }
}

fn subject(arguments: &GenerateArgs) -> Result<Subject, CliError> {
    let GenerateArgs { group, user, service_account, .. } = arguments;
    match (group, user, service_account) {
        (_, Some(user), _) => Ok(Subject::User(user.clone())),
        (_, _, Some(account)) => match account.split_once(':') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Subject::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => {
                let what = format!("`{account}` is no service account");
                Err(CliError::usage(what, "give `--service-account NAMESPACE:NAME`"))
            }
        },
        (group, ..) => Ok(Subject::Group(group.clone().unwrap_or_else(|| CI_JOBS.to_owned()))),
    }
}
