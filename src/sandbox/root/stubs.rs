//! Stubs: what lies at a step's mount points while it runs.
//!
//! Nothing can be mounted without privilege, so a mount point is a place that the guest must notice. A stub makes
//! sure of it: a file or directory of mode 0000, which the kernel lets nobody pass, and whose inode the guest knows.
//! What the image has at the place gets that mode for the time of the step; what is missing is made, and removed
//! again with the times of its directory as they were: a step leaves no trace of its mounts in the image. But for
//! `/proc`, `/sys` and `/dev`: an image that lacks them gets them with its first step, as it does from BuildKit, whose
//! runtime makes them where they are missing (seen with BuildKit 0.33 and runc: all three with mode 0755, in the layer
//! of the step; no `/etc/resolv.conf`, no `/etc/hosts`, nothing below `/dev`).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as rfs, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;

use super::Root;
use crate::sandbox::abi::MountKind;
use crate::sandbox::ledger::inode_key;
use crate::sandbox::step::MountPoint;
use crate::sandbox::sys;

/// Links that the path of a mount point may go through.
const MAX_LINKS: usize = 16;

/// The mount points that stay in the image as empty directories.
const STAYING: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Their permissions.
const STAYING_MODE: u32 = 0o755;

/// The stubs of a step, which are there until [`Stubs::lift`].
#[derive(Debug, Default)]
pub struct Stubs {
    /// The ledger key of each mount's stub; 0 where there can be none (inside `/proc`).
    keys: Vec<u64>,
    /// What is to be undone, in the order it was done.
    laid: Vec<Laid>,
}

/// Why nothing can be mounted at a place that a step names.
#[derive(Debug, thiserror::Error)]
#[error("nothing can be mounted at `{}`", at.display())]
pub struct NoMountPoint {
    /// The place.
    pub at: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl NoMountPoint {
    fn of(at: &Path, source: io::Error) -> io::Error {
        io::Error::other(Self { at: at.to_owned(), source })
    }
}

#[derive(Debug)]
enum Laid {
    /// Something was there, with these permissions.
    Covered { file: OwnedFd, permissions: u32 },
    /// Nothing was there.
    Made { parent: OwnedFd, name: OsString, is_directory: bool, before: Timespec, after: Timespec },
    /// Nothing was there, and from now on the image has it.
    Given { directory: OwnedFd },
}

impl Stubs {
    /// Lays the stubs of `mounts` in `root`. `step` is the directory that the step's own mounts lie in.
    ///
    /// # Errors
    /// If the root cannot be written to; what was laid is lifted again.
    pub(in crate::sandbox) fn lay(
        root: &Root,
        step: BorrowedFd<'_>,
        mounts: &[MountPoint],
    ) -> io::Result<Self> {
        let mut stubs = Self { keys: vec![0; mounts.len()], laid: Vec::new() };
        // Mount points inside others lie in what is mounted there.
        let mut order: Vec<usize> = (0..mounts.len()).collect();
        order.sort_by_key(|index| mounts.get(*index).map(|mount| mount.at.components().count()));
        for index in order {
            let Some(mount) = mounts.get(index) else { continue };
            let outer = mounts
                .iter()
                .filter(|outer| outer.at != mount.at && mount.at.starts_with(&outer.at))
                .max_by_key(|outer| outer.at.components().count());
            let place = match outer {
                None => None,
                Some(outer) => Some(outer.directory(step)?),
            };
            let key = match place {
                None if STAYING.iter().any(|staying| mount.at == Path::new(staying)) => {
                    stubs.give_directory(root, &mount.at, mount)
                }
                None => stubs.lay_one(root, root.directory(), &mount.at, mount),
                Some(Some(place)) => {
                    let outer = outer.map_or(Path::new("/"), |outer| &outer.at);
                    let below = mount.at.strip_prefix(outer).unwrap_or(&mount.at);
                    stubs.lay_one(root, place.as_fd(), &Path::new("/").join(below), mount)
                }
                // The kernel's own filesystems: the guest finds these mounts by their text.
                Some(None) => Ok(0),
            };
            match (key, stubs.keys.get_mut(index)) {
                (Ok(key), Some(slot)) => *slot = key,
                (Err(error), _) => {
                    stubs.lift()?;
                    return Err(if mount.own.is_some() { NoMountPoint::of(&mount.at, error) } else { error });
                }
                (Ok(_), None) => {}
            }
        }
        Ok(stubs)
    }

    /// The ledger key of each mount's stub.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// Puts everything back.
    pub fn lift(&mut self) -> io::Result<()> {
        while let Some(laid) = self.laid.pop() {
            match laid {
                Laid::Covered { file, permissions } => set_permissions(&file, permissions)?,
                Laid::Given { directory } => set_permissions(&directory, STAYING_MODE)?,
                Laid::Made { parent, name, is_directory, before, after } => {
                    let now = modified(&rfs::fstat(&parent)?);
                    let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                    match rfs::unlinkat(&parent, &name, flags) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        // A directory above a mount point, in which the step has made something: it stays.
                        Err(Errno::NOTEMPTY | Errno::EXIST) => continue,
                        Err(error) => return Err(error.into()),
                    }
                    // Unless the step has changed the directory, it was never changed.
                    set_modified(&parent, if same(&now, &after) { before } else { now })?;
                }
            }
        }
        Ok(())
    }

    /// Lays one stub at `path` (absolute in `directory`) and gives its key.
    fn lay_one(
        &mut self,
        root: &Root,
        directory: BorrowedFd<'_>,
        path: &Path,
        mount: &MountPoint,
    ) -> io::Result<u64> {
        let is_directory = is_directory(mount);
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let (Some(parent_path), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let parent = self.directory(root, directory, parent_path)?;
            match rfs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let stat = self.make(root, parent, name, is_directory)?;
                    return Ok(key(root, &stat));
                }
                Err(error) => return Err(error.into()),
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink => {
                        let target = rfs::readlinkat(&parent, name, Vec::new())?;
                        path = parent_path.join(OsStr::from_bytes(target.as_bytes()));
                    }
                    kind if (kind == FileType::Directory) == is_directory => {
                        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        let file = rfs::openat(&parent, name, flags, Mode::empty())?;
                        set_permissions(&file, 0)?;
                        root.covered().insert(stat.st_ino);
                        self.laid.push(Laid::Covered { file, permissions: stat.st_mode & 0o7777 });
                        return Ok(key(root, &stat));
                    }
                    // A directory where a file belongs, or the reverse.
                    _ if mount.own.is_some() => {
                        return Err(if is_directory { Errno::NOTDIR } else { Errno::ISDIR }.into());
                    }
                    // The image's own, and it stays visible.
                    _ => return Ok(0),
                },
            }
        }
        Err(Errno::LOOP.into())
    }

    /// Lays the stub of a mount point that stays.
    fn give_directory(&mut self, root: &Root, path: &Path, mount: &MountPoint) -> io::Result<u64> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        match rfs::mkdirat(root.directory(), name, Mode::empty()) {
            Err(Errno::EXIST) => return self.lay_one(root, root.directory(), path, mount),
            made => made?,
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rfs::openat(root.directory(), name, flags, Mode::empty())?;
        let stat = rfs::fstat(&directory)?;
        root.note_new(&stat);
        self.laid.push(Laid::Given { directory });
        Ok(key(root, &stat))
    }

    /// The directory at `path`, made with its parents if it is missing.
    fn directory(&mut self, root: &Root, within: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = match rfs::openat2(within, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::NOENT) => path.file_name().ok_or(Errno::NOENT)?,
            other => return Ok(other?),
        };
        let parent = self.directory(root, within, path.parent().unwrap_or(Path::new("/")))?;
        let before = modified(&rfs::fstat(&parent)?);
        rfs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        let made = rfs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        root.note_new(&rfs::fstat(&made)?);
        self.made(parent, name, true, before)?;
        Ok(made)
    }

    /// Makes a stub.
    fn make(&mut self, root: &Root, parent: OwnedFd, name: &OsStr, is_directory: bool) -> io::Result<Stat> {
        let before = modified(&rfs::fstat(&parent)?);
        if is_directory {
            rfs::mkdirat(&parent, name, Mode::empty())?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rfs::openat(&parent, name, flags, Mode::empty())?;
        }
        let stat = rfs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        root.note_new(&stat);
        self.made(parent, name, is_directory, before)?;
        Ok(stat)
    }

    fn made(
        &mut self,
        parent: OwnedFd,
        name: &OsStr,
        is_directory: bool,
        before: Timespec,
    ) -> io::Result<()> {
        let after = modified(&rfs::fstat(&parent)?);
        self.laid.push(Laid::Made { parent, name: name.to_owned(), is_directory, before, after });
        Ok(())
    }
}

fn is_directory(mount: &MountPoint) -> bool {
    mount.kind != MountKind::File
}

fn key(root: &Root, stat: &Stat) -> u64 {
    inode_key(&root.devices(), stat.st_dev, stat.st_ino).unwrap_or(0)
}

fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ }
}

fn same(a: &Timespec, b: &Timespec) -> bool {
    (a.tv_sec, a.tv_nsec) == (b.tv_sec, b.tv_nsec)
}

fn set_modified(directory: &OwnedFd, time: Timespec) -> io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: time };
    let path = sys::fd_path(directory.as_fd());
    Ok(rfs::utimensat(rfs::CWD, path, &times, AtFlags::empty())?)
}

fn set_permissions(file: &OwnedFd, permissions: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(permissions);
    Ok(rfs::chmodat(rfs::CWD, sys::fd_path(file.as_fd()), mode, AtFlags::empty())?)
}
