//! What a deployment consists of, kept in the cluster, so that objects which its manifests no longer have can be removed,
//! and all of it without the manifests.
//!
//! A ConfigMap `cofferdam-NAME` holds a list of objects with their UIDs. It is an ApplySet's parent too (KEP-3659, as
//! far as its labels and annotations go), so that other tools can see what it is; unlike those it needs no label on
//! every object, and no right to list every kind.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::apply::{Action, Done, MANAGER, Target};
use super::apply_set;
use super::cluster::{ApiError, Cluster};
use super::error::DeployError;
use super::object::{GroupKind, Gvk, ObjectId};

/// The label by which lists are found.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// How the ConfigMap's name begins.
const PREFIX: &str = "cofferdam-";
/// The entry in which the list is.
const ENTRY: &str = "objects";
/// Who keeps it, in the form that ApplySets want: name and version of what it means.
const TOOLING: &str = "cofferdam/v1";

/// An object of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// `apps/v1`
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Which object of that name; nothing if the run that made it did not come so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Whether this deployment has made it. What was there before is nobody's to remove but its maker's, if others
    /// live in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
}

impl Member {
    /// Which object.
    pub fn id(&self) -> ObjectId {
        ObjectId { kind: self.gvk().group_kind(), namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Its kind and version.
    pub fn gvk(&self) -> Gvk {
        Gvk::new(&self.api_version, &self.kind)
    }

    /// The object of a target, of which nothing is known yet.
    fn of(target: &Target) -> Self {
        Self {
            api_version: target.resource.gvk.api_version(),
            kind: target.resource.gvk.kind.clone(),
            namespace: target.id.namespace.clone(),
            name: target.id.name.clone(),
            uid: None,
            made: false,
        }
    }
}

/// The list of a deployment's objects, in its cluster.
#[derive(Debug)]
pub struct Inventory {
    namespace: String,
    name: String,
    members: Vec<Member>,
    /// Whether it is in the cluster already.
    is_there: bool,
    /// Whether it has objects that the one in the cluster has not.
    is_newer: bool,
}

impl Inventory {
    /// That of the deployment `name` in `namespace`; empty if there is none yet.
    ///
    /// # Errors
    /// If the cluster cannot be asked, or something else has its name.
    pub async fn load(cluster: &Cluster, namespace: &str, name: &str) -> Result<Self, DeployError> {
        let mut inventory = Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            members: Vec::new(),
            is_there: false,
            is_newer: false,
        };
        let Some(found) = cluster.find(&inventory.path()).await? else { return Ok(inventory) };
        match listed(&found) {
            Some(members) => {
                inventory.members = members;
                inventory.is_there = true;
                Ok(inventory)
            }
            None => Err(DeployError::fault(
                None,
                format!(
                    "`{}` in namespace `{namespace}` is no list of a deployment",
                    inventory.object_name()
                ),
            )),
        }
    }

    /// Whether there is one in the cluster.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// The objects in it.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Takes objects into the list that somebody else has kept so far. It is written with [`Inventory::announce`].
    pub fn adopt(&mut self, members: &[Member]) {
        let known: BTreeSet<ObjectId> = self.members.iter().map(Member::id).collect();
        let new: Vec<Member> =
            members.iter().filter(|member| !known.contains(&member.id())).cloned().collect();
        self.is_newer |= !new.is_empty();
        self.members.extend(new);
    }

    /// Notes, before anything is applied, what will be: a run that is cut off leaves nothing unknown behind.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn announce(&mut self, cluster: &Cluster, targets: &[Target]) -> Result<(), ApiError> {
        let known: BTreeSet<ObjectId> = self.members.iter().map(Member::id).collect();
        let new = targets.iter().filter(|target| !known.contains(&target.id)).map(Member::of);
        let new: Vec<Member> = new.collect();
        if new.is_empty() && self.is_there && !self.is_newer {
            return Ok(());
        }
        self.members.extend(new);
        self.write(cluster).await
    }

    /// Notes what has become of an object. [`Inventory::settle`] writes it.
    pub fn record(&mut self, done: &Done) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id() == done.id) {
            member.made |= done.action == Action::Created;
            // What somebody has removed and we have made again is ours.
            member.uid = done.object.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
        }
    }

    /// Writes down what has become of the objects, of those of a run that has failed as well; gives those that are none of
    /// `targets`, and belong to it no longer. They stay in the list until [`Inventory::forget`].
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn settle(&mut self, cluster: &Cluster, targets: &[Target]) -> Result<Vec<Member>, ApiError> {
        let current: BTreeSet<&ObjectId> = targets.iter().map(|target| &target.id).collect();
        let gone = self.members.iter().filter(|member| !current.contains(&member.id())).cloned().collect();
        self.write(cluster).await?;
        Ok(gone)
    }

    /// What other deployments of the namespace have in their lists, and the name of one that has it.
    ///
    /// # Errors
    /// If the cluster does not let the lists be read.
    pub async fn of_others(&self, cluster: &Cluster) -> Result<BTreeMap<ObjectId, String>, ApiError> {
        let path = format!("/api/v1/namespaces/{}/configmaps", self.namespace);
        let selector = format!("{MANAGED_BY}={MANAGER}");
        let found = cluster.list(&path, &[("labelSelector", &selector)]).await?;
        let mut others = BTreeMap::new();
        for list in &found.items {
            let name = list.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let Some(name) = name.strip_prefix(PREFIX).filter(|name| *name != self.name) else { continue };
            let members = listed(list).into_iter().flatten();
            others.extend(members.map(|member| (member.id(), name.to_owned())));
        }
        Ok(others)
    }

    /// Takes objects out of the list.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn forget(&mut self, cluster: &Cluster, removed: &[Member]) -> Result<(), ApiError> {
        if removed.is_empty() {
            return Ok(());
        }
        self.members.retain(|member| !removed.contains(member));
        self.write(cluster).await
    }

    /// Removes the list itself.
    ///
    /// # Errors
    /// If the cluster does not let it be removed.
    pub async fn remove(self, cluster: &Cluster) -> Result<(), ApiError> {
        match cluster.delete(&self.path(), &json!({})).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, cluster: &Cluster) -> Result<(), ApiError> {
        self.members.sort();
        let query = [("fieldManager", MANAGER), ("force", "true")];
        cluster.apply(&self.path(), &query, &self.object()).await?;
        self.is_there = true;
        self.is_newer = false;
        Ok(())
    }

    fn object(&self) -> Value {
        let kinds: BTreeSet<String> =
            self.members.iter().map(|member| apply_set::written(&member.id().kind)).collect();
        let namespaces: BTreeSet<&str> = self
            .members
            .iter()
            .filter_map(|member| member.namespace.as_deref())
            .filter(|namespace| *namespace != self.namespace)
            .collect();
        let joined = |texts: Vec<&str>| texts.join(",");
        let list = serde_json::to_string(&self.members).unwrap_or_default();
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.object_name(),
                "namespace": self.namespace,
                "labels": {
                    (MANAGED_BY): MANAGER,
                    (apply_set::ID): apply_set::id(&self.parent()),
                },
                "annotations": {
                    (apply_set::TOOLING): TOOLING,
                    (apply_set::KINDS): joined(kinds.iter().map(String::as_str).collect()),
                    (apply_set::NAMESPACES): joined(namespaces.into_iter().collect()),
                },
            },
            "data": {ENTRY: list},
        })
    }

    fn object_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{}", self.namespace, self.object_name())
    }

    /// The ConfigMap itself.
    fn parent(&self) -> ObjectId {
        let (kind, namespace) = (GroupKind::new("", "ConfigMap"), Some(self.namespace.clone()));
        ObjectId { kind, namespace, name: self.object_name() }
    }
}

/// The objects of a list, if this ConfigMap is one.
fn listed(found: &Value) -> Option<Vec<Member>> {
    let tooling = found.pointer("/metadata/annotations")?.get(apply_set::TOOLING)?.as_str()?;
    let text = found.get("data")?.get(ENTRY)?.as_str()?;
    if tooling == TOOLING { serde_json::from_str(text).ok() } else { None }
}

/// Whether a name can be a deployment's: it becomes part of an object's name and nothing else.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_an_apply_sets_parent() {
        let member = |kind: &str, namespace: &str| Member {
            api_version: "apps/v1".to_owned(),
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: "web".to_owned(),
            uid: None,
            made: true,
        };
        let inventory = Inventory {
            namespace: "shop".to_owned(),
            name: "review".to_owned(),
            members: vec![member("Deployment", "shop"), member("StatefulSet", "other")],
            is_there: false,
            is_newer: false,
        };
        let object = inventory.object();
        let annotations = &object["metadata"]["annotations"];
        let kinds = &annotations["applyset.kubernetes.io/contains-group-kinds"];
        assert_eq!(kinds, "Deployment.apps,StatefulSet.apps");
        assert_eq!(annotations["applyset.kubernetes.io/additional-namespaces"], "other");
        let id = object["metadata"]["labels"]["applyset.kubernetes.io/id"].as_str().unwrap();
        assert_eq!(id.len(), "applyset--v1".len() + 43);
    }

    #[test]
    fn names() {
        assert!(is_name("review-1") && !is_name("Review") && !is_name("") && !is_name("a-"));
    }
}
