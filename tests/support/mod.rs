//! What the tests in this directory stand on: registries, BuildKit, Kubernetes, containers, unprivileged users. All of
//! it is real, made by the scripts in `fixtures/`; nothing here imitates a part.
//!
//! - A part that is missing is a panic that says which command makes it; a test never skips.
//! - Everything that is started belongs to a [`Fixture`]: it ends when that is dropped and also when the test's process
//!   dies, because a supervisor waits at the other end of a pipe. Nothing stays running or mounted.
//! - Ports and addresses are free ones, directories are temporary: tests run side by side.
//!
//! Used by `mod support;` in each test program, which need not use all of it.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, missing_debug_implementations)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod binfmt;
mod buildah;
mod buildkit;
mod cluster;
mod cofferdam;
mod container;
mod fixture;
mod front;
mod head;
mod http;
mod image;
mod layers;
mod registry;
mod scratch;
mod user;
mod web;

pub use binfmt::Binfmt;
pub use buildah::Buildah;
pub use buildkit::{Build, BuildKit, Built};
pub use cluster::{Cluster, Level, Namespace, Pod};
pub use cofferdam::Cofferdam;
pub use container::{Container, run_image};
pub use fixture::{Fixture, eventually, part, script};
pub use front::{Call, Fate, Front, Wire};
pub use head::Head;
pub use http::{Http, Response};
pub use image::{TestImage, sha256};
pub use layers::{Layer, Node, comparable_config, layer, layers, read_layer};
pub use registry::{Options as RegistryOptions, Registry, Request};
pub use scratch::Scratch;
pub use user::Unprivileged;
pub use web::{Asked, Web, git};

/// The directory of an application or another input in `testdata/`.
pub fn testdata(name: &str) -> std::path::PathBuf {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    assert!(path.exists(), "there is no testdata at {}", path.display());
    path
}
