//! Deployments, stateful sets, daemon sets, replica sets: as many pods of the new revision as were asked for, and no
//! other.

use serde_json::Value;

use super::{Progress, Said, Status, condition, count, integer, plural, text};

/// Deployments without a deadline have this one (`kubectl rollout status` and the controller agree on it).
const NO_DEADLINE: i64 = i32::MAX as i64;

/// The replicas that are asked for; one, if nothing is said.
fn wanted(object: &Value) -> u64 {
    object.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1)
}

/// Until its controller has written a status for the first time there is nothing to go by.
fn has_status(object: &Value) -> bool {
    integer(object, "/status/observedGeneration").is_some()
}

fn with_trouble(object: &Value, status: Status) -> Status {
    let failure = condition(object, "ReplicaFailure").filter(super::Condition::is_true);
    match (status, failure) {
        (Status::InProgress(progress), Some(failure)) => {
            Status::InProgress(Progress { trouble: Some(failure.words()), ..progress })
        }
        (status, _) => status,
    }
}

/// `before` is what was said of its progress before it was changed: the controller says that it has seen the new generation
/// with the old condition beside it, as long as there is no new replica set to speak of.
pub(super) fn deployment(object: &Value, before: Option<&Said>) -> Status {
    if object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
        return Status::skipped("it is paused: nothing is rolled out until `kubectl rollout resume`");
    }
    if !has_status(object) {
        return Status::missing("its controller has not seen it yet");
    }
    let progressing = condition(object, "Progressing");
    if let Some(progressing) = progressing
        && progressing.reason == "ProgressDeadlineExceeded"
        && (before.is_none() || before != Said::of_progress(object).as_ref())
    {
        let failure = condition(object, "ReplicaFailure").filter(super::Condition::is_true);
        let because = failure.map(|failure| format!(": {}", failure.words())).unwrap_or_default();
        let deadline = integer(object, "/spec/progressDeadlineSeconds").unwrap_or(600);
        return Status::failed(format!("it made no progress for {deadline} s{because}"));
    }
    with_trouble(object, deployment_counts(object, progressing.map(|condition| condition.reason)))
}

fn deployment_counts(object: &Value, progressing: Option<&str>) -> Status {
    let wanted = wanted(object);
    let [all, updated, available, ready] =
        ["replicas", "updatedReplicas", "availableReplicas", "readyReplicas"]
            .map(|field| count(object, &format!("/status/{field}")));
    // Those available may be old ones: at least so many of them are not.
    let done = available.saturating_sub(all.saturating_sub(updated)).min(updated);
    let partly = |why: String| Status::partly(done.min(wanted), wanted, why);
    if updated < wanted {
        return partly(format!("{updated} of {} updated", plural(wanted, "replica")));
    }
    if all > updated {
        return partly(format!("{} to end", plural(all - updated, "old replica")));
    }
    if all > wanted {
        return partly(format!("{} to end", plural(all - wanted, "replica")));
    }
    if ready < wanted {
        return partly(format!("{ready} of {} ready", plural(wanted, "replica")));
    }
    if available < wanted {
        return partly(format!("{available} of {} available", plural(wanted, "replica")));
    }
    let deadline = integer(object, "/spec/progressDeadlineSeconds");
    if deadline.is_some_and(|deadline| deadline != NO_DEADLINE)
        && progressing != Some("NewReplicaSetAvailable")
    {
        return partly("its controller has not called it complete yet".to_owned());
    }
    if !condition(object, "Available").is_some_and(|available| available.is_true()) {
        return partly("it is not available yet".to_owned());
    }
    Status::Ready((wanted == 0).then(|| "it has no replicas, as it says".to_owned()))
}

pub(super) fn stateful_set(object: &Value) -> Status {
    if !has_status(object) {
        return Status::missing("its controller has not seen it yet");
    }
    let wanted = wanted(object);
    let [all, updated, ready] = ["replicas", "updatedReplicas", "readyReplicas"]
        .map(|field| count(object, &format!("/status/{field}")));
    let available = object.pointer("/status/availableReplicas").and_then(Value::as_u64).unwrap_or(ready);
    let same = text(object, "/status/currentRevision") == text(object, "/status/updateRevision");
    let on_delete = text(object, "/spec/updateStrategy/type") == "OnDelete";
    let partition = count(object, "/spec/updateStrategy/rollingUpdate/partition").min(wanted);
    let to_update = if on_delete { 0 } else { wanted - partition };
    let done = available.min(if same || on_delete { available } else { updated + partition });
    let partly = |why: String| Status::partly(done.min(wanted), wanted, why);
    if !on_delete && !same && updated < to_update {
        return partly(format!("{updated} of {} updated", plural(to_update, "replica")));
    }
    if all < wanted {
        return partly(format!("{all} of {} created", plural(wanted, "replica")));
    }
    if all > wanted {
        return partly(format!("{} to end", plural(all - wanted, "replica")));
    }
    if ready < wanted {
        return partly(format!("{ready} of {} ready", plural(wanted, "replica")));
    }
    if available < wanted {
        return partly(format!("{available} of {} available", plural(wanted, "replica")));
    }
    if on_delete && !same {
        return Status::skipped("its strategy is OnDelete: a pod becomes the new one when it is deleted");
    }
    if partition == 0 && !same {
        return partly("its controller has not called the revision current yet".to_owned());
    }
    let kept = partition > 0 && !same;
    Status::Ready(
        kept.then(|| format!("{} the partition keeps at the old revision", plural(partition, "replica"))),
    )
}

pub(super) fn daemon_set(object: &Value) -> Status {
    if !has_status(object) {
        return Status::missing("its controller has not seen it yet");
    }
    let [wanted, scheduled, updated, ready, available] = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "updatedNumberScheduled",
        "numberReady",
        "numberAvailable",
    ]
    .map(|field| count(object, &format!("/status/{field}")));
    let on_delete = text(object, "/spec/updateStrategy/type") == "OnDelete";
    let done = if on_delete { available } else { available.min(updated) };
    let partly = |why: String| Status::partly(done.min(wanted), wanted, why);
    if scheduled < wanted {
        return partly(format!("{scheduled} of {} created", plural(wanted, "pod")));
    }
    if !on_delete && updated < wanted {
        return partly(format!("{updated} of {} updated", plural(wanted, "pod")));
    }
    if ready < wanted {
        return partly(format!("{ready} of {} ready", plural(wanted, "pod")));
    }
    if available < wanted {
        return partly(format!("{available} of {} available", plural(wanted, "pod")));
    }
    if updated < wanted {
        return Status::skipped("its strategy is OnDelete: a pod becomes the new one when it is deleted");
    }
    Status::Ready((wanted == 0).then(|| "no node takes its pods".to_owned()))
}

pub(super) fn replica_set(object: &Value) -> Status {
    if !has_status(object) {
        return Status::missing("its controller has not seen it yet");
    }
    let wanted = wanted(object);
    let [all, available] =
        ["replicas", "availableReplicas"].map(|field| count(object, &format!("/status/{field}")));
    if all > wanted {
        return Status::partly(
            available.min(wanted),
            wanted,
            format!("{} to end", plural(all - wanted, "replica")),
        );
    }
    if available < wanted {
        let why = format!("{available} of {} available", plural(wanted, "replica"));
        return with_trouble(object, Status::partly(available, wanted, why));
    }
    Status::Ready(None)
}
