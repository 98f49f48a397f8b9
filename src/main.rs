//! Start and exit code; everything else is in the library.

use std::process::ExitCode;

use cofferdam::build::succeed;
use cofferdam::sandbox::{supervise, sys};
use cofferdam::settings::Surroundings;

/// The allocator of musl takes one lock for all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Modes of files in images must not depend on who starts the program.
const UMASK: u32 = 0o022;

fn main() -> ExitCode {
    // Before anything else: a supervisor has one thread and the environment of its step.
    if let Some(status) = supervise::run_if_asked().or_else(succeed::run_if_asked) {
        return ExitCode::from(status as u8);
    }
    let umask = sys::set_umask(UMASK);
    // What the kernel refuses here it refuses to root's steps too: they are not allowed to look either way.
    let _ = sys::forbid_inspection();
    ExitCode::from(cofferdam::cli::run(std::env::args_os(), Surroundings::of_this_process(umask)))
}
