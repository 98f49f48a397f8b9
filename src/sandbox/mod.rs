//! The sandbox in which `RUN` steps are carried out: one, everywhere, and it needs nothing. No namespace, no mount,
//! no `chroot`, no tracing, no privilege; as root in a privileged pod it works just as it does as uid 1000 in a
//! restricted one, which is why the same bytes come out of both.
//!
//! How a step is run:
//! - [`Root`] is a directory whose files all belong to one real user, with a ledger of what they are to steps.
//! - [`Sandbox::start`] describes the step in memory that it shares with the guest ([`abi`]), lays stubs at the mount
//!   points, and starts a supervisor ([`supervise`]), which lays the wall ([`wall`], Landlock) and executes the guest.
//! - The guest (`guest/`, a freestanding program embedded in this one) lays the seccomp filter ([`filter`]) on itself
//!   and from then on stands in for every `execve` and every call that names a path or an identity. What those calls
//!   mean is decided by [`rules`], which know nothing of how calls are intercepted.
//!
//! Invariants: a step sees no file, descriptor or process of its surroundings but what this room gives it; no step
//! runs with privilege, also where cofferdam has some; whatever a step leaves running is killed and reaped before its
//! end is reported; the wall holds even against a step that gets past the guest.

pub mod abi;
mod emulators;
pub mod filter;
pub mod ledger;
pub mod nr;
mod probe;
mod root;
pub mod rules;
mod step;
pub mod supervise;
pub mod sys;
pub mod wall;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::fchown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use thiserror::Error;

pub use emulators::{Emulator, EmulatorSearch, Emulators, Unusable};
pub use probe::{Finding, Findings};
pub use root::{Account, Filler, MountedDirectory, Owner, Root, RootError, RootFile, RootListing, Top};
pub use step::{DEFAULT_PATH, HOSTNAME, Step, StepFile, StepMount};
pub use wall::Protection;

use root::stubs::{NoMountPoint, Stubs};
use step::StepDirectory;
use supervise::Report;
use sys::FileIdentity;

/// Why a step could not be run. That a step ran and failed is not an error but an [`Exit`].
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The machine does not give what every step needs.
    #[error("this machine cannot run a sandbox: {what}")]
    Unusable {
        /// What is missing.
        what: String,
    },
    /// A step's image is made for another machine, and there is no emulator for its programs.
    #[error("this machine cannot execute programs for {architecture}: it has no emulator for them")]
    Foreign {
        /// What images call that machine.
        architecture: String,
    },
    /// Something on the host's side failed.
    #[error("cannot {operation}")]
    Host {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The step's program could not be started: it is not there, may not be executed, or is not a program.
    #[error("cannot execute `{}`", program.display())]
    Program {
        /// The program as the step names it.
        program: OsString,
        /// Why not.
        source: io::Error,
    },
    /// A mount of the step's own has no place: what is there is no directory where one is needed, say.
    #[error("nothing can be mounted at `{}`", at.display())]
    MountPoint {
        /// The place.
        at: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The supervisor ended without a report.
    #[error("the step's supervisor was killed")]
    SupervisorLost,
}

/// Names the operation that failed.
fn host(operation: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::Host { operation, source }
}

/// Tells a mount point that cannot be one from other failures.
fn no_mount_point(error: io::Error) -> SandboxError {
    match error.downcast::<NoMountPoint>() {
        Ok(NoMountPoint { at, source }) => SandboxError::MountPoint { at, source },
        Err(error) => host("prepare the mount points of the step")(error),
    }
}

/// How steps are run on this machine.
#[derive(Debug)]
pub struct Sandbox {
    launcher: PathBuf,
    guest: OwnedFd,
    /// Where the guest's code lies.
    code: (u64, u64),
    findings: Findings,
    emulators: Emulators,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Its first process ended with this status.
    Status(i32),
    /// Its first process was ended by this signal.
    Signal(i32),
}

/// A program of another machine that a step wanted to execute, for which it had no emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignProgram {
    /// Its path as the step named it; cut where it is long.
    pub path: String,
    /// What images call the machine; `None` for one that is not known.
    pub architecture: Option<&'static str>,
}

/// A step that runs. Dropped, it is killed with everything it has started.
#[derive(Debug)]
pub struct Running<'a> {
    /// What the step writes to stdout; ends when the step has ended.
    pub stdout: File,
    /// What it writes to stderr.
    pub stderr: File,
    program: OsString,
    supervisor: Child,
    control: Arc<File>,
    root: &'a Root,
    stubs: Stubs,
}

impl Sandbox {
    /// Finds out what this machine allows. `launcher` is this very program, which is started again to supervise steps.
    ///
    /// # Errors
    /// If the machine lacks what every step needs.
    pub fn prepare(launcher: PathBuf) -> Result<Self, SandboxError> {
        let findings = Findings::gather();
        if let Some(what) = findings.obstacle() {
            return Err(SandboxError::Unusable { what });
        }
        let code = sys::guest_code_range().map_err(host("read the embedded guest"))?;
        let guest = sys::guest_file().map_err(host("put the guest into memory"))?;
        Ok(Self { launcher, guest, code, findings, emulators: Emulators::default() })
    }

    /// The same, with these emulators.
    #[must_use]
    pub fn with_emulators(self, emulators: Emulators) -> Self {
        Self { emulators, ..self }
    }

    /// The emulators of this machine.
    pub fn emulators(&self) -> &Emulators {
        &self.emulators
    }

    /// What was found out about this machine.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Makes an empty root at `place`, which must not exist; its parent must.
    ///
    /// # Errors
    /// If the place cannot be made.
    pub fn create_root(&self, place: &std::path::Path) -> Result<Root, SandboxError> {
        let owner = self.findings.owner();
        let make = || {
            std::fs::create_dir(place)?;
            std::os::unix::fs::chown(place, Some(owner.uid), Some(owner.gid))?;
            Root::create(place, owner)
        };
        make().map_err(host("make a root filesystem"))
    }

    /// Takes up a root that was kept; see [`Root::take_up`].
    ///
    /// # Errors
    /// If it is not what was kept.
    pub fn take_up_root(&self, place: &std::path::Path) -> Result<Root, SandboxError> {
        Root::take_up(place, self.findings.owner()).map_err(host("take up a root filesystem again"))
    }

    /// The first program of another machine that the last step of `root` wanted to execute and had no emulator for, if
    /// there was one.
    pub fn foreign_program(&self, root: &Root) -> Option<ForeignProgram> {
        let shared = root.memory().shared();
        let word = shared.foreign_machine.load(Ordering::Acquire);
        let words = shared.foreign_path.iter().map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        // The step could write anything there.
        let path: Vec<u8> = words.flatten().take_while(|byte| *byte != 0).collect();
        let path = String::from_utf8_lossy(&path).chars().filter(|letter| !letter.is_control()).collect();
        let architecture = emulators::architecture_of(abi::Machine::from_word(word));
        (word != 0).then_some(ForeignProgram { path, architecture })
    }

    /// Whether the last step of `root` asked for a socket of the network, and had none.
    pub fn wanted_network(&self, root: &Root) -> bool {
        root.memory().shared().network_refused.load(Ordering::Relaxed) != 0
    }

    /// Starts `step` in `root`. Steps of one root run one after the other.
    ///
    /// # Errors
    /// If something on the host's side fails; that the program cannot be executed is told by [`Running::wait`].
    pub fn start<'a>(&self, root: &'a Root, step: &Step) -> Result<Running<'a>, SandboxError> {
        let owner = root.owner();
        let (directory, stubs) = {
            let _identity = FileIdentity::assume(owner.uid, owner.gid)
                .map_err(host("act on files as the step's user"))?;
            let directory = StepDirectory::create(root, step).map_err(host("make the step's directory"))?;
            let stubs = Stubs::lay(root, directory.fd.as_fd(), &directory.mounts).map_err(no_mount_point)?;
            (directory, stubs)
        };
        let filter = filter::program(self.code, step.network);
        let emulators = self.emulators.for_step(&step.architectures);
        let block = step::describe(root, &directory, stubs.keys(), step, &emulators, &filter)
            .map_err(host("describe the step to the sandbox"))?;
        root.memory().write_block(&block).map_err(host("describe the step to the sandbox"))?;
        let shared = root.memory().shared();
        shared.start_error.store(0, Ordering::Relaxed);
        shared.foreign_machine.store(0, Ordering::Relaxed);
        shared.network_refused.store(0, Ordering::Relaxed);

        let mounted = supervise::encode(step.mounts.iter().map(StepMount::opened));
        let launch = || {
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            let (stdout, stdout_end) = sys::pipe()?;
            let (stderr, stderr_end) = sys::pipe()?;
            for pipe in [&stdout_end, &stderr_end] {
                // So that the step may open them again by `/dev/stdout`.
                fchown(pipe, Some(owner.uid), Some(owner.gid))?;
            }
            let mut command = Command::new(&self.launcher);
            command
                .arg(supervise::COMMAND)
                .args([owner.uid.to_string(), owner.gid.to_string(), mounted.clone()])
                .args(&step.arguments)
                .env_clear()
                .envs(step.environment.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::null())
                .stdout(stdout_end)
                .stderr(stderr_end);
            let mut descriptors = vec![
                (root.directory(), abi::ROOT_FD),
                (self.guest.as_fd(), abi::GUEST_FD),
                (root.memory().as_fd(), abi::SHARED_FD),
                (directory.fd.as_fd(), abi::STEP_FD),
                (theirs.as_fd(), supervise::CONTROL_FD),
            ];
            let numbered = step.mounts.iter().enumerate();
            descriptors
                .extend(numbered.map(|(number, mount)| (mount.what.as_fd(), step::own_descriptor(number))));
            descriptors.extend(emulators.iter().map(|emulator| emulator.file()).zip(abi::EMULATOR_FD..));
            sys::pass_descriptors(&mut command, &descriptors);
            Ok((command.spawn()?, File::from(ours), stdout, stderr))
        };
        let (supervisor, control, stdout, stderr) = launch().map_err(host("start the step's supervisor"))?;
        let program = step.arguments.first().cloned().unwrap_or_default();
        let control = Arc::new(control);
        Ok(Running { stdout, stderr, program, supervisor, control, root, stubs })
    }
}

/// Kills a step from another thread.
#[derive(Debug, Clone)]
pub struct Killer(Arc<File>);

impl Killer {
    /// Kills the step and all that it has started. Nothing happens if it has ended.
    pub fn kill(&self) {
        // The other direction stays: how the step ended is still reported.
        let _ = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write);
    }
}

impl Running<'_> {
    /// Somebody who can kill the step while another thread waits for it.
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.control))
    }

    /// Waits for the end of the step and of all that it started.
    ///
    /// # Errors
    /// If the program could not be executed, or the supervisor was lost.
    pub fn wait(mut self) -> Result<Exit, SandboxError> {
        let mut report = [0; Report::SIZE];
        let reported = (&*self.control).read_exact(&mut report);
        self.supervisor.wait().map_err(host("wait for the step"))?;
        self.lift_stubs().map_err(host("remove the mount points of the step"))?;
        if reported.is_err() {
            return Err(SandboxError::SupervisorLost);
        }
        let not_started = |errno: i32| {
            let source = io::Error::from_raw_os_error(errno);
            SandboxError::Program { program: self.program.clone(), source }
        };
        let start_error = self.root.memory().shared().start_error.load(Ordering::Relaxed);
        if start_error != 0 {
            return Err(not_started(start_error as i32));
        }
        match Report::decode(report) {
            Some(Report::Exited(status)) => Ok(Exit::Status(status)),
            Some(Report::Killed(signal)) => Ok(Exit::Signal(signal)),
            Some(Report::NotStarted(errno)) => {
                Err(host("start the step")(io::Error::from_raw_os_error(errno)))
            }
            None => Err(SandboxError::SupervisorLost),
        }
    }

    fn lift_stubs(&mut self) -> io::Result<()> {
        let owner = self.root.owner();
        let _identity = FileIdentity::assume(owner.uid, owner.gid)?;
        self.stubs.lift()
    }
}

impl Drop for Running<'_> {
    /// Shuts the control socket, upon which the supervisor kills what runs.
    fn drop(&mut self) {
        self.killer().kill();
        let _ = self.supervisor.wait();
        let _ = self.lift_stubs();
    }
}
