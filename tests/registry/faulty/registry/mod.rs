//! A registry in this process: the distribution protocol, held in memory, with authorization and with faults
//! that a test scripts. What it was asked is in a log.
//!
//! It is strict where the specification is: a body of the wrong length, a chunk out of order or a digest that
//! does not fit is refused, so a client that gets by here sends the right bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use cofferdam::image::{Digest, media_type};

use super::http::{Answer, Exchange, Head, Reply, Server, form};

mod auth;
mod protocol;

pub use auth::{Auth, Bearer, basic};
pub use protocol::Manners;

type Act = dyn Fn(&mut Exchange<'_>, &FakeRegistry) -> Reply + Send + Sync;
type Haunt = dyn Fn(&mut Exchange<'_>, &FakeRegistry) -> Option<Reply> + Send + Sync;

struct Fault {
    method: String,
    /// A part of the target.
    part: String,
    times: usize,
    act: Arc<Act>,
}

/// One request as the log has it.
#[derive(Debug, Clone)]
pub struct Logged {
    pub head: Head,
    pub status: u16,
}

impl Logged {
    pub fn authorization(&self) -> Option<&str> {
        self.head.header("authorization")
    }
}

#[derive(Default)]
struct State {
    blobs: HashMap<(String, String), Vec<u8>>,
    manifests: HashMap<(String, String), (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    counter: usize,
    tokens: HashMap<String, (Vec<String>, usize)>,
    log: Vec<Logged>,
    token_forms: Vec<BTreeMap<String, String>>,
    faults: Vec<Fault>,
}

struct Inner {
    state: Mutex<State>,
    auth: Mutex<Auth>,
    manners: Mutex<Manners>,
    base: Mutex<String>,
    haunt: Mutex<Option<Arc<Haunt>>>,
}

/// A registry's mind; [`FakeRegistry::serve`] gives it a server.
#[derive(Clone)]
pub struct FakeRegistry(Arc<Inner>);

/// A registry and its server.
pub struct Running {
    pub registry: FakeRegistry,
    pub server: Server,
}

impl std::ops::Deref for Running {
    type Target = FakeRegistry;

    fn deref(&self) -> &FakeRegistry {
        &self.registry
    }
}

impl Running {
    pub fn host(&self) -> String {
        self.server.host()
    }
}

impl FakeRegistry {
    pub fn new(auth: Auth) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            auth: Mutex::new(auth),
            manners: Mutex::default(),
            base: Mutex::default(),
            haunt: Mutex::default(),
        }))
    }

    /// An open registry without TLS on 127.0.0.1.
    pub fn open() -> Running {
        Self::new(Auth::None).serve()
    }

    /// One that gives tokens.
    pub fn bearer(bearer: Bearer) -> Running {
        Self::new(Auth::Bearer(bearer)).serve()
    }

    /// One that wants `user` and `user-password`.
    pub fn basic() -> Running {
        Self::new(Self::basic_auth()).serve()
    }

    pub fn basic_auth() -> Auth {
        let users = vec![("user".to_owned(), "user-password".to_owned())];
        Auth::Basic { users, open_root: false, open_reads: false }
    }

    pub fn serve(self) -> Running {
        self.serve_on("127.0.0.1", None)
    }

    pub fn serve_on(self, ip: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Running {
        let mind = self.clone();
        let server = Server::on(ip, tls, move |exchange| mind.answer(exchange));
        *self.0.base.lock().unwrap() = server.url();
        Running { registry: self, server }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Changes how the registry behaves.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.0.manners.lock().unwrap());
    }

    pub fn change_auth(&self, change: impl FnOnce(&mut Auth)) {
        change(&mut self.0.auth.lock().unwrap());
    }

    fn manners(&self) -> Manners {
        self.0.manners.lock().unwrap().clone()
    }

    /// The next `times` requests of `method` whose target holds `part` are answered by `act`.
    pub fn fault(
        &self,
        method: &str,
        part: &str,
        times: usize,
        act: impl Fn(&mut Exchange<'_>, &Self) -> Reply + Send + Sync + 'static,
    ) {
        let fault = Fault { method: method.to_owned(), part: part.to_owned(), times, act: Arc::new(act) };
        self.state().faults.push(fault);
    }

    /// Takes back every fault.
    pub fn forgive(&self) {
        self.state().faults.clear();
    }

    /// The same with a plain answer.
    pub fn fail(&self, method: &str, part: &str, times: usize, answer: Answer) {
        self.fault(method, part, times, move |exchange, _| {
            drop(exchange.body(usize::MAX));
            answer.clone().into()
        });
    }

    /// The same, hanging up when `bytes` of the body have been read.
    pub fn hang_up(&self, method: &str, part: &str, times: usize, bytes: usize) {
        self.fault(method, part, times, move |exchange, registry| {
            let body = exchange.body(bytes).unwrap_or_default();
            let id = exchange.head.path().rsplit('/').next().unwrap().to_owned();
            registry.keep_of_upload(&id, &body);
            Reply::HangUp
        });
    }

    /// The same, changing what the registry would have answered.
    pub fn alter(
        &self,
        method: &str,
        part: &str,
        times: usize,
        change: impl Fn(Answer) -> Answer + Send + Sync + 'static,
    ) {
        self.fault(method, part, times, move |exchange, registry| match registry.normal(exchange) {
            Reply::Answer(answer) => change(answer).into(),
            Reply::HangUp => Reply::HangUp,
        });
    }

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.state().blobs.insert((repository.to_owned(), digest.to_string()), bytes.to_vec());
        digest
    }

    /// Puts other bytes under a digest than its own.
    pub fn put_wrong_blob(&self, repository: &str, digest: Digest, bytes: &[u8]) {
        self.state().blobs.insert((repository.to_owned(), digest.to_string()), bytes.to_vec());
    }

    pub fn blob(&self, repository: &str, digest: Digest) -> Option<Vec<u8>> {
        self.state().blobs.get(&(repository.to_owned(), digest.to_string())).cloned()
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut state = self.state();
        for name in [tag.to_owned(), digest.to_string()] {
            state.manifests.insert((repository.to_owned(), name), (kind.to_owned(), bytes.to_vec()));
        }
        digest
    }

    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        self.state().manifests.get(&(repository.to_owned(), name.to_owned())).map(|(_, bytes)| bytes.clone())
    }

    /// An image of one small layer under `tag`; gives the manifest's digest.
    pub fn put_image(&self, repository: &str, tag: &str) -> Digest {
        let config = self.put_blob(repository, br#"{"architecture":"amd64","os":"linux"}"#);
        let layer = self.put_blob(repository, b"layer");
        let manifest = image_manifest(config, 37, layer, 5);
        self.put_manifest(repository, tag, media_type::OCI_MANIFEST, manifest.as_bytes())
    }

    /// Every token that was given is refused from now on.
    pub fn expire_tokens(&self) {
        self.state().tokens.clear();
    }

    pub fn log(&self) -> Vec<Logged> {
        self.state().log.clone()
    }

    pub fn forget_log(&self) {
        self.state().log.clear();
    }

    /// The log as lines: `PATCH /v2/a/blobs/uploads/<id> 202`. Digests and queries of addresses are shortened.
    pub fn lines(&self) -> Vec<String> {
        self.log()
            .iter()
            .map(|logged| format!("{} {} {}", logged.head.method, shortened(&logged.head), logged.status))
            .collect()
    }

    /// How often a method was used on targets with `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.log()
            .iter()
            .filter(|logged| logged.head.method == method && logged.head.target.contains(part))
            .count()
    }

    /// The forms that were posted to the token server.
    pub fn token_forms(&self) -> Vec<BTreeMap<String, String>> {
        self.state().token_forms.clone()
    }

    fn answer(&self, exchange: &mut Exchange<'_>) -> Reply {
        let head = exchange.head.clone();
        let act = {
            let mut state = self.state();
            let fault = state.faults.iter_mut().find(|fault| {
                fault.times > 0 && fault.method == head.method && head.target.contains(&fault.part)
            });
            fault.map(|fault| {
                fault.times -= 1;
                fault.act.clone()
            })
        };
        let haunt = self.0.haunt.lock().unwrap().clone();
        let reply = match (act, haunt) {
            (Some(act), _) => act(exchange, self),
            (None, Some(haunt)) => haunt(exchange, self).unwrap_or_else(|| self.normal(exchange)),
            (None, None) => self.normal(exchange),
        };
        let status = match &reply {
            Reply::Answer(answer) => answer.status,
            Reply::HangUp => 0,
        };
        self.state().log.push(Logged { head, status });
        reply
    }

    /// From now on `act` has the first word on every request.
    pub fn haunt(&self, act: impl Fn(&mut Exchange<'_>, &Self) -> Option<Reply> + Send + Sync + 'static) {
        *self.0.haunt.lock().unwrap() = Some(Arc::new(act));
    }

    /// No longer.
    pub fn lay(&self) {
        *self.0.haunt.lock().unwrap() = None;
    }

    /// Every tag that there is, with its repository.
    pub fn tags_given(&self) -> Vec<(String, String)> {
        self.state().manifests.keys().filter(|(_, name)| !name.contains(':')).cloned().collect()
    }

    /// # Panics
    /// If a blob is another than its digest says.
    pub fn assert_blobs_are_right(&self) {
        for ((repository, digest), bytes) in &self.state().blobs {
            assert_eq!(Digest::of(bytes).to_string(), *digest, "a blob of {repository}");
        }
    }

    /// Keeps bytes of a broken PATCH, as far as the registry's manners have it.
    pub fn keep_of_upload(&self, id: &str, bytes: &[u8]) {
        let keeps = self.manners().keeps_broken;
        if let Some(upload) = self.state().uploads.get_mut(id).filter(|_| keeps) {
            upload.extend_from_slice(bytes);
        }
    }

    /// Uploads that were neither committed nor given up.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }
}

/// An OCI manifest.
pub fn image_manifest(config: Digest, config_size: usize, layer: Digest, layer_size: usize) -> String {
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": { "mediaType": media_type::OCI_CONFIG, "digest": config, "size": config_size },
        "layers": [{ "mediaType": media_type::OCI_LAYER_GZIP, "digest": layer, "size": layer_size }],
    })
    .to_string()
}

fn shortened(head: &Head) -> String {
    let mut path = head.path().to_owned();
    if let Some(at) = path.find("upload-") {
        path.replace_range(at.., "<id>");
    }
    if let Some(at) = path.find("sha256:") {
        path.replace_range(at.., "<digest>");
    }
    let names: Vec<String> = form(head.target.split_once('?').map_or("", |(_, query)| query))
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name != "_state")
        .collect();
    if names.is_empty() { path } else { format!("{path}?{}", names.join("&")) }
}
