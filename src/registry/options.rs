//! Plain options of a [`Client`](super::Client): what the settings of the program are resolved to.
//!
//! Whatever loosens security is a property of one host. There is no switch for all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::credential::normal_key;
use super::environment::Environment;
use super::retry::RetryPolicy;
use super::secret::Secret;

/// Where system certificates lie when no variable says so, by distribution: Debian, Alpine and Arch; Fedora and
/// RHEL; openSUSE; RHEL's newer place; OpenSSL's own.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Options of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Mirrors to pull from. Pushes go to the registry itself.
    pub mirrors: Vec<MirrorRule>,
    /// What is special about single hosts, by `host` or `host:port`.
    pub hosts: BTreeMap<String, HostOptions>,
    /// More root certificates for all hosts, PEM.
    pub extra_roots: Vec<Vec<u8>>,
    /// Where the system's root certificates are.
    pub trust: TrustStore,
    /// Proxies.
    pub proxies: Proxies,
    /// What the client calls itself.
    pub user_agent: String,
    /// How often and how patiently a registry is asked again.
    pub retry: RetryPolicy,
    /// The same for a mirror, which has others behind it.
    pub mirror_retry: RetryPolicy,
    /// Limits on waiting.
    pub timeouts: Timeouts,
}

impl Default for ClientOptions {
    /// No mirrors, no special hosts, no proxies, the certificates at the system's usual places.
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            hosts: BTreeMap::new(),
            extra_roots: Vec::new(),
            trust: TrustStore::default(),
            proxies: Proxies::default(),
            user_agent: concat!("cofferdam/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: RetryPolicy::default(),
            mirror_retry: RetryPolicy { attempts: 2, ..RetryPolicy::default() },
            timeouts: Timeouts::default(),
        }
    }
}

impl ClientOptions {
    /// The default with what the environment says on proxies and certificates.
    pub fn from_environment(environment: &Environment) -> Self {
        Self {
            trust: TrustStore::from_environment(environment),
            proxies: Proxies::from_environment(environment),
            ..Self::default()
        }
    }

    /// What is special about `host` (`host` or `host:port`, under any of its spellings).
    pub(crate) fn host(&self, host: &str) -> Option<&HostOptions> {
        let wanted = normal_key(host);
        self.hosts.iter().find(|(key, _)| normal_key(key) == wanted).map(|(_, options)| options)
    }
}

/// What is special about one host.
#[derive(Debug, Clone, Default)]
pub struct HostOptions {
    /// The host may be spoken to without TLS. HTTPS is tried first.
    pub plain_http: bool,
    /// The host is to be spoken to without TLS: its address was written with `http://`.
    pub only_plain_http: bool,
    /// The host's certificate is not checked.
    pub untrusted_certificate: bool,
    /// Root certificates for this host, PEM, beside the system's.
    pub extra_roots: Vec<Vec<u8>>,
    /// A certificate to show to the host.
    pub identity: Option<Identity>,
    /// How blobs are uploaded, where what is known of the host is wrong.
    pub upload: Option<UploadStyle>,
}

/// A client's certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate and those between it and the root, PEM.
    pub certificates: Vec<u8>,
    /// The private key, PEM.
    pub key: Secret,
}

/// How the bytes of a blob reach a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadStyle {
    /// One PATCH with everything, then PUT: what all but a few registries take, and most want.
    Streamed,
    /// Everything in the PUT.
    Monolithic,
    /// PATCHes of so many bytes each, then PUT.
    Chunked(u64),
}

/// Mirrors of a registry, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorRule {
    /// What is mirrored: `docker.io`, or `docker.io/library`. The longest that fits counts.
    pub prefix: String,
    /// What stands in the prefix's place, in the order of trial: `mirror.example`, `mirror.example/hub`, or
    /// with `http://` before it if the mirror is spoken to without TLS.
    pub mirrors: Vec<String>,
    /// Whether the registry itself is asked when no mirror has what is wanted.
    pub fall_back: bool,
}

/// Limits on waiting. None limits how long a transfer takes that moves.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// Between two pieces of a body, in either direction.
    pub idle: Duration,
    /// From the end of a request to the head of its answer.
    pub answer: Duration,
    /// The same for requests that hold a blob's bytes or commit them: megabytes may still be in the socket's
    /// buffer of a slow line, and registries on object storage copy or hash the whole blob at the commit.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(60),
            commit: Duration::from_secs(15 * 60),
        }
    }
}

/// Where the system's root certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustStore {
    /// Bundles, PEM.
    pub files: Vec<PathBuf>,
    /// Directories of certificates, PEM.
    pub directories: Vec<PathBuf>,
    /// Whether the user named these: then what cannot be read is an error. Else the first file that is there
    /// counts, and where there is none the roots that the program carries.
    pub named: bool,
}

impl Default for TrustStore {
    fn default() -> Self {
        Self {
            files: SYSTEM_BUNDLES.iter().map(PathBuf::from).collect(),
            directories: Vec::new(),
            named: false,
        }
    }
}

impl TrustStore {
    /// Nothing of the machine's: the roots that the program carries.
    pub fn carried() -> Self {
        Self { files: Vec::new(), directories: Vec::new(), named: false }
    }

    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` (several directories parted by colons), as OpenSSL and Go read them.
    pub fn from_environment(environment: &Environment) -> Self {
        let files: Vec<PathBuf> = environment.path("SSL_CERT_FILE").into_iter().collect();
        let directories: Vec<PathBuf> =
            environment.path("SSL_CERT_DIR").iter().flat_map(std::env::split_paths).collect();
        if files.is_empty() && directories.is_empty() {
            Self::default()
        } else {
            Self { files, directories, named: true }
        }
    }
}

/// Proxies, as addresses that may hold a user and a password.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For `http:` addresses.
    pub http: Option<Secret>,
    /// For `https:` addresses.
    pub https: Option<Secret>,
    /// Hosts, domains and networks that are spoken to directly, parted by commas. Loopback always is.
    pub none_for: String,
}

impl Proxies {
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, or the same in lower case.
    pub fn from_environment(environment: &Environment) -> Self {
        let get = |name: &str| {
            environment.get(name).or_else(|| environment.get(&name.to_ascii_lowercase())).map(str::to_owned)
        };
        let all = get("ALL_PROXY");
        Self {
            http: get("HTTP_PROXY").or_else(|| all.clone()).map(Secret::new),
            https: get("HTTPS_PROXY").or(all).map(Secret::new),
            none_for: get("NO_PROXY").unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http)
            .field("https", &self.https)
            .field("none_for", &self.none_for)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_proxies_and_certificates() {
        let environment = Environment::new([
            ("https_proxy", "http://u:p@proxy:3128"),
            ("ALL_PROXY", "http://all:1"),
            ("NO_PROXY", ".cluster.local,10.0.0.0/8"),
            ("SSL_CERT_DIR", "/a:/b"),
        ]);
        let options = ClientOptions::from_environment(&environment);
        assert_eq!(options.proxies.https.as_ref().unwrap().expose(), "http://u:p@proxy:3128");
        assert_eq!(options.proxies.http.as_ref().unwrap().expose(), "http://all:1");
        assert_eq!(options.trust.directories, ["/a", "/b"].map(PathBuf::from));
        assert!(options.trust.named && options.trust.files.is_empty());
        assert!(!format!("{options:?}").contains("u:p@"), "a proxy's password is a secret");
        assert!(!ClientOptions::from_environment(&Environment::default()).trust.named);
    }

    #[test]
    fn a_host_is_found_under_any_spelling() {
        let insecure = HostOptions { plain_http: true, ..HostOptions::default() };
        let hosts = BTreeMap::from([("https://index.docker.io".to_owned(), insecure)]);
        let options = ClientOptions { hosts, ..ClientOptions::default() };
        assert!(options.host("registry-1.docker.io").is_some());
        assert!(options.host("ghcr.io").is_none());
    }
}
