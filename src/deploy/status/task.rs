//! Jobs and pods: what ends, and how.

use serde_json::Value;

use super::{Status, condition, count, list, plural, text};

/// How a Job has ended, if it has.
pub(super) fn job_end(object: &Value) -> Option<Status> {
    if condition(object, "Complete").is_some_and(|complete| complete.is_true()) {
        return Some(Status::Ready(None));
    }
    // The target is set while pods are still being ended; the outcome does not change any more.
    let failed = ["Failed", "FailureTarget"]
        .into_iter()
        .filter_map(|kind| condition(object, kind))
        .find(super::Condition::is_true)?;
    let pods = count(object, "/status/failed");
    let why = match failed.reason {
        "DeadlineExceeded" => match super::integer(object, "/spec/activeDeadlineSeconds") {
            Some(seconds) => format!("it ran for longer than its deadline of {seconds} s"),
            None => "it ran for longer than its deadline".to_owned(),
        },
        "BackoffLimitExceeded" => {
            format!("{} failed, and its backoff limit allows no more", plural(pods.max(1), "pod"))
        }
        _ => failed.words(),
    };
    Some(Status::failed(why))
}

pub(super) fn job(object: &Value) -> Status {
    if let Some(end) = job_end(object) {
        return end;
    }
    if object.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true) {
        return Status::skipped("it is suspended");
    }
    let succeeded = count(object, "/status/succeeded");
    let failed = count(object, "/status/failed");
    let active = count(object, "/status/active");
    let retried = if failed > 0 { format!(", {} failed", plural(failed, "pod")) } else { String::new() };
    // A queue of work has no number of completions: it is done when its pods say so.
    match object.pointer("/spec/completions").and_then(Value::as_u64) {
        Some(wanted) => Status::partly(
            succeeded.min(wanted),
            wanted,
            format!("{succeeded} of {} done{retried}", plural(wanted, "completion")),
        ),
        None => Status::missing(format!("{} at work{retried}", plural(active, "pod"))),
    }
}

pub(super) fn pod(object: &Value) -> Status {
    match text(object, "/status/phase") {
        "Succeeded" => return Status::Ready(Some("it has ended well".to_owned())),
        "Failed" => return Status::failed(pod_failure(object)),
        _ => {}
    }
    match condition(object, "Ready") {
        Some(ready) if ready.is_true() => Status::Ready(None),
        Some(ready) if !ready.message.is_empty() => Status::missing(ready.words()),
        _ => match condition(object, "PodScheduled") {
            Some(scheduled) if scheduled.is_false() => Status::missing(scheduled.words()),
            _ => Status::missing("it is not ready yet"),
        },
    }
}

fn pod_failure(object: &Value) -> String {
    let (reason, message) = (text(object, "/status/reason"), text(object, "/status/message"));
    if !message.is_empty() {
        return message.trim_end_matches('.').to_owned();
    }
    let ended = ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .flat_map(|place| list(object, place))
        .find_map(|container| {
            let code = container.pointer("/state/terminated/exitCode")?.as_i64().filter(|code| *code != 0)?;
            Some(format!("container `{}` ended with exit code {code}", text(container, "/name")))
        });
    ended.unwrap_or_else(|| if reason.is_empty() { "it failed".to_owned() } else { reason.to_owned() })
}
