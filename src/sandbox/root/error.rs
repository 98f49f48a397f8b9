//! What can go wrong with a root filesystem.

use std::io;

use thiserror::Error;

use crate::layer::{LayerError, TreePath};

/// Why a root could not be changed or read.
#[derive(Debug, Error)]
pub enum RootError {
    /// The layer cannot be read or written.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A file in the root cannot be made, changed or read.
    #[error("cannot {operation} `/{}` in the root filesystem", String::from_utf8_lossy(path.as_bytes()))]
    File {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: TreePath,
        /// Why it failed.
        source: io::Error,
    },
    /// More files differ from their defaults than a ledger holds.
    #[error("the root filesystem has too many files with owners of their own")]
    LedgerFull,
    /// The layer puts something where its own directories do not allow it.
    #[error("the layer has `/{}` below something that is not a directory", String::from_utf8_lossy(.0.as_bytes()))]
    NotADirectory(TreePath),
    /// Somebody was at a root that was kept between builds.
    #[error("`/{}` in a root filesystem that was kept from an earlier build was changed since, by something else; \
        what is wrong with it is undone now, so build again", String::from_utf8_lossy(.0.as_bytes()))]
    Touched(TreePath),
    /// The root cannot be brought back to what it was; it has to be unpacked anew.
    #[error("`/{}` cannot be brought back", String::from_utf8_lossy(.0.as_bytes()))]
    NotRestorable(TreePath),
    /// The layer has a hard link to nothing.
    #[error("the layer has a hard link `/{}` to `/{}`, which is not there",
        String::from_utf8_lossy(path.as_bytes()), String::from_utf8_lossy(target.as_bytes()))]
    NoTarget {
        /// The link.
        path: TreePath,
        /// What it is to be another name of.
        target: TreePath,
    },
}

impl RootError {
    /// Names the file for an I/O error.
    pub(super) fn at<E: Into<io::Error>>(
        operation: &'static str,
        path: &TreePath,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.clone();
        move |source| Self::File { operation, path, source: source.into() }
    }
}
