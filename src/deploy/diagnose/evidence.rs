//! What is known of a workload that does not come to life.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::deploy::object::ObjectId;
use crate::deploy::status::text;

/// Something that was asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Fact<T> {
    /// It was not asked for, or there was no answer.
    #[default]
    Unknown,
    /// There is no such thing.
    Missing,
    /// It is this.
    Is(T),
}

impl<T> Fact<T> {
    /// The thing, if it is there.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Is(thing) => Some(thing),
            Self::Unknown | Self::Missing => None,
        }
    }

    /// Whether it is known that there is none.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

/// What may be known of a Secret without knowing it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretFact {
    /// Its type.
    pub kind: String,
    /// The names of its keys.
    pub keys: BTreeSet<String>,
    /// The registries that it has credentials for, as they are written.
    pub hosts: Vec<String>,
    /// It is said to hold credentials, and they cannot be read.
    pub is_broken: bool,
    /// It holds the token of a CI job, which ends with the job.
    pub is_job_token: bool,
}

/// An event of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFact {
    /// The kind of the object concerned.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its part: `spec.containers{app}`.
    pub part: String,
    /// In one word.
    pub reason: String,
    /// In words.
    pub message: String,
    /// How often it has happened.
    pub count: u64,
    /// When it last happened, RFC 3339.
    pub last: String,
}

impl EventFact {
    /// From an event of `v1`.
    pub fn new(event: &Value) -> Self {
        let series = event.pointer("/series/count").and_then(Value::as_u64);
        let count = event.get("count").and_then(Value::as_u64).or(series).unwrap_or(1);
        let last =
            ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
                .into_iter()
                .map(|place| text(event, place))
                .find(|time| !time.is_empty())
                .unwrap_or_default();
        Self {
            kind: text(event, "/involvedObject/kind").to_owned(),
            name: text(event, "/involvedObject/name").to_owned(),
            part: text(event, "/involvedObject/fieldPath").to_owned(),
            reason: text(event, "/reason").to_owned(),
            message: text(event, "/message").to_owned(),
            count: count.max(1),
            last: last.to_owned(),
        }
    }

    /// Whether it is of this container.
    pub fn is_of_container(&self, name: &str) -> bool {
        self.part.split_once('{').is_some_and(|(_, rest)| rest.trim_end_matches('}') == name)
    }

    /// `event Unhealthy (5 times): Readiness probe failed: …`
    pub fn line(&self) -> String {
        let times = if self.count > 1 { format!(" ({} times)", self.count) } else { String::new() };
        format!("event {}{times}: {}", self.reason, super::flat(&self.message))
    }
}

/// What a registry answers when it is asked for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullAnswer {
    /// The image is there, for these platforms (none, if it does not say).
    There {
        /// `linux/amd64`, …
        platforms: Vec<String>,
    },
    /// There is no such tag or digest, or no such repository.
    NotFound,
    /// These credentials are not taken, or credentials are wanted.
    Refused,
    /// It cannot be reached from here.
    Unreachable(String),
    /// Its certificate is not trusted here.
    Tls(String),
    /// Something else came of it.
    Other(String),
}

/// What a registry says of an image to those who may ask in the pod's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullCheck {
    /// Without credentials.
    pub anonymous: Option<PullAnswer>,
    /// With each of the pull secrets that have credentials for it, by name.
    pub with: BTreeMap<String, PullAnswer>,
}

impl PullCheck {
    /// All answers.
    pub fn answers(&self) -> impl Iterator<Item = &PullAnswer> {
        self.with.values().chain(&self.anonymous)
    }
}

/// What is known of a workload.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Which object.
    pub object: ObjectId,
    /// The object.
    pub workload: Value,
    /// What creates its pods: the newest replica set, or the workload itself.
    pub creator: Value,
    /// The pods of its newest revision with which something may be wrong.
    pub pods: Vec<Value>,
    /// How many pods of its newest revision there are, the sound ones among them.
    pub there: usize,
    /// What has happened to it, its creator, its pods and its claims.
    pub events: Vec<EventFact>,
    /// Secrets that pods name.
    pub secrets: BTreeMap<String, Fact<SecretFact>>,
    /// ConfigMaps that pods name, by their keys.
    pub config_maps: BTreeMap<String, Fact<BTreeSet<String>>>,
    /// Claims that pods name.
    pub claims: BTreeMap<String, Fact<Value>>,
    /// The nodes that pods are on, or all nodes where none takes them.
    pub nodes: BTreeMap<String, Fact<Value>>,
    /// The last lines of containers, by pod and container.
    pub logs: BTreeMap<(String, String), Vec<String>>,
    /// What registries say, by image as it is written.
    pub registries: BTreeMap<String, PullCheck>,
    /// Whether other objects of the same run are still on their way, so that something may yet come.
    pub others_under_way: bool,
    /// Whether custom resources are part of the run, which may make Secrets and the like.
    pub has_custom: bool,
    /// What could not be asked.
    pub notes: Vec<String>,
}

impl Evidence {
    /// Nothing but the object itself.
    pub fn of(object: ObjectId, workload: Value) -> Self {
        Self {
            object,
            creator: workload.clone(),
            workload,
            pods: Vec::new(),
            there: 0,
            events: Vec::new(),
            secrets: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            claims: BTreeMap::new(),
            nodes: BTreeMap::new(),
            logs: BTreeMap::new(),
            registries: BTreeMap::new(),
            others_under_way: false,
            has_custom: false,
            notes: Vec::new(),
        }
    }

    /// Events of an object, the newest first.
    pub fn events_of<'a>(&'a self, kind: &str, name: &str) -> impl Iterator<Item = &'a EventFact> + use<'a> {
        let mut found: Vec<&EventFact> =
            self.events.iter().filter(|event| event.kind == kind && event.name == name).collect();
        found.sort_by(|a, b| b.last.cmp(&a.last));
        found.into_iter()
    }

    /// The newest event of a container for one of these reasons.
    pub fn container_event(&self, pod: &str, container: &str, reasons: &[&str]) -> Option<&EventFact> {
        self.events_of("Pod", pod)
            .find(|event| event.is_of_container(container) && reasons.contains(&event.reason.as_str()))
    }
}
