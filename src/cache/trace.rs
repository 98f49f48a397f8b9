//! What the last build of a Dockerfile knew of its steps, for machines that have never built it.
//!
//! A trace is a layer of one file on a registry. It tells why a step is not found, and nothing else depends on it. Values of
//! environment variables are in it as digests alone: a registry has more readers than a state directory.

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::explain::{ENVIRONMENT, FileList};
use super::{LocalCache, Place};
use crate::image::Digest;
use crate::plan::KeyPart;
use crate::store::StoreError;

/// The version of a trace. Another is not read.
const VERSION: u32 = 1;
/// Longest list of files that is kept, in files.
const LONGEST_LIST: usize = 5000;
/// The largest trace that is read, in bytes.
const LARGEST: u64 = 64 << 20;

/// What is known of the steps of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trace {
    version: u32,
    steps: Vec<TracedStep>,
    /// Lists of files, by their digest.
    files: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TracedStep {
    stage: String,
    step: usize,
    parts: Vec<KeyPart>,
}

impl Trace {
    /// A trace of nothing.
    pub fn new() -> Self {
        Self { version: VERSION, ..Self::default() }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Adds a step that was a success.
    pub fn add(&mut self, place: &Place, parts: &[KeyPart]) {
        // What came from another machine's trace is hidden already.
        let is_open =
            |part: &KeyPart| part.name.starts_with(ENVIRONMENT) && part.value.parse::<Digest>().is_err();
        let hidden = |part: &KeyPart| match is_open(part) {
            true => KeyPart { name: part.name.clone(), value: Digest::of(part.value.as_bytes()).to_string() },
            false => part.clone(),
        };
        let parts = parts.iter().map(hidden).collect();
        self.steps.push(TracedStep { stage: place.stage.clone(), step: place.step, parts });
    }

    /// Adds the list of the files that a digest is of, unless it is too long to be worth it.
    pub fn add_files(&mut self, digest: &Digest, list: FileList) {
        if list.0.len() <= LONGEST_LIST {
            self.files.insert(digest.to_string(), list.0);
        }
    }

    /// As bytes.
    ///
    /// # Errors
    /// If it cannot be serialised.
    pub fn write(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Reads one; `None` if it is none, or of another version.
    pub fn read(source: impl Read) -> Option<Self> {
        let trace: Self = serde_json::from_reader(source.take(LARGEST)).ok()?;
        (trace.version == VERSION).then_some(trace)
    }

    /// Lets a cache know of steps what it does not know itself. `dockerfile` is what they are of, here.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn teach(self, cache: &LocalCache, dockerfile: &str) -> Result<(), StoreError> {
        for (digest, list) in self.files {
            if let Ok(digest) = digest.parse::<Digest>() {
                cache.keep_files(&digest, || FileList(list))?;
            }
        }
        for TracedStep { stage, step, parts } in self.steps {
            let place = Place { dockerfile: dockerfile.to_owned(), stage, step };
            if !cache.remembers(&place)? {
                cache.remember(&place, &parts)?;
            }
        }
        Ok(())
    }
}

/// What a Dockerfile is called on a registry: by what tells it from others on every machine alike, and by what is built of it.
pub fn trace_tag(dockerfile: &str, target: &str, platform: &str) -> String {
    let name = Digest::of(format!("{dockerfile}\0{target}\0{platform}").as_bytes()).hex();
    format!("trace-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn part(name: &str, value: &str) -> KeyPart {
        KeyPart { name: name.to_owned(), value: value.to_owned() }
    }

    fn place(dockerfile: &str) -> Place {
        Place { dockerfile: dockerfile.to_owned(), stage: "build".to_owned(), step: 0 }
    }

    #[test]
    fn a_trace_explains_on_another_machine_and_keeps_values_to_itself() {
        let directory = tempfile::tempdir().unwrap();
        let cache = LocalCache::new(&Store::open(directory.path()).unwrap());
        let list = Digest::of(b"list");
        let files = |content: &str| FileList(BTreeMap::from([("src/a".to_owned(), content.to_owned())]));
        let mut trace = Trace::new();
        let environment = [part("environment TOKEN", "secret-value"), part("environment A", "1")];
        let old = [part("command", "make"), part("files", &list.to_string())];
        trace.add(&place("one"), &[&environment[..], &old].concat());
        trace.add_files(&list, files("one"));
        let bytes = trace.write().unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret-value"));

        Trace::read(bytes.as_slice()).unwrap().teach(&cache, "two").unwrap();
        let other = Digest::of(b"other");
        cache.keep_files(&other, || files("two")).unwrap();
        let explain = |parts: &[KeyPart]| {
            let here = place("two");
            cache.explain(&here.dockerfile, &here.stage, &[parts]).unwrap().remove(0)
        };
        let same = [part("command", "make"), part("files", &other.to_string())];
        let found = explain(&[&environment[..], &same].concat());
        assert_eq!(found.reason(), "file src/a has changed");
        // A value that has changed is not told, for it is not known.
        let changed = [part("environment TOKEN", "other"), part("environment A", "1")];
        let found = explain(&[&changed[..], &old].concat());
        assert_eq!(found.reason(), "environment TOKEN has changed");
        assert_eq!(found.changes()[0].before.as_deref(), Some("another value"));
        // What a machine has seen itself is not overwritten.
        cache.remember(&place("two"), &same).unwrap();
        Trace::read(bytes.as_slice()).unwrap().teach(&cache, "two").unwrap();
        assert_eq!(explain(&same).reason(), "its result is no longer in the cache");
    }

    #[test]
    fn what_is_no_trace_is_not_read() {
        for text in ["", "{}", r#"{"version":2,"steps":[],"files":{}}"#] {
            assert_eq!(Trace::read(text.as_bytes()), None, "{text}");
        }
    }
}
