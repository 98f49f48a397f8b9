//! One request of an operation, from what is wanted to an answer: address, authorization, redirects, the answer
//! to a 401, plain HTTP where that is allowed, and another try where that makes sense.
//!
//! `Authorization` is sent to the origin that the operation addresses and to no other: a redirect to another
//! scheme, host or port goes without.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, StatusCode, Url};

use super::auth::{Authorization, Refusal};
use super::client::Client;
use super::diagnostic;
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::guard;
use super::retry::{Reason, retry_after};
use super::scope::Scopes;
use super::secret::redacted;
use super::source::{self, BlobSource, Failure, Progress};
use super::transport::{Body, Request, Response, TransportError, TransportErrorKind};

/// Redirects that are followed, as many as Go and curl do or fewer.
const MOST_REDIRECTS: usize = 10;
/// Bytes of a failed answer that are read: a registry's errors are far shorter.
const LONGEST_ERROR: usize = 64 * 1024;
/// How often one exchange answers a 401: once with what is known, once more with what a helper gives anew.
const MOST_ANSWERS: u32 = 2;

/// What an operation wants of one endpoint.
pub(super) struct Call<'a> {
    /// For errors: "push blob `sha256:…` to `ghcr.io/group/app`".
    pub(super) operation: &'a str,
    pub(super) endpoint: &'a Endpoint,
    pub(super) method: Method,
    pub(super) target: Target<'a>,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload<'a>,
    /// What a token must be good for.
    pub(super) scopes: Scopes,
    /// How long the answer may take once the request is out.
    pub(super) patience: Duration,
    /// Whether a 404 without credentials may mean that one must show some: registries hide what is private.
    pub(super) may_be_hidden: bool,
}

/// Where a call goes.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// Below the endpoint's repository: `manifests/latest`.
    Path(&'a str),
    /// An address that the registry gave.
    Url(&'a Url),
}

/// What a call sends.
#[derive(Clone)]
pub(super) enum Payload<'a> {
    Nothing,
    Bytes(Bytes),
    Source { source: &'a dyn BlobSource, offset: u64, length: u64, progress: Option<&'a Progress> },
}

impl<'a> Call<'a> {
    /// A call without body.
    pub(super) fn new(
        client: &Client,
        operation: &'a str,
        endpoint: &'a Endpoint,
        method: Method,
        target: Target<'a>,
        scopes: Scopes,
    ) -> Self {
        Self {
            operation,
            endpoint,
            method,
            target,
            headers: HeaderMap::new(),
            payload: Payload::Nothing,
            scopes,
            patience: client.options().timeouts.answer,
            may_be_hidden: false,
        }
    }

    /// The same with a header. A value that is no header value is left out: all of them are ours or are parsed.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    /// The same with a body.
    pub(super) fn payload(mut self, kind: &str, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self.header(CONTENT_TYPE, kind)
    }

    /// The same for something that may be hidden from who does not show credentials.
    pub(super) fn maybe_hidden(mut self) -> Self {
        self.may_be_hidden = true;
        self
    }

    /// The same with another limit on the wait for the answer.
    pub(super) fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// The answer to a call.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Where it came from, behind all redirects.
    pub(super) url: Url,
    pub(super) authorization: Authorization,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status
    }

    fn refusal(&self) -> Refusal<'_> {
        let Self { response, url, authorization } = self;
        Refusal { url, headers: &response.headers, authorization }
    }

    /// The address in `Location`, which the registry may write relative to the one that was asked.
    ///
    /// # Errors
    /// If there is none, or it leads where nothing may be sent.
    pub(super) fn location(&self, client: &Client, call: &Call<'_>) -> Result<Url, RegistryError> {
        let fail = |what: String| {
            RegistryError::answered(call.operation, &call.method, &self.url, self.status(), Vec::new())
                .with_kind(ErrorKind::Registry)
                .saying(what)
        };
        let Some(text) = self.response.header(LOCATION) else {
            return Err(fail("the answer has no `Location`".to_owned()));
        };
        let Ok(location) = self.url.join(text) else {
            return Err(fail("the answer's `Location` is no address".to_owned()));
        };
        let location = guard::upgraded(&self.url, location);
        match guard::check(&self.url, &location, false, client.options()) {
            Ok(()) => Ok(location),
            Err(why) => Err(fail(format!("the answer's `Location` leads to {why}"))),
        }
    }
}

/// A request on its way through redirects.
pub(super) struct Shipment<'a> {
    pub(super) operation: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: &'a HeaderMap,
    pub(super) authorization: Option<HeaderValue>,
    /// The origin that `authorization` is for.
    pub(super) origin: &'a Url,
    pub(super) payload: &'a Payload<'a>,
    pub(super) patience: Duration,
    /// The endpoint whose scheme may still be found out.
    pub(super) endpoint: Option<&'a Endpoint>,
    /// Whether redirects are followed.
    pub(super) follow: bool,
}

impl Client {
    /// Sends a call until the answer's status is one of `accepted`, or no further try makes sense.
    pub(super) async fn request(
        &self,
        call: &Call<'_>,
        accepted: &[StatusCode],
    ) -> Result<Answer, RegistryError> {
        let mut retries = self.retries(call.endpoint);
        loop {
            match self.once(call, accepted).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retries.after(error).await?,
            }
        }
    }

    /// The same with one try.
    pub(super) async fn once(
        &self,
        call: &Call<'_>,
        accepted: &[StatusCode],
    ) -> Result<Answer, RegistryError> {
        let answer = self.exchange(call).await?;
        if accepted.contains(&answer.status()) { Ok(answer) } else { Err(self.refused(call, answer).await) }
    }

    /// One exchange, which answers a 401. Gives any status.
    pub(super) async fn exchange(&self, call: &Call<'_>) -> Result<Answer, RegistryError> {
        let mut authorization = self.authorize(call).await?;
        let mut answers = 0;
        loop {
            let answer = self.ship(call, authorization).await?;
            if answer.status() == StatusCode::UNAUTHORIZED && answers < MOST_ANSWERS {
                let next = self.answer_challenge(call, answer.refusal(), answers).await?;
                // The same header would get the same answer.
                if next.header() == answer.authorization.header() {
                    return Ok(Answer { authorization: next, ..answer });
                }
                answers += 1;
                authorization = next;
                answer.response.finish().await;
                continue;
            }
            let hidden = answer.status() == StatusCode::FORBIDDEN
                || answer.status() == StatusCode::NOT_FOUND && call.may_be_hidden;
            if hidden && !answer.authorization.is_sent() {
                return self.introduce(call, answer).await;
            }
            return Ok(answer);
        }
    }

    /// Tries a call that was refused without asking for credentials again with them, if there are any. Where
    /// that does not help, the first answer stands.
    async fn introduce(&self, call: &Call<'_>, answer: Answer) -> Result<Answer, RegistryError> {
        let answer = answer.held().await;
        let authorization = match self.unasked(call).await {
            Ok(Some(authorization)) => authorization,
            Ok(None) => return Ok(answer),
            // Something that is not there is not there, whatever is wrong with the credentials.
            Err(error)
                if answer.status() == StatusCode::NOT_FOUND || error.kind() == ErrorKind::Unauthorized =>
            {
                tracing::debug!("{error}");
                self.credentials_do_not_help(call.endpoint);
                return Ok(answer);
            }
            Err(error) => return Err(error),
        };
        let second = self.ship(call, authorization).await?;
        if second.status() == StatusCode::UNAUTHORIZED {
            self.credentials_do_not_help(call.endpoint);
            second.response.finish().await;
            return Ok(answer);
        }
        Ok(second)
    }

    /// Sends a call with an authorization, through redirects.
    async fn ship(&self, call: &Call<'_>, authorization: Authorization) -> Result<Answer, RegistryError> {
        let home = call.endpoint.url(self.scheme(call.endpoint), "")?;
        let url = match call.target {
            Target::Path(path) => call.endpoint.url(self.scheme(call.endpoint), path)?,
            Target::Url(url) => url.clone(),
        };
        let shipment = Shipment {
            operation: call.operation,
            method: call.method.clone(),
            url,
            headers: &call.headers,
            authorization: authorization.header(),
            origin: &home,
            payload: &call.payload,
            patience: call.patience,
            endpoint: Some(call.endpoint),
            follow: true,
        };
        match self.follow(shipment).await {
            Ok((response, url)) => Ok(Answer { response, url, authorization }),
            Err(error) => Err(error.with_scopes(&call.scopes).with_credential(authorization.describe())),
        }
    }

    /// Sends a request and follows redirects.
    pub(super) async fn follow(&self, mut shipment: Shipment<'_>) -> Result<(Response, Url), RegistryError> {
        for _ in 0..=MOST_REDIRECTS {
            let response = self.transmit(&mut shipment).await?;
            let Some(next) = self.redirect(&shipment, &response)? else {
                return Ok((response, shipment.url));
            };
            response.finish().await;
            shipment.url = next;
        }
        Err(RegistryError::new(ErrorKind::Registry, shipment.operation)
            .asked(&shipment.method, &shipment.url)
            .saying(format!("more than {MOST_REDIRECTS} redirects")))
    }

    /// Where an answer redirects to, if it does.
    fn redirect(&self, shipment: &Shipment<'_>, response: &Response) -> Result<Option<Url>, RegistryError> {
        let reads = matches!(shipment.method, Method::GET | Method::HEAD);
        let redirects = match response.status.as_u16() {
            301 | 302 | 307 | 308 => true,
            // "See other" makes a GET of everything, which is not what an upload wants.
            303 => reads,
            _ => false,
        };
        let Some(location) = response.header(LOCATION).filter(|_| redirects && shipment.follow) else {
            return Ok(None);
        };
        let fail = |what: String| {
            RegistryError::answered(
                shipment.operation,
                &shipment.method,
                &shipment.url,
                response.status,
                Vec::new(),
            )
            .with_kind(ErrorKind::Registry)
            .saying(what)
        };
        let next = shipment.url.join(location).map_err(|_| fail("it redirects to no address".to_owned()))?;
        let next = guard::upgraded(&shipment.url, next);
        guard::check(&shipment.url, &next, false, self.options())
            .map_err(|why| fail(format!("it redirects to {why}")))?;
        Ok(Some(next))
    }

    /// Sends one request. Where an endpoint may be spoken to without TLS and turns out to have none, it is.
    async fn transmit(&self, shipment: &mut Shipment<'_>) -> Result<Response, RegistryError> {
        let at_home = guard::same_origin(&shipment.url, shipment.origin);
        let open = shipment.endpoint.filter(|endpoint| {
            at_home && shipment.url.scheme() == "https" && !self.scheme_is_known(endpoint)
        });
        let first = self.send(shipment, &shipment.url, at_home).await;
        let Some(endpoint) = open else { return first.map_err(|failed| failed.error(shipment)) };
        let failed = match first {
            Ok(response) => {
                self.note_scheme(endpoint, "https");
                return Ok(response);
            }
            Err(failed) => failed,
        };
        if !self.may_be_plain(endpoint) || !failed.may_lack_tls(&shipment.url) {
            return Err(failed.error(shipment));
        }
        let mut plain = shipment.url.clone();
        // Defined for `https` addresses.
        let _set = plain.set_scheme("http");
        match self.send(shipment, &plain, at_home).await {
            Ok(response) => {
                // What a TLS port says to plain HTTP must not make it a plain one.
                if response.status != StatusCode::BAD_REQUEST {
                    self.note_scheme(endpoint, "http");
                }
                shipment.url = plain;
                Ok(response)
            }
            // What went wrong without TLS says more about a server that has none.
            Err(again) if failed.is_not_tls() => Err(again.error_at(shipment, &plain)),
            Err(_) => Err(failed.error(shipment)),
        }
    }

    fn may_be_plain(&self, endpoint: &Endpoint) -> bool {
        let configured = self.options().host(&endpoint.registry).is_some_and(|host| host.plain_http);
        configured || endpoint.is_loopback()
    }

    /// Sends one request as it is, with the authorization only where it belongs.
    async fn send(&self, shipment: &Shipment<'_>, url: &Url, at_home: bool) -> Result<Response, Failed> {
        let mut headers = shipment.headers.clone();
        if let Some(authorization) = shipment.authorization.as_ref().filter(|_| at_home) {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let (body, failure) = match shipment.payload {
            Payload::Nothing => (Body::Empty, Failure::default()),
            Payload::Bytes(bytes) => (Body::Bytes(bytes.clone()), Failure::default()),
            Payload::Source { source, offset, length, progress } => {
                source::body(*source, *offset, *length, *progress).map_err(Failed::Local)?
            }
        };
        let request = Request {
            method: shipment.method.clone(),
            url: url.clone(),
            headers,
            body,
            patience: shipment.patience,
        };
        self.inner.transport.send(request).await.map_err(|error| match failure.take() {
            Some(local) => Failed::Local(local),
            None => Failed::Transport(error),
        })
    }

    /// The error for an answer whose status is not one that was wanted.
    pub(super) async fn refused(&self, call: &Call<'_>, answer: Answer) -> RegistryError {
        let Answer { response, url, authorization } = answer;
        let (status, wait) = (response.status, response.header(RETRY_AFTER).map(str::to_owned));
        let now: SystemTime = self.inner.clock.date();
        let body = match response.read(LONGEST_ERROR).await {
            Ok((body, _)) => body,
            // The status is there, and says more than that its body broke off.
            Err(_) => Bytes::new(),
        };
        let said = diagnostic::decode(&body);
        RegistryError::answered(call.operation, &call.method, &url, status, said)
            .with_scopes(&call.scopes)
            .with_credential(authorization.describe())
            .with_retry_after(wait.and_then(|wait| retry_after(&wait, now)))
    }

    /// The error for an answer of a good status that makes no sense.
    pub(super) fn senseless(&self, call: &Call<'_>, url: &Url, what: impl Into<String>) -> RegistryError {
        RegistryError::new(ErrorKind::Registry, call.operation).asked(&call.method, url).saying(what)
    }

    /// The error for a body that broke off.
    pub(super) fn broken_body(&self, call: &Call<'_>, url: &Url, error: TransportError) -> RegistryError {
        RegistryError::no_answer(call.operation, &call.method, url, error)
    }
}

impl Answer {
    /// The answer with the first part of its body in memory, so that the connection is free.
    async fn held(self) -> Self {
        let Self { response, url, authorization } = self;
        let (status, headers) = (response.status, response.headers.clone());
        let body = match response.read(LONGEST_ERROR).await {
            Ok((body, _)) => body,
            Err(_) => Bytes::new(),
        };
        let body = stream::once(std::future::ready(Ok(body))).boxed();
        Self { response: Response { status, headers, body }, url, authorization }
    }
}

/// A request that got no answer.
enum Failed {
    Local(std::io::Error),
    Transport(TransportError),
}

impl Failed {
    fn is_not_tls(&self) -> bool {
        matches!(self, Self::Transport(error) if error.kind == TransportErrorKind::NotTls)
    }

    /// Whether a server without TLS would fail like this: it answers in clear, it hangs up, or it does not
    /// listen on the port of HTTPS.
    fn may_lack_tls(&self, url: &Url) -> bool {
        use TransportErrorKind::{Connect, Handshake, NotTls, Refused, Timeout};
        match self {
            Self::Local(_) => false,
            Self::Transport(error) => match error.kind {
                NotTls | Handshake => true,
                Refused | Connect | Timeout => url.port().is_none(),
                _ => false,
            },
        }
    }

    fn error(self, shipment: &Shipment<'_>) -> RegistryError {
        let url = shipment.url.clone();
        self.error_at(shipment, &url)
    }

    fn error_at(self, shipment: &Shipment<'_>, url: &Url) -> RegistryError {
        match self {
            Self::Local(error) => RegistryError::new(ErrorKind::Local, shipment.operation)
                .saying("what was to be sent could not be read")
                .because(error),
            Self::Transport(error) => {
                RegistryError::no_answer(shipment.operation, &shipment.method, url, error)
            }
        }
    }
}

/// Wrong bytes: worth one more try, since proxies cut and caches rot.
pub(super) fn corrupt(call: &Call<'_>, url: &Url, what: String) -> RegistryError {
    tracing::debug!(url = redacted(url), "{what}");
    RegistryError::new(ErrorKind::Integrity, call.operation)
        .asked(&call.method, url)
        .saying(what)
        .again(Reason::Corrupt)
}
