//! The tools that are compared. Each build has a state of its own, as on a machine that has never built anything.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::memory::{Peak, daemon_peak, forget_daemon_peak};
use super::support::{Cofferdam, Fixture};

/// Who cofferdam is: nobody in particular, without any privilege.
const USER: u32 = 1000;
/// Longest that the files of a build that has ended are waited for.
const DELETION: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Cofferdam,
    BuildKit,
    Buildah,
}

impl Tool {
    pub const ALL: [Self; 3] = [Self::Cofferdam, Self::BuildKit, Self::Buildah];

    /// As an argument and in the names of repositories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cofferdam => "cofferdam",
            Self::BuildKit => "buildkit",
            Self::Buildah => "buildah",
        }
    }

    /// As people write it.
    pub fn title(self) -> &'static str {
        match self {
            Self::BuildKit => "BuildKit",
            other => other.name(),
        }
    }
}

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

/// How a build went.
#[derive(Debug, Clone)]
pub struct Ran {
    pub wall: Duration,
    /// The most memory that the largest of its processes had, in KiB; of BuildKit, daemon and client together.
    pub peak: u64,
    /// What it printed.
    pub log: String,
}

/// A tool for one build, with nothing in its state.
pub struct Session {
    state: State,
    registry: String,
    scratch: PathBuf,
}

enum State {
    Cofferdam { program: PathBuf, directory: PathBuf },
    BuildKit(Fixture),
    Buildah(Fixture),
}

impl Session {
    /// Knows the registry at `HOST:PORT`, for docker.io's images as well. `scratch` is a directory on disk, in which `name` is
    /// this session's.
    pub fn start(tool: Tool, registry: &str, scratch: &Path, name: &str) -> Self {
        let state = match tool {
            Tool::Cofferdam => {
                let directory = scratch.join(name);
                fs::create_dir(&directory).expect("a state directory");
                chown(&directory, Some(USER), Some(USER)).expect("root can give it away");
                // The user need not reach the directory that cargo builds in.
                let program = scratch.join("cofferdam");
                if !program.exists() {
                    fs::copy(Cofferdam::binary(), &program).expect("a copy of the program");
                }
                State::Cofferdam { program, directory }
            }
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
            State::Cofferdam { program, directory } => {
                timed(&mut [self.cofferdam(program, directory, &image, &cache, &job.context)], program)
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

    fn cofferdam(
        &self,
        program: &Path,
        directory: &Path,
        image: &str,
        cache: &str,
        context: &Path,
    ) -> Command {
        let mut command = Command::new("setpriv");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", directory)
            .current_dir(directory)
            .args([format!("--reuid={USER}"), format!("--regid={USER}")])
            .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"])
            .args(["--no-new-privs", "--"])
            .arg(program)
            .args(["build", "--progress=plain", "--push", "-t", image])
            .arg(format!("--cache-repo={cache}"))
            .arg(format!("--registry-mirror=docker.io=http://{}", self.registry))
            .arg("--state-dir")
            .arg(directory.join("cofferdam"))
            .arg(context);
        command
    }

    fn at_registry(&self, name: &str) -> String {
        format!("{}/{name}", self.registry)
    }

    /// Ends it, and waits until its files are gone: what is deleted in the background would be the next build's time.
    pub fn end(self) {
        match self.state {
            State::Cofferdam { directory, .. } => {
                settle(&directory);
                fs::remove_dir_all(directory).expect("the state can be removed");
            }
            State::BuildKit(fixture) | State::Buildah(fixture) => {
                let directory = fixture.path("DIR").to_owned();
                drop(fixture);
                wait(|| directory.exists(), "its files are not deleted");
            }
        }
    }
}

/// Waits for the process of cofferdam's that goes on after the end of a build and clears up.
fn settle(directory: &Path) {
    let workspaces = directory.join("cofferdam/cofferdam/workspaces");
    wait(|| fs::read_dir(&workspaces).is_ok_and(|mut all| all.next().is_some()), "it does not clear up");
}

/// Waits for the end of something, which takes long on a busy disk.
pub fn wait(busy: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while busy() {
        assert!(start.elapsed() < DELETION, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs commands one after the other. `program` is whose memory counts.
fn timed(commands: &mut [Command], program: &Path) -> Ran {
    let mut said = tempfile::tempfile().expect("a temporary file");
    let (mut wall, mut peak) = (Duration::ZERO, 0);
    for command in commands.iter_mut() {
        let (out, err) = (said.try_clone(), said.try_clone());
        command.stdin(Stdio::null());
        command.stdout(out.expect("a second handle")).stderr(err.expect("a third handle"));
        let start = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let watched = Peak::watch(child.id(), program);
        let status = child.wait().expect("it ends");
        wall += start.elapsed();
        peak = watched.end().max(peak);
        assert!(status.success(), "{command:?} failed ({status}):\n{}", read(&mut said));
    }
    Ran { wall, peak, log: read(&mut said) }
}

fn read(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("what was said");
    String::from_utf8_lossy(&bytes).into_owned()
}
