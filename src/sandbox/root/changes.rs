//! Writes what a step has changed as a layer. What that is, [`super::snapshot`] finds.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self as rfs, Mode, OFlags, Stat};

use super::snapshot::{Difference, Snapshot, What, ctime};
use super::{Root, RootError};
use crate::context::fingerprint::user_attributes;
use crate::layer::{Entry, LayerError, LayerWriter, Node, TreePath};
use crate::sandbox::sys::FileIdentity;

impl Root {
    /// Remembers the present state, against which [`Root::write_changes`] compares. Costs nothing if it is known.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn take_snapshot(&self) -> Result<(), RootError> {
        let mut known = self.snapshot();
        let snapshot = match known.take() {
            Some(snapshot) => snapshot,
            None => self.scan(None, &HashSet::new())?.0,
        };
        known.insert(snapshot).wait_for_the_clock();
        Ok(())
    }

    /// Writes what has changed since the snapshot, and remembers the new state.
    ///
    /// # Errors
    /// If a file cannot be read, or the layer cannot be written.
    pub fn write_changes(&self, writer: &mut LayerWriter) -> Result<(), RootError> {
        let mut known = self.snapshot();
        let old = known.take().unwrap_or_default();
        let covered = std::mem::take(&mut *self.covered());
        let (new, differences) = self.scan(Some(&old), &covered)?;
        self.expect_untouched(&old, &differences)?;
        self.write_differences(&differences, writer)?;
        *known = Some(new);
        Ok(())
    }

    /// Writes all files, whatever the snapshot says.
    ///
    /// # Errors
    /// As [`Root::write_changes`].
    pub fn write_everything(&self, writer: &mut LayerWriter) -> Result<(), RootError> {
        let known = self.snapshot();
        let nothing = HashSet::new();
        if let Some(known) = known.as_ref().filter(|_| self.taken_up.is_some()) {
            self.expect_untouched(known, &self.scan(Some(known), &nothing)?.1)?;
        }
        self.write_differences(&self.scan(Some(&Snapshot::default()), &nothing)?.1, writer)
    }

    fn write_differences(&self, all: &[Difference], writer: &mut LayerWriter) -> Result<(), RootError> {
        let identity = self.identity()?;
        let mut writing = Writing::new(self, writer, &identity)?;
        all.iter().filter(|one| one.matters).try_for_each(|one| writing.difference(one))
    }

    /// What differs in a root that was kept must have changed since it was taken up again, for nobody had any business
    /// with it before. What lies in a directory that a step has renamed is elsewhere, and did not change.
    fn expect_untouched(&self, old: &Snapshot, differences: &[Difference]) -> Result<(), RootError> {
        let Some(since) = self.taken_up else { return Ok(()) };
        let early = differences.iter().filter_map(|difference| match &difference.what {
            What::File(stat) | What::Directory { stat, .. } if ctime(stat) < since => {
                Some((difference, stat))
            }
            _ => None,
        });
        let early: Vec<(&Difference, &Stat)> = early.collect();
        if early.is_empty() {
            return Ok(());
        }
        let known = old.inodes();
        let early = early.into_iter().find(|(_, stat)| !known.contains(&(stat.st_ino, ctime(stat))));
        early.map_or(Ok(()), |(difference, _)| Err(RootError::Touched(difference.path.clone())))
    }
}

/// A layer being written.
struct Writing<'w> {
    root: &'w Root,
    writer: &'w mut LayerWriter,
    /// The owner of the root's files, as whom they are read. The layer is written as who the build is: the store need
    /// not be open to the owner.
    identity: &'w FileIdentity,
    /// The directories on the way to what is written, the root first.
    way: Vec<Directory>,
    /// The first name written of each inode that has several.
    links: HashMap<u64, TreePath>,
}

struct Directory {
    path: TreePath,
    fd: OwnedFd,
    /// Directories that have not changed are written if something below them is.
    written: bool,
}

impl<'w> Writing<'w> {
    fn new(
        root: &'w Root,
        writer: &'w mut LayerWriter,
        identity: &'w FileIdentity,
    ) -> Result<Self, RootError> {
        let path = TreePath::root();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rfs::openat(root.directory(), ".", flags, Mode::empty()).map_err(RootError::at("open", &path))?;
        // Every image has a root; a layer speaks of it only if it is given to somebody else.
        let way = vec![Directory { path, fd, written: true }];
        Ok(Self { root, writer, identity, way, links: HashMap::new() })
    }

    fn difference(&mut self, difference: &Difference) -> Result<(), RootError> {
        let path = &difference.path;
        let Some(parent) = path.parent() else {
            return match &difference.what {
                What::Directory { stat, made: false } => {
                    let fd = rustix::io::dup(self.root.directory()).map_err(RootError::at("open", path))?;
                    self.directory(path, stat, fd.as_fd())
                }
                _ => Ok(()),
            };
        };
        self.enter(&parent)?;
        match &difference.what {
            What::Gone => {
                self.write_way()?;
                self.write(|writer| writer.remove(path))
            }
            What::File(stat) => self.file(path, stat),
            What::Directory { .. } => {
                self.enter(path)?;
                self.write_way()
            }
        }
    }

    /// Opens the directories on the way to `path`, and it.
    fn enter(&mut self, path: &TreePath) -> Result<(), RootError> {
        while self.way.len() > 1 && self.way.last().is_some_and(|last| !path.starts_with(&last.path)) {
            self.way.pop();
        }
        while let Some(last) = self.way.last() {
            let Some(name) = path.components().nth(last.path.components().count()) else { break };
            let path = last.path.join(name).map_err(|error| RootError::Layer(error.into()))?;
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rfs::openat(&last.fd, OsStr::from_bytes(name), flags, Mode::empty())
                .map_err(RootError::at("open", &path))?;
            self.way.push(Directory { path, fd, written: false });
        }
        Ok(())
    }

    /// Writes the directories on the way that have not been written.
    fn write_way(&mut self) -> Result<(), RootError> {
        let mut way = std::mem::take(&mut self.way);
        for directory in way.iter_mut().filter(|directory| !directory.written) {
            let stat = rfs::fstat(&directory.fd).map_err(RootError::at("look at", &directory.path))?;
            self.directory(&directory.path, &stat, directory.fd.as_fd())?;
            directory.written = true;
        }
        self.way = way;
        Ok(())
    }

    fn directory(&mut self, path: &TreePath, stat: &Stat, fd: BorrowedFd<'_>) -> Result<(), RootError> {
        match self.entry(path, stat, fd)? {
            Some(entry) => self.write(|writer| writer.entry(&entry)),
            None => Ok(()),
        }
    }

    /// Writes a file that is new or has changed.
    fn file(&mut self, path: &TreePath, stat: &Stat) -> Result<(), RootError> {
        let (Some(name), Some(parent)) = (path.file_name().map(OsStr::from_bytes), self.way.last()) else {
            return Ok(());
        };
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(&parent.fd, name, flags | OFlags::PATH, Mode::empty())
            .map_err(RootError::at("open", path))?;
        let Some(mut entry) = self.entry(path, stat, fd.as_fd())? else { return Ok(()) };
        if let Some(target) = self.links.get(&stat.st_ino).cloned() {
            entry.node = Node::Hardlink { target };
        } else if stat.st_nlink > 1 {
            self.links.insert(stat.st_ino, path.clone());
        }
        let file = match entry.node {
            Node::File { size } if size > 0 => {
                let opened = rfs::openat(&parent.fd, name, flags | OFlags::RDONLY, Mode::empty());
                Some(File::from(opened.map_err(RootError::at("read", path))?))
            }
            _ => None,
        };
        self.write_way()?;
        match file {
            Some(file) => self.write(|writer| writer.file_from(&entry, &file)),
            None => self.write(|writer| writer.entry(&entry)),
        }
    }

    /// The entry of a file, whose content goes apart; `None` for a socket, which no image has.
    fn entry(&self, path: &TreePath, stat: &Stat, fd: BorrowedFd<'_>) -> Result<Option<Entry>, RootError> {
        let target = || Ok(rfs::readlinkat(fd, "", Vec::new())?.into_bytes());
        let described = self.root.describe(stat, target).map_err(RootError::at("look at", path))?;
        let Some((node, mut metadata)) = described else { return Ok(None) };
        if matches!(node, Node::Directory | Node::File { .. }) {
            let attributes = user_attributes(fd).map_err(RootError::at("read the attributes of", path))?;
            metadata.xattrs.extend(attributes);
        }
        Ok(Some(Entry { path: path.clone(), node, metadata }))
    }

    fn write(
        &mut self,
        act: impl FnOnce(&mut LayerWriter) -> Result<(), LayerError>,
    ) -> Result<(), RootError> {
        Ok(self.identity.suspended(|| act(self.writer))?)
    }
}
