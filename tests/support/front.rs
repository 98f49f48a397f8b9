//! What lies between a client and an API server: [`Front`], which understands HTTP and answers in the server's place if it is
//! told to, as an agent's tunnel or a load balancer does, and [`Wire`], which knows of connections only. Behind both is the
//! real server.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Cluster, Head};

/// How often it is looked whether a client is still there that waits for changes.
const LOOK: Duration = Duration::from_millis(50);
/// What a watch says that is begun too late.
const EXPIRED: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (2)","reason":"Expired","code":410}}"#;
/// Longest that a server may take.
const ANSWER: Duration = Duration::from_secs(90);

/// A request, before it is decided what becomes of it.
#[derive(Debug, Clone)]
pub struct Call {
    /// From 0, in the order of arrival.
    pub number: u64,
    pub method: String,
    /// With its query.
    pub path: String,
    /// When it came, since the front was begun.
    pub at: Duration,
}

impl Call {
    pub fn is_watch(&self) -> bool {
        self.path.contains("watch=1") || self.path.contains("watch=true")
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is passed on, and so is its answer.
    Passed,
    /// The server never hears of it.
    Refused { status: u16, retry_after: Option<u64> },
    /// The server does it, and the client is told something else.
    Disowned { status: u16 },
    /// The connection is closed before the server hears of it.
    Unheard,
    /// The server does it, and the connection is closed.
    Unanswered,
    /// The answer breaks off in its middle.
    Torn,
    /// A watch that breaks off after this time, in the middle of a line if there is one.
    Cut(Duration),
    /// A watch that is forgotten: nothing comes, and nothing ends.
    Silent,
    /// A watch from a version that is forgotten, in the server's words: that of a young cluster has forgotten nothing yet.
    Stale,
}

type Judge = dyn Fn(&Call) -> Fate + Send + Sync;

/// A way to the API server that speaks HTTP without TLS. It ends when this is dropped.
pub struct Front {
    shared: Arc<Shared>,
    directory: tempfile::TempDir,
    port: u16,
}

struct Shared {
    server: String,
    /// With the administrator's certificate.
    admin: Arc<ClientConfig>,
    /// For those who bring a token.
    nobody: Arc<ClientConfig>,
    judge: Box<Judge>,
    delay: Duration,
    began: Instant,
    next: AtomicU64,
    ends: AtomicBool,
    log: Mutex<Vec<(Call, Fate)>>,
}

impl Front {
    /// In front of a cluster's API server: the administrator for who brings no token. Each answer comes `delay` later.
    pub fn start(
        cluster: &Cluster,
        delay: Duration,
        judge: impl Fn(&Call) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (admin, nobody) = configurations(&cluster.directory().join("pki"));
        let shared = Arc::new(Shared {
            server: cluster.node_ip().to_string(),
            admin,
            nobody,
            judge: Box::new(judge),
            delay,
            began: Instant::now(),
            next: AtomicU64::new(0),
            ends: AtomicBool::new(false),
            log: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if of_thread.ends.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&of_thread);
                // Who goes away in the middle of something, client or server, is what this is for.
                thread::spawn(move || drop(shared.serve(&client)));
            }
        });
        let directory = tempfile::tempdir().expect("a directory");
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: a, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
             users: [{{name: a, user: {{}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
        );
        std::fs::write(directory.path().join("config"), config).expect("a file");
        Self { shared, directory, port }
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// What was asked until now, and what became of it.
    pub fn asked(&self) -> Vec<(Call, Fate)> {
        lock(&self.shared.log).clone()
    }

    /// How many requests did not go through as they are.
    pub fn faults(&self) -> usize {
        lock(&self.shared.log).iter().filter(|(_, fate)| *fate != Fate::Passed).count()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        // It waits for the next connection, and this is it.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

type Secured = BufReader<StreamOwned<ClientConnection, TcpStream>>;

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut requests = BufReader::new(client.try_clone()?);
        let mut server: Option<Secured> = None;
        while !requests.fill_buf()?.is_empty() {
            let head = Head::read(&mut requests)?;
            let body = head.raw_body(&mut requests)?;
            let asked = self.note(&head);
            let fate = (self.judge)(&asked);
            lock(&self.log).push((asked.clone(), fate.clone()));
            thread::sleep(self.delay);
            match fate {
                Fate::Refused { status, retry_after } => {
                    write_answer(client, status, retry_after)?;
                    continue;
                }
                Fate::Unheard => return client.shutdown(Shutdown::Both),
                Fate::Silent => return self.silence(client),
                Fate::Stale => {
                    begin_watch(client)?;
                    let line = format!("{EXPIRED}\n");
                    (&mut &*client)
                        .write_all(format!("{:x}\r\n{line}\r\n0\r\n\r\n", line.len()).as_bytes())?;
                    continue;
                }
                _ => {}
            }
            let server = match &mut server {
                Some(server) => server,
                none => none.insert(self.connect(&head)?),
            };
            server.get_mut().write_all(&head.bytes)?;
            server.get_mut().write_all(&body)?;
            server.get_mut().flush()?;
            if asked.is_watch() {
                let end = match fate {
                    Fate::Cut(after) => Some(Instant::now() + after),
                    _ => None,
                };
                return self.stream(server, client, end);
            }
            let answer = Head::read(server)?;
            let mut whole = answer.bytes.clone();
            whole.extend(answer.raw_body(server)?);
            match fate {
                Fate::Disowned { status } => write_answer(client, status, None)?,
                Fate::Unanswered => return client.shutdown(Shutdown::Both),
                Fate::Torn => {
                    let half = answer.bytes.len() + (whole.len() - answer.bytes.len()) / 2;
                    (&mut &*client).write_all(&whole[..half])?;
                    return client.shutdown(Shutdown::Both);
                }
                _ => (&mut &*client).write_all(&whole)?,
            }
        }
        Ok(())
    }

    fn note(&self, head: &Head) -> Call {
        let mut words = head.line().split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Call { number, method, path, at: self.began.elapsed() }
    }

    fn connect(&self, head: &Head) -> io::Result<Secured> {
        let config = if head.field("authorization").is_some() { &self.nobody } else { &self.admin };
        let name = ServerName::try_from(self.server.clone()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let stream = TcpStream::connect((self.server.as_str(), 6443))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(BufReader::new(StreamOwned::new(connection, stream)))
    }

    /// Passes on what comes, as it comes, until either side has gone, or the end.
    fn stream(&self, server: &mut Secured, client: &TcpStream, end: Option<Instant>) -> io::Result<()> {
        server.get_mut().sock.set_read_timeout(Some(LOOK))?;
        let mut last = Vec::new();
        loop {
            if end.is_some_and(|end| Instant::now() >= end)
                || self.ends.load(Ordering::Relaxed)
                || is_gone(client)
            {
                return client.shutdown(Shutdown::Both);
            }
            let piece = match server.fill_buf() {
                Ok(piece) => piece.to_vec(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) => return Err(error),
            };
            server.consume(piece.len());
            thread::sleep(self.delay);
            // What comes at the moment of the cut comes by half.
            let cut = end.is_some_and(|end| Instant::now() >= end);
            let piece = if cut { &piece[..piece.len() / 2] } else { &piece };
            (&mut &*client).write_all(piece)?;
            last.extend_from_slice(piece);
            last.drain(..last.len().saturating_sub(5));
            if piece.is_empty() || last == b"0\r\n\r\n" {
                return client.shutdown(Shutdown::Both);
            }
        }
    }

    fn silence(&self, client: &TcpStream) -> io::Result<()> {
        begin_watch(client)?;
        while !is_gone(client) && !self.ends.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

fn configurations(pki: &Path) -> (Arc<ClientConfig>, Arc<ClientConfig>) {
    let certificates = |name: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(pki.join(name)).expect("certificates").map(Result::unwrap).collect()
    };
    let begin = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("ca.crt"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        builder.expect("TLS").with_root_certificates(roots)
    };
    let key = PrivateKeyDer::from_pem_file(pki.join("admin.key")).expect("a key");
    let admin = begin().with_client_auth_cert(certificates("admin.crt"), key).expect("an identity");
    (Arc::new(admin), Arc::new(begin().with_no_client_auth()))
}

/// Whether a client has closed its end.
fn is_gone(client: &TcpStream) -> bool {
    let _ = client.set_nonblocking(true);
    let peeked = client.peek(&mut [0]);
    let _ = client.set_nonblocking(false);
    match peeked {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// As a proxy answers that knows nothing of Kubernetes.
fn write_answer(mut client: &TcpStream, status: u16, retry_after: Option<u64>) -> io::Result<()> {
    let retry = retry_after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
    let body = "<html>not now</html>";
    let head =
        format!("HTTP/1.1 {status} Not Now\r\nContent-Type: text/html\r\nContent-Length: {}\r\n", body.len());
    client.write_all(format!("{head}{retry}\r\n{body}").as_bytes())
}

/// The beginning of a watch, of which nothing has come yet.
fn begin_watch(mut client: &TcpStream) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes())
}

impl Head {
    /// The body in the form in which it came.
    fn raw_body(&self, from: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if self.field("transfer-encoding").is_none() {
            let length = self.field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            body.resize(length, 0);
            from.read_exact(&mut body)?;
            return Ok(body);
        }
        loop {
            let line = body.len();
            from.read_until(b'\n', &mut body)?;
            let text = String::from_utf8_lossy(&body[line..]).trim().to_owned();
            let length = usize::from_str_radix(&text, 16).map_err(|_| ErrorKind::InvalidData)?;
            let begin = body.len();
            body.resize(begin + length + 2, 0);
            from.read_exact(&mut body[begin..])?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

/// A way to the API server that knows nothing of what goes over it. It ends when this is dropped.
pub struct Wire {
    shared: Arc<Line>,
    directory: tempfile::TempDir,
    port: u16,
}

struct Line {
    server: String,
    delay: Duration,
    is_down: AtomicBool,
    ends: AtomicBool,
    opened: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// To a cluster's API server. What is sent arrives `delay` later, on the way there.
    pub fn start(cluster: &Cluster, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Line {
            server: format!("{}:6443", cluster.node_ip()),
            delay,
            is_down: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            opened: AtomicU64::new(0),
            streams: Mutex::default(),
        });
        let line = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if line.ends.load(Ordering::Relaxed) {
                    break;
                }
                line.opened.fetch_add(1, Ordering::Relaxed);
                if !line.is_down.load(Ordering::Relaxed) {
                    let line = Arc::clone(&line);
                    thread::spawn(move || drop(line.join(client)));
                }
            }
        });
        let directory = tempfile::tempdir().expect("a directory");
        let config = std::fs::read_to_string(cluster.kubeconfig()).expect("a kubeconfig");
        let config = config.replace(&shared.server, &format!("127.0.0.1:{port}"));
        std::fs::write(directory.path().join("config"), config).expect("a file");
        Self { shared, directory, port }
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// Cuts all connections; gives how many there were.
    pub fn cut(&self) -> usize {
        let streams = std::mem::take(&mut *lock(&self.shared.streams));
        streams.iter().filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count()
    }

    /// From now on connections end as soon as they have begun, or do so no longer.
    pub fn down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Connections that there were.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.cut();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Line {
    fn join(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.server)?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        lock(&self.streams).push(client.try_clone()?);
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        let back = thread::spawn(move || copy(&server, &client, Duration::ZERO));
        copy(&from, &to, self.delay);
        drop(back.join());
        Ok(())
    }
}

/// Until one end is closed; then so is the other.
fn copy(mut from: &TcpStream, mut to: &TcpStream, delay: Duration) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        thread::sleep(delay);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
