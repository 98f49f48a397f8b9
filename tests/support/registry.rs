//! A registry in this process: the distribution protocol, held in memory, with authorization and with faults
//! that a test scripts. What it was asked is in a log.
//!
//! It is strict where the specification is: a body of the wrong length, a chunk out of order or a digest that
//! does not fit is refused, so a client that gets by here sends the right bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam::image::{Digest, media_type};

use super::http::{Answer, Exchange, Head, Reply, Server, form};

/// Who may do what.
#[derive(Clone, Default)]
pub enum Auth {
    /// Everyone everything.
    #[default]
    None,
    /// `user:password`, for everything but the root if that is open.
    Basic { users: Vec<(String, String)>, open_root: bool, open_reads: bool },
    /// Tokens.
    Bearer(Bearer),
}

/// How tokens are handed out.
#[derive(Clone)]
pub struct Bearer {
    pub users: Vec<(String, String)>,
    /// Identity tokens that are exchanged for access tokens.
    pub identity_tokens: Vec<String>,
    /// Whether tokens for reading are given to everyone.
    pub anonymous_pull: bool,
    /// Where tokens are to be had; this server's `/token` if empty.
    pub realm: String,
    /// `expires_in` of the answer; left out if nothing.
    pub expires_in: Option<u64>,
    /// `access_token` instead of `token`.
    pub oauth_name: bool,
    /// A token is good for so many requests.
    pub uses: Option<usize>,
    /// Repositories that a token is only given for to nobody: asking for them is a 401.
    pub foreign: Vec<String>,
    /// Whether `GET /v2/` is open.
    pub open_root: bool,
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            users: vec![("user".into(), "user-password".into())],
            identity_tokens: Vec::new(),
            anonymous_pull: false,
            realm: String::new(),
            expires_in: Some(300),
            oauth_name: false,
            uses: None,
            foreign: Vec::new(),
            open_root: false,
        }
    }
}

/// How the registry differs from a plain one.
#[derive(Clone)]
pub struct Manners {
    /// `Location` without scheme and host.
    pub relative_location: bool,
    /// Another base for `Location`.
    pub location_base: Option<String>,
    /// Status of a PATCH that worked.
    pub patched: u16,
    /// Whether a mount works; the status of the answer where it does not.
    pub mount: Result<(), u16>,
    /// Whether chunked and streamed uploads are refused.
    pub monolithic_only: bool,
    /// Whether bytes in the PUT are refused.
    pub patch_only: bool,
    /// The largest body of one request.
    pub largest_body: Option<u64>,
    /// Whether a broken PATCH keeps what arrived.
    pub keeps_broken: bool,
    /// What the upload's status says instead of the truth.
    pub status_range: Option<String>,
    /// Whether ranges of blobs are served.
    pub ranges: bool,
    /// Tags that exist cannot be changed: the status and code.
    pub immutable: Option<(u16, String)>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            relative_location: false,
            location_base: None,
            patched: 202,
            mount: Ok(()),
            monolithic_only: false,
            patch_only: false,
            largest_body: None,
            keeps_broken: true,
            status_range: None,
            ranges: true,
            immutable: None,
        }
    }
}

type Act = dyn Fn(&mut Exchange<'_>, &FakeRegistry) -> Reply + Send + Sync;

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
            if registry.manners().keeps_broken
                && let Some(upload) = registry.state().uploads.get_mut(&id)
            {
                upload.extend_from_slice(&body);
            }
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
        let reply = match act {
            Some(act) => act(exchange, self),
            None => self.normal(exchange),
        };
        let status = match &reply {
            Reply::Answer(answer) => answer.status,
            Reply::HangUp => 0,
        };
        self.state().log.push(Logged { head, status });
        reply
    }

    /// What the registry answers without faults.
    pub fn normal(&self, exchange: &mut Exchange<'_>) -> Reply {
        let head = exchange.head.clone();
        if head.path() == "/token" {
            return self.token(exchange).into();
        }
        if let Some(refused) = self.refused(&head) {
            // As real ones do: the body is not looked at.
            return refused.into();
        }
        let length: u64 = head.header("content-length").map_or(0, |length| length.parse().unwrap());
        if self.manners().largest_body.is_some_and(|largest| length > largest) {
            let page = "<html><head><title>413 Request Entity Too Large</title></head></html>";
            return Answer::new(413).body(page).into();
        }
        let Some(rest) = head.path().strip_prefix("/v2/") else { return Answer::new(404).into() };
        if rest.is_empty() {
            return Answer::new(200).body("{}").into();
        }
        let rest = rest.to_owned();
        if let Some((name, _)) = rest.split_once("/tags/list") {
            return self.tags(name, &head).into();
        }
        if let Some((name, reference)) = rest.split_once("/manifests/") {
            return self.manifests(exchange, name, reference).into();
        }
        if let Some((name, id)) = rest.split_once("/blobs/uploads/") {
            return self.uploads(exchange, name, id);
        }
        match rest.split_once("/blobs/") {
            Some((name, digest)) => self.blobs(&head, name, digest).into(),
            None => Answer::error(404, "NAME_UNKNOWN", "no such path").into(),
        }
    }

    /// What is needed: `repository:name:action`.
    fn needed(head: &Head) -> Vec<String> {
        let Some(rest) = head.path().strip_prefix("/v2/").filter(|rest| !rest.is_empty()) else {
            return Vec::new();
        };
        let name = ["/tags/list", "/manifests/", "/blobs/"]
            .iter()
            .find_map(|part| rest.split_once(part))
            .map_or(rest, |(name, _)| name);
        let actions: &[&str] = match head.method.as_str() {
            // The status of an upload is part of pushing.
            "GET" | "HEAD" if !rest.contains("/uploads/") => &["pull"],
            "DELETE" if !rest.contains("/uploads/") => &["delete"],
            _ => &["pull", "push"],
        };
        actions.iter().map(|action| format!("repository:{name}:{action}")).collect()
    }

    fn refused(&self, head: &Head) -> Option<Answer> {
        let auth = self.0.auth.lock().unwrap().clone();
        let needed = Self::needed(head);
        let header = head.header("authorization");
        match auth {
            Auth::None => None,
            Auth::Basic { users, open_root, open_reads } => {
                let known = users.iter().any(|(user, password)| header == Some(&*basic(user, password)));
                let is_read = matches!(head.method.as_str(), "GET" | "HEAD");
                if known
                    || header.is_none()
                        && (needed.is_empty() && open_root || !needed.is_empty() && open_reads && is_read)
                {
                    return None;
                }
                let challenge = "Basic realm=\"fake\"";
                Some(
                    Answer::error(401, "UNAUTHORIZED", "authentication required")
                        .header("WWW-Authenticate", challenge),
                )
            }
            Auth::Bearer(bearer) => {
                if needed.is_empty() && bearer.open_root {
                    return None;
                }
                let mut state = self.state();
                let token = header.and_then(|header| header.strip_prefix("Bearer "));
                let granted = token.and_then(|token| state.tokens.get_mut(token));
                let is_known = granted.is_some();
                if let Some((scopes, uses)) = granted
                    && needed.iter().all(|scope| scopes.contains(scope))
                    && *uses > 0
                {
                    *uses -= 1;
                    return None;
                }
                let realm = if bearer.realm.is_empty() {
                    format!("{}/token", self.0.base.lock().unwrap())
                } else {
                    bearer.realm.clone()
                };
                let mut challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
                if !needed.is_empty() {
                    challenge.push_str(&format!(",scope=\"{}\"", joined(&needed)));
                }
                if is_known {
                    challenge.push_str(",error=\"insufficient_scope\"");
                }
                Some(
                    Answer::error(401, "UNAUTHORIZED", "authentication required")
                        .header("WWW-Authenticate", challenge),
                )
            }
        }
    }

    fn token(&self, exchange: &mut Exchange<'_>) -> Answer {
        let Auth::Bearer(bearer) = self.0.auth.lock().unwrap().clone() else { return Answer::new(404) };
        let refused = || Answer::new(401).body(r#"{"details":"incorrect username or password"}"#);
        let (scopes, known) = if exchange.head.method == "POST" {
            let body = String::from_utf8(exchange.body(usize::MAX).unwrap()).unwrap();
            let fields: BTreeMap<String, String> = form(&body).into_iter().collect();
            self.state().token_forms.push(fields.clone());
            let known = fields.get("grant_type").is_some_and(|kind| kind == "refresh_token")
                && bearer.identity_tokens.contains(&fields["refresh_token"]);
            if !known {
                return Answer::new(400).body(r#"{"error":"invalid_grant"}"#);
            }
            let scopes = fields.get("scope").cloned().unwrap_or_default();
            (scopes.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), true)
        } else {
            let header = exchange.head.header("authorization");
            let known = bearer.users.iter().any(|(user, password)| header == Some(&*basic(user, password)));
            if header.is_some() && !known {
                return refused();
            }
            (exchange.head.parameters("scope"), known)
        };
        let wanted: Vec<String> = scopes.iter().flat_map(|scope| actions(scope)).collect();
        if wanted.iter().any(|scope| bearer.foreign.iter().any(|name| scope.contains(&format!(":{name}:")))) {
            return refused();
        }
        let granted: Vec<String> = wanted
            .into_iter()
            .filter(|scope| known || bearer.anonymous_pull && scope.ends_with(":pull"))
            .collect();
        if granted.is_empty() && !known && !bearer.anonymous_pull {
            return refused();
        }
        let mut state = self.state();
        state.counter += 1;
        let token = format!("token-{}", state.counter);
        state.tokens.insert(token.clone(), (granted, bearer.uses.unwrap_or(usize::MAX)));
        let name = if bearer.oauth_name { "access_token" } else { "token" };
        let mut answer = serde_json::json!({ name: token });
        if let Some(life) = bearer.expires_in {
            answer["expires_in"] = life.into();
        }
        Answer::new(200).header("Content-Type", "application/json").body(answer.to_string())
    }

    fn tags(&self, name: &str, head: &Head) -> Answer {
        let state = self.state();
        let mut tags: Vec<&String> = state
            .manifests
            .keys()
            .filter(|(repository, tag)| repository == name && !tag.contains(':'))
            .map(|(_, tag)| tag)
            .collect();
        if tags.is_empty() {
            return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        }
        tags.sort();
        let last = head.parameter("last").unwrap_or_default();
        // Two to a page whatever is asked for, so that pages are needed.
        let mut page: Vec<&&String> = tags.iter().filter(|tag| ***tag > last).take(3).collect();
        let more = page.len() == 3;
        page.truncate(2);
        let body = serde_json::json!({ "name": name, "tags": page }).to_string();
        let answer = Answer::new(200).body(body);
        match page.last().filter(|_| more) {
            Some(last) => {
                answer.header("Link", format!("</v2/{name}/tags/list?last={last}&n=2>; rel=\"next\""))
            }
            None => answer,
        }
    }

    fn manifests(&self, exchange: &mut Exchange<'_>, name: &str, reference: &str) -> Answer {
        let key = (name.to_owned(), reference.to_owned());
        match exchange.head.method.as_str() {
            "PUT" => {
                let kind = exchange.head.header("content-type").unwrap_or_default().to_owned();
                let bytes = exchange.body(usize::MAX).unwrap();
                let digest = Digest::of(&bytes);
                let mut state = self.state();
                if let Some((status, code)) = self.manners().immutable
                    && state.manifests.contains_key(&key)
                {
                    return Answer::error(status, &code, "the tag is immutable and cannot be overwritten");
                }
                if reference.contains(':') && reference != digest.to_string() {
                    return Answer::error(400, "DIGEST_INVALID", "the digest is another");
                }
                for reference in [reference.to_owned(), digest.to_string()] {
                    state.manifests.insert((name.to_owned(), reference), (kind.clone(), bytes.clone()));
                }
                Answer::new(201).header("Docker-Content-Digest", digest.to_string())
            }
            "DELETE" => match self.state().manifests.remove(&key) {
                Some(_) => Answer::new(202),
                None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            },
            _ => match self.state().manifests.get(&key) {
                Some((kind, bytes)) => Answer::new(200)
                    .header("Content-Type", kind)
                    .header("Docker-Content-Digest", Digest::of(bytes).to_string())
                    .body(bytes.clone()),
                None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            },
        }
    }

    fn blobs(&self, head: &Head, name: &str, digest: &str) -> Answer {
        let state = self.state();
        let Some(bytes) = state.blobs.get(&(name.to_owned(), digest.to_owned())) else {
            return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let answer = Answer::new(200).header("Docker-Content-Digest", digest);
        let range = head.header("range").filter(|_| self.manners().ranges);
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else {
            return answer.body(bytes.clone());
        };
        let first: usize = range.trim_end_matches('-').parse().unwrap();
        if first >= bytes.len() {
            return Answer::new(416);
        }
        let content = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
        Answer { status: 206, ..answer }.header("Content-Range", content).body(bytes[first..].to_vec())
    }

    fn uploads(&self, exchange: &mut Exchange<'_>, name: &str, id: &str) -> Reply {
        let head = exchange.head.clone();
        let manners = self.manners();
        match head.method.as_str() {
            "POST" => self.start_upload(&head, name, &manners).into(),
            "DELETE" => match self.state().uploads.remove(id) {
                Some(_) => Answer::new(204).into(),
                None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload").into(),
            },
            method => {
                let Some(known) = self.state().uploads.get(id).map(Vec::len) else {
                    return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload").into();
                };
                if head.parameter("_state").as_deref() != Some("a/b+c==") {
                    return Answer::error(400, "BLOB_UPLOAD_INVALID", "the state is lost").into();
                }
                match method {
                    "GET" => {
                        let range = manners.status_range.unwrap_or(format!("0-{}", known.saturating_sub(1)));
                        Answer::new(204)
                            .header("Location", self.location(name, id))
                            .header("Range", range)
                            .into()
                    }
                    "PATCH" if manners.monolithic_only => {
                        Answer::error(405, "UNSUPPORTED", "chunked uploads are not supported").into()
                    }
                    "PATCH" => self.patch(exchange, name, id, known, &manners),
                    _ => self.commit(exchange, name, id, &manners),
                }
            }
        }
    }

    fn location(&self, name: &str, id: &str) -> String {
        let manners = self.manners();
        let base = match (manners.location_base, manners.relative_location) {
            (Some(base), _) => base,
            (None, true) => String::new(),
            (None, false) => self.0.base.lock().unwrap().clone(),
        };
        // A query that must come back as it is.
        format!("{base}/v2/{name}/blobs/uploads/{id}?_state=a%2Fb%2Bc%3D%3D")
    }

    fn start_upload(&self, head: &Head, name: &str, manners: &Manners) -> Answer {
        if let Some(digest) = head.parameter("mount") {
            let from = head.parameter("from").unwrap_or_default();
            let bytes = self.state().blobs.get(&(from, digest.clone())).cloned();
            match (&manners.mount, bytes) {
                (Err(status), _) if *status != 202 => {
                    return Answer::error(*status, "UNSUPPORTED", "no mount");
                }
                (Ok(()), Some(bytes)) => {
                    self.state().blobs.insert((name.to_owned(), digest), bytes);
                    return Answer::new(201);
                }
                _ => {}
            }
        }
        let id = {
            let mut state = self.state();
            state.counter += 1;
            let id = format!("upload-{}", state.counter);
            state.uploads.insert(id.clone(), Vec::new());
            id
        };
        Answer::new(202).header("Location", self.location(name, &id)).header("Range", "0-0")
    }

    fn patch(
        &self,
        exchange: &mut Exchange<'_>,
        name: &str,
        id: &str,
        known: usize,
        manners: &Manners,
    ) -> Reply {
        let range = exchange.head.header("content-range").map(str::to_owned);
        let length: usize = match exchange.head.header("content-length") {
            Some(length) => length.parse().unwrap(),
            None => return Answer::new(411).into(),
        };
        if let Some(range) = &range {
            let wanted = format!("{known}-{}", known + length - 1);
            if *range != wanted {
                return Answer::new(416).header("Range", format!("0-{}", known.saturating_sub(1))).into();
            }
        } else if known > 0 {
            return Answer::new(416).into();
        }
        let Ok(body) = exchange.body(usize::MAX) else { return Reply::HangUp };
        let mut state = self.state();
        let Some(upload) = state.uploads.get_mut(id) else { return Answer::new(404).into() };
        upload.extend_from_slice(&body);
        let end = upload.len() - 1;
        Answer::new(manners.patched)
            .header("Location", self.location(name, id))
            .header("Range", format!("0-{end}"))
            .into()
    }

    fn commit(&self, exchange: &mut Exchange<'_>, name: &str, id: &str, manners: &Manners) -> Reply {
        let digest = exchange.head.parameter("digest").unwrap_or_default();
        let Ok(body) = exchange.body(usize::MAX) else { return Reply::HangUp };
        if manners.patch_only && !body.is_empty() {
            return Answer::error(405, "UNSUPPORTED", "PATCH it").into();
        }
        let mut state = self.state();
        let mut bytes = state.uploads.get(id).cloned().unwrap_or_default();
        bytes.extend_from_slice(&body);
        if Digest::of(&bytes).to_string() != digest {
            return Answer::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
                .into();
        }
        state.uploads.remove(id);
        state.blobs.insert((name.to_owned(), digest.clone()), bytes);
        Answer::new(201).header("Docker-Content-Digest", digest).into()
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

/// `Basic …`
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `repository:a:pull,push` as `repository:a:pull` and `repository:a:push`.
fn actions(scope: &str) -> Vec<String> {
    let (resource, actions) = scope.rsplit_once(':').unwrap();
    actions.split(',').map(|action| format!("{resource}:{action}")).collect()
}

/// The other way round, for scopes of one resource.
fn joined(scopes: &[String]) -> String {
    let resource = scopes[0].rsplit_once(':').unwrap().0;
    let actions: Vec<&str> = scopes.iter().map(|scope| scope.rsplit_once(':').unwrap().1).collect();
    format!("{resource}:{}", actions.join(","))
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

/// An answer that comes too late for a client that waits `limit`.
pub fn late(limit: Duration) -> Answer {
    Answer { pause: limit * 4, ..Answer::new(200) }
}
