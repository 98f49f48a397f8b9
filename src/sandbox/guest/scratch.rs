//! Buffers for paths, off the stack: a handler may run on a signal stack of 4 KiB.
//!
//! No handler of the step can jump out of the guest with a buffer: signals are blocked but while the guest waits, and
//! nothing that may wait (opening a pipe, executing) is done while a buffer is held.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use super::abi::PATH_MAX;
use super::kernel::{ESRCH, call};
use super::nr;

/// Two paths and room to join a link's target with what is left of a path.
pub struct Buffers {
    /// A path with room for a link's target in front.
    pub path: [u8; 2 * PATH_MAX],
    /// A path.
    pub other: [u8; 2 * PATH_MAX],
}

struct Slot(UnsafeCell<Buffers>);

// SAFETY: the buffers are their owner's alone.
unsafe impl Sync for Slot {}

/// More threads than can be in the middle of a slow look-up at one time on any machine.
const SLOTS: usize = 64;

static POOL: [Slot; SLOTS] =
    [const { Slot(UnsafeCell::new(Buffers { path: [0; 2 * PATH_MAX], other: [0; 2 * PATH_MAX] })) }; SLOTS];

/// The thread that holds each pair, 0 if it is free. Apart from the buffers: a fork looks at all of them, and should
/// touch one page.
static OWNERS: [AtomicU32; SLOTS] = [const { AtomicU32::new(0) }; SLOTS];

/// The right to use a pair of buffers.
pub struct Scratch {
    slot: &'static Slot,
    owner: &'static AtomicU32,
}

impl Scratch {
    /// Takes a pair, waiting for one if need be.
    pub fn take() -> Self {
        let thread = call(nr::GETTID, [0; 6]).unwrap_or(1) as u32;
        loop {
            for (slot, owner) in POOL.iter().zip(&OWNERS) {
                if owner.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Self { slot, owner };
                }
            }
            reclaim();
            let _ = call(nr::SCHED_YIELD, [0; 6]);
        }
    }

    /// The buffers.
    pub fn buffers(&mut self) -> &mut Buffers {
        // SAFETY: the slot is ours.
        unsafe { &mut *self.slot.0.get() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.owner.store(0, Ordering::Release);
    }
}

/// In the child of a fork: the other threads, and what they held, are not there.
pub fn after_fork() {
    for owner in &OWNERS {
        if owner.load(Ordering::Relaxed) != 0 {
            owner.store(0, Ordering::Relaxed);
        }
    }
}

/// Frees what children of `vfork` held that were killed.
fn reclaim() {
    for slot in &OWNERS {
        let owner = slot.load(Ordering::Relaxed);
        if owner != 0 && call(nr::KILL, [owner as usize, 0, 0, 0, 0, 0]) == Err(ESRCH) {
            let _ = slot.compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
