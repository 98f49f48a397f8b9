//! What an image is: its documents and configurations, read without any layer.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::error::{BuildError, ImageFault};
use super::super::request::Services;
use super::place::Place;
use super::source::{Document, Source, is_foreign};
use crate::image::{Descriptor, Digest, ImageConfig, Manifest, Platform};

/// By which BuildKit marks the manifest of an attestation, in the index that has it.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The digest of the image that an attestation is about.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Everything but layers.
    Whole,
    /// The bytes of the manifest or index alone.
    Raw,
    /// The bytes of the configuration alone.
    Config,
}

/// An image or an index, as it is described.
#[derive(Debug, Serialize)]
pub struct Described {
    /// The place that it was read from.
    pub name: String,
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Bytes of everything that it is made of, each blob once.
    pub size: u64,
    /// Annotations of the manifest or index itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The image, or each of an index.
    pub images: Vec<DescribedImage>,
    /// What was asked for byte for byte.
    #[serde(skip)]
    pub bytes: Bytes,
}

/// One image.
#[derive(Debug, Serialize)]
pub struct DescribedImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// The platform, if it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The image that it says something of, if it is an attestation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attests: Option<String>,
    /// Bytes of the manifest, the configuration and the layers.
    pub size: u64,
    /// When it was made, as the configuration has it (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Annotations of the manifest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The layers, lowest first.
    pub layers: Vec<DescribedLayer>,
    /// The digest of the configuration, which `docker` calls the image's ID.
    pub config_digest: String,
    /// The configuration as it is, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DescribedLayer {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its bytes, as they are stored.
    pub size: u64,
    /// Whether its bytes are not with the image but at an address.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
}

/// Looks at an image.
///
/// # Errors
/// If there is none, or none for the platform; for [`Look::Config`] if it is an index.
pub async fn look(
    place: &Place,
    platform: Option<&Platform>,
    what: Look,
    services: &Services,
) -> Result<Described, BuildError> {
    let (source, document) = Source::open(place, services).await?;
    let root = match platform {
        Some(platform) => source.choose(document, platform).await?,
        None => document,
    };
    let mut described = Described {
        name: source.name().to_owned(),
        digest: root.digest,
        media_type: root.media_type.clone(),
        size: 0,
        annotations: BTreeMap::new(),
        images: Vec::new(),
        bytes: root.bytes.clone(),
    };
    match what {
        Look::Raw => return Ok(described),
        Look::Config => {
            let Manifest::Image(image) = &root.manifest else {
                return Err(BuildError::Refused {
                    what: format!("`{}` is an index, which has no configuration", source.name()),
                    hint: Some("choose an image with `--platform`".to_owned()),
                });
            };
            described.bytes = source.config(image.config()).await?.into();
            return Ok(described);
        }
        Look::Whole => {}
    }
    described.annotations = match &root.manifest {
        Manifest::Image(image) => sorted(image.annotations().as_ref()),
        Manifest::Index(index) => sorted(index.annotations().as_ref()),
    };
    let tree = source.tree(root).await?;
    described.size = tree.documents.iter().map(|one| one.bytes.len() as u64).sum::<u64>();
    described.size += tree.blobs.iter().map(|blob| blob.size).sum::<u64>();
    // In the order of the index, which names them.
    let entries: Vec<Descriptor> = tree
        .documents
        .iter()
        .rev()
        .filter_map(|document| match &document.manifest {
            Manifest::Index(index) => Some(index.manifests().clone()),
            Manifest::Image(_) => None,
        })
        .flatten()
        .collect();
    let images: Vec<&Document> =
        tree.documents.iter().filter(|one| matches!(one.manifest, Manifest::Image(_))).collect();
    if entries.is_empty() {
        for document in images {
            described.images.push(image(&source, document, None).await?);
        }
        return Ok(described);
    }
    for entry in &entries {
        let digest = entry.digest().to_string();
        if let Some(document) = images.iter().find(|one| one.digest.to_string() == digest) {
            described.images.push(image(&source, document, Some(entry)).await?);
        }
    }
    Ok(described)
}

async fn image(
    source: &Source,
    document: &Document,
    entry: Option<&Descriptor>,
) -> Result<DescribedImage, BuildError> {
    let Manifest::Image(manifest) = &document.manifest else {
        return Err(BuildError::refused(format!("`{}` is no image", document.digest)));
    };
    let notes = entry.and_then(|entry| entry.annotations().as_ref());
    let note = |key: &str| notes.and_then(|notes| notes.get(key)).cloned();
    let attests = note(REFERENCE_TYPE).and_then(|_| note(REFERENCE_DIGEST));
    let bytes = source.config(manifest.config()).await?;
    let fault = |source: ImageFault| BuildError::Image { name: document.digest.to_string(), source };
    let actual = Digest::of(&bytes);
    if manifest.config().digest().to_string() != actual.to_string() {
        let expected = Digest::try_from(manifest.config().digest()).map_err(|error| fault(error.into()))?;
        return Err(fault(ImageFault::Blob { expected, actual }));
    }
    // Configurations of charts and signatures are no images' ones.
    let parsed = serde_json::from_slice::<ImageConfig>(&bytes).unwrap_or_default();
    let named = entry.and_then(|entry| entry.platform().as_ref()).map(Platform::from);
    let own = Some(parsed.platform()).filter(|own| !own.os.is_empty());
    let platform = named.or(own).map(|platform| platform.to_string()).filter(|_| attests.is_none());
    let blobs = manifest.layers().iter().filter(|layer| !is_foreign(layer)).chain([manifest.config()]);
    let size = blobs.map(Descriptor::size).fold(document.bytes.len() as u64, u64::saturating_add);
    let layer = |layer: &Descriptor| DescribedLayer {
        digest: layer.digest().to_string(),
        media_type: layer.media_type().to_string(),
        size: layer.size(),
        foreign: is_foreign(layer),
    };
    Ok(DescribedImage {
        digest: document.digest,
        media_type: document.media_type.clone(),
        platform,
        attests,
        size,
        created: parsed.created,
        annotations: sorted(manifest.annotations().as_ref()),
        layers: manifest.layers().iter().map(layer).collect(),
        config_digest: manifest.config().digest().to_string(),
        config: serde_json::from_slice(&bytes).ok(),
    })
}

fn sorted(annotations: Option<&std::collections::HashMap<String, String>>) -> BTreeMap<String, String> {
    annotations.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}
