//! Executes a plan.

pub mod request;
