//! What is no workload: claims, services, definitions, namespaces, and custom resources by the conditions that most of
//! them have.

use serde_json::Value;

use super::{Status, condition, list, text};

pub(super) fn claim(object: &Value, is_used: bool) -> Status {
    match text(object, "/status/phase") {
        "Bound" => Status::Ready(None),
        "Lost" => Status::failed("its volume is gone"),
        _ if !is_used => Status::Ready(Some("it is not bound, and nothing uses it yet".to_owned())),
        _ => Status::missing("it is not bound to a volume yet"),
    }
}

pub(super) fn service(object: &Value, load_balancer: bool) -> Status {
    if text(object, "/spec/type") != "LoadBalancer" {
        return Status::Ready(None);
    }
    balanced(object, load_balancer)
}

pub(super) fn ingress(object: &Value, load_balancer: bool) -> Status {
    if load_balancer { balanced(object, true) } else { Status::Ready(None) }
}

fn balanced(object: &Value, wait: bool) -> Status {
    match (list(object, "/status/loadBalancer/ingress").is_empty(), wait) {
        (false, _) => Status::Ready(None),
        (true, false) => Status::Ready(Some("it has no external address yet".to_owned())),
        (true, true) => Status::missing("it has no external address yet"),
    }
}

pub(super) fn namespace(object: &Value) -> Status {
    match text(object, "/status/phase") {
        "Terminating" => Status::failed("it is being deleted"),
        "Active" => Status::Ready(None),
        _ => Status::missing("it is not active yet"),
    }
}

pub(super) fn definition(object: &Value) -> Status {
    if let Some(names) = condition(object, "NamesAccepted").filter(super::Condition::is_false) {
        return Status::failed(format!("its names are not accepted: {}", names.words()));
    }
    match condition(object, "Established") {
        Some(established) if established.is_true() => Status::Ready(None),
        Some(established) if established.is_false() && established.reason != "Installing" => {
            Status::failed(format!("it cannot be established: {}", established.words()))
        }
        _ => Status::missing("it is not served yet"),
    }
}

pub(super) fn api_service(object: &Value) -> Status {
    match condition(object, "Available") {
        Some(available) if available.is_true() => Status::Ready(None),
        Some(available) => Status::missing(available.words()),
        None => Status::missing("it is not available yet"),
    }
}

/// It has no `Ready`; its phase says what `kubectl argo rollouts status` says.
pub(super) fn argo_rollout(object: &Value) -> Status {
    let message = || match text(object, "/status/message") {
        "" => "it is degraded".to_owned(),
        message => message.to_owned(),
    };
    match text(object, "/status/phase") {
        "Healthy" => Status::Ready(None),
        "Degraded" => Status::failed(message()),
        "Paused" => Status::skipped("it is paused: it goes on when it is promoted"),
        _ => Status::missing("it is not healthy yet"),
    }
}

/// `Reconciling` and `Stalled` are the conditions of kstatus, `Ready` that of nearly everybody.
pub(super) fn custom(object: &Value) -> Status {
    if let Some(stalled) = condition(object, "Stalled").filter(super::Condition::is_true) {
        return Status::failed(stalled.words());
    }
    if let Some(reconciling) = condition(object, "Reconciling").filter(super::Condition::is_true) {
        return Status::missing(reconciling.words());
    }
    match condition(object, "Ready") {
        None => Status::Ready(None),
        Some(ready) if ready.is_true() => Status::Ready(None),
        Some(ready) => Status::missing(ready.words()),
    }
}
