//! Executes a plan.

mod error;
pub mod request;
pub mod transfer;

pub use error::{BuildError, ImageFault};
