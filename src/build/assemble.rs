//! The finished image: configuration and manifest, of layers that are there.

use std::collections::BTreeMap;

use oci_spec::image::{ImageManifestBuilder, MediaType};
use serde::Serialize;

use super::error::BuildError;
use super::layers::{Layer, as_docker};
use super::request::{Annotation, AnnotationPlace, MediaTypes};
use crate::image::{Descriptor, Digest, History, ImageConfig, Platform, media_type};

/// A configuration and a manifest, as bytes.
#[derive(Debug, Clone)]
pub struct Image {
    /// The configuration.
    pub config: Vec<u8>,
    /// Its digest: the image's ID.
    pub config_digest: Digest,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// The image of a configuration, whose history has no times yet for what the build has made, and its layers, each
    /// with the time it was made, if that is known.
    ///
    /// # Errors
    /// If something cannot be serialised.
    pub fn new(
        mut config: ImageConfig,
        layers: Vec<(Layer, Option<String>)>,
        annotations: BTreeMap<String, String>,
        types: MediaTypes,
    ) -> Result<Self, BuildError> {
        config.rootfs.diff_ids = layers.iter().map(|(layer, _)| layer.diff_id).collect();
        let times: Vec<Option<String>> = layers.iter().map(|(_, created)| created.clone()).collect();
        account_for_layers(&mut config, &times);
        date(&mut config, &times);
        let layers: Vec<Layer> = layers.into_iter().map(|(layer, _)| layer).collect();
        let config = serde_json::to_vec(&config).map_err(serialising)?;
        let config_digest = Digest::of(&config);
        let config_type = MediaType::from(types.config());
        let manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(types.manifest())
            .config(Descriptor::new(config_type, config.len() as u64, config_digest))
            .layers(layers.iter().map(|layer| types.layer(layer)).collect::<Vec<_>>())
            .build()
            .map_err(|error| BuildError::refused(format!("cannot make the manifest: {error}")))?;
        let manifest = Ordered { document: manifest, annotations };
        let manifest = serde_json::to_vec(&manifest).map_err(serialising)?;
        let digest = Digest::of(&manifest);
        let media_type = types.manifest().to_owned();
        Ok(Self { config, config_digest, manifest, digest, media_type, layers })
    }

    /// The manifest's descriptor.
    pub fn descriptor(&self) -> Descriptor {
        let media_type = MediaType::from(self.media_type.as_str());
        Descriptor::new(media_type, self.manifest.len() as u64, self.digest)
    }
}

/// What a build delivers: the image of one platform, or those of several behind an index.
#[derive(Debug, Clone)]
pub struct Product {
    /// The images with their platforms, of which there is at least one.
    pub images: Vec<(Platform, Image)>,
    /// The index, and its digest.
    index: Option<(Vec<u8>, Digest)>,
    types: MediaTypes,
    /// Annotations of the descriptor by which a layout names it.
    annotations: BTreeMap<String, String>,
}

impl Product {
    /// What several platforms make is an index; one alone is what it is.
    ///
    /// # Errors
    /// If something cannot be serialised.
    pub fn new(
        images: Vec<(Platform, Image)>,
        annotations: &[Annotation],
        types: MediaTypes,
    ) -> Result<Self, BuildError> {
        let mut product = Self { images, index: None, types, annotations: BTreeMap::new() };
        if product.images.len() == 1 {
            let platform = product.images.first().map(|(platform, _)| platform.clone());
            product.annotations = of(annotations, AnnotationPlace::ManifestDescriptor, platform.as_ref());
            return Ok(product);
        }
        let descriptor = |(platform, image): &(Platform, Image)| {
            let mut descriptor = image.descriptor();
            descriptor.set_platform(Some(platform.into()));
            let annotations = of(annotations, AnnotationPlace::ManifestDescriptor, Some(platform));
            Ordered { document: descriptor, annotations }
        };
        let descriptors = product.images.iter().map(descriptor).collect();
        let annotated = of(annotations, AnnotationPlace::Index, None);
        let bytes = index(types.index(), descriptors, annotated).map_err(serialising)?;
        let digest = Digest::of(&bytes);
        product.index = Some((bytes, digest));
        product.annotations = of(annotations, AnnotationPlace::IndexDescriptor, None);
        Ok(product)
    }

    /// The document that names everything else, its media type and its digest.
    pub fn document(&self) -> (&str, &[u8], Digest) {
        match (&self.index, self.images.first()) {
            (Some((bytes, digest)), _) => (self.types.index(), bytes, *digest),
            (None, Some((_, image))) => (&image.media_type, &image.manifest, image.digest),
            (None, None) => (self.types.index(), b"", Digest::of(b"")),
        }
    }

    /// The image, if there is one alone.
    pub fn single(&self) -> Option<&Image> {
        match (&self.index, self.images.as_slice()) {
            (None, [(_, image)]) => Some(image),
            _ => None,
        }
    }

    /// The descriptor of the document.
    pub fn descriptor(&self) -> Descriptor {
        let (media_type, bytes, digest) = self.document();
        Descriptor::new(MediaType::from(media_type), bytes.len() as u64, digest)
    }

    /// The same with its annotations, and those of `more`, for a layout.
    pub fn annotated(&self, more: impl IntoIterator<Item = (String, String)>) -> Ordered<Descriptor> {
        let mut annotations = self.annotations.clone();
        annotations.extend(more);
        Ordered { document: self.descriptor(), annotations }
    }
}

impl MediaTypes {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_MANIFEST,
            Self::Docker => media_type::DOCKER_MANIFEST,
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_INDEX,
            Self::Docker => media_type::DOCKER_LIST,
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_CONFIG,
            Self::Docker => media_type::DOCKER_CONFIG,
        }
    }

    fn layer(self, layer: &Layer) -> Descriptor {
        let name = match self {
            Self::Oci => &layer.media_type,
            Self::Docker => as_docker(&layer.media_type),
        };
        Descriptor::new(MediaType::from(name), layer.size, layer.digest)
    }
}

/// A document of the OCI with its annotations in the order of their names: the library keeps them in a hash map, which has
/// another order in each process.
#[derive(Debug, Clone, Serialize)]
pub struct Ordered<T> {
    #[serde(flatten)]
    document: T,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// An index of that media type, as bytes.
pub fn index(
    media_type: &'static str,
    manifests: Vec<Ordered<Descriptor>>,
    annotations: BTreeMap<String, String>,
) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index {
        schema_version: u32,
        media_type: &'static str,
        manifests: Vec<Ordered<Descriptor>>,
    }
    let document = Index { schema_version: 2, media_type, manifests };
    serde_json::to_vec(&Ordered { document, annotations })
}

/// The annotations of a place, for one platform if the place has platforms.
pub(super) fn of(
    annotations: &[Annotation],
    place: AnnotationPlace,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let is_meant = |one: &&Annotation| {
        one.place == place && (one.platform.is_none() || one.platform.as_ref() == platform)
    };
    annotations.iter().filter(is_meant).map(|one| (one.name.clone(), one.value.clone())).collect()
}

fn serialising(error: serde_json::Error) -> BuildError {
    BuildError::refused(format!("cannot write JSON: {error}"))
}

/// Makes the history speak of as many layers as there are: images of other builders may not.
fn account_for_layers(config: &mut ImageConfig, times: &[Option<String>]) {
    let mut spoken_of = 0;
    for entry in &mut config.history {
        if spoken_of >= times.len() {
            entry.empty_layer = true;
        }
        spoken_of += usize::from(!entry.empty_layer);
    }
    for created in times.iter().skip(spoken_of) {
        config.history.push(History { created: created.clone(), ..History::default() });
    }
}

/// Gives every entry of the history its time, as BuildKit does: a layer's entry has the layer's; any other has the time
/// of the layer before it, or of the first new layer if there is none before.
fn date(config: &mut ImageConfig, times: &[Option<String>]) {
    let mut times = times.iter();
    for entry in config.history.iter_mut().filter(|entry| !entry.empty_layer) {
        let time = times.next().cloned().flatten();
        entry.created = entry.created.take().or(time);
    }
    let mut current: Option<String> = None;
    let mut missing = false;
    for entry in &config.history {
        match &entry.created {
            Some(created) => {
                current = Some(created.clone());
                if missing {
                    break;
                }
            }
            None => missing = true,
        }
    }
    missing = false;
    for entry in &mut config.history {
        match &entry.created {
            Some(created) if missing => current = Some(created.clone()),
            Some(_) => {}
            None => {
                missing = true;
                entry.created = current.clone();
            }
        }
    }
    config.created = config.history.last().and_then(|entry| entry.created.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(entries: &[(Option<&str>, bool)]) -> ImageConfig {
        let entry = |(created, empty_layer): &(Option<&str>, bool)| History {
            created: created.map(str::to_owned),
            empty_layer: *empty_layer,
            ..History::default()
        };
        ImageConfig { history: entries.iter().map(entry).collect(), ..ImageConfig::default() }
    }

    #[test]
    fn entries_without_a_layer_take_the_time_of_the_one_before_or_of_the_first() {
        // A base layer, ARG before the first layer, a layer, USER, a layer, CMD.
        let mut image = config(&[
            (Some("base"), false),
            (None, true),
            (None, false),
            (None, true),
            (None, false),
            (None, true),
        ]);
        date(&mut image, &[None, Some("one".into()), Some("two".into())]);
        let times: Vec<_> = image.history.iter().map(|entry| entry.created.as_deref().unwrap()).collect();
        assert_eq!(times, ["base", "one", "one", "one", "two", "two"]);
        assert_eq!(image.created.as_deref(), Some("two"));
    }

    #[test]
    fn the_history_speaks_of_every_layer_and_of_no_more() {
        let mut too_few = config(&[(None, true)]);
        account_for_layers(&mut too_few, &[Some("a".into()), None]);
        assert_eq!(too_few.history.iter().filter(|entry| !entry.empty_layer).count(), 2);
        let mut too_many = config(&[(Some("a"), false), (Some("b"), false)]);
        account_for_layers(&mut too_many, &[None]);
        assert!(!too_many.history[0].empty_layer && too_many.history[1].empty_layer);
    }

    #[test]
    fn an_image_without_new_layers_keeps_the_time_of_its_base() {
        let mut image = config(&[(Some("base"), false), (None, true)]);
        date(&mut image, &[None]);
        assert_eq!(image.created.as_deref(), Some("base"));
        let mut nothing = config(&[(None, true)]);
        date(&mut nothing, &[]);
        assert_eq!(nothing.created, None);
    }
}
