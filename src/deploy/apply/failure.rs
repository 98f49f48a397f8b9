//! Why an object cannot be applied, as a person would say it.

use std::fmt;

use serde_json::Value;

use super::fields::{is_below, look_up};
use super::resolve::Target;
use crate::deploy::cluster::{ApiError, Refusal};
use crate::deploy::diff;
use crate::deploy::object::{ObjectId, Source};

/// The longest value of a field that is shown whole.
const SHOWN: usize = 80;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The identity may not do this.
    Forbidden,
    /// Fields belong to somebody else.
    Conflict,
    /// The server does not take the object.
    Refused,
}

/// Why an object cannot be applied.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which object.
    pub id: ObjectId,
    /// Where it was written.
    pub source: Source,
    /// What kind of failure.
    pub kind: FailureKind,
    /// What is wrong, in one sentence or a few lines.
    pub what: String,
    /// What to do about it.
    pub hints: Vec<String>,
    /// What the server warns of besides.
    pub warnings: Vec<String>,
}

/// `app.yaml:12: deployment.apps/web: …`
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.source, self.id, self.what)
    }
}

impl Failure {
    fn new(target: &Target, kind: FailureKind, what: impl Into<String>) -> Self {
        let (id, source) = (target.id.clone(), target.object.source.clone());
        Self { id, source, kind, what: what.into(), hints: Vec::new(), warnings: Vec::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// An object that a GitOps controller owns.
    pub(super) fn gitops(target: &Target, owner: &str) -> Self {
        Self::new(
            target,
            FailureKind::Conflict,
            format!("the object belongs to {owner}, which would undo this"),
        )
        .hint("change it in the repository that it is made from")
        .hint("`--take-from-gitops` applies it all the same")
    }

    /// An object that goes on being deleted.
    pub(super) fn deleting(target: &Target, live: &Value) -> Self {
        let finalizers = live.pointer("/metadata/finalizers").and_then(Value::as_array);
        let names: Vec<_> = finalizers.into_iter().flatten().filter_map(Value::as_str).collect();
        let what = match names.as_slice() {
            [] => "the object is being deleted, and does not come to an end".to_owned(),
            names => format!("the object is being deleted, which waits for {}", names.join(", ")),
        };
        Self::new(target, FailureKind::Refused, what)
            .hint("find out why the finalizer's controller does not do its work")
    }

    /// A refusal that is no conflict of fields.
    pub(super) fn refused(target: &Target, refusal: &Refusal) -> Self {
        Self { warnings: refusal.warnings.clone(), ..Self::explained(target, refusal) }
    }

    fn explained(target: &Target, refusal: &Refusal) -> Self {
        if refusal.code == 401 {
            let what = format!("the API server does not know who asks: {}", refusal.message);
            return Self::new(target, FailureKind::Forbidden, what)
                .hint("the token may have expired: that of a CI job ends with the job");
        }
        if is_forbidden_by_rbac(refusal) {
            return Self::new(target, FailureKind::Forbidden, refusal.message.clone())
                .hint(rule_for(target))
                .hint("`cofferdam rbac generate` prints the least role for all of these objects");
        }
        let failure = Self::new(target, FailureKind::Refused, refusal.message.clone());
        match advice(target, refusal) {
            Some(advice) => failure.hint(advice),
            None => failure,
        }
    }

    /// Fields that belong to somebody else. `live` is the object as it is, if it may be read.
    pub(super) fn conflict(
        target: &Target,
        refusal: &Refusal,
        live: Option<&Value>,
        allowed: &[String],
    ) -> Self {
        let mut lines = Vec::new();
        let ours = Value::Object(target.object.fields.clone());
        let mut paths = Vec::new();
        let mut scaled = false;
        let is_secret = target.id.kind.is("", "Secret");
        for cause in refusal.field_conflicts() {
            if allowed.iter().any(|path| is_below(&cause.field, path)) {
                continue;
            }
            let manager = manager_of(&cause.message);
            scaled |= cause.field.ends_with("spec.replicas");
            let line = if is_secret && diff::is_content(&cause.field) {
                "another value than the manifest has, and neither is shown".to_owned()
            } else {
                let is = live.map_or("unknown".to_owned(), |live| shown(look_up(live, &cause.field)));
                let wanted = shown(look_up(&ours, &cause.field));
                format!("{is}, the manifest says {wanted}")
            };
            lines.push(format!("{}: {manager} has set {line}", cause.field));
            paths.push(cause.field.clone());
        }
        let what = match lines.as_slice() {
            [line] => format!("a field belongs to somebody else: {line}"),
            lines => format!("{} fields belong to others:\n  {}", lines.len(), lines.join("\n  ")),
        };
        let mut failure = Self::new(target, FailureKind::Conflict, what);
        failure.warnings.clone_from(&refusal.warnings);
        if scaled {
            failure = failure.hint(
                "a replica count that an autoscaler or a person sets: leave `spec.replicas` out of the manifest",
            );
        }
        let path = paths.first().map_or("", |path| path);
        failure
            .hint(format!(
                "to have it as the manifest says: `--force-conflicts={path}`, or `--force-conflicts` for all"
            ))
            .hint("to leave it to the other: take the field out of the manifest")
            .hint("to share it: give it the value it has")
    }
}

/// Whether roles are what is missing; admission answers 403 as well.
pub fn is_forbidden_by_rbac(refusal: &Refusal) -> bool {
    refusal.code == 403 && refusal.message.contains(" cannot ") && refusal.message.contains("User \"")
}

/// The rule of a role that lets this object be applied.
fn rule_for(target: &Target) -> String {
    let resource = &target.resource;
    let place = match &target.id.namespace {
        Some(namespace) => format!("a Role in namespace `{namespace}`"),
        None => "a ClusterRole".to_owned(),
    };
    format!(
        "{place} needs: apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [get, create, patch]",
        resource.gvk.group, resource.plural
    )
}

fn advice(target: &Target, refusal: &Refusal) -> Option<String> {
    let says = |text: &str| refusal.message.contains(text);
    let kind = &target.id.kind;
    if refusal.is_immutable() {
        return Some(if kind.is("batch", "Job") {
            let place = target.id.namespace.as_deref().unwrap_or_default();
            format!(
                "a Job's template cannot be changed: give each run a name of its own, or remove the old one first, by \
                 `ttlSecondsAfterFinished` or `kubectl delete job {} -n {place}`",
                target.id.name
            )
        } else if kind.is("apps", "StatefulSet") {
            "delete it with `kubectl delete --cascade=orphan` and apply it again: its pods stay".to_owned()
        } else {
            "the field cannot be changed: delete the object and apply it again, or give the new one another name"
                .to_owned()
        });
    }
    if refusal.code == 404 && says("namespaces \"") {
        return Some(
            "create the namespace, or put it beside the manifests: it is applied before what is in it"
                .to_owned(),
        );
    }
    if says("is being terminated") {
        return Some("wait until the namespace is gone, or deploy into another one".to_owned());
    }
    if says("violates PodSecurity") {
        return Some(
            "change the security context as the message says, or ask who owns the namespace for another level"
                .to_owned(),
        );
    }
    if says("exceeded quota") {
        return Some("ask for less, free something, or have the ResourceQuota raised".to_owned());
    }
    if says("must specify limits") || says("must specify requests") || says("failed quota") {
        return Some("the namespace's ResourceQuota wants requests and limits of every container".to_owned());
    }
    if says("usage per Container is") || says("usage per Pod is") || says("limit to request ratio") {
        return Some("the namespace's LimitRange sets these bounds".to_owned());
    }
    if says("admission webhook") {
        return Some(if says("failed calling webhook") {
            "the webhook's own service does not answer: what runs it is to be looked at, not this manifest"
                .to_owned()
        } else {
            "a policy of the cluster refuses it: the message is the policy's own".to_owned()
        });
    }
    if says("ValidatingAdmissionPolicy") {
        return Some("a policy of the cluster refuses it: the message is the policy's own".to_owned());
    }
    if says("provided port is already allocated") {
        return Some("another Service has this node port: take another, or leave `nodePort` out".to_owned());
    }
    if refusal.is_unknown_field() {
        return Some("check the spelling and the indentation; `--validate=warn` lets it pass".to_owned());
    }
    if refusal.is_unknown_kind() {
        return Some("the custom resource definition is not served yet, or not there".to_owned());
    }
    None
}

/// `conflict with "kubectl-edit" using apps/v1 at 2026-01-01T00:00:00Z`: what is behind the first words.
fn manager_of(message: &str) -> String {
    message.strip_prefix("conflict with ").unwrap_or(message).to_owned()
}

/// A value on one line.
fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => return "nothing".to_owned(),
        Some(value) => value.to_string(),
    };
    if text.chars().count() <= SHOWN {
        return format!("`{text}`");
    }
    let cut: String = text.chars().take(SHOWN).collect();
    format!("`{cut}…`")
}

/// The failure of an object, or the error that concerns the whole run.
pub(super) fn sorted(target: &Target, error: ApiError) -> Result<Failure, ApiError> {
    match error {
        ApiError::Refused(refusal) => Ok(Failure::refused(target, &refusal)),
        error => Err(error),
    }
}
