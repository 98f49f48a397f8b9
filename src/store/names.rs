//! Names of images: the entries of `index.json`.
//!
//! A name is written the way other tools look for it: `org.opencontainers.image.ref.name` has what
//! `oci:DIR:NAME` is matched with (image specification, "Pre-Defined Annotation Keys"; its grammar allows
//! whole references), and `io.containerd.image.name` has the full reference, as containerd and BuildKit write
//! and import it. Entries and keys this program does not know stay as they are.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;

use serde_json::{Map, Value, json};

use super::Store;
use super::error::{At, StoreError};
use super::temp::{self, Durable};
use crate::image::{Descriptor, Digest, Manifest, Reference, media_type};

/// What `oci:DIR:NAME` names.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name, in containerd's convention.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Registries take manifests up to 4 MiB (distribution specification, "Pushing Manifests"); nothing larger in
/// a layout is one.
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
/// How deep indexes may nest. None in use nests deeper than an index in an index.
pub(super) const MAX_NESTING: usize = 8;

/// An image with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The name as other tools find it.
    pub name: String,
    /// The reference, if the name is one.
    pub reference: Option<Reference>,
    /// The manifest or index.
    pub descriptor: Descriptor,
}

/// A blob that an image is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub digest: Digest,
    pub size: u64,
}

impl Store {
    /// Gives the image of `descriptor` the name `reference` (without its digest, if it has one; `latest`
    /// where it has no tag), taking it from the image that had it. When this returns, the image and its name
    /// survive a loss of power.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if a blob of the image is not in the store.
    pub fn tag(&self, reference: &Reference, descriptor: &Descriptor) -> Result<(), StoreError> {
        let reference = without_digest(reference);
        let name = reference.familiar();
        let parts = self.complete_parts(&name, descriptor)?;
        self.sync_parts(&parts)?;
        let mut entry = serde_json::to_value(descriptor)
            .map_err(|source| StoreError::Json { path: self.index_path(), source })?;
        if let Some(object) = entry.as_object_mut() {
            let annotations = object.entry("annotations").or_insert_with(|| json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(REF_NAME.to_owned(), json!(name));
                annotations.insert(CONTAINERD_NAME.to_owned(), json!(reference.to_string()));
            }
        }
        self.edit_index(|manifests| {
            manifests.retain(|manifest| !is_named(manifest, &reference));
            manifests.push(entry);
            true
        })?;
        Ok(())
    }

    /// Takes a name away; the image's blobs stay until a prune. Says whether the name was there.
    ///
    /// # Errors
    /// If the index cannot be read or written.
    pub fn untag(&self, reference: &Reference) -> Result<bool, StoreError> {
        let reference = without_digest(reference);
        self.edit_index(|manifests| {
            let before = manifests.len();
            manifests.retain(|manifest| !is_named(manifest, &reference));
            manifests.len() != before
        })
    }

    /// The image of a name.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, StoreError> {
        let reference = without_digest(reference);
        let index = self.read_index()?;
        // Of two entries of one name, which the specification allows, tools take the last.
        let found = manifests(&index).iter().rev().find(|manifest| is_named(manifest, &reference));
        found.map(|manifest| self.descriptor(manifest)).transpose()
    }

    /// Every named image, in the order of the index.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub fn names(&self) -> Result<Vec<Named>, StoreError> {
        let index = self.read_index()?;
        manifests(&index)
            .iter()
            .filter_map(|manifest| {
                let full = annotation(manifest, CONTAINERD_NAME);
                let name = annotation(manifest, REF_NAME).or(full)?;
                let reference = full.unwrap_or(name).parse().ok();
                Some(self.descriptor(manifest).map(|descriptor| Named {
                    name: name.to_owned(),
                    reference,
                    descriptor,
                }))
            })
            .collect()
    }

    /// The descriptors of the index, named or not: what is to be kept.
    pub(super) fn roots(&self) -> Result<Vec<Descriptor>, StoreError> {
        let index = self.read_index()?;
        manifests(&index).iter().map(|manifest| self.descriptor(manifest)).collect()
    }

    /// Takes images out of the index, by the digests of their manifests. Says how many entries it had.
    pub(super) fn forget(&self, images: &HashSet<Digest>) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        self.edit_index(|manifests| {
            let before = manifests.len();
            manifests.retain(|manifest| {
                let digest =
                    manifest.get("digest").and_then(Value::as_str).and_then(|text| text.parse().ok());
                digest.is_none_or(|digest: Digest| !images.contains(&digest))
            });
            forgotten = before - manifests.len();
            forgotten > 0
        })?;
        Ok(forgotten as u64)
    }

    pub(super) fn lock_names(&self) -> Result<File, StoreError> {
        let path = self.ours("names.lock");
        let file = temp::open_lock(&path).at("open", &path)?;
        temp::exclusive(&file, &path)?;
        Ok(file)
    }

    /// Every blob that an image is made of, all of them seen to be there.
    fn complete_parts(&self, name: &str, descriptor: &Descriptor) -> Result<BTreeSet<Part>, StoreError> {
        let mut parts = BTreeSet::new();
        let mut open = vec![(part(descriptor, self)?, descriptor.media_type().to_string(), 0)];
        while let Some((part, kind, depth)) = open.pop() {
            if !self.holds(&part.digest, part.size)? {
                return Err(StoreError::Incomplete { name: name.to_owned(), missing: part.digest });
            }
            if !parts.insert(part) || !media_type::MANIFESTS.contains(&kind.as_str()) || depth > MAX_NESTING {
                continue;
            }
            let bytes = self.read(&part.digest, MAX_MANIFEST)?;
            let manifest = Manifest::parse(&bytes, Some(&kind))
                .map_err(|source| StoreError::Manifest { digest: part.digest, source })?;
            for child in children(&manifest) {
                open.push((self::part(child, self)?, child.media_type().to_string(), depth + 1));
            }
        }
        Ok(parts)
    }

    fn sync_parts(&self, parts: &BTreeSet<Part>) -> Result<(), StoreError> {
        for part in parts {
            let path = self.path(&part.digest);
            // For a file that is on the disk already this is one system call.
            File::open(&path).and_then(|file| file.sync_all()).at("sync", &path)?;
        }
        temp::sync_directory(&self.blobs())
    }

    /// Changes the list of manifests under the lock of the names. `edit` says whether it changed anything,
    /// and so does this.
    fn edit_index(&self, edit: impl FnOnce(&mut Vec<Value>) -> bool) -> Result<bool, StoreError> {
        let _lock = self.lock_names()?;
        let mut index = self.read_index()?;
        let list = index.entry("manifests").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        let changed = list.as_array_mut().is_some_and(edit);
        if changed {
            let path = self.index_path();
            let bytes = serde_json::to_vec(&index)
                .map_err(|source| StoreError::Json { path: path.clone(), source })?;
            temp::replace(&path, &self.temporary(), &bytes, Durable::Power)?;
        }
        Ok(changed)
    }

    fn read_index(&self) -> Result<Map<String, Value>, StoreError> {
        let path = self.index_path();
        let bytes = std::fs::read(&path).at("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::Json { path, source })
    }

    fn descriptor(&self, manifest: &Value) -> Result<Descriptor, StoreError> {
        serde_json::from_value(manifest.clone())
            .map_err(|source| StoreError::Json { path: self.index_path(), source })
    }
}

/// What a manifest refers to.
pub(super) fn children(manifest: &Manifest) -> Vec<&Descriptor> {
    match manifest {
        Manifest::Image(image) => std::iter::once(image.config()).chain(image.layers()).collect(),
        Manifest::Index(index) => index.manifests().iter().collect(),
    }
}

/// The blob of a descriptor. No registry and no layout in use has other digests than SHA-256.
pub(super) fn part(descriptor: &Descriptor, store: &Store) -> Result<Part, StoreError> {
    let digest = Digest::try_from(descriptor.digest()).map_err(|error| StoreError::Json {
        path: store.index_path(),
        source: serde::de::Error::custom(error),
    })?;
    Ok(Part { digest, size: descriptor.size() })
}

fn manifests(index: &Map<String, Value>) -> &[Value] {
    index.get("manifests").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn annotation<'a>(manifest: &'a Value, key: &str) -> Option<&'a str> {
    manifest.get("annotations")?.get(key)?.as_str()
}

/// Whether an entry of the index has this name. An entry that another tool made has only the short
/// annotation, with the name as the user typed it.
fn is_named(manifest: &Value, reference: &Reference) -> bool {
    let full = reference.to_string();
    match annotation(manifest, CONTAINERD_NAME) {
        Some(name) => name == full,
        None => {
            annotation(manifest, REF_NAME).is_some_and(|name| name == full || name == reference.familiar())
        }
    }
}

fn without_digest(reference: &Reference) -> Reference {
    let tag = reference.tag().unwrap_or("latest");
    // The tag was one in `reference`, and `latest` is one.
    reference.repository().tagged(tag).unwrap_or_else(|_| reference.clone())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::image::{ImageConfig, Platform};
    use crate::store::tests::store;

    /// An image of one layer in `store`.
    pub(in crate::store) fn image(store: &Store, layer: &[u8]) -> Descriptor {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let mut config = ImageConfig::scratch(&platform);
        config.rootfs.diff_ids.push(Digest::of(layer));
        let config = store.put(&serde_json::to_vec(&config).unwrap()).unwrap();
        let layer = store.put(layer).unwrap();
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": {"mediaType": media_type::OCI_CONFIG, "digest": config.digest, "size": config.size},
            "layers": [{"mediaType": media_type::OCI_LAYER, "digest": layer.digest, "size": layer.size}]});
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let manifest = store.put(&bytes).unwrap();
        Descriptor::new(
            media_type::OCI_MANIFEST.into(),
            manifest.size,
            oci_spec::image::Digest::from(manifest.digest),
        )
    }

    pub(in crate::store) fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_found_moved_listed_and_removed() {
        let (_directory, store) = store();
        let (first, second) = (image(&store, b"one"), image(&store, b"two"));
        store.tag(&name("app:v1"), &first).unwrap();
        store.tag(&name("registry.example:5000/app"), &first).unwrap();
        store.tag(&name("docker.io/library/app:v1"), &second).unwrap();
        let names: Vec<_> =
            store.names().unwrap().into_iter().map(|named| (named.name, named.reference)).collect();
        assert_eq!(
            names,
            [
                (
                    "registry.example:5000/app:latest".to_owned(),
                    Some(name("registry.example:5000/app:latest"))
                ),
                ("app:v1".to_owned(), Some(name("docker.io/library/app:v1")))
            ]
        );
        let found = store.resolve(&name("app:v1")).unwrap().unwrap();
        assert_eq!(found.digest(), second.digest());
        assert_eq!(found.size(), second.size());
        assert!(store.untag(&name("app:v1")).unwrap());
        assert!(!store.untag(&name("app:v1")).unwrap());
        assert_eq!(store.resolve(&name("app:v1")).unwrap(), None);
        assert!(store.resolve(&name("registry.example:5000/app")).unwrap().is_some());
    }

    #[test]
    fn carries_the_annotations_other_tools_look_for() {
        let (_directory, store) = store();
        let image = image(&store, b"one");
        let pinned = name("app:v1").pinned(Digest::of(b"x"));
        store.tag(&pinned, &image).unwrap();
        let index: Value = serde_json::from_slice(&std::fs::read(store.index_path()).unwrap()).unwrap();
        assert_eq!(
            index["manifests"][0]["annotations"],
            json!({REF_NAME: "app:v1", CONTAINERD_NAME: "docker.io/library/app:v1"})
        );
    }

    #[test]
    fn keeps_what_other_tools_have_written() {
        let (_directory, store) = store();
        let image = image(&store, b"one");
        let theirs = json!({"mediaType": media_type::OCI_MANIFEST, "digest": image.digest(), "size": image.size(),
            "annotations": {REF_NAME: "stable"}, "com.example.key": [1]});
        let index = json!({"schemaVersion": 2, "manifests": [theirs], "com.example.top": "kept"});
        std::fs::write(store.index_path(), index.to_string()).unwrap();
        store.tag(&name("app"), &image).unwrap();
        let after: Value = serde_json::from_slice(&std::fs::read(store.index_path()).unwrap()).unwrap();
        assert_eq!(after["manifests"][0], theirs);
        assert_eq!(after["com.example.top"], "kept");
        assert_eq!(store.names().unwrap()[0].name, "stable");
        store.tag(&name("stable:latest"), &image).unwrap();
        assert_eq!(
            store.names().unwrap().len(),
            3,
            "`stable` is no reference with a tag, so it is another name"
        );
    }

    #[test]
    fn refuses_an_image_of_which_a_part_is_missing() {
        let (_directory, store) = store();
        let complete = image(&store, b"one");
        let layer = Digest::of(b"one");
        std::fs::write(store.path(&layer), b"on").unwrap();
        let error = store.tag(&name("app"), &complete).unwrap_err();
        assert!(
            matches!(error, StoreError::Incomplete { missing, .. } if missing == layer),
            "torn is missing"
        );
        std::fs::remove_file(store.path(&layer)).unwrap();
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [complete]});
        let index = store.put(&serde_json::to_vec(&index).unwrap()).unwrap();
        let digest = oci_spec::image::Digest::from(index.digest);
        let index = Descriptor::new(media_type::OCI_INDEX.into(), index.size, digest);
        let error = store.tag(&name("app"), &index).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`app:latest` cannot be tagged: blob {layer} of its image is not in the store")
        );
        assert!(store.names().unwrap().is_empty());
        store.put(b"one").unwrap();
        store.tag(&name("app"), &index).unwrap();
    }
}
