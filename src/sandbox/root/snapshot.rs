//! The state of a root at one time, and where a later one differs from it.
//!
//! A snapshot holds, for every file, its inode and its ctime. The kernel sets the ctime of a file at each change of
//! content or metadata, and nothing can forge it; so a file whose inode and ctime are those of the snapshot is unchanged,
//! and no content is ever read to find out. What the disk does not show (an owner in the ledger) the guest marks by a
//! change that only moves the ctime.
//!
//! Directories are scanned side by side. Each thread keeps what it finds in tables of its own, which are joined in
//! the end; so a snapshot is a few large pieces of memory, and can be written to a file as they are.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::time::{ClockId, clock_gettime};

use super::{Root, RootError};
use crate::layer::TreePath;

/// More threads than this do not list a tree any faster.
const MAX_THREADS: usize = 4;
/// The number of the root's own directory.
const ROOT: u32 = 0;
/// Instead of a directory's number: it is none.
const NONE: u32 = u32::MAX;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// Place of the name in the arena, and its length.
    name: (u32, u32),
    /// The number of the directory, if it is one.
    directory: u32,
    /// How many names the file has.
    pub(super) links: u32,
    /// A hash of its size, time and attributes.
    state: u32,
    inode: u64,
    /// Nanoseconds since 1970.
    ctime: i64,
}

/// What is known of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KnownDirectory {
    first: u32,
    count: u32,
    attributes: Attributes,
    inode: u64,
    ctime: i64,
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
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    names: Vec<u8>,
    files: Vec<Known>,
    directories: Vec<KnownDirectory>,
    /// The latest ctime.
    newest: i64,
}

/// A place where the root differs from a snapshot.
#[derive(Debug)]
pub(super) struct Difference {
    pub path: TreePath,
    pub what: What,
    /// Whether a layer has to tell of it. It need not if only a directory's time moved, if a file merely lost another of
    /// its names, or if a mount point lay on it.
    pub matters: bool,
}

/// What is different.
#[derive(Debug)]
pub(super) enum What {
    /// Nothing is there any more.
    Gone,
    /// A file that is no directory is new, or is not as it was.
    File(Stat),
    /// A directory is not as it was, or is `made`: there was none.
    Directory { stat: Stat, made: bool },
}

/// A file as found.
pub(super) struct Found {
    pub(super) name: Vec<u8>,
    pub(super) stat: Stat,
}

impl Snapshot {
    /// What is known of the file at `path`; of the root nothing is.
    pub fn find(&self, path: &TreePath) -> Option<&Known> {
        let mut found = None;
        let mut directory = ROOT;
        for component in path.components() {
            let entries = self.entries(directory);
            let known =
                entries.get(entries.binary_search_by(|known| self.name(known).cmp(component)).ok()?)?;
            directory = known.directory;
            found = Some(known);
        }
        found
    }

    /// Every inode, as it was when its ctime was this: whatever it is called, with the same ctime it is what it was.
    pub fn inodes(&self) -> HashSet<(u64, i64)> {
        let directories = self.directories.iter().map(|known| (known.inode, known.ctime));
        self.files.iter().map(|known| (known.inode, known.ctime)).chain(directories).collect()
    }

    fn name(&self, known: &Known) -> &[u8] {
        let (start, length) = (known.name.0 as usize, known.name.1 as usize);
        self.names.get(start..start + length).unwrap_or_default()
    }

    fn entries(&self, directory: u32) -> &[Known] {
        let Some(directory) = self.directories.get(directory as usize) else { return &[] };
        let start = directory.first as usize;
        self.files.get(start..start + directory.count as usize).unwrap_or_default()
    }

    /// Waits until a change would get a later ctime than any that was seen: kernels stamp files by a clock that ticks
    /// every few milliseconds.
    pub fn wait_for_the_clock(&self) {
        loop {
            let now = coarse_now();
            // A file from the future (a clock that was set back) will not hold the build up.
            if now > self.newest || self.newest - now > 1_000_000_000 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The snapshot as bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.newest.to_le_bytes());
        for length in [self.names.len(), self.files.len(), self.directories.len()] {
            out.extend_from_slice(&(length as u64).to_le_bytes());
        }
        out.extend_from_slice(&self.names);
        for Known { name, directory, links, state, inode, ctime } in &self.files {
            for word in [name.0, name.1, *directory, *links, *state] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&inode.to_le_bytes());
            out.extend_from_slice(&ctime.to_le_bytes());
        }
        for KnownDirectory { first, count, attributes, inode, ctime } in &self.directories {
            for word in [*first, *count, attributes.mode, attributes.uid, attributes.gid] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&inode.to_le_bytes());
            out.extend_from_slice(&ctime.to_le_bytes());
        }
    }

    /// What [`Snapshot::encode`] wrote; nothing if that is not what it is.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let newest = i64::from_le_bytes(take(bytes)?);
        let mut length = || usize::try_from(u64::from_le_bytes(take(bytes)?)).ok();
        let (names, files, directories) = (length()?, length()?, length()?);
        let (names, rest) = bytes.split_at_checked(names)?;
        *bytes = rest;
        let mut words = || {
            let mut words = [0; 5];
            for word in &mut words {
                *word = u32::from_le_bytes(take(bytes)?);
            }
            Some((words, u64::from_le_bytes(take(bytes)?), i64::from_le_bytes(take(bytes)?)))
        };
        type Words = ([u32; 5], u64, i64);
        let known = |([start, length, directory, links, state], inode, ctime): Words| Known {
            name: (start, length),
            directory,
            links,
            state,
            inode,
            ctime,
        };
        let files = (0..files).map(|_| words().map(known)).collect::<Option<_>>()?;
        let known = |([first, count, mode, uid, gid], inode, ctime): Words| KnownDirectory {
            first,
            count,
            attributes: Attributes { mode, uid, gid },
            inode,
            ctime,
        };
        let directories = (0..directories).map(|_| words().map(known)).collect::<Option<_>>()?;
        Some(Self { names: names.to_vec(), files, directories, newest })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// The time that the kernel would stamp a file with, or a little earlier.
pub(super) fn coarse_now() -> i64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    nanoseconds(now.tv_sec, now.tv_nsec)
}

impl Root {
    /// The present state, and where it differs from `old`. `covered` are inodes that mount points lay on.
    pub(super) fn scan(
        &self,
        old: Option<&Snapshot>,
        covered: &HashSet<u64>,
    ) -> Result<(Snapshot, Vec<Difference>), RootError> {
        let stat = rfs::fstat(self.directory()).map_err(RootError::at("look at", &TreePath::root()))?;
        let job = Job { parent: None, path: TreePath::root(), number: ROOT, old: Some(ROOT), stat };
        let scan = Scan {
            root: self,
            old,
            covered,
            queue: Mutex::new(Queue { jobs: vec![job], busy: 0, error: None }),
            changed: Condvar::new(),
            directories: AtomicU32::new(ROOT + 1),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let mut found = Vec::new();
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| scan.work())).collect();
            found.push(scan.work());
            found.extend(others.into_iter().filter_map(|thread| thread.join().ok()));
        });
        if let Some(error) = scan.lock().error.take() {
            return Err(error);
        }
        Ok(join(found))
    }
}

/// Puts together what the threads have found.
fn join(found: Vec<Table>) -> (Snapshot, Vec<Difference>) {
    let mut snapshot = Snapshot::default();
    let mut differences = Vec::new();
    let mut directories = Vec::new();
    for table in found {
        let (names, files) = (snapshot.names.len() as u32, snapshot.files.len() as u32);
        snapshot.names.extend_from_slice(&table.names);
        snapshot.files.extend(table.files.into_iter().map(|mut known| {
            known.name.0 += names;
            known
        }));
        directories.extend(table.directories.into_iter().map(|(number, mut directory)| {
            directory.first += files;
            (number, directory)
        }));
        snapshot.newest = snapshot.newest.max(table.newest);
        differences.extend(table.differences);
    }
    directories.sort_unstable_by_key(|(number, _)| *number);
    snapshot.directories = directories.into_iter().map(|(_, directory)| directory).collect();
    differences.sort_by(|a: &Difference, b: &Difference| a.path.cmp(&b.path));
    (snapshot, differences)
}

/// A scan under way.
struct Scan<'a> {
    root: &'a Root,
    old: Option<&'a Snapshot>,
    covered: &'a HashSet<u64>,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Numbers that have been given to directories.
    directories: AtomicU32,
}

struct Queue {
    /// The last is taken first: so only few directories are held open.
    jobs: Vec<Job>,
    /// Threads that may still add jobs.
    busy: usize,
    error: Option<RootError>,
}

/// A directory to be listed.
struct Job {
    /// The directory that it is in; the root is in none.
    parent: Option<Arc<OwnedFd>>,
    path: TreePath,
    number: u32,
    /// Its number in the old snapshot.
    old: Option<u32>,
    stat: Stat,
}

/// What one thread has found.
#[derive(Default)]
struct Table {
    names: Vec<u8>,
    files: Vec<Known>,
    directories: Vec<(u32, KnownDirectory)>,
    differences: Vec<Difference>,
    newest: i64,
}

impl Scan<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> Table {
        let mut table = Table::default();
        let _identity = match self.root.identity() {
            Ok(identity) => identity,
            Err(error) => {
                self.lock().error = Some(error);
                return table;
            }
        };
        while let Some(job) = self.next() {
            let listed = self.directory(job, &mut table);
            let mut queue = self.lock();
            queue.busy -= 1;
            match listed {
                // The first in order is on top.
                Ok(jobs) => queue.jobs.extend(jobs.into_iter().rev()),
                Err(error) => queue.error = queue.error.take().or(Some(error)),
            }
            drop(queue);
            self.changed.notify_all();
        }
        table
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.error.is_some() || (queue.jobs.is_empty() && queue.busy == 0) {
                return None;
            }
            if let Some(job) = queue.jobs.pop() {
                queue.busy += 1;
                return Some(job);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lists one directory; gives those in it.
    fn directory(&self, job: Job, table: &mut Table) -> Result<Vec<Job>, RootError> {
        let Job { parent, path, number, old, stat } = job;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match (&parent, path.file_name()) {
            (Some(parent), Some(name)) => rfs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty()),
            _ => rfs::openat(self.root.directory(), ".", flags, Mode::empty()),
        };
        let directory = Arc::new(opened.map_err(RootError::at("open", &path))?);
        drop(parent);
        let found = list_directory(&directory, &path)?;
        table.newest = table.newest.max(ctime(&stat));
        let known = KnownDirectory {
            first: table.files.len() as u32,
            count: found.len() as u32,
            attributes: self.attributes(&stat),
            inode: stat.st_ino,
            ctime: ctime(&stat),
        };
        table.directories.push((number, known));
        let before = old.and_then(|number| self.old?.directories.get(number as usize));
        if self.old.is_some() {
            table.differences.extend(directory_difference(&path, &stat, &known, before));
        }
        let entries = match (self.old, old, before) {
            (Some(snapshot), Some(number), Some(_)) => snapshot.entries(number),
            _ => &[],
        };
        self.entries(&path, found, entries, table, &directory)
    }

    /// Compares what is in a directory with what was.
    fn entries(
        &self,
        path: &TreePath,
        found: Vec<Found>,
        before: &[Known],
        table: &mut Table,
        directory: &Arc<OwnedFd>,
    ) -> Result<Vec<Job>, RootError> {
        let join = |name: &[u8]| path.join(name).map_err(|error| RootError::Layer(error.into()));
        let mut jobs = Vec::new();
        let mut before = before.iter().peekable();
        for Found { name, stat } in found {
            let mut old = None;
            while let (Some(next), Some(snapshot)) = (before.peek(), self.old) {
                let old_name = snapshot.name(next);
                if old_name > name.as_slice() {
                    break;
                }
                let next = before.next();
                if old_name == name.as_slice() {
                    old = next;
                    break;
                }
                table.gone(join(old_name)?);
            }
            let mut number = NONE;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                number = self.directories.fetch_add(1, Ordering::Relaxed);
                let old = old.filter(|old| old.directory != NONE).map(|old| old.directory);
                let parent = Some(Arc::clone(directory));
                jobs.push(Job { parent, path: join(&name)?, number, old, stat });
            } else if self.old.is_some()
                && let Some(matters) = self.file_difference(&stat, old)
            {
                table.differences.push(Difference { path: join(&name)?, what: What::File(stat), matters });
            }
            let state = self.state(&stat);
            table.know(&name, &stat, number, state);
        }
        for gone in before {
            if let Some(snapshot) = self.old {
                table.gone(join(snapshot.name(gone))?);
            }
        }
        Ok(jobs)
    }

    /// Whether a file that is no directory differs, and if so, whether that matters.
    fn file_difference(&self, stat: &Stat, old: Option<&Known>) -> Option<bool> {
        let Some(old) = old.filter(|old| old.directory == NONE && old.inode == stat.st_ino) else {
            return Some(true);
        };
        if old.ctime == ctime(stat) {
            return None;
        }
        // The ctime changes too when another name of the file is removed; that is no reason to write this one.
        let lost_a_name = u64::from(old.links) > stat.st_nlink && old.state == self.state(stat);
        Some(!lost_a_name && !self.covered.contains(&stat.st_ino))
    }

    /// A hash of what a program sees of a file besides its content. It is written to disk with snapshots.
    fn state(&self, stat: &Stat) -> u32 {
        let (mode, uid, gid, device) = self.root.seen(stat);
        let words = [
            u64::from(mode),
            u64::from(uid),
            u64::from(gid),
            u64::from(device),
            stat.st_size as u64,
            stat.st_mtime as u64,
            stat.st_mtime_nsec,
        ];
        // FNV-1a, over words.
        let hash = words.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
            (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
        });
        (hash ^ hash >> 32) as u32
    }

    fn attributes(&self, stat: &Stat) -> Attributes {
        let (mode, uid, gid, _) = self.root.seen(stat);
        Attributes { mode, uid, gid }
    }
}

fn directory_difference(
    path: &TreePath,
    stat: &Stat,
    now: &KnownDirectory,
    before: Option<&KnownDirectory>,
) -> Option<Difference> {
    let matters = before.is_none_or(|before| before.attributes != now.attributes);
    let same = before.is_some_and(|before| (before.inode, before.ctime) == (now.inode, now.ctime));
    let what = What::Directory { stat: *stat, made: before.is_none() };
    (matters || !same).then(|| Difference { path: path.clone(), what, matters })
}

impl Table {
    fn gone(&mut self, path: TreePath) {
        self.differences.push(Difference { path, what: What::Gone, matters: true });
    }

    fn know(&mut self, name: &[u8], stat: &Stat, directory: u32, state: u32) {
        let start = self.names.len() as u32;
        self.names.extend_from_slice(name);
        let ctime = ctime(stat);
        self.newest = self.newest.max(ctime);
        self.files.push(Known {
            name: (start, name.len() as u32),
            directory,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            state,
            inode: stat.st_ino,
            ctime,
        });
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

pub(super) fn ctime(stat: &Stat) -> i64 {
    nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64)
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
