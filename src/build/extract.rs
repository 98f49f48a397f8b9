//! Files of an image or an archive in a directory.
//!
//! For `type=local` the entries come from our own walk over the image's root, sorted and each once; what stands in the directory already
//! is overwritten file by file. Owners are set where this process may set them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, makedev,
};
use rustix::io::Errno;

use super::error::BuildError;
use super::transfer::TransferError;
use crate::layer::{ArchiveReader, Change, Entry, LayerReader, Node, TreePath};

/// Writes the files of `layer` into `directory`. Gives the number of device nodes that could not be made.
///
/// # Errors
/// If a file cannot be written, or the layer cannot be read.
pub(super) fn into(directory: &Path, layer: &mut LayerReader) -> Result<usize, BuildError> {
    let failed = |path: &TreePath| {
        let path = directory.join(path.as_path());
        move |source: io::Error| BuildError::Output { path, source }
    };
    let root = File::open(directory).map_err(failed(&TreePath::root()))?;
    let root = OwnedFd::from(root);
    let privileged = rustix::process::geteuid().is_root();
    let mut directories = Vec::new();
    let mut skipped = 0;
    while let Some((change, mut content)) = layer.next()? {
        let Change::Entry(entry) = &change else { continue };
        let Some(name) = entry.path.file_name().map(OsStr::from_bytes) else { continue };
        let parent = open_parent(&root, &entry.path).map_err(failed(&entry.path))?;
        if !privileged && matches!(entry.node, Node::CharDevice { .. } | Node::BlockDevice { .. }) {
            skipped += 1;
            continue;
        }
        make(&root, &parent, name, entry, &mut content).map_err(failed(&entry.path))?;
        if privileged && !matches!(entry.node, Node::Hardlink { .. }) {
            set_owner(&parent, name, entry).map_err(failed(&entry.path))?;
        }
        match entry.node {
            // Modes and times of directories last: they must be writable, and are written to.
            Node::Directory => directories.push(entry.clone()),
            Node::Hardlink { .. } => {}
            _ => finish(&parent, name, entry).map_err(failed(&entry.path))?,
        }
    }
    finish_directories(&root, directories.iter().rev()).map_err(|(path, source)| failed(path)(source))?;
    Ok(skipped)
}

/// Unpacks an archive, compressed or not, into an empty directory of the build's own; `shown` is what it is called. Owners are
/// left alone, and as in all contexts mean nothing; nothing leads out of the directory, be it by `..` or by links.
///
/// # Errors
/// If the archive cannot be read, or has what cannot be there.
pub(super) fn archive(
    directory: &Path,
    source: impl io::Read + Send + 'static,
    shown: &str,
) -> Result<(), BuildError> {
    let failed = |path: &TreePath| {
        let what = format!("cannot unpack `{path}` of `{shown}`");
        move |source: io::Error| BuildError::Input { what, source: Some(source), hint: None }
    };
    let bad = |source| {
        let (path, origin) = (shown.to_owned(), "the build context".to_owned());
        BuildError::Transfer(TransferError::Archive { path, origin, source })
    };
    let root = OwnedFd::from(File::open(directory).map_err(failed(&TreePath::root()))?);
    let mut archive = ArchiveReader::new(source).map_err(bad)?;
    let mut directories = Vec::new();
    while let Some((entry, mut content)) = archive.next().map_err(bad)? {
        let Some(name) = entry.path.file_name().map(OsStr::from_bytes) else { continue };
        let within = entry.path.parent().unwrap_or_default();
        make_parents(&root, &within).map_err(failed(&entry.path))?;
        let parent = open_parent(&root, &entry.path).map_err(failed(&entry.path))?;
        make(&root, &parent, name, &entry, &mut content).map_err(failed(&entry.path))?;
        match entry.node {
            Node::Directory => directories.push(entry),
            Node::Hardlink { .. } => {}
            _ => finish(&parent, name, &entry).map_err(failed(&entry.path))?,
        }
    }
    directories.sort_by(|a, b| b.path.cmp(&a.path));
    finish_directories(&root, &directories).map_err(|(path, source)| failed(path)(source))
}

/// Gives directories their modes and times, those in others before them.
fn finish_directories<'e>(
    root: &OwnedFd,
    directories: impl IntoIterator<Item = &'e Entry>,
) -> Result<(), (&'e TreePath, io::Error)> {
    for entry in directories {
        let Some(name) = entry.path.file_name().map(OsStr::from_bytes) else { continue };
        let finished = open_parent(root, &entry.path).and_then(|parent| finish(&parent, name, entry));
        finished.map_err(|error| (&entry.path, error))?;
    }
    Ok(())
}

/// Makes the directories of a path that are missing: archives need not name them.
fn make_parents(root: &OwnedFd, path: &TreePath) -> io::Result<()> {
    let mut done = TreePath::root();
    for component in path.components() {
        done = done.join(component).map_err(io::Error::other)?;
        let parent = open_parent(root, &done)?;
        match rfs::mkdirat(&parent, OsStr::from_bytes(component), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The directory of a path; links in it are not followed, for the image's own are links here too.
fn open_parent(root: &OwnedFd, path: &TreePath) -> io::Result<OwnedFd> {
    let parent = path.parent().unwrap_or_default();
    let within = if parent.is_root() { OsStr::new(".") } else { parent.as_path().as_os_str() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rfs::openat2(root, within, flags, Mode::empty(), resolve)?)
}

fn make(
    root: &OwnedFd,
    parent: &OwnedFd,
    name: &OsStr,
    entry: &Entry,
    content: &mut dyn io::Read,
) -> io::Result<()> {
    let present = match rfs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(error.into()),
    };
    match (&entry.node, present) {
        (Node::Directory, Some(FileType::Directory)) => return Ok(()),
        (_, Some(FileType::Directory)) => return Err(io::ErrorKind::IsADirectory.into()),
        (_, Some(_)) => rfs::unlinkat(parent, name, AtFlags::empty())?,
        (_, None) => {}
    }
    match &entry.node {
        Node::Directory => rfs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
        Node::File { .. } => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let mut file = File::from(rfs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
            io::copy(content, &mut file)?;
        }
        Node::Symlink { target } => rfs::symlinkat(OsStr::from_bytes(target), parent, name)?,
        Node::Hardlink { target } => {
            let from = open_parent(root, target)?;
            let Some(target) = target.file_name().map(OsStr::from_bytes) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            rfs::linkat(&from, target, parent, name, AtFlags::empty())?;
        }
        Node::Fifo => rfs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?,
        Node::CharDevice { major, minor } => {
            let device = makedev(*major, *minor);
            rfs::mknodat(parent, name, FileType::CharacterDevice, Mode::from_raw_mode(0o600), device)?;
        }
        Node::BlockDevice { major, minor } => {
            let device = makedev(*major, *minor);
            rfs::mknodat(parent, name, FileType::BlockDevice, Mode::from_raw_mode(0o600), device)?;
        }
    }
    Ok(())
}

fn set_owner(parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.metadata.uid), Gid::from_raw(entry.metadata.gid));
    Ok(rfs::chownat(parent.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn finish(parent: &OwnedFd, name: &OsStr, entry: &Entry) -> io::Result<()> {
    if !matches!(entry.node, Node::Symlink { .. }) {
        rfs::chmodat(parent, name, Mode::from_raw_mode(entry.metadata.mode), AtFlags::empty())?;
    }
    let time = Timespec { tv_sec: entry.metadata.mtime, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rfs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
