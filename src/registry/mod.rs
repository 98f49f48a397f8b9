//! Registries: transport, authorization, credentials, pull, push, mirrors, quirks.
//!
//! One [`Client`] for everything that speaks the distribution protocol. It depends on no other room but
//! `image`: blobs come in as streams into a [`BlobSink`] and go out from a [`BlobSource`] that can be opened
//! again.
//!
//! # Invariants
//!
//! 1. What comes in is verified against its digest before it is called there; what goes out is confirmed where
//!    the registry says what it stored.
//! 2. `Authorization` goes to the origin an operation addresses, and to the realm that origin announced, under
//!    the rules of `guard`. It never crosses a redirect to another host, and never leaves TLS unless the user
//!    has said so of that host.
//! 3. No secret is in an error, a log line or a `Debug` output.
//! 4. Every attempt of an upload can be replayed from its source; every download goes on from the byte it
//!    reached. Peak memory does not depend on the size of a blob.
//! 5. What is tried again, and why, is decided in `retry` alone.
//! 6. Nothing reads the process's environment: an [`Environment`] is handed in.
//!
//! # Layers, from the bottom
//!
//! | file | owns |
//! |---|---|
//! | `transport`, `http`, `tls` | one request, one answer; the seam for tests |
//! | `guard`, `challenge`, `scope`, `token`, `auth` | who is asked for what with which header |
//! | `exchange` | one request of an operation with authorization and redirects; retries |
//! | `pull`, `fetch`, `push`, `upload`, `source` | the operations |
//! | `endpoint`, `quirks`, `client` | where to ask, what is known and learnt of hosts |
//! | `web` | files that are no registry's, through the same connections |
//! | `credential` | looking credentials up and keeping them |
//! | `error`, `diagnostic`, `hint`, `secret` | what is said and what is not |

mod auth;
mod challenge;
mod client;
mod clock;
mod credential;
mod diagnostic;
mod endpoint;
mod environment;
mod error;
mod exchange;
mod fetch;
mod guard;
mod hint;
mod http;
mod options;
mod pull;
mod push;
mod quirks;
mod retry;
mod scope;
mod secret;
mod source;
mod tls;
mod token;
pub mod transport;
mod upload;
mod web;

pub use self::client::{Client, SMALL_BLOB};
pub use self::clock::{Clock, SystemClock};
pub use self::credential::{
    Credential, CredentialError, Finding, Keychain, Login, StoredAt, password_from_input,
};
pub use self::diagnostic::Diagnostic;
pub use self::environment::Environment;
pub(crate) use self::error::with_causes;
pub use self::error::{ErrorKind, RegistryError};
pub use self::fetch::{BlobSink, Resume};
pub use self::http::HttpTransport;
pub use self::options::{
    ClientOptions, HostOptions, Identity, MirrorRule, Proxies, Timeouts, TrustStore, UploadStyle,
};
pub use self::pull::{FetchedManifest, ManifestHead, ResolvedImage};
pub use self::push::{BlobOutcome, BlobUpload};
pub use self::retry::RetryPolicy;
pub use self::secret::Secret;
pub use self::source::{BlobSource, FileSource, Progress};
pub use self::tls::{install_tls_provider, system_roots, tls_config};
pub use self::web::{WebError, WebHead, WebRequest, WebSink};
