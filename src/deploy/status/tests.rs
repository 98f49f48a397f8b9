use rstest::rstest;
use serde_json::{Value, json};

use super::*;

/// The answer in a line: `2/3 why (trouble)`, `ready`, `ready: note`, `failed: why`, `skipped: why`.
fn line(status: &Status) -> String {
    match status {
        Status::InProgress(Progress { parts, why, trouble }) => {
            let parts = parts.map(|(done, of)| format!("{done}/{of} ")).unwrap_or_default();
            let trouble = trouble.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
            format!("{parts}{why}{trouble}")
        }
        Status::Ready(None) => "ready".to_owned(),
        Status::Ready(Some(note)) => format!("ready: {note}"),
        Status::Failed { why } => format!("failed: {why}"),
        Status::Skipped { why } => format!("skipped: {why}"),
    }
}

fn object(api: &str, kind: &str, spec: Value, status: Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x", "generation": 2}, "spec": spec, "status": status})
}

fn says(object: &Value, expectation: &Expectation) -> String {
    line(&assess(object, expectation))
}

fn conditions(list: &[(&str, &str, &str, &str)]) -> Value {
    list.iter()
        .map(|(kind, status, reason, message)| {
            json!({"type": kind, "status": status, "reason": reason, "message": message})
        })
        .collect()
}

/// `replicas, updated, ready, available` and conditions.
fn deployment(wanted: u64, counts: [u64; 4], list: &[(&str, &str, &str, &str)]) -> Value {
    let [all, updated, ready, available] = counts;
    object(
        "apps/v1",
        "Deployment",
        json!({"replicas": wanted, "progressDeadlineSeconds": 600}),
        json!({
            "observedGeneration": 2, "replicas": all, "updatedReplicas": updated, "readyReplicas": ready,
            "availableReplicas": available, "conditions": conditions(list),
        }),
    )
}

const AVAILABLE: (&str, &str, &str, &str) = ("Available", "True", "MinimumReplicasAvailable", "");
const COMPLETE: (&str, &str, &str, &str) = ("Progressing", "True", "NewReplicaSetAvailable", "");
const UPDATED: (&str, &str, &str, &str) = ("Progressing", "True", "ReplicaSetUpdated", "");
const LATE: (&str, &str, &str, &str) = ("Progressing", "False", "ProgressDeadlineExceeded", "…");
const QUOTA: (&str, &str, &str, &str) = ("ReplicaFailure", "True", "FailedCreate", "exceeded quota: small");

#[rstest]
#[case(3, [3, 3, 3, 3], &[AVAILABLE, COMPLETE], "ready")]
#[case(0, [0, 0, 0, 0], &[AVAILABLE, COMPLETE], "ready: it has no replicas, as it says")]
#[case(3, [4, 1, 3, 3], &[AVAILABLE, UPDATED], "0/3 1 of 3 replicas updated")]
#[case(3, [4, 2, 4, 4], &[AVAILABLE, UPDATED], "2/3 2 of 3 replicas updated")]
#[case(3, [4, 3, 4, 4], &[AVAILABLE, UPDATED], "3/3 1 old replica to end")]
#[case(3, [3, 3, 2, 2], &[AVAILABLE, UPDATED], "2/3 2 of 3 replicas ready")]
#[case(3, [3, 3, 3, 2], &[AVAILABLE, UPDATED], "2/3 2 of 3 replicas available")]
#[case(2, [3, 3, 3, 3], &[AVAILABLE, COMPLETE], "2/2 1 replica to end")]
#[case(1, [1, 1, 1, 1], &[AVAILABLE, UPDATED], "1/1 its controller has not called it complete yet")]
#[case(1, [1, 1, 1, 1], &[COMPLETE], "1/1 it is not available yet")]
#[case(1, [1, 1, 0, 0], &[LATE], "failed: it made no progress for 600 s")]
#[case(1, [0, 0, 0, 0], &[LATE, QUOTA], "failed: it made no progress for 600 s: exceeded quota: small")]
#[case(1, [0, 0, 0, 0], &[QUOTA], "0/1 0 of 1 replica updated (exceeded quota: small)")]
// A refusal of the past does not keep what is complete from being so.
#[case(1, [1, 1, 1, 1], &[AVAILABLE, COMPLETE, QUOTA], "ready")]
fn deployments(
    #[case] wanted: u64,
    #[case] counts: [u64; 4],
    #[case] list: &[(&str, &str, &str, &str)],
    #[case] expected: &str,
) {
    assert_eq!(says(&deployment(wanted, counts, list), &Expectation::default()), expected);
}

#[test]
fn a_deployment_without_replicas_in_its_manifest_has_one() {
    let mut object = deployment(1, [1, 1, 1, 1], &[AVAILABLE, COMPLETE]);
    object["spec"].as_object_mut().unwrap().remove("replicas");
    assert_eq!(says(&object, &Expectation::default()), "ready");
    object["status"]["readyReplicas"] = json!(0);
    assert_eq!(says(&object, &Expectation::default()), "1/1 0 of 1 replica ready");
}

#[test]
fn a_deployment_without_a_deadline_is_never_called_complete() {
    for deadline in [json!(null), json!(i32::MAX)] {
        let mut object = deployment(1, [1, 1, 1, 1], &[AVAILABLE]);
        object["spec"]["progressDeadlineSeconds"] = deadline;
        assert_eq!(says(&object, &Expectation::default()), "ready");
    }
}

#[test]
fn a_paused_deployment_is_not_waited_for() {
    let mut object = deployment(3, [3, 0, 3, 3], &[AVAILABLE]);
    object["spec"]["paused"] = json!(true);
    assert!(says(&object, &Expectation::default()).starts_with("skipped: it is paused"));
}

/// Only what was said of our generation counts, whatever the counts are.
#[rstest]
#[case(2, json!(2), Some(2), "ready")]
#[case(2, json!(1), Some(2), "its controller has not seen the change yet")]
#[case(2, json!(1), None, "its controller has not seen the change yet")]
#[case(1, json!(1), Some(2), "the change is not visible yet")]
// Somebody changed it behind us: the counts are those of their generation.
#[case(3, json!(2), Some(2), "its controller has not seen the change yet")]
#[case(3, json!(3), Some(2), "ready")]
fn generations(
    #[case] generation: i64,
    #[case] observed: Value,
    #[case] ours: Option<i64>,
    #[case] expected: &str,
) {
    let mut object = deployment(1, [1, 1, 1, 1], &[AVAILABLE, COMPLETE]);
    object["metadata"]["generation"] = json!(generation);
    object["status"]["observedGeneration"] = observed;
    assert_eq!(says(&object, &Expectation { generation: ours, ..Expectation::default() }), expected);
}

#[rstest]
#[case(json!("2"), "ready")]
#[case(json!("1"), "its controller has not seen the change yet")]
#[case(json!("abc"), "ready")]
#[case(json!(null), "ready")]
fn generations_that_are_strings(#[case] observed: Value, #[case] expected: &str) {
    let status =
        json!({"observedGeneration": observed, "conditions": conditions(&[("Ready", "True", "", "")])});
    let object = object("example.com/v1", "Thing", json!({}), status);
    assert_eq!(says(&object, &Expectation { generation: Some(2), ..Expectation::default() }), expected);
}

#[test]
fn a_workload_without_a_status_is_not_ready() {
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"] {
        let object = object("apps/v1", kind, json!({"replicas": 0}), json!({}));
        assert_eq!(says(&object, &Expectation::default()), "its controller has not seen it yet", "{kind}");
    }
}

/// `replicas, updated, ready` of 3; whether the update is the current revision; the strategy.
#[rstest]
#[case([3, 3, 3], true, json!({}), "ready")]
#[case([0, 0, 0], true, json!({}), "0/3 0 of 3 replicas created")]
#[case([2, 2, 1], true, json!({}), "1/3 2 of 3 replicas created")]
#[case([3, 1, 2], false, json!({}), "1/3 1 of 3 replicas updated")]
#[case([3, 3, 2], false, json!({}), "2/3 2 of 3 replicas ready")]
#[case([3, 3, 3], false, json!({}), "3/3 its controller has not called the revision current yet")]
#[case([3, 1, 3], false, json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}),
    "ready: 2 replicas the partition keeps at the old revision")]
#[case([3, 0, 3], false, json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}), "2/3 0 of 1 replica updated")]
#[case([3, 0, 3], false, json!({"rollingUpdate": {"partition": 9}}),
    "ready: 3 replicas the partition keeps at the old revision")]
#[case([3, 0, 3], false, json!({"type": "OnDelete"}),
    "skipped: its strategy is OnDelete: a pod becomes the new one when it is deleted")]
#[case([3, 3, 3], true, json!({"type": "OnDelete"}), "ready")]
#[case([1, 1, 0], true, json!({"type": "OnDelete"}), "0/3 1 of 3 replicas created")]
#[case([4, 4, 4], true, json!({}), "3/3 1 replica to end")]
fn stateful_sets(
    #[case] counts: [u64; 3],
    #[case] current: bool,
    #[case] strategy: Value,
    #[case] expected: &str,
) {
    let [all, updated, ready] = counts;
    let status = json!({
        "observedGeneration": 2, "replicas": all, "updatedReplicas": updated, "readyReplicas": ready,
        "currentRevision": if current { "b" } else { "a" }, "updateRevision": "b",
    });
    let object = object("apps/v1", "StatefulSet", json!({"replicas": 3, "updateStrategy": strategy}), status);
    assert_eq!(says(&object, &Expectation::default()), expected);
}

/// `desired, current, updated, ready, available`
#[rstest]
#[case([2, 2, 2, 2, 2], "RollingUpdate", "ready")]
#[case([0, 0, 0, 0, 0], "RollingUpdate", "ready: no node takes its pods")]
#[case([2, 1, 1, 1, 1], "RollingUpdate", "1/2 1 of 2 pods created")]
#[case([2, 2, 1, 2, 2], "RollingUpdate", "1/2 1 of 2 pods updated")]
#[case([2, 2, 2, 1, 1], "RollingUpdate", "1/2 1 of 2 pods ready")]
#[case([2, 2, 2, 2, 1], "RollingUpdate", "1/2 1 of 2 pods available")]
#[case([2, 2, 0, 2, 2], "OnDelete",
    "skipped: its strategy is OnDelete: a pod becomes the new one when it is deleted")]
#[case([2, 2, 2, 2, 2], "OnDelete", "ready")]
fn daemon_sets(#[case] counts: [u64; 5], #[case] strategy: &str, #[case] expected: &str) {
    let [desired, current, updated, ready, available] = counts;
    let status = json!({
        "observedGeneration": 2, "desiredNumberScheduled": desired, "currentNumberScheduled": current,
        "updatedNumberScheduled": updated, "numberReady": ready, "numberAvailable": available,
    });
    let object = object("apps/v1", "DaemonSet", json!({"updateStrategy": {"type": strategy}}), status);
    assert_eq!(says(&object, &Expectation::default()), expected);
}

#[rstest]
#[case(json!({"completions": 1}), json!({"active": 1}), "0/1 0 of 1 completion done")]
#[case(json!({"completions": 3}), json!({"succeeded": 2, "failed": 1}), "2/3 2 of 3 completions done, 1 pod failed")]
#[case(json!({}), json!({"active": 2}), "2 pods at work")]
#[case(json!({"suspend": true}), json!({}), "skipped: it is suspended")]
#[case(json!({}), json!({"conditions": conditions(&[("Complete", "True", "", "")])}), "ready")]
#[case(json!({}), json!({"failed": 1, "conditions": conditions(&[("Failed", "True", "BackoffLimitExceeded", "…")])}),
    "failed: 1 pod failed, and its backoff limit allows no more")]
#[case(json!({"activeDeadlineSeconds": 3}), json!({"conditions": conditions(&[("FailureTarget", "True", "DeadlineExceeded", "…")])}),
    "failed: it ran for longer than its deadline of 3 s")]
#[case(json!({}), json!({"conditions": conditions(&[("Failed", "True", "PodFailurePolicy", "Container a failed.")])}),
    "failed: Container a failed")]
fn jobs(#[case] spec: Value, #[case] status: Value, #[case] expected: &str) {
    assert_eq!(says(&object("batch/v1", "Job", spec, status), &Expectation::default()), expected);
}

#[test]
fn a_job_that_is_deleted_after_its_end_has_ended_all_the_same() {
    let status = json!({"conditions": conditions(&[("Complete", "True", "", "")])});
    let mut job = object("batch/v1", "Job", json!({}), status);
    job["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(says(&job, &Expectation::default()), "ready");
    job["status"] = json!({});
    assert_eq!(says(&job, &Expectation::default()), "failed: it is being deleted");
}

#[rstest]
#[case(json!({"phase": "Succeeded"}), "ready: it has ended well")]
#[case(json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}),
    "failed: The node was low on memory")]
#[case(json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 4}}}]}),
    "failed: container `a` ended with exit code 4")]
#[case(json!({"phase": "Running", "conditions": conditions(&[("Ready", "True", "", "")])}), "ready")]
#[case(json!({"phase": "Pending", "conditions": conditions(&[("PodScheduled", "False", "Unschedulable", "0/1 nodes are available.")])}),
    "0/1 nodes are available")]
#[case(json!({"phase": "Running", "conditions": conditions(&[("Ready", "False", "", "containers with unready status: [a]")])}),
    "containers with unready status: [a]")]
#[case(json!({}), "it is not ready yet")]
fn pods(#[case] status: Value, #[case] expected: &str) {
    assert_eq!(says(&object("v1", "Pod", json!({}), status), &Expectation::default()), expected);
}

#[rstest]
#[case("Pending", false, "ready: it is not bound, and nothing uses it yet")]
#[case("Pending", true, "it is not bound to a volume yet")]
#[case("Bound", true, "ready")]
#[case("Lost", false, "failed: its volume is gone")]
fn claims(#[case] phase: &str, #[case] used: bool, #[case] expected: &str) {
    let claim = object("v1", "PersistentVolumeClaim", json!({}), json!({"phase": phase}));
    assert_eq!(says(&claim, &Expectation { claim_is_used: used, ..Expectation::default() }), expected);
}

#[rstest]
#[case("ClusterIP", json!({}), true, "ready")]
#[case("LoadBalancer", json!({}), false, "ready: it has no external address yet")]
#[case("LoadBalancer", json!({}), true, "it has no external address yet")]
#[case("LoadBalancer", json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}), true, "ready")]
fn services(#[case] kind: &str, #[case] status: Value, #[case] wait: bool, #[case] expected: &str) {
    let service = object("v1", "Service", json!({"type": kind}), status);
    assert_eq!(says(&service, &Expectation { load_balancer: wait, ..Expectation::default() }), expected);
}

#[rstest]
#[case("apiextensions.k8s.io/v1", "CustomResourceDefinition", &[], "it is not served yet")]
#[case("apiextensions.k8s.io/v1", "CustomResourceDefinition", &[("Established", "True", "", "")], "ready")]
#[case("apiextensions.k8s.io/v1", "CustomResourceDefinition", &[("Established", "False", "Installing", "")],
    "it is not served yet")]
#[case("apiextensions.k8s.io/v1", "CustomResourceDefinition", &[("NamesAccepted", "False", "ListKindConflict", "taken")],
    "failed: its names are not accepted: taken")]
#[case("apiregistration.k8s.io/v1", "APIService", &[("Available", "False", "MissingEndpoints", "no endpoints")], "no endpoints")]
#[case("apiregistration.k8s.io/v1", "APIService", &[("Available", "True", "Local", "")], "ready")]
#[case("example.com/v1", "Thing", &[], "ready")]
#[case("example.com/v1", "Thing", &[("Ready", "False", "Waiting", "")], "Waiting")]
#[case("example.com/v1", "Thing", &[("Ready", "Unknown", "", "")], "its status is Unknown")]
#[case("example.com/v1", "Thing", &[("Ready", "True", "", ""), ("Reconciling", "True", "", "busy")], "busy")]
#[case("example.com/v1", "Thing", &[("Ready", "False", "", "no"), ("Stalled", "True", "", "broken")], "failed: broken")]
#[case("policy/v1", "PodDisruptionBudget", &[("DisruptionAllowed", "False", "", "")], "ready")]
#[case("batch/v1", "CronJob", &[], "ready")]
#[case("v1", "ConfigMap", &[], "ready")]
fn others(
    #[case] api: &str,
    #[case] kind: &str,
    #[case] list: &[(&str, &str, &str, &str)],
    #[case] expected: &str,
) {
    let object = object(api, kind, json!({}), json!({"conditions": conditions(list)}));
    assert_eq!(says(&object, &Expectation::default()), expected);
}

#[rstest]
#[case("Healthy", "ready")]
#[case("Progressing", "it is not healthy yet")]
#[case("Degraded", "failed: aborted")]
#[case("Paused", "skipped: it is paused: it goes on when it is promoted")]
fn argo_rollouts(#[case] phase: &str, #[case] expected: &str) {
    let status = json!({"observedGeneration": "2", "phase": phase, "message": "aborted"});
    let rollout = object("argoproj.io/v1alpha1", "Rollout", json!({}), status);
    assert_eq!(says(&rollout, &Expectation { generation: Some(2), ..Expectation::default() }), expected);
}

#[rstest]
#[case("Active", "ready")]
#[case("Terminating", "failed: it is being deleted")]
#[case("", "it is not active yet")]
fn namespaces(#[case] phase: &str, #[case] expected: &str) {
    let namespace = object("v1", "Namespace", json!({}), json!({"phase": phase}));
    assert_eq!(says(&namespace, &Expectation::default()), expected);
}

/// What its controller has not seen is not looked into: the newest pods are those of the revision before.
#[test]
fn only_what_is_observed_is_looked_into() {
    let expectation = Expectation { generation: Some(2), ..Expectation::default() };
    let mut object = deployment(1, [1, 1, 0, 0], &[]);
    assert!(is_observed(&object, &expectation));
    object["status"]["observedGeneration"] = json!(1);
    assert!(!is_observed(&object, &expectation));
    object["status"] = json!({});
    assert!(!is_observed(&object, &expectation));
}

/// The controller copies the condition into the status of the new generation until it has something to say of it.
#[test]
fn a_deadline_that_the_revision_before_has_missed_is_not_the_new_ones() {
    let late = |time: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 1},
            "status": {"observedGeneration": 2, "conditions": [{"type": "Progressing", "status": "False",
                "reason": "ProgressDeadlineExceeded", "lastUpdateTime": time}]},
        })
    };
    let before = Said::of_progress(&late("2026-01-01T00:00:00Z"));
    let expectation = Expectation { generation: Some(2), before, ..Expectation::default() };
    assert!(matches!(assess(&late("2026-01-01T00:00:00Z"), &expectation), Status::InProgress(_)));
    assert!(matches!(assess(&late("2026-01-01T00:10:00Z"), &expectation), Status::Failed { .. }));
    assert!(matches!(assess(&late("2026-01-01T00:00:00Z"), &Expectation::default()), Status::Failed { .. }));
}
