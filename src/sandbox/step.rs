//! What a step is given: its command, its identity, its directory, and what is mounted where.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::abi::{
    self, MAX_EMULATORS, MAX_MOUNTS, MAX_OWN_MOUNTS, MAX_TEXT, MOUNTED_FD, Mount, MountKind, StepBlock, Text,
};
use super::emulators::Emulator;
use super::rules::credentials::Credentials;
use super::wall::Opened;
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
    /// What is mounted for it alone. Of two at one place the later one counts.
    pub mounts: Vec<StepMount>,
    /// Whether it may use the network.
    pub network: bool,
    /// What the machines are called whose programs it may execute, beside this one's: the image's own.
    pub architectures: Vec<String>,
}

/// Something that is mounted for one step: it is not the image's, and nothing that is written there becomes so.
#[derive(Debug, Clone)]
pub struct StepMount {
    /// Where: absolute, without `.`, `..` and doubled `/`, and not the root.
    pub at: PathBuf,
    /// The directory, file or socket, path-only or not. It must be the root's owner's, and on its file system or in memory.
    pub what: Arc<OwnedFd>,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether writing is refused.
    pub read_only: bool,
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
    /// The step's own: it is reached by a descriptor, and `host` is the path of that one in the step.
    pub own: Option<Arc<OwnedFd>>,
}

impl MountPoint {
    /// The directory that is mounted, if stubs can be laid in it.
    pub fn directory(&self, step: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        match &self.own {
            _ if self.kind != MountKind::Directory => Ok(None),
            Some(directory) => Ok(Some(directory.try_clone()?)),
            None if self.host.is_absolute() => Ok(None),
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok(Some(rfs::openat(step, &self.host, flags, Mode::empty())?))
            }
        }
    }
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
        let (own_mounts, own_mountinfo) = own_lines(&step.mounts);
        let (all_mounts, all_mountinfo) =
            (MOUNTS.to_owned() + &own_mounts, MOUNTINFO.to_owned() + &own_mountinfo);
        let files: [(&str, &[u8]); 6] = [
            ("resolv.conf", &step.resolv_conf),
            ("hosts", &step.hosts),
            ("hostname", HOSTNAME_FILE),
            ("mounts", all_mounts.as_bytes()),
            ("mountinfo", all_mountinfo.as_bytes()),
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
        let mut mounts = mounts();
        for (number, mount) in step.mounts.iter().enumerate() {
            mounts.retain(|known| known.at != mount.at);
            mounts.push(mount.point(number));
        }
        Ok(Self { fd, mounts })
    }
}

impl StepMount {
    /// How the wall is to open it.
    pub(super) fn opened(&self) -> Opened {
        let in_a_file_system = || {
            let kind = FileType::from_raw_mode(rfs::fstat(&self.what).ok()?.st_mode);
            let path = path_of(self.what.as_fd()).ok()?;
            // A file in memory has no place, and its path says so.
            let in_memory = path.as_os_str().as_bytes().starts_with(b"/memfd:");
            (kind == FileType::RegularFile && !in_memory).then_some(())
        };
        match (self.is_directory, self.read_only) {
            (true, false) => Opened::Directory,
            (true, true) => Opened::ReadOnlyDirectory,
            (false, _) if in_a_file_system().is_none() => Opened::Elsewhere,
            (false, false) => Opened::File,
            (false, true) => Opened::ReadOnlyFile,
        }
    }

    fn point(&self, number: usize) -> MountPoint {
        MountPoint {
            at: self.at.clone(),
            host: format!("/proc/self/fd/{}", own_descriptor(number)).into(),
            kind: if self.is_directory { MountKind::Directory } else { MountKind::File },
            read_only: self.read_only,
            own: Some(Arc::clone(&self.what)),
        }
    }
}

/// The number of the descriptor by which a step has its own mount.
pub(super) fn own_descriptor(number: usize) -> i32 {
    MOUNTED_FD.saturating_add(i32::try_from(number).unwrap_or(i32::MAX))
}

/// What `/proc/self/mounts` and `mountinfo` say of the step's own mounts.
fn own_lines(mounts: &[StepMount]) -> (String, String) {
    const FIRST: usize = 27;
    let (mut short, mut long) = (String::new(), String::new());
    for (number, mount) in mounts.iter().enumerate() {
        // As the kernel writes them (seq_file_path).
        let at = mount.at.to_string_lossy();
        let at =
            at.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
        let mode = if mount.read_only { "ro" } else { "rw" };
        let id = FIRST + number;
        short.push_str(&format!("mount {at} overlay {mode},relatime 0 0\n"));
        long.push_str(&format!("{id} 20 0:{id} / {at} {mode},relatime - overlay mount {mode}\n"));
    }
    (short, long)
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
        own: None,
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
    emulators: &[&Emulator],
    filter: &[super::abi::Instruction],
) -> io::Result<Box<StepBlock>> {
    let mut block = sys::empty_block();
    let StepBlock { text, mounts, emulators: emulator_room, filter: filter_room, .. } = &mut *block;
    let mut texts = Texts { room: text, used: 0 };
    let too_many =
        |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("the step has too many {what}"));
    // Deeper mount points first: the guest takes the first that fits.
    let mut order: Vec<(&MountPoint, u64)> = directory.mounts.iter().zip(stubs.iter().copied()).collect();
    order.sort_by_key(|(mount, _)| std::cmp::Reverse(mount.at.components().count()));
    if order.len() > MAX_MOUNTS || step.mounts.len() > MAX_OWN_MOUNTS {
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
        let absolute = match &mount.own {
            Some(what) => path_of(what.as_fd())?,
            None => step_path.join(&mount.host),
        };
        *slot = Mount {
            at: texts.add(at)?,
            host: texts.add(mount.host.as_os_str().as_bytes())?,
            host_absolute: texts.add(absolute.as_os_str().as_bytes())?,
            kind: mount.kind,
            read_only: mount.read_only.into(),
            own: mount.own.is_some().into(),
            stub: *stub,
        };
    }
    for (slot, emulator) in emulator_room.iter_mut().zip(emulators) {
        let name = texts.add(emulator.name().as_bytes())?;
        *slot = abi::Emulator { machine: emulator.machine(), name };
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
    let own = || order.iter().map(|(mount, _)| mount).filter(|mount| mount.own.is_some());
    block.own_mounts = own().next().is_some().into();
    block.own_read_only = own().any(|mount| mount.read_only).into();
    block.emulator_count = emulators.len().min(MAX_EMULATORS) as u32;
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
