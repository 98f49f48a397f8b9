//! The seam for time: what waits, measures or throws dice asks a [`Clock`], so that tests of retries and of
//! tokens that expire take no time and have one outcome.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;

/// Time as the client uses it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// A time that never goes back.
    fn now(&self) -> Instant;
    /// The time of day, for dates a registry sends.
    fn date(&self) -> SystemTime;
    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// A random number from 0 up to, not including, 1.
    fn fraction(&self) -> f64;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn date(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn fraction(&self) -> f64 {
        // Every `RandomState` has other keys, so the hash of nothing is a random number: enough to keep two
        // builds from knocking in step.
        let bits = RandomState::new().build_hasher().finish() >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_fractions_and_differ() {
        let drawn: Vec<f64> = (0..100).map(|_| SystemClock.fraction()).collect();
        assert!(drawn.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        assert!(drawn.iter().any(|fraction| *fraction != drawn[0]));
    }
}
