//! The tools that are compared, each with a state of its own, and one build by one of them.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::memory::{Peak, daemon_peak, forget_daemon_peak};
use super::support::{BuildKit, Buildah, Registry};

/// Who cofferdam is: nobody in particular, without any privilege, in every row.
const USER: u32 = 1000;
/// Longest that the files of a fixture that has ended are waited for.
const DELETION: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Cofferdam,
    BuildKit,
    Buildah,
}

impl Tool {
    pub const ALL: [Self; 3] = [Self::Cofferdam, Self::BuildKit, Self::Buildah];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cofferdam => "cofferdam",
            Self::BuildKit => "buildkit",
            Self::Buildah => "buildah",
        }
    }
}

/// One build.
#[derive(Debug, Clone)]
pub struct Sample {
    pub wall: Duration,
    /// The most memory that one of the tool's own processes had at any time, in KiB. What steps run is not the tool's.
    pub peak: u64,
    /// What it printed.
    pub log: String,
}

/// A tool with a state that is empty at first.
pub enum Session {
    Cofferdam { program: PathBuf, state: PathBuf, mirror: String },
    BuildKit(BuildKit),
    Buildah(Buildah),
}

impl Session {
    /// `scratch` is a directory of its own on disk.
    pub fn start(tool: Tool, registry: &Registry, scratch: &Path) -> Self {
        match tool {
            Tool::Cofferdam => {
                let state = scratch.join("state");
                fs::create_dir(&state).expect("a state directory");
                chown(&state, Some(USER), Some(USER)).expect("root can give it away");
                // The user need not reach the directory that cargo builds in.
                let program = scratch.join("cofferdam");
                if !program.exists() {
                    fs::copy(env!("CARGO_BIN_EXE_cofferdam"), &program).expect("a copy of the program");
                }
                Self::Cofferdam { program, state, mirror: registry.address().to_owned() }
            }
            Tool::BuildKit => Self::BuildKit(BuildKit::start(&[registry])),
            Tool::Buildah => Self::Buildah(Buildah::new("overlay", registry)),
        }
    }

    /// Builds `context` and pushes the image: all that a user waits for.
    ///
    /// # Panics
    /// If that fails; with what the tool said.
    pub fn build(&self, context: &Path, reference: &str) -> Sample {
        self.settle();
        // What was written before is not written back at this build's expense.
        rustix::fs::sync();
        match self {
            Self::Cofferdam { program, state, mirror } => {
                let mut command = Command::new("setpriv");
                command
                    .env_clear()
                    .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                    .env("HOME", state)
                    .current_dir(state)
                    .args([format!("--reuid={USER}"), format!("--regid={USER}")])
                    .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"])
                    .args(["--no-new-privs", "--"])
                    .arg(program)
                    .args(["build", "--progress=plain", "--push", "-t", reference])
                    .arg(format!("--registry-mirror=docker.io=http://{mirror}"))
                    .arg("--state-dir")
                    .arg(state.join("cofferdam"))
                    .arg(context);
                timed(&mut [command], program)
            }
            Self::BuildKit(daemon) => {
                forget_daemon_peak(daemon.directory());
                let mut command = daemon.buildctl();
                command
                    .args(["build", "--frontend=dockerfile.v0", "--progress=plain"])
                    .arg(format!("--local=context={}", context.display()))
                    .arg(format!("--local=dockerfile={}", context.display()))
                    .arg(format!("--output=type=image,name={reference},push=true,oci-mediatypes=true"));
                let sample = timed(&mut [command], Path::new("/"));
                Sample { peak: daemon_peak(daemon.directory()), ..sample }
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

    /// Waits for the process that goes on after the end of a build of cofferdam's: it brings unpacked roots back to where the
    /// next build begins, and removes what is not kept.
    fn settle(&self) {
        let Self::Cofferdam { state, .. } = self else { return };
        let start = Instant::now();
        let busy = || {
            let workspaces = fs::read_dir(state.join("cofferdam/cofferdam/workspaces"));
            workspaces.is_ok_and(|mut all| all.next().is_some())
        };
        while busy() && start.elapsed() < DELETION {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it, and waits until its files are gone: what is deleted in the background would be the next tool's time.
    pub fn end(self) {
        self.settle();
        let directory = match &self {
            Self::Cofferdam { state, .. } => state.clone(),
            Self::BuildKit(daemon) => daemon.directory().to_owned(),
            Self::Buildah(buildah) => buildah.directory().to_owned(),
        };
        match self {
            Self::Cofferdam { state, .. } => fs::remove_dir_all(state).expect("the state can be removed"),
            daemon => drop(daemon),
        }
        gone(&directory);
    }
}

/// Waits until the directory of a fixture that has ended is gone.
pub fn gone(directory: &Path) {
    let start = Instant::now();
    while directory.exists() {
        assert!(start.elapsed() < DELETION, "{} is not deleted", directory.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs commands one after the other. `program` is whose memory counts.
fn timed(commands: &mut [Command], program: &Path) -> Sample {
    let mut said = tempfile::tempfile().expect("a temporary file");
    let mut peak = 0;
    let start = Instant::now();
    for command in commands.iter_mut() {
        let (out, err) = (said.try_clone(), said.try_clone());
        command.stdin(std::process::Stdio::null());
        command.stdout(out.expect("a second handle")).stderr(err.expect("a third handle"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let watched = Peak::watch(child.id(), program);
        let status = child.wait().expect("it ends");
        peak = watched.end().max(peak);
        assert!(status.success(), "{command:?} failed ({status}):\n{}", read(&mut said));
    }
    Sample { wall: start.elapsed(), peak, log: read(&mut said) }
}

fn read(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("what was said");
    String::from_utf8_lossy(&bytes).into_owned()
}
