//! What can go wrong with a build context.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::ignore::IgnoreError;

/// Why a context cannot be used.
#[derive(Debug, Error)]
pub enum ContextError {
    /// A file cannot be looked at or read.
    #[error("cannot {operation} `{}`", path.display())]
    File {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what, as the user finds it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The ignore file is not one.
    #[error("`{}` cannot be used", path.display())]
    Ignore {
        /// The ignore file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IgnoreError,
    },
    /// The ignore file is larger than any that a person has written.
    #[error("`{}` is larger than {limit} bytes", path.display())]
    IgnoreTooLarge {
        /// The ignore file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file has changed while it was read, so that nobody could say what the image would hold.
    #[error("`{}` changed while it was read", .0.display())]
    Changed(PathBuf),
}

impl ContextError {
    /// Names the file for an I/O error.
    pub(super) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source: source.into() }
    }
}
