//! What was selected: files as they are in their origin, in small.

use crate::context::Stamp;
use crate::image::Digest;
use crate::layer::{Metadata, Node, TreePath, Xattrs};

use super::origin::Found;

/// The number of an item in its piece.
pub(super) type ItemNumber = u32;

/// A source of an instruction, or one of the files that a pattern means: what one `cp -a` would copy.
#[derive(Debug)]
pub(super) struct Piece {
    /// The number of the source that it comes from.
    pub source: usize,
    /// The number of the origin that it is in.
    pub origin: usize,
    /// What it is called in a directory that it is copied to: the last component of what was written or matched.
    pub name: Vec<u8>,
    /// Where it is, links followed.
    pub at: TreePath,
    /// Whether it is an archive whose content is meant. It has one item then.
    pub unpacks: bool,
    /// The file or directory, then everything in it, directories before what is in them.
    pub items: Vec<Item>,
}

/// A file. There may be millions of them.
#[derive(Debug)]
pub(super) struct Item {
    /// The last component of its path; empty for a piece's first item.
    pub name: Box<[u8]>,
    /// The directory that it is in; of the first item itself.
    pub parent: ItemNumber,
    pub kind: ItemKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// `None` for the root of an origin, whose time says nothing.
    pub mtime: Option<i64>,
    pub xattrs: Option<Box<Xattrs>>,
    pub stamp: Stamp,
    /// A directory that is there only because something in it is.
    pub is_way: bool,
    /// An earlier item that is the same file under another name.
    pub twin: Option<ItemNumber>,
}

#[derive(Debug)]
pub(super) enum ItemKind {
    Directory,
    /// The digest is found out after the selection.
    File(Option<Digest>),
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

impl Item {
    pub(super) fn new(found: Found, parent: ItemNumber) -> Self {
        let Metadata { mode, uid, gid, mtime, xattrs } = found.metadata;
        let kind = match found.node {
            Node::Directory => ItemKind::Directory,
            Node::Symlink { target } => ItemKind::Symlink(target.into()),
            Node::CharDevice { major, minor } => ItemKind::CharDevice(major, minor),
            Node::BlockDevice { major, minor } => ItemKind::BlockDevice(major, minor),
            Node::Fifo => ItemKind::Fifo,
            Node::File { .. } | Node::Hardlink { .. } => ItemKind::File(None),
        };
        let mut item = Self {
            name: found.name.into(),
            parent,
            kind,
            mode,
            uid,
            gid,
            mtime: Some(mtime),
            xattrs: None,
            stamp: found.stamp,
            is_way: false,
            twin: None,
        };
        item.add_attributes(xattrs);
        item
    }

    /// What it is, for people.
    pub(super) fn describe(&self) -> String {
        let mode = format!("mode {:04o}, owner {}:{}", self.mode & 0o7777, self.uid, self.gid);
        match &self.kind {
            ItemKind::Directory => format!("directory, {mode}"),
            ItemKind::File(Some(digest)) => {
                format!("{} bytes, {mode}, {}", self.stamp.size, digest.hex().get(..12).unwrap_or_default())
            }
            ItemKind::File(None) => format!("{} bytes, {mode}", self.stamp.size),
            ItemKind::Symlink(target) => format!("link to {}", String::from_utf8_lossy(target)),
            ItemKind::CharDevice(major, minor) => format!("character device {major}:{minor}, {mode}"),
            ItemKind::BlockDevice(major, minor) => format!("block device {major}:{minor}, {mode}"),
            ItemKind::Fifo => format!("fifo, {mode}"),
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, ItemKind::Directory)
    }

    pub(super) fn add_attributes(&mut self, attributes: Xattrs) {
        if !attributes.is_empty() {
            self.xattrs.get_or_insert_default().extend(attributes);
        }
    }
}

impl Piece {
    /// Whether it is a directory, whose content is copied.
    pub(super) fn is_directory(&self) -> bool {
        self.items.first().is_some_and(Item::is_directory)
    }

    /// The directory that an item is in, and its name there.
    pub(super) fn place(&self, item: &Item) -> (TreePath, Vec<u8>) {
        if item.name.is_empty() {
            return (self.at.parent().unwrap_or_default(), self.at.file_name().unwrap_or(b".").to_vec());
        }
        (self.path(item.parent), item.name.to_vec())
    }

    /// Where an item is.
    pub(super) fn path(&self, mut number: ItemNumber) -> TreePath {
        let mut names = Vec::new();
        while let Some(item) = self.items.get(number as usize).filter(|item| !item.name.is_empty()) {
            names.push(&*item.name);
            number = item.parent;
        }
        let joined = |path: TreePath, name: &[u8]| path.join(name).unwrap_or_default();
        names.into_iter().rev().fold(self.at.clone(), joined)
    }
}
