//! Results of steps, by key, and why a step has none.
//!
//! A layer record says which layer a step made: a record is as good as the blob it names, and one whose blob is gone
//! counts as none. A trace remembers the fields of the key that a step had the last time the same line of the same
//! Dockerfile was built; when the step is not found, the two are compared field by field.
//!
//! Records are on this machine ([`LocalCache`]), or on a registry, where pipelines share them ([`RegistryCache`], [`Chain`]).
//!
//! This room never runs anything and never changes an image: without it, builds are slower and equal.

mod chain;
mod explain;
mod record;
mod registry;
mod trace;

use std::io::Write as _;

use serde::de::DeserializeOwned;

pub use chain::{ANNOTATION, CONFIG, Chain, ChainStep, Found, PackedIndex, PackedTrace, trace_manifest};
pub use explain::{BASE_IMAGE, Change, Explanation, FileList, Place, selections};
pub use record::LayerRecord;
pub use registry::RegistryCache;
pub use trace::{Trace, trace_tag};

use crate::image::Digest;
use crate::plan::{Key, KeyPart};
use crate::store::{Store, StoreError};

/// Where layer records lie.
const LAYERS: &str = "layers";
/// Where traces lie.
const TRACES: &str = "traces";
/// Where it is remembered which digest a tag of a base image had.
pub const TAGS: &str = "tags";

/// The results that are on this machine.
#[derive(Debug, Clone)]
pub struct LocalCache {
    store: Store,
}

impl LocalCache {
    /// The cache in `store`.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// The layer that a step made.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn layer(&self, key: &Key) -> Result<Option<LayerRecord>, StoreError> {
        let Some(record) = self.store.record::<LayerRecord>(LAYERS, &key.to_string())? else {
            return Ok(None);
        };
        Ok(self.store.holds(&record.digest, record.size)?.then_some(record))
    }

    /// Remembers the layer that a step made.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn put(&self, key: &Key, record: &LayerRecord) -> Result<(), StoreError> {
        self.store.put_record(LAYERS, &key.to_string(), record)
    }

    /// All layers that are remembered and here.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn list(&self) -> Result<Vec<(Key, LayerRecord)>, StoreError> {
        let mut found = Vec::new();
        for key in self.store.record_keys(LAYERS)? {
            let Ok(key) = key.parse::<Key>() else { continue };
            found.extend(self.layer(&key)?.map(|record| (key, record)));
        }
        Ok(found)
    }

    /// Why the steps of a stage, whose keys have these fields, have no result: what has changed since the last time. To be asked
    /// before the first of them is remembered anew.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn explain(
        &self,
        dockerfile: &str,
        stage: &str,
        now: &[&[KeyPart]],
    ) -> Result<Vec<Explanation>, StoreError> {
        let last = self.remembered(dockerfile, stage, now.len())?;
        explain::stage(&last, now, &|digest: &Digest| self.files(digest))
    }

    /// The fields that the keys of a stage's steps had the last time that each of them was a success. `steps` is how many there
    /// are now; there may have been more.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn remembered(
        &self,
        dockerfile: &str,
        stage: &str,
        steps: usize,
    ) -> Result<Vec<Vec<KeyPart>>, StoreError> {
        /// Steps that the stage may have had besides.
        const MORE: usize = 64;
        let mut last = Vec::new();
        for step in 0..steps + MORE {
            let place = Place { dockerfile: dockerfile.to_owned(), stage: stage.to_owned(), step };
            let Some(parts) = self.store.record::<Vec<KeyPart>>(TRACES, &place.key())? else { break };
            last.push(parts);
        }
        Ok(last)
    }

    /// The list of files that a selection's digest is of, if it was kept.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn files(&self, digest: &Digest) -> Result<Option<FileList>, StoreError> {
        FileList::load(&self.store, digest)
    }

    /// Keeps the list of the files that a selection's digest is of, so that a later miss can name the ones that differ.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn keep_files(&self, digest: &Digest, list: impl FnOnce() -> FileList) -> Result<(), StoreError> {
        if self.store.side(explain::FILE_LISTS, digest)?.is_some() {
            return Ok(());
        }
        let mut writer = self.store.side_writer()?;
        writer.write_all(list().text().as_bytes()).map_err(|source| StoreError::Io {
            operation: "write",
            path: self.store.directory().to_owned(),
            source,
        })?;
        writer.commit(explain::FILE_LISTS, digest)
    }

    /// Whether it is remembered which fields the key of the step at `place` had.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn remembers(&self, place: &Place) -> Result<bool, StoreError> {
        Ok(self.store.record::<Vec<KeyPart>>(TRACES, &place.key())?.is_some())
    }

    /// Remembers the fields that the key of the step at `place` has this time.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn remember(&self, place: &Place, parts: &[KeyPart]) -> Result<(), StoreError> {
        self.store.put_record(TRACES, &place.key(), &parts)
    }
}

/// The digests that a record keeps from being pruned: of the layer that it names, and of the list of its files, which goes with
/// its diff ID; of the lists of files that a miss is explained by; of the image that a tag named.
pub fn referenced(namespace: &str, record: &[u8]) -> Vec<Digest> {
    /// What cannot be read as its namespace has it needs nothing: it counts as not there.
    fn read<T: DeserializeOwned>(record: &[u8]) -> Option<T> {
        serde_json::from_slice(record).ok()
    }
    match namespace {
        LAYERS => read::<LayerRecord>(record).map(|layer| vec![layer.digest, layer.diff_id]),
        TRACES => read::<Vec<KeyPart>>(record).map(|parts| selections(&parts).collect()),
        TAGS => read::<Digest>(record).map(|image| vec![image]),
        _ => None,
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// Each of these went with the first `prune`: explanations lost the names of files, cached steps what is known of their
    /// layers, and bases were fetched again.
    #[rstest]
    #[case::layer(LAYERS, json!({
        "digest": Digest::of(b"1"), "size": 1, "media_type": "m", "diff_id": Digest::of(b"2"), "compression": "c",
        "created": "t", "made": 1, "title": "RUN"
    }), &[b"1", b"2"])]
    #[case::trace(TRACES, json!([
        { "name": "words", "value": "COPY" },
        { "name": "files", "value": Digest::of(b"1") },
        { "name": "files", "value": format!("{} 755", Digest::of(b"2")) },
        { "name": "files", "value": "a stage" },
    ]), &[b"1", b"2"])]
    #[case::tag(TAGS, json!(Digest::of(b"1")), &[b"1"])]
    #[case::torn(LAYERS, json!("half"), &[])]
    #[case::of_others("other", json!(Digest::of(b"1")), &[])]
    fn what_a_record_keeps(
        #[case] namespace: &str,
        #[case] record: serde_json::Value,
        #[case] kept: &[&[u8; 1]],
    ) {
        let kept: Vec<Digest> = kept.iter().map(|content| Digest::of(*content)).collect();
        assert_eq!(referenced(namespace, record.to_string().as_bytes()), kept);
    }
}
