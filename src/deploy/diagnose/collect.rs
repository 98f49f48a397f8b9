//! Asking the cluster for evidence: only for what is wrong somewhere, and for each thing once a round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::containers;
use super::evidence::{EventFact, Evidence, Fact, PullCheck};
use super::pull::{PullLogin, Puller, read_secret};
use crate::deploy::cluster::{ApiError, Cluster};
use crate::deploy::object::ObjectId;
use crate::deploy::status::{condition, count, list, text};

/// Pods of a workload that are looked at closely: what is wrong with more of them is the same again.
const CLOSELY: usize = 3;
/// Lines of a log that are asked for, and bytes at the most.
const LOG: &str = "tailLines=20&limitBytes=16384";
/// How long the answer of a registry is good.
const CHECKED: Duration = Duration::from_secs(10);
/// Where a workload has the template of its pods.
pub(crate) const TEMPLATE: &str = "/spec/template";
/// The label by which a Deployment's controller tells the pods of its replica sets apart.
const HASH: &str = "pod-template-hash";
/// Nodes that are read where none takes a pod.
const NODES: usize = 200;

/// Whom to ask about.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// Which object.
    pub id: &'a ObjectId,
    /// The object as it is.
    pub object: &'a Value,
    /// Whether others of the same run are on their way.
    pub others_under_way: bool,
    /// Whether custom resources are part of the run.
    pub has_custom: bool,
    /// Whether it is ready, and watched for a moment: a liveness probe may have begun to fail.
    pub is_settling: bool,
}

/// Asks for evidence.
#[derive(Debug)]
pub struct Collector {
    cluster: Cluster,
    puller: Option<Puller>,
    checks: Mutex<BTreeMap<(String, String), (Instant, PullCheck)>>,
}

impl Collector {
    /// Asks `cluster`, and registries through `puller`.
    pub fn new(cluster: Cluster, puller: Option<Puller>) -> Self {
        Self { cluster, puller, checks: Mutex::default() }
    }

    /// What is known of a workload now. What may not be asked is noted.
    pub async fn collect(&self, subject: &Subject<'_>) -> Evidence {
        let mut evidence = Evidence::of(subject.id.clone(), subject.object.clone());
        evidence.others_under_way = subject.others_under_way;
        evidence.has_custom = subject.has_custom;
        let Some(namespace) = subject.id.namespace.as_deref() else { return evidence };
        self.pods(&mut evidence, namespace).await;
        evidence.there = evidence.pods.len();
        evidence.pods.retain(|pod| is_troubled(pod) || subject.is_settling && is_probed_for_life(pod));
        // Those that have shown most come first.
        evidence.pods.sort_by_key(|pod| std::cmp::Reverse(trouble(pod)));
        let mut names = vec![text(&evidence.creator, "/metadata/name").to_owned()];
        let close: Vec<Value> = evidence.pods.iter().take(CLOSELY).cloned().collect();
        names.extend(close.iter().map(|pod| text(pod, "/metadata/name").to_owned()));
        names.extend(claims_of(&close));
        names.dedup();
        self.events(&mut evidence, namespace, &names).await;
        for pod in &close {
            self.surroundings(&mut evidence, namespace, pod).await;
        }
        self.logs(&mut evidence, namespace, &close).await;
        evidence
    }

    /// The pods of the newest revision, and what creates them.
    async fn pods(&self, evidence: &mut Evidence, namespace: &str) {
        let workload = evidence.workload.clone();
        let uid = text(&workload, "/metadata/uid");
        let kind = evidence.object.kind.clone();
        let selector = selector(&workload);
        let (owner, wanted): (String, Option<(&str, String)>) = match (&*kind.group, &*kind.kind) {
            ("", "Pod") => {
                evidence.pods = vec![workload];
                return;
            }
            ("apps", "Deployment") => {
                let path = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
                let found = self.list(evidence, "replica sets", &path, &[("labelSelector", &selector)]).await;
                // With `Recreate` there is none of the new revision until no pod of the old one is left.
                let wanted = template(&workload, TEMPLATE);
                let newest = found
                    .into_iter()
                    .filter(|set| is_owned(set, uid) && template(set, TEMPLATE) == wanted)
                    .max_by_key(|set| (revision(set), text(set, "/metadata/creationTimestamp").to_owned()));
                let Some(mut newest) = newest else { return };
                newest["kind"] = json!("ReplicaSet");
                newest["apiVersion"] = json!("apps/v1");
                let owner = text(&newest, "/metadata/uid").to_owned();
                evidence.creator = newest;
                (owner, None)
            }
            ("apps", "StatefulSet") => {
                let revision = text(&workload, "/status/updateRevision").to_owned();
                (uid.to_owned(), Some(("controller-revision-hash", revision)))
            }
            ("apps", "DaemonSet") => {
                let generation = annotation(&workload, "deprecated.daemonset.template.generation").to_owned();
                (uid.to_owned(), Some(("pod-template-generation", generation)))
            }
            ("batch", "Job") | ("apps", "ReplicaSet") | ("", "ReplicationController") => {
                (uid.to_owned(), None)
            }
            _ => return,
        };
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let found = self.list(evidence, "pods", &path, &[("labelSelector", &selector)]).await;
        let is_new = |pod: &Value| match &wanted {
            Some((label, value)) if !value.is_empty() => self::label(pod, label) == value,
            _ => true,
        };
        evidence.pods = found.into_iter().filter(|pod| is_owned(pod, &owner) && is_new(pod)).collect();
    }

    async fn events(&self, evidence: &mut Evidence, namespace: &str, names: &[String]) {
        let path = format!("/api/v1/namespaces/{namespace}/events");
        let path = path.as_str();
        let lists = join_all(names.iter().map(|name| async move {
            let selector = format!("involvedObject.name={name}");
            self.cluster.list(path, &[("fieldSelector", &selector)]).await
        }))
        .await;
        for found in lists {
            match found {
                Ok(found) => evidence.events.extend(found.items.iter().map(EventFact::new)),
                Err(error) => note(evidence, "events", &error),
            }
        }
    }

    /// What a pod stands on, as far as it may be the reason.
    async fn surroundings(&self, evidence: &mut Evidence, namespace: &str, pod: &Value) {
        let node = text(pod, "/spec/nodeName");
        if node.is_empty() {
            if condition(pod, "PodScheduled").is_some_and(|condition| condition.is_false()) {
                self.nodes(evidence).await;
                for claim in claims_of(std::slice::from_ref(pod)) {
                    let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}");
                    let fact = self.fact(evidence, "claims", &path).await;
                    evidence.claims.insert(claim, fact);
                }
            }
            return;
        }
        if !evidence.nodes.contains_key(node) {
            // Nodes may not be read by many a CI job, and are the reason seldom: no word of it.
            let fact = match self.cluster.find(&format!("/api/v1/nodes/{node}")).await {
                Ok(Some(node)) => Fact::Is(node),
                Ok(None) => Fact::Missing,
                Err(_) => Fact::Unknown,
            };
            evidence.nodes.insert(node.to_owned(), fact);
        }
        self.references(evidence, namespace, pod).await;
        self.images(evidence, namespace, pod).await;
    }

    async fn nodes(&self, evidence: &mut Evidence) {
        if !evidence.nodes.is_empty() {
            return;
        }
        if let Ok(found) = self.cluster.list("/api/v1/nodes", &[]).await {
            for node in found.items.into_iter().take(NODES) {
                evidence.nodes.insert(text(&node, "/metadata/name").to_owned(), Fact::Is(node));
            }
        }
    }

    /// The ConfigMaps and Secrets in which keys are missing: what keys they have helps.
    async fn references(&self, evidence: &mut Evidence, namespace: &str, pod: &Value) {
        let name = text(pod, "/metadata/name");
        let mut said: Vec<String> = containers(pod)
            .filter_map(|(_, state, _)| Some(text(state?, "/state/waiting/message").to_owned()))
            .collect();
        said.extend(evidence.events_of("Pod", name).map(|event| event.message.clone()));
        if !said.iter().any(|text| text.contains("find key") || text.contains("references non-existent")) {
            return;
        }
        let mut maps = BTreeSet::new();
        let mut secrets = BTreeSet::new();
        walk(pod.get("spec").unwrap_or(&Value::Null), &mut |key, value| match key {
            "configMap" | "configMapRef" | "configMapKeyRef" => {
                maps.extend([text(value, "/name").to_owned()])
            }
            "secretRef" | "secretKeyRef" => secrets.extend([text(value, "/name").to_owned()]),
            "secret" => secrets.extend([text(value, "/secretName").to_owned()]),
            _ => {}
        });
        let said = said.join("\n");
        for map in maps
            .into_iter()
            .filter(|map| !map.is_empty() && (said.contains(map.as_str()) || said.contains("references")))
        {
            let path = format!("/api/v1/namespaces/{namespace}/configmaps/{map}");
            let fact = match self.fact(evidence, "ConfigMaps", &path).await {
                Fact::Is(found) => Fact::Is(keys(&found)),
                Fact::Missing => Fact::Missing,
                Fact::Unknown => Fact::Unknown,
            };
            evidence.config_maps.insert(map, fact);
        }
        for secret in secrets
            .into_iter()
            .filter(|name| !name.is_empty() && (said.contains(name.as_str()) || said.contains("references")))
        {
            self.secret(evidence, namespace, &secret).await;
        }
    }

    /// Reads a Secret; gives what a registry can be asked with.
    async fn secret(&self, evidence: &mut Evidence, namespace: &str, name: &str) -> Vec<PullLogin> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let (fact, logins) = match self.fact(evidence, "Secrets", &path).await {
            Fact::Is(secret) => {
                let (fact, logins) = read_secret(&secret);
                (Fact::Is(fact), logins)
            }
            Fact::Missing => (Fact::Missing, Vec::new()),
            Fact::Unknown => (Fact::Unknown, Vec::new()),
        };
        evidence.secrets.insert(name.to_owned(), fact);
        logins
    }

    /// Asks registries for the images that cannot be pulled, with the pod's own Secrets.
    async fn images(&self, evidence: &mut Evidence, namespace: &str, pod: &Value) {
        let wanted: BTreeSet<String> = containers(pod)
            .filter(|(_, state, _)| {
                state.is_some_and(is_pulling_in_vain) || state.is_some_and(may_be_foreign)
            })
            .map(|(spec, _, _)| text(spec, "/image").to_owned())
            .collect();
        if wanted.is_empty() {
            return;
        }
        let mut logins = BTreeMap::new();
        for secret in list(pod, "/spec/imagePullSecrets") {
            let name = text(secret, "/name");
            if !name.is_empty() {
                logins.insert(name.to_owned(), self.secret(evidence, namespace, name).await);
            }
        }
        let Some(puller) = &self.puller else { return };
        for image in wanted {
            let key = (namespace.to_owned(), image.clone());
            let known = self
                .lock()
                .get(&key)
                .filter(|(at, _)| at.elapsed() < CHECKED)
                .map(|(_, check)| check.clone());
            let check = match known {
                Some(check) => check,
                None => {
                    let check = puller.check(&image, &logins).await;
                    self.lock().insert(key, (Instant::now(), check.clone()));
                    check
                }
            };
            evidence.registries.insert(image, check);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), (Instant, PullCheck)>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn logs(&self, evidence: &mut Evidence, namespace: &str, pods: &[Value]) {
        let mut wanted = Vec::new();
        for pod in pods {
            for (spec, state, _) in containers(pod) {
                let Some(previous) = state.and_then(log_of) else { continue };
                wanted.push((
                    text(pod, "/metadata/name").to_owned(),
                    text(spec, "/name").to_owned(),
                    previous,
                ));
            }
        }
        let read = wanted.iter().map(|(pod, container, previous)| async move {
            let root = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&{LOG}");
            let path = if *previous { format!("{root}&previous=true") } else { root.clone() };
            match self.cluster.text(&path).await {
                // The one before is not kept for ever.
                Err(ApiError::Refused(refusal)) if refusal.code == 400 && *previous => {
                    self.cluster.text(&root).await
                }
                other => other,
            }
        });
        let read = join_all(read).await;
        for ((pod, container, _), log) in wanted.into_iter().zip(read) {
            match log {
                Ok(log) => {
                    let lines =
                        log.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty());
                    evidence.logs.insert((pod, container), lines.collect());
                }
                Err(error) if error.is_forbidden() => note(evidence, "logs", &error),
                // A container that is being started has none yet.
                Err(_) => {}
            }
        }
    }

    async fn list(
        &self,
        evidence: &mut Evidence,
        what: &str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Vec<Value> {
        match self.cluster.list(path, query).await {
            Ok(found) => found.items,
            Err(error) => {
                note(evidence, what, &error);
                Vec::new()
            }
        }
    }

    async fn fact(&self, evidence: &mut Evidence, what: &str, path: &str) -> Fact<Value> {
        match self.cluster.find(path).await {
            Ok(Some(value)) => Fact::Is(value),
            Ok(None) => Fact::Missing,
            Err(error) => {
                note(evidence, what, &error);
                Fact::Unknown
            }
        }
    }
}

/// That something could not be asked, once.
fn note(evidence: &mut Evidence, what: &str, error: &ApiError) {
    let text = if error.is_forbidden() {
        format!("{what} may not be read here, so what they say is missing: {error}")
    } else {
        format!("{what} cannot be read: {error}")
    };
    if !evidence.notes.contains(&text) {
        evidence.notes.push(text);
    }
}

fn is_owned(object: &Value, uid: &str) -> bool {
    list(object, "/metadata/ownerReferences").iter().any(|owner| text(owner, "/uid") == uid)
}

fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(name)?.as_str()).unwrap_or_default()
}

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    object.pointer("/metadata/annotations").and_then(|map| map.get(name)?.as_str()).unwrap_or_default()
}

/// The revision of a replica set.
pub(crate) fn revision(set: &Value) -> u64 {
    annotation(set, "deployment.kubernetes.io/revision").parse().unwrap_or(0)
}

/// The template of a workload or of a revision, without what a controller or a patch has put into it.
pub(crate) fn template(object: &Value, place: &str) -> Value {
    let mut template = object.pointer(place).cloned().unwrap_or_default();
    if let Some(template) = template.as_object_mut() {
        // How a ControllerRevision says that it is the whole.
        template.remove("$patch");
    }
    if let Some(Value::Object(labels)) = template.pointer_mut("/metadata/labels") {
        labels.remove(HASH);
    }
    if let Some(Value::Object(metadata)) = template.get_mut("metadata") {
        metadata.retain(|_, value| !value.is_null());
    }
    template
}

/// A workload's selector as a query.
pub(crate) fn selector(workload: &Value) -> String {
    // A ReplicationController's is the map of labels itself.
    let labels = workload
        .pointer("/spec/selector/matchLabels")
        .or_else(|| workload.pointer("/spec/selector").filter(|map| map.get("matchExpressions").is_none()));
    let mut parts: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for expression in list(workload, "/spec/selector/matchExpressions") {
        let key = text(expression, "/key");
        let values: Vec<&str> = list(expression, "/values").iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        match text(expression, "/operator") {
            "In" => parts.push(format!("{key} in ({values})")),
            "NotIn" => parts.push(format!("{key} notin ({values})")),
            "Exists" => parts.push(key.to_owned()),
            "DoesNotExist" => parts.push(format!("!{key}")),
            _ => {}
        }
    }
    parts.join(",")
}

fn claims_of(pods: &[Value]) -> Vec<String> {
    let volumes = pods.iter().flat_map(|pod| list(pod, "/spec/volumes"));
    let names = volumes.filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str());
    names.map(str::to_owned).collect()
}

fn keys(map: &Value) -> BTreeSet<String> {
    let of = |field| map.get(field).and_then(Value::as_object).into_iter().flatten();
    of("data").chain(of("binaryData")).map(|(key, _)| key.clone()).collect()
}

fn walk(value: &Value, found: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found(key, value);
                walk(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        _ => {}
    }
}

/// Whether a pod is not as it should be.
fn is_troubled(pod: &Value) -> bool {
    let ready = condition(pod, "Ready").is_some_and(|ready| ready.is_true());
    let restarted =
        containers(pod).any(|(_, state, _)| state.is_some_and(|state| count(state, "/restartCount") > 0));
    text(pod, "/status/phase") != "Succeeded" && (!ready || restarted)
}

fn is_probed_for_life(pod: &Value) -> bool {
    list(pod, "/spec/containers").iter().any(|container| container.get("livenessProbe").is_some())
}

/// The more, the more it has to tell.
fn trouble(pod: &Value) -> u64 {
    let states = containers(pod).filter_map(|(_, state, _)| state);
    let of = |state: &Value| {
        let waits =
            !matches!(text(state, "/state/waiting/reason"), "" | "ContainerCreating" | "PodInitializing");
        let ended =
            state.pointer("/state/terminated/exitCode").and_then(Value::as_i64).is_some_and(|code| code != 0);
        count(state, "/restartCount") + 10 * u64::from(waits) + 10 * u64::from(ended)
    };
    states.map(of).sum::<u64>() + u64::from(text(pod, "/status/phase") == "Failed") * 5
}

fn is_pulling_in_vain(state: &Value) -> bool {
    matches!(
        text(state, "/state/waiting/reason"),
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable"
    )
}

/// What ends at once may be a program for another machine.
fn may_be_foreign(state: &Value) -> bool {
    let code = |place| state.pointer(place).and_then(Value::as_i64);
    [code("/state/terminated/exitCode"), code("/lastState/terminated/exitCode")]
        .into_iter()
        .flatten()
        .any(|code| matches!(code, 1 | 126 | 255))
        && count(state, "/restartCount") < 3
}

/// Whether a container's log is worth reading, and whether it is that of the one before.
fn log_of(state: &Value) -> Option<bool> {
    if let Some(ended) = state.pointer("/state/terminated") {
        let started =
            !matches!(text(ended, "/reason"), "StartError" | "ContainerCannotRun" | "ContainerStatusUnknown");
        return started.then_some(false);
    }
    let before = state.pointer("/lastState/terminated").filter(|ended| {
        !matches!(text(ended, "/reason"), "StartError" | "ContainerCannotRun" | "ContainerStatusUnknown")
    });
    if before.is_some() {
        return Some(true);
    }
    let is_ready = state.get("ready").and_then(Value::as_bool) == Some(true);
    (state.pointer("/state/running").is_some() && !is_ready).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_compared_without_what_was_added() {
        let set = json!({"data": {"template": {
            "metadata": {"creationTimestamp": null, "labels": {"app": "a", HASH: "x"}}, "$patch": "replace",
        }}});
        assert_eq!(template(&set, "/data/template"), json!({"metadata": {"labels": {"app": "a"}}}));
    }
}
