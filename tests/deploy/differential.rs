//! The same manifests, applied by kubectl and by cofferdam: the same live objects.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::{Cluster, Cofferdam, testdata};

/// Kinds whose objects are named the same on both sides: they are removed before the other side has its turn.
const FIXED_NAMES: [&str; 1] = ["IPAddress"];

/// `cofferdam` with the administrator's kubeconfig.
pub fn cofferdam(cluster: &Cluster, home: &Cofferdam, args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = home.command();
    let output =
        command.env("KUBECONFIG", cluster.kubeconfig()).args(args).write_stdin(input).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A file of manifests as it is for one of the two sides.
fn of_side(file: &Path, side: &str) -> String {
    std::fs::read_to_string(file).unwrap().replace("SIDE", side)
}

/// The objects of `text` as they are in the cluster, by kind and name, as nothing but the manifest has made them.
fn live(cluster: &Cluster, namespace: &str, text: &str, side: &str) -> BTreeMap<String, Value> {
    try_live(cluster, namespace, text, side).unwrap()
}

/// The same.
///
/// # Errors
/// What kubectl said.
pub fn try_live(
    cluster: &Cluster,
    namespace: &str,
    text: &str,
    side: &str,
) -> Result<BTreeMap<String, Value>, String> {
    let args = ["-n", namespace, "get", "-o", "json", "--show-managed-fields", "-f", "-"];
    let found = cluster.run(&args, text)?;
    let found: Value = serde_json::from_str(&found).unwrap();
    let items = found["items"].as_array().cloned().unwrap_or_else(|| vec![found]);
    let mut objects = BTreeMap::new();
    for mut item in items {
        comparable(&mut item);
        let item: Value = serde_json::from_str(&item.to_string().replace(side, "SIDE")).unwrap();
        let key =
            format!("{}/{}", item["kind"].as_str().unwrap(), item["metadata"]["name"].as_str().unwrap());
        assert!(objects.insert(key.clone(), item).is_none(), "{key} is there twice");
    }
    Ok(objects)
}

/// Takes out what is of this very object, what others write at their own time, and who has written.
fn comparable(object: &mut Value) {
    let fields = object.as_object_mut().unwrap();
    fields.remove("status");
    let metadata = fields["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
        metadata.remove(field);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| !name.starts_with("deployment.kubernetes.io/"));
        annotations.remove("pv.kubernetes.io/bound-by-controller");
    }
    if metadata
        .get("annotations")
        .is_some_and(|annotations| annotations.as_object().is_some_and(serde_json::Map::is_empty))
    {
        metadata.remove("annotations");
    }
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.remove("batch.kubernetes.io/controller-uid");
        labels.remove("controller-uid");
    }
    // What was applied is compared as it is owned: the set of fields, without who and when.
    let entries = metadata.remove("managedFields");
    let owned = entries.as_ref().and_then(Value::as_array).and_then(|entries| {
        let is_ours = |entry: &&Value| entry["manager"] == "kubectl" || entry["manager"] == "cofferdam";
        entries
            .iter()
            .filter(|entry| entry["operation"] == "Apply")
            .find(is_ours)
            .map(|entry| entry["fieldsV1"].clone())
    });
    let mut owned = owned.unwrap_or_default();
    // `stringData` becomes `data` before it is sent: as it stands, a key that is taken out of it would stay in the Secret
    // (kubernetes/kubernetes#123843).
    if let Some(fields) = owned.as_object_mut()
        && let Some(texts) = fields.remove("f:stringData")
    {
        let data = fields.entry("f:data").or_insert_with(|| serde_json::json!({}));
        data.as_object_mut().unwrap().extend(texts.as_object().unwrap().clone());
    }
    metadata.insert("applied".to_owned(), owned);
    // The node controller finds out at its own time that nobody answers for a node.
    if object["kind"] == "Node" {
        object["spec"].as_object_mut().unwrap().remove("taints");
    }
    drawn_by_lot(object);
}

/// Takes out addresses, ports and names that a cluster chooses.
fn drawn_by_lot(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        if spec.get(field).is_some_and(|value| value != "None" && value != &serde_json::json!(["None"])) {
            spec.insert(field.to_owned(), "drawn".into());
        }
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            port.remove("nodePort");
        }
    }
    spec.remove("volumeName")
        .filter(|name| name == "none")
        .map(|name| spec.insert("volumeName".to_owned(), name));
    let text = object.to_string();
    if let Some(at) = text.find("kube-api-access-") {
        let drawn = &text[at..at + "kube-api-access-xxxxx".len()];
        *object = serde_json::from_str(&text.replace(drawn, "kube-api-access")).unwrap();
    }
    // A Job's pods carry its UID.
    if object["kind"] == "Job" && object["spec"]["manualSelector"] != true {
        object["spec"]["selector"] = Value::Null;
        object["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] = Value::Null;
        object["spec"]["template"]["metadata"]["labels"]["controller-uid"] = Value::Null;
    }
}

#[test]
fn the_same_manifests_give_the_same_objects_as_from_kubectl() {
    let cluster = Cluster::up();
    let home = Cofferdam::new();
    let mut files: Vec<_> = std::fs::read_dir(testdata("manifests/differential"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for side in ["side-a", "side-b"] {
        cluster.run(&["create", "namespace", &format!("diff-{side}")], "").unwrap();
    }
    let mut compared = 0;
    let mut different = Vec::new();
    for file in &files {
        let theirs = {
            let text = of_side(file, "side-a");
            // A definition is served a moment after it is there, and kubectl does not wait: it is asked again.
            let args = ["-n", "diff-side-a", "apply", "--server-side", "--validate=strict", "-f", "-"];
            let first = cluster.run(&args, &text);
            if first.is_err() {
                cluster
                    .run(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"], "")
                    .unwrap();
                cluster
                    .run(&args, &text)
                    .unwrap_or_else(|error| panic!("{}: kubectl: {error}", file.display()));
            }
            let objects = live(cluster, "diff-side-a", &text, "side-a");
            for kind in FIXED_NAMES {
                let _ = cluster.run(&["delete", kind, "-l", "side=side-a", "--ignore-not-found"], "");
            }
            objects
        };
        let text = of_side(file, "side-b");
        let (code, _, said) =
            cofferdam(cluster, &home, &["deploy", "--no-wait", "-n", "diff-side-b", "-f", "-"], &text);
        assert_eq!(code, 0, "{}: {said}", file.display());
        let ours = live(cluster, "diff-side-b", &text, "side-b");
        assert_eq!(
            ours.keys().collect::<Vec<_>>(),
            theirs.keys().collect::<Vec<_>>(),
            "{}: the same objects",
            file.display()
        );
        compared += ours.len();
        for (key, object) in &ours {
            if object != &theirs[key] {
                different.push(format!("{key}\n  ours   {object}\n  theirs {}", theirs[key]));
            }
        }
    }
    // While one of these does not answer, no namespace of the cluster comes to its end.
    for side in ["side-a", "side-b"] {
        cluster.run(&["delete", "apiservice", &format!("v1.diff-{side}.example.com")], "").unwrap();
    }
    assert!(different.is_empty(), "{} of {compared} differ:\n{}", different.len(), different.join("\n"));
    assert!(compared >= 150, "{compared} objects were compared");
}

/// Takes a client-side applied object through kubectl's own change to server-side apply, and through ours.
#[test]
fn what_kubectl_applied_on_the_client_keeps_and_drops_the_same_fields() {
    let cluster = Cluster::up();
    let home = Cofferdam::new();
    let before = |name: &str| {
        format!(
            r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "{name}", "namespace": "default",
            "labels": {{"keep": "1", "drop": "1"}}, "annotations": {{"old": "x"}}}},
            "spec": {{"replicas": 0, "minReadySeconds": 5, "selector": {{"matchLabels": {{"app": "{name}"}}}},
            "template": {{"metadata": {{"labels": {{"app": "{name}"}}}}, "spec": {{"containers": [
            {{"name": "a", "image": "a:1", "env": [{{"name": "A", "value": "1"}}, {{"name": "B", "value": "1"}}]}},
            {{"name": "gone", "image": "b"}}]}}}}}}}}"#
        )
    };
    let after = |name: &str| {
        format!(
            r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "{name}", "namespace": "default",
            "labels": {{"keep": "2"}}}},
            "spec": {{"selector": {{"matchLabels": {{"app": "{name}"}}}},
            "template": {{"metadata": {{"labels": {{"app": "{name}"}}}}, "spec": {{"containers": [
            {{"name": "a", "image": "a:2", "env": [{{"name": "B", "value": "2"}}, {{"name": "C", "value": "3"}}]}}]}}}}}}}}"#
        )
    };
    for manager in ["kubectl-client-side-apply", "pipeline"] {
        let (theirs, ours) = (format!("theirs-{manager}"), format!("ours-{manager}"));
        for name in [&theirs, &ours] {
            cluster.run(&["apply", "--field-manager", manager, "-f", "-"], before(name)).unwrap();
            // Somebody else's field stays, whoever applies.
            let edit =
                r#"{"metadata": {"annotations": {"edited": "yes"}}, "spec": {"revisionHistoryLimit": 3}}"#;
            let edit =
                ["patch", "deployment", name, "--type=merge", "--field-manager=kubectl-edit", "-p", edit];
            cluster.run(&edit, "").unwrap();
        }
        // With another manager's name kubectl meets the conflict that we take over without being forced.
        cluster.run(&["apply", "--server-side", "--force-conflicts", "-f", "-"], after(&theirs)).unwrap();
        let (code, _, said) = cofferdam(cluster, &home, &["deploy", "--no-wait", "-f", "-"], &after(&ours));
        assert_eq!(code, 0, "{said}");
        assert!(said.contains(&format!("taken over from `{manager}`")), "{said}");
        let mut theirs = live(cluster, "default", &after(&theirs), "none").into_values().next().unwrap();
        let mut ours = live(cluster, "default", &after(&ours), "none").into_values().next().unwrap();
        for object in [&mut theirs, &mut ours] {
            let text = object
                .to_string()
                .replace(&format!("theirs-{manager}"), "x")
                .replace(&format!("ours-{manager}"), "x");
            *object = serde_json::from_str(&text).unwrap();
            // kubectl parks the annotation of what was applied last with a manager of its own; here it goes.
            let annotations = object["metadata"]["annotations"].as_object_mut().unwrap();
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        assert_eq!(ours, theirs, "{manager}");
        assert_eq!(
            ours["spec"]["minReadySeconds"],
            Value::Null,
            "a field that the manifest has no more is gone"
        );
        assert_eq!(ours["spec"]["revisionHistoryLimit"], 3, "another's stays");
    }
}
