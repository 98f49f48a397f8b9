//! The kernel's calls as the guest makes them: typed, with errors as [`Errno`], descriptors closed on drop.
//!
//! These calls come from the guest's own code, so the filter lets them through. The kernel checks every pointer;
//! a bad one is `EFAULT`, never a crash.

use super::arch;
use super::nr;

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

macro_rules! errno {
    ($($name:ident = $value:literal),* $(,)?) => { $(pub const $name: Errno = Errno($value);)* };
}

errno!(
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    E2BIG = 7,
    EBADF = 9,
    EAGAIN = 11,
    EACCES = 13,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENOSPC = 28,
    EROFS = 30,
    ERANGE = 34,
    ENAMETOOLONG = 36,
    ENOSYS = 38,
    ELOOP = 40,
    ENOEXEC = 8,
    ENODATA = 61,
    EOPNOTSUPP = 95,
    EAFNOSUPPORT = 97,
);

/// The outcome of a call.
pub type Result<T = isize> = core::result::Result<T, Errno>;

/// The value a system call returns for `result`.
pub fn returned(result: Result) -> isize {
    match result {
        Ok(value) => value,
        Err(Errno(number)) => -(number as isize),
    }
}

/// Any system call, its result split.
#[inline(always)]
pub fn call(number: usize, arguments: [usize; 6]) -> Result {
    // SAFETY: what the guest passes on are the step's own pointers, checked by the kernel, or its own buffers.
    let result = unsafe { arch::syscall(number, arguments) };
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result) }
}

/// A pointer to a NUL-terminated text: the step's (the kernel checks it) or the guest's own.
pub type CString = *const u8;

/// The empty text.
pub const EMPTY: CString = c"".as_ptr().cast();

pub const AT_FDCWD: i32 = -100;
pub const AT_SYMLINK_NOFOLLOW: usize = 0x100;
pub const AT_REMOVEDIR: usize = 0x200;
pub const AT_SYMLINK_FOLLOW: usize = 0x400;
pub const AT_EMPTY_PATH: usize = 0x1000;

pub const O_ACCMODE: usize = 3;
pub const O_RDONLY: usize = 0;
pub const O_WRONLY: usize = 1;
pub const O_CREAT: usize = 0o100;
pub const O_EXCL: usize = 0o200;
pub const O_TRUNC: usize = 0o1000;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_DIRECTORY: usize = 0o200_000;
pub const O_NOFOLLOW: usize = 0o400_000;
pub const O_CLOEXEC: usize = 0o2_000_000;
pub const O_PATH: usize = 0o10_000_000;
pub const O_TMPFILE_BIT: usize = 0o20_000_000;

/// An `openat2` lookup that treats its directory as `/`.
pub const RESOLVE_IN_ROOT: u64 = 0x10;
/// An `openat2` lookup that fails with `EXDEV` where it would leave its directory.
pub const RESOLVE_BENEATH: u64 = 0x08;
/// An `openat2` lookup that does not enter `/proc`'s links to objects.
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;

/// A descriptor of the guest's own, closed when dropped.
pub struct Fd(i32);

impl Fd {
    /// The number.
    pub fn number(&self) -> i32 {
        self.0
    }

    /// Gives the descriptor away: to the step.
    pub fn release(self) -> i32 {
        let number = self.0;
        core::mem::forget(self);
        number
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = close(self.0);
    }
}

/// `struct stat` of x86-64.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    pub links: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    padding: u32,
    pub rdev: u64,
    pub size: i64,
    rest: [u64; 11],
}

const _: () = assert!(core::mem::size_of::<Stat>() == 144);

impl Stat {
    /// Room for the kernel to write to.
    pub const fn empty() -> Self {
        Self {
            device: 0,
            inode: 0,
            links: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            padding: 0,
            rdev: 0,
            size: 0,
            rest: [0; 11],
        }
    }
}

/// `struct open_how`
#[repr(C)]
pub struct OpenHow {
    pub flags: u64,
    pub mode: u64,
    pub resolve: u64,
}

pub fn close(fd: i32) -> Result {
    call(nr::CLOSE, [fd as usize, 0, 0, 0, 0, 0])
}

pub fn openat(directory: i32, path: CString, flags: usize, mode: u32) -> Result<Fd> {
    call(nr::OPENAT, [directory as usize, path as usize, flags, mode as usize, 0, 0]).map(|fd| Fd(fd as i32))
}

/// `openat2`; a lookup that raced with a rename is tried again, as the manual asks.
pub fn openat2(directory: i32, path: CString, flags: usize, mode: u32, resolve: u64) -> Result<Fd> {
    /// The races of a busy tree end well before; then the caller sees `EAGAIN`.
    const TRIES: usize = 128;
    let how = OpenHow { flags: flags as u64, mode: u64::from(mode), resolve };
    let arguments =
        [directory as usize, path as usize, &raw const how as usize, core::mem::size_of::<OpenHow>(), 0, 0];
    let mut result = call(nr::OPENAT2, arguments);
    for _ in 0..TRIES {
        if result != Err(EAGAIN) {
            break;
        }
        result = call(nr::OPENAT2, arguments);
    }
    result.map(|fd| Fd(fd as i32))
}

pub fn fstat(fd: i32) -> Result<Stat> {
    fstatat(fd, EMPTY, AT_EMPTY_PATH)
}

pub fn fstatat(directory: i32, path: CString, flags: usize) -> Result<Stat> {
    let mut stat = Stat::empty();
    fstatat_into(directory, path, &raw mut stat, flags)?;
    Ok(stat)
}

pub fn fstatat_into(directory: i32, path: CString, stat: *mut Stat, flags: usize) -> Result {
    call(nr::NEWFSTATAT, [directory as usize, path as usize, stat as usize, flags, 0, 0])
}

/// Reads a link into `buffer` and ends it with NUL. `ENAMETOOLONG` if it does not fit.
pub fn readlinkat(directory: i32, path: CString, buffer: &mut [u8]) -> Result<usize> {
    let room = buffer.len();
    let length =
        call(nr::READLINKAT, [directory as usize, path as usize, buffer.as_mut_ptr() as usize, room, 0, 0])? as usize;
    match buffer.get_mut(length) {
        Some(end) => {
            *end = 0;
            Ok(length)
        }
        None => Err(ENAMETOOLONG),
    }
}

pub fn getpid() -> u32 {
    call(nr::GETPID, [0; 6]).unwrap_or(0) as u32
}

pub fn dup3(from: i32, to: i32, flags: usize) -> Result {
    call(nr::DUP3, [from as usize, to as usize, flags, 0, 0, 0])
}

pub fn pread(fd: i32, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let (room, start) = (buffer.len(), buffer.as_mut_ptr() as usize);
    call(nr::PREAD64, [fd as usize, start, room, offset as usize, 0, 0]).map(|n| n as usize)
}

pub const PROT_READ: usize = 1;
pub const PROT_WRITE: usize = 2;
pub const PROT_EXEC: usize = 4;
pub const MAP_SHARED: usize = 1;
pub const MAP_PRIVATE: usize = 2;
pub const MAP_FIXED: usize = 0x10;
pub const MAP_ANONYMOUS: usize = 0x20;
pub const MAP_NORESERVE: usize = 0x4000;
pub const MAP_FIXED_NOREPLACE: usize = 0x10_0000;

pub fn mmap(address: usize, length: usize, protection: usize, flags: usize, fd: i32, offset: u64) -> Result<usize> {
    call(nr::MMAP, [address, length, protection, flags, fd as usize, offset as usize]).map(|a| a as usize)
}

pub fn munmap(address: usize, length: usize) -> Result {
    call(nr::MUNMAP, [address, length, 0, 0, 0, 0])
}

/// Writes `text` to the step's stderr: for what must be said before there is anybody to return an error to.
pub fn say(text: &[u8]) {
    let _ = call(nr::WRITE, [2, text.as_ptr() as usize, text.len(), 0, 0, 0]);
}

/// Ends the process.
pub fn exit(status: usize) -> ! {
    loop {
        let _ = call(nr::EXIT_GROUP, [status, 0, 0, 0, 0, 0]);
    }
}
