//! The handler of SIGSYS, by which every trapped call arrives.

use super::arch::{self, Frame};
use super::kernel::{self, call, returned};
use super::nr;
use super::state;

/// The signal's number.
pub const SIGSYS: usize = 31;
/// The same in a signal mask.
pub const SIGSYS_BIT: u64 = 1 << (SIGSYS - 1);
/// `si_code` of a SIGSYS raised by a filter.
const SYS_SECCOMP: i32 = 1;

const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_NODEFER: u64 = 0x4000_0000;

/// `struct kernel_sigaction`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Action {
    /// Address of the handler; 0 for the default, 1 to ignore.
    pub handler: usize,
    /// `SA_*`
    pub flags: u64,
    /// What the handler returns to.
    pub restorer: usize,
    /// Signals blocked while it runs.
    pub mask: u64,
}

impl Action {
    /// `SIG_DFL`
    pub const DEFAULT: Self = Self { handler: 0, flags: 0, restorer: 0, mask: 0 };
}

/// The part of `siginfo_t` that a filter fills in.
#[repr(C)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    address: usize,
    number: i32,
    architecture: u32,
}

/// Every signal but those that a fault raises (SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV) and SIGSYS.
const BLOCKED: u64 = !(1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30);

const SIG_SETMASK: usize = 2;

/// The signals that the step's thread has blocked, while the guest has blocked them all.
///
/// A handler of the step may jump anywhere (siglongjmp); out of the guest it would take descriptors and buffers with
/// it. So it can only run where the guest waits, and holds nothing.
#[derive(Clone, Copy)]
pub struct StepMask(u64);

impl StepMask {
    /// Of a call that may wait.
    pub fn of(frame: &Frame) -> Self {
        Self(frame.mask)
    }

    /// Of a program that has not begun.
    pub fn current() -> Self {
        let mut mask = 0_u64;
        let _ = call(nr::RT_SIGPROCMASK, [SIG_SETMASK, 0, &raw mut mask as usize, 8, 0, 0]);
        Self(mask)
    }

    /// As the kernel has it.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Lays the mask that a program begins with on the thread.
    pub fn begin(bits: u64) {
        Self(bits & !SIGSYS_BIT).set();
    }

    /// Makes a call that may wait, with the step's signals coming in.
    pub fn wait<T>(self, wait: impl FnOnce() -> T) -> T {
        self.set();
        let result = wait();
        Self(BLOCKED).set();
        result
    }

    fn set(self) {
        let _ = call(nr::RT_SIGPROCMASK, [SIG_SETMASK, &raw const self.0 as usize, 0, 8, 0, 0]);
    }
}

/// Installs the handler. It nests (a handler of the step that runs while the guest waits makes calls too) and runs on
/// the alternate stack where the thread has one (Go demands it).
pub fn install() {
    let action = Action {
        handler: handle as *const () as usize,
        flags: SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART | SA_RESTORER,
        restorer: arch::guest_restorer as *const () as usize,
        mask: BLOCKED,
    };
    if call(nr::RT_SIGACTION, [SIGSYS, &raw const action as usize, 0, 8, 0, 0]).is_err() {
        super::fail(b"cannot install the handler");
    }
}

unsafe extern "C" fn handle(signal: i32, info: *const Info, frame: *mut Frame) {
    // SAFETY: the kernel passes them, and they live on this handler's stack.
    let (info, frame) = unsafe { (&*info, &mut *frame) };
    if info.code != SYS_SECCOMP {
        return pass_on(signal, info, frame);
    }
    let result = super::calls::dispatch(info.number as usize, frame.arguments(), frame);
    frame.set_result(returned(result));
}

/// A SIGSYS that somebody sent: the step's own action, if it has one that is a handler. By default it ends the
/// process.
fn pass_on(signal: i32, info: &Info, frame: &mut Frame) {
    match state::task().sigsys.handler {
        0 => kernel::exit(128 + SIGSYS),
        1 => {}
        address => {
            // SAFETY: the step has given this address as a handler, and a handler is what it is called as.
            let handler: unsafe extern "C" fn(i32, *const Info, *mut Frame) =
                unsafe { core::mem::transmute(address) };
            // SAFETY: as above.
            unsafe { handler(signal, info, frame) }
            // It may have changed the mask that holds from here on; see `calls::signals::sigreturn`.
            frame.mask &= !SIGSYS_BIT;
        }
    }
}

