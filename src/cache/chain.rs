//! What a registry keeps of a step: a small image manifest whose layers are those of the step and of all steps below it.
//!
//! The manifest is tagged with the step's key, so that pipelines side by side never overwrite each other, and the registry
//! keeps the layers because they are layers of an image. What is known of them stands in an annotation. Since it speaks of
//! all steps down to the base, one answer tells of a whole stage. The same annotation in the manifest of an image makes that
//! image a cache of its own steps (`type=inline`).
//!
//! Beside the layers there may be packed indexes of layers, the base's among them ([`crate::layer::pack_index`]): who copies
//! files onto an image must know what is in it, and need not have it for that. Very small ones stand in the annotation.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oci_spec::image::ImageManifestBuilder;
use serde::{Deserialize, Serialize};

use super::record::LayerRecord;
use crate::image::{Descriptor, Digest, Manifest, MediaType, media_type};
use crate::plan::{Key, layers_key};

/// The annotation of a manifest.
pub const ANNOTATION: &str = "dev.cofferdam.cache";
/// The annotation of a trace's manifest.
const TRACE: &str = "dev.cofferdam.trace";
/// The version of what stands in it. Another is not read.
const VERSION: u32 = 1;
/// The configuration of every entry. Registries want one, and some refuse those of other types.
pub const CONFIG: &[u8] =
    br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
/// The type of the configuration of BuildKit's registry caches.
const BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The largest index that stands in an entry, in bytes. There is one for each layer, and registries take manifests of 4 MB.
const LARGEST_WITHIN: u64 = 1024;
/// Longest title that is kept, in characters: some are whole scripts.
const LONGEST_TITLE: usize = 200;

/// A step, and the layer it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStep {
    /// The key of the step.
    pub key: Key,
    /// Its layer.
    #[serde(flatten)]
    pub record: LayerRecord,
}

/// A packed index of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedIndex {
    /// The layer whose index it is.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Media type of the blob.
    pub media_type: String,
    /// The blob itself in base64, if it is so small that to ask for it would cost more. Then there is none in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl PackedIndex {
    /// The index of a layer, packed as a blob that is in the repository.
    pub fn new(diff_id: Digest, digest: Digest, size: u64, media_type: &str) -> Self {
        Self { diff_id, digest, size, media_type: media_type.to_owned(), content: None }
    }

    /// Whether it is small enough to stand in the entry.
    pub fn is_small(&self) -> bool {
        self.size <= LARGEST_WITHIN
    }

    /// The same with the blob in it.
    pub fn with_content(self, bytes: &[u8]) -> Self {
        Self { content: Some(BASE64.encode(bytes)), ..self }
    }

    /// The blob, if it is here; nothing if what is here is another.
    pub fn content(&self) -> Option<Vec<u8>> {
        let bytes = BASE64.decode(self.content.as_ref()?).ok()?;
        (Digest::of(&bytes) == self.digest).then_some(bytes)
    }
}

/// The steps from a base on, the lowest first, and the indexes that are beside their layers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chain {
    version: u32,
    /// The steps.
    pub steps: Vec<ChainStep>,
    /// The indexes of their layers, and of those of the base.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<PackedIndex>,
}

/// What a manifest is to a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It has a chain.
    Chain(Chain),
    /// It is a cache of BuildKit.
    BuildKit,
    /// It is something else.
    Other,
}

impl Chain {
    /// A chain.
    pub fn new(mut steps: Vec<ChainStep>, indexes: Vec<PackedIndex>) -> Self {
        for step in &mut steps {
            if let Some((end, _)) = step.record.title.char_indices().nth(LONGEST_TITLE) {
                step.record.title.truncate(end);
            }
            // The chain itself says it.
            step.record.above = None;
        }
        Self { version: VERSION, steps, indexes }
    }

    /// What a manifest is. What it names as layers of steps and does not have is nothing to go by.
    pub fn find(manifest: &[u8]) -> Found {
        let Ok(manifest) = Manifest::parse(manifest, None) else { return Found::Other };
        let manifest = match manifest {
            Manifest::Image(manifest) => manifest,
            Manifest::Index(index) => {
                let is_buildkit = |one: &Descriptor| one.media_type().as_ref() == BUILDKIT;
                return if index.manifests().iter().any(is_buildkit) {
                    Found::BuildKit
                } else {
                    Found::Other
                };
            }
        };
        if manifest.config().media_type().as_ref() == BUILDKIT {
            return Found::BuildKit;
        }
        let text = manifest.annotations().as_ref().and_then(|all| all.get(ANNOTATION));
        let Some(chain) = text.and_then(|text| serde_json::from_str::<Self>(text).ok()) else {
            return Found::Other;
        };
        let has = |digest: &Digest, size: u64| {
            let same = |layer: &Descriptor| {
                layer.size() == size && Digest::try_from(layer.digest()).is_ok_and(|known| known == *digest)
            };
            manifest.layers().iter().any(same)
        };
        let whole = chain.version == VERSION
            && chain.steps.iter().all(|step| has(&step.record.digest, step.record.size));
        if whole { Found::Chain(chain) } else { Found::Other }
    }

    /// The steps, each with what it was made above: those before it.
    pub fn into_steps(self) -> Vec<ChainStep> {
        let mut diff_ids = Vec::with_capacity(self.steps.len());
        let with_place = |mut step: ChainStep| {
            step.record.above = Some(layers_key(&diff_ids));
            diff_ids.push(step.record.diff_id);
            step
        };
        self.steps.into_iter().map(with_place).collect()
    }

    /// As the value of [`ANNOTATION`].
    ///
    /// # Errors
    /// If it cannot be serialised.
    pub fn annotation(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// The manifest of an entry.
    ///
    /// # Errors
    /// If it cannot be serialised.
    pub fn manifest(&self) -> serde_json::Result<Vec<u8>> {
        let layers = self.steps.iter().map(|step| step.record.descriptor());
        let indexes = self.indexes.iter().filter(|index| index.content.is_none()).map(|index| {
            Descriptor::new(MediaType::from(index.media_type.as_str()), index.size, index.digest)
        });
        let mut layers: Vec<Descriptor> = layers.chain(indexes).collect();
        // Some registries count a layer that is named twice as an error.
        let mut seen = std::collections::HashSet::new();
        layers.retain(|layer| seen.insert(layer.digest().to_string()));
        manifest(layers, Some((ANNOTATION, self.annotation()?)))
    }
}

/// The manifest of a trace, which is a layer of one file. If `blob`, the bytes of that layer, are few, they are in it as well: who
/// reads it then need not ask a second time.
///
/// # Errors
/// If it cannot be serialised.
pub fn trace_manifest(layer: Descriptor, blob: Option<&[u8]>) -> serde_json::Result<Vec<u8>> {
    manifest(vec![layer], blob.map(|blob| (TRACE, BASE64.encode(blob))))
}

/// The layer of a trace.
#[derive(Debug, Clone)]
pub struct PackedTrace {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its bytes, if they were in the manifest.
    pub blob: Option<Vec<u8>>,
}

impl PackedTrace {
    /// What a manifest is, if it can be that of a trace.
    pub fn find(manifest: &[u8]) -> Option<Self> {
        let Ok(Manifest::Image(manifest)) = Manifest::parse(manifest, None) else { return None };
        let descriptor = manifest.layers().first()?.clone();
        let text = manifest.annotations().as_ref().and_then(|all| all.get(TRACE));
        let blob = text.and_then(|text| BASE64.decode(text).ok()).filter(|blob| {
            Digest::try_from(descriptor.digest()).is_ok_and(|digest| digest == Digest::of(blob))
        });
        Some(Self { descriptor, blob })
    }
}

/// A manifest of what a cache keeps.
fn manifest(layers: Vec<Descriptor>, annotation: Option<(&str, String)>) -> serde_json::Result<Vec<u8>> {
    let config =
        Descriptor::new(MediaType::from(media_type::OCI_CONFIG), CONFIG.len() as u64, Digest::of(CONFIG));
    let annotations = annotation.into_iter().map(|(name, value)| (name.to_owned(), value));
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(media_type::OCI_MANIFEST)
        .config(config)
        .layers(layers)
        .annotations(annotations.collect::<HashMap<_, _>>())
        .build()
        .map_err(serde::ser::Error::custom)?;
    serde_json::to_vec(&manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::KeyBuilder;

    fn key(name: &str) -> Key {
        KeyBuilder::new(name).finish().0
    }

    fn record(name: &str) -> LayerRecord {
        LayerRecord {
            digest: Digest::of(name.as_bytes()),
            size: name.len() as u64,
            media_type: media_type::OCI_LAYER_GZIP.to_owned(),
            diff_id: Digest::of(format!("diff {name}").as_bytes()),
            compression: "gzip".to_owned(),
            created: "2026-11-21T00:00:00Z".to_owned(),
            made: 1_795_000_000,
            title: format!("RUN {}", name.repeat(100)),
            above: None,
        }
    }

    fn chain() -> Chain {
        let steps = ["a", "bb", "a"].map(|name| ChainStep { key: key(name), record: record(name) });
        let index = |name: &[u8]| {
            PackedIndex::new(Digest::of(b"base"), Digest::of(name), 5, media_type::OCI_LAYER_GZIP)
        };
        let indexes = vec![index(b"index"), index(b"small").with_content(b"small")];
        Chain::new(steps.to_vec(), indexes)
    }

    #[test]
    fn a_chain_comes_back_from_its_manifest() {
        let chain = chain();
        assert!(chain.steps.iter().all(|step| step.record.title.chars().count() <= LONGEST_TITLE));
        let bytes = chain.manifest().unwrap();
        let Found::Chain(found) = Chain::find(&bytes) else { panic!() };
        assert_eq!(found, chain);
        let contents: Vec<_> = found.indexes.iter().map(PackedIndex::content).collect();
        assert_eq!(contents, [None, Some(b"small".to_vec())]);
        // What is in it is in no repository, and is what it is called.
        let other = chain.indexes[0].clone().with_content(b"other");
        assert_eq!(other.content(), None);
        let Ok(Manifest::Image(manifest)) = Manifest::parse(&bytes, None) else { panic!() };
        assert_eq!(manifest.layers().len(), 3, "each blob is named once");
        // Of each step it is known what it was made above, and nothing is said of it twice.
        let ids: Vec<Digest> = chain.steps.iter().map(|step| step.record.diff_id).collect();
        let steps = chain.into_steps();
        for (number, step) in steps.iter().enumerate() {
            assert_eq!(step.record.above, Some(layers_key(&ids[..number])));
        }
        assert_eq!(Chain::new(steps, found.indexes.clone()), found);
    }

    #[test]
    fn what_a_manifest_does_not_have_is_not_believed() {
        let mut chain = chain();
        let whole = String::from_utf8(chain.manifest().unwrap()).unwrap();
        chain.steps[0].record.digest = Digest::of(b"other");
        let annotation = serde_json::to_string(&chain.annotation().unwrap()).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&whole).unwrap();
        value["annotations"][ANNOTATION] = serde_json::from_str(&annotation).unwrap();
        assert_eq!(Chain::find(&serde_json::to_vec(&value).unwrap()), Found::Other);
        // Neither is what a later version says.
        let later = whole.replace(r#"{\"version\":1"#, r#"{\"version\":2"#);
        assert_ne!(later, whole);
        assert_eq!(Chain::find(later.as_bytes()), Found::Other);
        assert_eq!(Chain::find(b"{}"), Found::Other);
    }

    #[test]
    fn a_trace_comes_with_its_manifest_or_is_asked_for() {
        let layer = Descriptor::new(MediaType::from(media_type::OCI_LAYER_GZIP), 5, Digest::of(b"trace"));
        let find =
            |blob: Option<&[u8]>| PackedTrace::find(&trace_manifest(layer.clone(), blob).unwrap()).unwrap();
        assert_eq!(find(Some(b"trace")).blob, Some(b"trace".to_vec()));
        assert_eq!((find(None).blob, find(None).descriptor), (None, layer.clone()));
        assert_eq!(find(Some(b"other")).blob, None);
        assert!(PackedTrace::find(b"{}").is_none());
    }

    #[test]
    fn a_cache_of_buildkit_is_known_for_one() {
        let digest = Digest::of(b"x");
        let descriptor = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":1}}"#);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[]}}"#,
            media_type::OCI_MANIFEST,
            descriptor(BUILDKIT)
        );
        assert_eq!(Chain::find(manifest.as_bytes()), Found::BuildKit);
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
            media_type::OCI_INDEX,
            descriptor(media_type::OCI_LAYER_GZIP),
            descriptor(BUILDKIT)
        );
        assert_eq!(Chain::find(index.as_bytes()), Found::BuildKit);
    }
}
