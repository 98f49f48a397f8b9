//! What the verbs of clusters share: which cluster, as whom.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::error::CliError;
use super::session::Session;
use crate::deploy::DeployError;
use crate::deploy::cluster::{Access, AccessOptions, Cluster};

/// Under which heading these flags are shown.
const CLUSTER: &str = "Cluster";

/// Flags of the commands that speak to a cluster.
#[derive(Debug, Default, Args)]
pub struct ClusterArgs {
    /// The namespace of objects that name none [default: $KUBE_NAMESPACE, else the context's]
    #[arg(short, long, value_name = "NAME", help_heading = CLUSTER)]
    namespace: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = CLUSTER)]
    kubeconfig: Option<PathBuf>,
    /// Take the kubeconfig from this variable: as it is, in base64, or as the path of a file
    #[arg(long, value_name = "VARIABLE", conflicts_with = "kubeconfig", help_heading = CLUSTER)]
    kubeconfig_env: Option<String>,
    /// The context of the kubeconfig [default: $AGENT_KUBECONTEXT, $KUBE_CONTEXT, the current one, or the only one]
    #[arg(long, value_name = "NAME", help_heading = CLUSTER)]
    context: Option<String>,
    /// Trust the certificates in FILE (PEM) as the API server's authority
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = CLUSTER)]
    certificate_authority: Option<PathBuf>,
}

/// A cluster, and what the user has said of it.
#[derive(Debug)]
pub struct Connection {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace that the user has asked for on the command line: manifests that name another are wrong.
    pub namespace: Option<String>,
    /// Where the way to it was found.
    pub origin: String,
    /// Where the namespace of objects that name none was found; nothing if nobody names one.
    pub namespace_origin: Option<String>,
}

impl ClusterArgs {
    /// The namespace that was asked for.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The way to the cluster.
    ///
    /// # Errors
    /// If there is none.
    pub async fn connect(&self, session: &Session) -> Result<Connection, CliError> {
        let options = AccessOptions {
            kubeconfig: self.kubeconfig.clone(),
            kubeconfig_variable: self.kubeconfig_env.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            certificate_authority: self.certificate_authority.clone(),
        };
        let environment = &session.settings.surroundings().environment;
        let mut access = Access::find(&options, environment).await.map_err(DeployError::from)?;
        for (text, hint) in std::mem::take(&mut access.oddities) {
            session.report.event(crate::report::Event::Warning { text, hint });
        }
        let (origin, namespace_origin) = (access.origin.clone(), access.namespace_origin.clone());
        let cluster = Cluster::new(access).map_err(DeployError::from)?;
        Ok(Connection { cluster, namespace: self.namespace.clone(), origin, namespace_origin })
    }
}
