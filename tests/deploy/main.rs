//! Deployments, in a real Kubernetes with a real node.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod apply;
mod applysets;
mod calculator;
mod causes;
mod differential;
mod faults;
mod lists;
mod outcomes;
mod reconcile;
mod rollouts;
