//! Private directories of running builds, and what removes them.
//!
//! A workspace is `workspaces/<id>`; its lock `workspaces/<id>.lock` is made before the directory and removed
//! after it. A directory whose lock nobody holds belonged to a process that is gone, or was left to a successor ([`succession`]).

use std::ffi::{CStr, OsStr};
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::{At, StoreError};
use super::prune::Swept;
use super::records::list;
use super::succession;
use super::temp::{self, Temp};
use super::{PRIVATE, Store};

/// So many bytes must be free where a workspace is left to a successor: on a disk that is full, whoever builds next needs at
/// once what this one has taken.
const ROOM: u64 = 64 << 20;

/// What a lock's name has behind the workspace's.
const LOCK_SUFFIX: &str = ".lock";

/// A private directory (mode 0700) for one build. Removed, with all that is in it, when dropped.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    /// Held while this lives. Its file is removed last.
    lock: Option<Temp>,
    /// The program that it is left to, if it need not be gone when it is dropped.
    heir: OnceLock<PathBuf>,
    /// Nothing is pruned while a build has a workspace.
    _store: Store,
}

impl Workspace {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the directory to `program`, which is this one, once this is dropped; nobody waits for that.
    pub fn leave_to(&self, program: &Path) {
        // Said twice, it is the same program.
        let _ = self.heir.set(program.to_owned());
    }

    fn hand_over(&self, lock: Temp, program: &Path) -> Result<(), StoreError> {
        // A lock that nobody holds is what tells a sweep that the directory is nobody's.
        let lock = lock.abandon();
        let Err(error) = succession::start(program, &lock) else { return Ok(()) };
        tracing::debug!(%error, "nobody takes over the workspace");
        let (Some(workspaces), Some(name)) = (lock.parent(), lock.file_name().and_then(OsStr::to_str)) else {
            return Ok(());
        };
        sweep_workspace(workspaces, name).map(drop)
    }

    /// Removes the directory, and says if that failed. What could not be removed, a sweep tries again.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn close(mut self) -> Result<(), StoreError> {
        let lock = self.lock.take();
        remove_tree(&self.path)?;
        drop(lock);
        Ok(())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        let removed = match self.heir.get().filter(|_| has_room(&self.path)) {
            Some(program) => self.hand_over(lock, program),
            None => remove_tree(&self.path).map(|()| drop(lock)),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "a workspace could not be removed");
        }
    }
}

/// Whether there is room for another build beside what this one leaves. Where it cannot be told there is.
fn has_room(path: &Path) -> bool {
    rustix::fs::statvfs(path).map_or(true, |disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM)
}

impl Store {
    /// A new, empty workspace.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn workspace(&self) -> Result<Workspace, StoreError> {
        let lock = Temp::create(&self.ours("workspaces"), LOCK_SUFFIX)?;
        let path = lock.path().with_extension("");
        DirBuilder::new().mode(PRIVATE).create(&path).at("create", &path)?;
        Ok(Workspace { path, lock: Some(lock), heir: OnceLock::new(), _store: self.clone() })
    }

    /// Takes over the workspace with this lock, which a build has left. `None` if somebody else has it, or it is gone.
    ///
    /// # Errors
    /// If the lock cannot be taken.
    pub fn take_over(&self, lock: &Path) -> Result<Option<Workspace>, StoreError> {
        let Some(mut left) = abandoned(lock)? else { return Ok(None) };
        // The lock's file goes with the workspace.
        left.keep = true;
        let lock = left.lock.try_clone().at("take over", lock)?;
        let lock = Temp::adopt(lock, left.path.clone());
        let path = lock.path().with_extension("");
        Ok(Some(Workspace { path, lock: Some(lock), heir: OnceLock::new(), _store: self.clone() }))
    }

    /// Whether there is anything that is not `own`'s: what a sweep would remove, or another build still uses.
    ///
    /// # Errors
    /// If the directories cannot be read.
    pub fn has_others(&self, own: &Workspace) -> Result<bool, StoreError> {
        let mut others = list(&self.ours("workspaces"))?.into_iter().filter(|name| {
            let id = name.strip_suffix(LOCK_SUFFIX).unwrap_or(name);
            own.path.file_name() != Some(OsStr::new(id))
        });
        Ok(others.next().is_some() || !list(&self.temporary())?.is_empty())
    }

    /// Removes what processes that are gone have left: temporary files and workspaces. Safe while builds run;
    /// large workspaces take a while, so run it beside the work.
    ///
    /// # Errors
    /// If something cannot be removed. The rest is removed nevertheless.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let mut first_error = None;
        let temporary = self.temporary();
        for name in list(&temporary)? {
            match abandoned(&temporary.join(name)) {
                Ok(Some(lock)) => {
                    drop(lock);
                    swept.files += 1;
                }
                Ok(None) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let workspaces = self.ours("workspaces");
        for name in list(&workspaces)? {
            match sweep_workspace(&workspaces, &name) {
                Ok(removed) => swept.workspaces += u64::from(removed),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(swept), Err)
    }
}

/// A leftover file, locked by us now and removed when dropped.
struct Abandoned {
    path: PathBuf,
    keep: bool,
    /// Keeps others from taking it for a leftover too.
    lock: File,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes over a file that nobody has locked.
fn abandoned(path: &Path) -> Result<Option<Abandoned>, StoreError> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open", path),
    };
    let ours = temp::try_exclusive(&file, path)? && temp::still_named(&file, path).at("inspect", path)?;
    Ok(ours.then(|| Abandoned { path: path.to_owned(), keep: false, lock: file }))
}

pub(super) fn sweep_workspace(workspaces: &Path, name: &str) -> Result<bool, StoreError> {
    if let Some(id) = name.strip_suffix(LOCK_SUFFIX) {
        let Some(mut lock) = abandoned(&workspaces.join(name))? else { return Ok(false) };
        // The lock's file outlives the directory, so that the next sweep tries again what fails now.
        lock.keep = true;
        remove_tree(&workspaces.join(id))?;
        lock.keep = false;
        return Ok(true);
    }
    // The lock is made first and removed last: a directory without one was left when a removal was cut short.
    let path = workspaces.join(name);
    let lock = workspaces.join(format!("{name}{LOCK_SUFFIX}"));
    if lock.exists() || !path.exists() {
        return Ok(false);
    }
    remove_tree(&path).map(|()| true)
}

/// Removes a directory and all that is in it; fine if it is not there.
///
/// What a build leaves can have any mode and any depth. Permissions are given back where they were taken
/// away, and every directory is first moved to the top, so that neither the depth nor the length of a path
/// matters and two descriptors are enough.
pub(super) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    let mut attempts = REMOVAL_ATTEMPTS;
    loop {
        attempts -= 1;
        match remove_once(path) {
            Ok(()) => return Ok(()),
            Err((Errno::NOTEMPTY | Errno::EXIST, _)) if attempts > 0 => {}
            Err((error, path)) => return Err(error).at("remove", &path),
        }
    }
}

/// How often a directory is emptied anew that is not empty afterwards: some file systems pass over names when
/// others are removed meanwhile, and a process of a dead build may still be writing.
const REMOVAL_ATTEMPTS: u32 = 8;

fn remove_once(path: &Path) -> Result<(), (Errno, PathBuf)> {
    let top = match open_directory(rustix::fs::CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err((error, path.to_owned())),
    };
    let mut removal = Removal { top: &top, moved: 0 };
    removal.empty(&top).map_err(|error| (error, path.to_owned()))?;
    let mut next = 0;
    while next < removal.moved {
        let name = Removal::name(next);
        next += 1;
        let result = match open_directory(&top, &*name) {
            // One that an earlier removal had moved, and this one has moved on.
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
            Ok(directory) => removal
                .empty(&directory)
                .and_then(|()| rustix::fs::unlinkat(&top, &*name, AtFlags::REMOVEDIR)),
        };
        result.map_err(|error| (error, path.join(&name)))?;
    }
    match rustix::fs::rmdir(path) {
        Err(Errno::NOENT) => Ok(()),
        other => other.map_err(|error| (error, path.to_owned())),
    }
}

struct Removal<'a> {
    top: &'a OwnedFd,
    /// How many directories were moved to the top.
    moved: u64,
}

impl Removal<'_> {
    /// The name of a moved directory. An image's file could have it by chance only in the top directory
    /// itself.
    fn name(number: u64) -> String {
        format!(".cofferdam-removing-{number}")
    }

    /// Unlinks the files of a directory and moves its directories to the top.
    fn empty(&mut self, directory: &OwnedFd) -> rustix::io::Result<()> {
        // What is moved into the top directory while that is being read may be read there, or not: it is
        // known by its number, and its name says that it has been moved.
        let is_top = std::ptr::eq(directory, self.top);
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." || (is_top && self.is_moved(name)) {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                }
                kind => kind == FileType::Directory,
            };
            if is_directory {
                self.move_up(directory, name)?;
            } else {
                rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn is_moved(&self, name: &CStr) -> bool {
        (name.to_str().ok())
            .and_then(|name| name.strip_prefix(".cofferdam-removing-"))
            .and_then(|number| number.parse::<u64>().ok())
            .is_some_and(|number| number < self.moved)
    }

    fn move_up(&mut self, directory: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        // Empty ones, which are common, need not be moved.
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return other,
        }
        let free = loop {
            let candidate = Self::name(self.moved);
            match rustix::fs::statat(self.top, &*candidate, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => break candidate,
                // An earlier removal has moved it, or the build has named it so: it is emptied in its turn.
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => self.moved += 1,
                Ok(_) => rustix::fs::unlinkat(self.top, &*candidate, AtFlags::empty())?,
                Err(error) => return Err(error),
            }
        };
        let renamed = rustix::fs::renameat(directory, name, self.top, &*free);
        if renamed == Err(Errno::ACCESS) {
            // To move a directory is to write its `..`.
            give_back(directory.as_fd(), name)?;
            rustix::fs::renameat(directory, name, self.top, &*free)?;
        } else {
            renamed?;
        }
        self.moved += 1;
        Ok(())
    }
}

/// Opens a directory of ours that can be listed and emptied, whatever mode it has.
fn open_directory<P: rustix::path::Arg + Copy>(at: impl AsFd, path: P) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(&at, path, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            give_back(at.as_fd(), path)?;
            rustix::fs::openat(&at, path, flags, Mode::empty())?
        }
        other => other?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::fchmod(&directory, Mode::RWXU)?;
    }
    Ok(directory)
}

/// Makes a directory accessible to its owner. Through a descriptor, so that no link is followed.
fn give_back<P: rustix::path::Arg>(at: BorrowedFd<'_>, path: P) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(at, path, flags, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What a build may leave: closed and read-only directories, links out of the tree, odd names.
    fn mess(path: &Path) {
        let deep = path.join("closed/inner/innermost");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "x").unwrap();
        std::fs::create_dir(path.join("empty")).unwrap();
        std::fs::create_dir_all(path.join("readonly/sub/sub2")).unwrap();
        std::fs::write(path.join("readonly/file"), "x").unwrap();
        std::os::unix::fs::symlink("/", path.join("readonly/root")).unwrap();
        std::os::unix::fs::symlink("missing", path.join("dangling")).unwrap();
        std::fs::create_dir_all(path.join(".cofferdam-removing-0/x/y")).unwrap();
        std::fs::write(path.join(".cofferdam-removing-1"), "x").unwrap();
        std::fs::create_dir_all(path.join(".cofferdam-removing-3/z")).unwrap();
        set_mode(&path.join("empty"), 0);
        set_mode(&path.join("readonly/sub"), 0o555);
        set_mode(&path.join("readonly"), 0o555);
        set_mode(&path.join("closed/inner"), 0);
        set_mode(&path.join("closed"), 0);
    }

    #[test]
    fn a_workspace_is_private_and_goes_with_its_owner() {
        let (_directory, store) = store();
        let first = store.workspace().unwrap();
        let second = store.workspace().unwrap();
        assert_ne!(first.path(), second.path());
        assert_eq!(std::fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o700);
        mess(first.path());
        mess(second.path());
        drop(first);
        second.close().unwrap();
        assert!(list(&store.ours("workspaces")).unwrap().is_empty());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let (_directory, store) = store();
        let workspace = store.workspace().unwrap();
        let mut at = rustix::fs::open(workspace.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "directory", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "directory", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        workspace.close().unwrap();
        assert!(list(&store.ours("workspaces")).unwrap().is_empty());
    }

    #[test]
    fn a_sweep_removes_leftovers_and_nothing_that_is_used() {
        let (_directory, store) = store();
        let workspaces = store.ours("workspaces");
        let used = store.workspace().unwrap();
        mess(used.path());
        let mut writer = store.writer().unwrap();
        writer.append(b"still ").unwrap();
        // What a process leaves that was killed: files that nobody has locked.
        std::fs::create_dir(workspaces.join("dead")).unwrap();
        std::fs::write(workspaces.join("dead.lock"), "").unwrap();
        mess(&workspaces.join("dead"));
        std::fs::create_dir(workspaces.join("lockless")).unwrap();
        std::fs::write(workspaces.join("dirless.lock"), "").unwrap();
        std::fs::write(store.temporary().join("dead"), "half a blob").unwrap();
        assert!(store.has_others(&used).unwrap());
        let swept = store.sweep().unwrap();
        assert_eq!(swept, Swept { files: 1, workspaces: 3 });
        assert_eq!(list(&workspaces).unwrap().len(), 2, "the one in use, and its lock");
        assert!(used.path().join("dangling").symlink_metadata().is_ok());
        writer.append(b"there").unwrap();
        assert_eq!(store.read(&writer.commit().unwrap().digest, 100).unwrap(), b"still there");
        assert_eq!(store.sweep().unwrap(), Swept::default());
        assert!(!store.has_others(&used).unwrap());
    }
}
