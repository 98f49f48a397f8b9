//! Is an image, anywhere, what it says it is? Every digest, size and diff ID is computed again.

use std::path::Path;

use super::error::{BuildError, ImageFault};
use super::fetch::{Fetcher, blocking};
use super::layers::Layer;
use super::layout::{REF_NAME, unreadable};
use super::request::Services;
use crate::image::{Descriptor, Digest, ImageConfig, ImageIndex, Manifest, Platform, Reference};
use crate::layer::LayerReader;
use crate::registry::{ErrorKind, with_causes};
use crate::store::Store;

/// What was checked, and what is wrong.
#[derive(Debug, Default)]
pub struct Validation {
    /// Images that were checked: their name or digest.
    pub images: Vec<String>,
    /// Blobs that were read.
    pub blobs: usize,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is wrong, as sentences.
    pub faults: Vec<String>,
}

/// Checks an image on a registry: every platform of it. Each blob comes from the registry, whatever this machine has of it.
///
/// # Errors
/// If it cannot be read at all; that it is wrong is in the result.
pub async fn reference(name: &Reference, services: &Services) -> Result<Validation, BuildError> {
    let mut validation = Validation::default();
    // A store of its own: what is in the other one says nothing of the registry.
    let workspace = services.store.workspace()?;
    let store = Store::open(workspace.path().join("blobs"))?;
    let fetcher = Fetcher::new(&store, &services.client, &services.report);
    let mut open = vec![(name.clone(), None::<Descriptor>)];
    while let Some((name, described)) = open.pop() {
        let fetched = services.client.manifest(&name).await?;
        validation.document(&name.to_string(), &fetched.bytes, described.as_ref());
        match Manifest::parse(&fetched.bytes, Some(&fetched.media_type)) {
            Err(error) => validation.faults.push(format!("the manifest of `{name}`: {error}")),
            Ok(Manifest::Index(index)) => {
                for descriptor in index.manifests() {
                    match Digest::try_from(descriptor.digest()) {
                        Ok(digest) => open.push((name.repository().at(digest), Some(descriptor.clone()))),
                        Err(error) => validation.faults.push(format!("the index `{name}`: {error}")),
                    }
                }
            }
            Ok(Manifest::Image(manifest)) => {
                let fault = |source: ImageFault| BuildError::Image { name: name.to_string(), source };
                let described = manifest.config();
                let digest = Digest::try_from(described.digest()).map_err(|error| fault(error.into()))?;
                let config = services.client.blob_bytes(name.repository(), digest, described.size()).await;
                let what = format!("the configuration of `{name}`");
                let Some(config) = validation.brought(&what, config.map_err(BuildError::from))? else {
                    continue;
                };
                let Some(config) = validation.config(&name.to_string(), &config, described) else { continue };
                let image = crate::plan::BaseImage {
                    name: name.to_string(),
                    digest: fetched.digest,
                    config,
                    layers: manifest.layers().clone(),
                };
                match Layer::of_image(&image, Some(name.repository())) {
                    Err(error) => validation.faults.push(with_causes(&error)),
                    Ok(layers) => {
                        for layer in layers {
                            let what = format!("layer {}", layer.digest);
                            let Some(()) = validation.brought(&what, fetcher.fetch(&layer).await)? else {
                                continue;
                            };
                            let file = store.open_blob(&layer.digest)?;
                            validation = blocking(move || {
                                validation.layer(&layer, file);
                                Ok(validation)
                            })
                            .await?;
                        }
                    }
                }
                validation.images.push(name.to_string());
            }
        }
    }
    Ok(validation)
}

/// Checks every image of a layout.
///
/// # Errors
/// If it cannot be read at all.
pub async fn layout(directory: &Path) -> Result<Validation, BuildError> {
    let directory = directory.to_owned();
    blocking(move || check_layout(&directory)).await
}

fn check_layout(directory: &Path) -> Result<Validation, BuildError> {
    let input = |source| unreadable(directory, source);
    let index = std::fs::read(directory.join("index.json")).map_err(input)?;
    let index: ImageIndex = serde_json::from_slice(&index).map_err(|error| BuildError::Image {
        name: directory.display().to_string(),
        source: ImageFault::Manifest(error.into()),
    })?;
    let mut validation = Validation::default();
    if !directory.join("oci-layout").is_file() {
        validation.faults.push("the file `oci-layout` is missing".to_owned());
    }
    let mut open: Vec<Descriptor> = index.manifests().clone();
    while let Some(descriptor) = open.pop() {
        let annotations = descriptor.annotations().as_ref();
        let name = annotations.and_then(|known| known.get(REF_NAME)).cloned();
        let name = name.unwrap_or_else(|| descriptor.digest().to_string());
        let Some(bytes) = validation.read(directory, &descriptor) else { continue };
        match Manifest::parse(&bytes, None) {
            Err(error) => validation.faults.push(format!("the manifest of `{name}`: {error}")),
            Ok(Manifest::Index(inner)) => open.extend(inner.manifests().iter().cloned()),
            Ok(Manifest::Image(manifest)) => {
                validation.images.push(name.clone());
                let Some(config) = validation.read(directory, manifest.config()) else { continue };
                let Some(config) = validation.config(&name, &config, manifest.config()) else { continue };
                let image = crate::plan::BaseImage {
                    name,
                    digest: Digest::of(&bytes),
                    config,
                    layers: manifest.layers().clone(),
                };
                match Layer::of_image(&image, None) {
                    Err(error) => validation.faults.push(with_causes(&error)),
                    Ok(layers) => {
                        for layer in layers {
                            let path = directory.join("blobs/sha256").join(layer.digest.hex());
                            match std::fs::File::open(&path) {
                                Ok(file) => validation.layer(&layer, file),
                                Err(error) => {
                                    validation.faults.push(format!("blob {}: {error}", layer.digest))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(validation)
}

impl Validation {
    /// Whether nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }

    /// What came from the registry. That a blob is not there, or not what its digest says, is a fault of the image and
    /// gives nothing.
    fn brought<T>(&mut self, what: &str, outcome: Result<T, BuildError>) -> Result<Option<T>, BuildError> {
        match outcome {
            Ok(brought) => Ok(Some(brought)),
            Err(BuildError::Registry(error))
                if matches!(error.kind(), ErrorKind::Integrity | ErrorKind::NotFound) =>
            {
                self.faults.push(format!("{what}: {error}"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A manifest or configuration against its descriptor.
    fn document(&mut self, name: &str, bytes: &[u8], described: Option<&Descriptor>) {
        self.blobs += 1;
        self.bytes += bytes.len() as u64;
        let Some(described) = described else { return };
        let digest = Digest::of(bytes);
        if described.digest().to_string() != digest.to_string() {
            self.faults.push(format!("`{name}`: its digest is {digest}, not {}", described.digest()));
        }
        if described.size() != bytes.len() as u64 {
            self.faults.push(format!("`{name}`: it has {} bytes, not {}", bytes.len(), described.size()));
        }
    }

    fn read(&mut self, directory: &Path, descriptor: &Descriptor) -> Option<Vec<u8>> {
        let name = descriptor.digest().to_string();
        let digest = match Digest::try_from(descriptor.digest()) {
            Ok(digest) => digest,
            Err(error) => {
                self.faults.push(error.to_string());
                return None;
            }
        };
        match std::fs::read(directory.join("blobs/sha256").join(digest.hex())) {
            Ok(bytes) => {
                self.document(&name, &bytes, Some(descriptor));
                Some(bytes)
            }
            Err(error) => {
                self.faults.push(format!("blob {name}: {error}"));
                None
            }
        }
    }

    fn config(&mut self, name: &str, bytes: &[u8], described: &Descriptor) -> Option<ImageConfig> {
        self.document(&format!("the configuration of {name}"), bytes, Some(described));
        match serde_json::from_slice::<ImageConfig>(bytes) {
            Ok(config) => {
                let Platform { os, architecture, .. } = config.platform();
                if os.is_empty() || architecture.is_empty() {
                    self.faults.push(format!("the configuration of `{name}` names no platform"));
                }
                Some(config)
            }
            Err(error) => {
                self.faults.push(format!("the configuration of `{name}`: {error}"));
                None
            }
        }
    }

    fn layer(&mut self, layer: &Layer, file: std::fs::File) {
        self.blobs += 1;
        let checked = LayerReader::new(file).and_then(LayerReader::finish);
        match checked {
            Err(error) => self.faults.push(format!("layer {}: {}", layer.digest, with_causes(&error))),
            Ok(end) => {
                self.bytes += end.size;
                if end.digest != layer.digest {
                    self.faults.push(format!("layer {}: its digest is {}", layer.digest, end.digest));
                }
                if end.size != layer.size {
                    self.faults.push(format!(
                        "layer {}: it has {} bytes, not {}",
                        layer.digest, end.size, layer.size
                    ));
                }
                if end.diff_id != layer.diff_id {
                    let (found, said) = (end.diff_id, layer.diff_id);
                    self.faults.push(format!("layer {}: its diff ID is {found}, not {said}", layer.digest));
                }
            }
        }
    }
}
