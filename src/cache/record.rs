//! What is remembered of a step's result.

use serde::{Deserialize, Serialize};

use crate::image::{Descriptor, Digest, MediaType};
use crate::layer::LayerBlob;
use crate::plan::Key;

/// The layer that a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// What the blob was compressed with.
    pub compression: String,
    /// When it was made, RFC 3339: the time that the image's history has for the step.
    pub created: String,
    /// When the step was carried out, seconds since 1970: its age. `created` may be a time that was asked for.
    #[serde(default)]
    pub made: i64,
    /// The step as it was shown.
    pub title: String,
    /// The layers of the steps below, from the base on, by their diff IDs ([`crate::plan::layers_key`]): it is a result above these
    /// alone. Earlier versions did not note them, and in an entry of a registry, which has all steps, they are not repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Key>,
}

impl LayerRecord {
    /// The record of a layer just made. What it was made above is not said.
    pub fn of(blob: &LayerBlob, created: &str, made: i64, title: &str) -> Self {
        Self {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type.to_owned(),
            diff_id: blob.diff_id,
            compression: blob.compression.clone(),
            created: created.to_owned(),
            made,
            title: title.to_owned(),
            above: None,
        }
    }

    /// The layer's descriptor for a manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(
            MediaType::from(self.media_type.as_str()),
            self.size,
            oci_spec::image::Digest::from(self.digest),
        )
    }
}
