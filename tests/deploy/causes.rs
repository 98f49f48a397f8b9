//! Everything that keeps a deployment from coming to life, provoked for real and named.
//!
//! Kubelet, scheduler, admission, controllers and registries are real. What one machine cannot show: a node that goes. A
//! second kubelet would have to be stopped for that; here a Node object that never had one is declared silent, which is
//! what the API server is left with when a node goes. A registry's limit on pulls is not among the causes here either:
//! the registries of the tests have none; its words are in the table beside the code.

mod words;

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use words::shown;

use crate::support::{
    Cluster, Cofferdam, Level, Namespace, Registry, RegistryOptions, TestImage, eventually, part, sha256,
};

/// How long after the first evidence the answer must be there.
const ANSWER: f64 = 10.0;
/// Cases at a time: more and the node would be measured.
const AT_ONCE: usize = 10;
/// For how many seconds a case is watched. A node with much to do tells late that a container has ended.
const LIMIT: u32 = 40;
/// The program found out; see `docs/exit-codes.md`.
const ROLLOUT: i32 = 19;
/// It was told, and the rollout given up at the limit: the same may be how a slow start looks.
const TIMED_OUT: i32 = 20;

/// Where things are.
struct Place {
    open: Registry,
    private: Registry,
    untrusted: Registry,
    host: String,
}

impl Place {
    fn busybox(&self) -> String {
        self.open.reference("library/busybox:1")
    }

    /// A Deployment of one pod with one container, changed by `change`.
    fn deployment(&self, command: &[&str], change: impl FnOnce(&mut Value)) -> Value {
        let mut spec = json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "app", "image": self.busybox(), "command": command}],
        });
        if command.is_empty() {
            spec["containers"][0].as_object_mut().unwrap().remove("command");
        }
        change(&mut spec);
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec},
            },
        })
    }

    /// One that would run, of this image.
    fn of(&self, image: &str) -> Value {
        self.deployment(&[], |spec| spec["containers"][0]["image"] = json!(image))
    }

    /// One that would run, with this in the container.
    fn with(&self, field: &str, value: Value) -> Value {
        self.deployment(&["sleep", "1000"], |spec| spec["containers"][0][field] = value)
    }

    /// One that would run, with this in the pod.
    fn pod_with(&self, field: &str, value: Value) -> Value {
        self.deployment(&["sleep", "1000"], |spec| spec[field] = value)
    }

    /// One of an image that only its user may pull, with the pull secret `reg`.
    fn private(&self) -> Value {
        self.deployment(&["sleep", "1000"], |spec| {
            spec["containers"][0]["image"] = json!(self.private.reference("library/busybox:1"));
            spec["imagePullSecrets"] = json!([{"name": "reg"}]);
        })
    }

    fn volume(&self, volume: Value) -> Value {
        self.deployment(&["sleep", "1000"], |spec| {
            spec["containers"][0]["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
            let mut volume = volume;
            volume["name"] = json!("d");
            spec["volumes"] = json!([volume]);
        })
    }

    fn job(&self, command: &[&str], change: impl FnOnce(&mut Value)) -> Value {
        let mut spec = json!({"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "app", "image": self.busybox(), "command": command}]}}});
        change(&mut spec);
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "task"}, "spec": spec})
    }
}

fn pull_secret(host: &str, password: &str) -> Value {
    let auths = json!({"auths": {host: {"username": "bot", "password": password}}});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "reg"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": auths.to_string()}})
}

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"A": "hidden-value"}})
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"A": "1"}})
}

fn claim(class: Option<&str>) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

fn quota(hard: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": hard}})
}

fn probe(asks: Value) -> Value {
    let mut probe = json!({"periodSeconds": 1, "failureThreshold": 2});
    probe.as_object_mut().unwrap().extend(asks.as_object().unwrap().clone());
    probe
}

/// What is deployed, and what is to come of it.
struct Case {
    name: &'static str,
    cause: &'static str,
    status: i32,
    objects: Vec<Value>,
    /// What is there before, put by kubectl.
    before: Vec<Value>,
}

fn case(name: &'static str, cause: &'static str, objects: impl IntoIterator<Item = Value>) -> Case {
    Case { name, cause, status: ROLLOUT, objects: objects.into_iter().collect(), before: Vec::new() }
}

impl Case {
    fn told(self) -> Self {
        Self { status: TIMED_OUT, ..self }
    }

    fn before(self, before: Value) -> Self {
        Self { before: vec![before], ..self }
    }
}

/// Of images and registries.
fn images(place: &Place) -> Vec<Case> {
    let busybox = place.busybox();
    let of = |image: &str| [place.of(image)];
    let arm = part("foreign").join("busybox-arm");
    let foreign = TestImage::scratch()
        .platform("arm64", "")
        .file("/app", 0o755, &arm)
        .set("Entrypoint", json!(["/app"]));
    let foreign = foreign.push(&place.open, "foreign/app:1");
    let lying = TestImage::scratch().file("/app", 0o755, &arm).set("Entrypoint", json!(["/app"]));
    let lying = lying.push(&place.open, "foreign/lying:1");
    let index = only_for_arm(&place.open);
    vec![
        case("image: its name is none", "image_name", of("Busy Box:1")),
        case("image: no such tag", "image_not_found", of(&place.open.reference("library/busybox:nope"))),
        case("image: no such repository", "image_not_found", of(&place.open.reference("library/nope:1"))),
        case("image: no such digest", "image_not_found", of(&format!("{busybox}@sha256:{}", "0".repeat(64)))),
        case(
            "image: never pulled",
            "image_never_pull",
            [place.deployment(&[], |spec| {
                spec["containers"][0]["image"] = json!("registry.example.com/app:1");
                spec["containers"][0]["imagePullPolicy"] = json!("Never");
            })],
        ),
        case("registry: nobody listens", "registry_unreachable", of(&format!("{}:9/app:1", place.host))),
        case("registry: no such host", "registry_unreachable", of("registry.invalid/app:1")),
        case(
            "registry: certificate not trusted",
            "registry_tls",
            of(&place.untrusted.reference("library/busybox:1")),
        ),
        case("pull secret: none", "pull_secret_absent", of(&place.private.reference("library/busybox:1"))),
        case("pull secret: missing", "pull_secret_missing", [place.private()]),
        case("pull secret: wrong type", "pull_secret_type", [secret("reg"), place.private()]),
        case(
            "pull secret: wrong host",
            "pull_secret_host",
            [pull_secret("registry.example.com", "hunter22"), place.private()],
        ),
        case(
            "pull secret: wrong password",
            "pull_secret_refused",
            [pull_secret(place.private.address(), "not-the-password"), place.private()],
        ),
        case("platform: none in the index", "wrong_platform", of(&index)),
        case("platform: another one's image", "wrong_platform", of(&foreign)),
        case("platform: an image that lies", "wrong_platform", of(&lying)),
    ]
}

/// An index that has an image for arm64 only.
fn only_for_arm(registry: &Registry) -> String {
    let arm = part("foreign").join("busybox-arm");
    TestImage::scratch().platform("arm64", "").file("/app", 0o755, &arm).push(registry, "foreign/index:arm");
    let manifest = registry.manifest("foreign/index:arm");
    let digest = registry.digest("foreign/index:arm").unwrap();
    let size = serde_json::to_vec(&manifest).unwrap().len();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": media_type, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": "arm64"}}]});
    let bytes = serde_json::to_vec(&index).unwrap();
    assert_ne!(sha256(&bytes), digest);
    registry.put_image("foreign/index:1", &[], &bytes);
    registry.reference("foreign/index:1")
}

/// Of containers.
fn containers(place: &Place) -> Vec<Case> {
    let run = |script: &str| [place.deployment(&["sh", "-c", script], |_| {})];
    let key = |kind: &str, name: &str| {
        place.with("env", json!([{"name": "X", "valueFrom": {kind: {"name": name, "key": "B"}}}]))
    };
    vec![
        case("command: not found", "command_not_found", [place.deployment(&["/no/such"], |_| {})]),
        case("command: not executable", "command_not_found", [place.deployment(&["/etc/passwd"], |_| {})]),
        case("crash: exit code", "crash_loop", run("echo starting; sleep 0.2; echo no database; exit 3")),
        case("crash: signal", "crash_loop", run("sh -c 'kill -SEGV $$$$'; exit $?")),
        case("crash: it just ends", "crash_loop", run("true")),
        case("crash: init container", "crash_loop", [place.pod_with("initContainers",
            json!([{"name": "migrate", "image": place.busybox(), "command": ["sh", "-c", "echo migrating; exit 5"]}]))]),
        case("crash: out of memory", "out_of_memory", [place.deployment(
            &["sh", "-c", "x=$(head -c 60000000 /dev/zero | tail -c 59999999 | tr '\\0' x)"],
            |spec| spec["containers"][0]["resources"] = json!({"limits": {"memory": "16Mi"}}))]),
        case("crash: a stateful set", "crash_loop", [stateful(place)]),
        case("crash: a daemon set", "crash_loop", [daemon(place)]),
        case("probe: startup", "startup_probe",
            [place.with("startupProbe", probe(json!({"exec": {"command": ["sh", "-c", "echo not yet; exit 1"]}})))]),
        case("probe: liveness", "liveness_probe", [place.with("livenessProbe", probe(json!({"tcpSocket": {"port": 81}})))]),
        case("probe: readiness", "readiness_probe", [place.deployment(
            &["sh", "-c", "mkdir /tmp/w; exec httpd -f -p 8080 -h /tmp/w"],
            |spec| spec["containers"][0]["readinessProbe"] = probe(json!({"httpGet": {"port": 8080, "path": "/healthz"}})))]).told(),
        case("hook: it fails", "start_hook", [place.with("lifecycle", json!({"postStart": {"exec": {"command": ["false"]}}}))]),
        case("root: not allowed", "runs_as_root", [place.with("securityContext", json!({"runAsNonRoot": true}))]),
        case("config map: missing", "config_map_missing", [place.with("envFrom", json!([{"configMapRef": {"name": "settings"}}]))]),
        case("config map: missing, as a volume", "config_map_missing", [place.volume(json!({"configMap": {"name": "settings"}}))]),
        case("config map: no such key", "key_missing", [config_map("settings"), key("configMapKeyRef", "settings")]),
        case("config map: no such key, as a volume", "key_missing", [config_map("settings"),
            place.volume(json!({"configMap": {"name": "settings", "items": [{"key": "B", "path": "b"}]}}))]),
        case("secret: missing", "secret_missing", [key("secretKeyRef", "creds")]),
        case("secret: missing, as a volume", "secret_missing", [place.volume(json!({"secret": {"secretName": "creds"}}))]),
        case("secret: no such key", "key_missing", [secret("creds"), key("secretKeyRef", "creds")]),
        case("volume: not on the node", "volume_failed", [place.volume(json!({"hostPath": {"path": "/nope", "type": "Directory"}}))]),
        case("job: it fails", "job_failed",
            [place.job(&["sh", "-c", "echo working; exit 4"], |spec| spec["backoffLimit"] = json!(0))]),
        case("job: past its deadline", "job_deadline",
            [place.job(&["sleep", "100"], |spec| spec["activeDeadlineSeconds"] = json!(3))]),
    ]
}

fn stateful(place: &Place) -> Value {
    let mut set = place.deployment(&["false"], |_| {});
    set["kind"] = json!("StatefulSet");
    set["spec"]["serviceName"] = json!("web");
    set
}

fn daemon(place: &Place) -> Value {
    let mut set =
        place.deployment(&["false"], |spec| spec["nodeSelector"] = json!({"kubernetes.io/hostname": "node"}));
    set["kind"] = json!("DaemonSet");
    set
}

/// Of admission and scheduling.
fn places(place: &Place) -> Vec<Case> {
    let sleeps = || place.deployment(&["sleep", "1000"], |_| {});
    let too_large = || place.with("resources", json!({"limits": {"memory": "128Mi"}}));
    let limits = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "64Mi"}}]}});
    let claims = || place.volume(json!({"persistentVolumeClaim": {"claimName": "data"}}));
    vec![
        case("quota: used up", "quota", [sleeps()]).before(quota(json!({"pods": "0"}))),
        case("quota: wants limits", "quota", [sleeps()]).before(quota(json!({"limits.cpu": "1"}))),
        case("restricted: a deployment", "pod_security", [sleeps()]),
        case("restricted: a job", "pod_security", [place.job(&["true"], |_| {})]),
        case("limit range: too much", "limit_range", [too_large()]).before(limits),
        case(
            "service account: missing",
            "service_account_missing",
            [place.pod_with("serviceAccountName", json!("robot"))],
        ),
        case("policy: denies", "policy", [sleeps()]),
        case("webhook: down", "webhook_down", [sleeps()]),
        case(
            "node: too small",
            "no_resources",
            [place.with("resources", json!({"requests": {"cpu": "999"}}))],
        )
        .told(),
        case(
            "node: no such label",
            "node_selector",
            [place.pod_with("nodeSelector", json!({"disk": "nvme"}))],
        )
        .told(),
        case("node: tainted", "taint", [place.pod_with("nodeSelector", json!({"role": "database"}))]).told(),
        case("node: gone", "node_gone", [place.pod_with("nodeName", json!("gone"))]).told(),
        case("claim: missing", "claim_unbound", [claims()]),
        case("claim: no class", "claim_unbound", [claim(None), claims()]),
        case("claim: no such class", "claim_unbound", [claim(Some("nope")), claims()]),
    ]
}

/// Nodes without a kubelet: one that keeps pods off, and one that nobody hears of any more.
fn add_nodes(cluster: &Cluster) {
    let node = |name: &str, role: &str, ready: &str, taints: Value| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"role": role}},
            "spec": {"taints": taints}});
        cluster.run(&["apply", "-f", "-"], node.to_string()).unwrap();
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready, "reason": "Test"}],
            "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}, "capacity": {"cpu": "4", "memory": "4Gi", "pods": "10"}}});
        cluster
            .run(
                &["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status.to_string()],
                "",
            )
            .unwrap();
    };
    node(
        "tainted",
        "database",
        "True",
        json!([{"key": "dedicated", "value": "database", "effect": "NoSchedule"}]),
    );
    node("gone", "none", "Unknown", json!([]));
    // Until its controller has seen that the first is ready it has one taint more.
    eventually("one taint", Duration::from_secs(30), || {
        let taints = cluster.run(&["get", "node", "tainted", "-o", "jsonpath={.spec.taints[*].key}"], "")?;
        if taints == "dedicated" { Ok(()) } else { Err(taints) }
    });
}

/// A policy and a webhook for the namespaces that are labelled for them.
fn add_admission(cluster: &Cluster) {
    let pods =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
    let group = "admissionregistration.k8s.io/v1";
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "signed"}, "spec": {
            "matchConstraints": {"resourceRules": pods},
            "validations": [{"expression": "false", "message": "images must be signed"}]}},
        {"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "signed"}, "spec": {
            "policyName": "signed", "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"test": "policy"}}}}},
        {"apiVersion": group, "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "check"}, "webhooks": [{
            "name": "check.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 1,
            "clientConfig": {"url": "https://127.0.0.1:9/check"}, "rules": pods,
            "namespaceSelector": {"matchLabels": {"test": "webhook"}}}]},
    ]});
    cluster.run(&["apply", "-f", "-"], list.to_string()).unwrap();
}

/// What came of a case.
struct Answer {
    /// The exit status.
    status: i32,
    /// The causes that were told, in their order, each with the time.
    told: Vec<(String, f64)>,
    /// What was said at the end, without what differs from run to run.
    said: String,
    /// Seconds from the first evidence to the answer.
    took: f64,
    log: String,
}

fn deploy(cluster: &Cluster, place: &Place, namespace: &Namespace<'_>, case: &Case) -> Answer {
    let documents: Vec<String> = case.objects.iter().map(Value::to_string).collect();
    let home = Cofferdam::new();
    let mut command = home.command();
    command.env("KUBECONFIG", cluster.kubeconfig()).args([
        "deploy",
        "-f",
        "-",
        "-n",
        namespace.name(),
        "--progress=json",
    ]);
    let limit = format!("{LIMIT}s");
    command.args(["--timeout", &limit, "--settle", "12s", "--insecure-registry", place.open.address()]);
    command.args(["--insecure-registry", place.private.address()]);
    let output = command.write_stdin(documents.join("\n---\n")).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of =
        |name: &str| events.iter().filter(move |event| event["event"] == name).cloned().collect::<Vec<_>>();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let told: Vec<(String, f64)> = of("diagnosis")
        .iter()
        .map(|event| (text(&event["cause"]), seconds(&text(&event["timestamp"]))))
        .collect();
    let answered = told.iter().find(|(cause, _)| cause == case.cause).map_or(f64::MAX, |(_, at)| *at);
    let said = of("failed").first().map(|failed| shown(failed, place)).unwrap_or_default();
    let took = answered - first_evidence(namespace);
    Answer { status: output.status.code().unwrap_or(-1), told, said, took, log }
}

fn seconds(time: &str) -> f64 {
    time.parse::<jiff::Timestamp>().map_or(f64::MAX, |time| time.as_millisecond() as f64 / 1000.0)
}

/// When the cluster first knew that something is wrong: a warning, a container that ended, a condition that says so.
fn first_evidence(namespace: &Namespace<'_>) -> f64 {
    let get = |what: &str| -> Vec<Value> {
        let found = namespace.kubectl(&["get", what, "-o", "json"]).unwrap();
        serde_json::from_str::<Value>(&found).unwrap()["items"].as_array().unwrap().clone()
    };
    let time = |value: &Value| value.as_str().map(seconds);
    let mut times: Vec<f64> = get("events")
        .iter()
        .filter(|event| event["type"] == "Warning")
        .filter_map(|event| {
            let first = ["firstTimestamp", "eventTime"].iter().find_map(|field| time(&event[*field]));
            first.or_else(|| time(&event["metadata"]["creationTimestamp"]))
        })
        .collect();
    for pod in get("pods") {
        let states = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        times.extend(states.iter().filter_map(|state| time(&state["lastState"]["terminated"]["finishedAt"])));
    }
    for job in get("jobs") {
        let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
        times.extend(conditions.iter().filter_map(|condition| time(&condition["lastTransitionTime"])));
    }
    // A pod on a node that is gone has nothing to show: then it is the pod itself.
    if times.is_empty() {
        times.extend(get("pods").iter().filter_map(|pod| time(&pod["metadata"]["creationTimestamp"])));
    }
    times.into_iter().fold(f64::MAX, f64::min)
}

#[test]
fn what_is_wrong_is_named_soon() {
    let cluster = Cluster::start();
    let host = cluster.fixture().value("HOST_IP").to_owned();
    let place = Place {
        open: cluster.registry(),
        private: cluster.registry_with(Registry::options().user("bot", "hunter22")),
        untrusted: RegistryOptions::default().tls().listen(&host).start(),
        host,
    };
    add_nodes(&cluster);
    add_admission(&cluster);
    // The node without a kubelet is ready for as long as its controller waits for a sign of life: its case comes first.
    let cases: Vec<Case> =
        [places(&place), images(&place), containers(&place)].into_iter().flatten().collect();
    let only = std::env::var("CASE").unwrap_or_default();
    let cases: Vec<Case> = cases.into_iter().filter(|case| case.name.contains(&only)).collect();
    let next = Mutex::new(cases.iter());
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().unwrap().next() else { return };
                    let level = if case.name.starts_with("restricted") {
                        Level::Restricted
                    } else {
                        Level::Privileged
                    };
                    let namespace = cluster.namespace(level);
                    let label = format!("test={}", case.name.split(':').next().unwrap());
                    if matches!(&*label, "test=policy" | "test=webhook") {
                        cluster.run(&["label", "namespace", namespace.name(), &label], "").unwrap();
                    }
                    for object in &case.before {
                        namespace.apply(&object.to_string()).unwrap();
                    }
                    let answer = deploy(&cluster, &place, &namespace, case);
                    let answer = (case, answer, namespace.name().to_owned());
                    answers.lock().unwrap().push(answer);
                    // What goes on failing would cost the others time.
                    let _ = namespace.kubectl(&[
                        "delete",
                        "deployments,statefulsets,daemonsets,jobs",
                        "--all",
                        "--wait=false",
                    ]);
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort_by_key(|(case, ..)| case.name);
    let mut wrong = Vec::new();
    let mut text = String::new();
    for (case, answer, namespace) in &answers {
        let first = answer.told.iter().map(|(cause, _)| cause.as_str()).collect::<Vec<_>>();
        if !first.contains(&case.cause) || answer.status != case.status || answer.took > ANSWER {
            wrong.push(format!(
                "{}: wanted {} and {}, got {first:?} and {} after {:.1} s\n{}",
                case.name, case.cause, case.status, answer.status, answer.took, answer.log
            ));
        }
        assert!(
            !answer.log.contains("hunter22") && !answer.log.contains("not-the-password"),
            "{}",
            answer.log
        );
        assert!(!answer.log.contains("hidden-value"), "{}", answer.log);
        let said = answer.said.replace(namespace.as_str(), "NAMESPACE");
        text.push_str(&format!("# {}\n{said}\n\n", case.name));
    }
    let slowest = answers.iter().map(|(case, answer, _)| (answer.took, case.name));
    let slowest = slowest.fold((0.0, ""), |a, b| if a.0 >= b.0 { a } else { b });
    eprintln!("{} causes, the slowest answer after {:.1} s ({})", answers.len(), slowest.0, slowest.1);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if only.is_empty() {
        insta::assert_snapshot!(text.trim_end());
    } else {
        eprintln!("{text}");
    }
}
