//! Applies layers to a root.
//!
//! A layer is hostile until proven otherwise: every parent directory is resolved by the kernel inside the root, every
//! entry is made in its parent by its one name, and nothing is followed at the end of a path. What a layer says of owners,
//! modes, devices and capabilities goes to the disk as far as it may stay there, and to the ledger for the rest.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    self as rfs, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::{Root, RootError};
use crate::layer::{Change, Entry, LayerReader, Metadata, Node, TreePath};
use crate::sandbox::ledger::{Record, inode_key};
use crate::sandbox::rules::mode;
use crate::sandbox::sys::{self, FileIdentity};

/// Links that the parent of an entry may go through where directories are missing.
const MAX_LINKS: usize = 16;
/// A file of at least this size is looked at for blocks of zeros, which become holes.
const SPARSE_FROM: u64 = 1 << 20;

impl Root {
    /// Applies all that is left in `layer`. The caller finishes the reader, and so learns whether the layer was what
    /// it should be; if it was not, the root is good for nothing.
    ///
    /// # Errors
    /// If the layer cannot be read, cannot be applied, or the disk fails.
    pub fn apply(&self, layer: &mut LayerReader) -> Result<(), RootError> {
        let owner = self.owner();
        let assumed = FileIdentity::assume(owner.uid, owner.gid);
        let identity = assumed.map_err(RootError::at("act as the owner of", &TreePath::root()))?;
        let mut applier = Applier::new(self, self.directory());
        // Reading may write: an index of the layer, into a store that is not the root's owner's.
        while let Some((change, mut content)) = identity.suspended(|| layer.next())? {
            applier.change(&change, &mut content)?;
        }
        self.forget_snapshot();
        applier.set_directory_times()
    }
}

/// Makes the files of entries.
pub(super) struct Applier<'a> {
    root: &'a Root,
    /// What is applied to: the root itself, or a directory beside it.
    top: BorrowedFd<'a>,
    /// The directory of the last entry: the next is most often in it too.
    parent: Option<(TreePath, OwnedFd)>,
    /// Inodes that this layer has made: an opaque directory hides all others.
    made: HashSet<u64>,
    /// Directories and their times, which are set when nothing more is made in them.
    directories: Vec<(TreePath, i64)>,
}

impl<'a> Applier<'a> {
    /// Applies to `top`, whose files the ledger of `root` knows.
    pub(super) fn new(root: &'a Root, top: BorrowedFd<'a>) -> Self {
        Self { root, top, parent: None, made: HashSet::new(), directories: Vec::new() }
    }

    fn change(&mut self, change: &Change, content: &mut dyn BufRead) -> Result<(), RootError> {
        match change {
            Change::Entry(entry) => self.entry(entry, content),
            Change::Remove(path) => self.remove(path),
            Change::Opaque(path) => self.hide_lower(path),
        }
    }

    /// The directory `path`, made with its parents if it is missing.
    fn directory(&mut self, path: &TreePath) -> Result<BorrowedFd<'_>, RootError> {
        let cached = self.parent.as_ref().is_some_and(|(cached, _)| cached == path);
        if !cached {
            let fd = self.open_directory(path, 0)?;
            self.parent = Some((path.clone(), fd));
        }
        match &self.parent {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Ok(self.top),
        }
    }

    fn open_directory(&mut self, path: &TreePath, links: usize) -> Result<OwnedFd, RootError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = if path.is_root() { OsStr::new(".") } else { path.as_path().as_os_str() };
        match rfs::openat2(self.top, within, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::NOENT) if links < MAX_LINKS => {}
            Err(Errno::NOTDIR) => return Err(RootError::NotADirectory(path.clone())),
            other => return other.map_err(RootError::at("open", path)),
        }
        let (Some(parent_path), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(RootError::at("open", path)(Errno::NOENT));
        };
        let name = OsStr::from_bytes(name);
        let parent = self.open_directory(&parent_path, links)?;
        match rfs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let made = rfs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(RootError::at("open", path))?;
                let stat = rfs::fstat(&made).map_err(RootError::at("look at", path))?;
                self.note_made(&stat);
                Ok(made)
            }
            // A link to a directory that is missing: it is made where the link points.
            Err(Errno::EXIST) => {
                let target = rfs::readlinkat(&parent, name, Vec::new())
                    .map_err(|_| RootError::NotADirectory(path.clone()))?;
                let target = target.as_bytes();
                let start = if target.starts_with(b"/") { TreePath::root() } else { parent_path };
                let joined = [start.as_bytes(), b"/", target].concat();
                let target = TreePath::clean(&joined).map_err(|error| RootError::Layer(error.into()))?;
                self.open_directory(&target, links + 1)
            }
            Err(error) => Err(RootError::at("make", path)(error)),
        }
    }

    /// Notes a new inode: whatever the ledger knew of it was another file's.
    fn note_made(&mut self, stat: &Stat) -> Option<u64> {
        self.made.insert(stat.st_ino);
        let key = inode_key(&self.root.devices(), stat.st_dev, stat.st_ino)?;
        self.root.ledger().reset(key);
        Some(key)
    }

    /// Makes what `entry` says, in place of what there is.
    pub(super) fn entry(&mut self, entry: &Entry, content: &mut dyn BufRead) -> Result<(), RootError> {
        let path = &entry.path;
        let Some(name) = path.file_name().map(OsStr::from_bytes) else {
            let root = rustix::io::dup(self.top).map_err(RootError::at("open", path))?;
            self.directories.push((path.clone(), entry.metadata.mtime));
            return self.set_metadata(root.as_fd(), mode::DIRECTORY, entry);
        };
        let parent_path = path.parent().unwrap_or_default();
        let parent = rustix::io::dup(self.directory(&parent_path)?).map_err(RootError::at("open", path))?;
        let kept = self.make_way(parent.as_fd(), name, entry)?;
        match &entry.node {
            Node::Directory => {
                if !kept {
                    let made = rfs::mkdirat(&parent, name, Mode::from_raw_mode(0o755));
                    made.map_err(RootError::at("make", path))?;
                }
                self.finish(parent.as_fd(), name, mode::DIRECTORY, !kept, entry)?;
                self.directories.push((path.clone(), entry.metadata.mtime));
                Ok(())
            }
            Node::File { .. } => self.file(parent.as_fd(), name, entry, content),
            Node::Symlink { target } => {
                rfs::symlinkat(OsStr::from_bytes(target), &parent, name)
                    .map_err(RootError::at("make", path))?;
                self.finish(parent.as_fd(), name, mode::SYMLINK, true, entry)
            }
            Node::Hardlink { target } => self.hard_link(parent.as_fd(), name, path, target),
            Node::Fifo => self.node(parent.as_fd(), name, FileType::Fifo, mode::FIFO, entry),
            // No privilege, no device: an empty file stands for it, and the ledger knows.
            Node::CharDevice { .. } => {
                self.node(parent.as_fd(), name, FileType::RegularFile, mode::CHARACTER, entry)
            }
            Node::BlockDevice { .. } => {
                self.node(parent.as_fd(), name, FileType::RegularFile, mode::BLOCK, entry)
            }
        }
    }

    /// Removes what an entry replaces. A directory over a directory replaces nothing: `true`.
    fn make_way(&mut self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<bool, RootError> {
        let stat = match rfs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other.map_err(RootError::at("look at", &entry.path))?,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && entry.node == Node::Directory {
            return Ok(true);
        }
        remove_tree(parent, name, is_directory).map_err(RootError::at("replace", &entry.path))?;
        Ok(false)
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        content: &mut dyn BufRead,
    ) -> Result<(), RootError> {
        let path = &entry.path;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let disk = mode::on_disk(mode::REGULAR | entry.metadata.mode);
        let fd = rfs::openat(parent, name, flags, Mode::from_raw_mode(disk));
        let mut file = File::from(fd.map_err(RootError::at("make", path))?);
        copy_content(content, &mut file, entry.node.size()).map_err(|error| match error {
            Copy::Read(source) => RootError::Layer(crate::layer::LayerError::Source("layer", source)),
            Copy::Write(source) => RootError::at("write", path)(source),
        })?;
        let stat = rfs::fstat(&file).map_err(RootError::at("look at", path))?;
        self.set_new_metadata(file.as_fd(), &stat, mode::REGULAR, entry)?;
        set_times(&file, entry.metadata.mtime).map_err(RootError::at("set the times of", path))
    }

    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        real: FileType,
        kind: u32,
        entry: &Entry,
    ) -> Result<(), RootError> {
        let disk = Mode::from_raw_mode(mode::on_disk(kind | entry.metadata.mode));
        rfs::mknodat(parent, name, real, disk, 0).map_err(RootError::at("make", &entry.path))?;
        self.finish(parent, name, kind, true, entry)
    }

    /// Metadata and times of what is not a file.
    fn finish(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        kind: u32,
        made: bool,
        entry: &Entry,
    ) -> Result<(), RootError> {
        let path = &entry.path;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(parent, name, flags, Mode::empty()).map_err(RootError::at("open", path))?;
        if made {
            let stat = rfs::fstat(&fd).map_err(RootError::at("look at", path))?;
            self.set_new_metadata(fd.as_fd(), &stat, kind, entry)?;
        } else {
            self.set_metadata(fd.as_fd(), kind, entry)?;
        }
        if kind == mode::DIRECTORY {
            return Ok(());
        }
        set_link_times(parent, name, entry.metadata.mtime).map_err(RootError::at("set the times of", path))
    }

    fn set_new_metadata(
        &mut self,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        kind: u32,
        entry: &Entry,
    ) -> Result<(), RootError> {
        self.note_made(stat);
        self.put_metadata(fd, stat, kind, entry)
    }

    fn set_metadata(&mut self, fd: BorrowedFd<'_>, kind: u32, entry: &Entry) -> Result<(), RootError> {
        let stat = rfs::fstat(fd).map_err(RootError::at("look at", &entry.path))?;
        self.made.insert(stat.st_ino);
        self.put_metadata(fd, &stat, kind, entry)
    }

    /// Writes mode, owner and attributes: to the disk what may be there, to the ledger what differs.
    fn put_metadata(
        &self,
        fd: BorrowedFd<'_>,
        stat: &Stat,
        kind: u32,
        entry: &Entry,
    ) -> Result<(), RootError> {
        let Metadata { mode: wanted, uid, gid, xattrs, .. } = &entry.metadata;
        let wanted = kind | wanted & mode::PERMISSIONS;
        let disk = mode::on_disk(wanted);
        if stat.st_mode & mode::PERMISSIONS != disk && kind != mode::SYMLINK {
            let path = sys::fd_path(fd);
            rfs::chmodat(rfs::CWD, path, Mode::from_raw_mode(disk), AtFlags::empty())
                .map_err(RootError::at("set the mode of", &entry.path))?;
        }
        let device = match entry.node {
            Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
                major << 20 | minor & 0xf_ffff
            }
            _ => 0,
        };
        let capability = xattrs.get(CAPABILITY);
        let default = *uid == 0
            && *gid == 0
            && (wanted & mode::PERMISSIONS == disk || kind == mode::SYMLINK)
            && device == 0
            && capability.is_none();
        let key = inode_key(&self.root.devices(), stat.st_dev, stat.st_ino);
        if let Some(key) = key {
            if default {
                self.root.ledger().reset(key);
            } else {
                let ledger_entry = self.root.ledger().entry(key).ok_or(RootError::LedgerFull)?;
                if matches!(kind, mode::CHARACTER | mode::BLOCK) {
                    self.root.ledger().note_device();
                }
                // A link has all permissions, whatever an archive says.
                let mode = if kind == mode::SYMLINK { kind | 0o777 } else { wanted };
                ledger_entry.set(Record { uid: *uid, gid: *gid, mode, device });
                ledger_entry.set_capability(capability.map_or(&[], Vec::as_slice));
            }
        }
        self.set_user_attributes(fd, entry)
    }

    /// `user.*` are the filesystem's. Others are not a step's to see; they stay in the layer that has them.
    fn set_user_attributes(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), RootError> {
        let user = entry.metadata.xattrs.iter().filter(|(name, _)| name.starts_with(b"user."));
        for (name, value) in user {
            let path = sys::fd_path(fd);
            match rfs::setxattr(path, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // A filesystem without attributes; or a link or node, which may have none.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
                Err(error) => return Err(RootError::at("set an attribute of", &entry.path)(error)),
            }
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &TreePath,
        target: &TreePath,
    ) -> Result<(), RootError> {
        let Some(target_name) = target.file_name().map(OsStr::from_bytes) else {
            return Err(RootError::at("link", path)(Errno::PERM));
        };
        let target_parent = target.parent().unwrap_or_default();
        let missing = || RootError::NoTarget { path: path.clone(), target: target.clone() };
        let target_directory = match self.open_directory(&target_parent, MAX_LINKS) {
            Err(RootError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(missing());
            }
            other => other?,
        };
        match rfs::linkat(&target_directory, target_name, parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Err(missing()),
            other => other.map_err(RootError::at("link", path))?,
        }
        let stat = rfs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        self.made.insert(stat.map_err(RootError::at("look at", path))?.st_ino);
        Ok(())
    }

    /// Removes what is at a path, if anything is.
    pub(super) fn remove(&mut self, path: &TreePath) -> Result<(), RootError> {
        let Some(name) = path.file_name().map(OsStr::from_bytes) else { return Ok(()) };
        let parent_path = path.parent().unwrap_or_default();
        // Nothing to remove where there is not even a directory.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = if parent_path.is_root() { OsStr::new(".") } else { parent_path.as_path().as_os_str() };
        let directory = self.top;
        let parent = match rfs::openat2(directory, within, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other.map_err(RootError::at("open", &parent_path))?,
        };
        match rfs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(RootError::at("look at", path)(error)),
            Ok(stat) => {
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                self.parent = None;
                remove_tree(parent.as_fd(), name, is_directory).map_err(RootError::at("remove", path))
            }
        }
    }

    /// Removes from a directory what lower layers put there.
    fn hide_lower(&mut self, path: &TreePath) -> Result<(), RootError> {
        let directory = self.open_directory(path, 0)?;
        self.parent = None;
        let made = &self.made;
        remove_content(directory.as_fd(), &|stat| made.contains(&stat.st_ino))
            .map_err(RootError::at("clear", path))
    }

    /// Has the directory at `path` get this time in the end.
    pub(super) fn note_time(&mut self, path: TreePath, mtime: i64) {
        self.directories.push((path, mtime));
    }

    /// Sets the times of directories, when nothing more is made in them.
    pub(super) fn set_directory_times(&mut self) -> Result<(), RootError> {
        for (path, mtime) in std::mem::take(&mut self.directories).into_iter().rev() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let within = if path.is_root() { OsStr::new(".") } else { path.as_path().as_os_str() };
            let directory = self.top;
            match rfs::openat2(directory, within, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                Ok(fd) => {
                    set_times_by_path(&sys::fd_path(fd.as_fd()), mtime)
                        .map_err(RootError::at("set the times of", &path))?;
                }
                // The layer itself has replaced it.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(RootError::at("open", &path)(error)),
            }
        }
        Ok(())
    }
}

/// The one attribute besides `user.*` that a container's root may set.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

enum Copy {
    Read(io::Error),
    Write(io::Error),
}

/// Copies a file's content. Long runs of zeros in large files become holes.
fn copy_content(content: &mut dyn BufRead, file: &mut File, size: u64) -> Result<(), Copy> {
    let sparse = size >= SPARSE_FROM;
    loop {
        let bytes = content.fill_buf().map_err(Copy::Read)?;
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        if sparse && length >= 4096 && bytes.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(length as i64)).map_err(Copy::Write)?;
        } else {
            file.write_all(bytes).map_err(Copy::Write)?;
        }
        content.consume(length);
    }
    if sparse { file.set_len(size).map_err(Copy::Write) } else { Ok(()) }
}

/// Removes an entry and all below it. Real directories are always searchable, so nothing needs to be changed first.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr, is_directory: bool) -> io::Result<()> {
    if !is_directory {
        return Ok(rfs::unlinkat(parent, name, AtFlags::empty())?);
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rfs::openat(parent, name, flags, Mode::empty())?;
    remove_content(directory.as_fd(), &|_| false)?;
    Ok(rfs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Removes what is in a directory, but for what `keep` says is to stay, at any depth.
fn remove_content(directory: BorrowedFd<'_>, keep: &dyn Fn(&Stat) -> bool) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = rfs::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&listed)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in names {
        let stat = rfs::statat(&listed, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory {
            let below = rfs::openat(&listed, &name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            remove_content(below.as_fd(), keep)?;
        }
        if !keep(&stat) {
            let how = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match rfs::unlinkat(&listed, &name, how) {
                // Something that stays is in there.
                Err(Errno::NOTEMPTY) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Layers have whole seconds.
fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn set_times(file: &File, mtime: i64) -> io::Result<()> {
    Ok(rfs::futimens(file, &times(mtime))?)
}

fn set_times_by_path(path: &str, mtime: i64) -> io::Result<()> {
    Ok(rfs::utimensat(rfs::CWD, path, &times(mtime), AtFlags::empty())?)
}

fn set_link_times(parent: BorrowedFd<'_>, name: &OsStr, mtime: i64) -> io::Result<()> {
    Ok(rfs::utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}
