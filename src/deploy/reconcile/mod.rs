//! Having a GitOps controller look now, and waiting until it has done what its repository says.
//!
//! | module | owns |
//! |---|---|
//! | `flux` | Kustomizations, HelmReleases and their sources: asked by an annotation that the controller answers in the status |
//! | `argo` | Applications: refreshed by an annotation, synced by an operation that is written into the object |
//!
//! Nothing but the cluster's API is spoken to: neither Argo CD's own server and its accounts, nor a repository.
//!
//! # Invariants
//! 1. What counts is what the controller says of *this* request. What a status says of an earlier one is passed over.
//! 2. A wait ends: with what was asked for, with the controller's own words for why not, or at a limit with what was
//!    waited for.
//! 3. An object is asked about by its name, never by a list or a watch: the rights to get and patch are enough.

mod argo;
mod flux;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use argo::{ArgoOptions, Sync, argo};
pub use flux::{FluxOptions, bootstrapped, flux};

use super::DeployError;
use super::cluster::{Cluster, Resource};
use super::diagnose::{Cause, Finding};
use super::object::ObjectId;
use super::wait::Trouble;
use crate::report::{Event, Report, RolloutProgress};

/// How often an object is looked at.
const PAUSE: Duration = Duration::from_millis(500);
/// After how long somebody is asked again whose answer was not what is waited for: a revision that a mirror or a cache
/// has not seen yet.
const AGAIN: Duration = Duration::from_secs(5);
/// The fewest digits that a commit is known by.
const SHORT: usize = 7;

/// What was reconciled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciled {
    /// Which object.
    pub id: ObjectId,
    /// The revision that is applied, as its controller writes it: `main@sha1:…`, a commit, the version of a chart.
    pub revision: Option<String>,
}

/// An object that a controller is asked about.
#[derive(Debug, Clone)]
struct Asked {
    id: ObjectId,
    path: String,
}

impl Asked {
    fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        let namespace = resource.namespaced.then(|| namespace.to_owned());
        let path = resource.path(namespace.as_deref(), name);
        Self { id: ObjectId { kind: resource.gvk.group_kind(), namespace, name: name.to_owned() }, path }
    }

    /// The object as it is.
    async fn look(&self, cluster: &Cluster) -> Result<Value, DeployError> {
        let found = cluster.find(&self.path).await?;
        found.ok_or_else(|| {
            let place = self.id.namespace.as_deref().unwrap_or_default();
            DeployError::refused(
                format!("there is no {} in namespace `{place}`", self.id),
                "check the name, and the namespace (`-n`)",
            )
        })
    }
}

/// How far an object has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// On its way, and what is still missing.
    Underway(String),
    /// There. A note says what is remarkable about it.
    There(Option<String>),
    /// It will not get there by itself.
    Failed(Fault),
}

/// Why something will not get where it should.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fault {
    what: String,
    evidence: Vec<String>,
    advice: Vec<String>,
    /// Whether it may be so for a moment only.
    may_pass: bool,
}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    fn seen(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice.push(advice.into());
        self
    }
}

/// A way of waiting: until when, and who is told.
struct Watcher<'a> {
    cluster: &'a Cluster,
    report: &'a Report,
    began: Instant,
    timeout: Duration,
}

/// How waiting for one object has ended, if not well.
enum Ended {
    /// The controller says why not.
    Failed(Trouble),
    /// Time is over; this was waited for.
    Late(Trouble),
    /// It cannot be asked.
    Error(DeployError),
}

impl From<DeployError> for Ended {
    fn from(error: DeployError) -> Self {
        Self::Error(error)
    }
}

impl<'a> Watcher<'a> {
    fn new(cluster: &'a Cluster, report: &'a Report, timeout: Duration) -> Self {
        Self { cluster, report, began: Instant::now(), timeout }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.timeout
    }

    /// Looks at `asked` until `assess` says that it has come to an end; gives the object as it was then, and a note.
    async fn until(
        &self,
        asked: &Asked,
        mut assess: impl FnMut(&Value) -> Seen,
    ) -> Result<(Value, Option<String>), Ended> {
        let mut told = String::new();
        loop {
            let object = asked.look(self.cluster).await?;
            match assess(&object) {
                Seen::There(note) => return Ok((object, note)),
                Seen::Failed(fault) => {
                    self.tell(asked, "failed", &fault.what);
                    return Err(Ended::Failed(trouble(asked, fault)));
                }
                Seen::Underway(why) => {
                    if self.is_over() {
                        return Err(Ended::Late(late(asked, why)));
                    }
                    if why != told {
                        self.tell(asked, "in_progress", &why);
                        told = why;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn tell(&self, asked: &Asked, state: &str, text: &str) {
        self.report.event(Event::RolloutProgress(RolloutProgress {
            object: asked.id.to_string(),
            namespace: asked.id.namespace.clone(),
            state: state.to_owned(),
            done: None,
            of: None,
            text: text.to_owned(),
        }));
    }

    /// All of the results, or the worst that has happened: what cannot be asked, else what has failed, else what is late.
    fn sum(&self, outcomes: Vec<Result<Reconciled, Ended>>) -> Result<Vec<Reconciled>, DeployError> {
        let (mut through, mut failed, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for outcome in outcomes {
            match outcome {
                Ok(one) => through.push(one),
                Err(Ended::Failed(trouble)) => failed.push(trouble),
                Err(Ended::Late(trouble)) => late.push(trouble),
                Err(Ended::Error(error)) => return Err(error),
            }
        }
        if !failed.is_empty() {
            return Err(DeployError::Rollout(failed));
        }
        if !late.is_empty() {
            let limit = crate::report::duration(self.timeout);
            let what = format!("not everything is reconciled after {limit}");
            return Err(DeployError::TimedOut { what, troubles: late });
        }
        Ok(through)
    }
}

fn trouble(asked: &Asked, fault: Fault) -> Trouble {
    let Fault { what, evidence, advice, .. } = fault;
    let mut finding = Finding::new(&asked.id, Cause::Reconciliation, what);
    finding.evidence = evidence;
    finding.advice = advice;
    let why = "its controller does not do what was asked of it".to_owned();
    Trouble { id: asked.id.clone(), why, findings: vec![finding], notes: Vec::new() }
}

fn late(asked: &Asked, why: String) -> Trouble {
    Trouble { id: asked.id.clone(), why, findings: Vec::new(), notes: Vec::new() }
}

/// What is written where a controller gives an answer back: a time, as people read it, and never the same twice.
fn token() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// Whether the revision `have`, as a controller writes it, is the one that somebody calls `wanted`: a commit, the first
/// digits of one, a digest, a tag or the version of a chart.
///
/// Flux writes `main@sha1:COMMIT`, `v1@sha256:DIGEST`, `sha256:DIGEST`, and wrote `main/COMMIT` before version 2
/// (<https://fluxcd.io/flux/components/source/gitrepositories/#artifact>); Argo CD writes the commit.
fn is_revision(have: &str, wanted: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut names: BTreeSet<&str> = BTreeSet::from([have]);
    if let Some((name, digest)) = have.rsplit_once('@').or_else(|| have.rsplit_once('/')) {
        names.extend([name, digest]);
    }
    names.extend(have.rsplit_once(':').map(|(_, digits)| digits));
    let digits = wanted.rsplit_once(':').map_or(wanted, |(_, digits)| digits);
    let is_short = digits.len() >= SHORT && is_hex(digits);
    names.iter().any(|name| {
        let commit = name.rsplit_once(':').map_or(*name, |(_, digits)| digits);
        *name == wanted || is_short && is_hex(commit) && commit.starts_with(digits)
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "main@sha1:0123456789abcdef0123456789abcdef01234567",
        "0123456789abcdef0123456789abcdef01234567",
        true
    )]
    #[case("main@sha1:0123456789abcdef0123456789abcdef01234567", "0123456", true)]
    #[case(
        "main@sha1:0123456789abcdef0123456789abcdef01234567",
        "sha1:0123456789abcdef0123456789abcdef01234567",
        true
    )]
    #[case("main@sha1:0123456789abcdef0123456789abcdef01234567", "012345", false)]
    #[case("main@sha1:0123456789abcdef0123456789abcdef01234567", "1234567", false)]
    #[case("feature/a@sha1:0123456789abcdef0123456789abcdef01234567", "0123456789", true)]
    #[case("main/0123456789abcdef0123456789abcdef01234567", "0123456", true)]
    #[case("v1.2.3@sha256:ab0123456789", "v1.2.3", true)]
    #[case("sha256:ab0123456789", "sha256:ab0123456789", true)]
    #[case("0123456789abcdef0123456789abcdef01234567", "0123456", true)]
    #[case("1.2.3", "1.2.3", true)]
    #[case("1.2.3", "1.2.30", false)]
    #[case("1.2.30", "1.2.3", false)]
    fn revisions(#[case] have: &str, #[case] wanted: &str, #[case] same: bool) {
        assert_eq!(is_revision(have, wanted), same);
    }

    #[test]
    fn no_token_is_the_same_twice() {
        let first = token();
        std::thread::sleep(Duration::from_micros(10));
        assert_ne!(first, token());
        assert!(first.parse::<jiff::Timestamp>().is_ok(), "{first}");
    }
}
