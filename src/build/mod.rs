//! Executes a plan.

mod error;
mod pending;
pub mod request;
pub mod transfer;

pub use error::{BuildError, ImageFault};
pub use pending::{build, push_named, validate};
