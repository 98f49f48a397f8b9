//! Builds: executes a plan.
//!
//! A build reads the Dockerfile and plans it, finds the base images, computes the keys of all steps and looks them up,
//! and only then does anything: the steps that are missing on the way to the target. Each step makes a layer, from the
//! files of its source and what is known of the layers below; a root filesystem is unpacked only for a step that must
//! run. Each layer leaves for the registry as soon as there is one.
//!
//! Invariants: nothing is named, here or on a registry, before everything it refers to is there; a build that fails
//! leaves the store as it was, but for blobs and records that are right; everything else that a build writes is in its
//! workspace, which goes with it, or right after it: nobody waits for the files of a root to be removed.

mod afresh;
mod agent;
mod assemble;
mod bring;
mod chosen;
mod contents;
mod contexts;
mod course;
mod directory;
mod error;
mod executor;
pub mod explain;
mod extract;
mod fetch;
mod files;
mod ignored;
mod images;
mod inputs;
pub mod inspect;
mod keeping;
mod keys;
mod layers;
mod layout;
mod lies;
mod lookup;
mod mounts;
mod output;
mod push;
mod recompress;
pub mod request;
mod roots;
mod run;
mod steps;
pub mod succeed;
mod told;
mod traces;
pub mod transfer;
pub mod transport;
mod users;
pub mod validate;

use std::sync::Arc;

pub use error::{BuildError, ImageFault};
pub use push::push_named;
use request::{BuildOutcome, BuildRequest, Services};

/// Builds.
///
/// # Errors
/// Why there is no image.
pub async fn build(request: BuildRequest, services: Services) -> Result<BuildOutcome, BuildError> {
    let cancellation = services.cancellation.clone();
    let work = course::build(request, Arc::new(services));
    tokio::select! {
        outcome = work => outcome,
        () = cancellation.cancelled() => Err(BuildError::Cancelled),
    }
}

/// Says of each step of a build whether it would be carried out, and why. Nothing is.
///
/// # Errors
/// Why that cannot be said.
pub async fn explain(
    request: BuildRequest,
    services: Services,
) -> Result<Vec<explain::Explained>, BuildError> {
    let cancellation = services.cancellation.clone();
    tokio::select! {
        explained = course::explain(request, Arc::new(services)) => explained,
        () = cancellation.cancelled() => Err(BuildError::Cancelled),
    }
}
