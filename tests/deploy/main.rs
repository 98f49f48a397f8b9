//! Deployments, in a real Kubernetes with a real node.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod apply;
mod causes;
mod differential;
mod rollouts;
