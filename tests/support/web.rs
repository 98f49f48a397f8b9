//! A web server for tests: files with entity tags, redirects, and git repositories through git's own server program.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::sha256;

/// A file of the server.
#[derive(Debug, Clone, Default)]
struct Page {
    content: Vec<u8>,
    last_modified: Option<String>,
    redirect: Option<String>,
    headers: Vec<(String, String)>,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub status: u16,
    pub authorization: Option<String>,
    /// Bytes of the body.
    pub sent: usize,
}

#[derive(Default)]
struct Shared {
    pages: Mutex<BTreeMap<String, Page>>,
    asked: Mutex<Vec<Asked>>,
    /// The `Authorization` that repositories want.
    wanted: Mutex<Option<String>>,
    repositories: PathBuf,
    ended: AtomicBool,
}

/// Listens on loopback until it is dropped.
pub struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
    directory: tempfile::TempDir,
}

impl Web {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared { repositories: directory.path().to_owned(), ..Shared::default() });
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.ended.load(Ordering::Relaxed) {
                    break;
                }
                let server = Arc::clone(&server);
                std::thread::spawn(move || {
                    // A client that goes away is none of the server's business.
                    let _ = answer(&server, stream);
                });
            }
        });
        Self { address, shared, directory }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Serves a file. Its entity tag is its digest.
    pub fn file(&self, path: &str, content: impl Into<Vec<u8>>, last_modified: Option<&str>) {
        let last_modified = last_modified.map(str::to_owned);
        let page = Page { content: content.into(), last_modified, ..Page::default() };
        self.shared.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// Serves a file with more headers.
    pub fn file_with(&self, path: &str, content: impl Into<Vec<u8>>, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let page = Page { content: content.into(), headers, ..Page::default() };
        self.shared.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    pub fn redirect(&self, path: &str, to: &str) {
        let page = Page { redirect: Some(to.to_owned()), ..Page::default() };
        self.shared.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// Serves a repository as `/git/NAME`. Gives the directory of its files, to commit to with [`git`].
    pub fn repository(&self, name: &str) -> PathBuf {
        let tree = self.directory.path().join(format!("{name}.tree"));
        git(self.directory.path(), &["init", "-q", "-b", "main", &tree.display().to_string()]);
        std::os::unix::fs::symlink(tree.join(".git"), self.directory.path().join(name)).unwrap();
        tree
    }

    /// Repositories are only for who shows this.
    pub fn want_authorization(&self, value: &str) {
        *self.shared.wanted.lock().unwrap() = Some(value.to_owned());
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // The thread waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

/// `git ARGS` in a directory, as somebody at a fixed time. Gives what it wrote.
pub fn git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(directory)
        .envs([("GIT_AUTHOR_DATE", "1600000000 +0000"), ("GIT_COMMITTER_DATE", "1600000000 +0000")])
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn answer(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    if target.is_empty() {
        return Ok(());
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (status, head, body) = if path.starts_with("/git/") {
        repository(shared, &method, path, query, &headers, &mut reader)?
    } else {
        page(shared, path, &headers)
    };
    let body = if method == "HEAD" { Vec::new() } else { body };
    shared.asked.lock().unwrap().push(Asked {
        path: target.clone(),
        status,
        authorization: headers.get("authorization").cloned(),
        sent: body.len(),
    });
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status} x\r\nConnection: close\r\n{head}\r\n")?;
    stream.write_all(&body)
}

fn page(shared: &Shared, path: &str, headers: &BTreeMap<String, String>) -> (u16, String, Vec<u8>) {
    let pages = shared.pages.lock().unwrap();
    let Some(page) = pages.get(path) else { return (404, "Content-Length: 0\r\n".to_owned(), Vec::new()) };
    if let Some(to) = &page.redirect {
        return (302, format!("Location: {to}\r\nContent-Length: 0\r\n"), Vec::new());
    }
    let etag = format!("\"{}\"", sha256(&page.content));
    let mut head = format!("ETag: {etag}\r\n");
    if let Some(time) = &page.last_modified {
        head += &format!("Last-Modified: {time}\r\n");
    }
    for (name, value) in &page.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if headers.get("if-none-match") == Some(&etag) {
        return (304, head, Vec::new());
    }
    (200, format!("{head}Content-Length: {}\r\n", page.content.len()), page.content.clone())
}

/// Has `git http-backend` (CGI, RFC 3875) answer.
fn repository(
    shared: &Shared,
    method: &str,
    path: &str,
    query: &str,
    headers: &BTreeMap<String, String>,
    body: &mut impl Read,
) -> std::io::Result<(u16, String, Vec<u8>)> {
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    if let Some(wanted) = &*shared.wanted.lock().unwrap()
        && header("authorization") != *wanted
    {
        let head = "WWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n";
        return Ok((401, head.to_owned(), Vec::new()));
    }
    let length: u64 = header("content-length").parse().unwrap_or(0);
    let mut sent = Vec::new();
    if header("transfer-encoding") == "chunked" {
        unchunk(body, &mut sent)?;
    } else {
        body.take(length).read_to_end(&mut sent)?;
    }
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &shared.repositories)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .envs([
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ])
        .env("PATH_INFO", path.trim_start_matches("/git"))
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", sent.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // It complains of repositories that tests want not to be there.
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let writer = std::thread::spawn(move || drop(stdin.write_all(&sent)));
    let output = child.wait_with_output()?;
    drop(writer.join());
    let at = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&output.stdout[..at]).into_owned();
    let body = output.stdout.get(at + 4..).unwrap_or_default().to_vec();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
    let status = status.and_then(|line| line.get(..3)?.parse().ok()).unwrap_or(200);
    let kept: Vec<&str> = head.lines().filter(|line| !line.starts_with("Status:")).collect();
    Ok((status, format!("{}\r\nContent-Length: {}\r\n", kept.join("\r\n"), body.len()), body))
}

fn unchunk(body: &mut impl Read, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut byte = [0];
    loop {
        let mut line = Vec::new();
        while body.read(&mut byte)? == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        let size = u64::from_str_radix(&text, 16).unwrap_or(0);
        body.take(size).read_to_end(into)?;
        body.take(2).read_to_end(&mut Vec::new())?;
        if size == 0 {
            return Ok(());
        }
    }
}
