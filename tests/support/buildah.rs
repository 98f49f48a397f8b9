//! buildah, a peer in the benchmarks and a second opinion.

use std::path::Path;
use std::process::Command;

use super::{Fixture, Registry};

/// buildah with a storage of its own, which ends with this.
pub struct Buildah {
    fixture: Fixture,
}

impl Buildah {
    /// Takes `docker.io`'s images from `registry`. `driver` is `overlay` or `vfs`.
    pub fn new(driver: &str, registry: &Registry) -> Self {
        Self { fixture: Fixture::start("buildah", ["--driver", driver, "--mirror", registry.address()]) }
    }

    /// A program that takes buildah's arguments.
    pub fn program(&self) -> &Path {
        self.fixture.path("BUILDAH")
    }

    /// Its storage and configuration.
    pub fn directory(&self) -> &Path {
        self.fixture.path("DIR")
    }

    /// Builds `context` and pushes the image.
    ///
    /// # Errors
    /// What it printed, if it failed.
    pub fn build_and_push(&self, context: &Path, reference: &str) -> Result<String, String> {
        let run = |args: &[&str]| {
            let output = Command::new(self.program()).args(args).output().expect("buildah runs");
            let log = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            if output.status.success() { Ok(log) } else { Err(log) }
        };
        let context = context.display().to_string();
        Ok(run(&["build", "--isolation=chroot", "--layers", "-t", reference, &context])?
            + &run(&["push", reference])?)
    }
}
