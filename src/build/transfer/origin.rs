//! Where files come from: a context or a root filesystem, seen alike.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::error::TransferError;
use crate::context::{ContextError, ContextFile, Kind, Led, LocalContext, Stamp, open_in};
use crate::layer::{Metadata, Node, TreePath, Xattrs};
use crate::sandbox::{Root, RootFile};

/// Where the sources of a COPY or ADD are.
#[derive(Debug, Clone)]
pub enum Files {
    /// The build context, or a named one that is a directory.
    Context(Arc<LocalContext>),
    /// The files of a stage or an image.
    Root(Arc<Root>),
    /// One file that lies somewhere under another name: a blob that was fetched.
    Single(Arc<SingleFile>),
}

/// A file by itself.
#[derive(Debug)]
pub struct SingleFile {
    /// What it is called.
    pub name: Vec<u8>,
    /// Where its content is.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// When it was last changed, seconds since 1970.
    pub mtime: i64,
}

/// Where the sources of a COPY or ADD are, and what that is called in messages.
#[derive(Debug, Clone)]
pub struct Origin {
    files: Files,
    name: Arc<str>,
}

/// A file of an origin.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The last component of its path.
    pub name: Vec<u8>,
    pub node: Node,
    /// Less the attributes that only an open file tells.
    pub metadata: Metadata,
    pub stamp: Stamp,
    pub links: u64,
}

/// What is at a path of an origin.
#[derive(Debug)]
pub(super) enum Seen {
    Nothing,
    Socket,
    File(Found),
}

impl Origin {
    /// The build context, or a named one: `the build context`, ``context `tools` ``.
    pub fn context(context: Arc<LocalContext>, name: impl Into<Arc<str>>) -> Self {
        Self { files: Files::Context(context), name: name.into() }
    }

    /// The files of a stage or an image: ``stage `build` ``, ``image `busybox` ``.
    pub fn root(root: Arc<Root>, name: impl Into<Arc<str>>) -> Self {
        Self { files: Files::Root(root), name: name.into() }
    }

    /// A file that was fetched.
    pub fn single(file: SingleFile, name: impl Into<Arc<str>>) -> Self {
        Self { files: Files::Single(Arc::new(file)), name: name.into() }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is behind it.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// How a path is shown in messages: contexts have relative paths, images absolute ones.
    pub(super) fn shown(&self, path: &TreePath) -> String {
        let text = String::from_utf8_lossy(path.as_bytes());
        match &self.files {
            Files::Context(_) | Files::Single(_) if path.is_root() => ".".to_owned(),
            Files::Context(_) | Files::Single(_) => text.into_owned(),
            Files::Root(_) => format!("/{text}"),
        }
    }

    /// What is at a path. Links are not followed.
    pub(super) fn look(&self, path: &TreePath) -> Result<Seen, TransferError> {
        Ok(match &self.files {
            Files::Context(context) => match context.lookup(path.as_bytes())? {
                None => Seen::Nothing,
                Some(file) => Found::of_context(file).map_or(Seen::Socket, Seen::File),
            },
            Files::Root(root) => {
                root.lookup(path)?.map_or(Seen::Nothing, |file| Seen::File(Found::of_root(file)))
            }
            Files::Single(file) if path.as_bytes() == file.name => Seen::File(self.of_single(file)?),
            Files::Single(_) => Seen::Nothing,
        })
    }

    /// What is in a directory, sorted by name, and the directory's own attributes. Sockets are left out.
    pub(super) fn list(&self, path: &TreePath) -> Result<(Xattrs, Vec<Found>), TransferError> {
        Ok(match &self.files {
            Files::Context(context) => {
                let listing = context.list(path.as_bytes())?;
                (listing.attributes, listing.files.into_iter().filter_map(Found::of_context).collect())
            }
            Files::Root(root) => {
                let listing = root.list(path)?;
                (listing.attributes, listing.files.into_iter().map(Found::of_root).collect())
            }
            Files::Single(file) => (Xattrs::new(), vec![self.of_single(file)?]),
        })
    }

    fn of_single(&self, file: &SingleFile) -> Result<Found, TransferError> {
        let stat = rustix::fs::stat(&file.path).map_err(|error| self.unreadable(file, error.into()))?;
        let stamp = Stamp::of(&stat);
        let metadata = Metadata { mode: file.mode, mtime: file.mtime, ..Metadata::default() };
        let node = Node::File { size: stamp.size };
        Ok(Found { name: file.name.clone(), node, metadata, stamp, links: 1 })
    }

    fn unreadable(&self, file: &SingleFile, source: std::io::Error) -> TransferError {
        let path = String::from_utf8_lossy(&file.name).into_owned();
        TransferError::Read { path, origin: self.name.to_string(), source }
    }

    /// Where a path leads, all links followed.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Led, TransferError> {
        Ok(match &self.files {
            Files::Context(context) => context.resolve(path, true)?,
            Files::Root(root) => root.resolve(path, true)?,
            Files::Single(_) => Led::To(path.to_vec()),
        })
    }

    /// An opener of its files.
    pub(super) fn opener(&self) -> Opener<'_> {
        Opener { origin: self, directory: None }
    }
}

impl Found {
    /// `None` for a socket. Files of a context are root's.
    fn of_context(file: ContextFile) -> Option<Self> {
        let node = match file.kind {
            Kind::Directory => Node::Directory,
            Kind::File => Node::File { size: file.stamp.size },
            Kind::Symlink { target } => Node::Symlink { target },
            Kind::CharDevice { major, minor } => Node::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
            Kind::Fifo => Node::Fifo,
            Kind::Socket => return None,
        };
        let metadata = Metadata { mode: file.mode, mtime: file.mtime, ..Metadata::default() };
        Some(Self { name: file.name, node, metadata, stamp: file.stamp, links: file.links })
    }

    fn of_root(file: RootFile) -> Self {
        let RootFile { name, node, metadata, stamp, links } = file;
        Self { name, node, metadata, stamp, links }
    }
}

/// Opens files, and keeps the directory of the last one: the next is most often in it too.
pub(super) struct Opener<'a> {
    origin: &'a Origin,
    directory: Option<(TreePath, OwnedFd)>,
}

impl Opener<'_> {
    /// Opens a regular file by its directory and name.
    pub(super) fn open(&mut self, directory: &TreePath, name: &[u8]) -> Result<File, TransferError> {
        if let Files::Single(file) = &self.origin.files {
            return File::open(&file.path).map_err(|error| self.origin.unreadable(file, error));
        }
        // The owner of a root's files may be somebody else than this process.
        let _identity = match &self.origin.files {
            Files::Root(root) => Some(root.identity()?),
            Files::Context(_) | Files::Single(_) => None,
        };
        let opened = match &self.directory {
            Some((path, opened)) if path == directory => opened,
            _ => {
                let opened = match &self.origin.files {
                    Files::Context(context) => context.open_directory(directory.as_bytes())?,
                    Files::Root(root) => root.open_directory(directory)?,
                    Files::Single(file) => {
                        return Err(self.origin.unreadable(file, std::io::ErrorKind::NotADirectory.into()));
                    }
                };
                &self.directory.insert((directory.clone(), opened)).1
            }
        };
        open_in(opened.as_fd(), name).map_err(|source| {
            let path = directory.join(name).unwrap_or_default();
            match &self.origin.files {
                Files::Context(context) => {
                    ContextError::File { operation: "read", path: context.shown(path.as_bytes()), source }
                        .into()
                }
                Files::Root(_) | Files::Single(_) => TransferError::Read {
                    path: self.origin.shown(&path),
                    origin: self.origin.name().to_owned(),
                    source,
                },
            }
        })
    }
}
