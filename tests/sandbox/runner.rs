//! Carries out a scenario in the sandbox, in a process of its own: as whoever that process is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam::layer::{self, LayerOptions, LayerReader, LayerWriter, Node, Pool};
use cofferdam::sandbox::{EmulatorSearch, Emulators, Exit, Root, Sandbox, SandboxError, Step, sys};
use cofferdam::store::Store;
use tempfile::TempDir;

use crate::scenario::{self, Change, Ending, Outcome, Scenario, Seen, StepOutcome, digest, hexadecimal};
use crate::support::Unprivileged;

/// Set where this program is to be the runner: the directory to work in.
const PLACE: &str = "COFFERDAM_TEST_RUNNER_PLACE";

/// By whom the sandbox is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// The user of the tests: root, with all that root may do.
    Root,
    /// User 1000, without any capability and without a way to get one.
    Unprivileged,
}

/// Carries out `scenario` in the sandbox.
///
/// # Panics
/// If the sandbox itself fails. What a step does is in the outcome.
pub fn run(user: As, scenario: &Scenario) -> Outcome {
    let Started { child, keeps } = start(user, scenario, Stdio::piped());
    let output = child.wait_with_output().expect("the runner ends");
    drop(keeps);
    assert!(output.status.success(), "the runner of {user:?} has failed: {}", output.status);
    serde_json::from_slice(&output.stdout).expect("an outcome")
}

/// A runner, and the directories that it works in.
pub struct Started {
    pub child: Child,
    keeps: (Option<TempDir>, Option<Unprivileged>),
}

/// Starts to carry out `scenario`; the outcome goes to `stdout`.
pub fn start(user: As, scenario: &Scenario, stdout: Stdio) -> Started {
    let program = std::env::current_exe().expect("this program");
    let (mut command, keeps);
    let mut scenario = scenario.clone();
    match user {
        As::Root => {
            // Closed to everybody else, as temporary directories are: a step needs no way to its root from above.
            let place = tempfile::tempdir().expect("a directory");
            command = Command::new(program);
            command.env(PLACE, place.path());
            keeps = (Some(place), None);
        }
        As::Unprivileged => {
            let user = Unprivileged::new(1000);
            command = user.plain_command(user.bring(&program));
            command.env(PLACE, user.directory("scenario"));
            for layer in &mut scenario.layers {
                *layer = user.bring(layer);
            }
            keeps = (None, Some(user));
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(stdout).spawn().expect("the runner is started");
    let text = serde_json::to_vec(&scenario).expect("JSON");
    child.stdin.take().expect("a pipe").write_all(&text).expect("the runner listens");
    Started { child, keeps }
}

/// Whether this process was started as a runner; if so it has run.
pub fn run_if_asked() -> bool {
    let Some(place) = std::env::var_os(PLACE) else { return false };
    let scenario = serde_json::from_reader(std::io::stdin()).expect("a scenario");
    let outcome = carry_out(&PathBuf::from(place), &scenario);
    serde_json::to_writer(std::io::stdout(), &outcome).expect("somebody listens");
    true
}

fn carry_out(place: &Path, scenario: &Scenario) -> Outcome {
    sys::set_umask(0o022);
    let sandbox = Sandbox::prepare(std::env::current_exe().expect("this program")).expect("a sandbox");
    // Where the package has them, whatever this process's own path is.
    let emulators = Emulators::find(&EmulatorSearch { directory: None, path: "/usr/bin".into() });
    let sandbox = sandbox.with_emulators(emulators);
    let root = sandbox.create_root(&place.join("root")).expect("a root");
    let store = Store::open(place.join("store")).expect("a store");
    for layer in &scenario.layers {
        let mut reader = LayerReader::new(File::open(layer).expect("a layer")).expect("a reader");
        root.apply(&mut reader).expect("the layer is applied");
        reader.finish().expect("a whole layer");
    }
    let steps = scenario.steps.iter();
    let steps =
        steps.map(|command| step(&sandbox, &root, &store, command, &scenario.architectures)).collect();
    Outcome { protection: format!("{:?}", sandbox.findings().protection()), steps }
}

fn step(
    sandbox: &Sandbox,
    root: &Root,
    store: &Store,
    command: &scenario::Command,
    architectures: &[String],
) -> StepOutcome {
    root.take_snapshot().expect("a snapshot");
    let step = Step {
        arguments: command.arguments.iter().map(Into::into).collect(),
        environment: command.environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        directory: "/".into(),
        uid: command.uid,
        gid: command.gid,
        groups: command.groups.clone(),
        resolv_conf: std::fs::read("/etc/resolv.conf").expect("this machine resolves names"),
        hosts: b"127.0.0.1 localhost\n".to_vec(),
        files: Vec::new(),
        mounts: Vec::new(),
        network: true,
        architectures: architectures.to_vec(),
    };
    let start = Instant::now();
    let running = sandbox.start(root, &step).expect("the step is started");
    let killer = running.killer();
    let read = |file: &File| {
        let mut file = file.try_clone().expect("another handle");
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).expect("a pipe");
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let (stdout, stderr) = (read(&running.stdout), read(&running.stderr));
    let (ended, end) = std::sync::mpsc::channel();
    let limit = Duration::from_secs(command.limit);
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(limit).is_err() {
            killer.kill();
        }
    });
    let exit = match running.wait() {
        Ok(Exit::Status(status)) => Ending::Status(status),
        Ok(Exit::Signal(signal)) => Ending::Signal(signal),
        Err(SandboxError::Program { source, .. }) => Ending::NotStarted(source.to_string()),
        Err(error) => panic!("the step was lost: {error:?}"),
    };
    let took = start.elapsed().as_millis() as u64;
    let _ = ended.send(());
    watch.join().expect("the watch");
    StepOutcome {
        exit,
        stdout: stdout.join().expect("stdout"),
        stderr: stderr.join().expect("stderr"),
        took,
        changes: changes(root, store),
    }
}

/// What the step has changed, as the layer says.
fn changes(root: &Root, store: &Store) -> BTreeMap<String, Change> {
    let mut writer = LayerWriter::new(store, &Pool::default(), LayerOptions::default()).expect("a writer");
    root.write_changes(&mut writer).expect("the changes");
    let blob = writer.finish().expect("a layer");
    let mut reader = LayerReader::new(store.open_blob(&blob.digest).expect("the layer")).expect("a reader");
    let mut changes = BTreeMap::new();
    while let Some((change, mut content)) = reader.next().expect("a change") {
        let path = format!("/{}", String::from_utf8_lossy(change.path().as_bytes()));
        let change = match change {
            layer::Change::Remove(_) => Change::Removed,
            layer::Change::Opaque(_) => panic!("{path} is opaque: no step makes that"),
            layer::Change::Entry(layer::Entry { node, metadata, .. }) => {
                let digest = matches!(node, Node::File { .. }).then(|| digest(&mut content));
                let attributes = metadata.xattrs.iter();
                Change::Is(Seen {
                    what: describe(&node),
                    mode: metadata.mode,
                    uid: metadata.uid,
                    gid: metadata.gid,
                    attributes: attributes
                        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), hexadecimal(value)))
                        .collect(),
                    digest,
                })
            }
        };
        assert!(changes.insert(path.clone(), change).is_none(), "{path} is in the layer twice");
    }
    reader.finish().expect("a whole layer");
    changes
}

fn describe(node: &Node) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match node {
        Node::Directory => "directory".to_owned(),
        Node::File { .. } => "file".to_owned(),
        Node::Symlink { target } => format!("link to {}", text(target)),
        Node::Hardlink { target } => format!("same as /{}", text(target.as_bytes())),
        Node::CharDevice { major, minor } => format!("character device {major}:{minor}"),
        Node::BlockDevice { major, minor } => format!("block device {major}:{minor}"),
        Node::Fifo => "pipe".to_owned(),
    }
}
