//! Finds what a step has changed, and writes it as a layer.
//!
//! A snapshot holds, for every file, its inode and its ctime. The kernel sets the ctime of a file at each change of
//! content or metadata, and nothing can forge it; so a file whose inode and ctime are those of the snapshot is unchanged,
//! and no content is ever read to find out. What the disk does not show (an owner in the ledger) the guest marks by a
//! change that only moves the ctime.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::time::{ClockId, clock_gettime};

use super::{Root, RootError};
use crate::context::fingerprint::user_attributes;
use crate::layer::{Entry, LayerError, LayerWriter, Node, TreePath};
use crate::sandbox::sys::FileIdentity;

/// What is known of a file from before the step.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Place of the name in the arena, and its length.
    name: (u32, u16),
    is_directory: bool,
    inode: u64,
    /// Nanoseconds since 1970.
    ctime: i64,
    /// Of a directory: where its entries are, and what its own metadata was. (The ctime of a directory changes with
    /// its entries too.)
    directory: u32,
    /// How many names the file has.
    links: u32,
    /// A hash of its size, time and attributes.
    state: u32,
}

#[derive(Debug, Clone, Copy)]
struct KnownDirectory {
    first: u32,
    count: u32,
    attributes: Attributes,
}

/// What makes a directory worth a place in a layer of its own accord. Its time does not: it changes with each file that is
/// made and removed again in it. (BuildKit compares directories so too.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The state of a root at one time. Entries of a directory lie together, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    names: Vec<u8>,
    files: Vec<Known>,
    directories: Vec<KnownDirectory>,
    /// The entry of the root directory.
    root: u32,
    newest: i64,
}

impl Snapshot {
    fn name(&self, known: &Known) -> &[u8] {
        let (start, length) = (known.name.0 as usize, usize::from(known.name.1));
        self.names.get(start..start + length).unwrap_or_default()
    }

    fn entries(&self, directory: u32) -> &[Known] {
        let Some(directory) = self.directories.get(directory as usize) else { return &[] };
        let start = directory.first as usize;
        self.files.get(start..start + directory.count as usize).unwrap_or_default()
    }

    /// Waits until a change would get a later ctime than any that was seen: kernels stamp files by a clock that ticks
    /// every few milliseconds.
    fn wait_for_the_clock(&self) {
        loop {
            let now = clock_gettime(ClockId::RealtimeCoarse);
            let now = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
            // A file from the future (a clock that was set back) will not hold the build up.
            if now > self.newest || self.newest - now > 1_000_000_000 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Root {
    /// Remembers the present state, against which [`Root::write_changes`] compares. Costs nothing if it is known.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn take_snapshot(&self) -> Result<(), RootError> {
        let mut known = self.snapshot();
        if known.is_none() {
            let _identity = self.identity()?;
            let mut walk = Walk { root: self, new: Snapshot::default(), old: None, writer: None };
            walk.run()?;
            *known = Some(walk.new);
        }
        if let Some(snapshot) = &*known {
            snapshot.wait_for_the_clock();
        }
        Ok(())
    }

    /// Writes what has changed since the snapshot, and remembers the new state.
    ///
    /// # Errors
    /// If a file cannot be read, or the layer cannot be written.
    pub fn write_changes(&self, writer: &mut LayerWriter) -> Result<(), RootError> {
        let mut known = self.snapshot();
        let old = known.take().unwrap_or_default();
        let identity = self.identity()?;
        let writing = Writing {
            writer,
            identity: &identity,
            pending: Vec::new(),
            links: HashMap::new(),
            covered: std::mem::take(&mut *self.covered()),
        };
        let mut walk = Walk { root: self, new: Snapshot::default(), old: Some(&old), writer: Some(writing) };
        walk.run()?;
        *known = Some(walk.new);
        Ok(())
    }

    /// Writes all files, whatever the snapshot says.
    ///
    /// # Errors
    /// As [`Root::write_changes`].
    pub fn write_everything(&self, writer: &mut LayerWriter) -> Result<(), RootError> {
        self.forget_snapshot();
        self.write_changes(writer)
    }
}

/// A walk over the root that makes a snapshot and, with a writer, a layer.
struct Walk<'a, 'w> {
    root: &'a Root,
    new: Snapshot,
    old: Option<&'a Snapshot>,
    writer: Option<Writing<'w>>,
}

/// The layer being written.
struct Writing<'w> {
    writer: &'w mut LayerWriter,
    /// The owner of the root's files, as whom they are read. The layer is written as who the build is: the store need
    /// not be open to the owner.
    identity: &'w FileIdentity,
    /// Directories on the way to here that have not been written: they are if anything below them is.
    pending: Vec<Entry>,
    /// The first name written of each inode that has several.
    links: HashMap<u64, TreePath>,
    /// Inodes that the step's mount points covered: their ctime moved, they did not change.
    covered: HashSet<u64>,
}

/// A file as found.
pub(super) struct Found {
    pub(super) name: Vec<u8>,
    pub(super) stat: Stat,
}

impl Walk<'_, '_> {
    fn run(&mut self) -> Result<(), RootError> {
        let path = TreePath::root();
        let stat = rfs::fstat(self.root.directory()).map_err(RootError::at("look at", &path))?;
        let found = Found { name: Vec::new(), stat };
        let old = self.old.and_then(|old| old.files.get(old.root as usize).copied());
        let directory =
            rfs::openat(self.root.directory(), ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(RootError::at("open", &path))?;
        let number = self.directory(&directory, &path, &found, old.as_ref())?;
        let known = self.know(&found, Some(number));
        self.new.root = self.new.files.len() as u32;
        self.new.files.push(known);
        Ok(())
    }

    /// Walks one directory; gives its number in the new snapshot.
    fn directory(
        &mut self,
        directory: &OwnedFd,
        path: &TreePath,
        found: &Found,
        old: Option<&Known>,
    ) -> Result<u32, RootError> {
        let attributes = self.attributes(&found.stat);
        let old = old.filter(|old| old.is_directory);
        let old_attributes =
            old.and_then(|old| Some(self.old?.directories.get(old.directory as usize)?.attributes));
        if self.writer.is_some()
            && let Some(entry) = self.entry(path, found, directory.as_fd())?
        {
            self.consider_directory(entry, attributes, old_attributes)?;
        }
        let found = list_directory(directory, path)?;
        let mut known = Vec::with_capacity(found.len());
        let old_entries = old.and_then(|old| Some(self.old?.entries(old.directory))).unwrap_or_default();
        let mut old_entries = old_entries.iter().peekable();
        for found in found {
            let mut before = None;
            while let (Some(next), Some(old)) = (old_entries.peek(), self.old) {
                let name = old.name(next);
                if name > found.name.as_slice() {
                    break;
                }
                if name == found.name.as_slice() {
                    before = old_entries.next().copied();
                    break;
                }
                self.removed(path, name)?;
                old_entries.next();
            }
            let number = self.file(directory, path, &found, before.as_ref())?;
            known.push(self.know(&found, number));
        }
        if let Some(old) = self.old {
            for gone in old_entries {
                self.removed(path, old.name(gone))?;
            }
        }
        if let Some(writing) = &mut self.writer {
            // If nothing below was written, neither is the directory.
            writing.pending.pop_if(|pending| pending.path == *path);
        }
        let first = self.new.files.len() as u32;
        let count = known.len() as u32;
        self.new.files.extend(known);
        self.new.directories.push(KnownDirectory { first, count, attributes });
        Ok(self.new.directories.len() as u32 - 1)
    }

    /// Writes a directory that has changed; remembers any other, for it is written if something below it is.
    fn consider_directory(
        &mut self,
        entry: Entry,
        now: Attributes,
        before: Option<Attributes>,
    ) -> Result<(), RootError> {
        let Some(writing) = &mut self.writer else { return Ok(()) };
        if entry.path.is_root() {
            // Every image has a root; a layer speaks of it only if it is given to somebody else.
            return if before.is_some_and(|before| before != now) {
                writing.write(|writer| writer.entry(&entry))
            } else {
                Ok(())
            };
        }
        writing.pending.push(entry);
        if before == Some(now) { Ok(()) } else { writing.write_pending() }
    }

    /// One entry of a directory; gives the number of a directory.
    fn file(
        &mut self,
        parent: &OwnedFd,
        parent_path: &TreePath,
        found: &Found,
        before: Option<&Known>,
    ) -> Result<Option<u32>, RootError> {
        let path = parent_path.join(&found.name).map_err(|error| RootError::Layer(error.into()))?;
        let name = OsStr::from_bytes(&found.name);
        if FileType::from_raw_mode(found.stat.st_mode) == FileType::Directory {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory =
                rfs::openat(parent, name, flags, Mode::empty()).map_err(RootError::at("open", &path))?;
            return self.directory(&directory, &path, found, before).map(Some);
        }
        let Some(writing) = &self.writer else { return Ok(None) };
        let same_inode =
            before.is_some_and(|before| !before.is_directory && before.inode == found.stat.st_ino);
        let unchanged = before.is_some_and(|before| {
            // The ctime changes too when another name of the file is removed; that is no reason to write this one.
            let lost_a_name = u64::from(before.links) > found.stat.st_nlink;
            before.ctime == ctime(&found.stat) || lost_a_name && before.state == self.state(&found.stat)
        });
        if same_inode && (unchanged || writing.covered.contains(&found.stat.st_ino)) {
            return Ok(None);
        }
        self.write_file(parent, &path, found)?;
        Ok(None)
    }

    /// Writes a file that is new or has changed.
    fn write_file(&mut self, parent: &OwnedFd, path: &TreePath, found: &Found) -> Result<(), RootError> {
        let name = OsStr::from_bytes(&found.name);
        let linked = found.stat.st_nlink > 1;
        let first = self.writer.as_ref().and_then(|writing| writing.links.get(&found.stat.st_ino)).cloned();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(parent, name, flags, Mode::empty()).map_err(RootError::at("open", path))?;
        let Some(mut entry) = self.entry(path, found, fd.as_fd())? else { return Ok(()) };
        let Some(writing) = &mut self.writer else { return Ok(()) };
        writing.write_pending()?;
        if let Some(target) = first {
            entry.node = Node::Hardlink { target };
        } else if linked {
            writing.links.insert(found.stat.st_ino, path.clone());
        }
        if let Node::File { size } = entry.node
            && size > 0
        {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rfs::openat(parent, name, flags, Mode::empty());
            let file = File::from(opened.map_err(RootError::at("read", path))?);
            writing.write(|writer| writer.file_from(&entry, &file))?;
        } else {
            writing.write(|writer| writer.entry(&entry))?;
        }
        Ok(())
    }

    fn removed(&mut self, parent: &TreePath, name: &[u8]) -> Result<(), RootError> {
        let Some(writing) = &mut self.writer else { return Ok(()) };
        writing.write_pending()?;
        let path = parent.join(name).map_err(|error| RootError::Layer(error.into()))?;
        writing.write(|writer| writer.remove(&path))
    }

    fn know(&mut self, found: &Found, directory: Option<u32>) -> Known {
        let start = self.new.names.len() as u32;
        self.new.names.extend_from_slice(&found.name);
        let ctime = ctime(&found.stat);
        self.new.newest = self.new.newest.max(ctime);
        Known {
            name: (start, found.name.len() as u16),
            is_directory: directory.is_some(),
            inode: found.stat.st_ino,
            ctime,
            directory: directory.unwrap_or_default(),
            links: u32::try_from(found.stat.st_nlink).unwrap_or(u32::MAX),
            state: self.state(&found.stat),
        }
    }

    fn state(&self, stat: &Stat) -> u32 {
        let mut hasher = std::hash::DefaultHasher::new();
        (self.root.seen(stat), stat.st_size, stat.st_mtime, stat.st_mtime_nsec).hash(&mut hasher);
        hasher.finish() as u32
    }

    fn attributes(&self, stat: &Stat) -> Attributes {
        let (mode, uid, gid, _) = self.root.seen(stat);
        Attributes { mode, uid, gid }
    }

    /// The entry of a file, whose content goes apart; `None` for a socket, which no image has.
    fn entry(&self, path: &TreePath, found: &Found, fd: BorrowedFd<'_>) -> Result<Option<Entry>, RootError> {
        let target = || Ok(rfs::readlinkat(fd, "", Vec::new())?.into_bytes());
        let described = self.root.describe(&found.stat, target).map_err(RootError::at("look at", path))?;
        let Some((node, mut metadata)) = described else { return Ok(None) };
        if matches!(node, Node::Directory | Node::File { .. }) {
            let attributes = user_attributes(fd).map_err(RootError::at("read the attributes of", path))?;
            metadata.xattrs.extend(attributes);
        }
        Ok(Some(Entry { path: path.clone(), node, metadata }))
    }
}

impl Writing<'_> {
    /// Writes the directories above what is written next.
    fn write_pending(&mut self) -> Result<(), RootError> {
        for entry in std::mem::take(&mut self.pending) {
            self.write(|writer| writer.entry(&entry))?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        act: impl FnOnce(&mut LayerWriter) -> Result<(), LayerError>,
    ) -> Result<(), RootError> {
        Ok(self.identity.suspended(|| act(self.writer))?)
    }
}

/// The entries of a directory, sorted by name.
pub(super) fn list_directory(directory: &OwnedFd, path: &TreePath) -> Result<Vec<Found>, RootError> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut names = Vec::new();
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(RootError::at("list", path))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match rfs::statat(directory, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push(Found { name, stat }),
            Err(error) => return Err(RootError::at("look at", path)(error)),
        }
    }
    Ok(found)
}

fn ctime(stat: &Stat) -> i64 {
    nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64)
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
