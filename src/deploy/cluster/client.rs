//! Requests to an API server, and what is tried again.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};

use super::access::Access;
use super::answer::{ApiError, Refusal, forget_managers, is_final, told};
use super::discovery::{self, GroupList, Kinds, Resource, ResourceList};
use super::watch::Watch;
use super::wire::{safe_as_yaml, target, warnings};
use crate::deploy::object::Gvk;
use crate::registry::{Clock as _, SystemClock};

/// The longest that one try of a request may take. An API server ends its own after 60 s, webhooks within it after 30 s
/// at the most.
const ATTEMPT: Duration = Duration::from_secs(70);
/// How long a server that has answered before is waited for: one that restarts in a rolling update is back by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one is waited for that has never answered: a wrong address is to be told soon.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// Upper bound of the first pause; each further bound is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer, unless the server asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest `Retry-After` that is waited for.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);
/// Requests at a time. An API server lets one client have some hundreds; this many keep a slow line busy.
const AT_ONCE: usize = 16;
/// Objects a page of a list.
const PAGE: usize = 500;
/// How often a list is begun whose pages are forgotten before they are asked for.
const LISTINGS: usize = 3;
/// How long the server lets a watch go on, in seconds: one that nothing comes of for longer is broken (see `watch`).
const WATCHED: &str = "30";
/// `application/json`, for bodies and answers.
const JSON: &str = "application/json";

/// A cluster, reached with one identity. Clones share the connections.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    client: kube::Client,
    server: String,
    namespace: String,
    permits: Semaphore,
    requests: AtomicU64,
    answered: AtomicBool,
    kinds: std::sync::Mutex<Arc<OnceCell<Arc<Kinds>>>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.inner.server).finish_non_exhaustive()
    }
}

/// What was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The object as it is now, or would be.
    pub object: Value,
    /// What the server warns of.
    pub warnings: Vec<String>,
    /// Whether it was not there before.
    pub created: bool,
    /// Whether it was sent more than once: an earlier answer may have been lost, and the first of them have created it.
    pub repeated: bool,
}

/// The objects of a kind.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects. Unlike by themselves they name neither kind nor version, and their managed fields, which are half of
    /// them, are left out.
    pub items: Vec<Value>,
    /// From which version on a watch tells of changes.
    pub resource_version: String,
}

/// The form of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
}

struct Call {
    method: Method,
    target: String,
    accept: &'static str,
    body: Option<(&'static str, Bytes)>,
    /// Whether doing it twice is doing it once.
    repeatable: bool,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// Whether others were lost before it, or asked for patience.
    repeated: bool,
}

impl Cluster {
    /// A client for the cluster that `access` leads to. Nothing is asked of it yet.
    ///
    /// # Errors
    /// If a certificate, a key or a plugin cannot be used.
    pub fn new(access: Access) -> Result<Self, ApiError> {
        let (server, namespace) = (access.server(), access.namespace().to_owned());
        let client = kube::Client::try_from(access.into_config()).map_err(|error| match error {
            kube::Error::Auth(_) => ApiError::Credentials { server: server.clone(), why: told(&error) },
            error => ApiError::Unreachable { server: server.clone(), why: told(&error) },
        })?;
        let inner = Inner {
            client,
            server,
            namespace,
            permits: Semaphore::new(AT_ONCE),
            requests: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            kinds: std::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The address of the API server.
    pub fn server(&self) -> &str {
        &self.inner.server
    }

    /// The namespace of objects that name none.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// How many requests were sent, repetitions among them.
    pub fn requests(&self) -> u64 {
        self.inner.requests.load(Ordering::Relaxed)
    }

    /// What is at `path`.
    ///
    /// # Errors
    /// If the server refuses or cannot be reached.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.read(path, JSON).await
    }

    /// What is at `path`, or nothing if there is nothing.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is at `path` as text: logs.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn text(&self, path: &str) -> Result<String, ApiError> {
        let answer = self.call(&Call::get(path.to_owned(), "*/*")).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// The objects at `path` that `query` selects, page by page. Pages that the server has forgotten meanwhile (410) are
    /// asked for from the first.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<List, ApiError> {
        for _ in 1..LISTINGS {
            match self.pages(path, query).await {
                Err(error) if error.refusal().is_some_and(|refusal| refusal.code == 410) => {}
                other => return other,
            }
        }
        self.pages(path, query).await
    }

    async fn pages(&self, path: &str, query: &[(&str, &str)]) -> Result<List, ApiError> {
        let mut items = Vec::new();
        let mut next = String::new();
        let limit = PAGE.to_string();
        loop {
            let mut query = query.to_vec();
            query.push(("limit", &limit));
            if !next.is_empty() {
                query.push(("continue", &next));
            }
            let mut page = self.get(&target(path, &query)).await?;
            if let Some(Value::Array(mut found)) = page.get_mut("items").map(Value::take) {
                found.iter_mut().for_each(forget_managers);
                items.append(&mut found);
            }
            let text = |field| page.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let resource_version = text("/metadata/resourceVersion");
            next = text("/metadata/continue");
            if next.is_empty() {
                return Ok(List { items, resource_version });
            }
        }
    }

    /// Changes at `path` since `resource_version`.
    ///
    /// # Errors
    /// As [`Cluster::get`]; [`ApiError::Expired`] if one must list again.
    pub async fn watch(
        &self,
        path: &str,
        query: &[(&str, &str)],
        resource_version: &str,
    ) -> Result<Watch, ApiError> {
        let mut query = query.to_vec();
        query.extend([
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", WATCHED),
            ("resourceVersion", resource_version),
        ]);
        let call = Call::get(target(path, &query), JSON);
        let request = call.shown();
        let answer = self.repeating(&call, || async {
            let answer = tokio::time::timeout(ATTEMPT, self.start(&call)).await;
            let (parts, body) = answer.map_err(|_| self.silent())??.into_parts();
            if parts.status.is_success() {
                return Ok((parts.status, parts.headers, body));
            }
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok((parts.status, parts.headers, Body::from(body)))
        });
        let ((status, _, body), _) = answer.await?;
        match status {
            StatusCode::GONE => Err(ApiError::Expired),
            status if status.is_success() => Ok(Watch::new(body, request)),
            status => {
                let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                Err(refused(status, request, &body))
            }
        }
    }

    /// Applies an object by server-side apply.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn apply(
        &self,
        path: &str,
        query: &[(&str, &str)],
        object: &Value,
    ) -> Result<Applied, ApiError> {
        let body = Some(("application/apply-patch+yaml", Bytes::from(safe_as_yaml(&object.to_string()))));
        let call =
            Call { method: Method::PATCH, target: target(path, query), accept: JSON, body, repeatable: true };
        let answer = self.call(&call).await?;
        let created = answer.status == StatusCode::CREATED;
        let (warnings, repeated) = (warnings(&answer.headers), answer.repeated);
        Ok(Applied { warnings, object: parsed(&call, &answer.body)?, created, repeated })
    }

    /// Changes an object. It must be a change that may be made twice.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn patch(
        &self,
        path: &str,
        query: &[(&str, &str)],
        kind: PatchKind,
        patch: &Value,
    ) -> Result<Value, ApiError> {
        let form = match kind {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
        };
        let body = Some((form, Bytes::from(patch.to_string())));
        let call =
            Call { method: Method::PATCH, target: target(path, query), accept: JSON, body, repeatable: true };
        parsed(&call, &self.call(&call).await?.body)
    }

    /// Creates an object, or has a review answered. It is not sent twice.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn create(
        &self,
        path: &str,
        query: &[(&str, &str)],
        object: &Value,
    ) -> Result<Applied, ApiError> {
        let body = Some((JSON, Bytes::from(object.to_string())));
        let call =
            Call { method: Method::POST, target: target(path, query), accept: JSON, body, repeatable: false };
        let answer = self.call(&call).await?;
        let created = answer.status == StatusCode::CREATED;
        let (warnings, repeated) = (warnings(&answer.headers), answer.repeated);
        Ok(Applied { warnings, object: parsed(&call, &answer.body)?, created, repeated })
    }

    /// Deletes what is at `path`, under `options` (`DeleteOptions`).
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value, ApiError> {
        let body = Some((JSON, Bytes::from(options.to_string())));
        let call =
            Call { method: Method::DELETE, target: path.to_owned(), accept: JSON, body, repeatable: true };
        parsed(&call, &self.call(&call).await?.body)
    }

    /// The kinds of objects that the cluster has. They are asked for once.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn kinds(&self) -> Result<Arc<Kinds>, ApiError> {
        let cell = self.cell();
        cell.get_or_try_init(|| self.discover()).await.cloned()
    }

    /// Forgets the kinds, for there are new ones.
    pub fn forget_kinds(&self) {
        *self.inner.kinds.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::default();
    }

    /// A kind in this version, if the cluster has it.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn resource(&self, gvk: &Gvk) -> Result<Option<Resource>, ApiError> {
        Ok(self.kinds().await?.get(gvk).cloned())
    }

    fn cell(&self) -> Arc<OnceCell<Arc<Kinds>>> {
        self.inner.kinds.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    async fn discover(&self) -> Result<Arc<Kinds>, ApiError> {
        let (core, named) = futures_util::future::try_join(
            self.read::<GroupList>("/api", discovery::ACCEPT),
            self.read::<GroupList>("/apis", discovery::ACCEPT),
        )
        .await?;
        let mut kinds = Kinds::default();
        if core.kind == "APIGroupDiscoveryList" && named.kind == "APIGroupDiscoveryList" {
            kinds.add_groups(core);
            kinds.add_groups(named);
        } else {
            self.discover_one_by_one(&mut kinds).await?;
        }
        Ok(Arc::new(kinds))
    }

    /// For servers before Kubernetes 1.26, and for those behind something that drops the header.
    async fn discover_one_by_one(&self, kinds: &mut Kinds) -> Result<(), ApiError> {
        let groups: Value = self.get("/apis").await?;
        let mut paths = vec!["/api/v1".to_owned()];
        for group in groups.get("groups").and_then(Value::as_array).into_iter().flatten() {
            let versions = group.get("versions").and_then(Value::as_array).into_iter().flatten();
            let names = versions.filter_map(|version| version.get("groupVersion").and_then(Value::as_str));
            paths.extend(names.map(|name| format!("/apis/{name}")));
        }
        let lists = futures_util::stream::iter(paths.into_iter().map(|path| async move {
            match self.read::<ResourceList>(&path, JSON).await {
                Ok(list) => Ok(Some(list)),
                // A group whose own server is down takes nothing from the others.
                Err(ApiError::Refused(refusal)) if refusal.code == 503 || refusal.code == 404 => Ok(None),
                Err(error) => Err(error),
            }
        }));
        let lists: Vec<_> = lists.buffered(AT_ONCE).try_collect().await?;
        for list in lists.into_iter().flatten() {
            kinds.add_resources(list);
        }
        Ok(())
    }

    async fn read<T: DeserializeOwned>(&self, target: &str, accept: &'static str) -> Result<T, ApiError> {
        let call = Call::get(target.to_owned(), accept);
        parsed(&call, &self.call(&call).await?.body)
    }

    async fn call(&self, call: &Call) -> Result<Answer, ApiError> {
        let answer = self.repeating(call, || async {
            // Closed it is never.
            let _permit = self.inner.permits.acquire().await;
            let whole = async {
                let (parts, body) = self.start(call).await?.into_parts();
                let body = body.collect().await.map_err(|error| self.lost(&error))?.to_bytes();
                Ok((parts.status, parts.headers, body))
            };
            tokio::time::timeout(ATTEMPT, whole).await.unwrap_or_else(|_| Err(self.silent()))
        });
        let ((status, headers, body), repeated) = answer.await?;
        if status.is_success() {
            return Ok(Answer { status, headers, body, repeated });
        }
        let mut refusal = Refusal::new(status.as_u16(), call.shown(), &body);
        refusal.warnings = warnings(&headers);
        Err(ApiError::Refused(Box::new(refusal)))
    }

    async fn start(&self, call: &Call) -> Result<http::Response<Body>, ApiError> {
        self.inner.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = Request::builder().method(call.method.clone()).uri(&call.target);
        request = request.header(ACCEPT, call.accept);
        let body = call.body.as_ref().map(|(form, bytes)| (*form, bytes.clone()));
        if let Some((form, _)) = body {
            request = request.header(CONTENT_TYPE, form);
        }
        let body = body.map_or_else(Body::empty, |(_, bytes)| Body::from(bytes));
        let garbled =
            |error: http::Error| ApiError::Garbled { request: call.shown(), why: error.to_string() };
        let request = request.body(body).map_err(garbled)?;
        let answer = self.inner.client.send(request).await.map_err(|error| match error {
            kube::Error::Auth(_) => {
                ApiError::Credentials { server: self.inner.server.clone(), why: told(&error) }
            }
            error => self.lost(&error),
        })?;
        self.inner.answered.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    /// Tries until there is an answer that counts; says whether it was not the first.
    async fn repeating<T, F>(
        &self,
        call: &Call,
        mut attempt: impl FnMut() -> F,
    ) -> Result<((StatusCode, HeaderMap, T), bool), ApiError>
    where
        F: Future<Output = Result<(StatusCode, HeaderMap, T), ApiError>>,
    {
        let begun = Instant::now();
        let mut bound = FIRST_PAUSE;
        let mut repeated = false;
        loop {
            let outcome = attempt().await;
            let pause = match &outcome {
                Ok((status, headers, _)) => self.pause_after(call, *status, headers),
                Err(ApiError::Unreachable { why, .. }) => {
                    (call.repeatable && !is_final(why)).then_some(Duration::ZERO)
                }
                Err(_) => None,
            };
            let answered = self.inner.answered.load(Ordering::Relaxed);
            let patience = if answered { PATIENCE } else { FIRST_PATIENCE };
            let Some(asked) = pause.filter(|_| begun.elapsed() < patience) else {
                return outcome.map(|answer| (answer, repeated));
            };
            repeated = true;
            let pause = asked + bound.mul_f64(SystemClock.fraction());
            tracing::debug!("{} is tried again in {} ms", call.shown(), pause.as_millis());
            tokio::time::sleep(pause).await;
            bound = (bound * 2).min(LONGEST_PAUSE);
        }
    }

    /// How long to wait at least before it is tried again; nothing if the answer stands.
    ///
    /// 429 says that nothing was done. 502, 503 and 504 come from what lies before the server, an agent's tunnel say, with
    /// or without `Retry-After`; what may be done twice is done again. Other 5xx only if the server asks for it.
    fn pause_after(&self, call: &Call, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let asked = asked.map(Duration::from_secs);
        let again = match status.as_u16() {
            429 => true,
            502..=504 => call.repeatable,
            500..=599 => call.repeatable && asked.is_some(),
            _ => false,
        };
        again.then(|| asked.unwrap_or_default()).filter(|pause| *pause <= LONGEST_REQUEST)
    }

    fn lost(&self, error: &(dyn StdError + 'static)) -> ApiError {
        ApiError::Unreachable { server: self.inner.server.clone(), why: told(error) }
    }

    fn silent(&self) -> ApiError {
        let why = format!("no answer within {} s", ATTEMPT.as_secs());
        ApiError::Unreachable { server: self.inner.server.clone(), why }
    }
}

impl Call {
    fn get(target: String, accept: &'static str) -> Self {
        Self { method: Method::GET, target, accept, body: None, repeatable: true }
    }

    /// `PATCH /api/v1/…`, without the query.
    fn shown(&self) -> String {
        let path = self.target.split_once('?').map_or(&*self.target, |(path, _)| path);
        format!("{} {path}", self.method)
    }
}

fn parsed<T: DeserializeOwned>(call: &Call, body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::Garbled { request: call.shown(), why: error.to_string() })
}

fn refused(status: StatusCode, request: String, body: &[u8]) -> ApiError {
    ApiError::Refused(Box::new(Refusal::new(status.as_u16(), request, body)))
}
