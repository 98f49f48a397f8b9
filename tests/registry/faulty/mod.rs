//! Servers on loopback that misbehave on request, for faults that a real registry cannot be made to show.

pub mod http;
pub mod registry;
pub mod tls;
