//! Results of steps on a registry: one repository, one tag a key.

use bytes::Bytes;

use super::chain::{Chain, Found, PackedTrace};
use crate::image::{Platform, Reference, Repository, media_type};
use crate::plan::Key;
use crate::registry::{Client, RegistryError};

/// The results that are in one repository.
#[derive(Debug, Clone)]
pub struct RegistryCache {
    client: Client,
    repository: Repository,
}

impl RegistryCache {
    /// The cache in `repository`.
    pub fn new(client: &Client, repository: &Repository) -> Self {
        Self { client: client.clone(), repository: repository.clone() }
    }

    /// Where it is.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The chain up to the step of a key.
    ///
    /// # Errors
    /// Whatever kept the registry from being asked.
    pub async fn chain(&self, key: &Key) -> Result<Option<Chain>, RegistryError> {
        let Some(reference) = self.tagged(key) else { return Ok(None) };
        match self.client.manifest(&reference).await {
            Ok(manifest) => match Chain::find(&manifest.bytes) {
                Found::Chain(chain) => Ok(Some(chain)),
                Found::BuildKit | Found::Other => Ok(None),
            },
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is an entry of a key. If that cannot be found out, there is none.
    pub async fn has(&self, key: &Key) -> bool {
        match self.tagged(key) {
            Some(reference) => matches!(self.client.head_manifest(&reference).await, Ok(Some(_))),
            None => false,
        }
    }

    /// Makes the manifest of a chain ([`super::Chain::manifest`]) the entry of a key. Its blobs and the configuration
    /// ([`super::CONFIG`]) have to be there.
    ///
    /// # Errors
    /// Whatever the registry has against it.
    pub async fn put(&self, key: &Key, manifest: Vec<u8>) -> Result<(), RegistryError> {
        match self.tagged(key) {
            Some(reference) => self.put_manifest(&reference, manifest).await,
            None => Ok(()),
        }
    }

    /// The keys that there are entries of.
    ///
    /// # Errors
    /// Whatever kept the registry from being asked. That there is no such repository is none.
    pub async fn keys(&self) -> Result<Vec<Key>, RegistryError> {
        match self.client.tags(&self.repository).await {
            Ok(tags) => Ok(tags.iter().filter_map(|tag| tag.parse().ok()).collect()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Removes the entry of a key, and those of other keys that have the same result.
    ///
    /// # Errors
    /// Whatever the registry has against it. That there is no such entry is none.
    pub async fn remove(&self, key: &Key) -> Result<(), RegistryError> {
        let Some(reference) = self.tagged(key) else { return Ok(()) };
        let Some(head) = self.client.head_manifest(&reference).await? else { return Ok(()) };
        match self.client.delete_manifest(&self.repository, head.digest).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// What an image of the repository has of its own steps.
    ///
    /// # Errors
    /// Whatever kept the registry from being asked. That there is no such image is none.
    pub async fn of_image(&self, image: &Reference, platform: &Platform) -> Result<Found, RegistryError> {
        let manifest = match self.client.manifest(image).await {
            Ok(manifest) => manifest,
            Err(error) if error.is_not_found() => return Ok(Found::Other),
            Err(error) => return Err(error),
        };
        match Chain::find(&manifest.bytes) {
            Found::Other if is_index(&manifest.media_type) => {
                match self.client.resolve(image, platform).await {
                    Ok(resolved) => Ok(Chain::find(&resolved.bytes)),
                    // It has none for this platform.
                    Err(error) if error.kind() == crate::registry::ErrorKind::Platform => Ok(Found::Other),
                    Err(error) => Err(error),
                }
            }
            found => Ok(found),
        }
    }

    /// The trace that is called `tag`.
    ///
    /// # Errors
    /// Whatever kept the registry from being asked.
    pub async fn trace(&self, tag: &str) -> Result<Option<PackedTrace>, RegistryError> {
        let Ok(reference) = self.repository.tagged(tag) else { return Ok(None) };
        match self.client.manifest(&reference).await {
            Ok(manifest) => Ok(PackedTrace::find(&manifest.bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls a manifest `tag` ([`super::trace_manifest`]). Its layer and the configuration have to be there.
    ///
    /// # Errors
    /// Whatever the registry has against it.
    pub async fn put_trace(&self, tag: &str, manifest: Vec<u8>) -> Result<(), RegistryError> {
        match self.repository.tagged(tag) {
            Ok(reference) => self.put_manifest(&reference, manifest).await,
            // A trace is called such as is always a tag.
            Err(_) => Ok(()),
        }
    }

    async fn put_manifest(&self, reference: &Reference, manifest: Vec<u8>) -> Result<(), RegistryError> {
        self.client.push_manifest(reference, media_type::OCI_MANIFEST, Bytes::from(manifest)).await?;
        Ok(())
    }

    fn tagged(&self, key: &Key) -> Option<Reference> {
        // A key is 64 hexadecimal digits, which is always a tag.
        self.repository.tagged(&key.to_string()).ok()
    }
}

fn is_index(kind: &str) -> bool {
    matches!(kind, media_type::OCI_INDEX | media_type::DOCKER_LIST)
}
