//! Pods that are not even created: quota, Pod Security, limits, service accounts, webhooks, policies.
//!
//! Replica sets say so in a condition, everything else in events alone.

use serde_json::Value;

use super::{Cause, Evidence, Finding, Policy, Weight, between, flat};
use crate::deploy::status::{condition, text};

pub(super) fn finding(evidence: &Evidence, policy: &Policy) -> Option<Finding> {
    let message = refusal(evidence).filter(|message| is_an_answer(message))?;
    let finding = classify(evidence, policy, &message);
    Some(finding.seen(format!("the API server, to {}: {}", who(evidence), flat(&shown(&message)))))
}

fn who(evidence: &Evidence) -> String {
    format!(
        "{} {}",
        text(&evidence.creator, "/kind").to_lowercase(),
        text(&evidence.creator, "/metadata/name")
    )
}

/// Why a pod could not be created, if that is how it is now.
fn refusal(evidence: &Evidence) -> Option<String> {
    let creator = &evidence.creator;
    if let Some(failure) = condition(creator, "ReplicaFailure").filter(|condition| condition.is_true()) {
        return Some(failure.message.to_owned());
    }
    let kind = text(creator, "/kind");
    // A replica set takes the condition back when it succeeds. The others have events only, which stay: they count
    // while pods are missing.
    if kind == "ReplicaSet"
        || kind == "Deployment"
        || !evidence.pods.is_empty()
        || evidence.there >= wanted(creator)
    {
        return None;
    }
    let event = evidence
        .events_of(kind, text(creator, "/metadata/name"))
        .find(|event| event.reason == "FailedCreate")?;
    Some(event.message.clone())
}

/// How many pods it is to have; of others than these one is enough to show that they can be created.
fn wanted(creator: &Value) -> usize {
    let number = match text(creator, "/kind") {
        "StatefulSet" => creator.pointer("/spec/replicas"),
        "DaemonSet" => creator.pointer("/status/desiredNumberScheduled"),
        _ => None,
    };
    number.and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok()).unwrap_or(1)
}

/// Whether an API server has said it. A controller tells in the same words that it could not ask one, which restarts:
/// `Post "https://…/pods": dial tcp …: connect: connection refused`. It asks again.
fn is_an_answer(message: &str) -> bool {
    !shown(message).starts_with("Post \"")
}

/// Without what every controller puts before it, and the name of a pod that never was.
fn shown(message: &str) -> String {
    let message = message.strip_prefix("(combined from similar events): ").unwrap_or(message);
    let message = message.strip_prefix("Error creating: ").unwrap_or(message);
    match message.split_once("failed error: ") {
        Some((before, rest)) if before.starts_with("Create Pod ") => rest.to_owned(),
        _ => message.to_owned(),
    }
}

fn classify(evidence: &Evidence, policy: &Policy, message: &str) -> Finding {
    let new = |cause, what: String| Finding::new(&evidence.object, cause, what);
    let late = if evidence.has_custom { policy.late } else { policy.grace };
    if message.contains("violates PodSecurity") {
        let level = between(message, "violates PodSecurity \"", "\"").unwrap_or("of the namespace");
        let level = level.split(':').next().unwrap_or(level);
        return new(Cause::PodSecurity, format!("the namespace enforces the Pod Security Standard `{level}`, which its pods do not meet"))
            .advise("set what the message names in the pod template's securityContext")
            .advise("for `restricted`: runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities.drop: [ALL], seccompProfile.type: RuntimeDefault");
    }
    if message.contains("unable to validate against any security context constraint") {
        return new(Cause::PodSecurity, "no security context constraint lets its pods in".to_owned())
            .advise("take out of the securityContext what it does not need, or bind its service account to a wider constraint");
    }
    if let Some(quota) = between(message, "exceeded quota: ", ",") {
        let [asked, used, limited] = ["requested: ", "used: ", "limited: "].map(|word| part(message, word));
        return new(
            Cause::Quota,
            format!("the quota `{quota}` is used up: {asked} asked for, {used} used of {limited}"),
        )
        .weighing(Weight::Grace(policy.grace))
        .advise(format!(
            "ask for less, free some (`kubectl describe quota {quota}`), or have the quota raised"
        ))
        .advise(
            "a rolling update needs room for `maxSurge` more pods: `maxSurge: 0` does with what there is",
        );
    }
    if let Some(rest) = message.split("failed quota: ").nth(1) {
        let (quota, what) = rest.split_once(": ").unwrap_or((rest, ""));
        return new(
            Cause::Quota,
            format!("the quota `{quota}` wants every container to say what it needs: {}", flat(what)),
        )
        .advise(
            "set resources.requests and resources.limits of the containers, or a LimitRange with defaults",
        );
    }
    if ["maximum ", "minimum "].iter().any(|word| message.contains(&format!("{word}cpu usage per")))
        || message.contains(" usage per Container is ")
        || message.contains(" usage per Pod is ")
        || message.contains("limit to request ratio per")
    {
        let what = message.split("is forbidden: ").nth(1).unwrap_or(message);
        return new(
            Cause::LimitRange,
            format!("a LimitRange of the namespace does not allow its pods: {}", flat(what)),
        )
        .advise(
            "keep the containers' resources within it (`kubectl describe limitrange`), or have it changed",
        );
    }
    if message.contains("error looking up service account") {
        let name = between(message, "serviceaccount \"", "\"").unwrap_or("?");
        return new(Cause::ServiceAccountMissing, format!("the service account `{name}` does not exist in the namespace"))
            .weighing(Weight::Grace(late))
            .advise(format!("create it (`kubectl create serviceaccount {name}`), deploy it with the rest, or correct `serviceAccountName`"));
    }
    if message.contains("failed calling webhook") {
        let name = between(message, "failed calling webhook \"", "\"").unwrap_or("?");
        return new(Cause::WebhookDown, format!("the admission webhook `{name}` does not answer, and no pod is let in without it"))
            .weighing(Weight::Grace(policy.grace))
            .advise("see whether the webhook's own pods run, and whether the API server reaches them; it is not a matter of these manifests");
    }
    if message.contains("denied the request") {
        let name = between(message, "admission webhook \"", "\"").unwrap_or("?");
        let why = message.split("denied the request: ").nth(1).unwrap_or("it gives no reason");
        return new(
            Cause::Policy,
            format!("the admission webhook `{name}` does not let its pods in: {}", flat(why)),
        )
        .advise("meet what it asks for, or talk to who runs it");
    }
    if message.contains("ValidatingAdmissionPolicy") {
        let name = between(message, "ValidatingAdmissionPolicy '", "'").unwrap_or("?");
        let why = message.split("denied request: ").nth(1).unwrap_or("it gives no reason");
        return new(Cause::Policy, format!("the policy `{name}` does not let its pods in: {}", flat(why)))
            .advise("meet what it asks for, or talk to who made it");
    }
    let what = message.split("is forbidden: ").nth(1).unwrap_or(message);
    new(Cause::PodRefused, format!("its pods cannot be created: {}", flat(&shown(what))))
        .weighing(Weight::Grace(policy.grace))
        .advise("change the pod template so that the API server takes it")
}

/// `pods=1` of `requested: pods=1, used: …`
fn part(message: &str, word: &str) -> String {
    let Some((_, rest)) = message.split_once(word) else { return "?".to_owned() };
    // Several resources are told as `a=1,b=2`; a comma and a space ends them.
    rest.split(", ").next().unwrap_or(rest).to_owned()
}
