//! Objects of Kubernetes as JSON values, their identity, and where they were written.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

/// A kind of object without its version: `Deployment` of `apps`.
///
/// Two manifests that differ in the version alone speak of the same object, so identities are made of this.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKind {
    /// The API group; empty for the core group.
    pub group: String,
    /// The kind.
    pub kind: String,
}

impl GroupKind {
    /// The kind `kind` of `group`.
    pub fn new(group: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { group: group.into(), kind: kind.into() }
    }

    /// Whether this is `kind` of `group`.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
}

/// As kubectl writes it: `deployment.apps`, `service`.
impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind.to_lowercase())?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// A kind of object in one of its versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version: `v1`.
    pub version: String,
    /// The kind.
    pub kind: String,
}

impl Gvk {
    /// From the two fields that every object has.
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// `apps/v1`, or `v1` of the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The kind without its version.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&*self.group, &*self.kind)
    }
}

/// `apps/v1 Deployment`
impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.api_version(), self.kind)
    }
}

/// Which object of a cluster it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: GroupKind,
    /// Its namespace; nothing for one that belongs to the whole cluster.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// `deployment.apps/web`, as kubectl writes it. The namespace is said where there are several.
impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Where an object was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file as the user named or would name it; `standard input`.
    pub file: Arc<str>,
    /// The line at which its document begins, from 1.
    pub line: u32,
    /// Which item of a list it is, from 1.
    pub item: Option<u32>,
}

impl Source {
    /// What this program itself made, `what` saying of what.
    pub fn made(what: &str) -> Self {
        Self { file: what.into(), line: 1, item: None }
    }
}

/// `app.yaml:12`, `app.yaml:12 (item 3)`
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        self.item.map_or(Ok(()), |item| write!(f, " (item {item})"))
    }
}

/// An object of a manifest. It has an `apiVersion`, a `kind` and a name: who reads manifests has made sure of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// All of its fields.
    pub fields: Map<String, Value>,
    /// Where it was written.
    pub source: Source,
}

impl Object {
    /// Its kind and version.
    pub fn gvk(&self) -> Gvk {
        Gvk::new(self.text("apiVersion"), self.text("kind"))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its namespace, if it names one.
    pub fn namespace(&self) -> Option<&str> {
        self.metadata("namespace").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    /// Which object it is, once its namespace is settled.
    pub fn id(&self) -> ObjectId {
        ObjectId {
            kind: self.gvk().group_kind(),
            namespace: self.namespace().map(str::to_owned),
            name: self.name().to_owned(),
        }
    }

    /// Puts it into a namespace, or into none.
    pub fn set_namespace(&mut self, namespace: Option<&str>) {
        let Some(Value::Object(metadata)) = self.fields.get_mut("metadata") else { return };
        match namespace {
            Some(name) => metadata.insert("namespace".to_owned(), name.into()),
            None => metadata.remove("namespace"),
        };
    }

    /// The label `name`.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.metadata("labels")?.get(name)?.as_str()
    }

    /// The annotation `name`.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.metadata("annotations")?.get(name)?.as_str()
    }

    /// Sets an annotation.
    pub fn annotate(&mut self, name: &str, value: &str) {
        self.set_in_metadata("annotations", name, value);
    }

    /// Sets a label.
    pub fn set_label(&mut self, name: &str, value: &str) {
        self.set_in_metadata("labels", name, value);
    }

    fn set_in_metadata(&mut self, map: &str, name: &str, value: &str) {
        let Some(Value::Object(metadata)) = self.fields.get_mut("metadata") else { return };
        let map = metadata.entry(map).or_insert_with(|| Value::Object(Map::new()));
        if map.is_null() {
            *map = Value::Object(Map::new());
        }
        if let Value::Object(map) = map {
            map.insert(name.to_owned(), value.into());
        }
    }

    fn metadata(&self, field: &str) -> Option<&Value> {
        self.fields.get("metadata")?.get(field)
    }

    fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }
}
