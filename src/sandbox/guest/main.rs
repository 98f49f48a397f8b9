//! The guest: the part of the sandbox that lives inside every process of a step.
//!
//! It is one freestanding program (no libc, no heap, no thread-local storage, general registers only) at a fixed
//! address. `execve` in a step becomes an `execve` of this program, which
//! 1. maps the step's program and its ELF interpreter from inside the step's root ([`load`]),
//! 2. installs a handler for SIGSYS, the signal that the seccomp filter raises for every call that names a path or
//!    an identity ([`trap`]),
//! 3. jumps to the program. From then on it is only the handler: each trapped call is carried out by the guest in
//!    the meaning that it has in the step's world ([`calls`]).
//!
//! Invariants: the handler may interrupt any instruction of any program, on any stack, in any thread, and in a
//! child of `vfork` that shares its parent's memory. So it allocates nothing, keeps big buffers off the stack
//! ([`scratch`]), holds no lock while the step's own code runs, and never unwinds.

#![no_std]
#![no_main]
#![allow(unsafe_code)]

#[path = "../abi.rs"]
#[allow(dead_code)] // The host uses the rest.
mod abi;
#[path = "../ledger.rs"]
#[allow(dead_code)] // The host uses the rest.
mod ledger;
#[path = "../nr.rs"]
#[allow(dead_code)] // The host uses the rest.
mod nr;
#[path = "../rules/mod.rs"]
#[allow(dead_code)] // The host uses the rest.
mod rules;
mod arch;
mod calls;
mod exec;
mod file;
mod kernel;
mod load;
mod mounts;
mod resolve;
mod scratch;
mod shared;
mod state;
mod trap;
mod user;

use arch::Jump;

/// Exit status of a process whose program the guest could not start: the shell's for "cannot execute".
const CANNOT_EXECUTE: usize = 126;

/// Called by the entry point with the initial stack: argument count, arguments, environment, auxiliary vector.
unsafe extern "C" fn guest_main(stack: *mut usize) -> Jump {
    if shared::map().is_err() {
        fail(b"cannot map the sandbox's memory");
    }
    match exec::take_record() {
        Some(record) => load::program(stack, &record),
        None => load::first_program(stack),
    }
}

/// Ends the process with a message: there is no program yet to return an error to.
fn fail(message: &[u8]) -> ! {
    kernel::say(b"cofferdam sandbox: ");
    kernel::say(message);
    kernel::say(b"\n");
    kernel::exit(CANNOT_EXECUTE)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    fail(b"internal error in the guest")
}
