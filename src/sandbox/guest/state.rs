//! What the guest knows of the process it lives in.
//!
//! Memory is the process's own, with one exception: a child of `vfork` (and of `posix_spawn`) runs in its parent's
//! memory until it executes a program. What such a child changes (a user, a root) must not become its parent's.
//! It gets a copy, a *shadow*, the first time it changes something; the kernel itself frees the shadow when the
//! child executes or dies, by the address given to `set_tid_address(2)`.
//!
//! Ordinary forks are carried out by the guest ([`super::calls`]), which then calls [`after_fork`]: so the owner of
//! this memory is always known.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use super::kernel::{self, EAGAIN, Result, call};
use super::nr;
use super::rules::credentials::Credentials;
use super::trap::Action;

/// The state of a process that calls can change.
#[derive(Clone, Copy)]
pub struct Task {
    /// Who it is.
    pub credentials: Credentials,
    /// Its umask: on disk the owner's bits of it are not applied.
    pub umask: u32,
    /// Whether it has changed its root.
    pub chrooted: u32,
    /// The action it believes to have set for SIGSYS.
    pub sigsys: Action,
}

struct Slot {
    /// The process this state is of; the kernel sets it to 0 when a child of `vfork` leaves the memory.
    owner: AtomicU32,
    task: UnsafeCell<Task>,
    /// Address and size of memory that a child of `vfork` mapped and could not unmap: it has executed a program.
    mapping: UnsafeCell<(usize, usize)>,
}

// SAFETY: threads of a process change its identity only all together (the C library makes them), and a reader
// that sees half a change decides as before or after it. A shadow has one thread.
unsafe impl Sync for Slot {}

/// One process's own state and the shadows of its children that run at one time: each has a thread of the parent
/// waiting for it.
const SLOTS: usize = 17;

static SLOT: [Slot; SLOTS] = [const {
    Slot {
        owner: AtomicU32::new(0),
        task: UnsafeCell::new(Task {
            credentials: Credentials::NOBODY,
            umask: 0o022,
            chrooted: 0,
            sigsys: Action::DEFAULT,
        }),
        mapping: UnsafeCell::new((0, 0)),
    }
}; SLOTS];

/// Whether there may be shadows: the common case of none needs no `getpid`.
static SHADOWS: AtomicU32 = AtomicU32::new(0);

/// Sets the state of a process that has just begun to run its program.
pub fn begin(task: Task) {
    // SAFETY: there is one thread, and it is here.
    unsafe { *SLOT[0].task.get() = task };
    SLOT[0].owner.store(kernel::getpid(), Ordering::Release);
}

/// The state of the calling process.
pub fn task() -> &'static Task {
    let slot = if SHADOWS.load(Ordering::Acquire) == 0 { &SLOT[0] } else { find(kernel::getpid()) };
    // SAFETY: see `Slot`.
    unsafe { &*slot.task.get() }
}

/// The identity of the calling process.
pub fn credentials() -> &'static Credentials {
    &task().credentials
}

/// Whether the caller runs in the memory of another process.
pub fn is_vfork_child() -> bool {
    SLOT[0].owner.load(Ordering::Relaxed) != kernel::getpid()
}

/// Changes the state of the calling process, and of no other. An error of `change` leaves it as it was.
pub fn change<T>(change: impl FnOnce(&mut Task) -> Result<T>) -> Result<T> {
    let slot = own_slot()?;
    // SAFETY: see `Slot`; the copy is made so that an error half way changes nothing.
    let mut task = unsafe { *slot.task.get() };
    let value = change(&mut task)?;
    // SAFETY: see `Slot`.
    unsafe { *slot.task.get() = task };
    Ok(value)
}

/// Notes memory that the caller has mapped and will unmap; if it is a child of `vfork` that executes a program first,
/// its parent does, when it next needs the slot.
pub fn own_mapping(address: usize, size: usize) -> Result<()> {
    if is_vfork_child() {
        let slot = own_slot()?;
        // SAFETY: see `Slot`.
        unsafe { *slot.mapping.get() = (address, size) };
    }
    Ok(())
}

/// In the child of an ordinary fork: the memory is its own now. `task` is the state of the parent.
pub fn after_fork(task: Task) {
    for slot in SLOT.iter().filter(|slot| slot.owner.load(Ordering::Relaxed) != 0) {
        slot.owner.store(0, Ordering::Relaxed);
    }
    SHADOWS.store(0, Ordering::Relaxed);
    begin(task);
}

/// The slot of process `pid`: its shadow, or the memory's owner's.
fn find(pid: u32) -> &'static Slot {
    let mut any = false;
    for slot in &SLOT[1..] {
        match slot.owner.load(Ordering::Acquire) {
            0 => {}
            owner if owner == pid => return slot,
            _ => any = true,
        }
    }
    if !any {
        // A shadow that is taken right now sets the mark again after it has taken its slot.
        SHADOWS.store(0, Ordering::Release);
        if SLOT[1..].iter().any(|slot| slot.owner.load(Ordering::Acquire) != 0) {
            SHADOWS.store(1, Ordering::Release);
        }
    }
    &SLOT[0]
}

/// The slot that the calling process may write to.
fn own_slot() -> Result<&'static Slot> {
    let pid = kernel::getpid();
    if SLOT[0].owner.load(Ordering::Acquire) == pid {
        return Ok(&SLOT[0]);
    }
    let found = find(pid);
    if found.owner.load(Ordering::Relaxed) == pid {
        return Ok(found);
    }
    // A child of vfork that itself has such a child hands its own shadow on.
    let parent = find(call(nr::GETPPID, [0; 6])? as u32);
    for slot in &SLOT[1..] {
        if slot.owner.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            // SAFETY: the slot was free and is ours now.
            let (address, size) = unsafe {
                *slot.task.get() = *parent.task.get();
                core::mem::take(&mut *slot.mapping.get())
            };
            if size != 0 {
                let _ = kernel::munmap(address, size);
            }
            SHADOWS.store(1, Ordering::Release);
            call(nr::SET_TID_ADDRESS, [slot.owner.as_ptr() as usize, 0, 0, 0, 0, 0])?;
            return Ok(slot);
        }
    }
    Err(EAGAIN)
}
