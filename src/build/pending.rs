//! Stands in for what is not here yet: the signatures that the command line is written against.

use super::BuildError;
use super::request::{BuildOutcome, BuildRequest, Services};
use crate::image::{Digest, Reference};

/// Builds an image.
///
/// # Errors
/// Always.
pub async fn build(request: BuildRequest, services: Services) -> Result<BuildOutcome, BuildError> {
    let _ = (request, services);
    Err(BuildError::refused("building is not there yet"))
}

/// Pushes an image of the store under its name; gives the digest of its manifest.
///
/// # Errors
/// Always.
pub async fn push_named(name: &Reference, services: &Services) -> Result<Digest, BuildError> {
    let _ = services;
    Err(BuildError::refused(format!("`{name}` cannot be pushed: pushing is not there yet")))
}

/// Checks of whole images.
pub mod validate {
    use std::path::Path;

    use super::{BuildError, Reference, Services};

    /// What was found out about an image.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Validation {
        /// The images that were looked at.
        pub images: Vec<String>,
        /// How many blobs were read.
        pub blobs: usize,
        /// How many bytes were read.
        pub bytes: u64,
        /// What is wrong, in sentences.
        pub faults: Vec<String>,
    }

    impl Validation {
        /// Whether nothing is wrong.
        pub fn is_valid(&self) -> bool {
            self.faults.is_empty()
        }
    }

    /// Checks an image of a registry.
    ///
    /// # Errors
    /// Always.
    pub async fn reference(name: &Reference, services: &Services) -> Result<Validation, BuildError> {
        let _ = services;
        Err(BuildError::refused(format!("`{name}` cannot be checked: checks are not there yet")))
    }

    /// Checks an OCI layout.
    ///
    /// # Errors
    /// Always.
    pub async fn layout(directory: &Path) -> Result<Validation, BuildError> {
        let shown = directory.display();
        Err(BuildError::refused(format!("`{shown}` cannot be checked: checks are not there yet")))
    }
}
