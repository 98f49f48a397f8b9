//! What an image *is*: names, digests, platforms, manifests and configuration.
//!
//! This room is pure: it parses and prints, it never reads a file or a socket. Everything here follows the OCI
//! image specification 1.1 and, where the two differ for users, what `docker` accepts on its command line.
//!
//! Descriptors, manifests, indexes and media types are those of `oci-spec`. The image configuration is ours
//! ([`ImageConfig`]), because a builder must hand on every field of a base image, known to it or not.

mod config;
mod digest;
mod handoff;
mod manifest;
mod platform;
mod reference;
mod select;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use digest::{Digest, DigestError, Sha256, hex};
pub use handoff::{HandedImage, HandedPlatform, Handoff, HandoffError, VARIABLE};
pub use manifest::{Manifest, ManifestError, media_type};
pub use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, Repository};
pub use select::select;
