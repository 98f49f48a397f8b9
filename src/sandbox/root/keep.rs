//! Roots that outlive a build: how the state of one is written down beside it, and taken up again.
//!
//! What is written down was found before a step ran in the root, or after the root was brought back to that
//! ([`Root::restore`]); nothing that a step can write is ever taken for true. It holds for this boot of this machine
//! and for just these files: what was copied, or may have been cut short by a loss of power, is not taken up.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use rustix::fs::{self as rfs, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::apply::remove_tree;
use super::snapshot::{Found, Snapshot, coarse_now, list_directory};
use super::{FILESYSTEM, FileIdentity, Owner, Root, RootError, RootFile, file_device};
use crate::layer::{Node, TreePath};
use crate::sandbox::ledger::Saved;
use crate::sandbox::step::path_of;
use crate::sandbox::sys::SharedMemory;

/// The format of what is written. A root that was kept in another is not taken up.
const FORMAT: u32 = 1;
/// The file beside the root.
const STATE: &str = "state";
/// Files that every step covers with its own. Their times say nothing afterwards, so what they hold is remembered.
const COVERED: [&str; 3] = ["etc/resolv.conf", "etc/hosts", "etc/hostname"];
/// The largest of them that is remembered.
const MAX_COVERED: u64 = 64 << 10;

/// What a root is known by, and what else there is to know before any file is looked at.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// What the root is to whoever keeps it.
    label: String,
    /// Of the kernel: what was not written to the disk before it ended is gone.
    boot: String,
    owner: [u32; 2],
    devices: [u64; 3],
    inode: u64,
    /// Contents of [`COVERED`] files.
    covered: BTreeMap<String, Vec<u8>>,
}

impl Root {
    /// Writes down the present state, beside the root, and what the root is to whoever keeps it. To be called when what
    /// is in the root is known to be right.
    ///
    /// # Errors
    /// If the root cannot be read, or the file not be written.
    pub fn write_state(&self, label: &str) -> io::Result<()> {
        self.take_snapshot().map_err(io::Error::other)?;
        let mut covered = BTreeMap::new();
        for path in COVERED {
            if let Some(content) = self.small_file(path).map_err(io::Error::other)? {
                covered.insert(path.to_owned(), content);
            }
        }
        let header = Header {
            format: FORMAT,
            label: label.to_owned(),
            boot: boot()?,
            owner: [self.owner.uid, self.owner.gid],
            devices: self.devices,
            inode: self.inode,
            covered,
        };
        let mut bytes = Vec::new();
        let mut piece = |piece: &[u8]| {
            bytes.extend_from_slice(&(piece.len() as u64).to_le_bytes());
            bytes.extend_from_slice(piece);
        };
        piece(&serde_json::to_vec(&header)?);
        piece(&self.ledger().saved().flatten().flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
        if let Some(snapshot) = &*self.snapshot() {
            snapshot.encode(&mut bytes);
        }
        let _identity = FileIdentity::assume(self.owner.uid, self.owner.gid)?;
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rfs::openat(&self.place, STATE, flags, Mode::from_raw_mode(0o600))?;
        File::from(file).write_all(&bytes)
    }

    /// Takes up the root in `place` again, in the state that was written down: its files are believed to be as they
    /// were then, and found out if they are not.
    ///
    /// # Errors
    /// If what was written down is not of this root, or not to be relied upon.
    pub fn take_up(place: &Path, owner: Owner) -> io::Result<Self> {
        let (place, flags) = open_place(place)?;
        let _identity = FileIdentity::assume(owner.uid, owner.gid)?;
        let directory = rfs::openat(&place, FILESYSTEM, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        open_state(&place)?.read_to_end(&mut bytes)?;
        let (header, ledger, snapshot) = decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        let stat = rfs::fstat(&directory)?;
        let memory = SharedMemory::create()?;
        let devices = [stat.st_dev, file_device(place.as_fd())?, rfs::fstat(&memory)?.st_dev];
        let same = header.format == FORMAT
            && header.boot == boot()?
            && header.owner == [owner.uid, owner.gid]
            && (stat.st_uid, stat.st_gid) == (owner.uid, owner.gid)
            && (header.devices, header.inode) == (devices, stat.st_ino);
        if !same {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not the root that was kept"));
        }
        if !memory.shared().ledger.load(ledger.into_iter()) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let covered = header.covered.into_iter();
        Ok(Self {
            path: path_of(directory.as_fd())?,
            devices,
            inode: stat.st_ino,
            memory,
            steps: AtomicU32::new(0),
            snapshot: Mutex::new(Some(snapshot)),
            covered: Mutex::new(HashSet::new()),
            taken_up: Some(coarse_now()),
            remembered: covered
                .filter_map(|(path, content)| Some((TreePath::new(path).ok()?, content)))
                .collect(),
            place,
            directory,
            owner,
        })
    }

    /// What was written down as the label of the root in `place`, which belongs to `owner`.
    ///
    /// # Errors
    /// If nothing was, or it cannot be read.
    pub fn label(place: &Path, owner: Owner) -> io::Result<String> {
        let (place, _) = open_place(place)?;
        let _identity = FileIdentity::assume(owner.uid, owner.gid)?;
        let mut file = open_state(&place)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut header = Vec::new();
        file.take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
        let header: Header = serde_json::from_slice(&header)?;
        Ok(header.label)
    }

    /// Makes sure that nothing has changed in a root that was taken up, before it is changed.
    ///
    /// # Errors
    /// If something has, or a directory cannot be read.
    pub fn expect_as_kept(&self) -> Result<(), RootError> {
        let known = self.snapshot();
        let (_, differences) = self.scan(known.as_ref(), &HashSet::new())?;
        match differences.into_iter().next() {
            Some(difference) => Err(RootError::Touched(difference.path)),
            None => Ok(()),
        }
    }

    /// The content of a small regular file of the root; links are not followed.
    fn small_file(&self, path: &str) -> Result<Option<Vec<u8>>, RootError> {
        let path = TreePath::new(path).map_err(|error| RootError::Layer(error.into()))?;
        match self.lookup(&path)? {
            Some(RootFile { node: Node::File { size }, .. }) if size <= MAX_COVERED => {
                let mut content = Vec::new();
                let file = self.open_file(&path)?;
                file.take(MAX_COVERED).read_to_end(&mut content).map_err(RootError::at("read", &path))?;
                Ok(Some(content))
            }
            _ => Ok(None),
        }
    }

    /// Removes what lies beside the root and is of no use to a later build.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn tidy(&self) -> Result<(), RootError> {
        let _identity = self.identity()?;
        let place = TreePath::root();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed =
            rfs::openat(&self.place, ".", flags, Mode::empty()).map_err(RootError::at("open", &place))?;
        for Found { name, stat } in list_directory(&listed, &place)? {
            if ![FILESYSTEM.as_bytes(), STATE.as_bytes()].contains(&name.as_slice()) {
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                remove_tree(self.place(), OsStr::from_bytes(&name), is_directory)
                    .map_err(RootError::at("tidy up beside", &place))?;
            }
        }
        Ok(())
    }
}

/// Opens the place of a root as who the build is: the way to it is closed to the owner. And how directories are opened.
fn open_place(place: &Path) -> io::Result<(OwnedFd, OFlags)> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((rfs::open(place, flags, Mode::empty())?, flags))
}

fn open_state(place: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rfs::openat(place, STATE, flags, Mode::empty())?))
}

fn decode(bytes: &[u8]) -> Option<(Header, Vec<Saved>, Snapshot)> {
    let mut rest = bytes;
    let mut piece = || {
        let (length, behind) = rest.split_first_chunk()?;
        let (piece, behind) = behind.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        rest = behind;
        Some(piece)
    };
    let header = serde_json::from_slice(piece()?).ok()?;
    let ledger = piece()?.as_chunks::<{ size_of::<Saved>() }>().0;
    let word = |saved: &[u8; size_of::<Saved>()], at: usize| {
        saved.as_chunks::<8>().0.get(at).map_or(0, |word| u64::from_le_bytes(*word))
    };
    let ledger = ledger.iter().map(|saved| std::array::from_fn(|at| word(saved, at))).collect();
    let snapshot = Snapshot::decode(&mut rest)?;
    rest.is_empty().then_some((header, ledger, snapshot))
}

/// What names this run of the kernel.
fn boot() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
}
