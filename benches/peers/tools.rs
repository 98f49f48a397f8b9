//! The tools that are compared, each with a state of its own, and one build by one of them.

use std::path::Path;
use std::process::Command;

use super::memory::{daemon_peak, forget_daemon_peak};
use super::support::{BuildKit, Buildah, Registry};
use super::tool::{Ran, Tool, Unprivileged, gone, timed};

/// A tool with a state that is empty at first.
pub enum Session {
    Cofferdam { user: Unprivileged, mirror: String },
    BuildKit(BuildKit),
    Buildah(Buildah),
}

impl Session {
    /// `scratch` is a directory of its own on disk.
    pub fn start(tool: Tool, registry: &Registry, scratch: &Path) -> Self {
        match tool {
            Tool::Cofferdam => Self::Cofferdam {
                user: Unprivileged::new(scratch, scratch.join("state")),
                mirror: registry.address().to_owned(),
            },
            Tool::BuildKit => Self::BuildKit(BuildKit::start(&[registry])),
            Tool::Buildah => Self::Buildah(Buildah::new("overlay", registry)),
        }
    }

    /// Builds `context` and pushes the image: all that a user waits for.
    ///
    /// # Panics
    /// If that fails; with what the tool said.
    pub fn build(&self, context: &Path, reference: &str) -> Ran {
        if let Self::Cofferdam { user, .. } = self {
            user.settle();
        }
        // What was written before is not written back at this build's expense.
        rustix::fs::sync();
        match self {
            Self::Cofferdam { user, mirror } => {
                let mut command = user.build(reference, mirror);
                command.arg(context);
                timed(&mut [command], user.program())
            }
            Self::BuildKit(daemon) => {
                forget_daemon_peak(daemon.directory());
                let mut command = daemon.buildctl();
                command
                    .args(["build", "--frontend=dockerfile.v0", "--progress=plain"])
                    .arg(format!("--local=context={}", context.display()))
                    .arg(format!("--local=dockerfile={}", context.display()))
                    .arg(format!("--output=type=image,name={reference},push=true,oci-mediatypes=true"));
                let ran = timed(&mut [command], Path::new("/"));
                Ran { peak: daemon_peak(daemon.directory()), ..ran }
            }
            Self::Buildah(buildah) => {
                let mut build = Command::new(buildah.program());
                build.args(["build", "--isolation=chroot", "--layers", "-t", reference]).arg(context);
                let mut push = Command::new(buildah.program());
                push.args(["push", reference]);
                timed(&mut [build, push], Path::new("/usr/bin/buildah"))
            }
        }
    }

    /// Ends it, and waits until its files are gone: what is deleted in the background would be the next tool's time.
    pub fn end(self) {
        let directory = match &self {
            Self::Cofferdam { .. } => None,
            Self::BuildKit(daemon) => Some(daemon.directory().to_owned()),
            Self::Buildah(buildah) => Some(buildah.directory().to_owned()),
        };
        match self {
            Self::Cofferdam { user, .. } => user.end(),
            daemon => drop(daemon),
        }
        if let Some(directory) = directory {
            gone(&directory);
        }
    }
}
