//! Deployments, in a real Kubernetes with a real node.

#[path = "../support/mod.rs"]
mod support;

mod causes;
mod differential;
mod rollouts;
