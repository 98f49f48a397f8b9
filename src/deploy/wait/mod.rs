//! Waiting until what was applied does what was asked of it, or until there is solid evidence that it will not.
//!
//! | module | owns |
//! |---|---|
//! | `follow` | the objects of a kind as they change: list and watch, or polling where that is all one may do |
//! | `run` | the wait itself: statuses, rounds of diagnosis, patience |
//!
//! # Invariants
//! 1. A wait ends: with everything settled, on evidence, at a limit, or cancelled.
//! 2. What a wait ends with says why: a limit that is reached is told with a diagnosis as well.
//! 3. An object that is ready as it was answered at its apply costs no request.
//! 4. Diagnosis costs requests only for what is on its way for longer than [`WaitOptions::quiet`], and a few objects at
//!    a time.

mod follow;
mod run;

use std::fmt;
use std::time::Duration;

pub use run::wait;

use super::apply::{Action, Done, Target};
use super::cluster::Resource;
use super::diagnose::{Finding, Policy};
use super::object::ObjectId;
use serde_json::Value;

/// How long is waited, and for what.
#[derive(Debug, Clone)]
pub struct WaitOptions {
    /// For everything together.
    pub timeout: Duration,
    /// Without any progress of anything.
    pub no_progress: Duration,
    /// Services and ingresses must have their external addresses.
    pub load_balancer: bool,
    /// How long a workload must have been ready before it is believed, where a container has no readiness probe: without
    /// one, a program that ends in its first second has been ready.
    pub settle: Duration,
    /// How long nothing is asked about what is on its way.
    pub quiet: Duration,
    /// When a finding ends the wait.
    pub policy: Policy,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            no_progress: Duration::from_secs(240),
            load_balancer: false,
            settle: Duration::from_secs(3),
            quiet: Duration::from_secs(1),
            policy: Policy::default(),
        }
    }
}

/// An object that is waited for.
#[derive(Debug, Clone)]
pub struct Awaited {
    /// Which.
    pub id: ObjectId,
    /// Its kind as the server serves it.
    pub resource: Resource,
    /// The object as the server answered it.
    pub object: Value,
    /// The generation that was applied.
    pub generation: Option<i64>,
    /// Whether it was changed, so that something has to happen.
    pub is_changed: bool,
}

impl Awaited {
    /// What was applied.
    pub fn applied(target: &Target, done: Done) -> Self {
        Self {
            resource: target.resource.clone(),
            generation: done.generation(),
            is_changed: done.action != Action::Unchanged,
            id: done.id,
            object: done.object,
        }
    }

    /// What is there, to be waited for as it is.
    pub fn existing(id: ObjectId, resource: Resource, object: Value) -> Self {
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        Self { id, resource, object, generation, is_changed: true }
    }
}

/// An object that is there, and what is remarkable about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Which.
    pub id: ObjectId,
    /// Whether it was not waited for.
    pub is_skipped: bool,
    /// What there is to say.
    pub note: Option<String>,
}

/// An object that did not come to life.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Which.
    pub id: ObjectId,
    /// How far it has come, or what it says itself, in one sentence without a full stop.
    pub why: String,
    /// What is wrong with it, the surest first.
    pub findings: Vec<Finding>,
    /// What could not be found out.
    pub notes: Vec<String>,
}

/// `deployment.apps/web: the image does not exist`
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = self.findings.first().map_or(&self.why, |finding| &finding.what);
        write!(f, "{}: {why}", self.id)
    }
}

impl Trouble {
    /// All there is to say, a line each: every finding with its place and evidence.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, finding) in self.findings.iter().enumerate() {
            if number > 0 {
                lines.push(format!("also: {}", finding.what));
            }
            let place = finding.place();
            if !place.is_empty() {
                lines.push(place);
            }
            lines.extend(finding.evidence.iter().cloned());
        }
        if !self.findings.is_empty() {
            lines.push(format!("status: {}", self.why));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines
    }

    /// What to do about it.
    pub fn advice(&self) -> impl Iterator<Item = &String> {
        self.findings.iter().flat_map(|finding| &finding.advice)
    }
}
