//! The ApplySets that kubectl keeps (KEP-3659): `kubectl apply --prune --applyset=NAME`.
//!
//! A parent, a Secret if nothing else is said, has the set's identity and the kinds that it has objects of; each
//! object has a label with that identity. Here sets are read, taken over into a deployment's own list, and removed;
//! none is made: a label on each object would change it, and to find objects by it one needs the right to list every
//! kind.
//!
//! # Invariants
//! 1. A set is what its parent's identity says: it is computed anew, and a parent with another is none.
//! 2. What another tool than kubectl keeps is left to that tool.
//! 3. The parent goes last: a removal that was cut off can be gone on with.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::apply::MANAGER;
use super::cluster::{ApiError, Cluster, Kinds, PatchKind, Resource};
use super::error::DeployError;
use super::inventory::Member;
use super::object::{GroupKind, ObjectId};
use super::rollout;
use super::status::text;

/// On the parent: the set's identity.
pub(super) const ID: &str = "applyset.kubernetes.io/id";
/// On each object: the identity of its set.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";
/// On the parent: who keeps the set, name and version.
pub(super) const TOOLING: &str = "applyset.kubernetes.io/tooling";
/// On the parent: the kinds, as `ConfigMap,Deployment.apps`.
pub(super) const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
/// The same as kubectl wrote it before 1.28: `configmaps,deployments.apps`.
const RESOURCES: &str = "applyset.kubernetes.io/contains-group-resources";
/// On the parent: the namespaces besides its own.
pub(super) const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// The tool whose sets are ours to take over.
const KUBECTL: &str = "kubectl/";
/// Requests at a time.
const AT_ONCE: usize = 16;

/// A set that kubectl keeps.
#[derive(Debug)]
pub struct ApplySet {
    /// Its parent.
    pub parent: ObjectId,
    path: String,
    uid: String,
    id: String,
    resources: Vec<Resource>,
    namespaces: BTreeSet<String>,
}

impl ApplySet {
    /// The set that `word` names as kubectl's `--applyset` does: `NAME` of a Secret, or `KIND/NAME`; nothing if there is
    /// no such object.
    ///
    /// # Errors
    /// [`DeployError::Refused`] if the object is no set's parent, or another tool's; or if the cluster cannot be asked.
    pub async fn find(cluster: &Cluster, word: &str, namespace: &str) -> Result<Option<Self>, DeployError> {
        let (kind, name) = word.split_once('/').unwrap_or(("secret", word));
        let resource = rollout::named_kind(cluster, kind).await?;
        let namespace = resource.namespaced.then(|| namespace.to_owned());
        let path = resource.path(namespace.as_deref(), name);
        let Some(found) = cluster.find(&path).await? else { return Ok(None) };
        let parent = ObjectId { kind: resource.gvk.group_kind(), namespace, name: name.to_owned() };
        let id = id(&parent);
        let of = |map: &str, key: &str| {
            found.pointer(map).and_then(|map| map.get(key)?.as_str()).unwrap_or_default()
        };
        if of("/metadata/labels", ID) != id {
            return Err(DeployError::refused(
                format!("{parent} is no ApplySet's parent"),
                "name what `kubectl apply --applyset` was given: NAME for a Secret, else KIND/NAME",
            ));
        }
        let annotation = |key: &str| of("/metadata/annotations", key);
        let tooling = annotation(TOOLING);
        if !tooling.starts_with(KUBECTL) {
            let hint = match tooling.split_once('/') {
                Some((MANAGER, _)) => {
                    "`cofferdam undeploy NAME` removes it, with the name that it was deployed under"
                }
                _ => "remove it with the tool that keeps it",
            };
            return Err(DeployError::refused(
                format!("{parent} is kept by `{tooling}`, and not by kubectl"),
                hint,
            ));
        }
        let kinds = cluster.kinds().await?;
        let mut namespaces: BTreeSet<String> = listed(annotation(NAMESPACES)).map(str::to_owned).collect();
        namespaces.extend(parent.namespace.clone());
        let uid = text(&found, "/metadata/uid").to_owned();
        let resources = resources(&kinds, annotation(KINDS), annotation(RESOURCES));
        Ok(Some(Self { parent, path, uid, id, resources, namespaces }))
    }

    /// The objects that have the set's label.
    ///
    /// # Errors
    /// If the cluster cannot be asked, or does not let a kind be listed.
    pub async fn members(&self, cluster: &Cluster) -> Result<Vec<Member>, ApiError> {
        let places = self.resources.iter().flat_map(|resource| {
            let namespaces: Vec<Option<&str>> = match resource.namespaced {
                true => self.namespaces.iter().map(|name| Some(name.as_str())).collect(),
                false => vec![None],
            };
            namespaces.into_iter().map(move |namespace| (resource, namespace))
        });
        let selector = format!("{PART_OF}={}", self.id);
        let selector = &selector;
        let lists = places.map(|(resource, namespace)| async move {
            let path = resource.list_path(namespace);
            let found = cluster.list(&path, &[("labelSelector", selector)]).await?;
            Ok::<_, ApiError>(found.items.iter().map(|item| member(resource, item)).collect::<Vec<_>>())
        });
        let lists: Vec<Vec<Member>> =
            stream::iter(lists.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// Lets the objects go that still have the label, and removes the parent. The objects stay.
    ///
    /// # Errors
    /// If the cluster refuses or cannot be reached.
    pub async fn dissolve(self, cluster: &Cluster) -> Result<(), ApiError> {
        let kinds = cluster.kinds().await?;
        let patch = json!({"metadata": {"labels": {PART_OF: null}}});
        let patch = &patch;
        let members = self.members(cluster).await?;
        let work = members.iter().filter_map(|member| {
            let resource = kinds.get(&member.gvk())?;
            let path = resource.path(member.namespace.as_deref(), &member.name);
            Some(async move {
                match cluster.patch(&path, &[("fieldManager", MANAGER)], PatchKind::Merge, patch).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(()),
                }
            })
        });
        stream::iter(work.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect::<Vec<()>>().await?;
        self.remove(cluster).await
    }

    /// Removes the parent.
    ///
    /// # Errors
    /// If the cluster does not let it be removed.
    pub async fn remove(self, cluster: &Cluster) -> Result<(), ApiError> {
        let options = json!({"preconditions": {"uid": self.uid}});
        match cluster.delete(&self.path, &options).await {
            // Somebody has removed it, or made another since.
            Err(ApiError::Refused(refusal)) if matches!(refusal.code, 404 | 409) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// `applyset-<base64url(sha256(<name>.<namespace>.<kind>.<group>))>-v1` (KEP-3659, "ApplySet ID").
pub(super) fn id(parent: &ObjectId) -> String {
    let ObjectId { kind: GroupKind { group, kind }, namespace, name } = parent;
    let text = format!("{name}.{}.{kind}.{group}", namespace.as_deref().unwrap_or_default());
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(Sha256::digest(text)))
}

/// `Deployment.apps`, as ApplySets write kinds.
pub(super) fn written(kind: &GroupKind) -> String {
    if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) }
}

/// The kinds that annotations name. Of one that the cluster does not know there are no objects.
fn resources(kinds: &Kinds, group_kinds: &str, group_resources: &str) -> Vec<Resource> {
    let of_kinds = listed(group_kinds).filter_map(|name| {
        let (kind, group) = name.split_once('.').unwrap_or((name, ""));
        kinds.preferred(&GroupKind::new(group, kind)).cloned()
    });
    let of_resources = listed(group_resources).filter_map(|name| {
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        let known = kinds.iter().find(|one| one.plural == plural && one.gvk.group == group)?;
        kinds.preferred(&known.gvk.group_kind()).cloned()
    });
    let mut found: Vec<Resource> = Vec::new();
    for resource in of_kinds.chain(of_resources) {
        if !found.contains(&resource) {
            found.push(resource);
        }
    }
    found
}

fn listed(annotation: &str) -> impl Iterator<Item = &str> {
    annotation.split(',').map(str::trim).filter(|name| !name.is_empty())
}

fn member(resource: &Resource, item: &Value) -> Member {
    let namespace = text(item, "/metadata/namespace");
    Member {
        api_version: resource.gvk.api_version(),
        kind: resource.gvk.kind.clone(),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: text(item, "/metadata/name").to_owned(),
        uid: Some(text(item, "/metadata/uid").to_owned()),
        // Who has made it is not said: what others may live in is taken for theirs.
        made: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_those_of_kubectl() {
        let parent = |kind: &str, group: &str, namespace: Option<&str>| ObjectId {
            kind: GroupKind::new(group, kind),
            namespace: namespace.map(str::to_owned),
            name: "mySet".to_owned(),
        };
        // `printf mySet.default.Secret. | sha256sum | xxd -r -p | base64`, with `-` and `_`.
        assert_eq!(
            id(&parent("Secret", "", Some("default"))),
            "applyset-kErYNxjaN1gYiCWl8IJMq1GvciOT5QoFFcFTvDc0V1M-v1"
        );
        assert_ne!(id(&parent("Set", "example.com", None)), id(&parent("Set", "", None)));
    }

    #[test]
    fn kinds_are_listed_with_their_groups() {
        assert_eq!(written(&GroupKind::new("apps", "Deployment")), "Deployment.apps");
        assert_eq!(written(&GroupKind::new("", "Secret")), "Secret");
        assert_eq!(listed("a, b,,c").collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
