//! A root filesystem on disk, and the ledger of what its files are to steps.
//!
//! Invariants:
//! 1. Every file below belongs to one real user, which steps run as, and has at least `rw` for it (`rwx` for
//!    directories): the build can read, change and remove its own tree at any time.
//! 2. What a file is to a step (owner, mode, device, capability) is on disk or in the ledger; whoever makes a file
//!    resets the ledger's entry of its inode.
//! 3. Names inside are resolved by `openat2` with `RESOLVE_IN_ROOT` or one component at a time, never by joining
//!    strings: what is in there is hostile.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{self as rfs, Mode, OFlags, ResolveFlags, Stat};

use super::ledger::{Ledger, Record, inode_key};
use super::step::path_of;
use super::sys::{FileIdentity, SharedMemory};
use crate::layer::TreePath;

mod apply;
mod changes;
mod error;
mod keep;
#[cfg(test)]
mod keep_tests;
mod mounted;
mod read;
mod restore;
mod snapshot;
pub(super) mod stubs;
#[cfg(test)]
mod tests;

pub use error::RootError;
pub use mounted::{Account, Filler, MountedDirectory, Top};
pub use read::{RootFile, RootListing};

use snapshot::Snapshot;

/// The real user and group of every file in a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
}

/// A root filesystem. The directory is removed by whoever made the place that it lies in.
#[derive(Debug)]
pub struct Root {
    /// The place of the root itself and of the directories of its steps.
    place: OwnedFd,
    directory: OwnedFd,
    path: PathBuf,
    memory: SharedMemory,
    devices: [u64; 3],
    inode: u64,
    owner: Owner,
    steps: AtomicU32,
    /// The state that changes are found against; unknown after anything but a step has changed the root.
    snapshot: Mutex<Option<Snapshot>>,
    /// Inodes that mount points have covered since the snapshot.
    covered: Mutex<HashSet<u64>>,
    /// When a root that was kept between builds was taken up again: nanoseconds since 1970.
    taken_up: Option<i64>,
    /// What files hold that every step's own lie upon.
    remembered: BTreeMap<TreePath, Vec<u8>>,
}

/// The root filesystem in a root's place.
const FILESYSTEM: &str = "fs";

impl Root {
    /// Makes an empty root in `place`, an empty directory that belongs to `owner`.
    ///
    /// # Errors
    /// If the directory cannot be written to, or there is no memory for the ledger.
    pub fn create(place: &Path, owner: Owner) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rfs::open(place, flags, Mode::empty())?;
        let _identity = FileIdentity::assume(owner.uid, owner.gid)?;
        rfs::mkdirat(&place, FILESYSTEM, Mode::from_raw_mode(0o755))?;
        let directory = rfs::openat(&place, FILESYSTEM, flags, Mode::empty())?;
        let stat = rfs::fstat(&directory)?;
        let memory = SharedMemory::create()?;
        Ok(Self {
            path: path_of(directory.as_fd())?,
            devices: [stat.st_dev, file_device(place.as_fd())?, rfs::fstat(&memory)?.st_dev],
            inode: stat.st_ino,
            memory,
            steps: AtomicU32::new(0),
            snapshot: Mutex::new(None),
            covered: Mutex::new(HashSet::new()),
            taken_up: None,
            remembered: BTreeMap::new(),
            place,
            directory,
            owner,
        })
    }

    /// Makes the directory `path` (absolute), and those above it, where they are missing: of `uid` and `gid`, mode 0755.
    ///
    /// # Errors
    /// If something on the way is no directory, or the ledger is full.
    pub fn ensure_directory(&self, path: &Path, uid: u32, gid: u32) -> Result<(), RootError> {
        let shown = || TreePath::clean(path.as_os_str().as_bytes()).unwrap_or_default();
        let _identity = FileIdentity::assume(self.owner.uid, self.owner.gid)
            .map_err(RootError::at("act as the owner of", &shown()))?;
        self.make_directories(path, uid, gid).map_err(RootError::at("make the directory", &shown()))
    }

    fn make_directories(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open =
            |path: &Path| rfs::openat2(&self.directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        match open(path) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.make_directories(above, uid, gid)?;
        let above = open(above)?;
        rfs::mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
        let stat = rfs::statat(&above, name, rfs::AtFlags::SYMLINK_NOFOLLOW)?;
        self.note_new(&stat);
        if (uid, gid) != (0, 0)
            && let Some(key) = inode_key(&self.devices, stat.st_dev, stat.st_ino)
        {
            let entry = self.ledger().entry(key).ok_or(rustix::io::Errno::NOSPC)?;
            entry.set(Record { uid, gid, mode: stat.st_mode, device: 0 });
        }
        Ok(())
    }

    /// Notes a file that the host has made where steps see it: its inode may have been another file's, which a step
    /// has removed, and of which the ledger still knows.
    pub(super) fn note_new(&self, stat: &Stat) {
        if let Some(key) = inode_key(&self.devices, stat.st_dev, stat.st_ino) {
            self.ledger().reset(key);
        }
    }

    /// The root's directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The directory's path as the kernel tells it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device numbers of directories, of other files, and of files in memory.
    pub fn devices(&self) -> [u64; 3] {
        self.devices
    }

    /// Inode of the root directory.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The real owner of all files.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The memory that steps share with the host.
    pub(super) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// What files are to steps.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.memory.shared().ledger
    }

    fn snapshot(&self) -> MutexGuard<'_, Option<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_snapshot(&self) {
        *self.snapshot() = None;
    }

    fn covered(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the directories of steps lie.
    pub(super) fn place(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }

    /// A name for the directory of the next step.
    pub(super) fn next_step(&self) -> String {
        format!("step-{}", self.steps.fetch_add(1, Ordering::Relaxed))
    }
}

/// The device number of files in `directory`: on an overlay it can differ from that of directories.
fn file_device(directory: BorrowedFd<'_>) -> io::Result<u64> {
    const PROBE: &str = "device";
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rfs::openat(directory, PROBE, flags, Mode::from_raw_mode(0o600))?;
    rfs::unlinkat(directory, PROBE, rfs::AtFlags::empty())?;
    Ok(rfs::fstat(&file)?.st_dev)
}
