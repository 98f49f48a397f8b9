//! Applications as people have them, built, pushed, checked by other tools and run by another runtime.

use std::collections::BTreeSet;
use std::process::Command;

use rstest::rstest;
use serde_json::json;

use crate::support::{
    Cofferdam, Http, Layer, Node, Registry, comparable_config, layers, run_image, testdata,
};
use crate::{build, differential, run};

/// As root, and as a user without any privilege.
fn builder(uid: Option<u32>) -> Cofferdam {
    uid.map_or_else(Cofferdam::new, Cofferdam::as_uid)
}

/// An image is right by our own check, by skopeo and by umoci.
fn is_right(cofferdam: &Cofferdam, registry: &Registry, name: &str, digest: &str) {
    let reference = registry.reference(name);
    let mut command = cofferdam.command();
    command.args(["validate", "--insecure-registry", registry.address(), &reference]);
    let validated = run(&mut command).succeeded();
    assert!(validated.stdout.contains("valid"), "{}", validated.stdout);
    let skopeo = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--format={{.Digest}}", &format!("docker://{reference}")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&skopeo.stdout).trim(), digest);
    // umoci reads every blob and checks every digest on its way to a root filesystem.
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false", &format!("docker://{reference}")])
        .arg(format!("oci:{}:x", layout.display()))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let unpacked = Command::new("umoci")
        .args(["unpack", "--image", &format!("{}:x", layout.display())])
        .arg(directory.path().join("bundle"))
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn the_calculator_adds(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let name = "private/group/calculator:56cc4792-86";
    let tag = format!("--tag={}", registry.reference(name));
    let built = build(&cofferdam, &registry, &testdata("calculator"), &[&tag, "--push"]).succeeded();
    assert_eq!(registry.digest(name).as_deref(), Some(built.digest()));
    is_right(&cofferdam, &registry, name, built.digest());

    let container = run_image(&registry, name, &[]);
    container.get(30194, "/");
    let answer = Http::new().post_json(&container.url(30194, "/add"), &json!({"a": 20, "b": 22})).unwrap();
    assert_eq!(answer.json()["result"], 42);

    // All of pip's files are root's, whoever ran the build.
    let layers = layers(&registry, name);
    let installed = layers.iter().find(|layer| layer.keys().any(|name| name.contains("flask"))).unwrap();
    assert!(installed.values().all(|node| (node.uid, node.gid) == (0, 0)), "{installed:?}");

    // Nothing has changed: the base image's name is looked up, and the result is there.
    let before = registry.requests().len();
    let again = build(&cofferdam, &registry, &testdata("calculator"), &[&tag, "--push"]).succeeded();
    assert_eq!(again.digest(), built.digest());
    assert!(again.stderr.contains("4 steps, 4 cached"), "{}", again.stderr);
    let requests = registry.requests();
    assert!(requests.len() - before <= 4, "{:?}", &requests[before..]);
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_node_application_answers(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let tag = format!("--tag={}", registry.reference("apps/node:1"));
    let built = build(&cofferdam, &registry, &testdata("node-app"), &[&tag, "--push"]).succeeded();
    is_right(&cofferdam, &registry, "apps/node:1", built.digest());
    let container = run_image(&registry, "apps/node:1", &[]);
    assert_eq!(container.get(3000, "/").status, 200);
    let ours = layers(&registry, "apps/node:1");
    let server = ours.iter().find_map(|layer| layer.get("app/server.js")).unwrap();
    assert_eq!((server.uid, server.gid), (1000, 1000), "--chown=node:node");
}

/// Compiled in one stage; only what production needs is in the last.
#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn an_express_application_answers(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let tag = format!("--tag={}", registry.reference("apps/express:1"));
    let built = build(&cofferdam, &registry, &testdata("express-app"), &[&tag, "--push"]).succeeded();
    is_right(&cofferdam, &registry, "apps/express:1", built.digest());
    let container = run_image(&registry, "apps/express:1", &[]);
    assert!(container.get(8080, "/").text().contains("Basket"));
    assert_eq!(container.get(8080, "/health").json(), json!({"user": 1000, "production": true}));
    let basket = json!([{"name": "tea", "cents": 350, "count": 2}, {"name": "cup", "cents": 500}]);
    let answer = Http::new().post_json(&container.url(8080, "/total"), &basket).unwrap();
    assert_eq!(answer.json(), json!({"total": 1200}));
    let ours = files(&registry, "apps/express:1");
    let has = |path: &str| ours.contains_key(&format!("srv/app/{path}"));
    assert!(has("node_modules/express/package.json") && has("dist/server.js.map"));
    assert!(!has("node_modules/typescript") && !has("src"), "what only the build needs");
    assert!(!ours.keys().any(|path| path.starts_with("root/.npm/")), "the cache is in no layer");
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_go_service_on_scratch_answers(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let tag = format!("--tag={}", registry.reference("apps/go:1"));
    let args = [&*tag, "--push", "--build-arg", "VERSION=7.3"];
    let built = build(&cofferdam, &registry, &testdata("go-service"), &args).succeeded();
    is_right(&cofferdam, &registry, "apps/go:1", built.digest());
    assert_eq!(registry.manifest("apps/go:1")["layers"].as_array().unwrap().len(), 1);
    let container = run_image(&registry, "apps/go:1", &[]);
    let answer = container.get(8080, "/");
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("7.3"), "{}", answer.text());
}

#[test]
fn a_c_program_is_made_and_its_tests_are_a_target() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::as_uid(1000));
    build(&cofferdam, &registry, &testdata("c-program"), &["--target=test"]).succeeded();
    let tag = format!("--tag={}", registry.reference("apps/c:1"));
    build(&cofferdam, &registry, &testdata("c-program"), &[&tag, "--push"]).succeeded();
    let (code, output) = run_image(&registry, "apps/c:1", &[]).wait(std::time::Duration::from_secs(30));
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("78498"), "there are 78498 primes below a million: {output}");
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_django_application_answers(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let tag = format!("--tag={}", registry.reference("apps/django:1"));
    let built = build(&cofferdam, &registry, &testdata("django-app"), &[&tag, "--push"]).succeeded();
    is_right(&cofferdam, &registry, "apps/django:1", built.digest());
    let container = run_image(&registry, "apps/django:1", &[]);
    let answer = container.get(8000, "/?prices=20,22");
    assert_eq!((answer.status, answer.json()["total"].as_u64()), (200, Some(42)));
    let ours = files(&registry, "apps/django:1");
    assert_eq!((ours["srv/data/README"].uid, ours["srv/data/README"].mode), (999, 0o750));
    assert!(ours.contains_key("srv/static/admin/css/base.css"), "collectstatic");
}

/// The files of an image: its layers, one upon the other.
fn files(registry: &Registry, name: &str) -> Layer {
    let mut files = Layer::new();
    for layer in layers(registry, name) {
        for path in layer.keys() {
            let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
            let below =
                |directory: &str| if directory.is_empty() { String::new() } else { format!("{directory}/") };
            let gone = match last.strip_prefix(".wh.") {
                Some(".wh..opq") => below(parent),
                Some(removed) => format!("{}{removed}", below(parent)),
                None => continue,
            };
            files.retain(|known, _| known != &gone && !known.starts_with(&below(gone.trim_end_matches('/'))));
        }
        let is_whiteout = |path: &str| path.rsplit('/').next().is_some_and(|last| last.starts_with(".wh."));
        files.extend(layer.into_iter().filter(|(path, _)| !is_whiteout(path)));
    }
    files
}

/// What two builds of an application leave, file by file, apart from times, bytecode, and what each run writes anew.
#[rstest]
#[case::node("node-app", &[])]
#[case::express("express-app", &[])]
#[case::go("go-service", &[])]
#[case::c("c-program", &[])]
#[case::django("django-app", &[])]
#[case::debian("debian-tools", &["etc/shadow", "etc/shadow-", "var/cache/debconf/", "var/lib/dpkg/status-old", "etc/ld.so.cache"])]
fn an_application_is_what_buildkit_makes(#[case] application: &str, #[case] changing: &[&str]) {
    let differential::Judge { registry, buildkit } = &*differential::JUDGE;
    let (theirs, ours) = (format!("theirs/{application}:1"), format!("ours/{application}:1"));
    buildkit
        .build(&testdata(application))
        .push(&registry.reference(&theirs))
        .run()
        .unwrap_or_else(|log| panic!("BuildKit cannot build it:\n{log}"));
    let tag = format!("--tag={}", registry.reference(&ours));
    build(&Cofferdam::as_uid(1000), registry, &testdata(application), &[&tag, "--push"]).succeeded();
    let config = |name: &str| comparable_config(registry.config(name));
    assert_eq!(config(&theirs), config(&ours));
    let (theirs, ours) = (files(registry, &theirs), files(registry, &ours));
    let text = |files: &Layer, path: &str| {
        let node = files.get(path)?;
        let is_changing =
            path.contains("__pycache__") || changing.iter().any(|prefix| path.starts_with(prefix));
        let content = if is_changing && node.kind == "file" { "another each time" } else { &node.content };
        let Node { kind, mode, uid, gid, xattrs, .. } = node;
        Some(format!("{kind} {mode:o} {uid}:{gid} {content} {xattrs:?}"))
    };
    let paths: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let differ = |path: &&&String| text(&theirs, path) != text(&ours, path);
    let different: Vec<String> = paths
        .iter()
        .filter(differ)
        .map(|path| format!("/{path}: theirs {:?}, ours {:?}", text(&theirs, path), text(&ours, path)))
        .collect();
    assert!(
        different.is_empty(),
        "{} of {} files differ:\n{}",
        different.len(),
        paths.len(),
        different.join("\n")
    );
}
