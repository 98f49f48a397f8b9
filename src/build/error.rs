//! Why a build failed.

use std::path::PathBuf;

use thiserror::Error;

use super::transfer::TransferError;
use crate::context::ContextError;
use crate::dockerfile::Diagnostics;
use crate::image::{Digest, ManifestError};
use crate::layer::{LayerError, TreeError};
use crate::registry::RegistryError;
use crate::remote::RemoteError;
use crate::report::{Findings, StepFailure};
use crate::sandbox::{RootError, SandboxError};
use crate::store::StoreError;

/// Why there is no image. The kinds of failure have exit statuses of their own (`docs/exit-codes.md`).
#[derive(Debug, Error)]
pub enum BuildError {
    /// The Dockerfile is wrong, or asks for something that is not there: the findings say where and what.
    #[error("{0}")]
    Dockerfile(Box<Findings>),
    /// The context, or a file that the request names, cannot be used.
    #[error("{what}")]
    Input {
        /// What is wrong with which file.
        what: String,
        /// What the system said, if it did.
        source: Option<std::io::Error>,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A step ran and failed.
    #[error("{finding}")]
    Step {
        /// Points at its instruction, says how it failed and what it wrote last.
        finding: Box<Findings>,
        /// How it failed.
        failure: StepFailure,
    },
    /// A step could not be carried out, for a reason that is not its author's.
    #[error("{finding}")]
    Setup {
        /// Points at its instruction.
        finding: Box<Findings>,
        /// Why not.
        source: Box<BuildError>,
    },
    /// What is asked for cannot be had here.
    #[error("{what}")]
    Refused {
        /// What, and why not.
        what: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// There is no such image.
    #[error("{what}")]
    NotFound {
        /// Which, and where it was looked for.
        what: String,
    },
    /// Steps cannot be run here.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A registry refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is not on this machine cannot be brought here.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer of an image cannot be read or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The files of an image cannot be found out.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A root filesystem cannot be filled or read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The build context cannot be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Files cannot be copied.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// An image is not what it should be.
    #[error("the image `{name}` cannot be used")]
    Image {
        /// Its name.
        name: String,
        /// Why not.
        source: ImageFault,
    },
    /// The result cannot be written where it is to go.
    #[error("cannot write `{}`", path.display())]
    Output {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A cache no longer has what it said it had.
    #[error("the cache {cache} does not have what it should")]
    CacheLost {
        /// Which.
        cache: String,
        /// What it answered.
        source: Box<BuildError>,
    },
    /// It was given up because it was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// What is wrong with an image.
#[derive(Debug, Error)]
pub enum ImageFault {
    /// Its manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its configuration is not JSON, or not of an image.
    #[error("its configuration is not valid")]
    Config(#[source] serde_json::Error),
    /// Manifest and configuration do not fit.
    #[error("its manifest has {layers} layers and its configuration {diff_ids}")]
    LayerCount {
        /// Of the manifest.
        layers: usize,
        /// Of the configuration.
        diff_ids: usize,
    },
    /// A digest of an algorithm that is not supported.
    #[error(transparent)]
    Digest(#[from] crate::image::DigestError),
    /// A blob is another than its name says.
    #[error("blob `{expected}` is {actual}")]
    Blob {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// There is no such image in the layout or archive.
    #[error("there is no such image in it; it has {known}")]
    NotInLayout {
        /// The names it has.
        known: String,
    },
    /// A layer lies at an address, which is not followed.
    #[error("the layer {0} is foreign: its bytes are not on the registry")]
    Foreign(Digest),
}

impl BuildError {
    /// Whether it is a cache that failed, without which the build may well succeed.
    pub(super) fn is_of_lost_cache(&self) -> bool {
        match self {
            Self::CacheLost { .. } => true,
            Self::Setup { source, .. } => source.is_of_lost_cache(),
            _ => false,
        }
    }

    /// Findings in a text.
    pub fn findings(name: &str, text: &str, list: Diagnostics) -> Self {
        Self::Dockerfile(Box::new(Findings::new(name, text, list)))
    }

    /// Something that cannot be had, with no advice to give.
    pub fn refused(what: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: None }
    }
}
