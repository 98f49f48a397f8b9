//! Files on the web that are no registry's: one GET, its redirects followed, tried again where that makes sense.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LAST_MODIFIED, LOCATION,
    RETRY_AFTER,
};
use reqwest::{Method, StatusCode};
use thiserror::Error;
use url::Url;

use super::client::Client;
use super::retry::{Reason, retry_after};
use super::transport::{Body, Request, Response, TransportError};

/// Redirects that are followed, as many as for registries.
const MOST_REDIRECTS: usize = 10;

/// What is wanted of the web.
#[derive(Debug, Clone)]
pub struct WebRequest {
    /// Where it is. A user and a password in it are shown to that server alone.
    pub url: Url,
    /// The entity tag of what is here already.
    pub etag: Option<String>,
}

/// What a server says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebHead {
    /// Its entity tag.
    pub etag: Option<String>,
    /// When it last changed, seconds since 1970.
    pub last_modified: Option<i64>,
}

/// Takes a file in.
pub trait WebSink: Send {
    /// The file begins, from its first byte; what came before is void.
    ///
    /// # Errors
    /// If it cannot be taken in.
    fn begin(&mut self) -> io::Result<()>;

    /// Some more of it.
    ///
    /// # Errors
    /// If it cannot be taken in.
    fn write(&mut self, piece: &[u8]) -> io::Result<()>;
}

/// Why there is no file.
#[derive(Debug, Error)]
pub enum WebError {
    /// The server answered that there is none, or that it will not give it.
    #[error("the server answered {status}")]
    Status {
        /// The answer.
        status: StatusCode,
        /// How long it asks to be left alone.
        after: Option<Duration>,
    },
    /// There was no answer, or not all of it.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A redirect leads to what is no address on the web.
    #[error("it is redirected to `{0}`, which is not an address on the web")]
    Redirect(String),
    /// There are too many redirects.
    #[error("it is redirected more than {MOST_REDIRECTS} times")]
    Redirects,
    /// It could not be taken in.
    #[error("it cannot be kept")]
    Sink(#[source] io::Error),
}

impl WebError {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Status { status, .. } => Reason::for_status(*status),
            Self::Transport(error) => Reason::for_failure(error.kind),
            Self::Redirect(_) | Self::Redirects | Self::Sink(_) => None,
        }
    }
}

impl Client {
    /// Gets a file. `None` if it is what is here already, which `sink` has heard nothing of then.
    ///
    /// # Errors
    /// Why there is none, after as many tries as a registry is given.
    pub async fn get_file(
        &self,
        request: &WebRequest,
        sink: &mut dyn WebSink,
    ) -> Result<Option<WebHead>, WebError> {
        let policy = &self.inner.options.retry;
        let mut failures = 0;
        loop {
            let error = match self.try_file(request, sink).await {
                Ok(head) => return Ok(head),
                Err(error) => error,
            };
            let asked = match &error {
                WebError::Status { after, .. } => *after,
                _ => None,
            };
            let pause = error.reason().filter(|_| failures + 1 < policy.attempts);
            let pause = pause.and_then(|_| policy.pause(failures, self.inner.clock.fraction(), asked));
            let Some(pause) = pause else { return Err(error) };
            failures += 1;
            tracing::info!(?pause, try_number = failures + 1, "trying again: {error}");
            self.inner.clock.sleep(pause).await;
        }
    }

    async fn try_file(
        &self,
        request: &WebRequest,
        sink: &mut dyn WebSink,
    ) -> Result<Option<WebHead>, WebError> {
        let mut answer = self.ask_web(request).await?;
        let head = WebHead {
            etag: answer.header(ETAG).map(str::to_owned),
            last_modified: answer.header(LAST_MODIFIED).and_then(http_date),
        };
        // Some servers give entity tags and take no notice of them in requests.
        if answer.status == StatusCode::NOT_MODIFIED || head.etag.is_some() && head.etag == request.etag {
            return Ok(None);
        }
        if answer.status != StatusCode::OK {
            let after =
                answer.header(RETRY_AFTER).and_then(|value| retry_after(value, self.inner.clock.date()));
            return Err(WebError::Status { status: answer.status, after });
        }
        sink.begin().map_err(WebError::Sink)?;
        while let Some(piece) = answer.body.next().await {
            sink.write(&piece?).map_err(WebError::Sink)?;
        }
        Ok(Some(head))
    }

    /// Asks, and asks where the answer says until there is one.
    async fn ask_web(&self, request: &WebRequest) -> Result<Response, WebError> {
        let mut url = request.url.clone();
        let login = Login::take(&mut url);
        for _ in 0..=MOST_REDIRECTS {
            let mut headers = HeaderMap::new();
            // The file itself is wanted, and not what compresses it on the way.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(etag) = request.etag.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok()) {
                headers.insert(IF_NONE_MATCH, etag);
            }
            if let Some(login) = login.as_ref().filter(|login| login.origin == url.origin()) {
                headers.insert(AUTHORIZATION, login.header.clone());
            }
            let asked = Request {
                method: Method::GET,
                url: url.clone(),
                headers,
                body: Body::Empty,
                patience: self.inner.options.timeouts.answer,
            };
            let answer = self.inner.transport.send(asked).await?;
            let place = answer.header(LOCATION).filter(|_| is_redirect(answer.status));
            let Some(place) = place else { return Ok(answer) };
            let next = url.join(place).ok().filter(|next| matches!(next.scheme(), "http" | "https"));
            let Some(next) = next else { return Err(WebError::Redirect(place.to_owned())) };
            url = next;
            answer.finish().await;
        }
        Err(WebError::Redirects)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// A date as HTTP has them (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<i64> {
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second())
}

/// The user and the password in an address, and whom they are for.
struct Login {
    origin: url::Origin,
    header: HeaderValue,
}

impl Login {
    /// Takes them out of the address.
    fn take(url: &mut Url) -> Option<Self> {
        use base64::Engine;
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pair = format!("{}:{}", decode(url.username()), decode(url.password().unwrap_or_default()));
        // It fails only for addresses that cannot have any, and this has.
        let _ = (url.set_username(""), url.set_password(None));
        let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(Self { origin: url.origin(), header })
    }
}
