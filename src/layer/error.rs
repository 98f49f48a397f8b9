//! What can go wrong when layers are written and read.

use std::io;

use thiserror::Error;

use super::path::{PathError, TreePath, shown};
use crate::image::Digest;
use crate::store::StoreError;

/// A failure to write or read a layer or an archive.
#[derive(Debug, Error)]
pub enum LayerError {
    /// A change was given out of order.
    #[error("`{path}` was given after `{previous}`: changes go in the order of their paths, each path once")]
    Order {
        /// The change.
        path: TreePath,
        /// The change before it.
        previous: TreePath,
    },
    /// A name begins with `.wh.`, which in a layer means a removal.
    #[error("`{0}` cannot be in an image: in a layer, names that begin with `.wh.` remove files")]
    WhiteoutName(TreePath),
    /// The target of a hard link does not come before it.
    #[error("hard link `{path}` comes before its target `{target}`")]
    HardlinkOrder {
        /// The link.
        path: TreePath,
        /// Its target.
        target: TreePath,
    },
    /// A value that tar, or a file system, cannot hold.
    #[error("`{path}` cannot be in a layer: {reason}")]
    Unrepresentable {
        /// The entry.
        path: TreePath,
        /// What cannot be held.
        reason: &'static str,
    },
    /// A file is not what it was when its size was taken.
    #[error("`{path}` changed while it was read: it had {expected} bytes, {actual} could be read")]
    Shrank {
        /// The file.
        path: TreePath,
        /// Size in bytes that the entry names.
        expected: u64,
        /// Size in bytes that was found.
        actual: u64,
    },
    /// A file is not what it was when its size was taken.
    #[error("`{path}` changed while it was read: it had {expected} bytes and has more now")]
    Grew {
        /// The file.
        path: TreePath,
        /// Size in bytes that the entry names.
        expected: u64,
    },
    /// The content of a file cannot be read.
    #[error("cannot read the content of `{path}`")]
    Content {
        /// The file.
        path: TreePath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A writer was used on after it had failed.
    #[error("the layer failed before and cannot be completed")]
    Broken,
    /// The level is not one of the compressor's.
    #[error("{0} is not a compression level of {1}")]
    Level(i32, &'static str),
    /// A compressor failed, or a thread cannot be had.
    #[error("cannot compress a layer")]
    Compress(#[source] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The compressed bytes of a layer or archive cannot be read or decompressed.
    #[error("cannot read the {0}")]
    Source(&'static str, #[source] io::Error),
    /// The bytes are not a tar archive.
    #[error("the archive is not valid at byte {offset}: {reason}")]
    Malformed {
        /// Where, in uncompressed bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The archive has something that this program does not read.
    #[error("`{}` in the archive is {what}, which is not supported", shown(name))]
    Unsupported {
        /// The entry's name, as in the archive.
        name: Vec<u8>,
        /// What it is.
        what: String,
    },
    /// A name in the archive is hostile, or names nothing.
    #[error("the archive has a name that cannot be used")]
    Name(#[from] PathError),
    /// The layer has something in what is not a directory.
    #[error("`{path}` of the layer lies in `{parent}`, which is a {kind}")]
    Inside {
        /// The entry.
        path: TreePath,
        /// What it lies in.
        parent: TreePath,
        /// What that is.
        kind: &'static str,
    },
    /// The layer is not the one that was expected.
    #[error("the layer has wrong content: its diff ID is {actual}, the image says {expected}")]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// The digest of the uncompressed bytes.
        actual: Digest,
    },
    /// The blob is not the one that was expected.
    #[error("the layer's blob has wrong content: its digest is {actual}, the manifest says {expected}")]
    BlobDigest {
        /// What the manifest says.
        expected: Digest,
        /// The digest of the compressed bytes.
        actual: Digest,
    },
}

impl LayerError {
    pub(super) fn malformed(offset: u64, reason: impl Into<String>) -> Self {
        Self::Malformed { offset, reason: reason.into() }
    }
}
