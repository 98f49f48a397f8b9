//! What the tests in this directory share: servers on loopback that misbehave on request, the real registry of
//! Debian, and a client whose clock does not wait.
//!
//! A part that is missing on the machine fails the test that needs it, with its name.

// Each test program uses some of it.
#![allow(dead_code, unused_imports)]

pub mod client;
pub mod docker_registry;
pub mod http;
pub mod registry;
pub mod tls;
