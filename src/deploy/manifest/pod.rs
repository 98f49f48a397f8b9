//! Where kinds keep the description of their pods.

use serde_json::{Map, Value};

use super::super::object::GroupKind;

/// The fields of a pod that hold containers.
pub const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The fields that lead to the `spec` of the pods of a kind; nothing for kinds that have none.
pub fn spec_path(kind: &GroupKind) -> Option<&'static [&'static str]> {
    Some(match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &["spec"],
        ("", "PodTemplate") => &["template", "spec"],
        ("", "ReplicationController")
        | ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        // As old clusters have them.
        | ("extensions", "Deployment" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job") => &["spec", "template", "spec"],
        // Kinds of others that keep pods as Deployments do.
        ("argoproj.io", "Rollout") | ("serving.knative.dev", "Service") => &["spec", "template", "spec"],
        ("batch", "CronJob") => &["spec", "jobTemplate", "spec", "template", "spec"],
        _ => return None,
    })
}

/// The value that `path` leads to.
pub fn follow<'a>(fields: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Map<String, Value>> {
    path.iter().try_fold(fields, |fields, name| fields.get(*name)?.as_object())
}

/// As [`follow`], to be changed.
pub fn follow_mut<'a>(
    fields: &'a mut Map<String, Value>,
    path: &[&str],
) -> Option<&'a mut Map<String, Value>> {
    path.iter().try_fold(fields, |fields, name| fields.get_mut(*name)?.as_object_mut())
}
