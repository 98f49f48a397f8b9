//! The commands of `README.md`, run as they stand there, in their order, in one shell; and its pod, in a cluster.
//!
//! The hosts of the examples are replaced by registries of this machine: `registry.example.com` and `mirror.example.com` are
//! one with the base images, `private.example.com` one with TLS by an authority of its own and a user. The directory that the
//! commands are run in is a clone of the calculator.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::{Cluster, Cofferdam, Level, Registry, Web, git, testdata};

const USER: &str = "robot";
const PASSWORD: &str = "open sesame";

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let opening = format!("\n```{language}\n");
    text.split(&opening).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies the files of a directory.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A clone of a repository with the calculator in it, and what the commands find beside it.
fn project(directory: &Path, authority: &Path) {
    copy(&testdata("calculator"), directory);
    fs::copy(authority, directory.join("company-ca.pem")).unwrap();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=robot", "-c", "user.email=robot@example.com"];
        run(Command::new("git").current_dir(directory).args(identity).args(arguments));
    };
    fs::create_dir(directory.join("tool")).unwrap();
    fs::write(
        directory.join("tool/Dockerfile"),
        "FROM scratch\nARG TARGETARCH\nCOPY tool-$TARGETARCH /tool\n",
    )
    .unwrap();
    for architecture in ["amd64", "arm64"] {
        fs::write(directory.join("tool").join(format!("tool-{architecture}")), architecture).unwrap();
    }
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message=Add the calculator"]);
}

/// The server of the repositories and archives that the commands name.
fn web() -> Web {
    let web = Web::start();
    for name in ["app.git", "assets.git"] {
        let tree = web.repository(name);
        fs::create_dir(tree.join("server")).unwrap();
        for directory in [tree.clone(), tree.join("server")] {
            fs::write(directory.join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
        }
        git(&tree, &["add", "-A"]);
        git(&tree, &["commit", "-qm", "x"]);
        git(&tree, &["tag", "v1.2"]);
    }
    let mut archive = tar::Builder::new(Vec::new());
    let content = "FROM scratch\nCOPY . /\n";
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "Dockerfile", content.as_bytes()).unwrap();
    let mut packed = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    packed.write_all(&archive.into_inner().unwrap()).unwrap();
    web.file("/app.tar.xz", packed.finish().unwrap(), None);
    web
}

/// What they do in a cluster is seen in the tests of deployments. Here each gets as far as to miss its manifests, or the
/// cluster: it has no flag that there is not, and lacks none.
#[test]
fn the_commands_for_a_cluster_are_understood() {
    let cofferdam = Cofferdam::new();
    let mut count = 0;
    for line in blocks("console").iter().flat_map(|block| block.lines()) {
        let Some(arguments) = line.strip_prefix("cofferdam ") else { continue };
        let output = Command::new("sh")
            .args(["-c", &format!("exec \"$0\" {arguments}")])
            .arg(Cofferdam::binary())
            .env_clear()
            .env("HOME", cofferdam.home())
            .env("CI_COMMIT_SHA", "0123456789")
            .current_dir(cofferdam.home())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let missed = ["cannot read `image.json`", "cannot read `k8s/`", "there is no kubeconfig"];
        assert!(missed.iter().any(|missed| told.contains(missed)), "{line}\n{told}");
        count += 1;
    }
    assert!(count > 10, "the commands were not found");
}

#[test]
fn the_commands_do_what_they_say() {
    let open = Registry::start();
    let private = Registry::options().empty().user(USER, PASSWORD).tls().start();
    let web = web();
    let cofferdam = Cofferdam::new();
    let home = cofferdam.home();
    let place = home.join("project");
    fs::create_dir(&place).unwrap();
    project(&place, private.ca().unwrap());

    let blocks = blocks("sh");
    assert!(blocks.len() > 8, "the commands were not found");
    // Each command is said before it is run, so that a failure tells where it was.
    let mut script = String::from("set -eu -o pipefail\n");
    for block in &blocks {
        script.push_str(&format!(": '=====' ; set -x\n{block}\n{{ set +x; }} 2> /dev/null\n"));
    }
    // What the documentation takes as given: the login that the builds for the private registry need, before they come.
    let login = "printf %s \"$TOKEN\" | cofferdam login private.example.com -u robot --password-stdin";
    let script = format!(
        "export COFFERDAM_REGISTRY_CA=private.example.com=company-ca.pem\n{login}\nunset COFFERDAM_REGISTRY_CA\n{script}"
    );
    let script = script
        .replace("mirror.example.com:5000", open.address())
        .replace("registry.example.com", open.address())
        .replace("private.example.com", private.address())
        .replace("https://git.example.com/group", &web.url("/git"))
        .replace("https://example.com", &web.url(""));
    assert!(!script.contains("example.com"), "a host has no stand-in");

    let mut path = vec![Cofferdam::binary().parent().unwrap().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&place)
        .env_clear()
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .env("TOKEN", PASSWORD)
        .env("CI_JOB_TOKEN", "token")
        .env("COFFERDAM_REGISTRY_MIRRORS", format!("docker.io=http://{}", open.address()))
        .output()
        .unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n--- stdout\n{said}");

    // What they say they do.
    assert!(said.contains(&format!("{}/group/app@sha256:", open.address())), "{said}");
    assert!(said.matches("\nvalid: ").count() + usize::from(said.starts_with("valid: ")) == 2, "{said}");
    assert!(said.contains("Builds work here, `RUN` steps included."), "{said}");
    for tag in ["v1", "v2", "latest"] {
        assert!(open.digest(&format!("group/app:{tag}")).is_some(), "{tag} was not pushed");
    }
    // Whatever `v1` has become since.
    let copied = open.digest("group/app:stable").expect("a promoted image");
    for copy in ["prod/app:v1", "loaded/app:v1"] {
        assert_eq!(open.digest(copy).as_ref(), Some(&copied), "{copy}");
    }
    for file in [
        "app.tar",
        "app-docker.tar",
        "files.tar",
        "layout/index.json",
        "files/app/app.py",
        "id",
        "metadata.json",
        "image.json",
        "image.env",
        "rendered.yaml",
        "secret.json",
        "role.yaml",
    ] {
        assert!(place.join(file).exists(), "{file} was not written");
    }
    let events = fs::read_to_string(place.join("events.jsonl")).unwrap();
    assert!(events.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{events}");
    // The whole cache is gone after the last prune; the images that have names are not.
    let images = cofferdam.run(["images"]);
    let images = String::from_utf8_lossy(&images.get_output().stdout).into_owned();
    assert!(images.contains("/group/app:v2"), "{images}");
}

#[test]
fn the_pod_builds_and_pushes() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let cofferdam = Cofferdam::new();
    let build = |name: &str, context: &Path, dockerfile: &str| {
        let mut command = cofferdam.command();
        let mirror = format!("docker.io=http://{}", registry.address());
        command.args(["build", "--insecure-registry", registry.address(), "--registry-mirror", &mirror]);
        command.args(["--push", "-t", &registry.reference(name), "-f", "-"]).arg(context);
        command.write_stdin(dockerfile).assert().success();
    };
    // As the README has it: cofferdam by itself, and an image with the source.
    let making =
        blocks("sh").into_iter().find(|block| block.contains("<<'EOF'")).expect("an image of cofferdam");
    let dockerfile = making.split("<<'EOF'\n").nth(1).unwrap().trim_end_matches("EOF");
    build("tools/cofferdam:0.1.0", Cofferdam::binary().parent().unwrap(), dockerfile);
    // One directory further down, where the application's ignore file hides nothing.
    let source = cofferdam.home().join("source");
    fs::create_dir_all(source.join("calculator")).unwrap();
    copy(&testdata("calculator"), &source.join("calculator"));
    build("tools/source:v1", &source, "FROM busybox:1\nCOPY calculator /src\n");

    let pod = blocks("yaml").into_iter().find(|block| block.contains("kind: Pod")).expect("a pod");
    // This registry has no TLS, and the base images are here alone.
    let settings = format!(
        "      env:\n        - {{ name: COFFERDAM_INSECURE_REGISTRIES, value: \"{0}\" }}\n        \
         - {{ name: COFFERDAM_REGISTRY_MIRRORS, value: \"docker.io=http://{0}\" }}\n",
        registry.address()
    );
    let manifest = pod.replace("      env:\n", &settings).replace("registry.example.com", registry.address());
    assert!(manifest.contains("COFFERDAM_REGISTRY_MIRRORS"), "{manifest}");
    let namespace = cluster.namespace(Level::Restricted);
    namespace.apply(&manifest).unwrap_or_else(|error| panic!("{error}\n{manifest}"));
    let (status, log) = namespace.existing("build").wait_for(Duration::from_secs(180));
    assert_eq!(status, 0, "{log}");
    let digest = registry.digest("group/app:v1").expect("the image");
    assert!(log.contains(&digest), "{digest} is not in {log}");
}
