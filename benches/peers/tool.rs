//! What is the same wherever tools are compared: which they are, how cofferdam is started, what is measured of a run.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::memory::Peak;

/// Who cofferdam is: nobody in particular, without any privilege, in every row.
const USER: u32 = 1000;
/// Longest that the files of something that has ended are waited for.
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
}

/// How a build went.
#[derive(Debug, Clone)]
pub struct Ran {
    pub wall: Duration,
    /// The most memory that one of the tool's own processes had at any time, in KiB. What steps run is not the tool's.
    pub peak: u64,
    /// What it printed.
    pub log: String,
}

/// The program and the home of who builds with cofferdam.
#[derive(Debug)]
pub struct Unprivileged {
    program: PathBuf,
    home: PathBuf,
}

impl Unprivileged {
    /// A user whose home is `home`, which is new. `scratch` is a directory that anyone may read.
    pub fn new(scratch: &Path, home: PathBuf) -> Self {
        fs::create_dir(&home).expect("a state directory");
        chown(&home, Some(USER), Some(USER)).expect("root can give it away");
        // The user need not reach the directory that cargo builds in.
        let program = scratch.join("cofferdam");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_cofferdam"), &program).expect("a copy of the program");
        }
        Self { program, home }
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `cofferdam build` and push, with the images of docker.io from `mirror`; the context and more flags may follow.
    pub fn build(&self, image: &str, mirror: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .args([format!("--reuid={USER}"), format!("--regid={USER}")])
            .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"])
            .args(["--no-new-privs", "--"])
            .arg(&self.program)
            .args(["build", "--progress=plain", "--push", "-t", image])
            .arg(format!("--registry-mirror=docker.io=http://{mirror}"))
            .arg("--state-dir")
            .arg(self.home.join("cofferdam"));
        command
    }

    /// Waits for the process that goes on after the end of a build: it brings unpacked roots back to where the next build begins,
    /// and removes what is not kept.
    pub fn settle(&self) {
        let workspaces = self.home.join("cofferdam/cofferdam/workspaces");
        wait(|| fs::read_dir(&workspaces).is_ok_and(|mut all| all.next().is_some()), "it does not clear up");
    }

    /// Ends it, when its files are gone.
    pub fn end(self) {
        self.settle();
        fs::remove_dir_all(self.home).expect("the state can be removed");
    }
}

/// Waits for the end of something, which takes long on a busy disk.
pub fn wait(busy: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while busy() {
        assert!(start.elapsed() < DELETION, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the directory of something that has ended is gone: what is deleted in the background would be the next build's
/// time.
pub fn gone(directory: &Path) {
    wait(|| directory.exists(), &format!("{} is not deleted", directory.display()));
}

/// Runs commands one after the other. `program` is whose memory counts.
pub fn timed(commands: &mut [Command], program: &Path) -> Ran {
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
