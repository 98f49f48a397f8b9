//! What is to be run, and what came of it: the words that runners and tests exchange.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The search path of every step.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Steps in one root filesystem, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scenario {
    /// Layers of the root, lowest first.
    pub layers: Vec<PathBuf>,
    pub steps: Vec<Command>,
    /// What the machines are called whose programs are in the root; none for this one's.
    pub architectures: Vec<String>,
}

impl Scenario {
    /// A scenario of programs of this machine.
    pub fn new(layers: Vec<PathBuf>, steps: Vec<Command>) -> Self {
        Self { layers, steps, architectures: Vec::new() }
    }
}

/// One step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Seconds until it is killed.
    pub limit: u64,
}

impl Command {
    pub fn new<S: Into<String>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let environment =
            [("PATH", PATH), ("HOME", "/root"), ("LC_ALL", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive")];
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            limit: 240,
        }
    }

    /// A script for the image's `/bin/sh`, as `RUN` has it.
    pub fn shell(script: &str) -> Self {
        Self::new(["/bin/sh", "-c", script])
    }

    pub fn user(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }
}

/// What came of a scenario.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What the sandbox said of this machine; empty where there was no sandbox.
    pub protection: String,
    pub steps: Vec<StepOutcome>,
}

/// What came of a step.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepOutcome {
    pub exit: Ending,
    pub stdout: String,
    pub stderr: String,
    /// Milliseconds from its start to its end.
    pub took: u64,
    /// What it changed, by path.
    pub changes: BTreeMap<String, Change>,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    Status(i32),
    Signal(i32),
    /// It could not be started, and why.
    NotStarted(String),
}

/// What a step made of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Removed,
    Is(Seen),
}

/// A file as an image has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Kind, with the target of a link or the number of a device.
    pub what: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names and values in hexadecimal.
    pub attributes: BTreeMap<String, String>,
    /// Of a file.
    pub digest: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("removed"),
            Self::Is(Seen { what, mode, uid, gid, attributes, digest }) => {
                write!(f, "{what} {mode:04o} {uid}:{gid}")?;
                for (name, value) in attributes {
                    write!(f, " {name}={value}")?;
                }
                match digest {
                    Some(digest) => write!(f, " {}", digest.get(..12).unwrap_or(digest)),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The digest of a file's content.
pub fn digest(mut content: impl Read) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match content.read(&mut buffer).expect("content") {
            0 => return hexadecimal(&hash.finalize()),
            read => hash.update(&buffer[..read]),
        }
    }
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
