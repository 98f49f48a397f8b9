//! Why a deployment failed.

use std::fmt;
use std::io;

use thiserror::Error;

use super::apply::Failure;
use super::cluster::{AccessError, ApiError};
use super::object::Source;

/// Why a deployment failed. Each variant is a kind of its own, with its own exit status.
#[derive(Debug, Error)]
pub enum DeployError {
    /// What was to be deployed makes no sense.
    #[error("{}", in_words(.0))]
    Manifests(Vec<Fault>),
    /// Manifests cannot be read.
    #[error("cannot read {what}")]
    Input {
        /// What.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no way to the cluster.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The cluster cannot be reached, or refuses what concerns no object alone.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Objects cannot be applied. None is if the dry run has found them.
    #[error("{}", failures_in_words(.0))]
    Apply(Vec<Failure>),
    /// A run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl DeployError {
    /// One fault.
    pub fn fault(source: Option<Source>, what: impl Into<String>) -> Self {
        Self::Manifests(vec![Fault { source, what: what.into(), hint: None }])
    }
}

/// Something that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub source: Option<Source>,
    /// What is wrong, in one sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// `app.yaml:12: the object has no name`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        f.write_str(&self.what)
    }
}

fn in_words(faults: &[Fault]) -> String {
    match faults {
        [] => "the manifests have no objects".to_owned(),
        [fault] => fault.to_string(),
        faults => {
            let mut text = format!("the manifests have {} faults", faults.len());
            for fault in faults {
                text.push_str(&format!("\n{fault}"));
            }
            text
        }
    }
}

fn failures_in_words(failures: &[Failure]) -> String {
    match failures {
        [failure] => format!("cannot apply {}", failure),
        failures => {
            let mut text = format!("{} objects cannot be applied", failures.len());
            for failure in failures {
                text.push_str(&format!("\n{failure}"));
            }
            text
        }
    }
}
