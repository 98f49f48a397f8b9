//! What a step is given: its command, its identity, its directory, and what is mounted where.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::abi::{MAX_MOUNTS, MAX_TEXT, Mount, MountKind, StepBlock, Text};
use super::rules::credentials::Credentials;
use super::{Root, sys};

/// The devices that every container has; `ptmx` makes terminals.
pub const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"];

/// The links that every container's `/dev` has.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// The host name of every step, on every machine: a program that writes it into a file writes the same.
pub const HOSTNAME: &str = "cofferdam";
/// `/etc/hostname`
const HOSTNAME_FILE: &[u8] = b"cofferdam\n";

/// A command to run in a root.
#[derive(Debug, Clone)]
pub struct Step {
    /// The program and its arguments. A program without `/` is looked for in `PATH` of `environment`.
    pub arguments: Vec<OsString>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Working directory in the root; it must exist.
    pub directory: PathBuf,
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Contents of `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// Contents of `/etc/hosts`.
    pub hosts: Vec<u8>,
    /// Files that the step finds below `/dev`, and the image does not get.
    pub files: Vec<StepFile>,
}

/// A file that is there for one step alone.
#[derive(Debug, Clone)]
pub struct StepFile {
    /// Where: absolute, below `/dev`, in a directory that is made for it.
    pub path: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

/// A mount point and what lies behind it.
#[derive(Debug, Clone)]
pub(super) struct MountPoint {
    pub at: PathBuf,
    /// Absolute, or in the step's directory.
    pub host: PathBuf,
    pub kind: MountKind,
    pub read_only: bool,
}

/// The directory of what is mounted for one step alone.
#[derive(Debug)]
pub(super) struct StepDirectory {
    pub fd: OwnedFd,
    pub mounts: Vec<MountPoint>,
}

impl StepDirectory {
    /// Makes the directory of the root's next step beside it, fills it, and says what is to be mounted. What is made
    /// belongs to the calling thread's file identity.
    pub fn create(root: &Root, step: &Step) -> io::Result<Self> {
        let fd = make_directory(root, root.place(), root.next_step().as_ref(), 0o755)?;
        let files: [(&str, &[u8]); 6] = [
            ("resolv.conf", &step.resolv_conf),
            ("hosts", &step.hosts),
            ("hostname", HOSTNAME_FILE),
            ("mounts", MOUNTS.as_bytes()),
            ("mountinfo", MOUNTINFO.as_bytes()),
            ("mountstats", b""),
        ];
        for (name, content) in files {
            make_file(root, fd.as_fd(), OsStr::new(name), content, 0o644)?;
        }
        let devices = make_directory(root, fd.as_fd(), "dev".as_ref(), 0o755)?;
        for name in ["shm", "mqueue"] {
            make_directory(root, devices.as_fd(), name.as_ref(), 0o1777)?;
        }
        for (name, target) in DEVICE_LINKS {
            rfs::symlinkat(target, &devices, name)?;
            root.note_new(&rfs::statat(&devices, name, AtFlags::SYMLINK_NOFOLLOW)?);
        }
        for file in &step.files {
            file.create(root, devices.as_fd())?;
        }
        Ok(Self { fd, mounts: mounts() })
    }
}

impl StepFile {
    fn create(&self, root: &Root, devices: BorrowedFd<'_>) -> io::Result<()> {
        let below = self.path.strip_prefix("/dev").map_err(|_| io::ErrorKind::InvalidInput)?;
        let (Some(directory), Some(name)) = (below.parent(), below.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut parent = rustix::io::dup(devices)?;
        for component in directory.components() {
            let name = component.as_os_str();
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            parent = match rfs::openat(&parent, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => make_directory(root, parent.as_fd(), name, 0o755)?,
                opened => opened?,
            };
        }
        make_file(root, parent.as_fd(), name, &self.content, self.mode)
    }
}

fn make_file(root: &Root, parent: BorrowedFd<'_>, name: &OsStr, content: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rfs::openat(parent, name, flags, Mode::from_raw_mode(mode))?);
    root.note_new(&rfs::fstat(&file)?);
    file.write_all(content)
}

/// Makes and opens a directory. The mode is set apart from the umask.
fn make_directory(root: &Root, parent: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    rfs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rfs::openat(parent, name, flags, Mode::empty())?;
    rfs::fchmod(&directory, Mode::from_raw_mode(mode))?;
    root.note_new(&rfs::fstat(&directory)?);
    Ok(directory)
}

/// What every step finds mounted.
fn mounts() -> Vec<MountPoint> {
    let point = |at: &str, host: &str, kind: MountKind, read_only: bool| MountPoint {
        at: at.into(),
        host: host.into(),
        kind,
        read_only,
    };
    let mut mounts = vec![
        point("/proc", "/proc", MountKind::Proc, false),
        point("/sys", "/sys", MountKind::Sys, true),
        point("/dev", "dev", MountKind::Directory, false),
        point("/etc/resolv.conf", "resolv.conf", MountKind::File, false),
        point("/etc/hosts", "hosts", MountKind::File, false),
        point("/etc/hostname", "hostname", MountKind::File, false),
        point("/proc/sys/kernel/hostname", "hostname", MountKind::File, true),
    ];
    for device in DEVICES.iter().filter(|device| Path::new(device).exists()) {
        mounts.push(point(device, device, MountKind::File, false));
    }
    if Path::new("/dev/pts").is_dir() {
        mounts.push(point("/dev/pts", "/dev/pts", MountKind::Directory, false));
    }
    mounts
}

/// What a container's `/proc/self/mounts` says.
const MOUNTS: &str = "overlay / overlay rw,relatime 0 0\n\
    proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n\
    tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755 0 0\n\
    devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666 0 0\n\
    shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k 0 0\n\
    mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime 0 0\n\
    sysfs /sys sysfs ro,nosuid,nodev,noexec,relatime 0 0\n";

/// What its `/proc/self/mountinfo` says of the same mounts.
const MOUNTINFO: &str = "20 1 0:20 / / rw,relatime - overlay overlay rw\n\
    21 20 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
    22 20 0:22 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755\n\
    23 22 0:23 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666\n\
    24 22 0:24 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k\n\
    25 22 0:25 / /dev/mqueue rw,nosuid,nodev,noexec,relatime - mqueue mqueue rw\n\
    26 20 0:26 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro\n";

/// Puts the texts of a step block together.
#[derive(Debug)]
struct Texts<'a> {
    room: &'a mut [u8; MAX_TEXT],
    used: usize,
}

impl Texts<'_> {
    /// Adds a text; an error if there is no room or it holds a NUL.
    fn add(&mut self, text: &[u8]) -> io::Result<Text> {
        let end = self.used + text.len();
        if text.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path or name holds a NUL byte"));
        }
        let room = self.room.get_mut(self.used..end).filter(|_| end < MAX_TEXT);
        let full = || io::Error::new(io::ErrorKind::InvalidInput, "the step's paths are too long");
        room.ok_or_else(full)?.copy_from_slice(text);
        let added = Text { offset: self.used as u32, length: text.len() as u32 };
        // The NUL behind is there: the room was all zero.
        self.used = end + 1;
        Ok(added)
    }
}

/// Describes the step to the guest. `stubs` are the ledger keys of what lies at the mount points.
pub(super) fn describe(
    root: &Root,
    directory: &StepDirectory,
    stubs: &[u64],
    step: &Step,
    filter: &[super::abi::Instruction],
) -> io::Result<Box<StepBlock>> {
    let mut block = sys::empty_block();
    let StepBlock { text, mounts, filter: filter_room, .. } = &mut *block;
    let mut texts = Texts { room: text, used: 0 };
    let too_many =
        |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("the step has too many {what}"));
    // Deeper mount points first: the guest takes the first that fits.
    let mut order: Vec<(&MountPoint, u64)> = directory.mounts.iter().zip(stubs.iter().copied()).collect();
    order.sort_by_key(|(mount, _)| std::cmp::Reverse(mount.at.components().count()));
    if order.len() > MAX_MOUNTS {
        return Err(too_many("mounts"));
    }
    let step_path = path_of(directory.fd.as_fd())?;
    let (mut first_bytes, mut last_bytes) = ([0; 256], [0; 256]);
    for (slot, (mount, stub)) in mounts.iter_mut().zip(&order) {
        let at = mount.at.as_os_str().as_bytes();
        for (bytes, byte) in [
            (&mut first_bytes, at.get(1)),
            (&mut last_bytes, mount.at.file_name().and_then(|name| name.as_bytes().first())),
        ] {
            if let Some(used) = byte.and_then(|byte| bytes.get_mut(usize::from(*byte))) {
                *used = 1;
            }
        }
        *slot = Mount {
            at: texts.add(at)?,
            host: texts.add(mount.host.as_os_str().as_bytes())?,
            host_absolute: texts.add(step_path.join(&mount.host).as_os_str().as_bytes())?,
            kind: mount.kind,
            read_only: mount.read_only.into(),
            stub: *stub,
        };
    }
    let root_path = texts.add(root.path().as_os_str().as_bytes())?;
    let hostname = texts.add(HOSTNAME.as_bytes())?;
    let working_directory = texts.add(step.directory.as_os_str().as_bytes())?;
    let mounts_file = [texts.add(b"mounts")?, texts.add(b"mountinfo")?, texts.add(b"mountstats")?];
    let path = step.environment.iter().rev().find(|(name, _)| name == "PATH");
    let search_path = texts.add(path.map_or(DEFAULT_PATH.as_bytes(), |(_, value)| value.as_bytes()))?;
    filter_room
        .get_mut(..filter.len())
        .ok_or_else(|| too_many("filter instructions"))?
        .copy_from_slice(filter);
    block.mount_count = order.len() as u32;
    block.filter_length = filter.len() as u32;
    (block.first_bytes, block.last_bytes) = (first_bytes, last_bytes);
    (block.root_path, block.hostname, block.directory) = (root_path, hostname, working_directory);
    (block.mounts_file, block.search_path) = (mounts_file, search_path);
    (block.devices, block.root_inode) = (root.devices(), root.inode());
    (block.real_uid, block.real_gid) = (root.owner().uid, root.owner().gid);
    block.credentials = Credentials::container(step.uid, step.gid, &step.groups);
    block.umask = 0o022;
    block.magic = StepBlock::MAGIC;
    Ok(block)
}

/// The path of an open file or directory, as the kernel tells it.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let path = rfs::readlinkat(rfs::CWD, sys::fd_path(fd), Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(path.as_bytes())))
}

/// The search path of a container whose image sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
