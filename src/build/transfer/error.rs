//! What can go wrong when files are copied.

use std::io;

use thiserror::Error;

use crate::context::{ContextError, ReadError};
use crate::dockerfile::Diagnostic;
use crate::layer::{LayerError, PathError, TreeError};
use crate::sandbox::RootError;
use crate::store::StoreError;

/// Why a COPY or ADD cannot be carried out.
#[derive(Debug, Error)]
pub enum TransferError {
    /// What was written cannot be done; the place in the Dockerfile is known.
    #[error("{0}")]
    Mistake(Box<Diagnostic>),
    /// A file changed while it was copied: nobody could say what the image would hold.
    #[error("`{path}` in {origin} changed while it was copied")]
    Changed {
        /// The file.
        path: String,
        /// Where it is, in words.
        origin: String,
    },
    /// A file cannot be read.
    #[error("cannot read `{path}` in {origin}")]
    Read {
        /// The file.
        path: String,
        /// Where it is, in words.
        origin: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An archive cannot be unpacked.
    #[error("cannot unpack `{path}` in {origin}")]
    Archive {
        /// The archive.
        path: String,
        /// Where it is, in words.
        origin: String,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// The context cannot be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The stage's or image's files cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The image that is copied into cannot be looked at.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The layer cannot be written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A path cannot be one in an image.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl From<Diagnostic> for TransferError {
    fn from(finding: Diagnostic) -> Self {
        Self::Mistake(Box::new(finding))
    }
}

impl TransferError {
    /// Names the file that was read.
    pub(super) fn reading(error: ReadError, path: String, origin: &str) -> Self {
        let origin = origin.to_owned();
        match error {
            ReadError::Changed => Self::Changed { path, origin },
            ReadError::Io(source) => Self::Read { path, origin, source },
        }
    }
}
