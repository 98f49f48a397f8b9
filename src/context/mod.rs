//! Build contexts: which files they hold and which a Dockerfile means.
//!
//! What is here is pure: it is told names and never looks at files itself.

mod clean;
pub use clean::clean as clean_path;
pub mod ignore;
pub mod wildcard;
