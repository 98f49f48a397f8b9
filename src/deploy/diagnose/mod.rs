//! What is wrong with something that does not come to life: where, by what evidence, and what to do about it.
//!
//! | module | owns |
//! |---|---|
//! | `evidence` | what is known of a workload: objects, events, logs, answers of registries |
//! | `refused` | pods that are not even created |
//! | `pod` | pods that are not started: scheduling, volumes, nodes |
//! | `container` | containers that are not started, end, or are not healthy |
//! | `image` | images that cannot be pulled |
//! | `collect` | asking the cluster for what is needed, and no more |
//! | `pull` | asking a registry with the pod's own credentials |
//!
//! # Invariants
//! 1. [`diagnose`] is a pure function of the evidence.
//! 2. Only pods of the newest revision count: what an old one suffers from is not what was deployed.
//! 3. Of Secrets nothing is ever shown but names, types, and the names of keys and hosts.
//! 4. What may not be asked is a note, never a failure.

mod collect;
mod container;
mod evidence;
mod image;
mod pod;
mod pull;
mod refused;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use collect::{Collector, Subject};
pub(crate) use collect::{TEMPLATE, revision, selector, template};
pub use evidence::{EventFact, Evidence, Fact, PullAnswer, PullCheck, SecretFact};
pub use pull::Puller;

use super::object::ObjectId;
use serde_json::Value;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The name of an image makes no sense.
    ImageName,
    /// The registry has no such image or tag.
    ImageNotFound,
    /// The image is not on the node and may not be pulled.
    ImageNeverPull,
    /// There is no image for the node's platform, or its programs are not for it.
    WrongPlatform,
    /// The node does not reach the registry.
    RegistryUnreachable,
    /// The node and the registry do not agree on TLS.
    RegistryTls,
    /// The registry limits pulls.
    RegistryThrottled,
    /// The registry wants credentials, and the pod has none.
    PullSecretAbsent,
    /// The pod names a pull secret that is not there.
    PullSecretMissing,
    /// The pull secret is not of a type that the kubelet reads.
    PullSecretType,
    /// The pull secret is for other registries.
    PullSecretHost,
    /// The registry does not take the pull secret's password.
    PullSecretRefused,
    /// The registry does not give the image away, for a reason not known.
    PullDenied,
    /// An image cannot be pulled, for another reason.
    PullFailed,
    /// The program to run is not in the image, or cannot be executed.
    CommandNotFound,
    /// A container cannot be started, for another reason.
    StartFailed,
    /// A container must not run as root and would.
    RunsAsRoot,
    /// A program ends again and again.
    CrashLoop,
    /// A program needs more memory than it may have.
    OutOfMemory,
    /// A startup probe fails.
    StartupProbe,
    /// A liveness probe fails.
    LivenessProbe,
    /// A readiness probe fails.
    ReadinessProbe,
    /// A hook at a container's start fails.
    StartHook,
    /// A quota is exhausted.
    Quota,
    /// Pod Security does not allow the pod.
    PodSecurity,
    /// A LimitRange does not allow the pod.
    LimitRange,
    /// The pod's service account is not there.
    ServiceAccountMissing,
    /// An admission webhook does not answer.
    WebhookDown,
    /// An admission webhook or policy does not allow the pod.
    Policy,
    /// Pods cannot be created, for another reason.
    PodRefused,
    /// No node has the resources that the pod asks for.
    NoResources,
    /// No node is of those that the pod wants.
    NodeSelector,
    /// All nodes keep the pod off.
    Taint,
    /// No node takes the pod, for another reason.
    Unschedulable,
    /// A claim has no volume.
    ClaimUnbound,
    /// A ConfigMap is not there.
    ConfigMapMissing,
    /// A Secret is not there.
    SecretMissing,
    /// A ConfigMap or a Secret lacks a key.
    KeyMissing,
    /// A volume cannot be mounted.
    VolumeFailed,
    /// The node cannot set up the pod's surroundings: network, sandbox.
    SandboxFailed,
    /// A pod was evicted.
    Evicted,
    /// The node has gone silent.
    NodeGone,
    /// A Job has failed.
    JobFailed,
    /// A Job took longer than it may.
    JobDeadline,
    /// A GitOps controller does not bring about what its repository says.
    Reconciliation,
}

impl Cause {
    /// Its name in events and in tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageName => "image_name",
            Self::ImageNotFound => "image_not_found",
            Self::ImageNeverPull => "image_never_pull",
            Self::WrongPlatform => "wrong_platform",
            Self::RegistryUnreachable => "registry_unreachable",
            Self::RegistryTls => "registry_tls",
            Self::RegistryThrottled => "registry_throttled",
            Self::PullSecretAbsent => "pull_secret_absent",
            Self::PullSecretMissing => "pull_secret_missing",
            Self::PullSecretType => "pull_secret_type",
            Self::PullSecretHost => "pull_secret_host",
            Self::PullSecretRefused => "pull_secret_refused",
            Self::PullDenied => "pull_denied",
            Self::PullFailed => "pull_failed",
            Self::CommandNotFound => "command_not_found",
            Self::StartFailed => "start_failed",
            Self::RunsAsRoot => "runs_as_root",
            Self::CrashLoop => "crash_loop",
            Self::OutOfMemory => "out_of_memory",
            Self::StartupProbe => "startup_probe",
            Self::LivenessProbe => "liveness_probe",
            Self::ReadinessProbe => "readiness_probe",
            Self::StartHook => "start_hook",
            Self::Quota => "quota",
            Self::PodSecurity => "pod_security",
            Self::LimitRange => "limit_range",
            Self::ServiceAccountMissing => "service_account_missing",
            Self::WebhookDown => "webhook_down",
            Self::Policy => "policy",
            Self::PodRefused => "pod_refused",
            Self::NoResources => "no_resources",
            Self::NodeSelector => "node_selector",
            Self::Taint => "taint",
            Self::Unschedulable => "unschedulable",
            Self::ClaimUnbound => "claim_unbound",
            Self::ConfigMapMissing => "config_map_missing",
            Self::SecretMissing => "secret_missing",
            Self::KeyMissing => "key_missing",
            Self::VolumeFailed => "volume_failed",
            Self::SandboxFailed => "sandbox_failed",
            Self::Evicted => "evicted",
            Self::NodeGone => "node_gone",
            Self::JobFailed => "job_failed",
            Self::JobDeadline => "job_deadline",
            Self::Reconciliation => "reconciliation",
        }
    }
}

/// What a finding means for the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It does not heal by itself: there is nothing to wait for.
    Solid,
    /// It may heal. If it is there for so long without a break, it does not.
    Grace(Duration),
    /// It may well be how such a thing starts: it is told, and decides nothing.
    Told,
}

/// How patient a diagnosis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// For what may heal at once or not at all.
    pub grace: Duration,
    /// For what somebody else may still bring: a Secret that an operator makes, a node that an autoscaler adds.
    pub late: Duration,
    /// How often a container may end before that is what it does.
    pub crashes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { grace: Duration::from_secs(8), late: Duration::from_secs(60), crashes: 2 }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub cause: Cause,
    /// The object that does not come to life.
    pub object: ObjectId,
    /// One of the pods concerned.
    pub pod: Option<String>,
    /// How many more pods it concerns.
    pub more_pods: usize,
    /// The container.
    pub container: Option<String>,
    /// The node.
    pub node: Option<String>,
    /// What is wrong, in one sentence without a full stop.
    pub what: String,
    /// By what it is known: states, events, lines of logs.
    pub evidence: Vec<String>,
    /// What to do about it.
    pub advice: Vec<String>,
    /// What it means for the rollout.
    pub weight: Weight,
}

impl Finding {
    pub(in crate::deploy) fn new(object: &ObjectId, cause: Cause, what: impl Into<String>) -> Self {
        Self {
            cause,
            object: object.clone(),
            pod: None,
            more_pods: 0,
            container: None,
            node: None,
            what: what.into(),
            evidence: Vec::new(),
            advice: Vec::new(),
            weight: Weight::Solid,
        }
    }

    fn weighing(mut self, weight: Weight) -> Self {
        self.weight = weight;
        self
    }

    fn seen(mut self, evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        if !evidence.is_empty() && !self.evidence.contains(&evidence) {
            self.evidence.push(evidence);
        }
        self
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }

    /// Where it is: `pod web-1, container app, node worker-2`.
    pub fn place(&self) -> String {
        let mut parts = Vec::new();
        if let Some(pod) = &self.pod {
            match self.more_pods {
                0 => parts.push(format!("pod {pod}")),
                1 => parts.push(format!("pod {pod} and 1 more")),
                more => parts.push(format!("pod {pod} and {more} more")),
            }
        }
        parts.extend(self.container.iter().map(|name| format!("container {name}")));
        parts.extend(self.node.iter().map(|name| format!("node {name}")));
        parts.join(", ")
    }
}

/// `deployment.apps/web: the image does not exist (pod web-1, container app)`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.what)?;
        let place = self.place();
        if place.is_empty() { Ok(()) } else { write!(f, " ({place})") }
    }
}

/// What is wrong, the surest first. Nothing if there is no evidence of anything.
pub fn diagnose(evidence: &Evidence, policy: &Policy) -> Vec<Finding> {
    let mut findings: Vec<Finding> = refused::finding(evidence, policy).into_iter().collect();
    for pod in &evidence.pods {
        findings.extend(pod::findings(evidence, policy, pod));
    }
    if evidence.object.kind.is("batch", "Job") {
        findings = job(evidence, findings);
    }
    let mut findings = merged(findings);
    findings.sort_by_key(|finding| (finding.weight, finding.cause));
    findings
}

/// The same of several pods is one finding.
fn merged(findings: Vec<Finding>) -> Vec<Finding> {
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = kept
            .iter_mut()
            .find(|other| other.cause == finding.cause && other.container == finding.container);
        match same {
            Some(same) if same.pod == finding.pod => {}
            Some(same) => {
                same.more_pods += 1;
                same.weight = same.weight.min(finding.weight);
            }
            None => kept.push(finding),
        }
    }
    kept
}

/// A Job retries by itself: what its pods suffer from explains its failure, but does not decide it, unless no retry can
/// help.
fn job(evidence: &Evidence, findings: Vec<Finding>) -> Vec<Finding> {
    let ends = |cause| {
        matches!(cause, Cause::CrashLoop | Cause::OutOfMemory | Cause::LivenessProbe | Cause::StartupProbe)
    };
    let super::status::Status::Failed { why } =
        super::status::assess(&evidence.workload, &super::status::Expectation::default())
    else {
        let told = findings
            .into_iter()
            .map(|finding| if ends(finding.cause) { finding.weighing(Weight::Told) } else { finding });
        return told.collect();
    };
    let deadline = why.contains("deadline");
    let cause = if deadline { Cause::JobDeadline } else { Cause::JobFailed };
    let mut finding = Finding::new(&evidence.object, cause, format!("the Job has failed: {why}"));
    let mut others = Vec::new();
    for other in findings {
        if !ends(other.cause) {
            others.push(other);
            continue;
        }
        if finding.pod.is_none() {
            (finding.pod, finding.container, finding.node) = (other.pod, other.container, other.node);
            finding.evidence.push(other.what);
            finding.evidence.extend(other.evidence);
        }
    }
    finding = finding.advise(if deadline {
        "give it more time with `spec.activeDeadlineSeconds`, or find out what it waits for"
    } else {
        "see the log above; a Job cannot be changed once it is there: delete it, or give the next one another name"
    });
    others.insert(0, finding);
    others
}

/// The part of `text` between two others.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(part, _)| part)
}

/// A text of the cluster as one line without a full stop.
fn flat(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line.trim_end_matches('.').to_owned()
}

/// The containers of a pod, init containers first: specification and status.
fn containers(pod: &Value) -> impl Iterator<Item = (&Value, Option<&Value>, bool)> {
    use super::status::{list, text};
    let of = move |specs: &'static str, states: &'static str, is_init: bool| {
        list(pod, specs).iter().map(move |spec| {
            let name = text(spec, "/name");
            let state = list(pod, states).iter().find(|state| text(state, "/name") == name);
            (spec, state, is_init)
        })
    };
    of("/spec/initContainers", "/status/initContainerStatuses", true).chain(of(
        "/spec/containers",
        "/status/containerStatuses",
        false,
    ))
}
