//! A client for tests: the real transport, and a clock on which every pause is over at once.

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use cofferdam::image::{Reference, Repository};
use cofferdam::registry::{
    Client, ClientOptions, Clock, Credential, HttpTransport, Keychain, Login, Timeouts,
};
use futures_util::future::BoxFuture;

/// A clock that is moved by whoever sleeps on it, and by tests.
#[derive(Debug, Clone)]
pub struct TestClock {
    start: Instant,
    moved: Arc<Mutex<(Duration, Vec<Duration>)>>,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { start: Instant::now(), moved: Arc::default() }
    }
}

impl TestClock {
    pub fn advance(&self, duration: Duration) {
        self.moved.lock().unwrap().0 += duration;
    }

    /// Every pause so far.
    pub fn pauses(&self) -> Vec<Duration> {
        self.moved.lock().unwrap().1.clone()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.start + self.moved.lock().unwrap().0
    }

    fn date(&self) -> SystemTime {
        // Sun, 06 Nov 1994 08:49:37 GMT
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777) + self.moved.lock().unwrap().0
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut moved = self.moved.lock().unwrap();
        moved.0 += duration;
        moved.1.push(duration);
        Box::pin(ready(()))
    }

    fn fraction(&self) -> f64 {
        0.5
    }
}

/// Limits that let a test of one see it.
pub fn short_timeouts() -> Timeouts {
    let limit = Duration::from_millis(800);
    Timeouts { connect: Duration::from_secs(5), idle: limit, answer: limit, commit: limit }
}

pub fn options() -> ClientOptions {
    let timeouts = Timeouts {
        connect: Duration::from_secs(10),
        idle: Duration::from_secs(20),
        answer: Duration::from_secs(20),
        commit: Duration::from_secs(60),
    };
    ClientOptions { timeouts, ..ClientOptions::default() }
}

pub fn login(user: &str, password: &str) -> Credential {
    Credential::new(Login::of(user, password).unwrap(), "the test's login")
}

/// A keychain that knows `user` at `host`.
pub fn keychain(host: &str) -> Keychain {
    Keychain::empty().with(host, login("user", "user-password"))
}

/// A client and its clock.
pub fn client_with(options: ClientOptions, keychain: Keychain) -> (Client, TestClock) {
    let clock = TestClock::default();
    let transport = Arc::new(HttpTransport::new(&options).unwrap());
    let client = Client::with_parts(options, keychain, transport, Arc::new(clock.clone())).unwrap();
    (client, clock)
}

/// A client without credentials.
pub fn anonymous() -> (Client, TestClock) {
    client_with(options(), Keychain::empty())
}

/// A client that is `user` at `host`.
pub fn user_at(host: &str) -> (Client, TestClock) {
    client_with(options(), keychain(host))
}

pub fn repository(host: &str, path: &str) -> Repository {
    format!("{host}/{path}").parse().unwrap()
}

pub fn reference(host: &str, rest: &str) -> Reference {
    format!("{host}/{rest}").parse().unwrap()
}

/// `length` bytes that no two offsets have alike for long, and that no proxy compresses.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
