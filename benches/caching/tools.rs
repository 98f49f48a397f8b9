//! The tools that are compared. Each build has a state of its own, as on a machine that has never built anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::memory::{daemon_peak, forget_daemon_peak};
use super::support::Fixture;
use super::tool::{Ran, Tool, Unprivileged, gone, timed};

/// What is built. Names are those of repositories on the registry, without its address.
#[derive(Debug, Clone)]
pub struct Job {
    pub context: PathBuf,
    /// The image, with its tag.
    pub image: String,
    /// Where results of steps are.
    pub cache: String,
    /// Whether others put their results there at the same time.
    pub contended: bool,
}

/// A tool for one build, with nothing in its state.
pub struct Session {
    state: State,
    registry: String,
    scratch: PathBuf,
}

enum State {
    Cofferdam(Unprivileged),
    BuildKit(Fixture),
    Buildah(Fixture),
}

impl Session {
    /// Knows the registry at `HOST:PORT`, for docker.io's images as well. `scratch` is a directory on disk, in which its own
    /// is `name`.
    pub fn start(tool: Tool, registry: &str, scratch: &Path, name: &str) -> Self {
        let state = match tool {
            Tool::Cofferdam => State::Cofferdam(Unprivileged::new(scratch, scratch.join(name))),
            Tool::BuildKit => {
                State::BuildKit(Fixture::start("buildkit", ["--registry", registry, "--mirror", registry]))
            }
            Tool::Buildah => {
                State::Buildah(Fixture::start("buildah", ["--driver", "overlay", "--mirror", registry]))
            }
        };
        Self { state, registry: registry.to_owned(), scratch: scratch.to_owned() }
    }

    /// Builds and pushes the image: all that a user waits for.
    ///
    /// # Panics
    /// If that fails; with what the tool said.
    pub fn build(&self, job: &Job) -> Ran {
        let (image, cache) = (self.at_registry(&job.image), self.at_registry(&job.cache));
        match &self.state {
            State::Cofferdam(user) => {
                let mut command = user.build(&image, &self.registry);
                command.arg(format!("--cache-repo={cache}")).arg(&job.context);
                timed(&mut [command], user.program())
            }
            State::BuildKit(daemon) => {
                forget_daemon_peak(daemon.path("DIR"));
                let client = daemon.path("BUILDCTL");
                // All write one tag. The registry fails who looks at it while another does.
                let tolerant = if job.contended { ",ignore-error=true" } else { "" };
                let mut command = Command::new(client);
                command
                    .args(["--addr", daemon.value("BUILDKIT_HOST")])
                    .args(["build", "--frontend=dockerfile.v0", "--progress=plain"])
                    .arg(format!("--local=context={}", job.context.display()))
                    .arg(format!("--local=dockerfile={}", job.context.display()))
                    .arg(format!("--import-cache=type=registry,ref={cache}:cache"))
                    .arg(format!("--export-cache=type=registry,ref={cache}:cache,mode=max{tolerant}"))
                    .arg(format!("--output=type=image,name={image},push=true,oci-mediatypes=true"));
                let ran = timed(&mut [command], client);
                Ran { peak: ran.peak + daemon_peak(daemon.path("DIR")), ..ran }
            }
            State::Buildah(storage) => {
                let program = storage.path("BUILDAH");
                let mut build = Command::new(program);
                build
                    .args(["build", "--isolation=chroot", "--layers", "-t", &image])
                    .args(["--cache-from", &cache, "--cache-to", &cache])
                    .arg(&job.context);
                let mut push = Command::new(program);
                push.args(["push", &image]);
                for command in [&mut build, &mut push] {
                    // Layers pass through it, and are left there by one that is interrupted.
                    command.env("TMPDIR", &self.scratch);
                }
                timed(&mut [build, push], Path::new("/usr/bin/buildah"))
            }
        }
    }

    fn at_registry(&self, name: &str) -> String {
        format!("{}/{name}", self.registry)
    }

    /// Ends it, and waits until its files are gone: what is deleted in the background would be the next build's time.
    pub fn end(self) {
        match self.state {
            State::Cofferdam(user) => user.end(),
            State::BuildKit(fixture) | State::Buildah(fixture) => {
                let directory = fixture.path("DIR").to_owned();
                drop(fixture);
                gone(&directory);
            }
        }
    }
}
