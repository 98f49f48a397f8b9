//! In a real pod of a real Kubernetes, under the *restricted* Pod Security Standard: uid 1000, no capability, no new
//! privileges, `RuntimeDefault`, a read-only root, an `emptyDir`.

use std::time::Duration;

use serde_json::json;

use crate::determinism;
use crate::support::{
    Cluster, Cofferdam, Http, Level, Namespace, Pod, Registry, eventually, layers, testdata,
};

/// A pod as the *restricted* standard has it and as strict as it can be had.
fn pod<'a>(namespace: &'a Namespace<'a>, name: &str, image: &str, more: serde_json::Value) -> Pod<'a> {
    let security = json!({
        "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let mut container = json!({
        "name": "main", "image": image, "securityContext": security,
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
    });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "securityContext": {"fsGroup": 1000},
            "containers": [container], "volumes": [{"name": "work", "emptyDir": {}}],
        },
    });
    namespace.apply(&pod.to_string()).unwrap();
    namespace.existing(name)
}

/// A pod that waits, with cofferdam in it.
fn builder<'a>(namespace: &'a Namespace<'a>, registry: &Registry) -> Pod<'a> {
    let image = Cluster::program_image(registry, Cofferdam::binary());
    let waiting = json!({
        "command": ["sleep", "3600"], "workingDir": "/work", "env": [{"name": "HOME", "value": "/work"}],
    });
    let pod = pod(namespace, "builder", &image, waiting);
    pod.ready();
    pod
}

/// Brings a directory into the pod. Directories made in an `emptyDir` of a pod with a `fsGroup` inherit the
/// set-group-ID bit, which is part of the input like any other: it is taken away.
fn bring(pod: &Pod<'_>, directory: &std::path::Path, to: &str) {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", directory).unwrap();
    let script = format!("mkdir -p {to} && tar -xpf - -C {to} && find {to} -type d -exec chmod g-s {{}} +");
    pod.exec_with(&["sh", "-c", &script], &archive.into_inner().unwrap()).unwrap();
}

fn build_in(pod: &Pod<'_>, registry: &Registry, environment: &[&str], args: &[&str]) -> String {
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    let insecure = format!("--insecure-registry={}", registry.address());
    let line = [&["env"], environment, &["cofferdam", "build", "--progress=plain", &mirror, &insecure], args];
    pod.exec(&line.concat()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_calculator_is_built_in_a_restricted_pod_and_run_by_the_cluster() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Restricted);
    let pod = builder(&namespace, &registry);
    bring(&pod, &testdata("calculator"), "/work/calculator");
    let found = pod.exec(&["cofferdam", "doctor"]).unwrap();
    assert!(found.contains("`RUN` steps included"), "{found}");

    let name = "private/group/calculator:56cc4792-86";
    let tag = format!("--tag={}", registry.reference(name));
    let digest = build_in(&pod, &registry, &[], &[&tag, "--push", "/work/calculator"]);
    assert_eq!(registry.digest(name).as_deref(), Some(digest.trim()));

    let served = self::pod(&namespace, "calculator", &registry.reference(name), json!({}));
    let address = served.ready();
    let answer = eventually("the sum", Duration::from_secs(60), || {
        Http::new()
            .post_json(&format!("http://{address}:30194/add"), &json!({"a": 1.5, "b": 2}))
            .map_err(|error| format!("{error}\n{}", served.describe()))
    });
    assert_eq!(answer.json()["result"], 3.5);
}

#[test]
fn a_restricted_pod_makes_the_same_bytes_as_root() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Restricted);
    let pod = builder(&namespace, &registry);
    let input = determinism::input();
    bring(&pod, input.path(), "/work/input");
    let tag = format!("--tag={}", registry.reference("same/pod:1"));
    let args = [&*tag, "--push", "/work/input"];
    let digest = build_in(&pod, &registry, &["SOURCE_DATE_EPOCH=1700000000"], &args);
    let expected = determinism::digest(&determinism::PLAIN, &registry, "same/root:1");
    assert_eq!(layers(&registry, "same/pod:1"), layers(&registry, "same/root:1"));
    assert_eq!(digest.trim(), expected);
}
