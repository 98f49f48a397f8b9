//! The image as it becomes: its tree, and over it what the instruction makes.
//!
//! BuildKit carries an instruction out on a mounted root filesystem, one source after the other, and each sees what those
//! before it have made. Here the same operations are carried out on paper: files have inodes, names and modes, and only their
//! contents stay where they are. What differs from the tree at the end is the layer.
//!
//! Invariants: inode 0 is the root directory; a path given to this is canonical, without links on the way; what lies below
//! is looked up when it is asked for, and no sooner.

use std::collections::BTreeMap;

use super::error::TransferError;
use super::item::ItemNumber;
use crate::context::links::{self, FollowError, Look};
use crate::layer::{Entry, Metadata, Node, Tree, TreePath, Xattrs};

/// The number of an inode.
pub(super) type Inode = u32;

/// How often one directory's names are looked up in the tree before all of them are listed.
const FEW: u16 = 8;
/// The bit of a directory's mode by which what is made in it gets its group.
pub(super) const SET_GID: u32 = 0o2000;

/// Whose a file is, and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub xattrs: Option<Box<Xattrs>>,
}

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// An item of the selection.
    Item { piece: u32, item: ItemNumber },
    /// A text in the Dockerfile.
    Inline(u32),
    /// Bytes in the scratch file.
    Scratch { offset: u64 },
}

/// What an inode is.
#[derive(Debug)]
pub(super) enum Kind {
    Directory(Folder),
    File {
        size: u64,
        content: Content,
    },
    Symlink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    /// Anything but a directory that the tree has at this path.
    Below(Node, TreePath),
}

/// A directory.
#[derive(Debug)]
pub(super) struct Folder {
    parent: Inode,
    /// What is known to be in it, and names that the tree has and the image will not.
    children: BTreeMap<Box<[u8]>, Option<Inode>>,
    /// The directory of the tree whose content shows in this one.
    below: Option<TreePath>,
    /// How many names were looked up in the tree.
    asked: u16,
    /// Whether all that the tree has is among the children.
    complete: bool,
    /// Whether the tree has another directory in its place.
    hides: bool,
}

#[derive(Debug)]
struct File {
    kind: Kind,
    meta: Meta,
    /// Whether the tree has it, and with this metadata.
    state: State,
    /// Whether it, or something in it, goes into the layer.
    touched: bool,
    names: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Below,
    Changed,
}

/// The image as it becomes.
#[derive(Debug)]
pub(super) struct Canvas<'t> {
    tree: &'t Tree,
    files: Vec<File>,
}

/// Something a layer says.
pub(super) enum Stroke<'c> {
    /// A path is this.
    Entry(Entry, Option<Content>),
    /// What the tree has in this directory, which has just been said, is gone.
    Opaque(&'c TreePath),
    /// What the tree has at this path is gone.
    Remove(TreePath),
}

/// Why a path leads nowhere on the canvas.
pub(super) enum Astray {
    Loop,
    NotADirectory(TreePath),
}

impl<'t> Canvas<'t> {
    /// The image that a tree is.
    pub(super) fn new(tree: &'t Tree) -> Result<Self, TransferError> {
        let entry = tree.lookup(&TreePath::root())?;
        let meta = entry.map(|entry| entry.metadata).unwrap_or_default();
        let mut canvas = Self { tree, files: Vec::new() };
        let folder = Folder::new(0, Some(TreePath::root()));
        canvas.push(Kind::Directory(folder), Meta::of(meta), State::Below);
        Ok(canvas)
    }

    pub(super) fn meta(&self, inode: Inode) -> Option<&Meta> {
        self.files.get(inode as usize).map(|file| &file.meta)
    }

    pub(super) fn kind(&self, inode: Inode) -> Option<&Kind> {
        self.files.get(inode as usize).map(|file| &file.kind)
    }

    pub(super) fn is_directory(&self, inode: Inode) -> bool {
        matches!(self.kind(inode), Some(Kind::Directory(_)))
    }

    /// Whether this instruction has made it.
    pub(super) fn is_new(&self, inode: Inode) -> bool {
        self.files.get(inode as usize).is_some_and(|file| file.state == State::New)
    }

    /// What it is called in messages.
    pub(super) fn kind_name(&self, inode: Inode) -> &'static str {
        match self.kind(inode) {
            Some(Kind::Below(node, _)) => node.kind(),
            Some(Kind::Directory(_)) => "directory",
            Some(Kind::Symlink(_)) => "symbolic link",
            Some(Kind::File { .. }) | None => "file",
            Some(Kind::CharDevice(..) | Kind::BlockDevice(..)) => "device",
            Some(Kind::Fifo) => "named pipe",
        }
    }

    /// What has a name in a directory. Links are not followed.
    pub(super) fn child(&mut self, directory: Inode, name: &[u8]) -> Result<Option<Inode>, TransferError> {
        let Some(folder) = self.folder(directory) else { return Ok(None) };
        if let Some(known) = folder.children.get(name) {
            return Ok(*known);
        }
        let Some(below) = folder.below.clone().filter(|_| !folder.complete) else { return Ok(None) };
        if folder.asked >= FEW {
            self.list_below(directory, &below)?;
            return Ok(self
                .folder(directory)
                .and_then(|folder| folder.children.get(name).copied().flatten()));
        }
        if let Some(folder) = self.folder_mut(directory) {
            folder.asked += 1;
        }
        let Some(entry) = self.tree.lookup(&below.join(name)?)? else { return Ok(None) };
        self.know(directory, name, entry).map(Some)
    }

    /// What is at a path.
    pub(super) fn at(&mut self, path: &TreePath) -> Result<Option<Inode>, TransferError> {
        self.at_in(0, path)
    }

    /// What is at a path that is seen from a directory.
    pub(super) fn at_in(
        &mut self,
        directory: Inode,
        path: &TreePath,
    ) -> Result<Option<Inode>, TransferError> {
        let mut inode = directory;
        for component in path.components() {
            match self.child(inode, component)? {
                Some(next) => inode = next,
                None => return Ok(None),
            }
        }
        Ok(Some(inode))
    }

    /// Where a path leads that is seen from a directory, which neither `..` nor a link leaves.
    pub(super) fn resolve(
        &mut self,
        directory: Inode,
        path: &[u8],
        follow_last: bool,
    ) -> Result<Result<TreePath, Astray>, TransferError> {
        let mut look = |path: &[u8]| -> Result<Look, TransferError> {
            let Some(inode) = self.at_in(directory, &TreePath::new(path)?)? else { return Ok(Look::Nothing) };
            Ok(match self.kind(inode) {
                Some(Kind::Directory(_)) => Look::Directory,
                Some(Kind::Symlink(target)) => Look::Link(target.to_vec()),
                Some(Kind::Below(Node::Symlink { target }, _)) => Look::Link(target.clone()),
                _ => Look::Other,
            })
        };
        match links::follow(path, follow_last, &mut look) {
            Ok(path) => Ok(Ok(TreePath::new(path)?)),
            Err(FollowError::Loop) => Ok(Err(Astray::Loop)),
            Err(FollowError::NotADirectory(path)) => Ok(Err(Astray::NotADirectory(TreePath::new(path)?))),
            Err(FollowError::Look(error)) => Err(error),
        }
    }

    /// Makes a directory where nothing is.
    pub(super) fn make_directory(
        &mut self,
        parent: Inode,
        name: &[u8],
        meta: Meta,
    ) -> Result<Inode, TransferError> {
        let mut folder = Folder::new(parent, None);
        // Where something was taken away, it may have been a directory, whose content must not show in this one.
        if let Some(above) = self.folder(parent)
            && above.children.get(name) == Some(&None)
            && let Some(below) = &above.below
        {
            let entry = self.tree.lookup(&below.join(name)?)?;
            folder.hides = entry.is_some_and(|entry| entry.node == Node::Directory);
        }
        Ok(self.put(parent, name, Kind::Directory(folder), meta))
    }

    /// Makes anything but a directory, where nothing is.
    pub(super) fn put(&mut self, parent: Inode, name: &[u8], kind: Kind, meta: Meta) -> Inode {
        let inode = self.push(kind, meta, State::New);
        self.give_name(parent, name, inode);
        inode
    }

    /// Gives a file another name, where nothing is.
    pub(super) fn link(&mut self, parent: Inode, name: &[u8], inode: Inode) {
        if let Some(file) = self.files.get_mut(inode as usize) {
            file.names += 1;
        }
        self.give_name(parent, name, inode);
    }

    /// Takes a name away, and all that is in it.
    pub(super) fn remove(&mut self, parent: Inode, name: &[u8]) {
        let Some(folder) = self.folder_mut(parent) else { return };
        let removed = match folder.below {
            // The tree may have it, or what it replaced.
            Some(_) => folder.children.insert(name.into(), None),
            None => folder.children.remove(name),
        };
        if let Some(file) = removed.flatten().and_then(|inode| self.files.get_mut(inode as usize)) {
            file.names = file.names.saturating_sub(1);
        }
        self.touch(parent);
    }

    /// Changes metadata.
    pub(super) fn set_meta(&mut self, inode: Inode, meta: Meta) {
        let Some(file) = self.files.get_mut(inode as usize) else { return };
        let before = std::mem::replace(&mut file.meta, meta);
        // A directory of which the time alone is another is nothing to make an entry for.
        let is_folder = matches!(file.kind, Kind::Directory(_));
        if file.meta == before || is_folder && file.meta == (Meta { mtime: file.meta.mtime, ..before }) {
            return;
        }
        if file.state == State::Below {
            file.state = State::Changed;
        }
        file.touched = true;
        if let Kind::Directory(folder) = &file.kind {
            let parent = folder.parent;
            self.touch(parent);
        }
    }

    /// A file of the tree that got another name and is not the same any more: no layer can say so without its content.
    pub(super) fn lost(&mut self) -> Result<Option<TreePath>, TransferError> {
        let linked = |(inode, file): (usize, &File)| match &file.kind {
            Kind::Below(_, own) if file.names > 1 || file.names == 1 && file.state == State::Changed => {
                Some((inode as Inode, own.clone(), file.state))
            }
            _ => None,
        };
        let linked: Vec<_> = self.files.iter().enumerate().filter_map(linked).collect();
        for (inode, own, state) in linked {
            if state == State::Changed || self.at(&own)? != Some(inode) {
                return Ok(Some(own));
            }
        }
        Ok(None)
    }

    /// Says what the layer has to say, in the order of the paths. Nothing can be asked afterwards.
    pub(super) fn draw(
        &mut self,
        pen: &mut dyn FnMut(Stroke<'_>) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let mut first = BTreeMap::new();
        self.draw_folder(0, &TreePath::root(), &mut first, pen)
    }

    fn draw_folder(
        &mut self,
        inode: Inode,
        path: &TreePath,
        first: &mut BTreeMap<Inode, TreePath>,
        pen: &mut dyn FnMut(Stroke<'_>) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        // The children are not needed any more, and there can be many.
        let Some(folder) = self.folder_mut(inode) else { return Ok(()) };
        let (children, below) = (std::mem::take(&mut folder.children), folder.below.clone());
        for (name, child) in children {
            let path = path.join(&name)?;
            let Some(child) = child else {
                if let Some(below) = &below
                    && self.tree.lookup(&below.join(&name)?)?.is_some()
                {
                    pen(Stroke::Remove(path))?;
                }
                continue;
            };
            self.draw_file(child, &path, first, pen)?;
        }
        Ok(())
    }

    fn draw_file(
        &mut self,
        inode: Inode,
        path: &TreePath,
        first: &mut BTreeMap<Inode, TreePath>,
        pen: &mut dyn FnMut(Stroke<'_>) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let Some(file) = self.files.get(inode as usize) else { return Ok(()) };
        let entry = |node| Entry { path: path.clone(), node, metadata: file.meta.to_metadata() };
        let node = match &file.kind {
            Kind::Directory(folder) => {
                if !file.touched {
                    return Ok(());
                }
                let hides = folder.hides;
                pen(Stroke::Entry(entry(Node::Directory), None))?;
                if hides {
                    pen(Stroke::Opaque(path))?;
                }
                return self.draw_folder(inode, path, first, pen);
            }
            Kind::Below(_, own) => {
                if own == path {
                    return Ok(());
                }
                let target = own.clone();
                return pen(Stroke::Entry(entry(Node::Hardlink { target }), None));
            }
            Kind::File { size, .. } => Node::File { size: *size },
            Kind::Symlink(target) => Node::Symlink { target: target.to_vec() },
            Kind::CharDevice(major, minor) => Node::CharDevice { major: *major, minor: *minor },
            Kind::BlockDevice(major, minor) => Node::BlockDevice { major: *major, minor: *minor },
            Kind::Fifo => Node::Fifo,
        };
        if file.names > 1 {
            if let Some(target) = first.get(&inode) {
                return pen(Stroke::Entry(entry(Node::Hardlink { target: target.clone() }), None));
            }
            first.insert(inode, path.clone());
        }
        let content = match &file.kind {
            Kind::File { content, .. } => Some(*content),
            _ => None,
        };
        pen(Stroke::Entry(entry(node), content))
    }

    fn folder(&self, inode: Inode) -> Option<&Folder> {
        match self.kind(inode) {
            Some(Kind::Directory(folder)) => Some(folder),
            _ => None,
        }
    }

    fn folder_mut(&mut self, inode: Inode) -> Option<&mut Folder> {
        match self.files.get_mut(inode as usize).map(|file| &mut file.kind) {
            Some(Kind::Directory(folder)) => Some(folder),
            _ => None,
        }
    }

    fn push(&mut self, kind: Kind, meta: Meta, state: State) -> Inode {
        let touched = state == State::New;
        self.files.push(File { kind, meta, state, touched, names: 1 });
        self.files.len() as Inode - 1
    }

    fn give_name(&mut self, parent: Inode, name: &[u8], inode: Inode) {
        if let Some(folder) = self.folder_mut(parent) {
            folder.children.insert(name.into(), Some(inode));
        }
        self.touch(parent);
    }

    /// Notes that something in a directory goes into the layer.
    fn touch(&mut self, mut inode: Inode) {
        while let Some(file) = self.files.get_mut(inode as usize).filter(|file| !file.touched) {
            file.touched = true;
            match &file.kind {
                Kind::Directory(folder) => inode = folder.parent,
                _ => return,
            }
        }
    }

    /// Makes an entry of the tree an inode.
    fn know(&mut self, directory: Inode, name: &[u8], entry: Entry) -> Result<Inode, TransferError> {
        let kind = match entry.node {
            Node::Directory => Kind::Directory(Folder::new(directory, Some(entry.path))),
            node => Kind::Below(node, entry.path),
        };
        let inode = self.push(kind, Meta::of(entry.metadata), State::Below);
        if let Some(folder) = self.folder_mut(directory) {
            folder.children.insert(name.into(), Some(inode));
        }
        Ok(inode)
    }

    fn list_below(&mut self, directory: Inode, below: &TreePath) -> Result<(), TransferError> {
        for entry in self.tree.list(below)? {
            let entry = entry?;
            let name = entry.path.file_name().unwrap_or_default().to_vec();
            if self.folder(directory).is_some_and(|folder| !folder.children.contains_key(name.as_slice())) {
                self.know(directory, &name, entry)?;
            }
        }
        if let Some(folder) = self.folder_mut(directory) {
            folder.complete = true;
        }
        Ok(())
    }
}

impl Folder {
    fn new(parent: Inode, below: Option<TreePath>) -> Self {
        Self { parent, children: BTreeMap::new(), below, asked: 0, complete: false, hides: false }
    }
}

impl Meta {
    pub(super) fn of(metadata: Metadata) -> Self {
        let Metadata { mode, uid, gid, mtime, xattrs } = metadata;
        let xattrs = (!xattrs.is_empty()).then(|| Box::new(xattrs));
        Self { mode, uid, gid, mtime, xattrs }
    }

    fn to_metadata(&self) -> Metadata {
        let xattrs = self.xattrs.as_deref().cloned().unwrap_or_default();
        Metadata { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs }
    }
}
