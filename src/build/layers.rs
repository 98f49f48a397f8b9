//! Layers as a build handles them: what they are and where their bytes can be had.

use std::fmt;
use std::path::PathBuf;

use super::error::{BuildError, ImageFault};
use crate::cache::LayerRecord;
use crate::image::{Descriptor, Digest, MediaType, Repository, media_type};
use crate::layer::LayerBlob;
use crate::plan::BaseImage;

/// A Docker layer that is not compressed.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// A Docker layer, zstd: in no specification, but what BuildKit and containerd call it.
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Where the blob can be had.
    pub origin: Origin,
}

/// Where a blob can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the store.
    Store,
    /// On a registry; perhaps in the store too.
    Registry {
        /// The repository.
        repository: Repository,
        /// What it is, for people: `layer 1/2 of python:3.9-slim`.
        what: String,
    },
    /// In a cache, which may lose it.
    Cache(CachedAt),
}

/// Where a cache has a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachedAt {
    /// In a repository.
    Registry(Repository),
    /// In the store in a directory.
    Directory(PathBuf),
}

impl fmt::Display for CachedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(repository) => write!(f, "{repository}"),
            Self::Directory(path) => write!(f, "`{}`", path.display()),
        }
    }
}

impl Layer {
    /// The layers of an image.
    ///
    /// # Errors
    /// If one cannot be used.
    pub fn of_image(image: &BaseImage, repository: Option<&Repository>) -> Result<Vec<Self>, BuildError> {
        let fault = |source: ImageFault| BuildError::Image { name: image.name.clone(), source };
        let diff_ids = &image.config.rootfs.diff_ids;
        if image.layers.len() != diff_ids.len() {
            let (layers, diff_ids) = (image.layers.len(), diff_ids.len());
            return Err(fault(ImageFault::LayerCount { layers, diff_ids }));
        }
        let count = image.layers.len();
        let one = |(number, (descriptor, diff_id)): (usize, (&Descriptor, &Digest))| {
            let digest = Digest::try_from(descriptor.digest()).map_err(|error| fault(error.into()))?;
            if matches!(descriptor.media_type(), MediaType::ImageLayerNonDistributable) {
                return Err(fault(ImageFault::Foreign(digest)));
            }
            let origin = match repository {
                Some(repository) => Origin::Registry {
                    repository: repository.clone(),
                    what: format!("layer {}/{count} of {}", number + 1, image.name),
                },
                None => Origin::Store,
            };
            Ok(Self {
                digest,
                size: descriptor.size(),
                media_type: as_oci(descriptor.media_type().as_ref()),
                diff_id: *diff_id,
                origin,
            })
        };
        image.layers.iter().zip(diff_ids).enumerate().map(one).collect()
    }

    /// The layer of a record.
    pub fn of_record(record: &LayerRecord) -> Self {
        Self {
            digest: record.digest,
            size: record.size,
            media_type: record.media_type.clone(),
            diff_id: record.diff_id,
            origin: Origin::Store,
        }
    }

    /// The layer that was just written.
    pub fn of_blob(blob: &LayerBlob) -> Self {
        Self {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.to_owned(),
            diff_id: blob.diff_id,
            origin: Origin::Store,
        }
    }

    /// The same, to be had elsewhere.
    pub fn at(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// The repository that has it, if one is known to.
    pub fn repository(&self) -> Option<&Repository> {
        match &self.origin {
            Origin::Registry { repository, .. } | Origin::Cache(CachedAt::Registry(repository)) => {
                Some(repository)
            }
            Origin::Store | Origin::Cache(CachedAt::Directory(_)) => None,
        }
    }

    /// What it is, for people.
    pub fn what(&self) -> String {
        match &self.origin {
            Origin::Registry { what, .. } => what.clone(),
            Origin::Cache(_) => "cached layer".to_owned(),
            Origin::Store => "layer".to_owned(),
        }
    }

    /// Its descriptor for a manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(MediaType::from(self.media_type.as_str()), self.size, self.digest)
    }
}

/// Docker's name of a layer's media type, given the OCI's.
pub(super) fn as_docker(name: &str) -> &str {
    match name {
        media_type::OCI_LAYER_GZIP => media_type::DOCKER_LAYER_GZIP,
        media_type::OCI_LAYER => DOCKER_LAYER,
        media_type::OCI_LAYER_ZSTD => DOCKER_LAYER_ZSTD,
        other => other,
    }
}

/// The OCI name of a layer's media type: the bytes are the same whatever Docker calls them.
fn as_oci(name: &str) -> String {
    match name {
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP.to_owned(),
        DOCKER_LAYER => media_type::OCI_LAYER.to_owned(),
        DOCKER_LAYER_ZSTD => media_type::OCI_LAYER_ZSTD.to_owned(),
        other => other.to_owned(),
    }
}
