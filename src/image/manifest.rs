//! Manifests as registries and layouts hold them: an image, or an index of images.

use oci_spec::image::{ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use thiserror::Error;

/// Media types, as the strings that stand in headers and descriptors.
pub mod media_type {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// An OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// An OCI layer, not compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A Docker image manifest, version 2 schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// A Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Every kind of manifest this program reads, for `Accept`.
    pub const MANIFESTS: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
}

/// A parsed manifest.
#[derive(Debug, Clone, PartialEq)]
pub enum Manifest {
    /// One image for one platform.
    Image(Box<ImageManifest>),
    /// Images for several platforms.
    Index(Box<ImageIndex>),
}

/// Why some bytes are not a manifest this program can use.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The JSON does not fit the type that it says it is.
    #[error("the manifest is not valid")]
    Json(#[from] serde_json::Error),
    /// Docker's schema 1 ended in 2017 and has no digests that can be checked.
    #[error("the manifest is of schema version {0}: only version 2 and OCI are supported")]
    Schema(u64),
    /// Neither an image nor an index.
    #[error("a manifest of type `{0}` is not an image")]
    MediaType(String),
    /// The header and the manifest's own `mediaType` differ, or it could be read as both kinds (CVE-2021-41190).
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(String),
}

impl Manifest {
    /// Reads a manifest. `content_type` is what its descriptor or HTTP header calls it, if anything did.
    ///
    /// # Errors
    /// If the bytes are no manifest, or could be read as two kinds of manifest.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        /// What tells the kinds apart.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: Option<u64>,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = serde_json::from_slice(bytes)?;
        if let Some(version) = shape.schema_version
            && version != 2
        {
            return Err(ManifestError::Schema(version));
        }
        let is_image = shape.layers.is_some() || shape.config.is_some();
        if is_image && shape.manifests.is_some() {
            return Err(ManifestError::Ambiguous("it has layers and manifests".into()));
        }
        // A registry that answers `application/json` or `text/plain` has said nothing.
        let named = content_type
            .map(|kind| kind.split(';').next().unwrap_or_default().trim())
            .filter(|kind| kind.starts_with("application/vnd."));
        if let (Some(header), Some(own)) = (named, shape.media_type.as_deref())
            && header != own
        {
            return Err(ManifestError::Ambiguous(format!(
                "it is called `{header}` and calls itself `{own}`"
            )));
        }
        let kind = named.or(shape.media_type.as_deref());
        match kind {
            Some(media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST) => {}
            Some(media_type::OCI_INDEX | media_type::DOCKER_LIST) if !is_image => {}
            None if is_image || shape.manifests.is_some() => {}
            other => return Err(ManifestError::MediaType(other.unwrap_or("unknown").to_owned())),
        }
        if is_image {
            Ok(Self::Image(Box::new(serde_json::from_slice(bytes)?)))
        } else {
            Ok(Self::Index(Box::new(serde_json::from_slice(bytes)?)))
        }
    }

    /// The manifest's media type, where it names none that of its OCI kind.
    pub fn media_type(&self) -> String {
        let (own, default) = match self {
            Self::Image(image) => (image.media_type(), MediaType::ImageManifest),
            Self::Index(index) => (index.media_type(), MediaType::ImageIndex),
        };
        own.as_ref().unwrap_or(&default).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;

    fn image(head: &str) -> String {
        format!(r#"{{"schemaVersion":2{head},"config":{CONFIG},"layers":[]}}"#)
    }

    #[test]
    fn tells_images_from_indexes() {
        let bare = image("");
        assert!(matches!(Manifest::parse(bare.as_bytes(), None), Ok(Manifest::Image(_))));
        let typed = image(r#","mediaType":"application/vnd.docker.distribution.manifest.v2+json""#);
        let parsed =
            Manifest::parse(typed.as_bytes(), Some("application/vnd.docker.distribution.manifest.v2+json"));
        assert_eq!(parsed.unwrap().media_type(), media_type::DOCKER_MANIFEST);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(
            Manifest::parse(index.as_bytes(), Some("application/json")),
            Ok(Manifest::Index(_))
        ));
    }

    #[test]
    fn refuses_a_manifest_that_can_be_read_as_two() {
        let both = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[],"manifests":[]}}"#);
        assert!(matches!(Manifest::parse(both.as_bytes(), None), Err(ManifestError::Ambiguous(_))));
        let typed = image(r#","mediaType":"application/vnd.oci.image.manifest.v1+json""#);
        let parsed = Manifest::parse(typed.as_bytes(), Some(media_type::OCI_INDEX));
        assert!(matches!(parsed, Err(ManifestError::Ambiguous(_))));
    }

    #[test]
    fn refuses_what_is_no_image() {
        let schema1 = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(Manifest::parse(schema1.as_bytes(), None), Err(ManifestError::Schema(1))));
        assert!(matches!(Manifest::parse(b"{}", None), Err(ManifestError::MediaType(_))));
        let chart = image(r#","mediaType":"application/vnd.cncf.helm.config.v1+json""#);
        assert!(matches!(Manifest::parse(chart.as_bytes(), None), Err(ManifestError::MediaType(_))));
        assert!(matches!(Manifest::parse(b"<html>", None), Err(ManifestError::Json(_))));
    }
}
