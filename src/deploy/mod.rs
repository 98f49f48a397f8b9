//! What a build made, brought to life in a cluster: manifests, server-side apply, and the truth about a rollout.
//!
//! | module | owns |
//! |---|---|
//! | `object` | what an object is, which one it is, and where it was written |
//! | `error` | why a deployment failed |
//! | `manifest` | manifests: from files to objects |
//! | `render` | variables in texts, as `envsubst` replaces them |
//! | `handoff`, `images` | the images that are to be deployed, and their places in manifests |
//! | `apply` | objects in their places, server-side apply in order, taking over, conflicts |
//! | `pull_secret`, `rbac` | what a deployment needs beforehand: a login for nodes, rights |
//! | `cluster` | the way to the API server: kubeconfig, identity, requests and their repetition, discovery |
//! | `diagnose` | what is wrong with what does not come to life, and what to do about it |
//! | `status` | whether an object does what was asked of it |
//! | `rollout`, `rollback` | history, going back, restarting; going back when a deployment fails |
//! | `wait` | waiting until everything does, or until it is known why not |
//! | `review`, `smoke` | who we are and what we may do; whether an address answers |
//! | `reconcile` | having Flux or Argo CD look now, and waiting for what comes of it |
//! | `diff` | what would change, field by field |
//! | `apply_set` | what kubectl keeps as ApplySets: read, taken over, removed |
//! | `inventory`, `remove` | what a deployment consists of; removing what it no longer has, or all of it |
//!
//! # Invariants
//! 1. Objects are JSON values all the way: what this program does not know of is handed on as it was written.
//! 2. Nothing is said of an object but what the API server answered about *this* generation of it.
//! 3. No token, key or content of a Secret is in an error, an event or a debug output.

pub mod apply;
pub mod apply_set;
pub mod cluster;
pub mod diagnose;
pub mod diff;
pub mod error;
pub mod handoff;
pub mod images;
pub mod inventory;
pub mod manifest;
pub mod object;
pub mod pull_secret;
pub mod rbac;
pub mod reconcile;
pub mod remove;
pub mod render;
pub mod review;
pub mod rollback;
pub mod rollout;
pub mod smoke;
pub mod status;
pub mod wait;

pub use error::DeployError;
pub use object::{GroupKind, Gvk, Object, ObjectId, Source};
