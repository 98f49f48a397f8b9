//! The real thing: Debian's `docker-registry` (distribution 2.8), on a free port with a directory of its own.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The user that the registry knows if it wants one.
pub const USER: &str = "user";
/// Their password.
pub const PASSWORD: &str = "open sesame";
/// bcrypt of it, with the lowest cost: every request pays for it.
const HTPASSWD: &str = "user:$2b$04$mTjM.hRmdOupcif6oH.bKujDdSVIi/SERO656RyTFsb30YUQRCW8C\n";

/// A registry that runs until it is dropped.
pub struct DockerRegistry {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl DockerRegistry {
    /// An open one.
    pub fn start() -> Self {
        Self::with(false)
    }

    /// One that wants [`USER`] and [`PASSWORD`].
    pub fn with_password() -> Self {
        Self::with(true)
    }

    fn with(password: bool) -> Self {
        let directory = TempDir::new().unwrap();
        // The port may be taken between its choice and its use: then another is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(child) = launch(&directory, port, password) {
                return Self { child, port, directory };
            }
        }
        panic!("docker-registry does not start: {}", log(&directory));
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its blobs lie.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// The registry's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn launch(directory: &TempDir, port: u16, password: bool) -> Option<Child> {
    let path = directory.path();
    let auth = if password {
        std::fs::write(path.join("htpasswd"), HTPASSWD).unwrap();
        format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.join("htpasswd").display())
    } else {
        String::new()
    };
    let config = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
         rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
        path.join("data").display()
    );
    let file = path.join("config.yml");
    std::fs::File::create(&file).unwrap().write_all(config.as_bytes()).unwrap();
    let output = std::fs::File::create(path.join("log")).unwrap();
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(&file)
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("this test needs `docker-registry` (the Debian package of that name): {error}")
        });
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(child.kill());
    drop(child.wait());
    None
}

fn log(directory: &TempDir) -> String {
    std::fs::read_to_string(directory.path().join("log")).unwrap_or_default()
}
