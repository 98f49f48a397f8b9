//! Base images: from a name to a manifest, a configuration and layers.
//!
//! Manifests and configurations go through the store, so that what has not changed is not fetched again: for a tag that
//! was seen before, one question to the registry is enough.

use std::path::Path;

use super::error::{BuildError, ImageFault};
use super::layers::Layer;
use super::layout;
use super::request::{NamedContext, Selector, Services};
use crate::cache::TAGS;
use crate::image::{Digest, ImageConfig, ImageManifest, Manifest, Platform, Reference, Repository};
use crate::plan::{BaseImage, ImageName};

/// Indexes in indexes are legal, and nobody nests them deeper.
const DEEPEST_INDEX: usize = 4;
/// Largest manifest or configuration that is read into memory, in bytes.
const LARGEST_DOCUMENT: u64 = 32 << 20;

/// An image, found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What the planner needs to know.
    pub image: BaseImage,
    /// Its layers.
    pub layers: Vec<Layer>,
}

impl Services {
    /// Finds an image.
    ///
    /// # Errors
    /// If there is none, none for the platform, or it cannot be used.
    pub(super) async fn find_image(
        &self,
        name: &ImageName,
        platform: &Platform,
        contexts: &[(String, NamedContext)],
    ) -> Result<Found, BuildError> {
        match name {
            ImageName::Registry(reference) => self.find_on_registry(reference, platform).await,
            ImageName::Layout(context) => {
                let known = contexts.iter().find(|(known, _)| known == context);
                let Some((_, NamedContext::Layout { directory, selector })) = known else {
                    return Err(BuildError::refused(format!("there is no named context `{context}`")));
                };
                self.find_in_layout(directory, selector, platform).await
            }
        }
    }

    async fn find_on_registry(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Found, BuildError> {
        let name = reference.familiar();
        let fault = |source: ImageFault| BuildError::Image { name: name.clone(), source };
        let mut next = reference.clone();
        for _ in 0..DEEPEST_INDEX {
            let (bytes, digest) = self.manifest(&next).await?;
            match Manifest::parse(&bytes, None).map_err(|error| fault(error.into()))? {
                Manifest::Image(manifest) => {
                    return self.image(&name, digest, &manifest, Some(reference.repository())).await;
                }
                Manifest::Index(index) => {
                    let Some(chosen) = crate::image::select(&index, platform) else {
                        // The registry room says best which platforms there are.
                        self.client.resolve(&next, platform).await?;
                        return Err(BuildError::NotFound {
                            what: format!("`{name}` has no image for {platform}"),
                        });
                    };
                    let digest = Digest::try_from(chosen.digest()).map_err(|error| fault(error.into()))?;
                    next = reference.repository().at(digest);
                }
            }
        }
        Err(BuildError::refused(format!("the indexes of `{name}` lie in each other too deep")))
    }

    /// A manifest, from the store if the registry says that it is still the one.
    async fn manifest(&self, reference: &Reference) -> Result<(Vec<u8>, Digest), BuildError> {
        let key = Digest::of(reference.to_string().as_bytes()).hex();
        let known: Option<Digest> = match reference.digest() {
            Some(digest) => Some(digest),
            None => self.store.record(TAGS, &key)?,
        };
        if let Some(digest) = known
            && self.store.has(&digest)?
        {
            let current = match reference.digest() {
                Some(_) => true,
                None => self.client.head_manifest(reference).await?.is_some_and(|head| head.digest == digest),
            };
            if current {
                return Ok((self.store.read(&digest, LARGEST_DOCUMENT)?, digest));
            }
        }
        let fetched = self.client.manifest(reference).await?;
        self.store.put(&fetched.bytes)?;
        if reference.digest().is_none() {
            self.store.put_record(TAGS, &key, &fetched.digest)?;
        }
        Ok((fetched.bytes.to_vec(), fetched.digest))
    }

    async fn image(
        &self,
        name: &str,
        digest: Digest,
        manifest: &ImageManifest,
        repository: Option<&Repository>,
    ) -> Result<Found, BuildError> {
        let fault = |source: ImageFault| BuildError::Image { name: name.to_owned(), source };
        let described = manifest.config();
        let config_digest = Digest::try_from(described.digest()).map_err(|error| fault(error.into()))?;
        if !self.store.holds(&config_digest, described.size())?
            && let Some(repository) = repository
        {
            let bytes = self.client.blob_bytes(repository, config_digest, described.size()).await?;
            self.store.put(&bytes)?;
        }
        let bytes = self.store.read(&config_digest, LARGEST_DOCUMENT)?;
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|error| fault(ImageFault::Config(error)))?;
        let image = BaseImage { name: name.to_owned(), digest, config, layers: manifest.layers().clone() };
        let layers = Layer::of_image(&image, repository)?;
        Ok(Found { image, layers })
    }

    /// Takes an image from a layout of somebody else's into the store.
    async fn find_in_layout(
        &self,
        directory: &Path,
        selector: &Selector,
        platform: &Platform,
    ) -> Result<Found, BuildError> {
        let (store, path) = (self.store.clone(), directory.to_owned());
        let (selector, wanted) = (selector.clone(), platform.clone());
        let import = move || layout::import(&store, &path, &selector, &wanted);
        let (digest, manifest) = super::fetch::blocking(import).await?;
        let name = format!("oci-layout://{}", directory.display());
        self.image(&name, digest, &manifest, None).await
    }
}
