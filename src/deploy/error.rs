//! Why a deployment failed.

use std::fmt;
use std::io;

use thiserror::Error;

use super::apply::Failure;
use super::cluster::{AccessError, ApiError};
use super::inventory::Member;
use super::object::Source;
use super::wait::Trouble;

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
    /// What was asked of an object of the cluster makes no sense for it.
    #[error("{what}")]
    Refused {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// Somebody else is at work on an object, one at a time.
    #[error("{what}")]
    Busy {
        /// On what, and who.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// What was applied does not come to life.
    #[error("{}", troubles_in_words(.0))]
    Rollout(Vec<Trouble>),
    /// What was applied has not come to life in time.
    #[error("{what}{}", first_in_words(.troubles))]
    TimedOut {
        /// Which limit was reached.
        what: String,
        /// What is not there yet.
        troubles: Vec<Trouble>,
    },
    /// Objects that were removed are not gone in time; with what keeps them.
    #[error("{}", left_in_words(.0))]
    NotGone(Vec<(Member, Vec<String>)>),
    /// Rights that a deployment cannot do without are missing.
    #[error("not allowed: {}", .0.join("; "))]
    NotAllowed(Vec<String>),
    /// An address does not answer.
    #[error("{url} does not answer as it should: {why}")]
    Smoke {
        /// The address.
        url: String,
        /// What the last answer was.
        why: String,
    },
    /// A run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl DeployError {
    /// What was asked for cannot be done.
    pub(super) fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), hint: hint.into() }
    }

    /// One fault.
    pub fn fault(source: Option<Source>, what: impl Into<String>) -> Self {
        Self::Manifests(vec![Fault { source, what: what.into(), hint: None }])
    }

    /// What there is to say of each of several faults; nothing where the message says it all.
    pub fn details(&self) -> Vec<String> {
        match self {
            Self::Manifests(faults) if faults.len() > 1 => faults.iter().map(Fault::to_string).collect(),
            Self::Apply(failures) if failures.len() > 1 => failures.iter().map(Failure::to_string).collect(),
            Self::Rollout(troubles) | Self::TimedOut { troubles, .. } => match troubles.as_slice() {
                [one] => Some(one.lines().join("\n")).filter(|text| !text.is_empty()).into_iter().collect(),
                troubles => troubles.iter().map(|one| format!("{one}\n{}", one.lines().join("\n"))).collect(),
            },
            _ => Vec::new(),
        }
    }

    /// What to do about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Manifests(faults) => once(faults.iter().filter_map(|fault| fault.hint.clone())),
            Self::Apply(failures) => once(failures.iter().flat_map(|failure| failure.hints.clone())),
            Self::Access(error) => error.hint.clone().into_iter().collect(),
            Self::Api(error) => error.hint().into_iter().collect(),
            Self::Rollout(troubles) | Self::TimedOut { troubles, .. } => {
                once(troubles.iter().flat_map(Trouble::advice).cloned())
            }
            Self::NotAllowed(_) => {
                vec!["`cofferdam rbac generate` prints the least role for these objects".to_owned()]
            }
            Self::Smoke { .. } => {
                vec!["everything was applied, and is ready: look at what leads to it".to_owned()]
            }
            Self::NotGone(_) => {
                vec!["give it more time with `--timeout`, or see what keeps it".to_owned()]
            }
            Self::Refused { hint, .. } | Self::Busy { hint, .. } => vec![hint.clone()],
            Self::Input { .. } | Self::Cancelled => Vec::new(),
        }
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

/// The one that there is, or how many.
fn in_words(faults: &[Fault]) -> String {
    match faults {
        [] => "the manifests have no objects".to_owned(),
        [fault] => fault.to_string(),
        faults => format!("the manifests have {} faults", faults.len()),
    }
}

fn failures_in_words(failures: &[Failure]) -> String {
    match failures {
        [failure] => format!("cannot apply {failure}"),
        failures => format!("{} objects cannot be applied", failures.len()),
    }
}

fn left_in_words(left: &[(Member, Vec<String>)]) -> String {
    let parts = left.iter().map(|(member, kept_by)| match kept_by.as_slice() {
        [] => member.id().to_string(),
        reasons => format!("{} (kept by {})", member.id(), reasons.join("; ")),
    });
    format!("not gone in time: {}", parts.collect::<Vec<_>>().join(", "))
}

/// Each text once, in order.
fn once(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for text in texts {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    seen
}

fn troubles_in_words(troubles: &[Trouble]) -> String {
    match troubles {
        [one] => one.to_string(),
        several => format!("{} objects do not come to life", several.len()),
    }
}

/// What the only one waits for; nothing where there are several, which are told by themselves.
fn first_in_words(troubles: &[Trouble]) -> String {
    match troubles {
        [one] => format!("; {one}"),
        _ => String::new(),
    }
}
