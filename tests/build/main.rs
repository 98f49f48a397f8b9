//! Builds as a user runs them, on real parts: from a Dockerfile to an image that somebody else's runtime runs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod applications;
mod caches;
mod commands;
mod determinism;
mod differential;
mod emulation;
mod explanations;
mod faults;
mod kept;
mod keys;
mod kills;
mod limits;
mod memory;
mod mistakes;
mod mounts;
mod outputs;
mod platforms;
mod pod;
mod remote;
mod runs;
mod several;

use std::path::Path;

use support::{Cofferdam, Registry};

/// What a command wrote and how it ended.
#[derive(Debug)]
struct Ran {
    stdout: String,
    stderr: String,
    status: Option<i32>,
}

impl Ran {
    /// # Panics
    /// If it failed.
    fn succeeded(self) -> Self {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self
    }

    /// # Panics
    /// If it did not fail with this status, or did not say all of this.
    fn failed(&self, status: i32, says: &[&str]) {
        assert_eq!(self.status, Some(status), "{}", self.stderr);
        for text in says {
            assert!(self.stderr.contains(text), "nothing is said of {text:?}:\n{}", self.stderr);
        }
    }

    /// The digest that was printed.
    fn digest(&self) -> &str {
        self.stdout.trim_end()
    }
}

/// `cofferdam build ARGS CONTEXT`, with Docker Hub's images from `registry`.
fn build(cofferdam: &Cofferdam, registry: &Registry, context: &Path, args: &[&str]) -> Ran {
    let mut command = cofferdam.command();
    command
        .arg("build")
        .arg("--progress=plain")
        .arg(format!("--registry-mirror=docker.io=http://{}", registry.address()))
        .args(args)
        .arg(context);
    run(&mut command)
}

fn run(command: &mut assert_cmd::Command) -> Ran {
    let output = command.output().expect("cofferdam runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { stdout: text(&output.stdout), stderr: text(&output.stderr), status: output.status.code() }
}

/// A context with a Dockerfile and other files, readable by all.
fn context(dockerfile: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix("context-").tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
    for (name, content) in files.iter().copied().chain([("Dockerfile", dockerfile.trim_start())]) {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect("a file");
    }
    directory
}
