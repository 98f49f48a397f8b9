//! Pushing while building: each layer leaves as soon as it is there, the manifest last.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use super::assemble::{Image, Product};
use super::error::{BuildError, ImageFault};
use super::fetch::{Fetcher, lock};
use super::layers::{Layer, Origin};
use super::request::Services;
use crate::cache;
use crate::image::{Descriptor, Digest, Manifest, Reference, Repository};
use crate::registry::{BlobOutcome, BlobUpload, ErrorKind, FileSource, SMALL_BLOB};
use crate::report::{Direction, Outcome, Transfer};

type Flight = Arc<OnceCell<()>>;

/// Pushes the blobs of an image to every repository it has a name in.
#[derive(Debug, Clone)]
pub(super) struct Pusher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    services: Arc<Services>,
    fetcher: Fetcher,
    names: Vec<Reference>,
    repositories: Vec<Repository>,
    flights: Mutex<HashMap<(Repository, Digest), Flight>>,
    /// What the names are, in their order, once it was asked.
    looked: Mutex<Vec<JoinHandle<Option<Digest>>>>,
    /// Blobs that were made just now.
    new: Mutex<HashSet<Digest>>,
    /// Whether the image may be pushed, once it was asked.
    checked: OnceCell<()>,
}

/// A blob to be pushed.
#[derive(Debug, Clone)]
struct Blob {
    digest: Digest,
    size: u64,
    what: String,
    /// The layer it is, if it is one that may have to be brought here first.
    layer: Option<Layer>,
    /// Repositories that have it.
    mount_from: Vec<Repository>,
}

impl Pusher {
    /// A pusher under `names`.
    pub fn new(services: &Arc<Services>, fetcher: &Fetcher, names: Vec<Reference>) -> Self {
        let mut repositories: Vec<Repository> = Vec::new();
        for name in &names {
            if !repositories.contains(name.repository()) {
                repositories.push(name.repository().clone());
            }
        }
        let inner = Inner {
            services: Arc::clone(services),
            fetcher: fetcher.clone(),
            names,
            repositories,
            flights: Mutex::default(),
            looked: Mutex::default(),
            new: Mutex::default(),
            checked: OnceCell::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes note of a blob that was made just now: no registry is likely to have it.
    pub fn note_new(&self, digest: Digest) {
        lock(&self.inner.new).insert(digest);
    }

    fn is_new(&self, digest: &Digest) -> bool {
        lock(&self.inner.new).contains(digest)
    }

    /// Begins to ask what the names are now, so that the answers are there when [`Pusher::is_there`] wants them.
    pub fn begin_to_look(&self) {
        let client = self.inner.services.client.clone();
        let asked = self.inner.names.clone().into_iter().map(|name| {
            let client = client.clone();
            tokio::spawn(async move { client.tagged_digest(&name).await })
        });
        lock(&self.inner.looked).extend(asked);
    }

    /// Asks every registry whether the image may be pushed: before there is work that could be in vain.
    ///
    /// # Errors
    /// If it may not, or a registry cannot be reached.
    pub async fn check(&self) -> Result<(), BuildError> {
        let registry = &self.inner.services.client;
        let ask = || async {
            let all = self.inner.repositories.iter().map(|repository| registry.check_push(repository));
            futures_util::future::try_join_all(all).await.map(drop)
        };
        self.inner.checked.get_or_try_init(ask).await?;
        Ok(())
    }

    /// The names that are pushed to.
    pub fn names(&self) -> &[Reference] {
        &self.inner.names
    }

    /// Whether every name is that of the product already. If it cannot be found out, it is not.
    pub async fn is_there(&self, product: &Product) -> bool {
        let (_, _, digest) = product.document();
        if lock(&self.inner.looked).is_empty() {
            self.begin_to_look();
        }
        let looked = std::mem::take(&mut *lock(&self.inner.looked));
        let found = futures_util::future::join_all(looked).await;
        let there = found.into_iter().all(|found| found.is_ok_and(|found| found == Some(digest)));
        if there {
            for name in &self.inner.names {
                self.inner.services.report.note(format!("already there: {name}"));
            }
        }
        there
    }

    /// Begins to push a layer. If that fails, so will [`Pusher::finish`].
    pub fn begin(&self, layer: &Layer) {
        let (pusher, layer) = (self.clone(), layer.clone());
        tokio::spawn(async move { pusher.push_everywhere(&Blob::of(&layer)).await });
    }

    /// Pushes a layer to a repository that a cache is in. One that is pushed with the image anyway, on the same registry, goes there
    /// first, and is mounted from there.
    ///
    /// # Errors
    /// If it cannot be pushed.
    pub async fn cache_layer(
        &self,
        repository: &Repository,
        layer: &Layer,
        of_image: bool,
    ) -> Result<(), BuildError> {
        let mut blob = Blob::of(layer);
        let near = |one: &&Repository| one.registry() == repository.registry() && *one != repository;
        // To send a small one twice at a time is faster than to wait for it and to mount it.
        let waits = of_image && !(layer.size <= SMALL_BLOB && self.is_new(&layer.digest));
        for own in self.inner.repositories.iter().filter(|_| waits).filter(near) {
            // What keeps it from there is said where the image is pushed.
            if self.push_once(own, &blob).await.is_ok() {
                blob.mount_from.push(own.clone());
            }
        }
        self.push_once(repository, &blob).await
    }

    /// Pushes the one configuration that entries of a cache have.
    ///
    /// # Errors
    /// If it cannot be pushed.
    pub async fn cache_config(&self, repository: &Repository) -> Result<(), BuildError> {
        let blob = self.inner.services.store.put(cache::CONFIG)?;
        let blob = Blob::small(blob.digest, cache::CONFIG.len(), "configuration of the cache");
        self.push_once(repository, &blob).await
    }

    /// Pushes the blobs of an image that are not there yet.
    ///
    /// # Errors
    /// If one cannot be pushed.
    pub async fn finish(&self, image: &Image) -> Result<(), BuildError> {
        let config = Blob::small(image.config_digest, image.config.len(), "configuration");
        // It tells of what was made just now.
        if image.layers.iter().any(|layer| self.is_new(&layer.digest)) {
            self.note_new(image.config_digest);
        }
        let blobs: Vec<Blob> = image.layers.iter().map(Blob::of).chain([config]).collect();
        futures_util::future::try_join_all(blobs.iter().map(|blob| self.push_everywhere(blob))).await?;
        Ok(())
    }

    /// Names a product whose blobs are all there. Gives the names.
    ///
    /// # Errors
    /// If a manifest cannot be pushed. Then no name has changed, but perhaps those before the one that failed.
    pub async fn name(&self, product: &Product) -> Result<Vec<Reference>, BuildError> {
        let client = &self.inner.services.client;
        if product.single().is_none() {
            // What an index names is there before it.
            for (repository, (_, image)) in self
                .inner
                .repositories
                .iter()
                .flat_map(|one| product.images.iter().map(move |image| (one, image)))
            {
                let bytes = Bytes::copy_from_slice(&image.manifest);
                client.push_manifest(&repository.at(image.digest), &image.media_type, bytes).await?;
            }
        }
        let (media_type, bytes, _) = product.document();
        for name in &self.inner.names {
            client.push_manifest(name, media_type, Bytes::copy_from_slice(bytes)).await?;
        }
        Ok(self.names().to_vec())
    }

    async fn push_everywhere(&self, blob: &Blob) -> Result<(), BuildError> {
        let pushes = self.inner.repositories.iter().map(|repository| self.push_once(repository, blob));
        futures_util::future::try_join_all(pushes).await?;
        Ok(())
    }

    async fn push_once(&self, repository: &Repository, blob: &Blob) -> Result<(), BuildError> {
        let flight = {
            let mut flights = lock(&self.inner.flights);
            Arc::clone(flights.entry((repository.clone(), blob.digest)).or_default())
        };
        flight.get_or_try_init(|| self.push(repository, blob)).await?;
        Ok(())
    }

    async fn push(&self, repository: &Repository, blob: &Blob) -> Result<(), BuildError> {
        let Inner { services, fetcher, .. } = &*self.inner;
        let transfer = services.report.transfer(
            Direction::Upload,
            None,
            blob.digest,
            format!("{} to {repository}", blob.what),
            Some(blob.size),
        );
        // A blob that is not in the store is this machine's fault, not the registry's.
        let source = FileSource(services.store.path(&blob.digest));
        let upload = |progress| BlobUpload {
            digest: blob.digest,
            size: blob.size,
            source: &source,
            is_new: self.is_new(&blob.digest),
            mount_from: &blob.mount_from,
            progress,
        };
        let mut pushed = services.client.push_blob(repository, &upload(Some(transfer.teller()))).await;
        if let (Err(error), Some(layer)) = (&pushed, &blob.layer)
            && error.kind() == ErrorKind::Local
            && !services.store.has(&blob.digest)?
        {
            // It is nowhere on that registry: it has to come here first.
            fetcher.fetch(layer).await?;
            pushed = services.client.push_blob(repository, &upload(Some(transfer.teller()))).await;
        }
        end(transfer, pushed.map_err(BuildError::from))
    }
}

/// Tells how a push went, and gives its error.
pub(super) fn end(transfer: Transfer, pushed: Result<BlobOutcome, BuildError>) -> Result<(), BuildError> {
    transfer.end(match &pushed {
        Ok(BlobOutcome::AlreadyThere) => Outcome::AlreadyThere,
        Ok(BlobOutcome::Mounted(from)) => Outcome::Mounted { from: from.to_string() },
        Ok(BlobOutcome::Uploaded) => Outcome::Pushed,
        Err(error) => Outcome::Failed { reason: error.to_string() },
    });
    pushed.map(drop)
}

impl Blob {
    fn of(layer: &Layer) -> Self {
        let mount_from = layer.repository().cloned().into_iter().collect();
        let (digest, size, what) = (layer.digest, layer.size, layer.what());
        Self { digest, size, what, layer: Some(layer.clone()), mount_from }
    }

    /// Bytes that are in the store.
    fn small(digest: Digest, size: usize, what: &str) -> Self {
        Self { digest, size: size as u64, what: what.to_owned(), layer: None, mount_from: Vec::new() }
    }
}

/// Pushes an image that has a name in the store.
///
/// # Errors
/// If there is no such image here, or it cannot be pushed.
pub async fn push_named(name: &Reference, services: &Services) -> Result<Digest, BuildError> {
    let services = Arc::new(services.clone());
    let fault = |source: ImageFault| BuildError::Image { name: name.familiar(), source };
    let Some(descriptor) = services.store.resolve(name)? else {
        return Err(BuildError::NotFound {
            what: format!("there is no image `{}` in the store", name.familiar()),
        });
    };
    let digest = Digest::try_from(descriptor.digest()).map_err(|error| fault(error.into()))?;
    let fetcher = Fetcher::new(&services.store, &services.client, &services.report);
    let pusher = Pusher::new(&services, &fetcher, vec![name.clone()]);
    let bytes = services.store.read(&digest, descriptor.size())?;
    let manifests = match Manifest::parse(&bytes, None).map_err(|error| fault(error.into()))? {
        Manifest::Image(_) => {
            pusher.finish(&stored(&services, name, &descriptor)?).await?;
            Vec::new()
        }
        Manifest::Index(index) => index.manifests().clone(),
    };
    for descriptor in &manifests {
        let image = stored(&services, name, descriptor)?;
        pusher.finish(&image).await?;
        let bytes = Bytes::copy_from_slice(&image.manifest);
        let at = name.repository().at(image.digest);
        services.client.push_manifest(&at, descriptor.media_type().as_ref(), bytes).await?;
    }
    services.client.push_manifest(name, descriptor.media_type().as_ref(), Bytes::from(bytes)).await?;
    Ok(digest)
}

/// An image of the store.
fn stored(services: &Services, name: &Reference, descriptor: &Descriptor) -> Result<Image, BuildError> {
    let fault = |source: ImageFault| BuildError::Image { name: name.familiar(), source };
    let digest_of =
        |descriptor: &Descriptor| Digest::try_from(descriptor.digest()).map_err(|error| fault(error.into()));
    let digest = digest_of(descriptor)?;
    let manifest = services.store.read(&digest, descriptor.size())?;
    let Manifest::Image(parsed) = Manifest::parse(&manifest, None).map_err(|error| fault(error.into()))?
    else {
        return Err(BuildError::refused(format!("`{}` is an index of indexes", name.familiar())));
    };
    let layer = |descriptor: &Descriptor| -> Result<Layer, BuildError> {
        let digest = digest_of(descriptor)?;
        Ok(Layer {
            digest,
            size: descriptor.size(),
            media_type: descriptor.media_type().to_string(),
            diff_id: digest,
            origin: Origin::Store,
        })
    };
    let config_digest = digest_of(parsed.config())?;
    Ok(Image {
        config: services.store.read(&config_digest, parsed.config().size())?,
        config_digest,
        manifest,
        digest,
        media_type: descriptor.media_type().to_string(),
        layers: parsed.layers().iter().map(layer).collect::<Result<_, _>>()?,
    })
}
