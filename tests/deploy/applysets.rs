//! What `kubectl apply --prune --applyset` keeps, made by kubectl itself: removed, and taken over.

use std::io::Write as _;
use std::process::Stdio;

use crate::differential::cofferdam;
use crate::support::{Cluster, Cofferdam, Level, Namespace};

fn config_map(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: b}}\n---\n")
}

const WORKLOAD: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: a, image: example.com/a}]}
---
";

/// `kubectl apply --prune --applyset=SET`, with more flags.
fn kubectl_keeps(place: &[&str], set: &str, more: &[&str], manifests: &str) {
    let mut child = Cluster::up()
        .kubectl()
        .env("KUBECTL_APPLYSET", "true")
        .args(place)
        .args(["apply", "--prune", "--applyset", set, "-f", "-"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn run(space: &Namespace<'_>, args: &[&str], input: &str) -> (i32, String, String) {
    let args: Vec<&str> = args.iter().copied().chain(["-n", space.name()]).collect();
    cofferdam(Cluster::up(), &Cofferdam::new(), &args, input)
}

fn names(space: &Namespace<'_>, kinds: &str, more: &[&str]) -> Vec<String> {
    let found = space.kubectl(&[&["get", kinds, "-o", "name"], more].concat()).unwrap();
    found.lines().filter(|name| !name.ends_with("kube-root-ca.crt")).map(str::to_owned).collect()
}

const LABELLED: [&str; 2] = ["-l", "applyset.kubernetes.io/part-of"];

#[test]
fn a_set_is_removed_and_its_parent_last() {
    let cluster = Cluster::up();
    let space = cluster.namespace(Level::Privileged);
    space.kubectl(&["create", "configmap", "stranger"]).unwrap();
    let manifests = config_map("one") + &config_map("two") + WORKLOAD;
    kubectl_keeps(&["-n", space.name()], "web", &[], &manifests);
    let (code, out, err) = run(&space, &["undeploy", "--applyset", "web"], "");
    assert_eq!(code, 0, "{err}");
    assert!(out.ends_with("secret/web deleted\n"), "the parent goes last: {out}");
    for line in ["configmap/one deleted\n", "configmap/two deleted\n", "deployment.apps/web deleted\n"] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert_eq!(names(&space, "configmap,secret,deployment", &[]), ["configmap/stranger"]);
    let (code, out, err) = run(&space, &["undeploy", "--applyset", "secret/web"], "");
    assert_eq!((code, &*out), (0, ""), "{err}");
    assert!(err.contains("there is no ApplySet"), "{err}");
}

/// A parent of a kind of its own that belongs to the whole cluster: sets of several namespaces have such a one.
const PARENT: &str = "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: parents.sets.example.com, labels: {applyset.kubernetes.io/is-parent-type: 'true'}}
spec:
  group: sets.example.com
  names: {kind: Parent, plural: parents}
  scope: Cluster
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
";

#[test]
fn a_set_of_several_namespaces_is_found_whole() {
    let cluster = Cluster::up();
    let spaces = [cluster.namespace(Level::Privileged), cluster.namespace(Level::Privileged)];
    cluster.run(&["apply", "-f", "-"], PARENT).unwrap();
    cluster.run(&["wait", "--for=condition=Established", "crd/parents.sets.example.com"], "").unwrap();
    // kubectl makes no parent of such a kind: whoever makes it says that it is kubectl's, and which set it is (the digest of
    // `far..Parent.sets.example.com`).
    let parent = serde_json::json!({
        "apiVersion": "sets.example.com/v1", "kind": "Parent",
        "metadata": {
            "name": "far",
            "labels": {"applyset.kubernetes.io/id": "applyset-7zb7tE0d3BeajBe3hb201KQeVTCRWXCDOv-gNS5I0C0-v1"},
            "annotations": {
                "applyset.kubernetes.io/tooling": "kubectl/v1.36.3",
                "applyset.kubernetes.io/contains-group-kinds": "",
            },
        },
    });
    cluster.run(&["create", "-f", "-"], parent.to_string()).unwrap();
    let placed = |space: &Namespace<'_>| {
        config_map("here").replace("{name: here", &format!("{{name: here, namespace: {}", space.name()))
    };
    let manifests: String = spaces.iter().map(placed).collect();
    kubectl_keeps(&[], "parents.sets.example.com/far", &[], &manifests);
    assert_eq!(names(&spaces[1], "configmap", &LABELLED), ["configmap/here"]);
    // Where the command's own namespace is does not matter.
    let line = ["undeploy", "--applyset", "parents.sets.example.com/far"];
    let (code, out, err) = cofferdam(cluster, &Cofferdam::new(), &line, "");
    assert_eq!(code, 0, "{err}");
    let here = "configmap/here deleted\n";
    assert_eq!(out, format!("{here}{here}parent.sets.example.com/far deleted\n"), "{err}");
    assert!(spaces.iter().all(|space| names(space, "configmap", &[]).is_empty()));
}

#[test]
fn what_others_live_in_stays_and_so_does_the_parent() {
    let cluster = Cluster::up();
    let space = cluster.namespace(Level::Privileged);
    let inner = format!("{}-inner", space.name());
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {inner}}}\n---\n");
    kubectl_keeps(&["-n", space.name()], "configmap/web", &[], &(namespace + &config_map("one")));
    for _ in 0..2 {
        let (code, _, err) = run(&space, &["undeploy", "--applyset", "configmap/web"], "");
        assert_eq!(code, 0, "{err}");
        assert!(err.contains(&format!("namespace/{inner} stays")), "{err}");
        assert!(err.contains("configmap/web stays, for objects of the set do"), "{err}");
        assert_eq!(names(&space, "configmap", &[]), ["configmap/web"]);
        cluster.run(&["get", "namespace", &inner], "").unwrap();
    }
}

#[test]
fn what_is_no_set_of_kubectls_is_left_alone() {
    let cluster = Cluster::up();
    let space = cluster.namespace(Level::Privileged);
    space.kubectl(&["create", "secret", "generic", "plain"]).unwrap();
    let (code, _, err) = run(&space, &["undeploy", "--applyset", "plain"], "");
    assert!(code == 18 && err.contains("secret/plain is no ApplySet's parent"), "{code} {err}");
    run(&space, &["deploy", "--no-wait", "--name=web", "-f", "-"], &config_map("one"));
    let (code, _, err) = run(&space, &["undeploy", "--applyset", "configmap/cofferdam-web"], "");
    assert!(
        code == 18 && err.contains("kept by `cofferdam/v1`") && err.contains("undeploy NAME"),
        "{code} {err}"
    );
    assert_eq!(names(&space, "configmap", &[]).len(), 2);

    // Who may not list finds out before anything is gone.
    kubectl_keeps(&["-n", space.name()], "web", &[], &config_map("two"));
    space.kubectl(&["create", "role", "ci", "--verb=get,delete", "--resource=secrets,configmaps"]).unwrap();
    space.kubectl(&["create", "rolebinding", "ci", "--role=ci", "--group=gitlab:ci_job"]).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let home = Cofferdam::new();
    let mut command = home.command();
    command.env("KUBECONFIG", cluster.ci_kubeconfig());
    let output = command.args(["undeploy", "--applyset", "web", "-n", space.name()]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(16), "{err}");
    assert!(err.contains("cannot list resource \"configmaps\""), "{err}");
    assert!(names(&space, "configmap,secret", &[]).contains(&"configmap/two".to_owned()));
}

#[test]
fn a_set_becomes_a_deployment_and_what_is_left_of_it_is_pruned() {
    let cluster = Cluster::up();
    for server_side in [&[][..], &["--server-side"]] {
        let space = cluster.namespace(Level::Privileged);
        kubectl_keeps(
            &["-n", space.name()],
            "web",
            server_side,
            &(config_map("keep") + &config_map("gone") + WORKLOAD),
        );
        assert_eq!(names(&space, "configmap,deployment", &LABELLED).len(), 3);
        let nameless = run(&space, &["deploy", "--applyset=web", "-f", "-"], &config_map("keep"));
        assert!(nameless.0 == 2 && nameless.2.contains("--name"), "{nameless:?}");

        let switch = ["deploy", "--no-wait", "--name=web", "--applyset=web", "-f", "-"];
        let manifests = config_map("keep").replace("a: b", "a: c") + WORKLOAD;
        let (code, _, err) = run(&space, &switch, &manifests);
        assert_eq!(code, 0, "{server_side:?}: {err}");
        assert!(err.contains("has 3 objects, which are taken over"), "{err}");
        assert!(err.contains("still there: configmap/gone (--prune removes it)"), "{err}");
        assert_eq!(names(&space, "configmap,deployment", &LABELLED), [""; 0], "{server_side:?}");
        assert_eq!(names(&space, "secret", &[]), [""; 0]);

        // The flag may stay in the pipeline.
        let (code, out, err) = run(&space, &[&switch[..], &["--prune"]].concat(), &manifests);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("configmap/gone deleted\n"), "{out}");
        assert!(err.contains("nothing to take over"), "{err}");
        let (code, out, err) = run(&space, &["undeploy", "web"], "");
        assert_eq!(code, 0, "{err}");
        assert!(
            out.contains("configmap/keep deleted") && out.contains("deployment.apps/web deleted"),
            "{out}"
        );
    }
}
