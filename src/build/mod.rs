//! Executes a plan.

pub mod request;
pub mod transfer;
