//! What is said of a run: as one document, of warnings, of what a take-over drops, of what was gone back to.

use std::path::Path;

use serde_json::{Value, json};

use crate::differential::cofferdam;
use crate::support::{Cluster, Cofferdam, Level, Namespace, Registry};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

fn run(space: &Namespace<'_>, args: &[&str], input: &str) -> Ran {
    let args: Vec<&str> = args.iter().copied().chain(["-n", space.name()]).collect();
    let (code, out, err) = cofferdam(Cluster::up(), &Cofferdam::new(), &args, input);
    Ran { code, out, err }
}

fn config_map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n---\n")
}

fn web(image: &str, text: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "app", "image": image, "command": ["sleep", "1000"],
                    "env": [{"name": "TEXT", "value": text}],
                    "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}],
            }}},
    })
}

fn running(registry: &Registry, text: &str) -> Value {
    web(&registry.reference("library/busybox:1"), text)
}

#[test]
fn a_failure_is_in_the_document_with_what_was_done() {
    let cluster = Cluster::up();
    let space = cluster.namespace(Level::Privileged);
    let mut broken = web("example.com/absent:1", "one");
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    let manifests = config_map("conf", "{a: b}") + &broken.to_string();
    let deploy = ["deploy", "--format=json", "--timeout=60s", "--name=web", "-f", "-"];
    let ran = run(&space, &deploy, &manifests);
    let told = ran.json();
    assert_eq!(ran.code, 19, "{}", ran.err);
    let actions: Vec<_> =
        told["objects"].as_array().unwrap().iter().map(|one| one["action"].clone()).collect();
    assert_eq!(actions, ["created", "created"]);
    assert_eq!((&told["name"], &told["dry_run"]), (&json!("web"), &json!(false)));
    let failure = &told["failure"];
    assert_eq!(failure["kind"], "rollout", "{failure}");
    assert!(failure["message"].as_str().unwrap().contains("deployment.apps/web"), "{failure}");
    assert!(!failure["causes"].as_array().unwrap().is_empty() && failure["hints"].is_array(), "{failure}");
    assert!(ran.err.contains("deployment.apps/web"), "people are told too: {}", ran.err);

    // What is refused at the dry run: nothing was done.
    let wrong = config_map("other", "{a: b}")
        + "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: []}\n";
    let ran = run(&space, &deploy, &wrong);
    assert_eq!((ran.code, &ran.json()["failure"]["kind"]), (18, &json!("apply")));
    assert_eq!(ran.json()["objects"], json!([]));

    let diff = ["diff", "--format=json", "-f", "-"];
    let differs = run(&space, &diff, &config_map("conf", "{a: c}"));
    let told = differs.json();
    assert_eq!((differs.code, told.get("failure")), (1, None));
    assert_eq!(told["objects"][0]["changes"], json!([{"path": ".data.a", "before": "b", "after": "c"}]));
    let same = run(&space, &diff, &config_map("conf", "{a: b}"));
    assert_eq!((same.code, &same.json()["objects"]), (0, &json!([])));
    let unknown = run(&space, &diff, &wrong);
    assert_eq!((unknown.code, &unknown.json()["failure"]["kind"]), (2, &json!("apply")), "{}", unknown.err);

    // What does not go away in time.
    space
        .kubectl(&[
            "patch",
            "configmap",
            "conf",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":["a.example/b"]}}"#,
        ])
        .unwrap();
    let ran = run(&space, &["undeploy", "web", "--format=json", "--timeout=2s"], "");
    let told = ran.json();
    assert_eq!((ran.code, &told["failure"]["kind"]), (20, &json!("timed_out")), "{}", ran.err);
    let names: Vec<_> = told["objects"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(names.contains(&&json!("conf")) && names.contains(&&json!("web")), "{told}");
    space
        .kubectl(&["patch", "configmap", "conf", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])
        .unwrap();
    let ran = run(&space, &["undeploy", "web", "--format=json"], "");
    assert_eq!((ran.code, ran.json().get("failure")), (0, None), "{}", ran.err);
}

#[test]
fn what_fails_is_diagnosed_and_then_taken_back() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let space = cluster.namespace(Level::Privileged);
    let deploy = |object: &Value| {
        let args = [
            "deploy",
            "--rollback-on-failure",
            "--timeout=60s",
            "--progress=plain",
            "--format=json",
            "-f",
            "-",
        ];
        run(&space, &args, &object.to_string())
    };
    let absent = registry.reference("library/busybox:absent");
    let first = deploy(&web(&absent, "zero"));
    assert_eq!(first.code, 19, "{}", first.err);
    assert!(first.err.contains("there is nothing to go back to"), "{}", first.err);

    assert_eq!(deploy(&running(&registry, "one")).code, 0);
    let template = || -> Value {
        let found = space.kubectl(&["get", "deployment", "web", "-o", "json"]).unwrap();
        serde_json::from_str::<Value>(&found).unwrap()["spec"]["template"].clone()
    };
    let before = template();
    let failed = deploy(&web(&absent, "two"));
    assert_eq!(failed.code, 19, "{}", failed.err);
    let place = |words: &str| failed.err.find(words).unwrap_or_else(|| panic!("{words}: {}", failed.err));
    assert!(place("busybox:absent") < place("going back, for"), "why is said first: {}", failed.err);
    assert!(place("is back at revision") < place("what was there before is ready again"), "{}", failed.err);
    assert_eq!(template(), before);
    let told = failed.json();
    assert_eq!(told["rolled_back"][0]["action"], "rolled back", "{told}");
    assert_eq!(told["failure"]["kind"], "rollout");
    let state = run(&space, &["rollout", "status", "deployment/web", "--timeout=30s"], "");
    assert_eq!((state.code, &*state.out), (0, "deployment.apps/web ready\n"), "{}", state.err);
    // Who went back was ourselves: the next deployment meets no conflict.
    assert_eq!(deploy(&running(&registry, "three")).code, 0);
}

#[test]
fn warnings_are_told_even_if_something_is_refused() {
    let cluster = Cluster::up();
    let space = cluster.namespace(Level::Privileged);
    cluster
        .run(&["label", "namespace", space.name(), "pod-security.kubernetes.io/warn=restricted"], "")
        .unwrap();
    let wrong = "---\napiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: []}\n";
    let ran =
        run(&space, &["deploy", "-f", "-"], &(web("example.com/a:1", "one").to_string() + "\n" + wrong));
    assert_eq!(ran.code, 18, "{}", ran.err);
    let warning = "deployment.apps/web: would violate PodSecurity \"restricted:latest\"";
    assert!(ran.err.contains(warning), "{}", ran.err);
    let diff = run(&space, &["diff", "-f", "-"], &web("example.com/a:1", "one").to_string());
    assert!(diff.code == 1 && diff.err.contains(warning), "{}", diff.err);
}

#[test]
fn what_a_take_over_drops_is_a_difference() {
    let cluster = Cluster::up();
    let space = cluster.namespace(Level::Privileged);
    let mut theirs = web("example.com/a:1", "one");
    let container = &mut theirs["spec"]["template"]["spec"]["containers"][0];
    container["imagePullPolicy"] = json!("IfNotPresent");
    container["env"].as_array_mut().unwrap().push(json!({"name": "DROPPED", "value": "x"}));
    theirs["metadata"]["labels"] = json!({"dropped": "x", "kept-by-others": "x"});
    theirs["spec"]["replicas"] = json!(0);
    space.apply(&theirs.to_string()).unwrap();
    // What somebody else changes is theirs.
    let label = ["label", "--overwrite", "deployment", "web", "other=y", "kept-by-others=y"];
    space.kubectl(&[&label[..], &["--field-manager=other"]].concat()).unwrap();
    let mut ours = web("example.com/a:1", "one");
    ours["spec"]["replicas"] = json!(0);
    let diff = || run(&space, &["diff", "-f", "-"], &ours.to_string());
    let said = diff();
    assert_eq!(said.code, 1, "{}", said.err);
    for part in [".metadata.labels.dropped\n    - x\n", ".env[name=\"DROPPED\"]\n    - {"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    // The server puts its default back; and what another owns stays.
    for part in ["imagePullPolicy", "kept-by-others", "other", "last-applied"] {
        assert!(!said.out.contains(part), "{part}: {}", said.out);
    }
    let ran = run(&space, &["deploy", "--no-wait", "-f", "-"], &ours.to_string());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let after = diff();
    assert_eq!((after.code, &*after.out), (0, ""), "{}", after.err);
    let found = space.kubectl(&["get", "deployment", "web", "-o", "json"]).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["metadata"]["labels"], json!({"kept-by-others": "y", "other": "y"}));
    let container = &found["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["env"], json!([{"name": "TEXT", "value": "one"}]));
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn an_address_is_asked_with_the_authorities_that_are_trusted() {
    let cluster = Cluster::up();
    let space = cluster.namespace(Level::Privileged);
    let secure = Registry::options().tls().empty().start();
    let plain = Registry::options().empty().start();
    let ca = secure.ca().unwrap();
    let ask = |url: &str, authorities: &Path| {
        let home = Cofferdam::new();
        let mut command = home.command();
        // Named in the kubeconfig, the cluster's own authority needs none of these.
        command.env("KUBECONFIG", cluster.kubeconfig()).env("SSL_CERT_FILE", authorities);
        let line = ["deploy", "-f", "-", "--check-timeout=2s", "--check-url", url, "-n", space.name()];
        let output = command.args(line).write_stdin(config_map("conf", "{a: b}")).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, err) = ask(&secure.url("/v2/"), ca);
    assert!(code == 0 && err.contains("answers: 200"), "{code} {err}");
    let other = cluster.fixture().path("KUBECONFIG").with_file_name("ca.pem");
    let other = if other.exists() { other } else { ca.with_file_name("none") };
    let (code, err) = ask(&secure.url("/v2/"), &other);
    assert!(code == 19 && err.contains("certificate"), "{code} {err}");
    // No certificate is needed, and none is there.
    let (code, err) = ask(&plain.url("/v2/"), Path::new("/dev/null"));
    assert!(code == 0 && err.contains("answers: 200"), "{code} {err}");
}

#[test]
fn doctor_says_where_name_and_namespace_are_from() {
    let cluster = Cluster::up();
    let doctor = |variables: &[(&str, &str)], flags: &[&str]| {
        let home = Cofferdam::new();
        let mut command = home.command();
        command.env("KUBECONFIG", cluster.kubeconfig()).envs(variables.iter().copied());
        let output = command.args(["deploy", "doctor"]).args(flags).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let job = [("CI_ENVIRONMENT_SLUG", "review-1"), ("KUBE_NAMESPACE", "shop")];
    let said = doctor(&job, &[]);
    assert!(said.contains("namespace  shop (by KUBE_NAMESPACE)\n"), "{said}");
    assert!(said.contains("name       review-1 (by CI_ENVIRONMENT_SLUG)\n"), "{said}");
    let said = doctor(&job, &["-n", "mine", "--name", "web"]);
    assert!(said.contains("namespace  mine (by --namespace)\n"), "{said}");
    assert!(said.contains("name       web (by --name)\n"), "{said}");
    let said = doctor(&[], &[]);
    assert!(said.contains("namespace  default (nobody names another)\n"), "{said}");
    assert!(said.contains("name       none"), "{said}");
}

#[test]
fn kinds_are_called_as_the_cluster_calls_them() {
    use cofferdam::deploy::object::Gvk;
    use cofferdam::deploy::rbac::{Named, built_in};
    let listed = Cluster::up().run(&["api-resources", "--no-headers", "-o", "wide"], "").unwrap();
    let mut seen = 0;
    for line in listed.lines() {
        // NAME [SHORTNAMES] APIVERSION NAMESPACED KIND VERBS [CATEGORIES]
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| matches!(*word, "true" | "false")).unwrap();
        let gvk = Gvk::new(words[at - 1], words[at + 1]);
        let is_own = !gvk.group.contains('.') || gvk.group.ends_with(".k8s.io");
        if !is_own || !words[at + 2].split(',').any(|verb| verb == "patch") {
            continue;
        }
        seen += 1;
        let named = Named { plural: words[0].to_owned(), namespaced: words[at] == "true" };
        assert_eq!(built_in(&gvk), Some(named), "{line}");
    }
    assert!(seen > 40, "only {seen} kinds were found: {listed}");
}

#[test]
fn the_content_of_a_secret_is_not_told_with_a_conflict() {
    let space = Cluster::up().namespace(Level::Privileged);
    let (theirs, ours) = ("dGhlaXJzLW9ubHk=", "b3Vycy1vbmx5");
    space.kubectl(&["create", "secret", "generic", "login", "--from-literal=password=theirs-only"]).unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "data": {"password": ours}});
    for line in [["deploy", "-f", "-", "--format=json"], ["diff", "-f", "-", "--format=json"]] {
        let ran = run(&space, &line, &secret.to_string());
        let all = format!("{}{}", ran.out, ran.err);
        assert!(ran.code != 0 && all.contains(".data.password") && all.contains("neither is shown"), "{all}");
        for value in [theirs, ours, "theirs-only", "ours-only"] {
            assert!(!all.contains(value), "{value}: {all}");
        }
    }
}
