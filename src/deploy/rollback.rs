//! Back to what was there, when what was applied does not come to life.

use super::apply::{Action, Done, Target};
use super::cluster::Cluster;
use super::error::DeployError;
use super::object::ObjectId;
use super::rollout::{self, Undone, Workload};

/// The revisions of workloads from before a deployment.
#[derive(Debug, Default)]
pub struct Before {
    revisions: Vec<(Workload, u64)>,
    unknown: Vec<(ObjectId, DeployError)>,
}

impl Before {
    /// Remembers the revisions of what is there.
    pub async fn of(cluster: &Cluster, targets: &[Target], tried: &[Done]) -> Self {
        let mut before = Self::default();
        for (target, done) in targets.iter().zip(tried) {
            let ObjectId { kind, namespace, name } = &target.id;
            let has_history = kind.group == "apps"
                && matches!(kind.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet");
            let (true, Some(namespace), Action::Configured) = (has_history, namespace, done.action) else {
                continue;
            };
            let found = async {
                let workload = rollout::find(cluster, &format!("{kind}/{name}"), namespace).await?;
                let history = rollout::history(cluster, &workload).await?;
                Ok((workload, history))
            };
            match found.await {
                Ok((workload, history)) => {
                    let current = history.iter().find(|revision| revision.is_current);
                    before.revisions.extend(current.map(|current| (workload, current.number)));
                }
                Err(error) => before.unknown.push((target.id.clone(), error)),
            }
        }
        before
    }

    /// What cannot be gone back to, for it could not be looked up.
    pub fn unknown(&self) -> &[(ObjectId, DeployError)] {
        &self.unknown
    }

    /// Whether there is nothing to go back to.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Goes back, where there is another revision now. Gives what became of each workload that had one before, and the
    /// revision that it had.
    pub async fn restore(self, cluster: &Cluster) -> Vec<(Workload, u64, Result<Undone, DeployError>)> {
        let mut outcomes = Vec::new();
        for (before, number) in self.revisions {
            let id = &before.id;
            let namespace = id.namespace.clone().unwrap_or_default();
            let undone = async {
                let workload =
                    rollout::find(cluster, &format!("{}/{}", id.kind, id.name), &namespace).await?;
                rollout::undo(cluster, &workload, Some(number)).await
            };
            let undone = undone.await;
            outcomes.push((before, number, undone));
        }
        outcomes
    }
}
