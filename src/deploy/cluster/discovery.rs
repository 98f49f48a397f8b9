//! Which kinds of objects a cluster has, and under which paths.
//!
//! Asked with two requests, of `/api` and `/apis`, which answer for all groups at once
//! (<https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery>). A server that does not know
//! that form is asked for each group and version when it is needed.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::deploy::object::{GroupKind, Gvk};

/// What is asked for, the best first.
pub(super) const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
     application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// A kind of object as a server serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The kind and its version.
    pub gvk: Gvk,
    /// What stands in paths and in rules of roles: `deployments`.
    pub plural: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// What can be done with them: `get`, `patch`.
    pub verbs: Vec<String>,
}

impl Resource {
    /// The path of its objects in `namespace`, or in all namespaces.
    pub fn list_path(&self, namespace: Option<&str>) -> String {
        let root = if self.gvk.group.is_empty() {
            format!("/api/{}", self.gvk.version)
        } else {
            format!("/apis/{}/{}", self.gvk.group, self.gvk.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// The path of one of its objects.
    pub fn path(&self, namespace: Option<&str>, name: &str) -> String {
        let name = percent_encoding::utf8_percent_encode(name, NAME);
        format!("{}/{name}", self.list_path(namespace))
    }
}

/// What cannot stand in a segment of a path as it is. Names of roles have colons, which can.
const NAME: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// The kinds that a server has told of.
#[derive(Debug, Clone, Default)]
pub struct Kinds {
    by_kind: BTreeMap<Gvk, Resource>,
    /// In the order in which a group prefers them.
    versions: BTreeMap<GroupKind, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
pub(super) struct GroupList {
    pub(super) kind: String,
    items: Vec<Group>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Group {
    metadata: Metadata,
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GroupVersion {
    version: String,
    resources: Vec<Discovered>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Discovered {
    resource: String,
    response_kind: Option<ResponseKind>,
    scope: String,
    verbs: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseKind {
    kind: String,
}

/// `APIResourceList`, the older form.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ResourceList {
    group_version: String,
    resources: Vec<Listed>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Listed {
    name: String,
    namespaced: bool,
    kind: String,
    verbs: Vec<String>,
}

impl Kinds {
    /// Adds what `/api` or `/apis` has answered.
    pub(super) fn add_groups(&mut self, list: GroupList) {
        for Group { metadata: Metadata { name: group }, versions } in list.items {
            for GroupVersion { version, resources } in versions {
                for Discovered { resource, response_kind, scope, verbs } in resources {
                    let Some(ResponseKind { kind }) = response_kind else { continue };
                    let gvk = Gvk { group: group.clone(), version: version.clone(), kind };
                    self.add(Resource { gvk, plural: resource, namespaced: scope == "Namespaced", verbs });
                }
            }
        }
    }

    /// Adds what a group and version has answered.
    pub(super) fn add_resources(&mut self, list: ResourceList) {
        for Listed { name, namespaced, kind, verbs } in list.resources {
            // `deployments/scale` is no kind of object.
            if !name.contains('/') {
                let gvk = Gvk::new(&list.group_version, &kind);
                self.add(Resource { gvk, plural: name, namespaced, verbs });
            }
        }
    }

    fn add(&mut self, resource: Resource) {
        let versions = self.versions.entry(resource.gvk.group_kind()).or_default();
        if !versions.contains(&resource.gvk.version) {
            versions.push(resource.gvk.version.clone());
        }
        self.by_kind.entry(resource.gvk.clone()).or_insert(resource);
    }

    /// The kind in exactly this version.
    pub fn get(&self, gvk: &Gvk) -> Option<&Resource> {
        self.by_kind.get(gvk)
    }

    /// The kind in the version that its group prefers.
    pub fn preferred(&self, kind: &GroupKind) -> Option<&Resource> {
        let version = self.versions.get(kind)?.first()?;
        self.by_kind.get(&Gvk {
            group: kind.group.clone(),
            version: version.clone(),
            kind: kind.kind.clone(),
        })
    }

    /// The versions of a kind that are served, the preferred one first.
    pub fn versions(&self, kind: &GroupKind) -> &[String] {
        self.versions.get(kind).map_or(&[], Vec::as_slice)
    }

    /// All kinds.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.by_kind.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Kinds {
        let list = serde_json::json!({"kind": "APIGroupDiscoveryList", "items": [{
        "metadata": {"name": "autoscaling"},
        "versions": [
            {"version": "v2", "resources": [{"resource": "horizontalpodautoscalers", "scope": "Namespaced",
                "responseKind": {"group": "autoscaling", "version": "v2", "kind": "HorizontalPodAutoscaler"},
                "verbs": ["get"]}]},
            {"version": "v1", "resources": [{"resource": "horizontalpodautoscalers", "scope": "Namespaced",
                "responseKind": {"kind": "HorizontalPodAutoscaler"}, "verbs": ["get"]}]},
        ]}]});
        let mut kinds = Kinds::default();
        kinds.add_groups(serde_json::from_value(list).unwrap());
        kinds.add_resources(
            serde_json::from_value(serde_json::json!({"groupVersion": "v1", "resources": [
                {"name": "namespaces", "namespaced": false, "kind": "Namespace", "verbs": ["get"]},
                {"name": "namespaces/status", "namespaced": false, "kind": "Namespace", "verbs": ["get"]},
            ]}))
            .unwrap(),
        );
        kinds
    }

    #[test]
    fn a_group_says_which_version_it_prefers() {
        let kinds = kinds();
        let kind = GroupKind::new("autoscaling", "HorizontalPodAutoscaler");
        assert_eq!(kinds.versions(&kind), ["v2", "v1"]);
        assert_eq!(kinds.preferred(&kind).unwrap().gvk.version, "v2");
        let resource = kinds.get(&Gvk::new("autoscaling/v1", "HorizontalPodAutoscaler")).unwrap();
        let expected = "/apis/autoscaling/v1/namespaces/shop/horizontalpodautoscalers/web";
        assert_eq!(resource.path(Some("shop"), "web"), expected);
    }

    #[test]
    fn paths_of_the_core_group_and_of_the_whole_cluster() {
        let kinds = kinds();
        let namespace = kinds.get(&Gvk::new("v1", "Namespace")).unwrap();
        assert_eq!(namespace.path(Some("passed over"), "shop"), "/api/v1/namespaces/shop");
        assert_eq!(namespace.path(None, "a/b"), "/api/v1/namespaces/a%2Fb");
        assert_eq!(namespace.path(None, "system:x"), "/api/v1/namespaces/system:x");
    }
}
