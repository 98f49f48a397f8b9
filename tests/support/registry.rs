//! A real registry with the base images in it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Fixture, Http, part};

/// How to start a registry.
#[derive(Debug, Default, Clone)]
pub struct Options {
    listen: Option<String>,
    tls: bool,
    user: Option<(String, String)>,
    empty: bool,
    token: bool,
    v3: bool,
}

impl Options {
    /// Listens on an address other than loopback; [`Cluster::registry`](super::Cluster::registry) does, for pods.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(format!("{address}:0"));
        self
    }

    /// With TLS, by an authority of its own: [`Registry::ca`].
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Only for this user.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// The user shows tokens, which a server of their own gives: for repositories below the user's name.
    pub fn token(mut self) -> Self {
        self.token = true;
        self
    }

    /// Distribution 3 in the place of Debian's 2.8.
    pub fn v3(mut self) -> Self {
        self.v3 = true;
        self
    }

    /// Without any image.
    pub fn empty(mut self) -> Self {
        self.empty = true;
        self
    }

    pub fn start(self) -> Registry {
        let mut args = vec!["--listen".to_owned(), self.listen.unwrap_or_else(|| "127.0.0.1:0".to_owned())];
        if let Some((name, password)) = &self.user {
            args.extend(["--user".to_owned(), format!("{name}:{password}")]);
        }
        args.extend(self.tls.then(|| "--tls".to_owned()));
        args.extend(self.empty.then(|| "--empty".to_owned()));
        args.extend(self.token.then(|| "--token".to_owned()));
        args.extend(self.v3.then(|| "--v3".to_owned()));
        let fixture = Fixture::start("registry", args);
        let ca = self.tls.then(|| fixture.path("CA").to_owned());
        Registry { fixture, ca, user: self.user }
    }
}

/// A request that a registry answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub status: u16,
}

/// Debian's docker-registry, or distribution 3, on a free port. It ends, and forgets everything, when this is dropped.
pub struct Registry {
    fixture: Fixture,
    ca: Option<PathBuf>,
    user: Option<(String, String)>,
}

impl Registry {
    /// On loopback, without TLS, for anyone, with every base image.
    pub fn start() -> Self {
        Options::default().start()
    }

    pub fn options() -> Options {
        Options::default()
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        self.fixture.value("ADDRESS")
    }

    /// The authority that signed its certificate, if it speaks TLS.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Who may use it, if not anyone.
    pub fn user(&self) -> Option<(&str, &str)> {
        self.user.as_ref().map(|(name, password)| (name.as_str(), password.as_str()))
    }

    /// `HOST:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// A client that may ask it.
    pub fn http(&self) -> Http {
        let http = self.ca().map_or_else(Http::new, Http::trusting);
        match &self.user {
            Some((name, password)) => http.user(name, password),
            None => http,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.ca.is_some() { "https" } else { "http" }, self.address())
    }

    /// The directory that it keeps everything in.
    pub fn storage(&self) -> PathBuf {
        self.fixture.path("STORAGE").join("docker/registry/v2")
    }

    /// The digest that a tag points to, if there is such a tag.
    pub fn digest(&self, name: &str) -> Option<String> {
        let (repository, tag) = name.rsplit_once(':').expect("a name with a tag");
        fs::read_to_string(
            self.storage()
                .join("repositories")
                .join(repository)
                .join("_manifests/tags")
                .join(tag)
                .join("current/link"),
        )
        .ok()
    }

    /// The path of a blob's file. Files are shared with every other registry: to damage one, remove it and write anew.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("a sha256 digest");
        self.storage().join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// A blob that is JSON.
    ///
    /// # Panics
    /// If there is no such blob, or it is something else.
    pub fn json(&self, digest: &str) -> Value {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("blob {digest}: {e}"));
        serde_json::from_slice(&bytes).expect("JSON")
    }

    /// The manifest of `name` (`repository:tag`); of an index, the first image's.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn manifest(&self, name: &str) -> Value {
        let digest = self.digest(name).unwrap_or_else(|| panic!("no image {name} in the registry"));
        let manifest = self.json(&digest);
        match manifest["manifests"][0]["digest"].as_str() {
            Some(image) => self.json(image),
            None => manifest,
        }
    }

    /// The configuration of `name`.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn config(&self, name: &str) -> Value {
        self.json(self.manifest(name)["config"]["digest"].as_str().expect("a config"))
    }

    /// Makes a base image available, in a registry that was started empty.
    pub fn seed(&self, name: &str) -> &Self {
        self.seed_as(name, name)
    }

    /// Makes a base image available under another name.
    pub fn seed_as(&self, base: &str, name: &str) -> &Self {
        let cached = part("bases").join("registry/docker/registry/v2");
        let (from, tag) = base.rsplit_once(':').expect("a base with a tag");
        let (to, new_tag) = name.rsplit_once(':').expect("a name with a tag");
        let from = cached.join("repositories").join(from);
        let to = self.storage().join("repositories").join(to);
        for directory in ["_layers", "_manifests/revisions"] {
            for link in walkdir::WalkDir::new(from.join(directory)).into_iter() {
                let link = link.unwrap_or_else(|e| panic!("there is no base image {base}: {e}"));
                if link.file_name() == "link" {
                    let digest = fs::read_to_string(link.path()).expect("a link");
                    let below = link.path().strip_prefix(&from).expect("below");
                    self.put(&to.join(below), digest.as_bytes());
                    let hex = digest.trim_start_matches("sha256:");
                    let source = cached.join("blobs/sha256").join(&hex[..2]).join(hex).join("data");
                    self.put_blob(&digest, |path| match fs::hard_link(&source, path) {
                        Ok(()) => Ok(()),
                        Err(_) => fs::copy(&source, path).map(drop),
                    });
                }
            }
        }
        let digest = fs::read_to_string(from.join("_manifests/tags").join(tag).join("current/link"))
            .unwrap_or_else(|e| panic!("there is no base image {base}: {e}"));
        self.put_tag(&to, new_tag, &digest);
        self
    }

    /// Adds a blob by writing its file.
    pub(super) fn put_blob(&self, digest: &str, make: impl FnOnce(&Path) -> std::io::Result<()>) {
        let path = self.blob_path(digest);
        if !path.exists() {
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            make(&path).unwrap_or_else(|e| panic!("blob {digest}: {e}"));
        }
    }

    /// Makes blobs part of a repository, and a manifest its tag.
    pub fn put_image(&self, name: &str, blobs: &[String], manifest: &[u8]) {
        let (repository, tag) = name.rsplit_once(':').expect("a name with a tag");
        let root = self.storage().join("repositories").join(repository);
        for digest in blobs {
            let hex = digest.trim_start_matches("sha256:");
            self.put(&root.join("_layers/sha256").join(hex).join("link"), digest.as_bytes());
        }
        let digest = super::image::sha256(manifest);
        self.put_blob(&digest, |path| fs::write(path, manifest));
        let hex = digest.trim_start_matches("sha256:");
        self.put(&root.join("_manifests/revisions/sha256").join(hex).join("link"), digest.as_bytes());
        self.put_tag(&root, tag, &digest);
    }

    fn put_tag(&self, repository: &Path, tag: &str, digest: &str) {
        let tag = repository.join("_manifests/tags").join(tag);
        let hex = digest.trim_start_matches("sha256:");
        self.put(&tag.join("index/sha256").join(hex).join("link"), digest.as_bytes());
        self.put(&tag.join("current/link"), digest.as_bytes());
    }

    fn put(&self, path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file in the registry's storage");
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.fixture.path("LOG")).expect("the registry's log")
    }

    /// The requests that it has answered, in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        let request = |line: &str| {
            let (_, rest) = line.split_once("] \"")?;
            let mut words = rest.split(' ');
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let status = words.nth(1)?.parse().ok()?;
            Some(Request { method, path, status })
        };
        self.log().lines().filter_map(request).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(30);
            let tail: Vec<_> = log.lines().skip(from).collect();
            eprintln!("--- the registry's last words\n{}", tail.join("\n"));
        }
    }
}
