//! The unsafe calls of the sandbox's host side, each behind a safe function.
//!
//! Together with the guest this is the only place in the program that says `unsafe`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::abi::{BLOCK_SIZE, SHARED_SIZE, Shared, StepBlock};

/// The guest, as `build.rs` made it.
pub static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest"));

/// The memory shared with the steps of one root (see [`super::abi`]).
#[derive(Debug)]
pub struct SharedMemory {
    file: OwnedFd,
    table: NonNull<Shared>,
}

// SAFETY: the table is atomics throughout, and is unmapped only when dropped.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New memory, all zero: an empty ledger. It takes up what is used of it.
    pub fn create() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("cofferdam-ledger", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, SHARED_SIZE as u64)?;
        // SAFETY: a fresh mapping, at an address that the kernel picks.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                size_of::<Shared>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                BLOCK_SIZE as u64,
            )?
        };
        let table = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { file, table })
    }

    /// The table.
    pub fn shared(&self) -> &Shared {
        // SAFETY: mapped as long as `self` lives; every pattern of bits is a valid table.
        unsafe { self.table.as_ref() }
    }

    /// Writes what the guest is told of the next step.
    pub fn write_block(&self, block: &StepBlock) -> io::Result<()> {
        // SAFETY: plain data without references; padding is written as it is and never read.
        let bytes =
            unsafe { std::slice::from_raw_parts((block as *const StepBlock).cast(), size_of::<StepBlock>()) };
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            written += rustix::io::pwrite(&self.file, rest, written as u64)?;
        }
        Ok(())
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `create`, and nobody has a reference any more.
        let _ = unsafe { rustix::mm::munmap(self.table.as_ptr().cast(), size_of::<Shared>()) };
    }
}

/// A step block of all zeros. It is boxed: it is larger than a stack frame should be.
pub fn empty_block() -> Box<StepBlock> {
    let layout = std::alloc::Layout::new::<StepBlock>();
    // SAFETY: the layout is not of size zero; all zeros is a valid block (`MountKind` has a variant 0).
    unsafe {
        let memory = std::alloc::alloc_zeroed(layout);
        if memory.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Box::from_raw(memory.cast())
    }
}

/// The guest as a file in memory that nobody can change any more, ready to be executed.
pub fn guest_file() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels from 6.3 on may be told to refuse memory files that are not marked executable; older ones do not
    // know the mark.
    let file = match rustix::fs::memfd_create("cofferdam-guest", flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("cofferdam-guest", flags)?,
        other => other?,
    };
    let mut written = 0;
    while let Some(rest) = GUEST.get(written..).filter(|rest| !rest.is_empty()) {
        written += rustix::io::write(&file, rest)?;
    }
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file)
}

/// Hands `descriptors` to the command's process under given numbers, where they stay open over its `exec`.
/// The numbers must be free in the process: larger than any descriptor in use.
pub fn pass_descriptors(command: &mut Command, descriptors: &[(BorrowedFd<'_>, RawFd)]) {
    let pairs: Vec<(RawFd, RawFd)> =
        descriptors.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
    let place = move || {
        for (from, to) in &pairs {
            // SAFETY: dup3 and fcntl are async-signal-safe and touch descriptors of this process alone.
            let result = unsafe {
                if from == to { libc::fcntl(*to, libc::F_SETFD, 0) } else { libc::dup3(*from, *to, 0) }
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe calls only, and allocates nothing.
    unsafe { command.pre_exec(place) };
}

/// Runs `prepare` in the command's process, after the fork and before the `exec`. The calling process must have one
/// thread, so that `prepare` may do what any code may.
pub fn prepare_single_threaded(
    command: &mut Command,
    prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: with one thread there is no lock that another thread holds in the child.
    unsafe { command.pre_exec(prepare) };
}

/// Takes over a descriptor that the process was started with.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks whether the number is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by agreement with the parent process it is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor of the process outside `keep` (ascending ranges). The process must have one thread and
/// own none of them.
pub fn close_others(keep: &[std::ops::RangeInclusive<RawFd>]) -> io::Result<()> {
    let mut from = 0;
    for range in keep {
        close_range(from, range.start() - 1)?;
        from = range.end() + 1;
    }
    close_range(from, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: by the caller's promise nobody in this process uses them.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the process's umask and gives the old one. For the whole process, so once, at its start.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: no memory is involved.
    unsafe { libc::umask(mask) }
}

/// The user and group that files made by the calling thread belong to, until dropped.
#[derive(Debug)]
pub struct FileIdentity {
    /// Who the thread was, and who it is: nothing where they are one.
    change: Option<[(u32, u32); 2]>,
    /// The identity is the thread's.
    _thread: std::marker::PhantomData<*const ()>,
}

impl FileIdentity {
    /// Makes the calling thread act on files as `uid` and `gid`. Nothing to do, and no privilege needed, where it
    /// does already; so one within another is fine.
    pub fn assume(uid: u32, gid: u32) -> io::Result<Self> {
        let before = file_identity();
        if before == (uid, gid) {
            return Ok(Self { change: None, _thread: std::marker::PhantomData });
        }
        let change = Some([before, (uid, gid)]);
        let identity = Self { change, _thread: std::marker::PhantomData };
        set_file_identity(uid, gid)?;
        Ok(identity)
    }

    /// Does something as who the thread was before: what belongs to the build, not to the root.
    pub fn suspended<T>(&self, act: impl FnOnce() -> T) -> T {
        let Some([before, now]) = self.change else { return act() };
        // Both directions have been allowed once.
        let _ = set_file_identity(before.0, before.1);
        let done = act();
        let _ = set_file_identity(now.0, now.1);
        done
    }
}

impl Drop for FileIdentity {
    fn drop(&mut self) {
        if let Some([(uid, gid), _]) = self.change {
            // Going back, most often to the effective IDs, is always allowed.
            let _ = set_file_identity(uid, gid);
        }
    }
}

fn set_file_identity(uid: u32, gid: u32) -> io::Result<()> {
    // The group first: whoever is not root any more may not change it. And the raw calls: they change the calling
    // thread alone. Their result is the old identity whatever happens; asking again tells.
    // SAFETY: no memory is involved.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
    if file_identity() == (uid, gid) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Who the calling thread is to files. To set an invalid ID changes nothing, and tells.
fn file_identity() -> (u32, u32) {
    // SAFETY: no memory is involved.
    let (uid, gid) =
        unsafe { (libc::syscall(libc::SYS_setfsuid, u32::MAX), libc::syscall(libc::SYS_setfsgid, u32::MAX)) };
    (uid as u32, gid as u32)
}

/// Whether the process has the capabilities to become another user.
pub fn may_become_another_user() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, capabilities};
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let effective = capabilities(None)?.effective;
    if effective.contains(needed) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Whether a seccomp filter may answer a call with a signal to the process.
pub fn seccomp_can_trap() -> io::Result<String> {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    const SECCOMP_RET_TRAP: u32 = 0x0003_0000;
    let action = SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads the action, and nothing is changed.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok("works".to_owned()) }
}

/// Becomes `uid` and `gid` for good, without groups and capabilities. The process must have one thread.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: no memory is involved but an empty list.
    unsafe {
        if libc::geteuid() != uid || libc::getegid() != gid {
            // Without CAP_SETGID the groups stay; they give the step nothing that the wall does not refuse.
            let _ = libc::setgroups(0, std::ptr::null());
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))?;
        }
    }
    drop_capabilities()
}

/// Gives up every capability, also those that a later `exec` would bring back.
fn drop_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    // Where the bounding set cannot be emptied (no CAP_SETPCAP) there is nothing in it that no_new_privs, which
    // the sandbox sets, would let out.
    for capability in CapabilitySet::all().iter() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, none)?)
}

/// Keeps other processes of the same user from reading this one's memory, environment and descriptors.
pub fn forbid_inspection() -> io::Result<()> {
    let off = rustix::process::DumpableBehavior::NotDumpable;
    Ok(rustix::process::set_dumpable_behavior(off)?)
}

/// A pipe whose ends are closed over `exec`.
pub fn pipe() -> io::Result<(File, File)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((read.into(), write.into()))
}

/// `/proc/self/fd/N`
pub fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The addresses of the guest's code: of the segments of its ELF file that can be executed.
pub fn guest_code_range() -> io::Result<(u64, u64)> {
    let long = |at: usize| {
        let bytes = GUEST.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let half = |at: usize| GUEST.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let range = || {
        let table = usize::try_from(long(32)?).ok()?;
        let mut range: Option<(u64, u64)> = None;
        for index in 0..usize::from(half(56)?) {
            let header = table + index * 56;
            let (kind, flags) = (*GUEST.get(header)?, *GUEST.get(header + 4)?);
            if kind == 1 && flags & 1 != 0 {
                let (address, size) = (long(header + 16)?, long(header + 40)?);
                let (first, behind) = range.unwrap_or((address, address + size));
                range = Some((first.min(address), behind.max(address + size)));
            }
        }
        range
    };
    range()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the embedded guest is not an ELF program"))
}
