//! What a build tells of itself: plain data that every reporter is given.
//!
//! The names of events and of their fields, as they are serialised here, are the schema of `--progress=json`
//! (`docs/events.md`). They may be added to; to rename or remove one breaks its readers.

use serde::{Serialize, Serializer};

use super::findings::Findings;
use crate::image::Digest;

/// Something that happened.
///
/// An event that names a step or a transfer comes after the one that began it. Of each step there is one beginning
/// ([`Event::StepStarted`] or [`Event::StepCached`]) and, if it was started, one end. [`Event::Ended`] is the last.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A command has begun its work.
    Started(Started),
    /// It is known what is to be done.
    Planned {
        /// How many steps there are, cached ones among them.
        steps: usize,
    },
    /// A step is being executed.
    StepStarted(Step),
    /// A step is not executed because its result is known.
    StepCached {
        /// The step.
        #[serde(flatten)]
        step: Step,
        /// Where the result is from: `local cache`, or the name of a repository. `, by the same content` follows if the step was
        /// found by what it takes, and not by how that came to be.
        from: String,
    },
    /// Why a step that has been started was not found in a cache.
    CacheMiss {
        /// The step's number.
        step: u32,
        /// In one sentence without a full stop.
        reason: String,
        /// The inputs that differ from the last time, if there was one.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Change>,
    },
    /// A step has written something. Where the pieces end has no meaning.
    Output {
        /// The step's number.
        step: u32,
        /// What it wrote to.
        stream: Stream,
        /// What it wrote.
        #[serde(flatten)]
        bytes: OutputBytes,
    },
    /// A step has been executed.
    StepDone {
        /// The step's number.
        step: u32,
    },
    /// A step has failed.
    StepFailed {
        /// The step's number.
        step: u32,
        /// How.
        #[serde(flatten)]
        failure: StepFailure,
    },
    /// A step was given up, because the build was or because another step failed.
    StepCancelled {
        /// The step's number.
        step: u32,
    },
    /// The files that a step has changed are a layer now.
    Layer {
        /// The step's number.
        step: u32,
        /// The layer's digest.
        digest: Digest,
        /// Its bytes as a blob.
        size: u64,
        /// Its bytes before they were compressed.
        content_size: u64,
    },
    /// Bytes of a blob are to be brought here or away.
    TransferStarted(TransferStarted),
    /// A transfer goes on.
    TransferProgress {
        /// The transfer's number.
        transfer: u64,
        /// Bytes that are through. Less than before where it begins again.
        done: u64,
    },
    /// A transfer is over.
    TransferDone {
        /// The transfer's number.
        transfer: u64,
        /// How it ended.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// Something is not as it should be, and the work goes on.
    Warning {
        /// In one sentence without a full stop.
        text: String,
        /// What to do about it.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// What is to be said about a source text that is not an error.
    Findings(Findings),
    /// Something worth knowing.
    Note {
        /// In one sentence without a full stop.
        text: String,
    },
    /// Something only those who look for a fault want to know.
    Detail {
        /// In one sentence without a full stop.
        text: String,
    },
    /// There is an image.
    Built(Built),
    /// An object of a cluster has come further on its way to what was asked of it.
    RolloutProgress(RolloutProgress),
    /// It is known what is wrong with an object of a cluster.
    Diagnosis(RolloutDiagnosis),
    /// The command has failed.
    Failed(Failure),
    /// The last event: what is held back is shown, nothing is drawn after it.
    Ended {
        /// The exit status of the program.
        status: u8,
    },
}

/// The beginning of a command's work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Started {
    /// The verb: `build`.
    pub command: String,
    /// The version of this program.
    pub version: String,
    /// What was found out about this machine, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// A step, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its number in the build, from 1 in the order of the plan.
    #[serde(rename = "step")]
    pub id: u32,
    /// The name of its stage; none in a Dockerfile of one stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Which instruction of its stage it is, from 1; 0 for work that is no instruction.
    pub number: u32,
    /// How many instructions its stage has.
    pub of: u32,
    /// The instruction, or what else is done, as one line: `RUN make`.
    pub text: String,
}

impl Step {
    /// `[build 2/5] RUN make`
    pub fn label(&self) -> String {
        match (&self.stage, self.number) {
            (None, 0) => self.text.clone(),
            (Some(stage), 0) => format!("[{stage}] {}", self.text),
            (None, number) => format!("[{number}/{}] {}", self.of, self.text),
            (Some(stage), number) => format!("[{stage} {number}/{}] {}", self.of, self.text),
        }
    }
}

/// An input of a step that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which input: `file requirements.txt`, `variable VERSION`.
    pub what: String,
    /// What it was; nothing if it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it is; nothing if it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "{}: {before} -> {after}", self.what),
            (Some(before), None) => write!(f, "{}: {before} -> gone", self.what),
            (None, Some(after)) => write!(f, "{}: new, {after}", self.what),
            (None, None) => f.write_str(&self.what),
        }
    }
}

/// What a step writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes that a step wrote. Serialised as `text`, and as `base64` too where they are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputBytes(pub Vec<u8>);

impl Serialize for OutputBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("text", &String::from_utf8_lossy(&self.0))?;
        if std::str::from_utf8(&self.0).is_err() {
            map.serialize_entry("base64", &base64::engine::general_purpose::STANDARD.encode(&self.0))?;
        }
        map.end()
    }
}

/// How a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepFailure {
    /// Its program ended with this status.
    ExitCode(i32),
    /// Its program was ended by this signal.
    Signal(i32),
    /// It could not be carried out, for this reason.
    Reason(String),
}

impl std::fmt::Display for StepFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ExitCode(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
            Self::Reason(reason) => f.write_str(reason),
        }
    }
}

/// The name of a signal that ends programs (signal(7), the numbers of x86 and ARM).
pub fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [(i32, &str); 14] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To this machine.
    Download,
    /// Away from it.
    Upload,
}

/// The beginning of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransferStarted {
    /// Its number, which no other transfer of this run has.
    pub transfer: u64,
    /// Which way.
    pub direction: Direction,
    /// The step it is for, if it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// The blob, if it is one whose digest is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What it is: `layer 2/5 of python:3.9-slim`.
    pub what: String,
    /// Its bytes, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The blob was brought here.
    Downloaded,
    /// The blob was sent.
    Pushed,
    /// It was where it should be.
    AlreadyThere,
    /// The registry took it from another of its repositories.
    Mounted {
        /// The repository.
        from: String,
    },
    /// It failed.
    Failed {
        /// Why.
        reason: String,
    },
    /// It was given up.
    Cancelled,
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Built {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its names in the local store.
    pub names: Vec<String>,
    /// The names it was pushed under.
    pub pushed: Vec<String>,
    /// The files and directories it was written to.
    pub written: Vec<String>,
}

/// How far an object of a cluster has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RolloutProgress {
    /// Which: `deployment.apps/web`.
    pub object: String,
    /// Its namespace, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `in_progress`, `ready`, `failed`, `skipped`.
    pub state: String,
    /// How many of its parts are there, if it has parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// How many there will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// What is missing, or worth knowing; empty where the state says it all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// What is wrong with an object of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RolloutDiagnosis {
    /// Which: `deployment.apps/web`.
    pub object: String,
    /// Its namespace, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The cause in one word: `image_not_found`.
    pub cause: String,
    /// What is wrong, in one sentence without a full stop.
    pub text: String,
    /// One of the pods concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// By what it is known.
    pub evidence: Vec<String>,
    /// What to do about it.
    pub advice: Vec<String>,
    /// Whether it is the end of the rollout.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// For how many seconds it is given the chance to heal, if that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
}

impl RolloutDiagnosis {
    /// What is shown of it in one line, but for the object's name.
    pub fn line(&self) -> String {
        let place = self.pod.iter().map(|pod| format!("pod {pod}"));
        let place: Vec<_> =
            place.chain(self.container.iter().map(|container| format!("container {container}"))).collect();
        let place = if place.is_empty() { String::new() } else { format!(" ({})", place.join(", ")) };
        let patience = match self.patience {
            Some(seconds) => format!("; given {seconds} s to heal"),
            None => String::new(),
        };
        format!("{}{place}{patience}", self.text)
    }
}

/// The failure of a command.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Failure {
    /// What failed.
    pub message: String,
    /// Why, each the cause of the one before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// The places in a source text that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Findings>,
    /// The kind of failure, as `docs/exit-codes.md` names it.
    pub kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn step(stage: Option<&str>, number: u32) -> Step {
        Step { id: 1, stage: stage.map(str::to_owned), number, of: 5, text: "RUN make".to_owned() }
    }

    #[rstest]
    #[case(Some("build"), 2, "[build 2/5] RUN make")]
    #[case(None, 2, "[2/5] RUN make")]
    #[case(Some("export"), 0, "[export] RUN make")]
    #[case(None, 0, "RUN make")]
    fn labels(#[case] stage: Option<&str>, #[case] number: u32, #[case] label: &str) {
        assert_eq!(step(stage, number).label(), label);
    }

    #[test]
    fn failures_are_worded() {
        assert_eq!(StepFailure::ExitCode(2).to_string(), "exit code 2");
        assert_eq!(StepFailure::Signal(9).to_string(), "killed by signal 9 (SIGKILL)");
        assert_eq!(StepFailure::Signal(40).to_string(), "killed by signal 40");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        let line = |bytes: &[u8]| serde_json::to_string(&OutputBytes(bytes.to_vec())).unwrap();
        assert_eq!(line(b"a\x1b\"b"), r#"{"text":"a\u001b\"b"}"#);
        assert_eq!(line(b"a\xffb"), r#"{"text":"a�b","base64":"Yf9i"}"#);
    }
}
