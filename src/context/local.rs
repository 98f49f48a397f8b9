//! A build context that is a directory.
//!
//! Invariants:
//! 1. The directory is opened once. Everything in it is reached from there, no link on the way is followed by the kernel, and
//!    so nothing outside is ever seen.
//! 2. Nothing is written, and no access time is asked for.
//! 3. What the ignore file excludes does not exist; [`LocalContext::hidden`] alone can tell. A directory that is excluded
//!    is there exactly if something in it is not.
//! 4. Owners are not told: files of a context belong to nobody.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::ContextError;
use super::fingerprint::{Attributes, Stamp, link_count, user_attributes};
use super::ignore::{Directory, IgnoreFile, Pattern, Verdict};
use super::links::{FollowError, Look, follow};
use crate::image::{Digest, Sha256};

/// The name of the ignore file in the root of a context.
const IGNORE: &str = ".dockerignore";
/// The largest ignore file, in bytes.
const LARGEST_IGNORE: u64 = 4 << 20;
/// The permission bits, and setuid, setgid and sticky.
const MODE_BITS: u32 = 0o7777;
/// File systems whose kernel sets the ctime itself, by their `statfs` magic: ext2 to ext4, XFS, Btrfs, tmpfs, overlayfs,
/// F2FS, ZFS, bcachefs. On others it is what a server or an image's author says.
const KEEP_CTIME: [u64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e];

#[cfg(test)]
mod tests;

/// What a file of a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink {
        /// Where it points to, as written.
        target: Vec<u8>,
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
    /// A socket.
    Socket,
}

/// A file of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFile {
    /// The last component of its path.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions, setuid, setgid and sticky bits.
    pub mode: u32,
    /// Time of the last change of the content, seconds since 1970.
    pub mtime: i64,
    /// The state it is in.
    pub stamp: Stamp,
    /// How many names it has.
    pub links: u64,
}

/// What is in a directory of a context.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// The directory's own `user.*` attributes.
    pub attributes: Attributes,
    /// Its entries, sorted by name.
    pub files: Vec<ContextFile>,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Led {
    /// To this path, where something may be or not.
    To(Vec<u8>),
    /// Over more links than a kernel would follow.
    Loop,
    /// Through this path, which is not a directory.
    NotADirectory(Vec<u8>),
}

/// Why something that is on disk is not in a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden<'a> {
    /// The ignore file.
    pub file: &'a Path,
    /// The pattern in it that decides.
    pub pattern: &'a Pattern,
}

/// A build context that is a directory. Paths are relative to it, clean, bytes; the empty one is the directory itself.
#[derive(Debug)]
pub struct LocalContext {
    directory: OwnedFd,
    path: PathBuf,
    ignore_path: PathBuf,
    ignore: IgnoreFile,
    /// A directory that is no part of the context, wherever patterns stand.
    left_out: Vec<Vec<u8>>,
    /// Directories that are excluded, and whether something in them is not.
    hollow: Mutex<HashMap<Vec<u8>, bool>>,
}

/// A path without links, of which the last components need not exist.
fn real(path: &Path) -> Option<PathBuf> {
    match path.canonicalize() {
        Ok(real) => Some(real),
        Err(_) => {
            let parent = path
                .parent()
                .map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
            Some(real(parent?)?.join(path.file_name()?))
        }
    }
}

impl LocalContext {
    /// Opens the context in `directory`. The ignore file is the one beside `dockerfile` and called like it with
    /// `.dockerignore` behind, or else the one in the context's root.
    ///
    /// # Errors
    /// If the directory or the ignore file cannot be opened, or the latter has a line that is not a pattern.
    pub fn open(directory: &Path, dockerfile: Option<&Path>) -> Result<Self, ContextError> {
        let mut context = Self::whole(directory)?;
        let text = match dockerfile.map(beside) {
            Some(path) => match read_ignore(|| File::open(&path), &path)? {
                Some(text) => {
                    context.ignore_path = path;
                    Some(text)
                }
                None => context.own_ignore()?,
            },
            None => context.own_ignore()?,
        };
        if let Some(text) = text {
            let path = context.ignore_path.clone();
            context.ignore =
                IgnoreFile::parse(&text).map_err(|source| ContextError::Ignore { path, source })?;
        }
        Ok(context)
    }

    /// Opens a directory all of whose files are meant, whatever an ignore file in it says.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn whole(directory: &Path) -> Result<Self, ContextError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            rfs::open(directory, flags, Mode::empty()).map_err(ContextError::at("open", directory))?;
        Ok(Self {
            directory: opened,
            path: directory.to_owned(),
            ignore_path: directory.join(IGNORE),
            ignore: IgnoreFile::default(),
            left_out: Vec::new(),
            hollow: Mutex::default(),
        })
    }

    /// Leaves a directory out: the state of the build itself, or a cache, which in many CI systems lies in the project and changes
    /// while the files are read. It need not be there yet. Nothing happens if it is not in the context.
    #[must_use]
    pub fn without(mut self, directory: &Path) -> Self {
        if let (Ok(top), Some(directory)) = (self.path.canonicalize(), real(directory)) {
            let within = directory.strip_prefix(top).ok().map(|path| path.as_os_str().as_bytes().to_vec());
            self.left_out.extend(within.filter(|path| !path.is_empty()));
        }
        self
    }

    fn is_left_out(&self, path: &[u8]) -> bool {
        self.left_out.iter().any(|left_out| {
            let rest = path.strip_prefix(left_out.as_slice());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    }

    /// The directory, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ignore file that counts, and what is in it.
    pub fn ignore_file(&self) -> (&Path, &IgnoreFile) {
        (&self.ignore_path, &self.ignore)
    }

    /// What tells this context from others on this machine: the directory, and not what is in it. `None` if the file
    /// system's ctimes are not to be trusted, so that nothing about files can be remembered.
    ///
    /// # Errors
    /// If the directory cannot be looked at.
    pub fn identity(&self) -> Result<Option<Digest>, ContextError> {
        let look = || -> io::Result<Option<Digest>> {
            let system = rfs::fstatfs(&self.directory)?;
            let kind = system.f_type as u64;
            if !KEEP_CTIME.contains(&kind) {
                return Ok(None);
            }
            let stat = rfs::fstat(&self.directory)?;
            let path = std::fs::canonicalize(&self.path)?;
            let mut hash = Sha256::new();
            hash.update(path.as_os_str().as_bytes());
            hash.update(&[0]);
            for number in [kind, stat.st_dev, stat.st_ino] {
                hash.update(&number.to_le_bytes());
            }
            Ok(Some(hash.finish()))
        };
        look().map_err(ContextError::at("look at", &self.path))
    }

    /// What is at a path. Links are not followed.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<ContextFile>, ContextError> {
        let Some(found) = self.look(path)?.filter(|_| !self.is_left_out(path)) else { return Ok(None) };
        let state = self.state(parent(path));
        let kind = if found.kind == Kind::Directory { FileType::Directory } else { FileType::RegularFile };
        let is_there = path.is_empty() || self.ignore.is_empty() || self.shows_entry(&state, path, kind)?;
        Ok(is_there.then_some(found))
    }

    /// What is in a directory, which has to be one of the context.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn list(&self, directory: &[u8]) -> Result<Listing, ContextError> {
        let opened = self.open_directory(directory)?;
        let shown = self.shown(directory);
        let attributes =
            user_attributes(opened.as_fd()).map_err(ContextError::at("read the attributes of", &shown))?;
        let state = self.state(directory);
        let mut files = Vec::new();
        for (name, kind) in names(&opened, &shown)? {
            if !self.left_out.is_empty() && self.is_left_out(&join(directory, &name)) {
                continue;
            }
            // What is excluded need not be looked at.
            if !self.ignore.is_empty() && !self.shows_entry(&state, &join(directory, &name), kind)? {
                continue;
            }
            // It may have been removed by now.
            files.extend(found(opened.as_fd(), OsStr::from_bytes(&name), || {
                self.shown(&join(directory, &name))
            })?);
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Listing { attributes, files })
    }

    /// Where a path leads that somebody wrote: links are followed inside the context, which `..` does not leave.
    ///
    /// # Errors
    /// If something on the way cannot be looked at.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Led, ContextError> {
        let mut look = |path: &[u8]| {
            Ok(match self.lookup(path)?.map(|file| file.kind) {
                None => Look::Nothing,
                Some(Kind::Directory) => Look::Directory,
                Some(Kind::Symlink { target }) => Look::Link(target),
                Some(_) => Look::Other,
            })
        };
        match follow(path, follow_last, &mut look) {
            Ok(path) => Ok(Led::To(path)),
            Err(FollowError::Loop) => Ok(Led::Loop),
            Err(FollowError::NotADirectory(path)) => Ok(Led::NotADirectory(path)),
            Err(FollowError::Look(error)) => Err(error),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// If it cannot be read, or is a link by now.
    pub fn open_file(&self, path: &[u8]) -> Result<File, ContextError> {
        self.open_at(path, READ_FILE).map(File::from).map_err(ContextError::at("read", &self.shown(path)))
    }

    /// Opens a directory, to open files in it by their names with [`open_in`].
    ///
    /// # Errors
    /// If it cannot be read, or is a link by now.
    pub fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, ContextError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.open_at(path, flags).map_err(ContextError::at("read the directory", &self.shown(path)))
    }

    /// Why something that is on disk at `path` is not in the context; `None` if it is, or nothing is there.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn hidden(&self, path: &[u8]) -> Result<Option<Hidden<'_>>, ContextError> {
        if self.look(path)?.is_none() || self.lookup(path)?.is_some() {
            return Ok(None);
        }
        let pattern = self.ignore.explain(path);
        Ok(pattern.map(|pattern| Hidden { file: &self.ignore_path, pattern }))
    }

    /// The names of all that is on disk in a directory, be it of the context or hidden: for messages.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn names_on_disk(&self, directory: &[u8]) -> Result<Vec<Vec<u8>>, ContextError> {
        let found = names(&self.open_directory(directory)?, &self.shown(directory))?;
        let mut names: Vec<_> = found.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A path as the user finds it.
    pub fn shown(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(path)) }
    }

    fn own_ignore(&self) -> Result<Option<String>, ContextError> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            Ok(rfs::openat2(&self.directory, IGNORE, flags, Mode::empty(), within)?.into())
        };
        read_ignore(open, &self.ignore_path)
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rfs::openat2(&self.directory, OsStr::from_bytes(path), flags, Mode::empty(), within)
    }

    /// What is on disk at a path.
    fn look(&self, path: &[u8]) -> Result<Option<ContextFile>, ContextError> {
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
            None if path.is_empty() => (path, b".".as_slice()),
            None => (b"".as_slice(), path),
        };
        match self.open_at(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC) {
            Ok(opened) => found(opened.as_fd(), OsStr::from_bytes(name), || self.shown(path)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(ContextError::at("look at", &self.shown(path))(error)),
        }
    }

    /// What to judge the entries of a directory by.
    fn state(&self, directory: &[u8]) -> Directory {
        let mut state = self.ignore.root();
        if directory.is_empty() || self.ignore.is_empty() {
            return state;
        }
        let slashes = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in slashes.chain([directory.len()]) {
            state = self.ignore.enter(&state, directory.get(..end).unwrap_or_default()).1;
        }
        state
    }

    /// Whether a directory is there, by the verdict on it.
    fn shows(&self, path: &[u8], verdict: Verdict, inside: &Directory) -> Result<bool, ContextError> {
        match verdict {
            Verdict::Included => Ok(true),
            Verdict::Excluded => Ok(false),
            Verdict::LookInside => self.has_something(path, inside),
        }
    }

    /// Whether an entry of a directory is there; `state` is the directory's.
    fn shows_entry(&self, state: &Directory, path: &[u8], kind: FileType) -> Result<bool, ContextError> {
        let is_directory = match kind {
            FileType::Unknown => self.look(path)?.is_some_and(|file| file.kind == Kind::Directory),
            kind => kind == FileType::Directory,
        };
        if is_directory {
            let (verdict, inside) = self.ignore.enter(state, path);
            self.shows(path, verdict, &inside)
        } else {
            Ok(self.ignore.check(state, path) == Verdict::Included)
        }
    }

    /// Whether something in an excluded directory is not excluded.
    fn has_something(&self, directory: &[u8], state: &Directory) -> Result<bool, ContextError> {
        let remembered = || self.hollow.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = remembered().get(directory) {
            return Ok(*answer);
        }
        let opened = self.open_directory(directory)?;
        let mut answer = false;
        for (name, kind) in names(&opened, &self.shown(directory))? {
            answer = self.shows_entry(state, &join(directory, &name), kind)?;
            if answer {
                break;
            }
        }
        remembered().insert(directory.to_vec(), answer);
        Ok(answer)
    }
}

/// How regular files are opened. What has become a pipe in the meantime does not hold the build up.
const READ_FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Opens a regular file in a directory by its name.
///
/// # Errors
/// What the system said.
pub fn open_in(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    Ok(rfs::openat(directory, OsStr::from_bytes(name), READ_FILE, Mode::empty())?.into())
}

/// The path of an entry.
fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// The directory that a path is in.
fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    path.get(..end).unwrap_or_default()
}

/// The ignore file that goes with a Dockerfile.
fn beside(dockerfile: &Path) -> PathBuf {
    let mut path = dockerfile.as_os_str().to_owned();
    path.push(IGNORE);
    path.into()
}

/// The text of an ignore file; `None` if there is none, or a directory has its name.
fn read_ignore(open: impl FnOnce() -> io::Result<File>, path: &Path) -> Result<Option<String>, ContextError> {
    let failed = |error| ContextError::at("read", path)(error);
    let file = match open() {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    if file.metadata().map_err(failed)?.is_dir() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_IGNORE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_IGNORE {
        return Err(ContextError::IgnoreTooLarge { path: path.to_owned(), limit: LARGEST_IGNORE });
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The names in a directory, and what they are as far as the directory tells.
fn names(directory: &OwnedFd, shown: &Path) -> Result<Vec<(Vec<u8>, FileType)>, ContextError> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(ContextError::at("list", shown))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

/// An entry of a directory; `None` if it is not there.
fn found(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    shown: impl FnOnce() -> PathBuf,
) -> Result<Option<ContextFile>, ContextError> {
    let stat = match rfs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(ContextError::at("look at", &shown())(error)),
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => match rfs::readlinkat(directory, name, Vec::new()) {
            Ok(target) => Kind::Symlink { target: target.into_bytes() },
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(ContextError::at("read the link", &shown())(error)),
        },
        FileType::CharacterDevice => {
            let (major, minor) = device(&stat);
            Kind::CharDevice { major, minor }
        }
        FileType::BlockDevice => {
            let (major, minor) = device(&stat);
            Kind::BlockDevice { major, minor }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    };
    Ok(Some(ContextFile {
        name: name.as_bytes().to_vec(),
        kind,
        mode: stat.st_mode & MODE_BITS,
        mtime: stat.st_mtime,
        stamp: Stamp::of(&stat),
        links: link_count(&stat),
    }))
}

fn device(stat: &Stat) -> (u32, u32) {
    (rfs::major(stat.st_rdev), rfs::minor(stat.st_rdev))
}
