//! Manifests: from files to objects, as kubectl reads them.
//!
//! | module | owns |
//! |---|---|
//! | `input` | which files are meant, and their text |
//! | `yaml`, `json`, `scalar`, `node` | documents, with the line of each thing |
//! | `normalise` | what an object loses before it is sent, and what a server would refuse late or not at all |
//! | `pod` | where kinds keep their pods |
//!
//! # Invariants
//! 1. What kubectl reads is read to the same value. It is stricter in one thing: what kubectl drops without a word is a
//!    fault (fields that are there twice, documents behind `...`).
//! 2. Faults are told together, each with its file and line.

mod input;
mod json;
mod node;
mod normalise;
pub mod pod;
mod scalar;
mod yaml;

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

pub use normalise::normalise;

use input::Text;
use node::{Content, Node};
use yaml::Mistake;

use super::error::{DeployError, Fault};
use super::object::{Object, ObjectId, Source};

/// How deep lists may lie within lists. kubectl has no limit; nobody has more than one.
const DEEPEST: u32 = 8;

/// Rewrites the text of a file before it is parsed; takes its name and its text.
pub type Transform<'a> = dyn Fn(&Arc<str>, &str) -> Result<String, Vec<Fault>> + 'a;

/// How manifests are read.
#[derive(Default)]
pub struct Options<'a> {
    /// Whether directories below a directory are looked into as well.
    pub recursive: bool,
    /// What is done to each text before it is parsed.
    pub transform: Option<&'a Transform<'a>>,
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transform = self.transform.map(|_| "…");
        f.debug_struct("Options").field("recursive", &self.recursive).field("transform", &transform).finish()
    }
}

/// Reads the objects of files, directories, patterns and standard input (`-`), as kubectl's `-f` takes them: in their
/// order, lists taken apart, each [normalised](normalise).
///
/// # Errors
/// If something cannot be read; all faults of what was read; [`DeployError::Manifests`] without a fault if there are no
/// objects at all.
pub fn read(inputs: &[String], stdin: impl Read, options: &Options<'_>) -> Result<Vec<Object>, DeployError> {
    let mut reading = Reading::default();
    for Text { file, text } in input::gather(inputs, stdin, options.recursive)? {
        match options.transform.map(|transform| transform(&file, &text)) {
            None => reading.text(&file, &text),
            Some(Ok(text)) => reading.text(&file, &text),
            Some(Err(faults)) => reading.faults.extend(faults),
        }
    }
    let Reading { mut objects, mut faults } = reading;
    for object in &mut objects {
        faults.extend(normalise(object));
    }
    faults.extend(duplicates(&objects));
    if faults.is_empty() && !objects.is_empty() { Ok(objects) } else { Err(DeployError::Manifests(faults)) }
}

/// The texts of what `inputs` name, with the names of their files, for whoever wants them unparsed.
///
/// # Errors
/// If something cannot be read.
pub fn texts(
    inputs: &[String],
    stdin: impl Read,
    recursive: bool,
) -> Result<Vec<(Arc<str>, String)>, DeployError> {
    let texts = input::gather(inputs, stdin, recursive)?;
    Ok(texts.into_iter().map(|text| (text.file, text.text)).collect())
}

/// A fault for each object that is there twice, by its group, kind, namespace and name. Whether an object without a
/// namespace is the same as one with is known when namespaces are settled: this can be asked again then.
pub fn duplicates(objects: &[Object]) -> Vec<Fault> {
    let mut seen: HashMap<ObjectId, &Source> = HashMap::new();
    let mut faults = Vec::new();
    for object in objects {
        let id = object.id();
        if let Some(first) = seen.get(&id) {
            let namespace =
                id.namespace.as_deref().map(|name| format!(" of namespace `{name}`")).unwrap_or_default();
            let what = format!("`{id}`{namespace} is there twice: it is in {first} too");
            faults.push(Fault { source: Some(object.source.clone()), what, hint: None });
        } else {
            seen.insert(id, &object.source);
        }
    }
    faults
}

#[derive(Debug, Default)]
struct Reading {
    objects: Vec<Object>,
    faults: Vec<Fault>,
}

impl Reading {
    /// Reads the documents of a file. What begins as JSON is read as that, until something follows that is none.
    fn text(&mut self, file: &Arc<str>, text: &str) {
        if !text.trim_start().starts_with('{') {
            self.yaml(file, text, 1);
            return;
        }
        let json::Found { documents, rest } = json::read(text);
        let count = documents.len();
        for node in documents {
            self.document(file, node);
        }
        let Some(rest) = rest else { return };
        // After two documents kubectl is sure of what it reads.
        if rest.is_json || count > 1 {
            self.mistake(file, rest.mistake);
            return;
        }
        let before = (self.objects.len(), self.faults.len());
        self.yaml(file, text.get(rest.at..).unwrap_or_default(), rest.line);
        if count == 0 && self.faults.len() > before.1 {
            // Neither: it began as JSON, so what is wrong with it as that is what helps.
            self.objects.truncate(before.0);
            self.faults.truncate(before.1);
            self.mistake(file, rest.mistake);
        }
    }

    /// Takes a text apart at its lines `---` and reads each part, `first` being the number of its first line.
    fn yaml(&mut self, file: &Arc<str>, text: &str, first: u32) {
        let (mut start, mut begins, mut at) = (0, first, 0);
        let mut line = first;
        for whole in text.split_inclusive('\n') {
            if let Some(rest) = whole.strip_prefix("---") {
                self.part(file, text.get(start..at).unwrap_or_default(), begins);
                let rest = rest.trim();
                if !rest.is_empty() && !rest.starts_with('#') {
                    let what =
                        "a line that begins with `---` parts documents, and has nothing else".to_owned();
                    self.mistake(file, Mistake { line, what });
                }
                (start, begins) = (at + whole.len(), line.saturating_add(1));
            }
            at += whole.len();
            line = line.saturating_add(1);
        }
        self.part(file, text.get(start..).unwrap_or_default(), begins);
    }

    fn part(&mut self, file: &Arc<str>, text: &str, first: u32) {
        match yaml::read(text, first) {
            Ok(Some(node)) => self.document(file, node),
            Ok(None) => {}
            Err(mistakes) => mistakes.into_iter().for_each(|mistake| self.mistake(file, mistake)),
        }
    }

    fn mistake(&mut self, file: &Arc<str>, mistake: Mistake) {
        let source = Source { file: Arc::clone(file), line: mistake.line, item: None };
        self.faults.push(Fault { source: Some(source), what: mistake.what, hint: None });
    }

    fn document(&mut self, file: &Arc<str>, node: Node) {
        if !node.is_null() {
            let source = Source { file: Arc::clone(file), line: node.line, item: None };
            self.object(node, source, None, 0);
        }
    }

    /// Takes an object, or the items of a list. `of` is what items are that do not say it themselves.
    fn object(&mut self, node: Node, source: Source, of: Option<(&str, &str)>, depth: u32) {
        let fault = |source: &Source, what: String| Fault { source: Some(source.clone()), what, hint: None };
        let Content::Map(entries) = &node.content else {
            self.faults.push(fault(&source, format!("an object is a mapping, and this is {}", node.what())));
            return;
        };
        let text = |field: &str| node.get(field).and_then(|entry| entry.value.text()).unwrap_or_default();
        let (mut version, mut kind) = (text("apiVersion").to_owned(), text("kind").to_owned());
        if let (Some((of_version, of_kind)), true) = (of, version.is_empty() && kind.is_empty()) {
            (version, kind) = (of_version.to_owned(), of_kind.to_owned());
        }
        let item_kind = kind.strip_suffix("List");
        if let (Some(item_kind), Some(items)) = (item_kind, entries.get("items")) {
            if depth >= DEEPEST {
                self.faults.push(fault(&source, "lists lie within lists too deep".to_owned()));
                return;
            }
            // A plain `List` says nothing of its items (apimachinery, `decodeToList`).
            let of = (!item_kind.is_empty()).then_some((&*version, item_kind));
            match &items.value.content {
                Content::List(list) => {
                    for (index, item) in list.iter().enumerate() {
                        let line = if item.line == 0 { source.line } else { item.line };
                        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
                        let source = Source { file: Arc::clone(&source.file), line, item: Some(number) };
                        self.object(item.clone(), source, of, depth + 1);
                    }
                }
                _ if items.value.is_null() => {}
                _ => {
                    let source =
                        Source { line: if items.line == 0 { source.line } else { items.line }, ..source };
                    self.faults
                        .push(fault(&source, format!("`items` is {}, not a list", items.value.what())));
                }
            }
            return;
        }
        let faults = Checks { node: &node, source: &source, version: &version, kind: &kind }.all();
        if !faults.is_empty() {
            self.faults.extend(faults);
            return;
        }
        let Content::Map(entries) = node.content else { return };
        let mut fields = node::fields(entries);
        fields.insert("apiVersion".to_owned(), version.into());
        fields.insert("kind".to_owned(), kind.into());
        self.objects.push(Object { fields, source });
    }
}

/// What every object must have.
struct Checks<'a> {
    node: &'a Node,
    source: &'a Source,
    version: &'a str,
    kind: &'a str,
}

impl Checks<'_> {
    fn all(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.said("apiVersion", self.version, &mut faults);
        self.said("kind", self.kind, &mut faults);
        if !self.kind.is_empty() && faults.is_empty() {
            self.metadata(&mut faults);
        }
        faults
    }

    fn said(&self, field: &str, value: &str, faults: &mut Vec<Fault>) {
        match self.node.get(field) {
            Some(entry) if !entry.value.is_null() && entry.value.text().is_none() => {
                faults
                    .push(self.fault(entry.line, format!("`{field}` is {}, not a text", entry.value.what())));
            }
            _ if !value.is_empty() => {}
            _ => faults.push(self.fault(0, format!("the object has no `{field}`"))),
        }
    }

    fn metadata(&self, faults: &mut Vec<Fault>) {
        let kind = self.kind;
        let metadata = self.node.get("metadata").filter(|entry| !entry.value.is_null());
        let Some(metadata) = metadata else {
            faults.push(self.nameless(0));
            return;
        };
        if !matches!(metadata.value.content, Content::Map(_)) {
            let what = format!("`metadata` is {}, not a mapping", metadata.value.what());
            faults.push(self.fault(metadata.line, what));
            return;
        }
        let text = |field: &str| metadata.value.get(field).filter(|entry| !entry.value.is_null());
        for field in ["name", "namespace", "generateName"] {
            if let Some(entry) = text(field).filter(|entry| entry.value.text().is_none()) {
                let what = format!("`metadata.{field}` is {}, not a text", entry.value.what());
                faults.push(Fault {
                    hint: Some("put it in quotes".to_owned()),
                    ..self.fault(entry.line, what)
                });
                return;
            }
        }
        let filled = |field: &str| text(field).filter(|entry| entry.value.text() != Some(""));
        match (filled("name"), filled("generateName")) {
            (Some(_), _) => {}
            (None, Some(generated)) => {
                let what =
                    format!("the {kind} has `generateName`, and what is applied needs a name of its own");
                let hint = "give it a `name` that changes with what it does, such as one with the image's digest or the commit";
                faults.push(Fault { hint: Some(hint.to_owned()), ..self.fault(generated.line, what) });
            }
            (None, None) => faults.push(self.nameless(metadata.line)),
        }
    }

    fn nameless(&self, line: u32) -> Fault {
        let mut fault = self.fault(line, format!("the {} has no name", self.kind));
        if self.kind == "Kustomization" && self.version.starts_with("kustomize.config.k8s.io/") {
            fault.hint = Some("build it first: kubectl kustomize DIR | cofferdam deploy -f -".to_owned());
        }
        fault
    }

    /// A fault at `line`, or at the object where the line is not known.
    fn fault(&self, line: u32, what: String) -> Fault {
        let line = if line == 0 { self.source.line } else { line };
        Fault { source: Some(Source { line, ..self.source.clone() }), what, hint: None }
    }
}

#[cfg(test)]
mod tests;
