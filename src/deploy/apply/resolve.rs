//! Objects in their places: kinds as the cluster serves them, namespaces, paths, waves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::order;
use crate::deploy::cluster::{Cluster, Kinds, Resource};
use crate::deploy::error::{DeployError, Fault};
use crate::deploy::object::{GroupKind, Gvk, Object, ObjectId};

/// The kind of custom resource definitions.
const CRD: (&str, &str) = ("apiextensions.k8s.io", "CustomResourceDefinition");

/// An object and its place in the cluster.
#[derive(Debug, Clone)]
pub struct Target {
    /// The object. Its namespace is settled.
    pub object: Object,
    /// Which it is.
    pub id: ObjectId,
    /// Its path.
    pub path: String,
    /// Its kind.
    pub resource: Resource,
    /// The wave in which it is applied.
    pub wave: usize,
    /// Whether its kind or its namespace is made by another object of the same run, so that it cannot be tried before.
    pub is_ahead: bool,
    /// Whether it asks for something that the same run makes or changes, so that a server may refuse it which takes it then: a
    /// custom resource beside its definition, a pod beside its service account.
    pub may_be_early: bool,
}

/// Puts objects into their places. Where nothing else is said that is the namespace `given` by the user, or else the cluster's.
///
/// # Errors
/// [`DeployError::Manifests`] with all that is wrong with them; or if the cluster cannot be asked.
pub async fn resolve(
    cluster: &Cluster,
    objects: Vec<Object>,
    given: Option<&str>,
) -> Result<Vec<Target>, DeployError> {
    let kinds = cluster.kinds().await?;
    let made = Made::by(&objects);
    let mut targets = Vec::with_capacity(objects.len());
    let mut faults = Vec::new();
    for object in objects {
        match place(object, &kinds, &made, given, cluster.namespace()) {
            Ok(target) => targets.push(target),
            Err(fault) => faults.push(*fault),
        }
    }
    faults.extend(twice(&targets));
    if !faults.is_empty() || targets.is_empty() {
        return Err(DeployError::Manifests(faults));
    }
    let absent = absent_namespaces(cluster, &targets, &made).await?;
    for target in &mut targets {
        let namespace = target.id.namespace.as_deref();
        target.is_ahead |= namespace.is_some_and(|name| absent.contains(name));
    }
    targets.sort_by_key(|target| target.wave);
    Ok(targets)
}

/// What the objects of a run make possible for each other.
struct Made {
    kinds: BTreeMap<Gvk, Resource>,
    namespaces: BTreeSet<String>,
    /// What admission asks for, by kind and name.
    asked_for: BTreeSet<(&'static str, String)>,
}

impl Made {
    fn by(objects: &[Object]) -> Self {
        let mut made =
            Self { kinds: BTreeMap::new(), namespaces: BTreeSet::new(), asked_for: BTreeSet::new() };
        for object in objects {
            let kind = object.gvk().group_kind();
            if kind.is("", "Namespace") {
                made.namespaces.insert(object.name().to_owned());
            } else if kind.is(CRD.0, CRD.1) {
                made.kinds.extend(defined_by(object).map(|resource| (resource.gvk.clone(), resource)));
            }
            let asked_for = ASKED_FOR.iter().filter(|(asked, _)| *asked == kind.kind);
            made.asked_for.extend(asked_for.map(|(asked, _)| (*asked, object.name().to_owned())));
        }
        made
    }

    /// Whether it makes what admission looks up for this object: for a pod, while those of workloads come later.
    fn is_asked_for_by(&self, object: &Object) -> bool {
        object.gvk().group_kind().is("", "Pod")
            && ASKED_FOR.iter().any(|(kind, field)| {
                let name = object.fields.get("spec").and_then(|spec| spec.get(field)?.as_str());
                name.is_some_and(|name| self.asked_for.contains(&(*kind, name.to_owned())))
            })
    }
}

/// The kinds that admission looks up for a pod, and the fields of its `spec` that name them.
const ASKED_FOR: [(&str, &str); 3] = [
    ("ServiceAccount", "serviceAccountName"),
    ("PriorityClass", "priorityClassName"),
    ("RuntimeClass", "runtimeClassName"),
];

/// The kinds that a custom resource definition defines: one for each version that it serves.
fn defined_by(object: &Object) -> impl Iterator<Item = Resource> + '_ {
    let spec = object.fields.get("spec");
    let text = move |path: &str| spec.and_then(|spec| spec.pointer(path)).and_then(Value::as_str);
    let versions = spec.and_then(|spec| spec.get("versions")).and_then(Value::as_array);
    versions.into_iter().flatten().filter_map(move |version| {
        let gvk = Gvk {
            group: text("/group")?.to_owned(),
            version: version.get("name")?.as_str()?.to_owned(),
            kind: text("/names/kind")?.to_owned(),
        };
        let plural = text("/names/plural")?.to_owned();
        let served = version.get("served").and_then(Value::as_bool).unwrap_or(true);
        let namespaced = text("/scope") == Some("Namespaced");
        served.then_some(Resource { gvk, plural, namespaced, verbs: Vec::new() })
    })
}

fn place(
    mut object: Object,
    kinds: &Kinds,
    made: &Made,
    given: Option<&str>,
    default: &str,
) -> Result<Target, Box<Fault>> {
    let gvk = object.gvk();
    let known = kinds.get(&gvk);
    let Some(resource) = known.or_else(|| made.kinds.get(&gvk)).cloned() else {
        return Err(unknown(&object, &gvk, kinds));
    };
    if resource.namespaced {
        let namespace = match (object.namespace(), given) {
            (Some(own), Some(given)) if own != given => {
                return Err(Box::new(Fault {
                    source: Some(object.source.clone()),
                    what: format!("`{}` is for namespace `{own}`, and `{given}` was asked for", object.id()),
                    hint: Some("take the namespace out of the manifest, or leave --namespace out".to_owned()),
                }));
            }
            (Some(own), _) => own.to_owned(),
            (None, given) => given.unwrap_or(default).to_owned(),
        };
        object.set_namespace(Some(&namespace));
    } else {
        // The server would drop it.
        object.set_namespace(None);
    }
    let id = object.id();
    Ok(Target {
        path: resource.path(id.namespace.as_deref(), &id.name),
        wave: order::wave(&id.kind),
        is_ahead: known.is_none(),
        may_be_early: made.kinds.contains_key(&gvk) || made.is_asked_for_by(&object),
        object,
        id,
        resource,
    })
}

fn unknown(object: &Object, gvk: &Gvk, kinds: &Kinds) -> Box<Fault> {
    let kind = gvk.group_kind();
    let hint = match kinds.versions(&kind) {
        [] => match elsewhere(kinds, &kind) {
            Some(version) => format!("it has one in `{version}`"),
            None if gvk.group.contains('.') && !gvk.group.ends_with(".k8s.io") => {
                "the custom resource definition is not there: install what brings it, or put it beside this manifest"
                    .to_owned()
            }
            None => "check the spelling of `apiVersion` and `kind`".to_owned(),
        },
        served => {
            let served: Vec<_> = served
                .iter()
                .map(|version| Gvk { version: version.clone(), ..gvk.clone() }.api_version())
                .collect();
            format!("it serves the kind as {}", served.join(", "))
        }
    };
    Box::new(Fault {
        source: Some(object.source.clone()),
        what: format!("the cluster has no kind `{}` in `{}`", gvk.kind, gvk.api_version()),
        hint: Some(hint),
    })
}

/// Another group's version that has a kind of this name.
fn elsewhere(kinds: &Kinds, kind: &GroupKind) -> Option<String> {
    let found = kinds.iter().find(|resource| resource.gvk.kind == kind.kind)?;
    Some(found.gvk.api_version())
}

/// Objects that are there twice. The manifests were searched before their namespaces were settled.
fn twice(targets: &[Target]) -> Vec<Fault> {
    let mut seen: BTreeMap<&ObjectId, &Target> = BTreeMap::new();
    let mut faults = Vec::new();
    for target in targets {
        if let Some(first) = seen.insert(&target.id, target) {
            faults.push(Fault {
                source: Some(target.object.source.clone()),
                what: format!("`{}` is there twice: also at {}", target.id, first.object.source),
                hint: None,
            });
        }
    }
    faults
}

/// The namespaces that the run itself makes and that are not there yet.
async fn absent_namespaces(
    cluster: &Cluster,
    targets: &[Target],
    made: &Made,
) -> Result<BTreeSet<String>, DeployError> {
    let used: BTreeSet<&str> = targets.iter().filter_map(|target| target.id.namespace.as_deref()).collect();
    let mut absent = BTreeSet::new();
    for name in made.namespaces.iter().filter(|name| used.contains(name.as_str())) {
        match cluster.find(&format!("/api/v1/namespaces/{name}")).await {
            Ok(Some(_)) => {}
            // Who may not look finds out when it is tried.
            Ok(None) => {
                absent.insert(name.clone());
            }
            Err(error) if error.is_forbidden() => {
                absent.insert(name.clone());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(absent)
}
