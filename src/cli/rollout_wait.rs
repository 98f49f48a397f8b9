//! What the verbs that wait for a cluster share: for how long, and how a rollout is looked into.

use std::sync::Arc;

use clap::Args;

use super::deploy::time;
use super::error::CliError;
use super::session::Session;
use crate::deploy::cluster::Cluster;
use crate::deploy::diagnose::{Collector, Puller};
use crate::deploy::wait::{Awaited, Settled, WaitOptions, wait};
use crate::report::Event;
use crate::settings::RegistryFlags;

/// Under which heading these flags are shown.
const WAITING: &str = "Waiting";

/// Flags of the commands that wait.
#[derive(Debug, Default, Args)]
pub struct WaitArgs {
    /// How long everything together may take until it is ready [default: 10m]
    #[arg(long, value_name = "TIME", help_heading = WAITING)]
    timeout: Option<String>,
    /// How long it may take without any progress [default: 4m]
    #[arg(long, value_name = "TIME", help_heading = WAITING)]
    no_progress_timeout: Option<String>,
    /// Wait for external addresses of services and ingresses too
    #[arg(long, help_heading = WAITING)]
    wait_lb: bool,
    /// How long what has no readiness probe must stay ready to be believed [default: 3s]
    #[arg(long, value_name = "TIME", help_heading = WAITING)]
    settle: Option<String>,
}

impl WaitArgs {
    /// What they mean.
    ///
    /// # Errors
    /// If a time is none.
    pub(super) fn lower(&self) -> Result<WaitOptions, CliError> {
        let mut options = WaitOptions { load_balancer: self.wait_lb, ..WaitOptions::default() };
        if let Some(timeout) = time(self.timeout.as_ref(), "--timeout")? {
            options.timeout = timeout;
        }
        if let Some(limit) = time(self.no_progress_timeout.as_ref(), "--no-progress-timeout")? {
            options.no_progress = limit;
        }
        if let Some(settle) = time(self.settle.as_ref(), "--settle")? {
            options.settle = settle;
        }
        Ok(options)
    }
}

/// Waits for `awaited`, telling how they come along.
///
/// # Errors
/// Those of [`wait`].
pub(super) async fn wait_for(
    cluster: &Cluster,
    awaited: Vec<Awaited>,
    options: &WaitOptions,
    registry: &RegistryFlags,
    session: &Session,
) -> Result<Vec<Settled>, CliError> {
    let collector = Arc::new(Collector::new(cluster.clone(), puller(registry, session)));
    Ok(wait(cluster, &collector, awaited, options, &session.report).await?)
}

/// Asks registries as `push` and `copy` do, with the pods' own Secrets. Settings that cannot be used are a warning: the
/// rollout does not depend on them.
fn puller(flags: &RegistryFlags, session: &Session) -> Option<Puller> {
    match session.settings.registry(flags) {
        Ok(registry) => Some(Puller::new(&registry.options)),
        Err(error) => {
            let text = format!("registries are not asked: {error}");
            session.report.event(Event::Warning { text, hint: None });
            None
        }
    }
}
