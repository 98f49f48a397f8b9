//! Files under a temporary name, and locks, that no crash leaves stuck.
//!
//! Every lock is an `flock`: the kernel drops it with its holder. A temporary file carries the lock of the
//! process that writes it, so that whoever finds one *without* a lock knows that its writer is gone. Between
//! the file's creation and its lock there is a moment in which a sweeper can take it for a leftover; the
//! creator therefore looks, once it has the lock, whether its file still has a name, and starts over if not.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{At, StoreError};

/// Mode of new files, before the umask.
const FILE_MODE: u32 = 0o644;

/// How often a creation is tried anew before something is taken to be wrong: each attempt fails only if a
/// sweeper hit the moment between creation and lock.
const ATTEMPTS: u32 = 100;

/// A name no other process and no other thread uses at the same time.
pub(super) fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Processes in different pods can share a volume and have the same PID; creation is exclusive, the time
    // only makes a second attempt rare.
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{:x}-{count:x}-{nanos:x}", std::process::id())
}

/// Locks exclusively without waiting. Says whether it got the lock.
pub(super) fn try_exclusive(file: &File, path: &Path) -> Result<bool, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}

/// Locks shared without waiting. Says whether it got the lock.
pub(super) fn try_shared(file: &File, path: &Path) -> Result<bool, StoreError> {
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}

/// Waits for the exclusive lock.
pub(super) fn exclusive(file: &File, path: &Path) -> Result<(), StoreError> {
    retry(|| file.lock()).at("lock", path)
}

/// Waits for the shared lock.
pub(super) fn shared(file: &File, path: &Path) -> Result<(), StoreError> {
    retry(|| file.lock_shared()).at("lock", path)
}

/// A signal interrupts a waiting `flock`.
fn retry(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Opens a lock file that is never removed, making it where it is not.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

/// Whether `path` still names the open `file`.
pub(super) fn still_named(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A new file under a temporary name, locked; removed when dropped unless it was kept.
#[derive(Debug)]
pub(super) struct Temp {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Temp {
    /// A new file in `directory`, named at random with `suffix` behind.
    pub(super) fn create(directory: &Path, suffix: &str) -> Result<Self, StoreError> {
        for _ in 0..ATTEMPTS {
            let path = directory.join(unique_name() + suffix);
            let file = match OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(&path)
            {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).at("create", &path),
            };
            let temp = Self { file, path, kept: false };
            if try_exclusive(&temp.file, &temp.path)?
                && still_named(&temp.file, &temp.path).at("check", &temp.path)?
            {
                return Ok(temp);
            }
        }
        let error = io::Error::other("every new file was removed at once");
        Err(error).at("create a file in", directory)
    }

    /// One that somebody else has left, whose lock is ours now.
    pub(super) fn adopt(file: File, path: PathBuf) -> Self {
        Self { file, path, kept: false }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives up the lock and leaves the file where it is; gives its path.
    pub(super) fn abandon(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }

    /// Gives the file the name `to`, replacing what had it.
    pub(super) fn rename(mut self, to: &Path) -> Result<(), StoreError> {
        std::fs::rename(&self.path, to).at("rename a new file to", to)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now, a sweep removes later.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether the content has to be on the disk, and not only in the kernel's memory, when a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// It survives a crash of this process. After a loss of power it may be missing or short.
    Process,
    /// It survives a loss of power, and so does its name.
    Power,
}

/// Replaces `path` with a file of `bytes`, so that every reader sees the old content or the new, whole.
/// `temporary` is a directory on the same file system.
pub(super) fn replace(
    path: &Path,
    temporary: &Path,
    bytes: &[u8],
    durable: Durable,
) -> Result<(), StoreError> {
    let temp = Temp::create(temporary, "")?;
    temp.file().write_all(bytes).at("write", temp.path())?;
    if durable == Durable::Power {
        temp.file().sync_all().at("sync", temp.path())?;
    }
    temp.rename(path)?;
    if durable == Durable::Power
        && let Some(parent) = path.parent()
    {
        sync_directory(parent)?;
    }
    Ok(())
}

/// Waits until the names in a directory are on the disk.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).at("sync", path)
}
