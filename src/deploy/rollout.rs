//! The life of a rollout behind its first: history, going back, restarting.
//!
//! # Invariants
//! 1. What [`undo`] leaves is the template of the revision, to the field, as `kubectl rollout undo` leaves it; but it is
//!    ours by server-side apply, so that the next deployment meets no conflict with the one who went back.
//! 2. Nothing but the template changes, and the cause of the change that goes with it.

use serde_json::{Map, Value, json};

use super::DeployError;
use super::apply::MANAGER;
use super::cluster::{Cluster, PatchKind, Resource};
use super::diagnose::{TEMPLATE, revision, selector, template};
use super::object::{GroupKind, Gvk, ObjectId};
use super::status::{list, text};

/// What kubectl writes beside a template to have its pods made anew.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";
/// Why a revision was made, if somebody has said so.
const CAUSE: &str = "kubernetes.io/change-cause";

/// A workload with a history.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Which.
    pub id: ObjectId,
    /// Its kind as the server serves it.
    pub resource: Resource,
    /// The object as it is.
    pub object: Value,
}

/// A revision of a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// Its number; the highest is the newest.
    pub number: u64,
    /// The name of the object that keeps it.
    pub name: String,
    /// When it came to be, RFC 3339.
    pub created: String,
    /// Why, if somebody has said so.
    pub cause: Option<String>,
    /// The pod template.
    pub template: Value,
    /// Whether it is the workload's template now.
    pub is_current: bool,
}

impl Revision {
    /// The images of its containers, init containers first.
    pub fn images(&self) -> Vec<&str> {
        ["/spec/initContainers", "/spec/containers"]
            .into_iter()
            .flat_map(|place| list(&self.template, place))
            .map(|container| text(container, "/image"))
            .collect()
    }
}

/// What became of going back.
#[derive(Debug, Clone, PartialEq)]
pub enum Undone {
    /// The template is that of this revision now. The object is as the server answered it.
    Back(u64, Value),
    /// It was that already.
    Same(u64),
}

/// The workload that `word` (`deployment/web`, `sts/db`) names in `namespace`.
///
/// # Errors
/// [`DeployError::Refused`] if there is none; or if the cluster cannot be asked.
pub async fn find(cluster: &Cluster, word: &str, namespace: &str) -> Result<Workload, DeployError> {
    let Some((kind, name)) = word.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
    else {
        return Err(DeployError::refused(
            format!("`{word}` names no object"),
            "write KIND/NAME, as in deployment/web",
        ));
    };
    let resource = named_kind(cluster, kind).await?;
    let namespace = resource.namespaced.then(|| namespace.to_owned());
    let path = resource.path(namespace.as_deref(), name);
    let id = ObjectId { kind: resource.gvk.group_kind(), namespace, name: name.to_owned() };
    let Some(object) = cluster.find(&path).await? else {
        let place = id.namespace.as_ref().map(|name| format!(" in namespace `{name}`")).unwrap_or_default();
        return Err(DeployError::refused(
            format!("there is no {id}{place}"),
            "check the name, and the namespace (`-n`)",
        ));
    };
    Ok(Workload { id, resource, object })
}

/// The kind that a user means: `deployment`, `deployments`, `deploy`, `deployment.apps`.
pub(super) async fn named_kind(cluster: &Cluster, word: &str) -> Result<Resource, DeployError> {
    let word = word.to_lowercase();
    // Short names are part of the older form of discovery only; these are the ones that people write.
    let long = match &*word {
        "deploy" => "deployment",
        "sts" => "statefulset",
        "ds" => "daemonset",
        "rs" => "replicaset",
        "po" => "pod",
        "pvc" => "persistentvolumeclaim",
        "svc" => "service",
        "ing" => "ingress",
        "crd" => "customresourcedefinition",
        other => other,
    };
    let (kind, group) = long.split_once('.').map_or((long, None), |(kind, group)| (kind, Some(group)));
    let kinds = cluster.kinds().await?;
    let is_meant = |resource: &Resource| {
        (resource.gvk.kind.to_lowercase() == kind || resource.plural == kind)
            && group.is_none_or(|group| resource.gvk.group == group)
    };
    // Kubernetes' own come before those that others have named the same.
    let mut meant: Vec<GroupKind> =
        kinds.iter().filter(|one| is_meant(one)).map(|one| one.gvk.group_kind()).collect();
    meant.sort_by_key(|kind| (kind.group != "apps", kind.group.contains('.'), kind.group.clone()));
    let found = meant.first().and_then(|kind| kinds.preferred(kind));
    found.cloned().ok_or_else(|| {
        DeployError::refused(
            format!("the cluster knows no kind `{word}`"),
            "`kubectl api-resources` lists those that it knows",
        )
    })
}

/// The revisions that are kept of a workload, the oldest first.
///
/// # Errors
/// [`DeployError::Refused`] if its kind has no history; or if the cluster cannot be asked.
pub async fn history(cluster: &Cluster, workload: &Workload) -> Result<Vec<Revision>, DeployError> {
    let Workload { id, object, .. } = workload;
    let namespace = id.namespace.as_deref().unwrap_or_default();
    let (plural, is_deployment) = match (&*id.kind.group, &*id.kind.kind) {
        ("apps", "Deployment") => ("replicasets", true),
        ("apps", "StatefulSet" | "DaemonSet") => ("controllerrevisions", false),
        _ => {
            return Err(DeployError::refused(
                format!("{id} has no history"),
                "deployments, stateful sets and daemon sets have one",
            ));
        }
    };
    let path = format!("/apis/apps/v1/namespaces/{namespace}/{plural}");
    let found = cluster.list(&path, &[("labelSelector", &selector(object))]).await?;
    let uid = text(object, "/metadata/uid");
    let owned = found
        .items
        .into_iter()
        .filter(|one| list(one, "/metadata/ownerReferences").iter().any(|owner| text(owner, "/uid") == uid));
    let now = template(object, TEMPLATE);
    let mut revisions: Vec<Revision> = owned
        .map(|one| {
            let (number, place) = match is_deployment {
                true => (revision(&one), TEMPLATE),
                false => (one.get("revision").and_then(Value::as_u64).unwrap_or(0), "/data/spec/template"),
            };
            let template = template(&one, place);
            let cause = one.pointer("/metadata/annotations").and_then(|map| map.get(CAUSE)?.as_str());
            Revision {
                number,
                name: text(&one, "/metadata/name").to_owned(),
                created: text(&one, "/metadata/creationTimestamp").to_owned(),
                cause: cause.map(str::to_owned),
                is_current: template == now,
                template,
            }
        })
        .filter(|revision| revision.number > 0)
        .collect();
    revisions.sort_by_key(|revision| revision.number);
    Ok(revisions)
}

/// Goes back to revision `to`, or to the one before the newest.
///
/// # Errors
/// [`DeployError::Refused`] if there is no such revision, or the workload is paused; or if the cluster refuses.
pub async fn undo(cluster: &Cluster, workload: &Workload, to: Option<u64>) -> Result<Undone, DeployError> {
    let Workload { id, object, resource } = workload;
    if object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
        return Err(DeployError::refused(
            format!("{id} is paused, and would not go back"),
            format!("resume it first (`kubectl rollout resume {id}`)"),
        ));
    }
    let revisions = history(cluster, workload).await?;
    let revision = match to {
        Some(number) => revisions.iter().find(|revision| revision.number == number),
        None => revisions.iter().rev().nth(1),
    };
    let Some(revision) = revision else {
        let what = match to {
            Some(number) => format!("{id} has no revision {number}"),
            None => format!("{id} has no revision before this one"),
        };
        let known: Vec<_> = revisions.iter().map(|revision| revision.number.to_string()).collect();
        return Err(DeployError::refused(what, format!("revisions that are kept: {}", known.join(", "))));
    };
    if revision.is_current {
        return Ok(Undone::Same(revision.number));
    }
    let path = resource.path(id.namespace.as_deref(), &id.name);
    let live = take_template_over(cluster, &path, object, &resource.gvk).await?;
    let body = going_back(&live, &resource.gvk, revision);
    let query = [("fieldManager", MANAGER), ("force", "true")];
    let applied = cluster.apply(&path, &query, &body).await?;
    Ok(Undone::Back(revision.number, applied.object))
}

/// Makes all fields of the template ours, so that those which the revision has not can go.
async fn take_template_over(
    cluster: &Cluster,
    path: &str,
    object: &Value,
    gvk: &Gvk,
) -> Result<Value, DeployError> {
    /// Somebody else may write at the same time.
    const TRIES: usize = 5;
    let mut live = object.clone();
    for attempt in 1.. {
        let Some(entries) = with_template_ours(&live, &gvk.api_version()) else { break };
        let version = text(&live, "/metadata/resourceVersion");
        let patch = json!([
            {"op": "replace", "path": "/metadata/managedFields", "value": entries},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
        ]);
        match cluster.patch(path, &[("fieldManager", MANAGER)], PatchKind::Json, &patch).await {
            Ok(patched) => return Ok(patched),
            Err(error) if error.refusal().is_some_and(|refusal| refusal.code == 409) && attempt < TRIES => {
                live = cluster.get(path).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(live)
}

/// `managedFields` in which the template belongs to us alone; nothing if that is how it is.
fn with_template_ours(live: &Value, api_version: &str) -> Option<Vec<Value>> {
    let entries = list(live, "/metadata/managedFields");
    let mut template = json!({});
    let mut kept = Vec::new();
    let mut ours = None;
    let mut changed = false;
    for entry in entries {
        let mut entry = entry.clone();
        let is_ours = text(&entry, "/manager") == MANAGER
            && text(&entry, "/operation") == "Apply"
            && text(&entry, "/subresource").is_empty();
        let fields = match entry.pointer_mut("/fieldsV1/f:spec") {
            Some(Value::Object(spec)) => spec.remove("f:template"),
            _ => None,
        };
        if let Some(fields) = fields {
            changed |= !is_ours;
            union(&mut template, fields);
        }
        match is_ours {
            true => ours = Some(entry),
            false => kept.push(entry),
        }
    }
    if !changed {
        return None;
    }
    let mut ours = ours.unwrap_or_else(|| {
        json!({"manager": MANAGER, "operation": "Apply", "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": {}})
    });
    // What has become empty is not an entry any more.
    kept.retain(|entry| {
        entry.pointer("/fieldsV1").and_then(Value::as_object).is_some_and(|fields| !is_empty(fields))
    });
    let spec = json!({"f:spec": {"f:template": template}});
    if let Some(fields) = ours.get_mut("fieldsV1") {
        union(fields, spec);
    }
    kept.push(ours);
    Some(kept)
}

fn is_empty(fields: &Map<String, Value>) -> bool {
    fields.iter().all(|(name, value)| name == "f:spec" && value.as_object().is_some_and(Map::is_empty))
}

/// All fields of both.
fn union(into: &mut Value, other: Value) {
    if let (Value::Object(into), Value::Object(other)) = (into, other) {
        for (name, value) in other {
            match into.get_mut(&name) {
                Some(there) => union(there, value),
                None => drop(into.insert(name, value)),
            }
        }
    }
}

/// What we apply: what is ours, with the template of a revision.
fn going_back(live: &Value, gvk: &Gvk, revision: &Revision) -> Value {
    let ours = list(live, "/metadata/managedFields").iter().find(|entry| {
        text(entry, "/manager") == MANAGER
            && text(entry, "/operation") == "Apply"
            && text(entry, "/subresource").is_empty()
    });
    let fields = ours.and_then(|entry| entry.get("fieldsV1"));
    let mut body = fields.map_or(json!({}), |fields| extracted(live, fields));
    body["apiVersion"] = json!(gvk.api_version());
    body["kind"] = json!(gvk.kind);
    body["metadata"]["name"] = json!(text(live, "/metadata/name"));
    body["metadata"]["namespace"] = json!(text(live, "/metadata/namespace"));
    body["spec"]["template"] = revision.template.clone();
    // The old cause would be a lie; without one there is none.
    match &revision.cause {
        Some(cause) => body["metadata"]["annotations"][CAUSE] = json!(cause),
        None => {
            if let Some(Value::Object(annotations)) = body.pointer_mut("/metadata/annotations") {
                annotations.remove(CAUSE);
            }
        }
    }
    body
}

/// The part of a value that `fields` (`FieldsV1`) names
/// (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>).
fn extracted(value: &Value, fields: &Value) -> Value {
    let Some(fields) = fields.as_object().filter(|fields| fields.keys().any(|name| name != ".")) else {
        return value.clone();
    };
    match value {
        Value::Object(map) => {
            let parts = fields.iter().filter_map(|(name, below)| {
                let name = name.strip_prefix("f:")?;
                Some((name.to_owned(), extracted(map.get(name)?, below)))
            });
            Value::Object(parts.collect())
        }
        Value::Array(items) => {
            let taken = items.iter().filter_map(|item| {
                fields.iter().find_map(|(name, below)| {
                    if let Some(key) = name.strip_prefix("k:") {
                        let key: Value = serde_json::from_str(key).ok()?;
                        let is_it =
                            key.as_object()?.iter().all(|(name, value)| item.get(name) == Some(value));
                        let mut part = is_it.then(|| extracted(item, below))?;
                        if let (Some(part), Some(key)) = (part.as_object_mut(), key.as_object()) {
                            part.extend(key.clone());
                        }
                        return Some(part);
                    }
                    let wanted: Value = serde_json::from_str(name.strip_prefix("v:")?).ok()?;
                    (*item == wanted).then(|| item.clone())
                })
            });
            Value::Array(taken.collect())
        }
        other => other.clone(),
    }
}

/// Has all pods of a workload made anew, as `kubectl rollout restart` does; `now` is RFC 3339.
///
/// # Errors
/// [`DeployError::Refused`] if it is paused or no workload; or if the cluster refuses.
pub async fn restart(cluster: &Cluster, workload: &Workload, now: &str) -> Result<Value, DeployError> {
    let Workload { id, object, resource } = workload;
    if object.pointer("/spec/template/spec").is_none() || id.kind.is("batch", "Job") {
        return Err(DeployError::refused(
            format!("{id} cannot be restarted"),
            "deployments, stateful sets and daemon sets can",
        ));
    }
    if object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
        return Err(DeployError::refused(
            format!("{id} is paused, and would not be restarted"),
            format!("resume it first (`kubectl rollout resume {id}`)"),
        ));
    }
    let path = resource.path(id.namespace.as_deref(), &id.name);
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}});
    Ok(cluster.patch(&path, &[("fieldManager", "cofferdam-rollout")], PatchKind::Merge, &patch).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_found_again() {
        let value = json!({
            "spec": {"replicas": 3, "paused": false, "strategy": {"type": "Recreate"},
                "ports": [{"name": "a", "port": 1, "x": 1}, {"name": "b", "port": 2}], "set": ["x", "y"]},
        });
        let fields = json!({"f:spec": {"f:replicas": {}, "f:strategy": {".": {}, "f:type": {}},
            "f:ports": {"k:{\"name\":\"a\"}": {".": {}, "f:port": {}}}, "f:set": {"v:\"y\"": {}}, "f:gone": {}}});
        let ours = json!({"spec": {"replicas": 3, "strategy": {"type": "Recreate"},
            "ports": [{"name": "a", "port": 1}], "set": ["y"]}});
        assert_eq!(extracted(&value, &fields), ours);
    }

    #[test]
    fn the_template_becomes_ours_and_nothing_else() {
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
        let ours = entry(MANAGER, "Apply", json!({"f:spec": {"f:replicas": {}, "f:template": {"f:a": {}}}}));
        let live = json!({"metadata": {"managedFields": [
            ours, entry("kubectl-edit", "Update", json!({"f:spec": {"f:template": {"f:b": {}}}})),
            entry("other", "Update", json!({"f:spec": {"f:paused": {}, "f:template": {"f:a": {"f:c": {}}}}})),
        ]}});
        let entries = with_template_ours(&live, "apps/v1").unwrap();
        let expected = [
            entry("other", "Update", json!({"f:spec": {"f:paused": {}}})),
            entry(
                MANAGER,
                "Apply",
                json!({"f:spec": {"f:replicas": {}, "f:template": {"f:a": {"f:c": {}}, "f:b": {}}}}),
            ),
        ];
        assert_eq!(entries, expected);
        let settled = json!({"metadata": {"managedFields": entries}});
        assert_eq!(with_template_ours(&settled, "apps/v1"), None);
    }
}
