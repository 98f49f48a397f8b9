//! Files as the step sees them: the kernel's `stat` and the ledger put together.

use super::abi::ROOT_FD;
use super::kernel::{self, AT_FDCWD, ENOSPC, EPERM, Result, Stat, call};
use super::ledger::{Entry, Record, inode_key};
use super::nr;
use super::rules::access::Attributes;
use super::rules::mode;
use super::shared::{block, ledger};

/// A file as the step sees it.
#[derive(Clone, Copy)]
pub struct Seen {
    /// Owner, group and mode.
    pub attributes: Attributes,
    /// Device number of a device node of the ledger: major << 20 | minor.
    pub device: u32,
    /// Key in the ledger; `None` for files that are not the root's.
    pub key: Option<u64>,
}

/// Puts `stat` and the ledger together.
pub fn seen(stat: &Stat) -> Seen {
    let block = block();
    let key = inode_key(&block.devices, stat.device, stat.inode);
    if let Some(record) = key.and_then(|key| ledger().get(key)) {
        let recorded_kind = record.mode & mode::KIND;
        let is_device = matches!(recorded_kind, mode::CHARACTER | mode::BLOCK);
        let kind = if is_device { recorded_kind } else { stat.mode & mode::KIND };
        let attributes =
            Attributes { uid: record.uid, gid: record.gid, mode: kind | record.mode & mode::PERMISSIONS };
        return Seen { attributes, device: if is_device { record.device } else { 0 }, key };
    }
    let uid = if stat.uid == block.real_uid { 0 } else { stat.uid };
    let gid = if stat.gid == block.real_gid { 0 } else { stat.gid };
    Seen { attributes: Attributes { uid, gid, mode: stat.mode }, device: 0, key }
}

impl Seen {
    /// The ledger's entry, if there is one in use.
    pub fn entry(&self) -> Option<&'static Entry> {
        ledger().find(self.key?).filter(|entry| entry.get().is_some())
    }

    /// Corrects what the kernel said.
    pub fn patch(&self, stat: &mut Stat) {
        stat.uid = self.attributes.uid;
        stat.gid = self.attributes.gid;
        stat.mode = self.attributes.mode;
        if self.device != 0 {
            stat.rdev = device_number(self.device);
        }
    }
}

/// The device number of `stat` (`makedev` of the C library) for the kernel's own form.
pub fn device_number(kernel: u32) -> u64 {
    let (major, minor) = (u64::from(kernel >> 20), u64::from(kernel & 0xf_ffff));
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The kernel's form of a device number as `mknod(2)` takes it.
pub fn kernel_device(number: u32) -> u32 {
    let major = number >> 8 & 0xfff;
    let minor = number & 0xff | number >> 12 & 0xf_ff00;
    major << 20 | minor
}

/// Records that the file `seen`, which has `disk` permissions on disk, is `attributes` to the step. `ENOSPC` if
/// the ledger is full.
pub fn record(seen: &Seen, disk: u32, attributes: &Attributes, device: u32) -> Result<()> {
    let Some(key) = seen.key else { return Ok(()) };
    let default = attributes.uid == 0
        && attributes.gid == 0
        && attributes.mode & mode::PERMISSIONS == disk
        && device == 0;
    if default && seen.entry().is_none() {
        return Ok(());
    }
    let entry = ledger().entry(key).ok_or(ENOSPC)?;
    if matches!(attributes.mode & mode::KIND, mode::CHARACTER | mode::BLOCK) {
        ledger().note_device();
    }
    let Attributes { uid, gid, mode } = *attributes;
    entry.set(Record { uid, gid, mode, device });
    Ok(())
}

/// Records a file that was just made, whose inode may have been another file's before.
pub fn record_new(stat: &Stat, attributes: &Attributes, device: u32) -> Result<()> {
    let key = inode_key(&block().devices, stat.device, stat.inode);
    if let Some(key) = key {
        ledger().reset(key);
    }
    let seen = Seen { attributes: *attributes, device, key };
    record(&seen, stat.mode & mode::PERMISSIONS, attributes, device)
}

/// A path to an open descriptor: `/proc/self/fd/N`, for calls that take no descriptor of a path alone.
pub struct FdPath([u8; 32]);

impl FdPath {
    /// The path of `fd`.
    pub fn new(fd: i32) -> Self {
        Self::with_name(fd, b"")
    }

    /// The path of `name` in the directory `fd`; `name` must be short ([`FdPath::ROOM`]).
    fn with_name(fd: i32, name: &[u8]) -> Self {
        let mut path = Self([0; 32]);
        let mut text = Text::new(&mut path.0);
        text.push(b"/proc/self/fd/");
        text.push_number(fd.unsigned_abs());
        text.push(name);
        path
    }

    /// As the kernel takes it.
    pub fn as_ptr(&self) -> kernel::CString {
        self.0.as_ptr()
    }

    /// The bytes without the NUL.
    pub fn bytes(&self) -> &[u8] {
        let length = self.0.iter().position(|&byte| byte == 0).unwrap_or(0);
        self.0.get(..length).unwrap_or(&[])
    }
}

/// A text being put together in a buffer that always keeps room for a NUL.
pub struct Text<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> Text<'a> {
    /// An empty text in `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// Adds `bytes`; `false`, and adds nothing, if they do not fit.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let end = self.length + bytes.len();
        if end >= self.buffer.len() {
            return false;
        }
        for (slot, byte) in self.buffer.iter_mut().skip(self.length).zip(bytes) {
            *slot = *byte;
        }
        self.length = end;
        if let Some(nul) = self.buffer.get_mut(end) {
            *nul = 0;
        }
        true
    }

    /// Adds a number in decimal.
    pub fn push_number(&mut self, mut number: u32) -> bool {
        let mut digits = [0; 10];
        let mut count = 0;
        for slot in digits.iter_mut().rev() {
            *slot = b'0' + (number % 10) as u8;
            number /= 10;
            count += 1;
            if number == 0 {
                break;
            }
        }
        self.push(digits.get(digits.len() - count..).unwrap_or(&[]))
    }

    /// The bytes so far.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// Changes the mode of what `fd` (path-only or not) is open on, on disk; also where it stays, for the change of
/// ctime by which the layer's writer finds the file.
pub fn set_disk_mode(fd: i32, permissions: u32) -> Result {
    let path = FdPath::new(fd);
    call(nr::FCHMODAT, [AT_FDCWD as usize, path.as_ptr() as usize, permissions as usize, 0, 0, 0])
}

/// Changes nothing but the ctime of what `fd` is open on: a change of owner that the disk does not show.
pub fn touch(fd: i32) -> Result {
    let keep = u32::MAX as usize;
    let empty = kernel::EMPTY as usize;
    call(nr::FCHOWNAT, [fd as usize, empty, keep, keep, kernel::AT_EMPTY_PATH, 0])
}

/// Whether `stat` is of the root directory of the calling process.
pub fn is_root(stat: &Stat) -> bool {
    let same = |root: Stat| (root.device, root.inode) == (stat.device, stat.inode);
    kernel::fstat(ROOT_FD).is_ok_and(same)
}

/// Whether `stat` is of the step's root, whatever root the process has changed to.
pub fn is_step_root(stat: &Stat) -> bool {
    let block = block();
    stat.inode == block.root_inode && stat.device == block.devices[0]
}

/// The error for a device node that the step made and may not open, as a device cgroup gives it.
pub const DEVICE_REFUSED: kernel::Errno = EPERM;
