use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::deploy::object::GroupKind;

fn id() -> ObjectId {
    ObjectId {
        kind: GroupKind::new("apps", "Deployment"),
        namespace: Some("shop".to_owned()),
        name: "web".to_owned(),
    }
}

/// A workload with one pod `web-1` on `node` whose container `app` is in this state.
fn with_state(status: Value) -> Evidence {
    let mut state = json!({"name": "app", "ready": false, "started": true, "restartCount": 0});
    state.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    let pod = json!({
        "metadata": {"name": "web-1"},
        "spec": {"nodeName": "node", "containers": [{"name": "app", "image": "registry.example.com/shop/web:1"}]},
        "status": {"phase": "Pending", "containerStatuses": [state]},
    });
    Evidence {
        pods: vec![pod],
        ..Evidence::of(id(), json!({"kind": "Deployment", "metadata": {"name": "web"}}))
    }
}

fn waiting(reason: &str, message: &str) -> Evidence {
    with_state(json!({"state": {"waiting": {"reason": reason, "message": message}}}))
}

fn event(reason: &str, message: &str, count: u64) -> EventFact {
    EventFact {
        kind: "Pod".to_owned(),
        name: "web-1".to_owned(),
        part: "spec.containers{app}".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        count,
        last: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn first(evidence: &Evidence) -> Finding {
    let findings = diagnose(evidence, &Policy::default());
    findings.into_iter().next().expect("a finding")
}

const IMAGE: &str = "registry.example.com/shop/web:1";

/// What containerd, CRI-O and Docker say of a pull that fails.
#[rstest]
#[case(
    "rpc error: code = NotFound desc = failed to pull and unpack image \"x\": failed to resolve reference \"x\": x: not found",
    Cause::ImageNotFound
)]
#[case("reading manifest nope in registry.example.com/x: manifest unknown", Cause::ImageNotFound)]
#[case(
    "Error response from daemon: manifest for x:nope not found: manifest unknown: manifest unknown",
    Cause::ImageNotFound
)]
#[case(
    "failed to resolve image: failed to do request: Head \"https://x/\": dial tcp 10.0.0.1:443: connect: connection refused",
    Cause::RegistryUnreachable
)]
#[case("dial tcp: lookup x on 10.0.0.1:53: no such host", Cause::RegistryUnreachable)]
#[case(
    "pinging container registry x: Get \"https://x/v2/\": dial tcp 10.0.0.1:443: i/o timeout",
    Cause::RegistryUnreachable
)]
#[case(
    "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    Cause::RegistryTls
)]
#[case("http: server gave HTTP response to HTTPS client", Cause::RegistryTls)]
#[case("toomanyrequests: You have reached your pull rate limit", Cause::RegistryThrottled)]
#[case(
    "unexpected status from HEAD request to https://x/v2/a/manifests/1: 429 Too Many Requests",
    Cause::RegistryThrottled
)]
#[case(
    "pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
    Cause::PullSecretAbsent
)]
#[case(
    "unexpected status from HEAD request to https://x/v2/a/manifests/1: 401 Unauthorized",
    Cause::PullSecretAbsent
)]
#[case("denied: access forbidden", Cause::PullSecretAbsent)]
#[case(
    "get image config descriptor: no match for platform in manifest sha256:9aae: not found",
    Cause::WrongPlatform
)]
#[case("no matching manifest for linux/amd64 in the manifest list entries", Cause::WrongPlatform)]
#[case("something nobody has seen before", Cause::PullFailed)]
fn pulls(#[case] message: &str, #[case] cause: Cause) {
    let backed_off = format!("Back-off pulling image \"{IMAGE}\": ErrImagePull: {message}");
    assert_eq!(first(&waiting("ImagePullBackOff", &backed_off)).cause, cause);
    assert_eq!(first(&waiting("ErrImagePull", message)).cause, cause);
    // Kubelets before 1.31 say it in the event alone.
    let mut evidence = waiting("ImagePullBackOff", &format!("Back-off pulling image \"{IMAGE}\""));
    evidence.events.push(event("Failed", &format!("Failed to pull image \"{IMAGE}\": {message}"), 1));
    assert_eq!(first(&evidence).cause, cause);
}

fn denied(secrets: &[(&str, Fact<SecretFact>)]) -> Evidence {
    let mut evidence = waiting("ErrImagePull", "401 Unauthorized");
    let names: Vec<Value> = secrets.iter().map(|(name, _)| json!({"name": name})).collect();
    evidence.pods[0]["spec"]["imagePullSecrets"] = json!(names);
    evidence.secrets = secrets.iter().map(|(name, fact)| ((*name).to_owned(), fact.clone())).collect();
    evidence
}

fn secret(kind: &str, hosts: &[&str]) -> Fact<SecretFact> {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Fact::Is(SecretFact { kind: kind.to_owned(), hosts, ..SecretFact::default() })
}

const CONFIG: &str = "kubernetes.io/dockerconfigjson";

#[rstest]
#[case(&[("reg", Fact::Missing)], Cause::PullSecretMissing)]
#[case(&[("reg", secret("Opaque", &[]))], Cause::PullSecretType)]
#[case(&[("reg", secret(CONFIG, &["example.com"]))], Cause::PullSecretHost)]
#[case(&[("reg", secret(CONFIG, &["registry.example.com/other"]))], Cause::PullSecretHost)]
// One of them fits, and nothing is known against it.
#[case(&[("old", Fact::Missing), ("reg", secret(CONFIG, &["registry.example.com"]))], Cause::PullDenied)]
// It may not be read: nothing is claimed of it.
#[case(&[("reg", Fact::Unknown)], Cause::PullDenied)]
fn pull_secrets(#[case] secrets: &[(&str, Fact<SecretFact>)], #[case] cause: Cause) {
    assert_eq!(first(&denied(secrets)).cause, cause);
}

#[test]
fn a_password_is_called_wrong_only_if_the_registry_says_so() {
    let mut evidence = denied(&[("reg", secret(CONFIG, &["registry.example.com"]))]);
    let mut check = PullCheck { anonymous: Some(PullAnswer::Refused), ..PullCheck::default() };
    check.with.insert("reg".to_owned(), PullAnswer::Refused);
    evidence.registries.insert(IMAGE.to_owned(), check.clone());
    let finding = first(&evidence);
    assert_eq!((finding.cause, finding.weight), (Cause::PullSecretRefused, Weight::Solid));
    check.with.insert("reg".to_owned(), PullAnswer::There { platforms: Vec::new() });
    evidence.registries.insert(IMAGE.to_owned(), check);
    let finding = first(&evidence);
    assert_eq!(finding.cause, Cause::PullDenied);
    assert!(matches!(finding.weight, Weight::Grace(_)));
}

#[rstest]
#[case("registry.example.com", true)]
#[case("https://registry.example.com/v1/", true)]
#[case("registry.example.com/shop", true)]
#[case("registry.example.com/shop/web", true)]
#[case("registry.example.com/sho", false)]
#[case("*.example.com", true)]
#[case("*.com", false)]
#[case("example.com", false)]
#[case("registry.example.com:5000", false)]
fn entries_of_pull_secrets(#[case] entry: &str, #[case] serves: bool) {
    assert_eq!(image::serves(entry, IMAGE), serves);
}

#[test]
fn docker_hub_has_several_names() {
    assert!(image::serves("https://index.docker.io/v1/", "busybox:1"));
    assert!(image::serves("docker.io", "group/app"));
}

#[test]
fn nothing_of_a_secret_is_kept_but_names() {
    let config = r#"{"auths":{"registry.example.com":{"auth":"Ym90OmhpZGRlbg=="}}}"#;
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, config);
    let (fact, logins) = pull::read_secret(&json!({"type": CONFIG, "data": {".dockerconfigjson": data}}));
    assert_eq!((fact.hosts.as_slice(), logins.len()), (&["registry.example.com".to_owned()][..], 1));
    assert!(!format!("{fact:?}").contains("hidden") && !format!("{fact:?}").contains("bot"));
    let (fact, logins) = pull::read_secret(&json!({"type": CONFIG, "data": {".dockerconfigjson": "e30K"}}));
    assert!(fact.is_broken && logins.is_empty());
}

fn ended(code: i64, reason: &str, restarts: u64) -> Evidence {
    let ended = json!({"exitCode": code, "reason": reason,
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:00Z"});
    with_state(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": restarts,
        "lastState": {"terminated": ended}}))
}

#[rstest]
#[case(3, "Error", "container `app` ends with exit code 3, at once", Cause::CrashLoop)]
#[case(139, "Error", "a signal ends container `app`: 11 (SIGSEGV), at once", Cause::CrashLoop)]
#[case(
    0,
    "Completed",
    "container `app` ends with exit code 0, and should go on running, at once",
    Cause::CrashLoop
)]
#[case(
    0,
    "OOMKilled",
    "container `app` was killed because its node ran out of memory (OOMKilled)",
    Cause::OutOfMemory
)]
#[case(
    137,
    "OOMKilled",
    "container `app` was killed because its node ran out of memory (OOMKilled)",
    Cause::OutOfMemory
)]
fn ends(#[case] code: i64, #[case] reason: &str, #[case] what: &str, #[case] cause: Cause) {
    let finding = first(&ended(code, reason, 2));
    assert_eq!((finding.what.as_str(), finding.cause, finding.weight), (what, cause, Weight::Solid));
}

/// The first end may be a matter of order; while others come up, so may the second.
#[test]
fn patience_depends_on_what_may_still_come() {
    assert!(matches!(first(&ended(1, "Error", 1)).weight, Weight::Grace(_)));
    let mut evidence = ended(1, "Error", 5);
    assert_eq!(first(&evidence).weight, Weight::Solid);
    evidence.others_under_way = true;
    assert_eq!(first(&evidence).weight, Weight::Grace(Policy::default().late));
    let mut evidence = waiting("CreateContainerConfigError", "secret \"creds\" not found");
    assert_eq!(first(&evidence).weight, Weight::Grace(Policy::default().grace));
    evidence.has_custom = true;
    assert_eq!(first(&evidence).weight, Weight::Grace(Policy::default().late));
}

#[test]
fn an_end_after_a_failing_probe_is_the_probes() {
    let mut evidence = ended(137, "Error", 2);
    evidence.events.push(event(
        "Unhealthy",
        "Liveness probe failed: HTTP probe failed with statuscode: 500",
        6,
    ));
    evidence.events.push(event("Killing", "Container app failed liveness probe, will be restarted", 2));
    let finding = first(&evidence);
    assert_eq!(finding.cause, Cause::LivenessProbe);
    assert!(finding.what.ends_with("statuscode: 500"), "{}", finding.what);
}

#[test]
fn a_container_that_fits_another_machine_is_told_by_its_log() {
    let mut evidence = ended(255, "Error", 1);
    evidence
        .logs
        .insert(("web-1".to_owned(), "app".to_owned()), vec!["exec /app: exec format error".to_owned()]);
    let finding = first(&evidence);
    assert_eq!((finding.cause, finding.weight), (Cause::WrongPlatform, Weight::Solid));
}

fn refused(message: &str) -> Evidence {
    let mut evidence = Evidence::of(id(), json!({"kind": "Deployment", "metadata": {"name": "web"}}));
    evidence.creator = json!({"kind": "ReplicaSet", "metadata": {"name": "web-a"}, "status": {"conditions": [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]}});
    evidence
}

#[rstest]
#[case(
    "pods \"web-1\" is forbidden: exceeded quota: small, requested: limits.cpu=2,pods=1, used: limits.cpu=1,pods=0, limited: limits.cpu=2,pods=0",
    Cause::Quota,
    "the quota `small` is used up: limits.cpu=2,pods=1 asked for, limits.cpu=1,pods=0 used of limits.cpu=2,pods=0"
)]
#[case(
    "admission webhook \"validate.kyverno.svc-fail\" denied the request: \n\nresource Pod/x was blocked",
    Cause::Policy,
    "the admission webhook `validate.kyverno.svc-fail` does not let its pods in: resource Pod/x was blocked"
)]
#[case(
    "pods \"web-1\" is forbidden: unable to validate against any security context constraint: [x]",
    Cause::PodSecurity,
    "no security context constraint lets its pods in"
)]
#[case(
    "pods \"web-1\" is forbidden: no PriorityClass with name high was found",
    Cause::PodRefused,
    "its pods cannot be created: no PriorityClass with name high was found"
)]
#[case(
    "pods \"web-1\" is forbidden: minimum cpu usage per Pod is 1, but request is 100m",
    Cause::LimitRange,
    "a LimitRange of the namespace does not allow its pods: minimum cpu usage per Pod is 1, but request is 100m"
)]
fn refusals(#[case] message: &str, #[case] cause: Cause, #[case] what: &str) {
    let finding = first(&refused(message));
    assert_eq!((finding.cause, finding.what.as_str()), (cause, what));
}

/// A controller that could not ask, while the API server restarted, says so in the same words.
#[test]
fn what_no_api_server_has_said_is_no_refusal() {
    let away = "Post \"https://10.0.0.1:6443/api/v1/namespaces/shop/pods\": dial tcp 10.0.0.1:6443: connect: connection refused";
    assert!(diagnose(&refused(&format!("Error creating: {away}")), &Policy::default()).is_empty());
    let mut evidence = Evidence::of(
        ObjectId { kind: GroupKind::new("apps", "StatefulSet"), ..id() },
        json!({"kind": "StatefulSet", "metadata": {"name": "web"}, "spec": {"replicas": 2}}),
    );
    let failed = |error: &str| EventFact {
        kind: "StatefulSet".to_owned(),
        name: "web".to_owned(),
        part: String::new(),
        ..event("FailedCreate", &format!("Create Pod web-0 in StatefulSet web failed error: {error}"), 1)
    };
    evidence.events = vec![failed(away)];
    assert!(diagnose(&evidence, &Policy::default()).is_empty());
    // What it did say counts while pods are missing, and not when all are there and sound.
    evidence.events = vec![failed("pods \"web-0\" is forbidden: no")];
    evidence.there = 1;
    assert_eq!(first(&evidence).cause, Cause::PodRefused);
    evidence.there = 2;
    assert!(diagnose(&evidence, &Policy::default()).is_empty());
}

#[test]
fn the_same_of_several_pods_is_told_once() {
    let mut evidence = waiting("ErrImageNeverPull", "");
    let mut second = evidence.pods[0].clone();
    second["metadata"]["name"] = json!("web-2");
    evidence.pods.push(second);
    let findings = diagnose(&evidence, &Policy::default());
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].place(), "pod web-1 and 1 more, container app, node node");
}

#[test]
fn what_only_starts_is_no_finding() {
    for reason in ["ContainerCreating", "PodInitializing"] {
        assert_eq!(diagnose(&waiting(reason, ""), &Policy::default()), []);
    }
    let running = with_state(json!({"state": {"running": {}}}));
    assert_eq!(diagnose(&running, &Policy::default()), []);
    // A readiness probe that has failed once has been asked too early.
    let mut evidence = with_state(json!({"state": {"running": {}}}));
    evidence.events.push(event("Unhealthy", "Readiness probe failed: x", 1));
    assert_eq!(diagnose(&evidence, &Policy::default()), []);
    evidence.events[0].count = 3;
    assert_eq!(first(&evidence).weight, Weight::Told);
}

/// Names and ports of registries hold the words and numbers that messages are known by.
#[rstest]
#[case("10.0.0.1:44031/a:1", "failed to resolve image: 10.0.0.1:44031/a:1: not found", Cause::ImageNotFound)]
#[case(
    "10.0.0.1:401/a:1",
    "Head \"https://10.0.0.1:401/v2/a/manifests/1\": dial tcp 10.0.0.1:401: connect: connection refused",
    Cause::RegistryUnreachable
)]
#[case(
    "example.com/certificate/unauthorized:x509",
    "failed to resolve image: example.com/certificate/unauthorized:x509: not found",
    Cause::ImageNotFound
)]
#[case(
    "example.com/not-found:1",
    "unexpected status from HEAD request to https://example.com/v2/not-found/manifests/1: 401 Unauthorized",
    Cause::PullSecretAbsent
)]
#[case("example.com/a:1", "unexpected status from GET request: 403", Cause::PullSecretAbsent)]
fn names_of_images_mislead_nobody(#[case] image: &str, #[case] message: &str, #[case] cause: Cause) {
    let mut evidence = waiting("ErrImagePull", message);
    evidence.pods[0]["spec"]["containers"][0]["image"] = json!(image);
    assert_eq!(first(&evidence).cause, cause);
}
