//! Build contexts: which files they hold, which a Dockerfile means, and what is known of them.
//!
//! [`address`], [`ignore`], [`wildcard`] and [`links`] are pure: they are told names and never look at files themselves.
//! [`LocalContext`] looks, and only that: a context is never written to.

pub mod address;
mod clean;
mod digests;
mod error;
pub mod fingerprint;
pub mod ignore;
pub mod links;
mod local;
pub mod wildcard;

pub use clean::clean;
pub use digests::{Digests, Known};
pub use error::ContextError;
pub use fingerprint::{Attributes, Content, ReadError, Stamp};
pub use local::{ContextFile, Hidden, Kind, Led, Listing, LocalContext, open_in};
