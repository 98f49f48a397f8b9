//! The seam for time, so that tests of what is shown have one outcome.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// Time as reporters use it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Time since the program began. It never goes back.
    fn elapsed(&self) -> Duration;
    /// The time of day.
    fn date(&self) -> SystemTime;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn date(&self) -> SystemTime {
        SystemTime::now()
    }
}
