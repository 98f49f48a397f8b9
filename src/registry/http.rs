//! The real transport: reqwest on rustls, HTTP/1.1.
//!
//! One connection pool for ordinary hosts, one for each host with TLS of its own. Redirects, retries and
//! credentials are the business of the layers above. Time limits are limits on standing still: a transfer that
//! moves is never cut.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Method, NoProxy, Proxy, Url};

use super::credential::normal_key;
use super::error::{ErrorKind, RegistryError, with_causes};
use super::options::{ClientOptions, HostOptions, Proxies};
use super::tls::Roots;
use super::transport::{Body, Request, Response, Transport, TransportError, TransportErrorKind as Kind};

/// What is spoken to directly whatever the variables say: a proxy's loopback is not ours.
const NEVER_PROXIED: &str = "localhost,127.0.0.0/8,::1";

/// After so much silence the other side is asked whether it is there, well within the 350 s after which cloud
/// load balancers forget a connection.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Sends requests over the network.
#[derive(Debug)]
pub struct HttpTransport {
    ordinary: reqwest::Client,
    /// By host in normal form.
    special: BTreeMap<String, reqwest::Client>,
    idle: Duration,
}

impl HttpTransport {
    /// A transport for `options`.
    ///
    /// # Errors
    /// [`ErrorKind::Options`] if a certificate, a key or a proxy of the options cannot be used.
    pub fn new(options: &ClientOptions) -> Result<Self, RegistryError> {
        let refused = |what: String| {
            RegistryError::new(ErrorKind::Options, "set up connections to registries").saying(what)
        };
        let roots = Roots::load(options).map_err(refused)?;
        let client = |special: &HostOptions| client(options, &roots, special).map_err(refused);
        let ordinary = client(&HostOptions::default())?;
        let mut special = BTreeMap::new();
        for (host, own) in &options.hosts {
            if own.untrusted_certificate || own.identity.is_some() || !own.extra_roots.is_empty() {
                special.insert(normal_key(host), client(own)?);
            }
        }
        Ok(Self { ordinary, special, idle: options.timeouts.idle })
    }

    fn client_for(&self, url: &Url) -> &reqwest::Client {
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        self.special.get(&normal_key(&host)).unwrap_or(&self.ordinary)
    }

    async fn exchange(&self, request: Request) -> Result<Response, TransportError> {
        let client = self.client_for(&request.url);
        let wants_length = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
        let mut builder = client.request(request.method, request.url).headers(request.headers);
        let mut pulse = None;
        builder = match request.body {
            Body::Empty if wants_length => builder.header(CONTENT_LENGTH, HeaderValue::from_static("0")),
            Body::Empty => builder,
            Body::Bytes(bytes) => builder.body(bytes),
            Body::Stream { length, stream } => {
                let watched = Arc::new(Pulse::default());
                pulse = Some(watched.clone());
                builder
                    .header(CONTENT_LENGTH, length)
                    .body(reqwest::Body::wrap_stream(watch(stream, length, watched)))
            }
        };
        let answer = self.wait(builder.send(), pulse.as_deref(), request.patience).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok(Response { status, headers, body: body(answer, self.idle) })
    }

    /// Waits for an answer as long as the request's body moves, and for `patience` once it is out.
    async fn wait(
        &self,
        answer: impl Future<Output = reqwest::Result<reqwest::Response>>,
        pulse: Option<&Pulse>,
        patience: Duration,
    ) -> Result<reqwest::Response, TransportError> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let before = pulse.map(Pulse::beats);
            let limit = if pulse.is_some_and(Pulse::is_sending) { self.idle } else { patience };
            match tokio::time::timeout(limit, &mut answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => return Err(classified(error)),
                Err(_) if pulse.map(Pulse::beats) != before => {}
                Err(_) => return Err(TransportError::new(Kind::Timeout)),
            }
        }
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(self.exchange(request))
    }
}

fn client(options: &ClientOptions, roots: &Roots, special: &HostOptions) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(roots.config(special)?)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(options.timeouts.connect)
        // A commit may be silent for minutes: load balancers forget connections that are.
        .tcp_keepalive(KEEPALIVE)
        .user_agent(&options.user_agent)
        // Only what the options say: the environment has been read by whoever made them.
        .no_proxy();
    for proxy in proxies(&options.proxies)? {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| with_causes(&error.without_url()))
}

fn proxies(proxies: &Proxies) -> Result<Vec<Proxy>, String> {
    let none_for = NoProxy::from_string(&format!("{NEVER_PROXIED},{}", proxies.none_for));
    let mut made = Vec::new();
    let wanted = [
        ("HTTP", &proxies.http, (|address| Proxy::http(address)) as fn(&str) -> reqwest::Result<Proxy>),
        ("HTTPS", &proxies.https, |address| Proxy::https(address)),
    ];
    for (name, address, make) in wanted {
        let Some(address) = address else { continue };
        let address = address.expose();
        if address.split_once("://").is_some_and(|(scheme, _)| !matches!(scheme, "http" | "https")) {
            return Err(format!("the proxy for {name} is not an HTTP proxy"));
        }
        // The library's error may quote the address, which may hold a password.
        let proxy = make(address).map_err(|_| format!("the proxy for {name} is not an address"))?;
        made.push(proxy.no_proxy(none_for.clone()));
    }
    Ok(made)
}

/// What is seen of a body that is being sent.
#[derive(Default)]
struct Pulse {
    beats: AtomicU64,
    finished: AtomicBool,
}

impl Pulse {
    fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    fn is_sending(&self) -> bool {
        !self.finished.load(Ordering::Relaxed)
    }
}

/// A body of so many bytes, seen by `pulse`. Who sends it knows its length and does not ask for more behind the last of them.
fn watch(
    stream: BoxStream<'static, io::Result<bytes::Bytes>>,
    length: u64,
    pulse: Arc<Pulse>,
) -> impl stream::Stream<Item = io::Result<bytes::Bytes>> + Send + 'static {
    let mut left = length;
    stream.inspect(move |piece| {
        left = left.saturating_sub(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        pulse.finished.fetch_or(left == 0, Ordering::Relaxed);
        pulse.beats.fetch_add(1, Ordering::Relaxed);
    })
}

/// The body of an answer, each piece of which must arrive within `idle`.
fn body(
    answer: reqwest::Response,
    idle: Duration,
) -> BoxStream<'static, Result<bytes::Bytes, TransportError>> {
    let pieces = stream::unfold(Some(answer), move |answer| async move {
        let mut answer = answer?;
        match tokio::time::timeout(idle, answer.chunk()).await {
            Ok(Ok(Some(piece))) => Some((Ok(piece), Some(answer))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(classified(error)), None)),
            Err(_) => Some((Err(TransportError::new(Kind::Timeout)), None)),
        }
    });
    pieces.boxed()
}

/// Sorts what the library says. It names addresses, which are taken out.
fn classified(error: reqwest::Error) -> TransportError {
    let error = error.without_url();
    let kind = kind_of(&error);
    TransportError::because(kind, error)
}

fn kind_of(error: &reqwest::Error) -> Kind {
    if error.is_builder() {
        return Kind::Request;
    }
    let mut tls = None;
    let mut io_kind = None;
    visit(error, &mut |cause| {
        if let Some(cause) = cause.downcast_ref::<rustls::Error>() {
            tls.get_or_insert(tls_kind(cause));
        } else if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.kind() != io::ErrorKind::Other
        {
            // `Other` is a wrapping around the one that says something.
            io_kind.get_or_insert(cause.kind());
        }
    });
    if let Some(kind) = tls {
        return kind;
    }
    if error.is_dns() {
        return if is_unknown_name(&with_causes(error)) { Kind::UnknownHost } else { Kind::Resolve };
    }
    if error.is_timeout() {
        return Kind::Timeout;
    }
    match (error.is_connect(), io_kind) {
        (true, Some(io::ErrorKind::ConnectionRefused)) => Kind::Refused,
        // The TCP connection was there, for it could be cut.
        (
            true,
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        ) => Kind::Handshake,
        (true, _) => Kind::Connect,
        (false, _) => Kind::Broken,
    }
}

fn tls_kind(error: &rustls::Error) -> Kind {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Kind::Certificate,
        rustls::Error::InvalidMessage(_) => Kind::NotTls,
        _ => Kind::Tls,
    }
}

/// Whether a resolver said that there is no such name, as against that it cannot say. The system's codes are
/// not handed on, only its words: musl's and glibc's.
fn is_unknown_name(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["does not resolve", "not known", "no usable address", "no address associated"]
        .iter()
        .any(|words| message.contains(words))
}

/// Visits an error and its causes, those inside of an `io::Error` included, which `source` passes over.
fn visit(error: &(dyn StdError + 'static), look: &mut dyn FnMut(&(dyn StdError + 'static))) {
    look(error);
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        visit(inner, look);
    } else if let Some(source) = error.source() {
        visit(source, look);
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::Secret;
    use super::*;

    #[test]
    fn a_proxy_that_is_no_http_proxy_is_refused_without_its_password() {
        for address in ["socks5://u:hunter2@proxy:1080", "http://u:hunter2@[proxy"] {
            let options = ClientOptions {
                proxies: Proxies { https: Some(Secret::new(address)), ..Proxies::default() },
                ..ClientOptions::default()
            };
            let error = HttpTransport::new(&options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Options);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_certificate_that_is_none_is_refused() {
        let options = ClientOptions { extra_roots: vec![b"no".to_vec()], ..ClientOptions::default() };
        let error = HttpTransport::new(&options).unwrap_err();
        assert!(error.to_string().contains("is not PEM"), "{error}");
    }
}
