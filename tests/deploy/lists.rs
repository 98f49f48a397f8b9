//! What deployments know of their objects, and of each other's.

use serde_json::{Value, json};

use crate::differential::cofferdam;
use crate::support::{Cluster, Cofferdam, Level, Namespace};

fn run(space: &Namespace<'_>, args: &[&str], input: &str) -> (i32, String) {
    let args: Vec<&str> = args.iter().copied().chain(["-n", space.name()]).collect();
    let (code, out, err) = cofferdam(Cluster::up(), &Cofferdam::new(), &args, input);
    (code, format!("{out}{err}"))
}

fn maps(names: &[&str]) -> String {
    let map = |name: &&str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let items: Vec<Value> = names.iter().map(map).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn is_there(space: &Namespace<'_>, name: &str) -> bool {
    space.kubectl(&["get", "configmap", name]).is_ok()
}

#[test]
fn what_another_deployment_has_now_is_neither_pruned_nor_undeployed() {
    let space = &Cluster::up().namespace(Level::Privileged);
    let deploy = |name: &str, more: &[&str], names: &[&str]| {
        let line: Vec<&str> = ["deploy", "-f", "-", "--name", name].iter().chain(more).copied().collect();
        let (code, said) = run(space, &line, &maps(names));
        assert_eq!(code, 0, "{said}");
        said
    };
    deploy("web", &[], &["a", "b", "c"]);
    // One object has moved from the one to the other.
    deploy("api", &[], &["b"]);
    let said = deploy("web", &["--prune"], &["a"]);
    assert!(said.contains("configmap/b stays: it is part of the deployment `api`"), "{said}");
    assert!(is_there(space, "a") && is_there(space, "b") && !is_there(space, "c"), "{said}");

    // The deployment has another name from now on.
    deploy("shop", &[], &["a"]);
    let (code, said) = run(space, &["undeploy", "web"], "");
    assert!(code == 0 && said.contains("configmap/a stays: it is part of the deployment `shop`"), "{said}");
    assert!(is_there(space, "a") && !is_there(space, "cofferdam-web"));
    for (name, object) in [("shop", "a"), ("api", "b")] {
        let (code, said) = run(space, &["undeploy", name], "");
        assert!(code == 0 && !is_there(space, object), "{said}");
    }
}

/// A namespace that was made by a run which failed after that was thought to be somebody else's for ever.
#[test]
fn what_a_failed_run_has_made_goes_with_the_rest() {
    let cluster = Cluster::up();
    let home = &cluster.namespace(Level::Privileged);
    let made = format!("{}-made", home.name());
    let place = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made}});
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": made}, "data": data});
    let args = ["deploy", "-f", "-", "--name", "review"];
    let deploy = |data: Value| {
        let input = json!({"apiVersion": "v1", "kind": "List", "items": [place, map(data)]}).to_string();
        let (code, out, err) = cofferdam(cluster, &Cofferdam::new(), &args, &input);
        (code, format!("{out}{err}"))
    };
    // What is in the new namespace cannot be tried before.
    let (code, said) = deploy(json!({"not a key!": "x"}));
    assert_eq!(code, 18, "{said}");
    let (code, said) = deploy(json!({"a": "x"}));
    assert_eq!(code, 0, "{said}");
    let (code, out, err) = cofferdam(cluster, &Cofferdam::new(), &["undeploy", "review"], "");
    assert_eq!(code, 0, "{out}{err}");
    assert!(home.kubectl(&["get", "namespace", &made]).is_err(), "{out}{err}");
}

/// What was announced by a run that was cut off belongs to whoever has it.
#[test]
fn what_was_announced_and_never_applied_is_left_alone() {
    let space = &Cluster::up().namespace(Level::Privileged);
    space.kubectl(&["create", "configmap", "theirs"]).unwrap();
    let (code, said) = run(space, &["deploy", "-f", "-", "--name", "web"], &maps(&["ours"]));
    assert_eq!(code, 0, "{said}");
    let list =
        space.kubectl(&["get", "configmap", "cofferdam-web", "-o", "jsonpath={.data.objects}"]).unwrap();
    let mut list: Value = serde_json::from_str(&list).unwrap();
    let mut theirs = list[0].clone();
    theirs.as_object_mut().unwrap().remove("uid");
    theirs["name"] = json!("theirs");
    list.as_array_mut().unwrap().push(theirs);
    let patch = json!({"data": {"objects": list.to_string()}}).to_string();
    space.kubectl(&["patch", "configmap", "cofferdam-web", "--type=merge", "-p", &patch]).unwrap();
    let (code, said) = run(space, &["undeploy", "web"], "");
    assert!(code == 0 && said.contains("configmap/theirs left, for it was never applied"), "{said}");
    assert!(is_there(space, "theirs") && !is_there(space, "ours"));
}
