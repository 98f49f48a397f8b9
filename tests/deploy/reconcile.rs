//! Flux and Argo CD, asked and waited for.
//!
//! Their controllers are not to be had here. The kinds are defined as theirs are as far as it matters (Flux' with a status
//! subresource, Argo CD's without), the API server is real, and a thread plays the controllers: it does to the
//! objects what they are documented to do, and nothing else.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Cluster, Cofferdam, Level, Namespace};

const OLD: &str = "main@sha1:1111111111111111111111111111111111111111";
const NEW: &str = "main@sha1:2222222222222222222222222222222222222222";
const REQUESTED: &str = "reconcile.fluxcd.io/requestedAt";
const REFRESH: &str = "argocd.argoproj.io/refresh";

struct Ran {
    code: i32,
    out: String,
    err: String,
    took: Duration,
}

fn run_as(kubeconfig: &Path, args: &[&str]) -> Ran {
    let home = Cofferdam::new();
    let begun = Instant::now();
    let output = home.command().env("KUBECONFIG", kubeconfig).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    Ran { code: output.status.code().unwrap_or(-1), out, err, took: begun.elapsed() }
}

fn run(space: &Namespace<'_>, args: &[&str]) -> Ran {
    let args: Vec<&str> = ["reconcile"].iter().chain(args).copied().chain(["-n", space.name()]).collect();
    run_as(Cluster::up().kubeconfig(), &args)
}

/// A definition of `kind`, whose fields may be anything.
fn definition(group: &str, version: &str, kind: &str, plural: &str, status: bool) -> Value {
    let subresources = if status { json!({"status": {}}) } else { json!({}) };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": true, "storage": true, "subresources": subresources,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    })
}

fn define(cluster: &Cluster, definitions: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": definitions}).to_string();
    cluster.run(&["apply", "-f", "-"], &list).unwrap();
    cluster.run(&["wait", "--for=condition=Established", "--timeout=30s", "-f", "-"], &list).unwrap();
}

/// Makes an object, with a status that is there before anybody asks.
fn make(space: &Namespace<'_>, object: &Value) {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let name = object["metadata"]["name"].as_str().unwrap();
    space.apply(&object.to_string()).unwrap();
    if let Some(status) = object.get("status").filter(|_| !kind.starts_with("application")) {
        patch(space, &kind, name, true, &json!({"status": status}));
    }
}

fn patch(space: &Namespace<'_>, kind: &str, name: &str, status: bool, patch: &Value) {
    let patch = patch.to_string();
    let mut args = vec!["patch", kind, name, "--type=merge", "-p", &patch];
    args.extend(status.then_some("--subresource=status"));
    space.kubectl(&args).unwrap();
}

fn get(space: &Namespace<'_>, kind: &str, name: &str) -> Value {
    let found = space.kubectl(&["get", kind, name, "-o", "json", "--show-managed-fields"]).unwrap();
    serde_json::from_str(&found).unwrap()
}

/// What a controller does to an object, one patch after the other; whether each is of the status subresource.
type Doing = Vec<(bool, Value)>;

/// Runs `work` while a thread plays a controller: it looks at all objects of `kinds` again and again, and does what `act`
/// says.
fn played<T>(
    space: &Namespace<'_>,
    kinds: &[&str],
    act: impl Fn(&Value) -> Doing + Sync,
    work: impl FnOnce() -> T,
) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let found = space.kubectl(&["get", &kinds.join(","), "-o", "json"]).unwrap();
                let found: Value = serde_json::from_str(&found).unwrap();
                for object in found["items"].as_array().unwrap() {
                    let kind = object["kind"].as_str().unwrap().to_lowercase();
                    for (status, change) in act(object) {
                        patch(space, &kind, object["metadata"]["name"].as_str().unwrap(), status, &change);
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn ready(status: &str, reason: &str, message: &str) -> Value {
    json!([{"type": "Ready", "status": status, "reason": reason, "message": message}])
}

/// The request that an object has and its controller has not answered.
fn open_request(object: &Value) -> Option<&str> {
    let asked = object["metadata"]["annotations"][REQUESTED].as_str()?;
    (object["status"]["lastHandledReconcileAt"] != asked).then_some(asked)
}

/// Begins, as Flux' controllers do, and ends with `status`.
fn answer(object: &Value, mut status: Value) -> Doing {
    let Some(asked) = open_request(object) else { return Vec::new() };
    let begun = json!([{"type": "Ready", "status": "Unknown", "reason": "Progressing", "message": "at work"},
        {"type": "Reconciling", "status": "True", "reason": "Progressing", "message": "at work"}]);
    status["lastHandledReconcileAt"] = asked.into();
    status["observedGeneration"] = object["metadata"]["generation"].clone();
    vec![(true, json!({"status": {"conditions": begun}})), (true, json!({"status": status}))]
}

fn kustomization(name: &str) -> Value {
    json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": {"name": name},
        "spec": {"sourceRef": {"kind": "GitRepository", "name": "repository"}, "path": "./"},
        // What was before: it must count for nothing.
        "status": {"observedGeneration": 1, "lastAppliedRevision": OLD, "conditions": ready("False", "Old", "old trouble")}})
}

#[test]
fn flux_is_asked_and_what_it_says_is_told() {
    let cluster = Cluster::up();
    let space = &cluster.namespace(Level::Privileged);
    let absent = run(space, &["flux", "kustomization/apps"]);
    assert_eq!(absent.code, 18, "{}", absent.err);
    assert!(
        absent.err.contains("Flux is not in this cluster") && absent.err.contains("doctor"),
        "{}",
        absent.err
    );
    define(
        cluster,
        &[
            definition("kustomize.toolkit.fluxcd.io", "v1", "Kustomization", "kustomizations", true),
            definition("source.toolkit.fluxcd.io", "v1", "GitRepository", "gitrepositories", true),
            definition("source.toolkit.fluxcd.io", "v1", "HelmRepository", "helmrepositories", true),
            definition("helm.toolkit.fluxcd.io", "v2", "HelmRelease", "helmreleases", true),
        ],
    );
    source_before_object(space);
    revisions_are_waited_for(space);
    failures_and_refusals(space);
    releases(space);
    two_rights_are_enough(cluster, space);
}

fn source_before_object(space: &Namespace<'_>) {
    make(space, &kustomization("apps"));
    make(
        space,
        &json!({"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
        "metadata": {"name": "repository"}, "spec": {"url": "https://git.example.com/app"}}),
    );
    let order = Mutex::new(Vec::new());
    let act = |object: &Value| {
        if open_request(object).is_some() {
            order.lock().unwrap().push(object["kind"].as_str().unwrap().to_owned());
        }
        let fine = ready("True", "Done", "fine");
        answer(object, json!({"conditions": fine, "artifact": {"revision": NEW}, "lastAppliedRevision": NEW}))
    };
    let ran = played(space, &["kustomizations", "gitrepositories"], act, || {
        run(space, &["flux", "ks/apps", "--with-source", "--timeout=30s", "--progress=plain"])
    });
    let expected = format!("kustomization.kustomize.toolkit.fluxcd.io/apps {NEW}\n");
    assert_eq!((ran.code, &*ran.out), (0, &*expected), "{}", ran.err);
    assert_eq!(*order.lock().unwrap(), ["GitRepository", "Kustomization"]);
    assert!(ran.err.contains("its controller has not answered yet"), "{}", ran.err);
    let managers = get(space, "kustomization", "apps")["metadata"]["managedFields"].clone();
    let owns = |entry: &Value| {
        entry["manager"] == "cofferdam"
            && !entry["fieldsV1"]["f:metadata"]["f:annotations"][format!("f:{REQUESTED}")].is_null()
    };
    assert!(managers.as_array().unwrap().iter().any(owns), "{managers}");
}

fn revisions_are_waited_for(space: &Namespace<'_>) {
    // The repository's mirror is late: the first answer is of the commit before.
    let answers = Mutex::new(0);
    let act = |object: &Value| {
        if open_request(object).is_none() || object["metadata"]["name"] != "apps" {
            return Vec::new();
        }
        let mut answers = answers.lock().unwrap();
        *answers += 1;
        let revision = if *answers == 1 { OLD } else { NEW };
        answer(object, json!({"conditions": ready("True", "Done", "fine"), "lastAppliedRevision": revision}))
    };
    let line = ["flux", "kustomization/apps", "--revision", "2222222222", "--timeout=30s", "--format=json"];
    let ran = played(space, &["kustomizations"], act, || run(space, &line));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(*answers.lock().unwrap(), 2);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    let object = &told["objects"][0];
    assert_eq!((&object["revision"], &object["name"]), (&json!(NEW), &json!("apps")));
}

fn failures_and_refusals(space: &Namespace<'_>) {
    let broken = "kustomize build failed: no such file `deployment.yaml`";
    let act = |object: &Value| {
        answer(
            object,
            json!({"conditions": ready("False", "BuildFailed", broken), "lastAttemptedRevision": OLD}),
        )
    };
    let ran = played(space, &["kustomizations"], act, || run(space, &["flux", "kustomization/apps"]));
    assert_eq!((ran.code, &*ran.out), (19, ""), "{}", ran.err);
    for part in [broken, "reason: BuildFailed", &format!("tried: {OLD}, and {NEW} is applied")] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    assert!(ran.took < Duration::from_secs(20), "it was not waited for the limit: {:?}", ran.took);

    let late = run(space, &["flux", "kustomization/apps", "--timeout=2s", "--format=json"]);
    assert_eq!(late.code, 20, "{}", late.err);
    assert!(late.err.contains("its controller has not answered yet"), "{}", late.err);
    let told: Value = serde_json::from_str(&late.out).unwrap();
    assert!(told["failure"]["message"].is_string() && told["objects"] == json!([]), "{told}");

    patch(space, "kustomization", "apps", false, &json!({"spec": {"suspend": true}}));
    let before = get(space, "kustomization", "apps")["metadata"]["annotations"][REQUESTED].clone();
    let suspended = run(space, &["flux", "kustomization/apps"]);
    assert_eq!(suspended.code, 18, "{}", suspended.err);
    assert!(
        suspended.err.contains("is suspended") && suspended.err.contains("flux resume"),
        "{}",
        suspended.err
    );
    assert_eq!(
        get(space, "kustomization", "apps")["metadata"]["annotations"][REQUESTED],
        before,
        "it is left alone"
    );

    let unknown = run(space, &["flux", "bucket/apps"]);
    assert!(
        unknown.code == 18 && unknown.err.contains("it has gitrepository, helmrelease"),
        "{}",
        unknown.err
    );
    let nowhere = run(space, &["flux", "kustomization/none"]);
    assert!(nowhere.code == 18 && nowhere.err.contains("there is no kustomization"), "{}", nowhere.err);
}

fn releases(space: &Namespace<'_>) {
    make(
        space,
        &json!({"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "HelmRepository",
        "metadata": {"name": "charts"}, "spec": {"type": "oci", "url": "oci://registry.example.com/charts"}}),
    );
    make(
        space,
        &json!({"apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease", "metadata": {"name": "web"},
        "spec": {"chart": {"spec": {"chart": "web", "sourceRef": {"kind": "HelmRepository", "name": "charts"}}}}}),
    );
    let act = |object: &Value| {
        let history = json!([{"chartVersion": "1.2.3"}, {"chartVersion": "1.2.2"}]);
        answer(object, json!({"conditions": ready("True", "UpgradeSucceeded", "fine"), "history": history}))
    };
    let line = ["flux", "hr/web", "--with-source", "--force", "--revision=1.2.3", "--timeout=30s"];
    let ran = played(space, &["helmreleases"], act, || run(space, &line));
    assert_eq!((ran.code, &*ran.out), (0, "helmrelease.helm.toolkit.fluxcd.io/web 1.2.3\n"), "{}", ran.err);
    let annotations = get(space, "helmrelease", "web")["metadata"]["annotations"].clone();
    assert_eq!(annotations["reconcile.fluxcd.io/forceAt"], annotations[REQUESTED]);
    assert_eq!(annotations["reconcile.fluxcd.io/resetAt"], Value::Null, "nobody has asked for it");
    // An address of charts is never fetched, so it is never waited for.
    let charts = get(space, "helmrepository", "charts");
    assert_eq!(charts["metadata"]["annotations"][REQUESTED], Value::Null);
}

fn two_rights_are_enough(cluster: &Cluster, space: &Namespace<'_>) {
    make(space, &kustomization("ci"));
    let act = |object: &Value| {
        answer(object, json!({"conditions": ready("True", "Done", "fine"), "lastAppliedRevision": NEW}))
    };
    let job = || {
        run_as(
            cluster.ci_kubeconfig(),
            &["reconcile", "flux", "kustomization/ci", "--timeout=30s", "-n", space.name()],
        )
    };
    let ran = job();
    assert_eq!(ran.code, 16, "{}", ran.err);
    assert!(ran.err.contains("gitlab:ci_job:1074") && ran.err.contains("kustomizations"), "{}", ran.err);
    let resource = "--resource=kustomizations.kustomize.toolkit.fluxcd.io";
    space.kubectl(&["create", "role", "ci", "--verb=get,patch", resource]).unwrap();
    space.kubectl(&["create", "rolebinding", "ci", "--role=ci", "--group=gitlab:ci_job"]).unwrap();
    // Rights come into force a moment after they were given.
    std::thread::sleep(Duration::from_secs(1));
    let ran = played(space, &["kustomizations"], act, job);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

fn application(name: &str, sync: &str, health: &str) -> Value {
    json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": name},
        "spec": {"project": "default", "source": {"repoURL": "https://git.example.com/app", "targetRevision": "main"}},
        "status": {"sync": {"status": sync, "revision": "1111111111"}, "health": {"status": health}}})
}

/// Refreshes, with this status; carries operations out, which end with `phase` and `results`.
fn argo(object: &Value, status: &Value, phase: &str, results: &Value) -> Doing {
    let mut doings = Vec::new();
    if object["metadata"]["annotations"].get(REFRESH).is_some() {
        let mut status = status.clone();
        // What was synced is synced.
        if object["status"]["operationState"]["phase"] == "Succeeded" {
            status["sync"]["status"] = "Synced".into();
        }
        doings.push((false, json!({"metadata": {"annotations": {REFRESH: null}}, "status": status})));
    }
    if let Some(operation) = object.get("operation") {
        let running = json!({"phase": "Running", "operation": operation, "message": "at work"});
        doings.push((false, json!({"status": {"operationState": running}})));
        let revision = operation["sync"].get("revision").cloned().unwrap_or(json!("2222222222"));
        let ended = json!({"phase": phase, "message": "it has ended",
            "syncResult": {"revision": revision, "resources": results}});
        doings.push((false, json!({"operation": null, "status": {"operationState": ended}})));
    }
    doings
}

fn state(sync: &str, health: &str) -> Value {
    json!({"sync": {"status": sync, "revision": "2222222222"}, "health": {"status": health}})
}

#[test]
fn argo_is_asked_and_what_it_says_is_told() {
    let cluster = Cluster::up();
    let space = &cluster.namespace(Level::Privileged);
    let absent = run(space, &["argo", "web"]);
    assert_eq!(absent.code, 18, "{}", absent.err);
    assert!(absent.err.contains("Argo CD is not in this cluster"), "{}", absent.err);
    define(cluster, &[definition("argoproj.io", "v1alpha1", "Application", "applications", false)]);
    applications_are_compared(space);
    applications_are_synced(space);
    failing_applications(space);
}

fn applications_are_compared(space: &Namespace<'_>) {
    make(space, &application("web", "Synced", "Degraded"));
    let forms = Mutex::new(Vec::new());
    // It gets healthy a while after it was compared.
    let act = |object: &Value| {
        let form = object["metadata"]["annotations"].get(REFRESH);
        forms.lock().unwrap().extend(form.cloned());
        match (form, &object["status"]["health"]["status"]) {
            (None, health) if *health == "Progressing" => {
                vec![(false, json!({"status": state("Synced", "Healthy")}))]
            }
            _ => argo(object, &state("Synced", "Progressing"), "", &json!([])),
        }
    };
    let line =
        ["argo", "web", "--hard-refresh", "--revision", "2222222222", "--timeout=30s", "--progress=plain"];
    let ran = played(space, &["applications"], act, || run(space, &line));
    assert_eq!((ran.code, &*ran.out), (0, "application.argoproj.io/web 2222222222\n"), "{}", ran.err);
    assert_eq!(*forms.lock().unwrap(), ["hard"]);
    assert!(ran.err.contains("has not compared it yet"), "{}", ran.err);

    let act = |object: &Value| argo(object, &state("OutOfSync", "Healthy"), "", &json!([]));
    let ran = played(space, &["applications"], act, || run(space, &["argo", "web"]));
    assert_eq!(ran.code, 19, "{}", ran.err);
    assert!(ran.err.contains("is not synced by itself") && ran.err.contains("`--sync`"), "{}", ran.err);

    let late = run(space, &["argo", "web", "--timeout=2s"]);
    assert!(late.code == 20 && late.err.contains("has not compared it yet"), "{}: {}", late.code, late.err);
}

fn applications_are_synced(space: &Namespace<'_>) {
    make(space, &application("shop", "OutOfSync", "Healthy"));
    let operations = Mutex::new(Vec::new());
    let act = |object: &Value| {
        operations.lock().unwrap().extend(object.get("operation").cloned());
        argo(object, &state("OutOfSync", "Healthy"), "Succeeded", &json!([]))
    };
    let line = ["argo", "shop", "--sync", "--prune", "--revision", "2222222222", "--timeout=30s"];
    let ran = played(space, &["applications"], act, || run(space, &line));
    assert_eq!((ran.code, &*ran.out), (0, "application.argoproj.io/shop 2222222222\n"), "{}", ran.err);
    let operations = operations.into_inner().unwrap();
    let [operation] = operations.as_slice() else { panic!("{operations:?}") };
    assert_eq!(operation["initiatedBy"]["username"], "cofferdam");
    assert_eq!(
        (&operation["sync"]["revision"], &operation["sync"]["prune"]),
        (&json!("2222222222"), &json!(true))
    );

    // One at a time: what somebody else has begun is left alone.
    let theirs = json!({"initiatedBy": {"username": "alice"}, "sync": {"revision": "3333333333"}});
    patch(space, "application", "shop", false, &json!({"operation": theirs}));
    let busy = run(space, &["argo", "shop", "--sync"]);
    assert_eq!(busy.code, 17, "{}", busy.err);
    assert!(busy.err.contains("another operation runs") && busy.err.contains("`alice`"), "{}", busy.err);
    assert_eq!(get(space, "application", "shop")["operation"], theirs);
    patch(space, "application", "shop", false, &json!({"operation": null}));
}

fn failing_applications(space: &Namespace<'_>) {
    let results = json!([
        {"group": "apps", "kind": "Deployment", "namespace": "shop", "name": "web", "status": "SyncFailed",
            "message": "spec.selector: field is immutable"},
        {"group": "", "kind": "Service", "namespace": "shop", "name": "web", "status": "Synced", "message": "unchanged"},
    ]);
    let act = |object: &Value| argo(object, &state("OutOfSync", "Healthy"), "Failed", &results);
    let ran = played(space, &["applications"], act, || run(space, &["argo", "shop", "--sync"]));
    assert_eq!(ran.code, 19, "{}", ran.err);
    assert!(ran.err.contains("the sync has failed: it has ended"), "{}", ran.err);
    assert!(
        ran.err.contains("deployment.apps/web in shop: spec.selector: field is immutable"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("service/web"), "{}", ran.err);

    let mut degraded = state("Synced", "Degraded");
    degraded["resources"] = json!([{"group": "apps", "kind": "Deployment", "namespace": "shop", "name": "web",
        "status": "Synced", "health": {"status": "Degraded", "message": "Deployment \"web\" exceeded its progress deadline"}}]);
    let act = |object: &Value| argo(object, &degraded, "", &json!([]));
    let ran = played(space, &["applications"], act, || run(space, &["argo", "web", "--timeout=60s"]));
    assert_eq!(ran.code, 19, "{}", ran.err);
    assert!(ran.err.contains("exceeded its progress deadline"), "{}", ran.err);
    assert!(ran.took < Duration::from_secs(40), "{:?}", ran.took);

    let mut broken = state("Unknown", "Healthy");
    broken["conditions"] = json!([{"type": "ComparisonError", "message": "repository not accessible"}]);
    let act = |object: &Value| argo(object, &broken, "", &json!([]));
    let ran = played(space, &["applications"], act, || run(space, &["argo", "web"]));
    assert_eq!(ran.code, 19, "{}", ran.err);
    assert!(ran.err.contains("ComparisonError: repository not accessible"), "{}", ran.err);
}
