//! The supervisor: a process of its own between cofferdam and a step.
//!
//! It starts the step's first process, adopts whatever the step leaves behind, and when the first process ends it
//! kills and reaps the rest. It does the same when cofferdam goes away, however that happens: then its control
//! socket closes. It runs as the step's real user, so that it may always signal the step; the step may not signal it,
//! being behind the wall.
//!
//! It is this program again, started with [`COMMAND`] as its first argument; its descriptors are where
//! [`super::abi`] puts them, and [`CONTROL_FD`]. Its arguments and environment are those of the step.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::abi::{GUEST_FD, HIDDEN_FDS, ROOT_FD, STEP_FD};
use super::step::own_descriptor;
use super::sys;
use super::wall::{Opened, Wall};

/// The first argument that makes this program a supervisor. No verb of the command line begins like this.
pub const COMMAND: &str = "--cofferdam-supervise-step";
/// Where the supervisor finds its control socket.
pub const CONTROL_FD: i32 = 1005;

/// How often processes that the step has left behind are reaped while it runs.
const REAP_EVERY: Duration = Duration::from_millis(100);

/// What the supervisor reports: one of these and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// Exit status.
    Exited(i32),
    /// Signal that ended the first process.
    Killed(i32),
    /// The first process could not be started: an errno.
    NotStarted(i32),
}

impl Report {
    /// Bytes of a report on the wire.
    pub const SIZE: usize = 5;

    pub fn encode(self) -> [u8; Self::SIZE] {
        let (kind, value) = match self {
            Self::Exited(value) => (0, value),
            Self::Killed(value) => (1, value),
            Self::NotStarted(value) => (2, value),
        };
        let [a, b, c, d] = value.to_le_bytes();
        [kind, a, b, c, d]
    }

    pub fn decode([kind, a, b, c, d]: [u8; Self::SIZE]) -> Option<Self> {
        let value = i32::from_le_bytes([a, b, c, d]);
        match kind {
            0 => Some(Self::Exited(value)),
            1 => Some(Self::Killed(value)),
            2 => Some(Self::NotStarted(value)),
            _ => None,
        }
    }
}

/// Whether this process was started to supervise a step; if so it does, and gives its exit status.
pub fn run_if_asked() -> Option<i32> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(COMMAND)) {
        return None;
    }
    let number = |text: Option<OsString>| text.and_then(|text| text.to_str()?.parse::<u32>().ok());
    let (Some(uid), Some(gid)) = (number(arguments.next()), number(arguments.next())) else { return Some(2) };
    let Some(mounted) = arguments.next().and_then(|letters| decode(letters.to_str()?)) else {
        return Some(2);
    };
    let arguments: Vec<OsString> = arguments.collect();
    let Ok(control) = sys::inherited(CONTROL_FD) else { return Some(2) };
    let report = match supervise(&control, (uid, gid), &mounted, &arguments) {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Report::Exited(code),
            (None, signal) => Report::Killed(signal.unwrap_or_default()),
        },
        Err(error) => {
            Report::NotStarted(error.raw_os_error().unwrap_or(rustix::io::Errno::INVAL.raw_os_error()))
        }
    };
    // If nobody listens any more there is nobody to tell.
    let _ = rustix::io::write(&control, &report.encode());
    Some(0)
}

/// The letter that says how a mount is opened.
const LETTERS: [(Opened, char); 5] = [
    (Opened::Directory, 'd'),
    (Opened::ReadOnlyDirectory, 'r'),
    (Opened::File, 'f'),
    (Opened::ReadOnlyFile, 'o'),
    (Opened::Elsewhere, 'e'),
];

/// Writes how the step's own mounts are opened, in their order, for the command line of a supervisor.
pub(super) fn encode(mounted: impl Iterator<Item = Opened>) -> String {
    let letter =
        |opened: Opened| LETTERS.iter().find(|(known, _)| *known == opened).map(|(_, letter)| *letter);
    // Something stands before them: an argument that is empty is easily lost.
    std::iter::once('-').chain(mounted.filter_map(letter)).collect()
}

fn decode(letters: &str) -> Option<Vec<Opened>> {
    let opened = |letter| LETTERS.iter().find(|(_, known)| *known == letter).map(|(opened, _)| *opened);
    letters.strip_prefix('-')?.chars().map(opened).collect()
}

fn supervise(
    control: &OwnedFd,
    (uid, gid): (u32, u32),
    mounted: &[Opened],
    arguments: &[OsString],
) -> io::Result<ExitStatus> {
    // Whatever else cofferdam was started with is not for the step.
    sys::close_others(&[0..=2, ROOT_FD..=HIDDEN_FDS.1])?;
    sys::become_user(uid, gid)?;
    sys::forbid_inspection()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let (root, step) = (sys::inherited(ROOT_FD)?, sys::inherited(STEP_FD)?);
    let mounts = (0..mounted.len()).map(|number| sys::inherited(own_descriptor(number)));
    let mounts = mounts.collect::<io::Result<Vec<_>>>()?;
    let opened: Vec<_> = mounts.iter().map(AsFd::as_fd).zip(mounted.iter().copied()).collect();
    let mut wall = Some(Wall::around(root.as_fd(), step.as_fd(), &opened).map_err(io::Error::other)?);
    let Some((program, rest)) = arguments.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new(format!("/proc/self/fd/{GUEST_FD}"));
    command.arg0(program).args(rest);
    sys::prepare_single_threaded(&mut command, move || {
        // A session of its own: what is typed at cofferdam's terminal is not for the step.
        rustix::process::setsid()?;
        let _ = sys::inherited(CONTROL_FD).map(drop);
        if let Some(wall) = wall.take() {
            wall.lay().map_err(io::Error::other)?;
        }
        Ok(())
    });
    let mut child = command.spawn()?;
    let outcome = watch(control, &mut child);
    // The step is over, whatever it has left running.
    kill_descendants();
    outcome
}

/// Waits for the first process, or for cofferdam to go away.
fn watch(control: &OwnedFd, child: &mut std::process::Child) -> io::Result<ExitStatus> {
    let pid = Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: REAP_EVERY.as_nanos() as i64 };
    loop {
        let mut events =
            [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(control, PollFlags::IN | PollFlags::HUP)];
        match poll(&mut events, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [ended, gone] = events.map(|event| !event.revents().is_empty());
        if ended {
            return child.wait();
        }
        if gone && is_closed(control) {
            let _ = child.kill();
            return child.wait();
        }
        reap_orphans(pid);
    }
}

fn is_closed(control: &OwnedFd) -> bool {
    let mut byte = [0];
    matches!(rustix::io::read(control, &mut byte), Ok(0))
}

/// Reaps what has ended, but for the first process, whose status is wanted.
fn reap_orphans(first: Pid) {
    for pid in children() {
        if pid != first {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Kills and reaps all that is left. Children of what is killed become children of this process, so it ends.
fn kill_descendants() {
    loop {
        for pid in children() {
            let _ = kill_process(pid, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The children of this process.
fn children() -> Vec<Pid> {
    let mut text = String::new();
    let listed =
        std::fs::File::open("/proc/thread-self/children").and_then(|mut file| file.read_to_string(&mut text));
    if listed.is_ok() {
        return text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    }
    // A kernel without that file: every process's status names its parent.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(own))
        .filter_map(Pid::from_raw)
        .collect()
}
