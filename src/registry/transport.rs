//! The seam to the network: one HTTP request, one answer.
//!
//! Above it lie retries, authentication, redirects and the protocol; below it lies [`HttpTransport`], or a
//! test. A transport follows no redirect, adds no credentials and tries nothing twice. Bodies are streams in
//! both directions.
//!
//! [`HttpTransport`]: super::HttpTransport

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, StatusCode, Url};
use thiserror::Error;

/// Sends requests.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends `request` and gives the head of the answer, with its body still to come.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>>;
}

/// What is sent.
#[derive(Debug)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// All headers but those the transport itself must set (`Host`, `User-Agent`).
    pub headers: HeaderMap,
    /// What follows the headers.
    pub body: Body,
    /// How long the answer's head may take once the request is out. Committing a large upload takes minutes.
    pub patience: Duration,
}

/// The body of a request.
pub enum Body {
    /// None; `Content-Length: 0` where the method wants one.
    Empty,
    /// Held in memory.
    Bytes(Bytes),
    /// Of a known length, made while it is sent.
    Stream {
        /// Bytes that `stream` will give.
        length: u64,
        /// The bytes.
        stream: BoxStream<'static, io::Result<Bytes>>,
    },
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Stream { length, .. } => write!(f, "Stream({length})"),
        }
    }
}

/// What came back.
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body. Dropping it before its end closes the connection.
    pub body: BoxStream<'static, Result<Bytes, TransportError>>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({})", self.status)
    }
}

impl Response {
    /// A header as text, if it is there and is text.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
    }

    /// A header that is a decimal number.
    pub fn number(&self, name: HeaderName) -> Option<u64> {
        self.header(name).and_then(|text| text.parse().ok())
    }

    /// The body, up to `cap` bytes of it; the second value says whether that was all. A body that ends early is
    /// an error.
    pub(crate) async fn read(mut self, cap: usize) -> Result<(Bytes, bool), TransportError> {
        let mut read = BytesMut::new();
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk?;
            let room = cap - read.len();
            if chunk.len() > room {
                read.extend_from_slice(chunk.get(..room).unwrap_or_default());
                return Ok((read.freeze(), false));
            }
            read.extend_from_slice(&chunk);
        }
        Ok((read.freeze(), true))
    }

    /// Reads what is left of a short answer that nobody looks at, so that the connection can be used again.
    pub(crate) async fn finish(self) {
        /// Above this a new connection is cheaper.
        const WORTH_READING: usize = 64 * 1024;
        // Whether it broke is of no interest: nothing in it was wanted.
        let _unread = self.read(WORTH_READING).await;
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
#[error("{kind}")]
pub struct TransportError {
    /// What kind of failure it is.
    pub kind: TransportErrorKind,
    /// What the library below said. It holds no address and no header.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl TransportError {
    /// An error of a kind without more to say.
    pub fn new(kind: TransportErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// An error with its cause.
    pub fn because(kind: TransportErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, source: Some(source.into()) }
    }
}

/// The ways a request fails before there is an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportErrorKind {
    /// The name does not exist.
    UnknownHost,
    /// The name could not be looked up right now.
    Resolve,
    /// Nothing listens there.
    Refused,
    /// The connection, or the tunnel through a proxy, could not be made.
    Connect,
    /// The connection was cut while TLS was being set up; it may be a server that speaks plain HTTP.
    Handshake,
    /// The other side answered with something that is not TLS.
    NotTls,
    /// The certificate does not verify.
    Certificate,
    /// TLS failed in another way.
    Tls,
    /// The connection broke: reset, or ended too early.
    Broken,
    /// Nothing moved for too long.
    Timeout,
    /// The body could not be made: the local source failed.
    Source,
    /// The request cannot be sent as it is.
    Request,
}

impl fmt::Display for TransportErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownHost => "the host name does not exist",
            Self::Resolve => "the host name could not be looked up",
            Self::Refused => "the connection was refused",
            Self::Connect => "the connection could not be made",
            Self::Handshake => "the connection was cut during the TLS handshake",
            Self::NotTls => "the server does not speak TLS",
            Self::Certificate => "the server's certificate is not trusted",
            Self::Tls => "TLS failed",
            Self::Broken => "the connection broke",
            Self::Timeout => "nothing arrived or left for too long",
            Self::Source => "what was to be sent could not be read",
            Self::Request => "the request is not one that can be sent",
        })
    }
}
