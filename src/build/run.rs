//! RUN: a step in the sandbox.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::error::BuildError;
use super::fetch::lock;
use super::mounts::Mounts;
use super::request::Cancellation;
use super::users;
use crate::dockerfile::Network;
use crate::plan::Run;
use crate::report::{LiveStep, StepFailure, Stream};
use crate::sandbox::{
    Exit, ForeignProgram, HOSTNAME, Killer, Root, Running, Sandbox, SandboxError, Step, StepFile,
};

/// Lines of a failed step that its error repeats.
const LAST_LINES: usize = 20;
/// Longest line that is kept for that, in bytes.
const LONGEST_LINE: usize = 2000;

/// What is said of a step that failed, and wanted what it had not.
const NO_NETWORK: &str = "the step asked for a socket of the network, and `--network=none` gives none, not even on a loopback device: its ports \
     would be those of the whole pod";

/// How a step ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Well.
    Done,
    /// Badly.
    Failed {
        /// How.
        failure: StepFailure,
        /// The last lines it wrote.
        output: Vec<String>,
        /// What may help.
        hint: Option<String>,
    },
}

/// What a step is given besides its instruction.
#[derive(Debug)]
pub(super) struct Beside<'a> {
    /// What is mounted.
    pub mounts: &'a Mounts,
    /// Whom it runs as.
    pub user: &'a users::User,
    /// What its image and its stage are made for.
    pub architectures: Vec<String>,
}

/// Runs a step in `root`. Blocks until it has ended.
///
/// # Errors
/// If it could not be run; that it failed is no error.
pub(super) fn run(
    sandbox: &Sandbox,
    root: &Root,
    run: &Run,
    beside: &Beside<'_>,
    live: &LiveStep,
    cancel: &Cancellation,
) -> Result<Ended, BuildError> {
    let Beside { mounts, user, .. } = beside;
    root.take_snapshot()?;
    // Container engines make the working directory of a process where it is missing, and BuildKit gives it to the process.
    root.ensure_directory(Path::new(&run.directory), user.uid, user.gid)?;
    let last = Arc::new(Mutex::new(LastLines::default()));
    let overfull = OnceLock::new();
    let ended = sandbox
        .start(root, &step(run, beside))
        .and_then(|running| watch(running, live, cancel, &last, (mounts, &overfull)));
    mounts.keep(root)?;
    let overfull = overfull.into_inner().or_else(|| mounts.overfull());
    let output = lock(&last).take();
    let failure = match ended {
        Ok(Exit::Status(0)) if overfull.is_none() => return Ok(Ended::Done),
        _ if cancel.is_cancelled() => return Err(BuildError::Cancelled),
        Ok(exit) => match (overfull, exit) {
            (Some(reason), _) => StepFailure::Reason(reason),
            (None, Exit::Status(status)) => StepFailure::ExitCode(status),
            (None, Exit::Signal(signal)) => StepFailure::Signal(signal),
        },
        Err(SandboxError::Program { program, source }) => {
            let foreign = sandbox.foreign_program(root);
            let reason =
                foreign.map_or_else(|| reason(&source), |foreign| format!("it is {}", kind_of(&foreign)));
            StepFailure::Reason(format!("cannot execute `{}`: {reason}", program.display()))
        }
        Err(error) => return Err(error.into()),
    };
    let hint = sandbox.foreign_program(root).map(|foreign| {
        let advice = foreign.architecture.map(|architecture| sandbox.emulators().advice(architecture));
        let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        format!("the step had no emulator for `{}`, which is {}{advice}", foreign.path, kind_of(&foreign))
    });
    let network = sandbox.wanted_network(root).then(|| NO_NETWORK.to_owned());
    let hints: Vec<String> = hint.into_iter().chain(network).collect();
    let hint = (!hints.is_empty()).then(|| hints.join("\n"));
    Ok(Ended::Failed { failure, output, hint })
}

/// What a program of another machine is.
fn kind_of(program: &ForeignProgram) -> String {
    match program.architecture {
        Some(architecture) => format!("a program for {architecture}"),
        None => "a program for another machine".to_owned(),
    }
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such program in the image".to_owned(),
        std::io::ErrorKind::PermissionDenied => "it is not executable".to_owned(),
        _ => error.to_string(),
    }
}

fn step(run: &Run, beside: &Beside<'_>) -> Step {
    let Beside { mounts, user, architectures } = beside;
    let mut environment = run.environment.clone();
    for (name, value) in &run.hidden_environment {
        if !environment.iter().any(|(known, _)| known == name) {
            environment.push((name.clone(), value.clone()));
        }
    }
    if !environment.iter().any(|(name, _)| name == "HOME") {
        environment.push(("HOME".to_owned(), user.home.clone()));
    }
    let mut environment: Vec<(OsString, OsString)> =
        environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    // What a mount gives stands for what the Dockerfile says.
    environment.retain(|(name, _)| !mounts.environment.iter().any(|(given, _)| given == name));
    environment.extend(mounts.environment.iter().cloned());
    Step {
        arguments: run.arguments.iter().map(Into::into).collect(),
        environment,
        directory: run.directory.clone().into(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        resolv_conf: std::fs::read("/etc/resolv.conf").unwrap_or_default(),
        hosts: format!("127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
            .into_bytes(),
        files: run
            .script
            .iter()
            .map(|script| StepFile {
                path: script.path.clone().into(),
                content: script.content.clone().into_bytes(),
                mode: 0o755,
            })
            .collect(),
        mounts: mounts.list.clone(),
        network: run.network != Network::None,
        architectures: architectures.clone(),
    }
}

/// Passes on what the step writes until it has ended. It is killed if the build is given up, or if a directory holds more
/// than it may: then it is told which.
fn watch(
    running: Running<'_>,
    live: &LiveStep,
    cancel: &Cancellation,
    last: &Arc<Mutex<LastLines>>,
    (mounts, overfull): (&Mounts, &OnceLock<String>),
) -> Result<Exit, SandboxError> {
    let pipes = running.stdout.try_clone().and_then(|stdout| Ok((stdout, running.stderr.try_clone()?)));
    let (stdout, stderr) =
        pipes.map_err(|source| SandboxError::Host { operation: "read what the step writes", source })?;
    let killer = running.killer();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| pass_on(stdout, Stream::Stdout, live, last));
        scope.spawn(|| pass_on(stderr, Stream::Stderr, live, last));
        let watcher = scope.spawn(|| {
            // A step that is to be killed can wait this long.
            const PATIENCE: Duration = Duration::from_millis(50);
            while !ended.load(Ordering::Acquire) {
                if cancel.is_cancelled() {
                    killer.kill();
                    return;
                }
                thread::park_timeout(PATIENCE);
            }
        });
        let counter = mounts.are_limited().then(|| scope.spawn(|| count(mounts, overfull, &ended, &killer)));
        let exit = running.wait();
        ended.store(true, Ordering::Release);
        // Else the step would be waited for as long as the watchers sleep.
        for thread in [Some(&watcher), counter.as_ref()].into_iter().flatten() {
            thread.thread().unpark();
        }
        exit
    })
}

/// Counts what is in directories that may not hold everything, until the step has ended.
fn count(mounts: &Mounts, overfull: &OnceLock<String>, ended: &AtomicBool, killer: &Killer) {
    const EVERY: Duration = Duration::from_millis(100);
    while !ended.load(Ordering::Acquire) {
        let start = Instant::now();
        if let Some(reason) = mounts.overfull() {
            let _ = overfull.set(reason);
            killer.kill();
            return;
        }
        // Of very many files it must not take more than a small part of a processor.
        thread::park_timeout(EVERY.max(start.elapsed() * 4));
    }
}

fn pass_on(mut pipe: File, stream: Stream, live: &LiveStep, last: &Mutex<LastLines>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                live.output(stream, bytes);
                lock(last).add(bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The last lines that a step wrote, on whichever stream.
#[derive(Debug, Default)]
struct LastLines {
    lines: VecDeque<String>,
    partial: Vec<u8>,
}

impl LastLines {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                // A progress bar begins its line again.
                b'\r' => self.partial.clear(),
                byte if self.partial.len() < LONGEST_LINE => self.partial.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn take(&mut self) -> Vec<String> {
        if !self.partial.is_empty() {
            self.end_line();
        }
        self.lines.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_progress_bars_are_one() {
        let mut last = LastLines::default();
        for number in 0..30 {
            last.add(format!("line {number}\n").as_bytes());
        }
        last.add(b"10%\r50%\r100%\nunended");
        let lines = last.take();
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!(lines[LAST_LINES - 3..], ["line 29", "100%", "unended"]);
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut last = LastLines::default();
        last.add(&vec![b'x'; 1 << 20]);
        assert_eq!(last.take()[0].len(), LONGEST_LINE);
    }
}
