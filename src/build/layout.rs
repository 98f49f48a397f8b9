//! OCI image layouts of others: read, and written.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::error::{BuildError, ImageFault};
use super::request::Selector;
use crate::image::{Descriptor, Digest, ImageIndex, ImageManifest, Manifest, Platform, select};
use crate::store::Store;

/// The annotation that names an image in a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which containerd names one.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Takes an image of the layout `directory` into the store: manifest, configuration and layers. Gives the manifest.
///
/// # Errors
/// If there is no such image, or a blob is not what its name says.
pub(super) fn import(
    store: &Store,
    directory: &Path,
    selector: &Selector,
    platform: &Platform,
) -> Result<(Digest, ImageManifest), BuildError> {
    let name = format!("oci-layout://{}", directory.display());
    let fault = |source: ImageFault| BuildError::Image { name: name.clone(), source };
    let input = |source: io::Error| unreadable(directory, source);
    let index = fs::read(directory.join("index.json")).map_err(input)?;
    let index: ImageIndex =
        serde_json::from_slice(&index).map_err(|error| fault(ImageFault::Manifest(error.into())))?;
    let mut descriptor = choose(&index, selector, platform).ok_or_else(|| {
        let known: Vec<String> = index.manifests().iter().map(shown).collect();
        fault(ImageFault::NotInLayout { known: known.join(", ") })
    })?;
    loop {
        let digest = copy(store, directory, &descriptor)?;
        let bytes = store.read(&digest, descriptor.size())?;
        match Manifest::parse(&bytes, None).map_err(|error| fault(error.into()))? {
            Manifest::Image(manifest) => {
                copy(store, directory, manifest.config())?;
                for layer in manifest.layers() {
                    copy(store, directory, layer)?;
                }
                return Ok((digest, *manifest));
            }
            Manifest::Index(inner) => {
                let chosen = select(&inner, platform);
                descriptor = chosen.cloned().ok_or_else(|| BuildError::NotFound {
                    what: format!("`{name}` has no image for {platform}"),
                })?;
            }
        }
    }
}

/// A layout that cannot be read.
pub(super) fn unreadable(directory: &Path, source: io::Error) -> BuildError {
    BuildError::Input {
        what: format!("cannot read the OCI layout `{}`", directory.display()),
        source: Some(source),
        hint: None,
    }
}

fn choose(index: &ImageIndex, selector: &Selector, platform: &Platform) -> Option<Descriptor> {
    let manifests = index.manifests();
    if let Some(digest) = &selector.digest {
        let digest = digest.to_string();
        return manifests.iter().find(|descriptor| descriptor.digest().as_ref() == digest).cloned();
    }
    let Some(selector) = &selector.name else {
        return match manifests.as_slice() {
            [one] => Some(one.clone()),
            _ => select(index, platform).cloned(),
        };
    };
    manifests.iter().find(|descriptor| is_named(descriptor, selector)).cloned()
}

/// Whether an entry of a layout has this name.
pub(super) fn is_named(descriptor: &Descriptor, name: &str) -> bool {
    let annotations = descriptor.annotations().as_ref();
    let of = |key: &str| annotations.and_then(|known| known.get(key)).map(String::as_str);
    of(REF_NAME) == Some(name) || of(CONTAINERD_NAME) == Some(name)
}

/// What an entry of a layout is called; its digest, if it has no name.
pub(super) fn shown(descriptor: &Descriptor) -> String {
    let annotations = descriptor.annotations().as_ref();
    let name = annotations.and_then(|known| known.get(REF_NAME));
    name.cloned().unwrap_or_else(|| descriptor.digest().to_string())
}

/// Copies a blob into the store, which checks it.
fn copy(store: &Store, directory: &Path, descriptor: &Descriptor) -> Result<Digest, BuildError> {
    let fault = |source: ImageFault| BuildError::Image { name: directory.display().to_string(), source };
    let digest = Digest::try_from(descriptor.digest()).map_err(|error| fault(error.into()))?;
    if store.holds(&digest, descriptor.size())? {
        return Ok(digest);
    }
    let path = directory.join("blobs/sha256").join(digest.hex());
    let input = |source: io::Error| unreadable(directory, source);
    let mut file = File::open(&path).map_err(input)?;
    let mut writer = store.writer()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(input)?;
        if count == 0 {
            break;
        }
        writer.append(buffer.get(..count).unwrap_or_default())?;
    }
    writer.commit_as(&digest, Some(descriptor.size()))?;
    Ok(digest)
}
