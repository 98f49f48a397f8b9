//! What goes between a builder and a registry: a proxy that passes HTTP/1.1 on as it comes, counts, and can be far away.
//!
//! Invariants: bodies are streamed; what was counted is noted before it is passed on, so that nothing is missing when a builder
//! that got its last answer has ended; who begins a request after the end of another is seen to begin it later.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::Head;

/// What is read at a time.
const PIECE: usize = 1 << 17;

/// The method of what is no request: the beginning of a conversation in TLS, which the registry does not speak.
pub const TLS: &str = "(TLS)";

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub method: String,
    /// With its query.
    pub path: String,
    /// 0 if there was no answer.
    pub status: u16,
    /// When the request began to arrive, or the connection that was opened for it, since the proxy was emptied.
    pub start: Duration,
    /// When the last of the answer was passed on.
    pub end: Duration,
    /// Bytes of the request's body.
    pub up: u64,
    /// Bytes of the answer's body.
    pub down: u64,
}

/// A proxy on a free port. It ends when this is dropped.
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    registry: String,
    delay: Duration,
    ends: AtomicBool,
    connections: AtomicUsize,
    log: Mutex<Log>,
}

struct Log {
    since: Instant,
    exchanges: Vec<Arc<Mutex<Exchange>>>,
}

impl Proxy {
    /// In front of the registry at `HOST:PORT`. Each answer comes `delay` later than it would, and so does each connection.
    pub fn start(registry: &str, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let log = Mutex::new(Log { since: Instant::now(), exchanges: Vec::new() });
        let shared = Arc::new(Shared {
            registry: registry.to_owned(),
            delay,
            ends: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            log,
        });
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if of_thread.ends.load(Ordering::Relaxed) {
                    break;
                }
                of_thread.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&of_thread);
                // A builder that goes away in the middle of something is no error of the proxy's.
                thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Self { address, shared }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What went through since this was asked last, in the order of its beginning, and over how many new connections.
    pub fn take(&self) -> (Vec<Exchange>, usize) {
        let mut log = lock(&self.shared.log);
        let exchanges = std::mem::take(&mut log.exchanges);
        log.since = Instant::now();
        let mut exchanges: Vec<Exchange> = exchanges.iter().map(|one| lock(one).clone()).collect();
        exchanges.sort_by_key(|exchange| exchange.start);
        (exchanges, self.shared.connections.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // It waits for the next connection, and this is it.
        drop(TcpStream::connect(&self.address));
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let accepted = Instant::now();
        // A connection is a round trip before anything is asked on it.
        thread::sleep(self.delay);
        // Who had something to ask by then has opened the connection for it: so long it has waited.
        client.set_nonblocking(true)?;
        let mut opened_for = client.peek(&mut [0]).is_ok().then_some(accepted);
        client.set_nonblocking(false)?;
        let mut server = TcpStream::connect(&self.registry)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let mut requests = BufReader::with_capacity(PIECE, client.try_clone()?);
        let mut answers = BufReader::with_capacity(PIECE, server.try_clone()?);
        while let Some(first) = requests.fill_buf()?.first() {
            let start = opened_for.take().unwrap_or_else(Instant::now);
            if !first.is_ascii_uppercase() {
                return self.refuse_tls(&mut requests, client, server, start);
            }
            let request = Head::read(&mut requests)?;
            assert!(
                request.field("expect").is_none(),
                "a builder waits for leave to send: {}",
                request.line()
            );
            let mut words = request.line().split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (exchange, since) = self.note(method, path, start);
            server.write_all(&request.bytes)?;
            pass(&mut requests, &mut server, request.body(), |bytes| lock(&exchange).up += bytes)?;
            let answer = loop {
                let answer = Head::read(&mut answers)?;
                // What comes before the answer proper is of no use to a builder that did not wait for it.
                if !(100..200).contains(&answer.status()) {
                    break answer;
                }
            };
            thread::sleep(self.delay);
            let passed = |bytes| {
                let mut exchange = lock(&exchange);
                exchange.end = since.elapsed();
                exchange.down += bytes;
            };
            lock(&exchange).status = answer.status();
            passed(0);
            client.write_all(&answer.bytes)?;
            pass(&mut answers, &mut client, answer.body_of_answer(&request), passed)?;
            if request.closes() || answer.closes() {
                break;
            }
        }
        Ok(())
    }

    /// What a builder says that would rather speak TLS is passed on as it is, and so is what the registry has against it.
    fn refuse_tls(
        &self,
        requests: &mut BufReader<TcpStream>,
        mut client: TcpStream,
        mut server: TcpStream,
        start: Instant,
    ) -> io::Result<()> {
        let (exchange, since) = self.note(TLS.to_owned(), String::new(), start);
        server.write_all(requests.buffer())?;
        server.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        thread::sleep(self.delay);
        lock(&exchange).end = since.elapsed();
        client.write_all(&answer)
    }

    fn note(&self, method: String, path: String, start: Instant) -> (Arc<Mutex<Exchange>>, Instant) {
        let mut log = lock(&self.log);
        let start = start.saturating_duration_since(log.since);
        let exchange = Exchange { method, path, status: 0, start, end: start, up: 0, down: 0 };
        let exchange = Arc::new(Mutex::new(exchange));
        log.exchanges.push(Arc::clone(&exchange));
        (exchange, log.since)
    }
}

/// The most requests of which each begins after the one before it has ended. `exchanges` are in the order of their beginning.
pub fn one_after_another(exchanges: &[Exchange]) -> usize {
    let mut longest: Vec<usize> = Vec::with_capacity(exchanges.len());
    for exchange in exchanges {
        // An attempt at TLS takes its time as a connection does, and is none of the requests.
        if exchange.method == TLS {
            longest.push(0);
            continue;
        }
        let ended = exchanges.iter().zip(&longest).filter(|(before, _)| before.end <= exchange.start);
        let before = ended.map(|(_, length)| *length).max().unwrap_or(0);
        longest.push(before + 1);
    }
    longest.into_iter().max().unwrap_or(0)
}

/// How much comes behind a head.
enum Body {
    Bytes(u64),
    Chunks,
    /// All until the connection ends.
    Rest,
}

impl Head {
    fn status(&self) -> u16 {
        self.line().split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn framed(&self) -> Option<Body> {
        if self.field("transfer-encoding").is_some() {
            return Some(Body::Chunks);
        }
        self.field("content-length").map(|length| Body::Bytes(length.parse().expect("a length")))
    }

    fn body(&self) -> Body {
        self.framed().unwrap_or(Body::Bytes(0))
    }

    fn body_of_answer(&self, request: &Self) -> Body {
        match self.status() {
            204 | 304 => Body::Bytes(0),
            _ if request.line().starts_with("HEAD ") => Body::Bytes(0),
            _ => self.framed().unwrap_or(Body::Rest),
        }
    }
}

/// Passes a body on. `passes` is told of bytes of content before they are.
fn pass(
    from: &mut impl BufRead,
    to: &mut impl Write,
    body: Body,
    mut passes: impl FnMut(u64),
) -> io::Result<()> {
    match body {
        Body::Bytes(length) => pass_bytes(from, to, length, &mut passes),
        Body::Rest => loop {
            let piece = from.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            let length = piece.len() as u64;
            pass_bytes(from, to, length, &mut passes)?;
        },
        Body::Chunks => loop {
            let length = pass_line(from, to)?;
            let length = length.split(';').next().unwrap_or_default().trim();
            let length = u64::from_str_radix(length, 16).map_err(|_| ErrorKind::InvalidData)?;
            if length == 0 {
                // Trailers, and the empty line behind them.
                while !pass_line(from, to)?.trim().is_empty() {}
                return Ok(());
            }
            pass_bytes(from, to, length, &mut passes)?;
            pass_line(from, to)?;
        },
    }
}

fn pass_bytes(
    from: &mut impl BufRead,
    to: &mut impl Write,
    length: u64,
    passes: &mut impl FnMut(u64),
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let piece = from.fill_buf()?;
        let size = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if size == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        passes(size as u64);
        to.write_all(&piece[..size])?;
        from.consume(size);
        left -= size as u64;
    }
    Ok(())
}

fn pass_line(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<String> {
    let mut line = Vec::new();
    if from.by_ref().take(PIECE as u64).read_until(b'\n', &mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    to.write_all(&line)?;
    String::from_utf8(line).map_err(|_| ErrorKind::InvalidData.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
