//! A step that is run for trial: probes of single calls say little about all of them together.
//!
//! The step is this very program, static and thus in need of nothing but itself, in a root that holds nothing else. It
//! is asked for its version. When that comes out, filter, trap, loader, Landlock and supervisor work here.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use serde::Serialize;

use crate::cli::error::{CliError, causes};
use crate::cli::session::launcher;
use crate::sandbox::sys::FileIdentity;
use crate::sandbox::{Exit, Root, Sandbox, SandboxError, Step};
use crate::store::{Store, StoreError};

/// What the program is called in its root.
const PROGRAM: &str = "cofferdam";
/// What it is to say.
const EXPECTED: &str = concat!("cofferdam ", env!("CARGO_PKG_VERSION"), "\n");

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Trial {
    /// Whether a step was run and did what it was to do.
    pub good: bool,
    /// In a sentence.
    pub outcome: String,
}

#[derive(Debug, thiserror::Error)]
enum TrialError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("cannot {0}")]
    File(&'static str, #[source] io::Error),
}

impl Trial {
    /// It could not even be tried.
    pub fn not_possible(why: &str) -> Self {
        Self { good: false, outcome: why.to_owned() }
    }

    /// Runs a step in a workspace of the store.
    pub fn run(store: Result<Store, CliError>) -> Self {
        let tried = match store {
            Ok(store) => attempt(&store).map_err(|error| in_words(&error)),
            Err(error) => Err(in_words(&error)),
        };
        match tried {
            Ok(outcome) => outcome,
            Err(outcome) => Self { good: false, outcome },
        }
    }

    /// Why steps cannot be run, if they cannot.
    pub fn failure(&self) -> Option<String> {
        (!self.good).then(|| self.outcome.clone())
    }
}

fn attempt(store: &Store) -> Result<Trial, TrialError> {
    let workspace = store.workspace()?;
    let trial = {
        let sandbox = Sandbox::prepare(launcher())?;
        let root = sandbox.create_root(&workspace.path().join("trial"))?;
        bring_program(&root)
            .map_err(|error| TrialError::File("put a program into a root filesystem", error))?;
        let step = Step {
            arguments: vec![format!("/{PROGRAM}").into(), "version".into()],
            environment: Vec::new(),
            directory: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            resolv_conf: Vec::new(),
            hosts: Vec::new(),
            files: Vec::new(),
            mounts: Vec::new(),
            network: true,
            architectures: Vec::new(),
        };
        let running = sandbox.start(&root, &step)?;
        let read = |file: &File| -> io::Result<String> {
            let mut text = Vec::new();
            file.take(64 * 1024).read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let said =
            read(&running.stdout).map_err(|error| TrialError::File("read what the step wrote", error))?;
        let complained =
            read(&running.stderr).map_err(|error| TrialError::File("read what the step wrote", error))?;
        judge(running.wait()?, &said, &complained)
    };
    workspace.close()?;
    Ok(trial)
}

fn judge(exit: Exit, said: &str, complained: &str) -> Trial {
    match exit {
        Exit::Status(0) if said == EXPECTED => {
            Trial { good: true, outcome: "a step was run, and did what it was to do".to_owned() }
        }
        Exit::Status(status) => Trial {
            good: false,
            outcome: format!(
                "a step ended with status {status}; it wrote `{}`",
                format!("{said}{complained}").trim()
            ),
        },
        Exit::Signal(signal) => {
            let name = crate::report::signal_name(signal).unwrap_or("no name");
            Trial { good: false, outcome: format!("a step was killed by signal {signal} ({name})") }
        }
    }
}

fn bring_program(root: &Root) -> io::Result<()> {
    let mut from = File::open(launcher())?;
    let owner = root.owner();
    let _identity = FileIdentity::assume(owner.uid, owner.gid)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to: OwnedFd = openat(root.directory(), PROGRAM, flags, Mode::from_raw_mode(0o755))?;
    let mut to = File::from(to);
    io::copy(&mut from, &mut to)?;
    Ok(())
}

/// The error with its causes, in one line.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let message = error.to_string();
    let causes = causes(error, &message);
    [vec![message], causes].concat().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_is_good() {
        assert!(judge(Exit::Status(0), EXPECTED, "").good);
        assert!(!judge(Exit::Status(0), "", "").good);
        let failed = judge(Exit::Status(127), "", "not found\n");
        assert_eq!(failed.failure().unwrap(), "a step ended with status 127; it wrote `not found`");
        let killed = judge(Exit::Signal(31), "", "");
        assert_eq!(killed.failure().unwrap(), "a step was killed by signal 31 (SIGSYS)");
    }
}
