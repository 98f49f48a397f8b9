//! The way to the API server: which one it is and who asks ([`Access`]), requests and their repetition ([`Cluster`]),
//! which kinds of objects there are ([`Kinds`]), and what the server says when it refuses ([`ApiError`]).
//!
//! The library below is `kube`, for what is its best: kubeconfigs, credentials, TLS. What is asked, how it is repeated
//! and what is said of a failure is decided here.
//!
//! # Invariants
//! 1. What may be done twice is tried again as long as a server needs to restart; what may not is sent once.
//! 2. No credential is in an error or a debug output, nor what a credential plugin has written.
//! 3. A kubeconfig is read and never written.

mod access;
mod answer;
mod client;
mod discovery;
mod watch;
mod wire;

pub use access::{Access, AccessError, AccessOptions};
pub use answer::{ApiError, Cause, Refusal, forget_managers};
pub use client::{Applied, Cluster, List, PatchKind};
pub use discovery::{Kinds, Resource};
pub use watch::{Watch, WatchEvent};
