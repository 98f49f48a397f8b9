//! What is neither on this machine nor on a registry: files on the web, and git repositories.
//!
//! A file becomes a blob of the store, and is asked for again only by its entity tag. A repository is checked out by the
//! `git` of the machine, which knows credentials, proxies and submodules as its user does; its files lose what depends on
//! when and by whom they were checked out.

mod error;
mod file;
mod git;

pub use error::RemoteError;
pub use file::{RemoteFile, fetch};
pub use git::{Checkout, GitAccess, check_out};
