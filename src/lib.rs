//! `cofferdam` builds container images from Dockerfiles inside any Kubernetes pod and pushes them while it builds. One
//! static binary: no daemon, no Docker-in-Docker, no privileges to ask for.
//!
//! The rooms, from the top down; a room imports only from rooms below it (see `docs/architecture.md`).

pub mod build;
pub mod cache;
pub mod cli;
pub mod context;
pub mod deploy;
pub mod dockerfile;
pub mod image;
pub mod layer;
pub mod plan;
pub mod registry;
pub mod remote;
pub mod report;
pub mod sandbox;
pub mod settings;
pub mod store;
