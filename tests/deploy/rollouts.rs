//! Rollouts that go well, their history, and the way back.

use serde_json::{Value, json};

use crate::differential::cofferdam;
use crate::support::{Cluster, Cofferdam, Level, Namespace, Registry};

/// A Deployment whose pods are ready as soon as they run.
pub(crate) fn web(registry: &Registry, text: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "app", "image": registry.reference("library/busybox:1"),
                    "command": ["sleep", "1000"], "env": [{"name": "TEXT", "value": text}],
                    "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}],
            }},
        },
    })
}

fn of_kind(kind: &str, registry: &Registry, text: &str) -> Value {
    let mut object = web(registry, text, 1);
    object["kind"] = json!(kind);
    match kind {
        "StatefulSet" => object["spec"]["serviceName"] = json!("web"),
        "DaemonSet" => {
            object["spec"].as_object_mut().unwrap().remove("replicas");
            object["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node"});
        }
        _ => {}
    }
    object
}

/// `cofferdam`, which must succeed; standard output and standard error.
fn done(cluster: &Cluster, namespace: &Namespace<'_>, args: &[&str], input: &str) -> (String, String) {
    let args: Vec<&str> = args.iter().copied().chain(["-n", namespace.name()]).collect();
    let (status, stdout, stderr) = cofferdam(cluster, &Cofferdam::new(), &args, input);
    assert_eq!(status, 0, "{args:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

fn deploy(cluster: &Cluster, namespace: &Namespace<'_>, object: &Value) -> String {
    done(
        cluster,
        namespace,
        &["deploy", "-f", "-", "--timeout", "60s", "--progress=plain"],
        &object.to_string(),
    )
    .1
}

fn template(namespace: &Namespace<'_>, kind: &str) -> Value {
    let found = namespace.kubectl(&["get", kind, "web", "-o", "json"]).unwrap();
    serde_json::from_str::<Value>(&found).unwrap()["spec"]["template"].clone()
}

#[test]
fn going_back_gives_the_template_that_kubectl_gives_and_no_conflict() {
    let cluster = Cluster::up();
    let registry = &cluster.registry();
    std::thread::scope(|scope| {
        for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
            scope.spawn(move || there_and_back(cluster, registry, kind));
        }
    });
}

fn there_and_back(cluster: &Cluster, registry: &Registry, kind: &str) {
    let name = format!("{}/web", kind.to_lowercase());
    let sides = [cluster.namespace(Level::Privileged), cluster.namespace(Level::Privileged)];
    for namespace in &sides {
        deploy(cluster, namespace, &of_kind(kind, registry, "one"));
        // Somebody has a hand in it, by other means.
        namespace.kubectl(&["set", "env", &name, "ADDED=by hand"]).unwrap();
        let two = of_kind(kind, registry, "two");
        let (_, said) =
            done(cluster, namespace, &["deploy", "-f", "-", "--progress=plain"], &two.to_string());
        assert!(said.contains(": ready after"), "{said}");
    }
    let [theirs, ours] = &sides;
    let (history, _) = done(cluster, ours, &["rollout", "history", &name], "");
    assert!(history.lines().count() == 3 && history.contains("* "), "{history}");
    theirs.kubectl(&["rollout", "undo", &name, "--to-revision=1"]).unwrap();
    let (said, _) = done(cluster, ours, &["rollout", "undo", &name, "--to-revision=1"], "");
    assert!(said.contains("is back at revision 1"), "{said}");
    assert_eq!(template(theirs, kind), template(ours, kind), "{kind}");
    // Going back has made it the newest revision: it is not kept twice.
    let (said, _) = done(cluster, ours, &["rollout", "undo", &name, "--to-revision=4"], "");
    assert!(said.contains("is the same as revision 4 already"), "{said}");
    let again = deploy(cluster, ours, &of_kind(kind, registry, "three"));
    assert!(again.contains(": ready after"), "{again}");
    let text = template(ours, kind)["spec"]["containers"][0]["env"].to_string();
    assert!(text.contains("three") && !text.contains("ADDED"), "{text}");
}

#[test]
fn restarting_makes_new_pods_and_is_waited_for() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    deploy(cluster, &namespace, &web(&registry, "one", 2));
    let pods = || namespace.kubectl(&["get", "pods", "-o", "name"]).unwrap();
    let before = pods();
    let (said, _) = done(cluster, &namespace, &["rollout", "restart", "deploy/web", "--progress=plain"], "");
    assert_eq!(said, "deployment.apps/web is restarted\n");
    let (said, _) = done(cluster, &namespace, &["rollout", "status", "deployment/web"], "");
    assert_eq!(said, "deployment.apps/web ready\n");
    assert!(before.lines().all(|pod| !pods().contains(pod)), "{before}{}", pods());
}

#[test]
fn what_is_paused_is_refused_and_passed_over() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    let mut object = web(&registry, "one", 1);
    object["spec"]["paused"] = json!(true);
    let said = deploy(cluster, &namespace, &object);
    assert!(said.contains("skipped after") && said.contains("it is paused"), "{said}");
    for verb in ["undo", "restart"] {
        let args = ["rollout", verb, "deployment/web", "-n", namespace.name()];
        let (status, _, said) = cofferdam(cluster, &Cofferdam::new(), &args, "");
        assert!(status == 18 && said.contains("is paused"), "{status} {said}");
    }
    let args = ["rollout", "status", "deployment/nobody", "-n", namespace.name()];
    let (status, _, said) = cofferdam(cluster, &Cofferdam::new(), &args, "");
    assert!(status == 18 && said.contains("there is no deployment.apps/nobody"), "{status} {said}");
}

/// Where watching is not allowed it is asked again and again; where events and logs are not, it is said.
#[test]
fn rights_that_are_missing_are_noted_and_do_without() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    let role = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "ci"}, "rules": [
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "create", "patch"]},
            {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "ci"},
            "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "gitlab:ci_job"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ci"}},
    ]});
    namespace.apply(&role.to_string()).unwrap();
    let run = |object: &Value| {
        let home = Cofferdam::new();
        let mut command = home.command();
        command.env("KUBECONFIG", cluster.ci_kubeconfig());
        command.args(["deploy", "-f", "-", "-n", namespace.name(), "--timeout", "60s", "--progress=plain"]);
        let output = command.write_stdin(object.to_string()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = run(&web(&registry, "one", 1));
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("may not be watched here"), "{said}");
    let mut broken = web(&registry, "two", 1);
    broken["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", "echo unseen; exit 3"]);
    let (status, said) = run(&broken);
    assert_eq!(status, Some(19), "{said}");
    assert!(said.contains("ends with exit code 3"), "{said}");
    assert!(
        said.contains("events may not be read here") && said.contains("logs may not be read here"),
        "{said}"
    );
    assert!(!said.contains("log: unseen"), "{said}");
}

/// The controller says that it has seen the mended revision before there is anything new to say: the deadline that the one before
/// has missed, and its pods that end again and again, are not of the new one.
#[test]
fn what_is_wrong_with_the_revision_before_is_not_told_of_the_new_one() {
    let cluster = Cluster::up();
    let registry = &cluster.registry();
    let namespace = &cluster.namespace(Level::Privileged);
    let mut broken = web(registry, "one", 1);
    broken["spec"]["strategy"] = json!({"type": "Recreate"});
    broken["spec"]["progressDeadlineSeconds"] = json!(8);
    let pod = &mut broken["spec"]["template"]["spec"];
    // The pod takes its time to end: until then there is no replica set of the new revision.
    pod["terminationGracePeriodSeconds"] = json!(6);
    let mut stubborn = pod["containers"][0].clone();
    stubborn["name"] = json!("stubborn");
    stubborn["command"] = json!(["sh", "-c", "trap '' TERM; while true; do sleep 1; done"]);
    pod["containers"][0]["command"] = json!(["sh", "-c", "exit 3"]);
    pod["containers"].as_array_mut().unwrap().push(stubborn);
    let args = ["deploy", "-f", "-", "--timeout=60s", "-n", namespace.name()];
    let (code, _, said) = cofferdam(cluster, &Cofferdam::new(), &args, &broken.to_string());
    assert_eq!(code, 19, "{said}");
    namespace
        .kubectl(&["wait", "deployment/web", "--for=condition=Progressing=False", "--timeout=60s"])
        .unwrap();
    let mut mended = broken;
    mended["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["sleep", "1000"]);
    let said = deploy(cluster, namespace, &mended);
    assert!(said.contains("deployment.apps/web: ready after"), "{said}");
}

/// A Job has nothing to show until it has ended.
#[test]
fn a_job_that_runs_makes_progress() {
    let cluster = Cluster::up();
    let registry = &cluster.registry();
    let namespace = &cluster.namespace(Level::Privileged);
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migration"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "app", "image": registry.reference("library/busybox:1"),
            "command": ["sleep", "14"]}]}}}});
    done(
        cluster,
        namespace,
        &["deploy", "-f", "-", "--timeout=60s", "--no-progress-timeout=6s"],
        &job.to_string(),
    );
}
