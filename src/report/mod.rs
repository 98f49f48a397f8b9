//! What users are told while something happens: events, and the reporters that show them.
//!
//! Owns standard error. Whatever another room has to say it says as an [`Event`] to a [`Report`], the handle that
//! everything is given; a [`Reporter`] (the seam) shows it: [`Tty`] draws, [`Plain`] writes lines, [`Json`] objects,
//! [`Quiet`] failures alone.
//!
//! Invariants:
//! 1. Output of steps can neither steer a terminal nor break a format, however it is made.
//! 2. Passwords in addresses are hidden before any reporter sees an event.
//! 3. An event may come from any thread; those of one thread are shown in their order. Nobody waits for a terminal to
//!    draw; a log that is read slowly slows the build down, as a log should.
//! 4. A standard error that is gone changes nothing but that nothing is shown.
//! 5. After [`Event::Ended`] nothing more is written.

mod clock;
mod event;
mod failure;
mod findings;
mod handle;
mod json;
mod model;
mod plain;
mod quiet;
mod redact;
mod sink;
mod style;
mod text;
mod trace;
mod tty;
mod units;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use clock::{Clock, SystemClock};
pub use event::{
    Built, Change, Direction, Event, Failure, Outcome, OutputBytes, RolloutDiagnosis, RolloutProgress,
    Started, Step, StepFailure, Stream, TransferStarted, signal_name,
};
pub use findings::Findings;
pub use handle::{LiveStep, Report, Transfer};
pub use json::Json;
pub use plain::Plain;
pub use quiet::Quiet;
pub use redact::redact;
pub use sink::Sink;
pub use style::Style;
pub use trace::install_tracing;
pub use tty::{Size, Tty};
pub use units::{bytes, duration, short};

/// Shows events. The seam between those that do something and those that tell of it.
pub trait Reporter: Send + Sync + std::fmt::Debug {
    /// Takes note of an event, and shows it at once or soon.
    fn event(&self, event: Event);
}

/// Writes on standard error what cannot wait for a reporter: the program's own panic, a question to whoever sits at the
/// terminal. Without a line break at its end.
pub fn say_now(text: &str) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr();
    // There is nobody to be told that nobody can be told.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// A lock whose holder never panics half-way through a change; if one did all the same, what it guards is only shown.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
