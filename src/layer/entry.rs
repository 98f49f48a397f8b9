//! What a layer says: entries, removals, opaque directories.

use std::collections::BTreeMap;

use super::path::TreePath;

/// The bits of a mode that a layer carries: permissions, setuid, setgid, sticky.
pub const MODE_BITS: u32 = 0o7777;

/// Extended attributes by name. Both are bytes.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is known of a file besides its kind and content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The twelve bits of [`MODE_BITS`]; others are ignored.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Time of last change of the content, seconds since 1970 (negative: before). Layers have no finer times,
    /// so that they do not depend on the file system that a file lay on.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// Attributes that overlayfs keeps for itself. On a layer's file they would be obeyed by the overlay that it is
/// unpacked on.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

impl Metadata {
    /// Removes the attributes that mean something to overlayfs. Layers have none, written or read.
    pub(super) fn drop_overlay_xattrs(&mut self) {
        self.xattrs.retain(|name, _| !OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix)));
    }
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A regular file of `size` bytes. Its content goes beside the entry.
    File {
        /// Size in bytes, holes included.
        size: u64,
    },
    /// A symbolic link. The target is any bytes.
    Symlink {
        /// Where it points to, as written.
        target: Vec<u8>,
    },
    /// Another name of a file, which is earlier in this layer or in a lower one.
    Hardlink {
        /// The other name.
        target: TreePath,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A path with what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: TreePath,
    /// What.
    pub node: Node,
    /// Whose, and so on.
    pub metadata: Metadata,
}

/// One statement of a layer on what lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The path is this now. A directory over a directory changes its metadata only; everything else replaces
    /// what was there.
    Entry(Entry),
    /// What lower layers have at the path is gone (a whiteout, `.wh.NAME`).
    Remove(TreePath),
    /// What lower layers have in the directory is gone (`.wh..wh..opq` in it).
    Opaque(TreePath),
}

impl Change {
    /// The path that the statement is about.
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Entry(entry) => &entry.path,
            Self::Remove(path) | Self::Opaque(path) => path,
        }
    }
}

impl Node {
    /// The size of the content in bytes; 0 where there is none.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size } => *size,
            _ => 0,
        }
    }

    /// What it is called in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File { .. } => "file",
            Self::Symlink { .. } => "symbolic link",
            Self::Hardlink { .. } => "hard link",
            Self::CharDevice { .. } => "character device",
            Self::BlockDevice { .. } => "block device",
            Self::Fifo => "named pipe",
        }
    }
}
