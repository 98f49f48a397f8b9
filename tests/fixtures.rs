//! Each part that the other tests stand on, without the program under test: a broken fixture is seen here as what it
//! is. `fixtures/provision` makes what is missing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use support::{
    BuildKit, Buildah, Cluster, Cofferdam, Container, Fixture, Http, Level, Namespace, Registry, TestImage,
    Unprivileged, eventually, run_image, script, testdata,
};

/// Every base image, as `provision` names them.
const BASES: [&str; 7] = [
    "library/busybox:1",
    "library/debian:bookworm-slim",
    "library/gcc:12",
    "library/golang:1.26",
    "library/node:20-slim",
    "library/python:3.9-slim",
    "library/python:3.9-slim-flat",
];

fn skopeo(args: &[&str]) -> Result<String, String> {
    let output = Command::new("skopeo").args(args).output().expect("skopeo runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn every_part_is_there() {
    let output = Command::new(script("provision")).arg("check").output().expect("fixtures/provision runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_missing_part_is_named_with_the_command_that_makes_it() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(script("registry"))
        .arg("run")
        .env("COFFERDAM_FIXTURES", empty.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("`bases` is not built") && said.contains("run: fixtures/provision bases"),
        "{said}"
    );
}

#[test]
fn a_registry_serves_the_bases() {
    let registry = Registry::start();
    for base in BASES {
        let inspected =
            skopeo(&["inspect", "--tls-verify=false", &format!("docker://{}", registry.reference(base))]);
        let inspected: serde_json::Value =
            serde_json::from_str(&inspected.unwrap_or_else(|e| panic!("{base}: {e}"))).unwrap();
        let layers = inspected["Layers"].as_array().unwrap().len();
        let expected = match base {
            "library/busybox:1" | "library/debian:bookworm-slim" | "library/python:3.9-slim-flat" => 1,
            _ => 2,
        };
        assert_eq!(layers, expected, "{base}");
        let env = inspected["Env"].to_string();
        assert!(env.contains("PATH=") && env.contains("/usr/bin"), "{base}: {env}");
    }
    // The layer that they share is one blob.
    let debian = registry.manifest("library/debian:bookworm-slim")["layers"][0]["digest"].clone();
    assert_eq!(registry.manifest("library/golang:1.26")["layers"][0]["digest"], debian);
    let asked = registry.requests();
    assert!(
        asked
            .iter()
            .any(|r| r.method == "GET" && r.path == "/v2/library/gcc/manifests/12" && r.status == 200)
    );
}

#[test]
fn a_push_leaves_the_shared_blobs_alone() {
    let (one, other) = (Registry::start(), Registry::start());
    let before = other.digest("library/busybox:1");
    let (from, to) = (one.reference("library/debian:bookworm-slim"), one.reference("library/busybox:1"));
    skopeo(&[
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &format!("docker://{from}"),
        &format!("docker://{to}"),
    ])
    .unwrap();
    assert_ne!(one.digest("library/busybox:1"), before);
    assert_eq!(other.digest("library/busybox:1"), before);
}

#[test]
fn a_registry_takes_images_made_by_tests() {
    let registry = Registry::options().empty().start();
    assert_eq!(registry.http().get(&registry.url("/v2/library/busybox/tags/list")).unwrap().status, 404);
    registry.seed("library/busybox:1").seed_as("library/busybox:1", "team/base:7");
    TestImage::from("team/base:7")
        .bytes("/etc/motto", 0o644, b"festina lente")
        .set("User", json!("1000:1000"))
        .push(&registry, "team/image:1");
    let (code, output) = run_image(&registry, "team/image:1", &["sh", "-c", "id -u; cat /etc/motto"])
        .wait(Duration::from_secs(20));
    assert_eq!((code, output.as_str()), (0, "1000\nfestina lente"));
}

#[test]
fn a_registry_with_tls_and_a_password_refuses_who_lacks_either() {
    let registry = Registry::options().tls().user("bob", "open sesame").start();
    let url = registry.url("/v2/");
    assert_eq!(registry.http().get(&url).unwrap().status, 200);
    assert_eq!(Http::trusting(registry.ca().unwrap()).get(&url).unwrap().status, 401);
    let untrusted = Http::new().get(&url).unwrap_err();
    assert!(untrusted.contains("UnknownIssuer"), "{untrusted}");
    let (code, output) =
        run_image(&registry, "library/busybox:1", &["echo", "in"]).wait(Duration::from_secs(20));
    assert_eq!((code, output.as_str()), (0, "in\n"));
}

#[test]
fn an_unprivileged_user_has_nothing_to_gain() {
    let user = Unprivileged::new(1000);
    let shell = |script: &str| user.command("sh").args(["-c", script]).output().unwrap();
    let output = shell("id -u; id -g; id -G; cat /proc/self/status; touch $HOME/a $TMPDIR/b c && pwd");
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.starts_with("1000\n1000\n1000\n"), "{output}");
    for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
        assert!(output.contains(&format!("\nCap{set}:\t0000000000000000\n")), "{output}");
    }
    assert!(output.contains("\nNoNewPrivs:\t1\n") && output.ends_with("/work\n"), "{output}");
    for refused in ["chown 0 .", "mount -t tmpfs x .", "mkdir /x", "ls /root", "chroot / true"] {
        assert!(!shell(refused).status.success(), "{refused}");
    }
}

#[test]
fn the_program_under_test_starts_in_a_clean_environment() {
    for cofferdam in [Cofferdam::new(), Cofferdam::as_uid(1000)] {
        cofferdam.run(["--help"]).success();
        assert!(cofferdam.home().is_dir());
    }
}

/// Builds with BuildKit, into a registry of its own.
fn built(application: &str) -> (Registry, String) {
    let registry = Registry::start();
    let name = format!("apps/{application}:1");
    let built = BuildKit::start(&[&registry])
        .build(&testdata(application))
        .push(&registry.reference(&name))
        .run()
        .unwrap_or_else(|log| panic!("{log}"));
    assert_eq!(built.digest, registry.digest(&name), "{}", built.log);
    (registry, name)
}

#[test]
fn buildkit_builds_the_calculator_and_it_adds() {
    let (registry, name) = built("calculator");
    let container = run_image(&registry, &name, &[]);
    assert_eq!(container.get(30194, "/").json(), json!({"message": "Calculator API", "version": "1.0"}));
    let page = Http::new().get_with(&container.url(30194, "/"), "accept", "text/html").unwrap();
    assert!(page.text().contains("<h1>Calculator</h1>"));
    let sum = Http::new().post_json(&container.url(30194, "/add"), &json!({"a": 1, "b": 2})).unwrap();
    assert_eq!((sum.status, sum.json()), (200, json!({"result": 3})));
}

#[test]
fn buildkit_builds_the_node_application_and_it_answers() {
    let (registry, name) = built("node-app");
    let container = run_image(&registry, &name, &[]);
    assert_eq!(container.get(3000, "/").json(), json!({"service": "node-app", "user": 1000}));
    assert_eq!(container.get(3000, "/ms?of=2%20days").json(), json!({"ms": 172_800_000}));
    assert_eq!(container.get(3000, "/type?of=a.png").json(), json!({"type": "image/png"}));
}

#[test]
fn buildkit_builds_the_go_service_and_it_answers() {
    let (registry, name) = built("go-service");
    assert_eq!(registry.manifest(&name)["layers"].as_array().unwrap().len(), 1);
    let container = run_image(&registry, &name, &[]);
    assert_eq!(container.get(8080, "/").json(), json!({"service": "go-service", "version": "dev"}));
    let id = container.get(8080, "/id/cofferdam").json();
    assert_eq!(id, json!({"id": "e90ddea5-21f5-565e-9fdf-cc5f4bd5671e"}));
}

#[test]
fn buildkit_builds_the_c_program_and_it_counts() {
    let (registry, name) = built("c-program");
    let end = |container: Container| container.wait(Duration::from_secs(20));
    assert_eq!(end(run_image(&registry, &name, &[])), (0, "78498 primes below 1000000\n".to_owned()));
    assert_eq!(end(run_image(&registry, &name, &["10"])), (0, "4 primes below 10\n".to_owned()));
}

#[test]
fn buildkit_fetches_nothing_that_the_registry_lacks() {
    let registry = Registry::options().empty().start();
    let buildkit = BuildKit::start(&[&registry]);
    let log = buildkit.build(&testdata("calculator")).run().unwrap_err();
    assert!(log.contains("python:3.9-slim: not found"), "{log}");
    let asked = registry.requests();
    assert!(
        asked.iter().any(|r| r.path.starts_with("/v2/library/python/manifests/3.9-slim") && r.status == 404),
        "{asked:?}"
    );
}

#[test]
fn buildkit_finds_what_it_kept() {
    let (registry, root, context) =
        (Registry::start(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(context.path().join("Dockerfile"), "FROM busybox:1\nRUN echo once > /when\n").unwrap();
    let build = || BuildKit::start_in(root.path(), &[&registry]).build(context.path()).run().unwrap().log;
    let (first, second) = (build(), build());
    assert!(!first.contains("CACHED") && second.contains("CACHED"), "{first}\n{second}");
}

#[test]
fn buildah_builds_and_pushes() {
    let registry = Registry::start();
    let buildah = Buildah::new("overlay", &registry);
    let name = "apps/c-program:buildah";
    buildah
        .build_and_push(&testdata("c-program"), &registry.reference(name))
        .unwrap_or_else(|log| panic!("{log}"));
    let (code, output) = run_image(&registry, name, &["100"]).wait(Duration::from_secs(20));
    assert_eq!((code, output.as_str()), (0, "25 primes below 100\n"));
}

#[test]
fn a_restricted_pod_runs_and_a_privileged_one_is_refused() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Restricted);
    let image = registry.reference("library/busybox:1");
    let pod = namespace.pod(
        "id",
        &image,
        &["sh", "-c", "id; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; touch a"],
    );
    let (code, log) = pod.wait();
    assert_eq!(code, 0, "{log}");
    assert!(log.starts_with("uid=1000 gid=1000"), "{log}");
    for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(log.contains(line), "{log}");
    }
    let privileged = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: root}}, spec: {{containers: [{{name: c, image: {image}, \
         securityContext: {{privileged: true}}}}]}}}}"
    );
    let refusal = namespace.apply(&privileged).unwrap_err();
    assert!(refusal.contains("violates PodSecurity \"restricted:latest\""), "{refusal}");
    assert!(cluster.namespace(Level::Baseline).apply(&privileged).unwrap_err().contains("baseline:latest"));
}

#[test]
fn a_pod_is_reached_by_its_address_and_reaches_the_registry() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Restricted);
    let script = format!(
        "wget -qO index.html {} && exec httpd -f -p 8000",
        registry.url("/v2/library/busybox/tags/list")
    );
    let pod = namespace.pod("web", &registry.reference("library/busybox:1"), &["sh", "-c", &script]);
    let address = pod.ready();
    let answer = eventually("an answer from the pod", Duration::from_secs(20), || {
        let answer = Http::new().get(&format!("http://{address}:8000/index.html"))?;
        if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
    });
    assert_eq!(answer.json(), json!({"name": "library/busybox", "tags": ["1"]}));
    assert_eq!(pod.exec(&["id", "-u"]).unwrap(), "1000\n");
}

#[test]
fn a_pod_without_the_registry_password_cannot_pull() {
    let cluster = Cluster::up();
    let registry = cluster.registry_with(Registry::options().tls().user("puller", "secret"));
    let namespace = cluster.namespace(Level::Restricted);
    let image = registry.reference("library/busybox:1");
    let pod = namespace.pod("denied", &image, &["true"]);
    eventually("a failed pull", Duration::from_secs(30), || {
        let about = pod.describe();
        if about.contains("ErrImagePull") && about.contains("authorization failed") {
            Ok(())
        } else {
            Err(about)
        }
    });
    namespace
        .kubectl(&[
            "create",
            "secret",
            "docker-registry",
            "pull",
            &format!("--docker-server={}", registry.address()),
            "--docker-username=puller",
            "--docker-password=secret",
        ])
        .unwrap();
    namespace
        .kubectl(&[
            "patch",
            "serviceaccount",
            "default",
            "-p",
            "{\"imagePullSecrets\": [{\"name\": \"pull\"}]}",
        ])
        .unwrap();
    assert_eq!(namespace.pod("admitted", &image, &["true"]).wait().0, 0);
}

#[test]
fn a_deployment_answers_on_its_node_port() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let image = registry.reference("library/busybox:1");
    let manifest = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{type: NodePort, selector: {{app: web}}, ports: \
         [{{port: 80, targetPort: 8000, nodePort: 30194}}]}}}}\n---\n{{apiVersion: apps/v1, kind: Deployment, metadata: \
         {{name: web}}, spec: {{replicas: 2, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: \
         {{app: web}}}}, spec: {{containers: [{{name: web, image: {image}, workingDir: /etc, command: [httpd, -f, -p, \
         '8000']}}]}}}}}}}}"
    );
    let namespace = cluster.namespace(Level::Baseline);
    namespace.apply(&manifest).unwrap();
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).unwrap();
    let url = format!("http://{}:30194/passwd", cluster.node_ip());
    let answer = eventually("an answer on the node port", Duration::from_secs(20), || Http::new().get(&url));
    assert!(answer.text().starts_with("root:x:0:0:"), "{}", answer.text());
}

#[test]
fn a_ci_job_may_do_what_it_is_given() {
    let cluster = Cluster::up();
    let namespace = cluster.namespace(Level::Restricted);
    let pods = |namespace: &Namespace| {
        let mut command = cluster.kubectl();
        command.arg("--kubeconfig").arg(cluster.ci_kubeconfig()).args([
            "-n",
            namespace.name(),
            "get",
            "pods",
        ]);
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let refused = pods(&namespace);
    assert!(refused.contains("User \"gitlab:ci_job:1074\" cannot list resource \"pods\""), "{refused}");
    namespace
        .kubectl(&["create", "rolebinding", "ci", "--clusterrole=view", "--group=gitlab:project:150"])
        .unwrap();
    eventually("the role binding", Duration::from_secs(10), || {
        let answer = pods(&namespace);
        if answer.starts_with("No resources found") { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn the_program_under_test_runs_in_a_restricted_pod() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let image = Cluster::program_image(&registry, Cofferdam::binary());
    let namespace = cluster.namespace(Level::Restricted);
    let (code, log) = namespace.pod("cofferdam", &image, &["cofferdam", "--help"]).wait();
    assert_eq!(code, 0, "{log}");
}

/// What is left of a run: processes, mounts, control groups, interfaces, packet rules, files.
fn remains(fixture_id: &str, directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let needle = format!("ID={fixture_id}\0");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let environ = fs::read(process.path().join("environ")).unwrap_or_default();
        if environ.windows(needle.len()).any(|window| window == needle.as_bytes()) {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            found.push(format!("{}: {}", process.path().display(), String::from_utf8_lossy(&command)));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(fixture_id) || line.contains(directory.to_str().unwrap()))
            .map(str::to_owned),
    );
    for hierarchy in mounts.lines().filter(|line| line.contains(" cgroup")) {
        let group = Path::new(hierarchy.split(' ').nth(1).unwrap()).join(fixture_id);
        found.extend(group.exists().then(|| group.display().to_string()));
    }
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    found.extend(
        String::from_utf8_lossy(&tables.stdout)
            .contains(fixture_id)
            .then(|| "a table of packet rules".to_owned()),
    );
    found.extend(directory.exists().then(|| directory.display().to_string()));
    found
}

/// The processes among the remains.
fn processes(fixture: &str, directory: &Path) -> Vec<String> {
    remains(fixture, directory).into_iter().filter(|what| what.starts_with("/proc/")).collect()
}

#[test]
fn nothing_is_left_of_a_run_that_ended() {
    let registry = Registry::start();
    let reference = registry.reference("library/busybox:1");
    // At least so many: a directory, processes, control groups.
    for (script, args, least) in [
        ("container", vec![reference.as_str(), "sleep", "1000"], 6),
        ("buildkit", vec![], 4),
        ("registry", vec![], 2),
        ("buildah", vec![], 1),
    ] {
        let fixture = Fixture::start(script, args);
        let (id, directory) = (fixture.id(), fixture.path("DIR").to_owned());
        assert!(remains(&id, &directory).len() >= least, "{script}: the test does not see what is running");
        drop(fixture);
        // Files may still be on their way out: the directory, and who deletes it.
        let mut left = remains(&id, &directory);
        left.retain(|what| Path::new(what) != directory && !what.contains(": rm\0-rf"));
        assert_eq!(left, Vec::<String>::new(), "{script}");
        eventually("the end of its files", Duration::from_secs(120), || match remains(&id, &directory) {
            left if left.is_empty() => Ok(()),
            left => Err(left.join("\n")),
        });
    }
}

#[test]
fn a_cluster_ends_even_if_its_supervisor_is_killed() {
    let cluster = Cluster::start();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Restricted);
    namespace.pod("sleeper", &registry.reference("library/busybox:1"), &["sleep", "1000"]).ready();
    let fixture = cluster.fixture();
    let (id, directory) = (fixture.id(), fixture.path("DIR").to_owned());
    assert!(processes(&id, &directory).len() > 8);
    Command::new("kill").args(["-KILL", &fixture.pid().to_string()]).status().unwrap();
    eventually("the end of the cluster", Duration::from_secs(10), || {
        let left = processes(&id, &directory);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    // What is no process goes with the next run of anything.
    drop(Fixture::start::<&str>("registry", []));
    assert_eq!(remains(&id, &directory), Vec::<String>::new());
}
