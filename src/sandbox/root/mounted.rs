//! Directories that are mounted for steps: their own, beside the root, and such as outlive the build.
//!
//! Their files lie on the root's file system and belong to its owner, so the root's ledger knows them too. Of a directory that
//! outlives the build an [`Account`] is kept: what the ledger said of its files. Several builds may use one at a time, each with
//! a ledger of its own; so the account that is written is made of three: what the ledger says now, what it said at the
//! beginning, and what others have written meanwhile. What this build has changed counts, and else what the others say.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, OsStr, OsString};
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::apply::{Applier, remove_tree};
use super::{Root, RootError};
use crate::layer::{Entry, TreePath};
use crate::sandbox::ledger::{Record, inode_key};
use crate::sandbox::rules::mode;
use crate::sandbox::sys::{self, FileIdentity};

/// What the ledger said of the files of a directory that outlives the build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// When it was written, nanoseconds since 1970; 0 if it never was.
    saved: i64,
    /// By the key of the inode.
    files: BTreeMap<u64, Noted>,
}

/// A file of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    /// When the inode was made, nanoseconds since 1970: another file that has got its number is another one.
    born: i64,
    uid: u32,
    gid: u32,
    mode: u32,
    device: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    capability: Vec<u8>,
}

/// A directory beside a root, for one step. Removed, with all that is in it, when dropped.
#[derive(Debug)]
pub struct MountedDirectory {
    place: OwnedFd,
    name: String,
    directory: OwnedFd,
    owner: super::Owner,
}

impl MountedDirectory {
    /// The directory itself, path-only.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What is in it by this name, path-only.
    ///
    /// # Errors
    /// If there is no such thing.
    pub fn entry(&self, name: &[u8]) -> io::Result<OwnedFd> {
        let _identity = FileIdentity::assume(self.owner.uid, self.owner.gid)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rfs::openat(&self.directory, OsStr::from_bytes(name), flags, Mode::empty())?)
    }

    /// The bytes that the files in it take on disk, each counted once. What goes away meanwhile is not counted, nor is a
    /// file without a name.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn usage(&self) -> io::Result<u64> {
        let _identity = FileIdentity::assume(self.owner.uid, self.owner.gid)?;
        let mut usage = Usage { bytes: 0, linked: HashSet::new() };
        usage.add(self.directory.as_fd(), c".", 0)?;
        Ok(usage.bytes)
    }
}

/// What files take, while they are counted.
struct Usage {
    bytes: u64,
    /// Files of several names that were counted, by inode.
    linked: HashSet<u64>,
}

impl Usage {
    /// Directories are open on the way down; who nests them deeper than this deceives himself alone.
    const DEEPEST: usize = 200;

    fn add(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rfs::openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => directory,
            // It went, or became something else. A mount point of a mount inside cannot be entered, and is empty.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rfs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                if depth < Self::DEEPEST {
                    self.add(directory.as_fd(), name, depth + 1)?;
                }
            } else if stat.st_nlink <= 1 || self.linked.insert(stat.st_ino) {
                self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
            }
        }
        Ok(())
    }
}

impl Drop for MountedDirectory {
    fn drop(&mut self) {
        let removed = FileIdentity::assume(self.owner.uid, self.owner.gid)
            .and_then(|_identity| remove_tree(self.place.as_fd(), OsStr::new(&self.name), true));
        if let Err(error) = removed {
            // It goes with the root's place.
            tracing::debug!(%error, "a mounted directory could not be removed");
        }
    }
}

/// Puts files into a directory, one after the other: parents first, a link behind what it is a link to.
pub struct Filler<'a> {
    root: &'a Root,
    applier: Applier<'a>,
}

impl std::fmt::Debug for Filler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filler").finish_non_exhaustive()
    }
}

impl Filler<'_> {
    /// Makes a file.
    ///
    /// # Errors
    /// If it cannot be made, or its content not be read.
    pub fn entry(&mut self, entry: &Entry, content: &mut dyn BufRead) -> Result<(), RootError> {
        let _identity = self.root.identity()?;
        self.applier.entry(entry, content)
    }

    /// Sets what could not be set before: the times of directories.
    ///
    /// # Errors
    /// If they cannot be.
    pub fn finish(mut self) -> Result<(), RootError> {
        let _identity = self.root.identity()?;
        self.applier.set_directory_times()
    }
}

/// Mode and owner of a directory, as steps see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Top {
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Root {
    /// Makes an empty directory beside the root.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn mounted_directory(&self, top: Top) -> Result<MountedDirectory, RootError> {
        let make = || -> io::Result<MountedDirectory> {
            let _identity = FileIdentity::assume(self.owner.uid, self.owner.gid)?;
            let name = format!("mounted-{}", self.next_step());
            rfs::mkdirat(&self.place, &name, Mode::RWXU)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rfs::openat(&self.place, &name, flags, Mode::empty())?;
            let place = rustix::io::dup(&self.place)?;
            Ok(MountedDirectory { place, name, directory, owner: self.owner })
        };
        let made = make().map_err(RootError::at("make a directory beside", &TreePath::root()))?;
        self.set_top(made.directory(), top)?;
        Ok(made)
    }

    /// Says what a directory, which the root's owner owns, is to steps.
    ///
    /// # Errors
    /// If the disk fails, or the ledger is full.
    pub fn set_top(&self, directory: BorrowedFd<'_>, top: Top) -> Result<(), RootError> {
        let failed = RootError::at("set the mode of a directory beside", &TreePath::root());
        let _identity = self.identity()?;
        let disk = mode::on_disk(mode::DIRECTORY | top.mode);
        let set = || -> io::Result<rfs::Stat> {
            let path = sys::fd_path(directory);
            rfs::chmodat(rfs::CWD, path, Mode::from_raw_mode(disk), AtFlags::empty())?;
            Ok(rfs::fstat(directory)?)
        };
        let stat = set().map_err(failed)?;
        let Some(key) = inode_key(&self.devices, stat.st_dev, stat.st_ino) else { return Ok(()) };
        self.ledger().reset(key);
        if (top.uid, top.gid, top.mode & mode::PERMISSIONS) != (0, 0, disk) {
            let entry = self.ledger().entry(key).ok_or(RootError::LedgerFull)?;
            let mode = mode::DIRECTORY | top.mode & mode::PERMISSIONS;
            entry.set(Record { uid: top.uid, gid: top.gid, mode, device: 0 });
        }
        Ok(())
    }

    /// Says what a file in memory is to steps.
    ///
    /// # Errors
    /// If the ledger is full.
    pub fn set_file(&self, file: BorrowedFd<'_>, top: Top) -> Result<(), RootError> {
        let failed = RootError::at("set the mode of a file beside", &TreePath::root());
        let set = || -> io::Result<rfs::Stat> {
            let _identity = FileIdentity::assume(self.owner.uid, self.owner.gid)?;
            let kind = rfs::fstat(file)?.st_mode & mode::KIND;
            let path = sys::fd_path(file);
            let disk = Mode::from_raw_mode(mode::on_disk(kind | top.mode));
            rfs::chmodat(rfs::CWD, path, disk, AtFlags::empty())?;
            Ok(rfs::fstat(file)?)
        };
        let stat = set().map_err(failed)?;
        let Some(key) = inode_key(&self.devices, stat.st_dev, stat.st_ino) else { return Ok(()) };
        let mode = stat.st_mode & mode::KIND | top.mode & mode::PERMISSIONS;
        let entry = self.ledger().entry(key).ok_or(RootError::LedgerFull)?;
        entry.set(Record { uid: top.uid, gid: top.gid, mode, device: 0 });
        entry.set_capability(&[]);
        Ok(())
    }

    /// Fills a directory beside the root.
    pub fn filler<'a>(&'a self, directory: BorrowedFd<'a>) -> Filler<'a> {
        Filler { root: self, applier: Applier::new(self, directory) }
    }

    /// Takes a directory that outlives the build in: from now on the ledger says of its files what the account does. Gives what
    /// was taken over, which [`Root::account`] asks for.
    ///
    /// # Errors
    /// If it cannot be read, or the ledger is full.
    pub fn take_in(&self, directory: BorrowedFd<'_>, account: &Account) -> Result<Account, RootError> {
        let mut taken = Account { saved: account.saved, files: BTreeMap::new() };
        let mut heir: Option<(u32, u32)> = None;
        self.each_file(directory, &mut |found| {
            self.ledger().reset(found.key);
            let known = account.files.get(&found.key).filter(|noted| noted.born == found.born).cloned();
            let owner = *heir.get_or_insert(known.as_ref().map_or((0, 0), |noted| (noted.uid, noted.gid)));
            // Whoever made it has not told, being killed or still at work: then it is the directory's owner's.
            let untold = found.born > account.saved && owner != (0, 0);
            let inherited = untold.then(|| Noted {
                born: found.born,
                uid: owner.0,
                gid: owner.1,
                mode: found.mode,
                device: 0,
                capability: Vec::new(),
            });
            let is_device = known
                .as_ref()
                .is_some_and(|noted| matches!(noted.mode & mode::KIND, mode::CHARACTER | mode::BLOCK));
            if found.mode & mode::PERMISSIONS == 0 && found.mode & mode::KIND != mode::SYMLINK && !is_device {
                // The mount point of a step that was killed.
                found.give_back()?;
            }
            if let Some(noted) = known.or(inherited) {
                let entry = self.ledger().entry(found.key).ok_or(RootError::LedgerFull)?;
                if is_device {
                    self.ledger().note_device();
                }
                let Noted { uid, gid, mode, device, .. } = noted;
                entry.set(Record { uid, gid, mode, device });
                entry.set_capability(&noted.capability);
                taken.files.insert(found.key, noted);
            }
            Ok(())
        })?;
        Ok(taken)
    }

    /// The account of a directory that was taken in: `taken` is what it was then, `stored` what is kept of it now.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn account(
        &self,
        directory: BorrowedFd<'_>,
        taken: &Account,
        stored: &Account,
    ) -> Result<Account, RootError> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let saved = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        let mut files = BTreeMap::new();
        self.each_file(directory, &mut |found| {
            let own = self.noted(found);
            let of = |account: &Account| {
                account.files.get(&found.key).filter(|noted| noted.born == found.born).cloned()
            };
            let changed = own != of(taken);
            let noted = if changed { own } else { of(stored).or(own) };
            if let Some(noted) = noted {
                files.insert(found.key, noted);
            }
            Ok(())
        })?;
        Ok(Account { saved, files })
    }

    fn noted(&self, found: &Found<'_>) -> Option<Noted> {
        let entry = self.ledger().find(found.key)?;
        let Record { uid, gid, mode, device } = entry.get()?;
        let capability =
            entry.capability().map(|(bytes, length)| bytes.get(..length).unwrap_or(&[]).to_vec());
        Some(Noted { born: found.born, uid, gid, mode, device, capability: capability.unwrap_or_default() })
    }

    /// Looks at a directory and all that is in it. What goes away meanwhile is not there.
    fn each_file(
        &self,
        directory: BorrowedFd<'_>,
        act: &mut dyn FnMut(&Found<'_>) -> Result<(), RootError>,
    ) -> Result<(), RootError> {
        fn failed<E: Into<io::Error>>() -> impl FnOnce(E) -> RootError {
            RootError::at("look through what is mounted in", &TreePath::root())
        }
        let _identity = self.identity()?;
        let top = Found::at(self, directory, OsStr::new("")).map_err(failed())?;
        if let Some(top) = top {
            act(&top)?;
        }
        let mut open = vec![PathBuf::from(".")];
        while let Some(path) = open.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let listed = match rfs::openat2(directory, &path, flags, Mode::empty(), resolve) {
                Ok(listed) => listed,
                // Gone, or so deep that no path leads there: what is in there is root's.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => continue,
                Err(error) => return Err(failed()(error)),
            };
            for entry in Dir::read_from(&listed).map_err(failed())? {
                let name = entry.map_err(failed())?.file_name().to_bytes().to_vec();
                if matches!(name.as_slice(), b"." | b"..") {
                    continue;
                }
                let name = OsString::from_vec(name);
                let Some(found) = Found::at(self, listed.as_fd(), &name).map_err(failed())? else { continue };
                act(&found)?;
                if found.mode & mode::KIND == mode::DIRECTORY {
                    open.push(path.join(&name));
                }
            }
        }
        Ok(())
    }
}

/// A file in a directory that is looked through.
struct Found<'a> {
    directory: BorrowedFd<'a>,
    name: &'a OsStr,
    key: u64,
    /// Kind and permissions on disk.
    mode: u32,
    born: i64,
}

impl<'a> Found<'a> {
    /// Nothing if it is not there, or on another file system.
    fn at(root: &Root, directory: BorrowedFd<'a>, name: &'a OsStr) -> io::Result<Option<Self>> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat: Statx = match rfs::statx(directory, name, flags, wanted) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let device = rfs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        let Some(key) = inode_key(&root.devices, device, stat.stx_ino) else { return Ok(None) };
        let born =
            stat.stx_btime.tv_sec.saturating_mul(1_000_000_000).saturating_add(stat.stx_btime.tv_nsec.into());
        Ok(Some(Self { directory, name, key, mode: stat.stx_mode.into(), born }))
    }

    /// Gives the owner the permissions back that every file has on disk.
    fn give_back(&self) -> Result<(), RootError> {
        let disk = mode::on_disk(self.mode & mode::KIND | 0o644);
        let disk = if self.mode & mode::KIND == mode::DIRECTORY { disk | 0o055 } else { disk };
        let change = || -> io::Result<()> {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rfs::openat(self.directory, self.name, flags, Mode::empty())?;
            let path = sys::fd_path(file.as_fd());
            Ok(rfs::chmodat(rfs::CWD, path, Mode::from_raw_mode(disk), AtFlags::empty())?)
        };
        change().map_err(RootError::at("restore a mount point in", &TreePath::root()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::sandbox::Owner;

    struct Bench {
        directory: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir_all(directory.path().join("cache/sub")).unwrap();
            Self { directory }
        }

        /// The root of another build.
        fn root(&self, name: &str) -> Root {
            let place = self.directory.path().join(name);
            fs::create_dir(&place).unwrap();
            let metadata = fs::metadata(&place).unwrap();
            Root::create(&place, Owner { uid: metadata.uid(), gid: metadata.gid() }).unwrap()
        }

        fn cache(&self) -> OwnedFd {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rfs::open(self.directory.path().join("cache"), flags, Mode::empty()).unwrap()
        }

        fn write(&self, name: &str) {
            fs::write(self.directory.path().join("cache").join(name), name).unwrap();
        }

        fn key(&self, root: &Root, name: &str) -> u64 {
            let stat = rfs::stat(self.directory.path().join("cache").join(name)).unwrap();
            inode_key(&root.devices(), stat.st_dev, stat.st_ino).unwrap()
        }

        /// As a step does.
        fn give(&self, root: &Root, name: &str, uid: u32) {
            let record = Record { uid, gid: uid, mode: 0o100_640, device: 0 };
            root.ledger().entry(self.key(root, name)).unwrap().set(record);
        }

        fn owner(&self, root: &Root, name: &str) -> u32 {
            root.ledger().get(self.key(root, name)).map_or(0, |record| record.uid)
        }
    }

    fn through_json(account: &Account) -> Account {
        serde_json::from_slice(&serde_json::to_vec(account).unwrap()).unwrap()
    }

    #[test]
    fn owners_outlive_the_build() {
        let bench = Bench::new();
        let first = bench.root("first");
        let taken = first.take_in(bench.cache().as_fd(), &Account::default()).unwrap();
        bench.write("sub/theirs");
        bench.write("plain");
        bench.give(&first, "sub/theirs", 33);
        let account = first.account(bench.cache().as_fd(), &taken, &Account::default()).unwrap();
        let second = bench.root("second");
        // A file that had the inode before in this root.
        bench.give(&second, "plain", 77);
        second.take_in(bench.cache().as_fd(), &through_json(&account)).unwrap();
        assert_eq!((bench.owner(&second, "sub/theirs"), bench.owner(&second, "plain")), (33, 0));
    }

    #[test]
    fn of_two_builds_at_a_time_each_ones_changes_count() {
        let bench = Bench::new();
        for name in ["both", "first", "second"] {
            bench.write(name);
        }
        let (first, second) = (bench.root("1"), bench.root("2"));
        let empty = Account::default();
        let taken = [&first, &second].map(|root| root.take_in(bench.cache().as_fd(), &empty).unwrap());
        bench.give(&first, "first", 1);
        bench.give(&second, "second", 2);
        bench.give(&first, "both", 1);
        bench.give(&second, "both", 2);
        bench.write("made");
        bench.give(&first, "made", 1);
        let account = first.account(bench.cache().as_fd(), &taken[0], &empty).unwrap();
        let account = second.account(bench.cache().as_fd(), &taken[1], &account).unwrap();
        let third = bench.root("3");
        third.take_in(bench.cache().as_fd(), &account).unwrap();
        let owners = ["first", "second", "both", "made"].map(|name| bench.owner(&third, name));
        assert_eq!(owners, [1, 2, 2, 1]);
    }

    #[test]
    fn what_a_killed_build_made_is_the_directorys_owners() {
        let bench = Bench::new();
        let first = bench.root("first");
        first.set_top(bench.cache().as_fd(), Top { mode: 0o750, uid: 1000, gid: 1000 }).unwrap();
        let account = first.account(bench.cache().as_fd(), &Account::default(), &Account::default()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        bench.write("untold");
        let point = bench.directory.path().join("cache/point");
        fs::create_dir(&point).unwrap();
        fs::set_permissions(&point, PermissionsExt::from_mode(0o000)).unwrap();
        let second = bench.root("second");
        second.take_in(bench.cache().as_fd(), &account).unwrap();
        assert_eq!(bench.owner(&second, "untold"), 1000);
        assert_eq!(second.ledger().get(bench.key(&second, "")).unwrap().mode & 0o777, 0o750);
        assert_eq!(fs::metadata(point).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_directory_beside_the_root_goes_with_its_owner() {
        let bench = Bench::new();
        let root = bench.root("root");
        let made = root.mounted_directory(Top { mode: 0o1777, uid: 0, gid: 0 }).unwrap();
        let path = crate::sandbox::step::path_of(made.directory()).unwrap();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/c"), "x").unwrap();
        let stat = rfs::fstat(made.directory()).unwrap();
        assert_eq!(root.seen(&stat).0 & 0o7777, 0o1777);
        drop(made);
        assert!(!path.exists());
    }
}
