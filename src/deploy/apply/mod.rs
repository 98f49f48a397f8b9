//! Server-side apply: everything tried first, then done in order.
//!
//! 1. [`resolve()`] puts objects into their places.
//! 2. [`try_all`] has the server do everything but keep it (`dryRun=All`), so that a mistake in the ninth object stops
//!    the run before the first. What stands on an object of the same run (its namespace, its definition) cannot be
//!    tried.
//! 3. [`apply_all`] applies wave by wave (`order`), taking over what was applied on the client before (`migrate`).
//!
//! # Invariants
//! 1. Nothing of another manager is overwritten unless the user has said so.
//! 2. The manager's name is always the same, so that what is ours stays ours whatever the program is called.
//! 3. An object of which the dry run has failed is not applied, and neither is any other.

mod dropped;
mod failure;
mod fields;
mod migrate;
pub mod order;
mod resolve;
mod run;

pub use dropped::taken_over;
pub use failure::{Failure, FailureKind, is_forbidden_by_rbac};
pub use migrate::LAST_APPLIED;
pub use resolve::{Target, resolve};
pub use run::{Action, ApplyOptions, Done, Force, Validation, apply_all, try_all};

/// Who we are to the server, in `managedFields`.
pub const MANAGER: &str = "cofferdam";
