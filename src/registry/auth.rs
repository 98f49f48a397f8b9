//! Authorization: which header a request gets, and what a 401 is answered with.
//!
//! Nothing is asked beforehand: the first request goes out as it is, and the registry's 401 says what it wants
//! (`GET /v2/` may be open where pushing is not). What it said is remembered for the host, so later requests
//! carry their authorization at once. Tokens are kept by credentials and scopes, used for whatever they cover,
//! and renewed before they run out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};

use super::challenge::{self, Challenge};
use super::client::{Client, lock};
use super::credential::{Credential, Keychain, Login, normal_key};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::exchange::{Call, Payload, Shipment, Target};
use super::guard;
use super::scope::Scopes;
use super::secret::Secret;

/// A helper's answer is asked for again after so long: cloud tokens run out in mid-build.
const HELPER_ANSWER_LASTS: Duration = Duration::from_secs(15 * 60);
/// A helper is not asked again about credentials it gave less than this ago.
const HELPER_ANSWER_IS_FRESH: Duration = Duration::from_secs(30);

/// What a request was authorized with.
#[derive(Debug, Clone, Default)]
pub(super) struct Authorization {
    header: Option<HeaderValue>,
    credential: Option<Credential>,
    /// The token in the header, so that it can be dropped if it is refused.
    token: Option<Secret>,
}

impl Authorization {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.clone()
    }

    pub(super) fn is_sent(&self) -> bool {
        self.header.is_some()
    }

    /// Where the credentials came from; nothing if none were looked for.
    pub(super) fn describe(&self) -> Option<String> {
        self.credential.as_ref().map(|credential| credential.source().to_owned())
    }

    fn basic(credential: Credential, username: &str, password: &Secret) -> Self {
        let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
        Self { header: sensitive(&format!("Basic {pair}")), credential: Some(credential), token: None }
    }

    fn bearer(credential: Credential, token: Secret) -> Self {
        let header = sensitive(&format!("Bearer {}", token.expose()));
        Self { header, credential: Some(credential), token: Some(token) }
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a host wants, as it said last.
#[derive(Debug, Clone)]
enum Known {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// Everything learnt about authorization at one host.
#[derive(Debug, Default)]
struct Host {
    known: Mutex<Option<Known>>,
    tokens: Mutex<Vec<Token>>,
    /// Held while a token is fetched, so that parallel uploads fetch one and share it.
    gate: tokio::sync::Mutex<()>,
    /// Credentials were shown unasked and did not help.
    settled: Mutex<bool>,
}

/// A token and what it is good for.
#[derive(Debug, Clone)]
struct Token {
    scopes: Scopes,
    /// The place its credentials came from, which tells credentials apart.
    credential: String,
    secret: Secret,
    renew_at: Instant,
}

/// What was learnt and looked up, for all hosts.
#[derive(Debug, Default)]
pub(super) struct AuthCache {
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    credentials: tokio::sync::Mutex<HashMap<(String, String), (Credential, Instant)>>,
}

/// A 401, as far as it matters for what answers it: the body of a response cannot be shared between threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: &'a HeaderMap,
    pub(super) authorization: &'a Authorization,
}

impl AuthCache {
    fn host(&self, endpoint: &Endpoint) -> Arc<Host> {
        lock(&self.hosts).entry(endpoint.registry.clone()).or_default().clone()
    }
}

impl Client {
    /// The authorization a call gets before the registry has asked for any.
    pub(super) async fn authorize(&self, call: &Call<'_>) -> Result<Authorization, RegistryError> {
        let known = lock(&self.inner.auth.host(call.endpoint).known).clone();
        let Some(known) = known else { return Ok(Authorization::default()) };
        let credential = self.credential(call.endpoint, false).await?;
        self.authorization(call, &known, credential, &call.scopes).await
    }

    /// The authorization that answers a 401, which is the one that was sent if there is no other. `answers` 401s
    /// have been answered before.
    pub(super) async fn answer_challenge(
        &self,
        call: &Call<'_>,
        refusal: Refusal<'_>,
        answers: u32,
    ) -> Result<Authorization, RegistryError> {
        let home = call.endpoint.url(self.scheme(call.endpoint), "")?;
        if !guard::same_origin(refusal.url, &home) {
            // Storage that a redirect led to: its challenges are not the registry's.
            return Ok(refusal.authorization.clone());
        }
        if let Some(token) = &refusal.authorization.token {
            let host = self.inner.auth.host(call.endpoint);
            lock(&host.tokens).retain(|cached| cached.secret != *token);
        }
        let before = match &refusal.authorization.credential {
            Some(credential) => credential.clone(),
            None => self.credential(call.endpoint, false).await?,
        };
        let credential = if refusal.authorization.is_sent() && before.is_from_helper() {
            self.credential(call.endpoint, true).await?
        } else {
            before.clone()
        };
        let is_new = credential != before;
        if answers > 0 && !is_new {
            return Ok(refusal.authorization.clone());
        }
        let host = self.inner.auth.host(call.endpoint);
        let before = lock(&host.known).clone();
        let (known, asked) = understand(call, refusal.url, refusal.headers, before)?;
        *lock(&host.known) = Some(known.clone());
        let scopes = call.scopes.clone().and(&asked);
        self.authorization(call, &known, credential, &scopes).await
    }

    /// What to show to a registry that refused without asking, and nothing if there is nothing to show.
    pub(super) async fn unasked(&self, call: &Call<'_>) -> Result<Option<Authorization>, RegistryError> {
        let host = self.inner.auth.host(call.endpoint);
        if *lock(&host.settled) {
            return Ok(None);
        }
        let credential = self.credential(call.endpoint, false).await?;
        if credential.is_anonymous() {
            return Ok(None);
        }
        // The API's root says what it wants, where the operation did not.
        let root = Endpoint { path: String::new(), ..call.endpoint.clone() };
        let url = root.url(self.scheme(call.endpoint), "")?;
        let asked = self
            .follow(Shipment {
                operation: call.operation,
                method: Method::GET,
                url: url.clone(),
                headers: &HeaderMap::new(),
                authorization: None,
                origin: &url,
                payload: &Payload::Nothing,
                patience: call.patience,
                endpoint: None,
                follow: true,
            })
            .await;
        let Ok((response, url)) = asked else { return Ok(None) };
        let (known, asked) = understand(call, &url, &response.headers, None)?;
        response.finish().await;
        *lock(&host.known) = Some(known.clone());
        let scopes = call.scopes.clone().and(&asked);
        self.authorization(call, &known, credential, &scopes).await.map(Some)
    }

    /// Credentials shown unasked were refused: they are not shown to this host unasked again.
    pub(super) fn credentials_do_not_help(&self, endpoint: &Endpoint) {
        let host = self.inner.auth.host(endpoint);
        *lock(&host.settled) = true;
        *lock(&host.known) = None;
    }

    /// The credentials for an endpoint. A helper's answer is kept for a while; `again` asks it for another, if
    /// it did not give that one just now.
    async fn credential(&self, endpoint: &Endpoint, again: bool) -> Result<Credential, RegistryError> {
        let now = self.inner.clock.now();
        let place = (endpoint.registry.clone(), endpoint.path.clone());
        let mut known = self.inner.auth.credentials.lock().await;
        if let Some((credential, since)) = known.get(&place) {
            let age = now.saturating_duration_since(*since);
            let limit = if again { HELPER_ANSWER_IS_FRESH } else { HELPER_ANSWER_LASTS };
            if !credential.is_from_helper() || age < limit {
                return Ok(credential.clone());
            }
        }
        let credential = self.inner.keychain.lookup(&endpoint.registry, &endpoint.path).await?;
        known.insert(place, (credential.clone(), now));
        Ok(credential)
    }

    /// The authorization that `known` wants, made of what `credential` has.
    async fn authorization(
        &self,
        call: &Call<'_>,
        known: &Known,
        credential: Credential,
        scopes: &Scopes,
    ) -> Result<Authorization, RegistryError> {
        if let Login::RegistryToken(token) = credential.login() {
            let token = token.clone();
            return Ok(Authorization::bearer(credential, token));
        }
        match known {
            Known::Basic => Ok(match credential.login().clone() {
                Login::Basic { username, password } => Authorization::basic(credential, &username, &password),
                // Nothing to show, which the error will say.
                _ => Authorization { header: None, credential: Some(credential), token: None },
            }),
            Known::Bearer { realm, service } => {
                let token = self.token(call, realm, service.as_deref(), &credential, scopes).await?;
                Ok(Authorization::bearer(credential, token))
            }
        }
    }

    /// A token for `scopes`, from the cache or the token server.
    async fn token(
        &self,
        call: &Call<'_>,
        realm: &Url,
        service: Option<&str>,
        credential: &Credential,
        scopes: &Scopes,
    ) -> Result<Secret, RegistryError> {
        let host = self.inner.auth.host(call.endpoint);
        let cached = |now: Instant| {
            let tokens = lock(&host.tokens);
            let fits = |token: &&Token| {
                token.renew_at > now && token.credential == credential.source() && token.scopes.cover(scopes)
            };
            tokens.iter().find(fits).map(|token| token.secret.clone())
        };
        if let Some(token) = cached(self.inner.clock.now()) {
            return Ok(token);
        }
        let _fetching = host.gate.lock().await;
        // Another upload may have fetched it while this one waited.
        if let Some(token) = cached(self.inner.clock.now()) {
            return Ok(token);
        }
        let home = call.endpoint.url(self.scheme(call.endpoint), "")?;
        guard::check(&home, realm, !credential.is_anonymous(), self.options())
            .map_err(|why| denied(call, &home, format!("it wants a token from {why}")))?;
        let asked_at = self.inner.clock.now();
        let granted = self.fetch_token(call, realm, service, credential, scopes).await?;
        let token = Token {
            scopes: scopes.clone(),
            credential: credential.source().to_owned(),
            secret: granted.secret.clone(),
            renew_at: asked_at + granted.useful_for(),
        };
        let mut tokens = lock(&host.tokens);
        tokens.retain(|old| {
            old.renew_at > asked_at
                && !(old.credential == token.credential && token.scopes.cover(&old.scopes))
        });
        tokens.push(token);
        Ok(granted.secret)
    }
}

/// What the challenges in `headers` ask for, with the scopes they name. Bearer goes before Basic. Without any
/// challenge what the host wanted `before` holds, and else it can only be Basic.
fn understand(
    call: &Call<'_>,
    from: &Url,
    headers: &HeaderMap,
    before: Option<Known>,
) -> Result<(Known, Scopes), RegistryError> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    let challenges: Vec<Challenge> =
        values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
    if let Some(before) = before.filter(|_| challenges.is_empty()) {
        return Ok((before, Scopes::none()));
    }
    let bearer = challenges.iter().find(|challenge| challenge.scheme == "bearer");
    let Some((bearer, realm)) = bearer.and_then(|bearer| Some((bearer, bearer.parameter("realm")?))) else {
        return Ok((Known::Basic, Scopes::none()));
    };
    let Ok(realm) = from.join(realm) else {
        return Err(denied(call, from, "the token server's address is none".to_owned()));
    };
    let realm = guard::upgraded(from, realm);
    let scopes = bearer.parameter("scope").map(Scopes::parse).unwrap_or_default();
    let service = bearer.parameter("service").map(str::to_owned);
    Ok((Known::Bearer { realm, service }, scopes))
}

fn denied(call: &Call<'_>, from: &Url, what: String) -> RegistryError {
    RegistryError::answered(call.operation, &call.method, from, StatusCode::UNAUTHORIZED, Vec::new())
        .saying(what)
}

impl Client {
    /// Checks a login against a registry, before it is kept: its `/v2/` must take it.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`](super::ErrorKind) if the registry does not want these credentials; else what
    /// kept it from being asked.
    pub async fn check_login(&self, registry: &str, credential: &Credential) -> Result<(), RegistryError> {
        // A client of its own, so that nothing learnt or cached with other credentials answers for these.
        let inner = &self.inner;
        let host = normal_key(registry);
        let endpoint = Endpoint::registry(host.split('/').next().unwrap_or_default());
        let keychain = Keychain::empty().with(&endpoint.registry, credential.clone());
        let alone =
            Self::with_parts(inner.options.clone(), keychain, inner.transport.clone(), inner.clock.clone())?;
        let operation = format!("log in to `{}`", endpoint.registry);
        let call = Call::new(&alone, &operation, &endpoint, Method::GET, Target::Path(""), Scopes::none());
        let answer = alone.request(&call, &[StatusCode::OK]).await?;
        if answer.authorization.is_sent() || credential.is_anonymous() {
            answer.response.finish().await;
            return Ok(());
        }
        // The root is open to everyone: show the credentials all the same, a wrong password is refused then.
        answer.response.finish().await;
        *lock(&alone.inner.auth.host(&endpoint).known) = Some(Known::Basic);
        let answer = alone.request(&call, &[StatusCode::OK]).await?;
        answer.response.finish().await;
        Ok(())
    }
}
