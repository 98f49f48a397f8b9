//! The registry room against servers: one that misbehaves on request, and the real one of Debian.
//!
//! Tests of the first kind are named after the behaviour they stand for, with the public report of it where
//! there is one. Pauses take no time; connections and TLS are real.

// A test says what is wrong by failing where it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod faulty;

mod auth;
mod campaign;
mod copy;
mod mirrors;
mod pull;
mod push;
mod real;
mod transport;
mod upload;
