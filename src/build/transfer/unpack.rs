//! Archives that ADD unpacks: moby's `archive.Unpack`, on paper.
//!
//! The destination is a root to the archive: neither `..` nor links lead out of it. Entries keep their modes, `--chmod` is
//! not for them. Contents go to a scratch file, because the layer has them in another order.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use super::canvas::{Astray, Content, Inode, Kind, Meta};
use super::error::TransferError;
use super::item::{Item, Piece};
use super::owner::Owner;
use super::place::Placer;
use crate::context::fingerprint::check_stamp;
use crate::dockerfile::{Diagnostic, quote};
use crate::layer::{ArchiveReader, Entry, LayerError, Metadata, Node, TreePath, Xattrs};
use crate::store::{Store, StoreError};

/// The mode of directories that an archive goes through and has no entry for.
const IMPLIED_MODE: u32 = 0o755;
/// The mode of the directory that an archive is unpacked to, if it is missing.
const DESTINATION_MODE: u32 = 0o755;
/// The attribute, besides those of users, that an image's file can have.
const CAPABILITY: &[u8] = b"security.capability";
/// How much is gathered before it goes to the scratch file.
const GATHER: usize = 256 << 10;

/// Where contents of archives lie until the layer is written.
pub(super) struct Scratch {
    store: Store,
    file: Option<BufWriter<File>>,
    end: u64,
}

impl Scratch {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), file: None, end: 0 }
    }

    /// Appends all of `content`; gives its place and size.
    fn append(&mut self, content: &mut dyn io::Read) -> Result<(u64, u64), Append> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = self.store.scratch_file().map_err(Append::Store)?;
                self.file.insert(BufWriter::with_capacity(GATHER, file))
            }
        };
        let offset = self.end;
        let mut writing = Writing { file, failed: false };
        let size = io::copy(content, &mut writing).map_err(|error| match writing.failed {
            true => Append::Write(error),
            false => Append::Read(error),
        })?;
        self.end += size;
        Ok((offset, size))
    }

    /// The file with everything in it; `None` if nothing is.
    pub(super) fn finish(self) -> io::Result<Option<File>> {
        self.file.map(|file| file.into_inner().map_err(io::IntoInnerError::into_error)).transpose()
    }
}

/// Tells an error of the scratch file from one of the archive.
struct Writing<'f> {
    file: &'f mut BufWriter<File>,
    failed: bool,
}

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|_| self.failed = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

enum Append {
    Read(io::Error),
    Write(io::Error),
    Store(StoreError),
}

/// An archive that is being unpacked.
struct Unpacking<'p> {
    piece: &'p Piece,
    /// The directory that it is unpacked to.
    root: Inode,
    /// The directory of the last entry: the next is most often in it too.
    last: Option<(TreePath, Inode)>,
}

impl Placer<'_> {
    /// Unpacks a piece.
    pub(super) fn archive(&mut self, piece: &Piece, scratch: &mut Scratch) -> Result<(), TransferError> {
        let Some(item) = piece.items.first() else { return Ok(()) };
        let destination = self.destination()?;
        let root = self.directories(&destination, DESTINATION_MODE)?;
        let (directory, name) = piece.place(item);
        let Some(origin) = self.origins.get(piece.origin) else { return Ok(()) };
        let file = origin.opener().open(&directory, &name)?;
        self.check(&file, piece, item)?;
        let again = file.try_clone().map_err(|source| self.unreadable(piece, source))?;
        let mut reader = ArchiveReader::new(file).map_err(|error| self.bad(piece, error))?;
        let mut unpacking = Unpacking { piece, root, last: None };
        while let Some((entry, mut content)) = reader.next().map_err(|error| self.bad(piece, error))? {
            let kept = match entry.node {
                Node::File { .. } => Some(scratch.append(&mut content).map_err(|error| match error {
                    Append::Read(source) => self.bad(piece, LayerError::Source("archive", source)),
                    Append::Write(source) => TransferError::Read {
                        path: "a scratch file".to_owned(),
                        origin: "the store".to_owned(),
                        source,
                    },
                    Append::Store(error) => error.into(),
                })?),
                _ => None,
            };
            self.unpack_entry(&mut unpacking, entry, kept)?;
        }
        self.check(&again, piece, item)
    }

    fn unpack_entry(
        &mut self,
        unpacking: &mut Unpacking<'_>,
        entry: Entry,
        kept: Option<(u64, u64)>,
    ) -> Result<(), TransferError> {
        // What the archive says of its own root is not for the destination.
        let Some(name) = entry.path.file_name().map(<[u8]>::to_vec) else { return Ok(()) };
        let parent = self.way_in(unpacking, &entry.path)?;
        let is_directory = entry.node == Node::Directory;
        let there = self.canvas.child(parent, &name)?;
        if let Some(inode) = there
            && !(is_directory && self.canvas.is_directory(inode))
        {
            self.canvas.remove(parent, &name);
            unpacking.last = None;
        }
        let meta = self.meta_of(entry.metadata);
        let kind = match entry.node {
            Node::Directory => {
                match there.filter(|inode| self.canvas.is_directory(*inode)) {
                    Some(inode) => self.merge(inode, meta),
                    None => drop(self.canvas.make_directory(parent, &name, meta)?),
                }
                return Ok(());
            }
            Node::Hardlink { target } => {
                return self.hard_link(unpacking, parent, &name, &entry.path, &target, meta);
            }
            Node::File { .. } => {
                let (offset, size) = kept.unwrap_or_default();
                Kind::File { size, content: Content::Scratch { offset } }
            }
            Node::Symlink { target } => {
                unpacking.last = None;
                Kind::Symlink(target.into())
            }
            Node::CharDevice { major, minor } => Kind::CharDevice(major, minor),
            Node::BlockDevice { major, minor } => Kind::BlockDevice(major, minor),
            Node::Fifo => Kind::Fifo,
        };
        self.canvas.put(parent, &name, kind, meta);
        Ok(())
    }

    /// An entry for a directory that is there.
    fn merge(&mut self, inode: Inode, meta: Meta) {
        let mut xattrs = self.canvas.meta(inode).and_then(|before| before.xattrs.clone());
        if let Some(more) = meta.xattrs {
            xattrs.get_or_insert_default().extend(*more);
        }
        self.canvas.set_meta(inode, Meta { xattrs, ..meta });
    }

    fn hard_link(
        &mut self,
        unpacking: &Unpacking<'_>,
        parent: Inode,
        name: &[u8],
        path: &TreePath,
        target: &TreePath,
        meta: Meta,
    ) -> Result<(), TransferError> {
        let found = match self.canvas.resolve(unpacking.root, target.as_bytes(), false)? {
            Ok(target) => self.canvas.at_in(unpacking.root, &target)?,
            Err(_) => None,
        };
        let Some(inode) = found.filter(|inode| !self.canvas.is_directory(*inode)) else {
            let what = format!("is a hard link to {}, which is no file there", quote(&target.to_string()));
            return Err(self.astray(unpacking.piece, path, &what));
        };
        self.canvas.link(parent, name, inode);
        // The header of a link is one for the file.
        let Some(before) = self.canvas.meta(inode) else { return Ok(()) };
        let same = (before.mode, before.uid, before.gid) == (meta.mode, meta.uid, meta.gid);
        let is_symlink =
            matches!(self.canvas.kind(inode), Some(Kind::Symlink(_) | Kind::Below(Node::Symlink { .. }, _)));
        let (mode, mtime) = if is_symlink { (before.mode, before.mtime) } else { (meta.mode, meta.mtime) };
        let is_below = matches!(self.canvas.kind(inode), Some(Kind::Below(..)));
        if !(is_below && same) {
            let xattrs = before.xattrs.clone();
            self.canvas.set_meta(inode, Meta { mode, mtime, xattrs, ..meta });
        }
        Ok(())
    }

    /// The directory that an entry is in, made with its parents where it is missing.
    fn way_in(&mut self, unpacking: &mut Unpacking<'_>, entry: &TreePath) -> Result<Inode, TransferError> {
        let path = entry.parent().unwrap_or_default();
        if let Some((last, inode)) = &unpacking.last
            && *last == path
        {
            return Ok(*inode);
        }
        let mut at = unpacking.root;
        let mut done = TreePath::root();
        for component in path.components() {
            done = done.join(component)?;
            at = match self.canvas.child(at, component)? {
                None => {
                    let root = Some(Owner { uid: 0, gid: 0 });
                    let meta = self.fresh_directory(at, IMPLIED_MODE, root);
                    self.canvas.make_directory(at, component, meta)?
                }
                Some(inode) if self.canvas.is_directory(inode) => inode,
                Some(_) => {
                    let there = match self.canvas.resolve(unpacking.root, done.as_bytes(), true)? {
                        Ok(leads_to) => {
                            self.canvas.at_in(unpacking.root, &leads_to)?.map(|inode| (leads_to, inode))
                        }
                        Err(Astray::Loop | Astray::NotADirectory(_)) => None,
                    };
                    match there.filter(|(_, inode)| self.canvas.is_directory(*inode)) {
                        Some((leads_to, inode)) => {
                            done = leads_to;
                            inode
                        }
                        None => {
                            let what = format!(
                                "goes through {}, which is no directory there",
                                quote(&done.to_string())
                            );
                            return Err(self.astray(unpacking.piece, entry, &what));
                        }
                    }
                }
            };
        }
        unpacking.last = Some((path, at));
        Ok(at)
    }

    fn meta_of(&self, metadata: Metadata) -> Meta {
        let Metadata { mode, uid, gid, mtime, mut xattrs } = metadata;
        xattrs.retain(|name, _| name.starts_with(b"user.") || name == CAPABILITY);
        let Owner { uid, gid } = self.owner.unwrap_or(Owner { uid, gid });
        let xattrs: Option<Box<Xattrs>> = (!xattrs.is_empty()).then(|| Box::new(xattrs));
        Meta { mode, uid, gid, mtime, xattrs }
    }

    /// Something in an archive cannot be where it is.
    fn astray(&self, piece: &Piece, path: &TreePath, what: &str) -> TransferError {
        let archive = self.shown(piece);
        let message = format!("{} in the archive {} {what}", quote(&path.to_string()), quote(&archive));
        Diagnostic::error(message, self.span(piece)).into()
    }

    fn check(&self, file: &File, piece: &Piece, item: &Item) -> Result<(), TransferError> {
        check_stamp(file.as_fd(), &item.stamp)
            .map_err(|error| TransferError::reading(error, self.shown(piece), &self.origin_name(piece)))
    }

    fn origin_name(&self, piece: &Piece) -> String {
        self.origins.get(piece.origin).map(|origin| origin.name().to_owned()).unwrap_or_default()
    }

    fn bad(&self, piece: &Piece, source: LayerError) -> TransferError {
        let (path, origin) = (self.shown(piece), self.origin_name(piece));
        TransferError::Archive { path, origin, source }
    }

    fn unreadable(&self, piece: &Piece, source: io::Error) -> TransferError {
        let (path, origin) = (self.shown(piece), self.origin_name(piece));
        TransferError::Read { path, origin, source }
    }
}
