//! Pods that are not started: no node takes them, volumes are missing, their node is gone.

use serde_json::Value;

use super::{Cause, EventFact, Evidence, Finding, Policy, Weight, between, container, containers, flat};
use crate::deploy::status::{condition, list, text};

pub(super) fn findings(evidence: &Evidence, policy: &Policy, pod: &Value) -> Vec<Finding> {
    let name = text(pod, "/metadata/name");
    let node = Some(text(pod, "/spec/nodeName")).filter(|node| !node.is_empty());
    let mut found = Vec::new();
    if let Some(finding) = lost(evidence, policy, node, pod) {
        found.push(finding);
    } else if node.is_none() {
        found.extend(unscheduled(evidence, policy, pod));
    } else {
        found.extend(evicted(evidence, pod));
        found.extend(unmounted(evidence, policy, pod));
        found.extend(container::findings(evidence, policy, pod));
    }
    for finding in &mut found {
        finding.pod = Some(name.to_owned());
        finding.node = finding.node.take().or(node.map(str::to_owned));
    }
    found
}

/// The node is gone, or silent.
fn lost(evidence: &Evidence, policy: &Policy, node: Option<&str>, pod: &Value) -> Option<Finding> {
    let name = node?;
    let what = match evidence.nodes.get(name)? {
        super::Fact::Missing => "the node of its pod is not part of the cluster any more".to_owned(),
        super::Fact::Unknown => return None,
        super::Fact::Is(node) => {
            let ready = condition(node, "Ready")?;
            if ready.is_true() {
                return None;
            }
            match ready.status {
                "Unknown" => "the node of its pod has gone silent".to_owned(),
                _ => format!("the node of its pod is not ready: {}", flat(&ready.words())),
            }
        }
    };
    // What has ended has ended.
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return None;
    }
    let finding = Finding::new(&evidence.object, Cause::NodeGone, what).weighing(Weight::Grace(policy.late));
    let event =
        evidence.events_of("Pod", text(pod, "/metadata/name")).find(|event| event.reason == "NodeNotReady");
    Some(
        finding
            .seen(event.map(EventFact::line).unwrap_or_default())
            .advise(format!("see what has become of it (`kubectl describe node {name}`); its pods come up elsewhere after some minutes, if they may")),
    )
}

fn evicted(evidence: &Evidence, pod: &Value) -> Option<Finding> {
    let is = text(pod, "/status/phase") == "Failed" && text(pod, "/status/reason") == "Evicted";
    is.then(|| {
        let message = flat(text(pod, "/status/message"));
        Finding::new(&evidence.object, Cause::Evicted, format!("the node has evicted the pod: {message}"))
            .weighing(Weight::Told)
            .advise("say what its containers need in resources.requests, disk (`ephemeral-storage`) included")
    })
}

/// No node takes it.
fn unscheduled(evidence: &Evidence, policy: &Policy, pod: &Value) -> Option<Finding> {
    let scheduled = condition(pod, "PodScheduled").filter(|condition| condition.is_false())?;
    let message = scheduled.message;
    let new = |cause, what: String| Finding::new(&evidence.object, cause, what);
    if scheduled.reason == "SchedulingGated" {
        return Some(
            new(Cause::Unschedulable, "a scheduling gate holds it back".to_owned())
                .weighing(Weight::Told)
                .advise("whoever has set `spec.schedulingGates` must take them away"),
        );
    }
    let finding = match claim_fault(evidence, policy, pod, message) {
        Some(finding) => finding,
        None => {
            // An autoscaler that has begun is waited for as long as all else is.
            let scaling = evidence
                .events_of("Pod", text(pod, "/metadata/name"))
                .find(|event| matches!(&*event.reason, "TriggeredScaleUp" | "Nominated"));
            let weight = if scaling.is_some() { Weight::Told } else { Weight::Grace(policy.late) };
            placement(evidence, pod, message)
                .weighing(weight)
                .seen(scaling.map(EventFact::line).unwrap_or_default())
        }
    };
    Some(finding.seen(format!("scheduler: {}", flat(scheduling(message)))))
}

/// Without what the scheduler adds about preemption, which is of no use to anybody who deploys.
fn scheduling(message: &str) -> &str {
    let end =
        [" no new claims to deallocate", " preemption: "].iter().filter_map(|word| message.find(word)).min();
    message.get(..end.unwrap_or(message.len())).unwrap_or(message)
}

fn placement(evidence: &Evidence, pod: &Value, message: &str) -> Finding {
    let new = |cause, what: String| Finding::new(&evidence.object, cause, what);
    let lacking: Vec<&str> = message
        .match_indices("Insufficient ")
        .filter_map(|(at, word)| message.get(at + word.len()..)?.split([',', ' ']).next())
        .map(|name| name.trim_end_matches('.'))
        .collect();
    if !lacking.is_empty() {
        let asked: Vec<String> =
            lacking.iter().map(|name| format!("{name} {}", requested(pod, name))).collect();
        let finding = new(
            Cause::NoResources,
            format!("no node has room for what the pod asks for: {}", asked.join(", ")),
        );
        return lacking
            .iter()
            .fold(finding, |finding, name| finding.seen(largest(evidence, name)))
            .advise("ask for less in resources.requests, or add a node that has as much");
    }
    // Of several nodes each has its reason; where one has the labels that are asked for, its taint is the reason.
    let is_tainted = message.contains("untolerated taint");
    if message.contains("didn't match Pod's node affinity/selector")
        && !(is_tainted && is_labelled(evidence, pod))
    {
        let selector = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
        let pairs: Vec<String> = selector
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let wanted =
            if pairs.is_empty() { "its node affinity".to_owned() } else { format!("`{}`", pairs.join(",")) };
        return new(Cause::NodeSelector, format!("no node matches {wanted}")).advise(
            "correct `nodeSelector` or `affinity`, or label a node (`kubectl get nodes --show-labels`)",
        );
    }
    if is_tainted {
        // `{key: value}` until 1.33, `untolerated taint(s)` without saying which since.
        let named: Vec<String> = message
            .match_indices("untolerated taint {")
            .filter_map(|(at, word)| message.get(at + word.len()..)?.split_once('}').map(|(taint, _)| taint))
            .map(|taint| format!("`{}`", taint.trim().trim_end_matches(':').replace(": ", "=")))
            .collect();
        let named = if named.is_empty() { taints(evidence, pod) } else { named };
        return new(Cause::Taint, format!("the nodes keep it off by taints: {}", named.join(", ")))
            .advise("give the pod template a toleration for the taint, or take the taint off a node");
    }
    new(Cause::Unschedulable, format!("no node takes it: {}", flat(scheduling(message))))
        .advise("see what the nodes have (`kubectl describe nodes`)")
}

/// Whether a node has the labels that a pod selects nodes by.
fn is_labelled(evidence: &Evidence, pod: &Value) -> bool {
    evidence.nodes.values().filter_map(super::Fact::known).any(|node| has_labels(node, pod))
}

fn has_labels(node: &Value, pod: &Value) -> bool {
    let labels = node.pointer("/metadata/labels");
    let mut wanted = pod.pointer("/spec/nodeSelector").and_then(Value::as_object).into_iter().flatten();
    wanted.all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The taints of the nodes that the pod would go to, as far as they are known.
fn taints(evidence: &Evidence, pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let nodes = evidence.nodes.values().filter_map(super::Fact::known);
    for node in nodes.filter(|node| has_labels(node, pod)) {
        for taint in list(node, "/spec/taints") {
            let value = Some(text(taint, "/value")).filter(|value| !value.is_empty());
            let value = value.map(|value| format!("={value}")).unwrap_or_default();
            let taint = format!("`{}{value}:{}`", text(taint, "/key"), text(taint, "/effect"));
            if !found.contains(&taint) {
                found.push(taint);
            }
        }
    }
    if found.is_empty() { vec!["unknown".to_owned()] } else { found }
}

/// What the containers of a pod ask for, in their words.
fn requested(pod: &Value, resource: &str) -> String {
    let asked: Vec<&str> = containers(pod)
        .filter_map(|(spec, _, _)| spec.pointer("/resources/requests")?.get(resource)?.as_str())
        .collect();
    if asked.is_empty() { "?".to_owned() } else { asked.join(" + ") }
}

/// What nodes have of a resource.
fn largest(evidence: &Evidence, resource: &str) -> String {
    let nodes = evidence.nodes.iter().filter_map(|(name, node)| {
        let has = node.known()?.pointer("/status/allocatable")?.get(resource)?.as_str()?;
        Some(format!("node {name} has {resource} {has}"))
    });
    nodes.take(5).collect::<Vec<_>>().join(", ")
}

/// A claim that is not there or not bound keeps it from being placed.
fn claim_fault(evidence: &Evidence, policy: &Policy, pod: &Value, message: &str) -> Option<Finding> {
    if let Some(name) = between(message, "persistentvolumeclaim \"", "\" not found") {
        let late = if evidence.has_custom { policy.late } else { policy.grace };
        return Some(
            Finding::new(&evidence.object, Cause::ClaimUnbound, format!("the claim `{name}` does not exist"))
                .weighing(Weight::Grace(late))
                .advise("deploy the PersistentVolumeClaim too, or correct `claimName`"),
        );
    }
    let about_claims = [
        "unbound immediate PersistentVolumeClaim",
        "available persistent volumes to bind",
        "volume node affinity",
    ]
    .iter()
    .any(|word| message.contains(word));
    if !about_claims {
        return None;
    }
    let names = list(pod, "/spec/volumes")
        .iter()
        .filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str());
    let unbound = names.filter_map(|name| {
        let claim = evidence.claims.get(name)?.known()?;
        (text(claim, "/status/phase") != "Bound").then_some((name, claim))
    });
    let Some((name, claim)) = unbound.into_iter().next() else {
        return Some(
            Finding::new(
                &evidence.object,
                Cause::ClaimUnbound,
                "a claim of the pod has no volume that it could use",
            )
            .weighing(Weight::Grace(policy.late))
            .advise("see why (`kubectl describe pvc`)"),
        );
    };
    let class = claim.pointer("/spec/storageClassName").and_then(Value::as_str);
    let event = evidence.events_of("PersistentVolumeClaim", name).next();
    let said = event.map(|event| event.message.as_str()).unwrap_or_default();
    let (what, advice, weight) = if said.contains("no storage class is set")
        || class.is_none_or(str::is_empty)
    {
        (
            format!(
                "the claim `{name}` names no storage class, there is no default one, and no volume fits it"
            ),
            "name a class in `storageClassName` (`kubectl get storageclass`), or have a default one set"
                .to_owned(),
            policy.grace,
        )
    } else if said.contains("storageclass") && said.contains("not found") {
        let class = class.unwrap_or_default();
        (
            format!("the claim `{name}` names the storage class `{class}`, which does not exist"),
            "name one that does (`kubectl get storageclass`)".to_owned(),
            policy.grace,
        )
    } else {
        (
            format!("the claim `{name}` is not bound to a volume"),
            format!("see what its provisioner says (`kubectl describe pvc {name}`)"),
            policy.late,
        )
    };
    Some(
        Finding::new(&evidence.object, Cause::ClaimUnbound, what)
            .weighing(Weight::Grace(weight))
            .seen(event.map(EventFact::line).unwrap_or_default())
            .advise(advice),
    )
}

/// Volumes or the sandbox cannot be had. Only events tell of it.
fn unmounted(evidence: &Evidence, policy: &Policy, pod: &Value) -> Option<Finding> {
    let waits = containers(pod).any(|(_, state, _)| {
        matches!(
            state.map(|state| text(state, "/state/waiting/reason")),
            None | Some("ContainerCreating" | "PodInitializing")
        )
    });
    if text(pod, "/status/phase") != "Pending" || !waits {
        return None;
    }
    let event = evidence.events_of("Pod", text(pod, "/metadata/name")).find(|event| {
        matches!(&*event.reason, "FailedMount" | "FailedAttachVolume" | "FailedCreatePodSandBox")
    })?;
    let message = event.message.as_str();
    let late = if evidence.has_custom { policy.late } else { policy.grace };
    let volume = between(message, "for volume \"", "\"").unwrap_or("?");
    if let Some(finding) = reference_fault(evidence, message, Some((pod, volume))) {
        return Some(finding.weighing(Weight::Grace(late)).seen(event.line()));
    }
    let finding = if event.reason == "FailedCreatePodSandBox" {
        Finding::new(
            &evidence.object,
            Cause::SandboxFailed,
            format!("the node cannot set the pod up: {}", flat(message)),
        )
        .advise("it is a matter of the node and its network plugin, not of these manifests")
    } else {
        let why = message.split(" : ").nth(1).unwrap_or(message);
        Finding::new(
            &evidence.object,
            Cause::VolumeFailed,
            format!("the volume `{volume}` cannot be mounted: {}", flat(why)),
        )
        .advise("correct the volume, or bring what it needs to the node")
    };
    let grace = if message.contains("hostPath type check failed") { policy.grace } else { policy.late };
    Some(finding.weighing(Weight::Grace(grace)).seen(event.line()))
}

/// A ConfigMap, a Secret or one of their keys that is not there. `volume` is the pod and the volume concerned, if it is one.
pub(super) fn reference_fault(
    evidence: &Evidence,
    message: &str,
    volume: Option<(&Value, &str)>,
) -> Option<Finding> {
    let new = |cause, what: String| Finding::new(&evidence.object, cause, what);
    if let Some(name) = between(message, "configmap \"", "\" not found") {
        return Some(
            new(Cause::ConfigMapMissing, format!("the ConfigMap `{name}` does not exist in the namespace"))
                .advise("deploy it with the rest, or correct the name; `optional: true` does without"),
        );
    }
    if let Some(name) = between(message, "secret \"", "\" not found") {
        return Some(
            new(Cause::SecretMissing, format!("the Secret `{name}` does not exist in the namespace"))
                .advise("create it before deploying, or correct the name; `optional: true` does without"),
        );
    }
    for (word, kind) in [(" in ConfigMap ", "ConfigMap"), (" in Secret ", "Secret")] {
        if let Some(key) = between(message, "couldn't find key ", word) {
            let name =
                message.split(word).nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or("?");
            let name = name.rsplit('/').next().unwrap_or(name);
            return Some(key_fault(evidence, kind, name, key));
        }
    }
    if let Some((_, key)) = message.split_once("references non-existent") {
        let key = key.rsplit(": ").next().unwrap_or(key).trim();
        let (pod, volume) = volume?;
        let volume = list(pod, "/spec/volumes").iter().find(|one| text(one, "/name") == volume)?;
        let (kind, name) = match volume.pointer("/configMap/name").and_then(Value::as_str) {
            Some(name) => ("ConfigMap", name),
            None => ("Secret", volume.pointer("/secret/secretName").and_then(Value::as_str).unwrap_or("?")),
        };
        return Some(key_fault(evidence, kind, name, key));
    }
    None
}

fn key_fault(evidence: &Evidence, kind: &str, name: &str, key: &str) -> Finding {
    let keys = match kind {
        "ConfigMap" => evidence.config_maps.get(name).and_then(super::Fact::known),
        _ => evidence.secrets.get(name).and_then(super::Fact::known).map(|secret| &secret.keys),
    };
    let has = keys.map(|keys| {
        let names: Vec<String> = keys.iter().take(20).map(|key| format!("`{key}`")).collect();
        if names.is_empty() {
            format!("{kind} {name} is empty")
        } else {
            format!("{kind} {name} has {}", names.join(", "))
        }
    });
    Finding::new(&evidence.object, Cause::KeyMissing, format!("the {kind} `{name}` has no key `{key}`"))
        .seen(has.unwrap_or_default())
        .advise("correct the key, or add it; `optional: true` does without")
}
