//! The sandbox on real programs, beside what a container's real root makes of the same.
//!
//! Every scenario (a base image, and steps in it one after the other) is carried out in several ways: by the sandbox
//! in a process with root's privileges, by the sandbox as an ordinary user without any capability, and, where there
//! is to be an oracle, by nobody's sandbox: a real chroot, with the kernel's own mounts and a container's
//! capabilities. What steps print, how they end and what they change must be the same.
//!
//! This program is not only the tests. Started again it is a step's supervisor, or the [`runner`] of a scenario,
//! perhaps as another user. That is why it has a `main` of its own.

// A test says what is wrong by failing where it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod base;
mod calls;
mod foreign;
mod hostile;
mod life;
mod native;
mod programs;
mod runner;
mod scenario;
mod scripts;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    if let Some(status) = cofferdam::sandbox::supervise::run_if_asked() {
        return ExitCode::from(status as u8);
    }
    if runner::run_if_asked() {
        return ExitCode::SUCCESS;
    }
    let mut trials = Vec::new();
    for (name, test) in
        [calls::tests(), foreign::tests(), life::tests(), hostile::tests()].into_iter().flatten()
    {
        trials.push(trial(name.to_owned(), test));
    }
    for (name, base) in programs::BASES {
        trials.push(trial(format!("programs::{name}"), move || programs::run(name, base)));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that fails by panicking, as all others do.
type Test = (&'static str, fn());

fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || -> Result<(), Failed> {
        test();
        Ok(())
    })
}
