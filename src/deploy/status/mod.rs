//! Whether an object does what was asked of it: readiness as pure functions over what the API server answers.
//!
//! | module | owns |
//! |---|---|
//! | `workload` | Deployment, StatefulSet, DaemonSet, ReplicaSet |
//! | `task` | Job, Pod |
//! | `other` | claims, services, definitions, namespaces, API services, custom resources |
//!
//! # Invariants
//! 1. Nothing is read from a clock, a network or a file: the same object and expectation give the same answer.
//! 2. A status counts only if its controller has seen the generation that we applied, and the one the object has now.
//! 3. A kind without a rule is ready, unless it says of itself that it is not: to wait for a condition that nobody will
//!    ever set would be to wait for ever.
//!
//! The rules are those of kstatus (`sigs.k8s.io/cli-utils`, `pkg/kstatus/status/core.go`) but where they answer a
//! deployer wrongly: a running Job and a failed Pod are `Current` there.

mod other;
mod task;
mod workload;

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::object::Gvk;

/// What is expected of an object.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// The generation that the API server answered to our apply. Nothing if the kind has none, or nothing was applied.
    pub generation: Option<i64>,
    /// A Service or an Ingress is ready only once it has an address outside of the cluster.
    pub load_balancer: bool,
    /// Somebody is going to use a claim: it must be bound. Without, a claim is done as it is, for a class that binds
    /// late binds it for its first consumer only.
    pub claim_is_used: bool,
    /// What a Deployment's controller had last said of its progress before it has seen the change: it stays in the status of the
    /// next generation until there is something new to say.
    pub before: Option<Said>,
}

/// A condition as it was said: its reason and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    reason: String,
    updated: String,
}

impl Said {
    /// What is said of the progress of a Deployment.
    pub fn of_progress(object: &Value) -> Option<Self> {
        let found = found(object, "Progressing")?;
        let of = |place| text(found, place).to_owned();
        Some(Self { reason: of("/reason"), updated: of("/lastUpdateTime") })
    }
}

/// How far an object has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It is on its way.
    InProgress(Progress),
    /// It does what was asked of it. A note says what is remarkable about it all the same.
    Ready(Option<String>),
    /// It will not get there by itself.
    Failed {
        /// Why, in one sentence without a full stop.
        why: String,
    },
    /// There is nothing to wait for, by the object's own will.
    Skipped {
        /// Why, in one sentence without a full stop.
        why: String,
    },
}

/// Where an object stands that is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many parts of how many are there, if it has parts.
    pub parts: Option<(u64, u64)>,
    /// What is still missing, in a few words.
    pub why: String,
    /// What its controller reports as going wrong. It may still heal.
    pub trouble: Option<String>,
}

impl Status {
    /// On its way, without parts.
    fn missing(why: impl Into<String>) -> Self {
        Self::InProgress(Progress { why: why.into(), ..Progress::default() })
    }

    /// On its way: `done` of `of`.
    fn partly(done: u64, of: u64, why: impl Into<String>) -> Self {
        Self::InProgress(Progress { parts: Some((done, of)), why: why.into(), trouble: None })
    }

    fn failed(why: impl Into<String>) -> Self {
        Self::Failed { why: why.into() }
    }

    fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped { why: why.into() }
    }

    /// Whether there is nothing more to wait for.
    pub fn is_settled(&self) -> bool {
        !matches!(self, Self::InProgress(_))
    }
}

/// How far `object` has come.
pub fn assess(object: &Value, expectation: &Expectation) -> Status {
    let gvk = Gvk::new(text(object, "/apiVersion"), text(object, "/kind"));
    // A Job that has ended may be deleted at once (`ttlSecondsAfterFinished`): how it ended counts.
    if (gvk.group.as_str(), gvk.kind.as_str()) == ("batch", "Job")
        && let Some(end) = task::job_end(object)
    {
        return end;
    }
    if object.pointer("/metadata/deletionTimestamp").is_some_and(|value| !value.is_null()) {
        return Status::failed("it is being deleted");
    }
    if let Some(late) = unseen(object, expectation) {
        return late;
    }
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("apps", "Deployment") => workload::deployment(object, expectation.before.as_ref()),
        ("apps", "StatefulSet") => workload::stateful_set(object),
        ("apps", "DaemonSet") => workload::daemon_set(object),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => workload::replica_set(object),
        ("batch", "Job") => task::job(object),
        ("", "Pod") => task::pod(object),
        ("", "PersistentVolumeClaim") => other::claim(object, expectation.claim_is_used),
        ("", "Service") => other::service(object, expectation.load_balancer),
        ("networking.k8s.io", "Ingress") => other::ingress(object, expectation.load_balancer),
        ("", "Namespace") => other::namespace(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => other::definition(object),
        ("apiregistration.k8s.io", "APIService") => other::api_service(object),
        ("argoproj.io", "Rollout") => other::argo_rollout(object),
        // They are what they are as soon as they are there.
        ("", _) | ("policy", "PodDisruptionBudget") | ("batch", "CronJob") => Status::Ready(None),
        _ => other::custom(object),
    }
}

/// Whether the status of an object is that of what was applied. Until then its newest replica set is the one before.
pub fn is_observed(object: &Value, expectation: &Expectation) -> bool {
    unseen(object, expectation).is_none()
        && (!text(object, "/apiVersion").starts_with("apps/")
            || integer(object, "/status/observedGeneration").is_some())
}

/// What there is to say if the status does not belong to the generation that is asked for.
fn unseen(object: &Value, expectation: &Expectation) -> Option<Status> {
    let generation = integer(object, "/metadata/generation");
    if let (Some(ours), Some(now)) = (expectation.generation, generation)
        && now < ours
    {
        // An answer from before our apply: a cache, another API server.
        return Some(Status::missing("the change is not visible yet"));
    }
    let observed = object.pointer("/status/observedGeneration").filter(|value| !value.is_null())?;
    // Argo Rollouts writes it as a string, and some write what is no number at all: that says nothing.
    let observed = observed.as_i64().or_else(|| observed.as_str()?.parse().ok())?;
    let wanted = generation.max(expectation.generation)?;
    (observed < wanted).then(|| Status::missing("its controller has not seen the change yet"))
}

/// The text at `pointer`, empty if there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at `pointer`.
pub(crate) fn integer(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer)?.as_i64()
}

/// The count at `pointer`; controllers leave out zeros.
pub(crate) fn count(object: &Value, pointer: &str) -> u64 {
    object.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The list at `pointer`, empty if there is none.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A condition of a status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Condition<'a> {
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
}

impl Condition<'_> {
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }

    pub fn is_false(&self) -> bool {
        self.status == "False"
    }

    /// What it says, or at least its reason.
    pub fn words(&self) -> String {
        match (self.message, self.reason) {
            ("", "") => format!("its status is {}", self.status),
            ("", reason) => reason.to_owned(),
            (message, _) => message.trim_end_matches('.').to_owned(),
        }
    }
}

/// The condition `kind` of an object.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<Condition<'a>> {
    let found = found(object, kind)?;
    Some(Condition {
        status: text(found, "/status"),
        reason: text(found, "/reason"),
        message: text(found, "/message"),
    })
}

fn found<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|found| text(found, "/type") == kind)
}

/// `1 replica`, `2 replicas`
fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
