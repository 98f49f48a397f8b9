//! What can go wrong in a store, with the path and the operation.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::image::Digest;

/// A failure of the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system refused an operation.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file system, or the user's share of it, is full. Nothing half-written stays behind.
    #[error("no space is left to {operation} `{}`", path.display())]
    Full {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store's directory cannot be made or written.
    #[error("the store directory `{}` is not writable", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory has files of something else: it is left alone.
    #[error("`{}` is neither empty nor an OCI image layout", .0.display())]
    NotALayout(PathBuf),
    /// The layout, or what this program keeps in it, is of another version.
    #[error("the store `{}` has format `{found}`, this program reads and writes `{known}`", path.display())]
    Version {
        /// The store's directory.
        path: PathBuf,
        /// The format it says it has.
        found: String,
        /// The format that this program knows.
        known: &'static str,
    },
    /// A blob that was asked for is not there.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// Some bytes are not what their name says.
    #[error("blob {expected} has wrong content: its digest is {actual}")]
    Mismatch {
        /// The name.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// Some bytes are more or fewer than announced.
    #[error("blob {digest} has {actual} bytes, {expected} were expected")]
    Size {
        /// The blob.
        digest: Digest,
        /// The announced size in bytes.
        expected: u64,
        /// The size found, in bytes; for a stream that does not end, how much of it was seen.
        actual: u64,
    },
    /// A blob is larger than its reader takes in one piece.
    #[error("blob {digest} has {size} bytes, at most {limit} are read at once")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A name would refer to an image of which a part is missing.
    #[error("`{name}` cannot be tagged: blob {missing} of its image is not in the store")]
    Incomplete {
        /// The name.
        name: String,
        /// The part that is not there.
        missing: Digest,
    },
    /// A manifest in the store cannot be read as one.
    #[error("manifest {digest} in the store is not valid")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: crate::image::ManifestError,
    },
    /// A JSON document of the store cannot be read or made.
    #[error("`{}` is not valid", path.display())]
    Json {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A record's namespace or key, or a side file's kind, cannot be a file name.
    #[error(
        "`{0}` cannot be the key of a record: 1 to 128 letters, digits, `-`, `_` and `.`, not first a `.`"
    )]
    Key(String),
    /// A writer was used on after it had failed.
    #[error("`{}` failed before and cannot be completed", .0.display())]
    Broken(PathBuf),
    /// Others use the store, in this process or elsewhere, so that nothing may be removed from it.
    #[error("the store `{}` is in use by a running build", .0.display())]
    InUse(PathBuf),
}

impl StoreError {
    /// The same failure for a trait that speaks `io::Error` alone; it can be had back with
    /// [`io::Error::downcast`].
    pub fn into_io(self) -> io::Error {
        let kind = match &self {
            Self::Io { source, .. } | Self::Full { source, .. } | Self::NotWritable { source, .. } => {
                source.kind()
            }
            Self::Missing(_) | Self::Incomplete { .. } => io::ErrorKind::NotFound,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        error.into_io()
    }
}

/// Adds to a system's error what was tried on which file.
pub(super) trait At<T> {
    /// The typed error. `operation` is a verb that fits `cannot {operation} PATH`.
    fn at(self, operation: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for Result<T, io::Error> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    StoreError::Full { operation, path, source }
                }
                _ => StoreError::Io { operation, path, source },
            }
        })
    }
}

impl<T> At<T> for Result<T, rustix::io::Errno> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(io::Error::from).at(operation, path)
    }
}
