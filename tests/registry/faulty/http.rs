//! A small HTTP/1.1 server on threads: it keeps connections alive like any other, and hangs up, cuts bodies or
//! lies about their length where a test says so.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Head {
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The values of a parameter of the query, decoded.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form(query).into_iter().filter(|(key, _)| key == name).map(|(_, value)| value).collect()
    }

    pub fn parameter(&self, name: &str) -> Option<String> {
        self.parameters(name).into_iter().next()
    }
}

/// The pairs of a form or a query.
pub fn form(text: &str) -> Vec<(String, String)> {
    let decode = |part: &str| {
        let part = part.replace('+', " ");
        percent_encoding::percent_decode_str(&part).decode_utf8().unwrap().into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// A request whose body may still be on the wire.
pub struct Exchange<'a> {
    pub head: &'a Head,
    input: &'a mut dyn BufRead,
    left: Left,
}

enum Left {
    Bytes(u64),
    Chunks,
    Nothing,
}

impl Exchange<'_> {
    /// The rest of the body, up to `limit` bytes of it.
    pub fn body(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        match self.left {
            Left::Nothing => {}
            Left::Bytes(length) => {
                let wanted = length.min(limit as u64);
                (&mut self.input).take(wanted).read_to_end(&mut body)?;
                self.left = Left::Bytes(length - body.len() as u64);
                if (body.len() as u64) < wanted {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Left::Chunks => {
                loop {
                    let mut line = String::new();
                    self.input.read_line(&mut line)?;
                    let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
                    (&mut self.input).take(length).read_to_end(&mut body)?;
                    self.input.read_line(&mut line)?;
                    if length == 0 {
                        break;
                    }
                }
                self.left = Left::Nothing;
            }
        }
        Ok(body)
    }

    fn unread(&self) -> bool {
        !matches!(self.left, Left::Nothing | Left::Bytes(0))
    }
}

/// What the server does with a request.
pub enum Reply {
    Answer(Answer),
    /// Closes the connection without a word.
    HangUp,
}

/// An answer, honest by default.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// `Content-Length` if it is not that of the body.
    pub length: Option<u64>,
    /// Sends no `Content-Length`; the end of the connection ends the body.
    pub unmeasured: bool,
    /// Sends only so many bytes of the body and hangs up.
    pub cut: Option<usize>,
    /// Waits before the answer, or, with `cut`, before hanging up.
    pub pause: Duration,
    /// Closes at once, also if the request's body is unread: the client sees a reset.
    pub rude: bool,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn also(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The protocol's error.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        Self::new(status).header("Content-Type", "application/json").body(body.to_string())
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

type Handler = dyn Fn(&mut Exchange<'_>) -> Reply + Send + Sync;

/// A server that runs until it is dropped.
pub struct Server {
    address: SocketAddr,
    is_tls: bool,
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A server on one of this machine's loopback addresses, with TLS if a configuration is given.
    pub fn on(
        ip: &str,
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(&mut Exchange<'_>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let handler: Arc<Handler> = Arc::new(handler);
        let is_tls = tls.is_some();
        let thread = {
            let (stop, connections, accepted) = (stop.clone(), connections.clone(), accepted.clone());
            std::thread::spawn(move || {
                for connection in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(connection) = connection else { continue };
                    accepted.fetch_add(1, Ordering::SeqCst);
                    connection.set_nodelay(true).unwrap();
                    connections.lock().unwrap().push(connection.try_clone().unwrap());
                    let (handler, tls) = (handler.clone(), tls.clone());
                    std::thread::spawn(move || {
                        let raw = connection.try_clone().unwrap();
                        // A connection that breaks is the client's business.
                        drop(serve(connection, tls, &*handler));
                        // Another handle is kept for the end of the server, so dropping does not close it.
                        drop(raw.shutdown(Shutdown::Both));
                    });
                }
            })
        };
        Self { address, is_tls, stop, connections, accepted, thread: Some(thread) }
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        for connection in self.connections.lock().unwrap().drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

fn serve(connection: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, handler: &Handler) -> io::Result<()> {
    let raw = connection.try_clone()?;
    let wire: Box<dyn Wire> = match tls {
        None => Box::new(connection),
        Some(config) => {
            let session = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(rustls::StreamOwned::new(session, connection))
        }
    };
    let mut wire = BufReader::with_capacity(256 * 1024, wire);
    loop {
        let Some(head) = read_head(&mut wire)? else { return Ok(()) };
        let left = match (head.header("content-length"), head.header("transfer-encoding")) {
            (Some(length), _) => Left::Bytes(length.parse().map_err(io::Error::other)?),
            (None, Some(_)) => Left::Chunks,
            (None, None) => Left::Nothing,
        };
        let mut exchange = Exchange { head: &head, input: &mut wire, left };
        let reply = handler(&mut exchange);
        let unread = exchange.unread();
        let Reply::Answer(answer) = reply else {
            drop(raw.shutdown(Shutdown::Both));
            return Ok(());
        };
        let close = unread || answer.unmeasured || answer.cut.is_some() || answer.rude;
        write_answer(wire.get_mut(), &head.method, &answer, close)?;
        if close {
            if !answer.rude && unread {
                linger(&raw, &mut wire);
            }
            drop(raw.shutdown(Shutdown::Both));
            return Ok(());
        }
    }
}

/// Reads what still comes for a while, as nginx and Go do, so that the answer is not lost to a reset.
fn linger(raw: &TcpStream, wire: &mut dyn Read) {
    drop(raw.shutdown(Shutdown::Write));
    drop(raw.set_read_timeout(Some(Duration::from_millis(500))));
    let mut sink = vec![0; 64 * 1024];
    let mut left = 4 * 1024 * 1024_usize;
    while let Ok(read) = wire.read(&mut sink) {
        if read == 0 || left < read {
            return;
        }
        left -= read;
    }
}

fn read_head(wire: &mut dyn BufRead) -> io::Result<Option<Head>> {
    let mut line = Vec::new();
    wire.read_until(b'\n', &mut line)?;
    let Ok(line) = String::from_utf8(line) else {
        // TLS on a plain port. Go's server answers in clear text, others just hang up.
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if wire.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Ok(Some(Head { method, target, headers })),
        }
    }
}

fn write_answer(wire: &mut dyn Write, method: &str, answer: &Answer, close: bool) -> io::Result<()> {
    if answer.cut.is_none() {
        std::thread::sleep(answer.pause);
    }
    let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_body = answer.status != 204 && answer.status != 304;
    let own_length = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if has_body && !answer.unmeasured && !own_length {
        let length = answer.length.unwrap_or(answer.body.len() as u64);
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    wire.write_all(head.as_bytes())?;
    if method != "HEAD" && has_body {
        let end = answer.cut.unwrap_or(answer.body.len()).min(answer.body.len());
        wire.write_all(&answer.body[..end])?;
    }
    wire.flush()?;
    if answer.cut.is_some() {
        std::thread::sleep(answer.pause);
    }
    Ok(())
}
