//! The client: a handle that is cheap to clone, what all its operations share, and what they have learnt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::auth::AuthCache;
use super::clock::{Clock, SystemClock};
use super::credential::Keychain;
use super::endpoint::{Endpoint, Mirrors};
use super::error::{ErrorKind, RegistryError};
use super::http::HttpTransport;
use super::options::{ClientOptions, UploadStyle};
use super::quirks::Quirks;
use super::retry::{Reason, RetryPolicy};
use super::transport::Transport;
use crate::image::Repository;

/// How long a mirror that could not be reached is passed over. An image has dozens of blobs: each would wait
/// for the same dead mirror.
const MIRROR_REST: Duration = Duration::from_secs(60);

/// The largest blob that goes out with the commit, without being asked for if it is new, in bytes: to send it once more costs
/// less than a question.
pub const SMALL_BLOB: u64 = 64 << 10;

/// A client of registries. Clones share connections, tokens and what was learnt of each host.
///
/// Its futures need a tokio runtime with I/O and time.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) options: ClientOptions,
    pub(super) mirrors: Mirrors,
    pub(super) keychain: Keychain,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) auth: AuthCache,
    learnt: Mutex<HashMap<String, Learnt>>,
}

/// What one build has found out about one host.
#[derive(Debug, Clone, Copy, Default)]
struct Learnt {
    scheme: Option<&'static str>,
    style: Option<UploadStyle>,
    unreachable_until: Option<Instant>,
}

impl Client {
    /// A client on the network.
    ///
    /// # Errors
    /// [`ErrorKind::Options`] if an option cannot be used.
    pub fn new(options: ClientOptions, keychain: Keychain) -> Result<Self, RegistryError> {
        let mut options = options;
        let mirrors = Mirrors::take(&mut options)?;
        let transport = Arc::new(HttpTransport::new(&options)?);
        Ok(Self::assemble(options, mirrors, keychain, transport, Arc::new(SystemClock)))
    }

    /// A client on another transport and clock, for tests.
    ///
    /// # Errors
    /// [`ErrorKind::Options`] if an option cannot be used.
    pub fn with_parts(
        options: ClientOptions,
        keychain: Keychain,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RegistryError> {
        let mut options = options;
        let mirrors = Mirrors::take(&mut options)?;
        Ok(Self::assemble(options, mirrors, keychain, transport, clock))
    }

    fn assemble(
        options: ClientOptions,
        mirrors: Mirrors,
        keychain: Keychain,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (auth, learnt) = (AuthCache::default(), Mutex::default());
        Self { inner: Arc::new(Inner { options, mirrors, keychain, transport, clock, auth, learnt }) }
    }

    /// The keychain that the client looks credentials up in.
    pub fn keychain(&self) -> &Keychain {
        &self.inner.keychain
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Where `repository` is pulled from, in order. Mirrors that were out of reach a moment ago come last.
    pub(super) fn pull_endpoints(&self, repository: &Repository) -> Vec<Endpoint> {
        let mut endpoints = self.inner.mirrors.endpoints(repository);
        let now = self.inner.clock.now();
        let learnt = lock(&self.inner.learnt);
        endpoints.sort_by_key(|endpoint| {
            let until = learnt.get(&endpoint.registry).and_then(|host| host.unreachable_until);
            endpoint.is_mirror && until.is_some_and(|until| until > now)
        });
        endpoints
    }

    /// Whether anything but the registry itself is asked for what `repository` has.
    pub fn is_mirrored(&self, repository: &Repository) -> bool {
        self.inner.mirrors.endpoints(repository).iter().any(|endpoint| endpoint.is_mirror)
    }

    fn learn(&self, endpoint: &Endpoint, change: impl FnOnce(&mut Learnt)) {
        change(lock(&self.inner.learnt).entry(endpoint.registry.clone()).or_default());
    }

    fn learnt(&self, endpoint: &Endpoint) -> Learnt {
        lock(&self.inner.learnt).get(&endpoint.registry).copied().unwrap_or_default()
    }

    pub(super) fn note_unreachable(&self, endpoint: &Endpoint) {
        let until = self.inner.clock.now() + MIRROR_REST;
        self.learn(endpoint, |host| host.unreachable_until = Some(until));
    }

    /// `https`, but of a host whose address says otherwise, or that may be spoken to without TLS and has shown that it has none.
    pub(super) fn scheme(&self, endpoint: &Endpoint) -> &'static str {
        self.known_scheme(endpoint).unwrap_or("https")
    }

    pub(super) fn scheme_is_known(&self, endpoint: &Endpoint) -> bool {
        self.known_scheme(endpoint).is_some()
    }

    fn known_scheme(&self, endpoint: &Endpoint) -> Option<&'static str> {
        let written = || self.options().host(&endpoint.registry).filter(|host| host.only_plain_http);
        self.learnt(endpoint).scheme.or_else(|| written().map(|_| "http"))
    }

    pub(super) fn note_scheme(&self, endpoint: &Endpoint, scheme: &'static str) {
        self.learn(endpoint, |host| host.scheme = Some(scheme));
    }

    /// How a blob of so many bytes is uploaded to a host: as this build has learnt, as the options say, all at once if it is
    /// small, or as is known of the host.
    pub(super) fn upload_style(&self, endpoint: &Endpoint, size: u64) -> UploadStyle {
        let configured = || self.options().host(&endpoint.registry).and_then(|host| host.upload);
        let learnt = self.learnt(endpoint).style;
        learnt.or_else(configured).unwrap_or_else(|| match size <= SMALL_BLOB {
            true => UploadStyle::Monolithic,
            false => Quirks::of(&endpoint.registry).style,
        })
    }

    pub(super) fn note_upload_style(&self, endpoint: &Endpoint, style: UploadStyle) {
        self.learn(endpoint, |host| host.style = Some(style));
    }

    pub(super) fn retries(&self, endpoint: &Endpoint) -> Retries<'_> {
        let options = self.options();
        let policy = if endpoint.is_mirror { &options.mirror_retry } else { &options.retry };
        Retries {
            clock: &*self.inner.clock,
            policy,
            row: 0,
            total: 0,
            furthest: 0,
            corrupt: false,
            excused: false,
        }
    }
}

/// A lock whose holder never panics half-way through a change; if one did all the same, what it guards is still
/// only a cache.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tries of one operation.
pub(super) struct Retries<'c> {
    clock: &'c dyn Clock,
    policy: &'c RetryPolicy,
    /// Failures in a row.
    row: u32,
    total: u32,
    /// Bytes that were there at most.
    furthest: u64,
    corrupt: bool,
    excused: bool,
}

impl Retries<'_> {
    /// Waits before the next try, or gives the error back if there is to be none.
    pub(super) async fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let Some(reason) = error.reason() else { return Err(error.finally(self.total)) };
        if std::mem::take(&mut self.excused) {
            return Ok(());
        }
        // Wrong bytes twice are no accident of the line.
        let twice_corrupt = reason == Reason::Corrupt && std::mem::replace(&mut self.corrupt, true);
        if twice_corrupt || self.row + 1 >= self.policy.attempts {
            return Err(error.finally(self.total));
        }
        let pause = self.policy.pause(self.row, self.clock.fraction(), error.retry_after());
        let Some(pause) = pause else { return Err(error.finally(self.total)) };
        tracing::info!(%reason, ?pause, try_number = self.total + 2, "trying again: {error}");
        self.clock.sleep(pause).await;
        self.row += 1;
        self.total += 1;
        Ok(())
    }

    /// The next failure has been waited for already, and counted.
    pub(super) fn excuse(&mut self) {
        self.excused = true;
    }

    /// So many bytes are there. A long transfer over a bad line is not given up because of many cuts, only because of many in
    /// a row; and what comes no further than it has been before is no progress, or it might go on for ever.
    pub(super) fn reached(&mut self, position: u64) {
        if position > self.furthest {
            (self.furthest, self.row) = (position, 0);
        }
    }
}

/// The errors of several endpoints, of which the last is the one that counts.
#[derive(Default)]
pub(super) struct Trail {
    earlier: Vec<(String, String)>,
    last: Option<(String, RegistryError)>,
}

impl Trail {
    /// Notes that `endpoint` failed. Gives the error back if no other endpoint could do better.
    pub(super) fn failed(
        &mut self,
        client: &Client,
        endpoint: &Endpoint,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        if error.kind() == ErrorKind::Local {
            return Err(error);
        }
        if endpoint.is_mirror {
            if matches!(error.kind(), ErrorKind::Network | ErrorKind::Tls) {
                client.note_unreachable(endpoint);
            }
            tracing::debug!("{error}");
        }
        if let Some((place, before)) = self.last.replace((endpoint.describe(), error)) {
            self.earlier.push((place, before.essence()));
        }
        Ok(())
    }

    /// The error of the last endpoint, with what the others said.
    pub(super) fn error(self, operation: &str) -> RegistryError {
        match self.last {
            Some((_, error)) => error.after(self.earlier),
            // There is always an endpoint: the registry itself, or a mirror that replaces it.
            None => RegistryError::new(ErrorKind::Options, operation).saying("there is nowhere to ask"),
        }
    }
}
