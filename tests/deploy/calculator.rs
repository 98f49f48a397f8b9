//! From source to a service that answers: build, push, pull secret, deploy, a new version, back, and away.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cluster, Cofferdam, Http, Registry, Scratch, eventually, testdata};

const USER: &str = "bot";
const PASSWORD: &str = "hunter22";
/// What the manifest of the calculator lacks so that a rollout loses no request: a pod that is asked only once it
/// answers, and one that goes on answering until nobody asks it any more.
const GRACEFUL: &str = "        imagePullPolicy: Always
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 5}}}
";

/// What the steps share: a cluster, an open registry with base images and one that wants a login, and a home.
struct Pipeline {
    cluster: Cluster,
    open: Registry,
    private: Registry,
    home: Cofferdam,
}

impl Pipeline {
    fn new() -> Self {
        let cluster = Cluster::start();
        let open = cluster.registry();
        let private = cluster.registry_with(Registry::options().user(USER, PASSWORD));
        Self { cluster, open, private, home: Cofferdam::new() }
    }

    fn image(&self) -> String {
        self.private.reference("group/calculator")
    }

    /// `cofferdam ARGS` with `input`; what it wrote to standard output.
    fn run(&self, args: &[&str], input: &str) -> String {
        let mut command = self.home.command();
        command.env("KUBECONFIG", self.cluster.kubeconfig()).env("DOCKER_IMAGE", self.image());
        let output = command.args(args).write_stdin(input).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        assert!(!said.contains(PASSWORD), "{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Builds and pushes what is in `directory`; gives the digest.
    fn build(&self, directory: &Path, tag: &str, handoff: &str) -> String {
        let mirror = format!("--registry-mirror=docker.io=http://{}", self.open.address());
        let insecure = format!("--insecure-registry={}", self.private.address());
        let tag = format!("--tag={}:{tag}", self.image());
        let handoff = format!("--image-json={handoff}");
        let directory = directory.to_str().unwrap();
        self.run(&["build", &mirror, &insecure, &tag, &handoff, "--push", directory], "").trim().to_owned()
    }

    fn deploy(&self, manifest: &Path, handoff: &str) -> String {
        let insecure = format!("--insecure-registry={}", self.private.address());
        let url = format!("--check-url={}", self.url("/"));
        let manifest = manifest.to_str().unwrap();
        let more = ["--render", "--strict", "--images", handoff, "--name", "calculator", &insecure, &url];
        self.run(&[&["deploy", "-f", manifest], &more[..]].concat(), "")
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}:30194{path}", self.cluster.node_ip())
    }

    /// Adds until the answer is `wanted`: the node's own table follows the pods a moment later.
    fn adds(&self, wanted: &Value) {
        eventually("the sum", Duration::from_secs(10), || {
            let answer = Http::new().post_json(&self.url("/add"), &json!({"a": 20, "b": 22}))?.json();
            if &answer == wanted { Ok(()) } else { Err(answer.to_string()) }
        });
    }

    /// The image of the deployment's pods, as the cluster has it.
    fn deployed(&self) -> String {
        let path = "jsonpath={.spec.template.spec.containers[0].image}";
        self.cluster.run(&["get", "deployment", "calculator", "-o", path], "").unwrap()
    }

    /// Asks for the page again and again while `work` goes on; gives how often, and what went wrong.
    fn asked_while(&self, work: impl FnOnce()) -> (u32, Vec<String>) {
        let (done, count) = (AtomicBool::new(false), AtomicU32::new(0));
        let url = self.url("/");
        let failures = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut failures = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    // A connection of its own each time: what is kept open shows nothing of new ones.
                    match Http::new().get(&url) {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(answer) => failures.push(format!("HTTP {}", answer.status)),
                        Err(error) => failures.push(error),
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
                failures
            });
            work();
            done.store(true, Ordering::Relaxed);
            asking.join().unwrap()
        });
        (count.into_inner(), failures)
    }
}

/// `testdata/calculator` with another version in its answers.
fn second_version() -> Scratch {
    let copy = Scratch::new("calculator-");
    for entry in std::fs::read_dir(testdata("calculator")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let source = copy.path().join("app.py");
    let text = std::fs::read_to_string(&source).unwrap();
    let changed = text.replace("data[\"b\"]})", "data[\"b\"], \"version\": 2})");
    assert_ne!(changed, text);
    std::fs::write(&source, changed).unwrap();
    copy
}

#[test]
fn the_calculator_is_built_deployed_renewed_undone_and_removed() {
    let pipeline = Pipeline::new();
    let Pipeline { cluster, private, .. } = &pipeline;
    let server = private.address();
    let insecure = format!("--insecure-registry={server}");
    pipeline.run(&["login", server, "-u", USER, "--password-stdin", &insecure], PASSWORD);
    let first = pipeline.build(&testdata("calculator"), "56cc4792-86", "image.json");

    let secret =
        ["pull-secret", "acr-secret", "-n", "default", "--server", server, "-u", USER, "--password-stdin"];
    pipeline.run(&secret, PASSWORD);
    let manifest = testdata("calculator/calculator.yaml");
    let out = pipeline.deploy(&manifest, "image.json");
    assert_eq!(out, "service/calculator created\ndeployment.apps/calculator created\n");
    pipeline.adds(&json!({"result": 42}));
    assert_eq!(pipeline.deployed(), format!("{}:56cc4792-86@{first}", pipeline.image()));

    let graceful = Scratch::new("manifest-");
    let graceful_manifest = graceful.path().join("calculator.yaml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace("        imagePullPolicy: Always\n", GRACEFUL);
    assert!(text.contains("readinessProbe"));
    std::fs::write(&graceful_manifest, text).unwrap();
    assert!(
        pipeline.deploy(&graceful_manifest, "image.json").contains("deployment.apps/calculator configured")
    );

    let source = second_version();
    let second = pipeline.build(source.path(), "77aa0000-87", "second.json");
    assert_ne!(first, second);
    let (count, failures) = pipeline.asked_while(|| {
        pipeline.deploy(&graceful_manifest, "second.json");
    });
    assert!(failures.is_empty(), "{} of {count} requests failed: {failures:?}", failures.len());
    assert!(count > 20, "{count} requests were sent");
    pipeline.adds(&json!({"result": 42, "version": 2}));

    let back = pipeline.run(&["rollout", "undo", "deployment/calculator"], "");
    assert!(back.starts_with("deployment.apps/calculator is back at revision "), "{back}");
    assert_eq!(pipeline.deployed(), format!("{}:56cc4792-86@{first}", pipeline.image()));
    pipeline.adds(&json!({"result": 42}));

    pipeline.run(&["undeploy", "calculator"], "");
    let left =
        cluster.run(&["get", "deployments,replicasets,pods,services,configmaps", "-o", "name"], "").unwrap();
    let left: Vec<&str> = left.lines().collect();
    assert_eq!(left, ["service/kubernetes", "configmap/kube-root-ca.crt"]);
}
