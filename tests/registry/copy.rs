//! `cofferdam copy` and `cofferdam inspect`: what goes over the wire, and that nothing wrong gets a name.

use std::path::Path;
use std::time::Duration;

use cofferdam::image::{Digest, media_type};
use rstest::rstest;
use serde_json::{Value, json};

use crate::client::bytes;
use crate::faulty::http::{Answer, Reply};
use crate::faulty::registry::{Auth, Bearer, FakeRegistry, Running};
use crate::support::{Cofferdam, Registry, Scratch};

const CONFIG: &[u8] =
    br#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
const ARM: &[u8] =
    br#"{"architecture":"arm64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;

/// What a command wrote and how it ended.
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub status: Option<i32>,
}

impl Ran {
    fn succeeded(self) -> Self {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self
    }

    fn failed(&self, status: i32, says: &str) {
        assert_eq!(self.status, Some(status), "{}", self.stderr);
        assert!(self.stderr.contains(says), "nothing is said of {says:?}:\n{}", self.stderr);
    }
}

pub fn run(cofferdam: &Cofferdam, line: &[&str]) -> Ran {
    let output = cofferdam.command().args(line).timeout(Duration::from_secs(120)).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { stdout: text(output.stdout), stderr: text(output.stderr), status: output.status.code() }
}

fn copy(line: &[&str]) -> Ran {
    let mut words = vec!["copy", "--progress=plain", "-v"];
    words.extend(line);
    run(&Cofferdam::new(), &words)
}

fn name(registry: &Running, rest: &str) -> String {
    format!("{}/{rest}", registry.host())
}

/// Puts an image of a configuration and layers; gives its manifest. Spaces in it show whether it keeps its bytes.
fn image(registry: &FakeRegistry, repository: &str, kind: &str, config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let (config_type, layer_type) = match kind {
        media_type::DOCKER_MANIFEST => (media_type::DOCKER_CONFIG, media_type::DOCKER_LAYER_GZIP),
        _ => (media_type::OCI_CONFIG, media_type::OCI_LAYER_GZIP),
    };
    let part = |kind: &str, bytes: &[u8]| {
        let digest = registry.put_blob(repository, bytes);
        json!({"digest": digest, "size": bytes.len(), "mediaType": kind, "x-unknown": 1})
    };
    let layers: Vec<Value> = layers.iter().map(|layer| part(layer_type, layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "layers": layers, "config": part(config_type, config),
    });
    let text = format!("{manifest:#}\n  ").into_bytes();
    registry.put_manifest(repository, "unnamed", kind, &text);
    text
}

struct Index {
    bytes: Vec<u8>,
    children: Vec<Vec<u8>>,
}

/// An index of two platforms and an attestation of the first, under `v1`.
fn index(registry: &FakeRegistry, repository: &str, layers: [&[u8]; 3]) -> Index {
    let children = vec![
        image(registry, repository, media_type::OCI_MANIFEST, CONFIG, &layers[..1]),
        image(registry, repository, media_type::OCI_MANIFEST, ARM, &layers[1..2]),
        image(registry, repository, media_type::OCI_MANIFEST, b"{}", &layers[2..]),
    ];
    let of = |number: usize, os: &str, architecture: &str| {
        let child = &children[number];
        json!({"mediaType": media_type::OCI_MANIFEST, "size": child.len(), "digest": Digest::of(child),
            "platform": {"os": os, "architecture": architecture}})
    };
    let mut attestation = of(2, "unknown", "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": Digest::of(&children[0])});
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [of(0, "linux", "amd64"), of(1, "linux", "arm64"), attestation],
        "annotations": {"org.example.kept": "yes"}});
    let bytes = format!("{index:#}").into_bytes();
    registry.put_manifest(repository, "v1", media_type::OCI_INDEX, &bytes);
    Index { bytes, children }
}

/// One image of `layers` under `v1`; gives its manifest.
fn tagged(registry: &FakeRegistry, repository: &str, layers: &[&[u8]]) -> Vec<u8> {
    let bytes = image(registry, repository, media_type::OCI_MANIFEST, CONFIG, layers);
    registry.put_manifest(repository, "v1", media_type::OCI_MANIFEST, &bytes);
    bytes
}

/// Bytes that were sent in bodies of uploads.
fn uploaded(registry: &FakeRegistry) -> u64 {
    let length = |length: &str| length.parse::<u64>().unwrap();
    registry
        .log()
        .iter()
        .filter(|logged| logged.head.target.contains("/uploads/"))
        .filter_map(|logged| logged.head.header("content-length").map(length))
        .sum()
}

#[rstest]
#[case(media_type::OCI_MANIFEST)]
#[case(media_type::DOCKER_MANIFEST)]
fn a_tag_in_the_same_repository_is_one_put(#[case] kind: &str) {
    let registry = FakeRegistry::open();
    let manifest = image(&registry, "app", kind, CONFIG, &[b"layer"]);
    registry.put_manifest("app", "v1", kind, &manifest);
    let ran = copy(&[&name(&registry, "app:v1"), &name(&registry, "app:stable")]).succeeded();
    assert_eq!(registry.lines(), ["GET /v2/app/manifests/v1 200", "PUT /v2/app/manifests/stable 201"]);
    assert_eq!(registry.manifest("app", "stable").unwrap(), manifest, "byte for byte");
    let put = registry.log().pop().unwrap();
    assert_eq!(put.head.header("content-type"), Some(kind));
    assert_eq!(ran.stdout, format!("{}/app@{}\n", registry.host(), Digest::of(&manifest)));
}

/// Promotion: test/app becomes prod/app without one byte of a layer or configuration on the wire.
#[test]
fn a_promotion_within_a_registry_moves_no_layers() {
    let registry = FakeRegistry::bearer(Bearer { anonymous_pull: true, ..Bearer::default() });
    registry.change_auth(|auth| *auth = Auth::None);
    let (one, two, three) = (bytes(300_000), bytes(200_000), b"attestation");
    let index = index(&registry, "test/app", [&one, &two, three]);
    copy(&[&name(&registry, "test/app:v1"), &name(&registry, "prod/app:v1")]).succeeded();
    assert_eq!(registry.manifest("prod/app", "v1").unwrap(), index.bytes);
    for child in &index.children {
        assert_eq!(registry.manifest("prod/app", &Digest::of(child).to_string()).as_ref(), Some(child));
    }
    for blob in [&*one, &*two, three, CONFIG, ARM, b"{}"] {
        assert!(registry.blob("prod/app", Digest::of(blob)).is_some());
    }
    assert_eq!(registry.count("GET", "/blobs/"), 0, "{:?}", registry.lines());
    assert_eq!(uploaded(&registry), 0, "{:?}", registry.lines());
    assert_eq!(registry.count("POST", "mount="), 6);
    assert_eq!(registry.count("GET", "/manifests/"), 4);
    // The second time one question is enough: what the name stands for.
    registry.forget_log();
    copy(&[&name(&registry, "test/app:v1"), &name(&registry, "prod/app:v1")]).succeeded();
    assert_eq!(registry.lines(), ["GET /v2/test/app/manifests/v1 200", "HEAD /v2/prod/app/manifests/v1 200"]);
}

#[test]
fn a_promotion_in_a_real_registry_moves_no_layers() {
    let registry = Registry::start();
    let (from, to) = (registry.reference("library/python:3.9-slim"), registry.reference("prod/python:1"));
    copy(&[&from, &to]).succeeded();
    assert_eq!(registry.digest("prod/python:1"), registry.digest("library/python:3.9-slim"));
    let moved = registry.requests().into_iter().filter(|request| {
        request.path.contains("/blobs/") && matches!(&*request.method, "GET" | "PATCH" | "PUT")
    });
    assert_eq!(moved.collect::<Vec<_>>(), []);
    run(&Cofferdam::new(), &["validate", &to]).succeeded();
}

#[rstest]
#[case(202)]
#[case(401)]
#[case(403)]
#[case(404)]
#[case(405)]
fn where_nothing_is_mounted_the_bytes_go_through(#[case] status: u16) {
    let registry = FakeRegistry::open();
    registry.behave(|manners| manners.mount = Err(status));
    let layer = bytes(700_000);
    let manifest = tagged(&registry, "a", &[&layer]);
    copy(&[&name(&registry, "a:v1"), &name(&registry, "b:v1")]).succeeded();
    assert_eq!(registry.manifest("b", "v1").unwrap(), manifest);
    assert_eq!(registry.blob("b", Digest::of(&layer)).unwrap(), layer);
    assert_eq!(registry.open_uploads(), 0);
}

#[test]
fn between_registries_only_what_is_missing_goes_and_that_once() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let (there, missing) = (bytes(400_000), bytes(600_001));
    let manifest = tagged(&from, "app", &[&there, &missing]);
    to.put_blob("group/app", &there);
    copy(&[&name(&from, "app:v1"), &name(&to, "group/app:v2")]).succeeded();
    assert_eq!(to.manifest("group/app", "v2").unwrap(), manifest);
    assert_eq!(to.blob("group/app", Digest::of(&missing)).unwrap(), missing);
    assert_eq!(uploaded(&to), (missing.len() + CONFIG.len()) as u64);
    assert_eq!(from.count("GET", "/blobs/"), 2, "{:?}", from.lines());
    assert_eq!(to.count("HEAD", "/blobs/"), 3);
    let lines = to.lines();
    assert_eq!(lines.last().unwrap(), "PUT /v2/group/app/manifests/v2 201", "{lines:?}");
}

#[test]
fn several_targets_are_served_from_one_read() {
    let (from, one, two) = (FakeRegistry::open(), FakeRegistry::open(), FakeRegistry::open());
    let layer = bytes(900_000);
    let manifest = tagged(&from, "app", &[&layer]);
    let directory = Scratch::new("copy-");
    let layout = format!("oci-layout://{}:v1", directory.path().join("layout").display());
    let (a, b, c) = (name(&one, "a:1"), name(&one, "b:1"), name(&two, "c:1"));
    let ran = copy(&[&name(&from, "app:v1"), &a, &b, &c, &layout, "store://app:1"]).succeeded();
    assert_eq!(from.count("GET", "/blobs/"), 2, "{:?}", from.lines());
    assert_eq!(from.count("GET", "/manifests/"), 1);
    for (registry, repository) in [(&one, "a"), (&one, "b"), (&two, "c")] {
        assert_eq!(registry.manifest(repository, "1").unwrap(), manifest);
        assert_eq!(registry.blob(repository, Digest::of(&layer)).unwrap(), layer);
    }
    assert_eq!(uploaded(&one), (layer.len() + CONFIG.len()) as u64, "sent once, then mounted");
    let digest = Digest::of(&manifest);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0], format!("{}/a@{digest}", one.host()));
    assert_eq!(lines[4], digest.to_string());
    let path = directory.path().join("layout/blobs/sha256").join(Digest::of(&layer).hex());
    assert_eq!(std::fs::read(path).unwrap(), layer);
}

#[test]
fn nothing_is_named_before_everything_is_everywhere() {
    let (from, good, bad) = (FakeRegistry::open(), FakeRegistry::open(), FakeRegistry::open());
    tagged(&from, "app", &[&bytes(100_000)]);
    bad.fail("POST", "/uploads/", 9, Answer::error(403, "DENIED", "quota exceeded"));
    let ran = copy(&[&name(&from, "app:v1"), &name(&good, "app:v1"), &name(&bad, "app:v1")]);
    ran.failed(7, "quota exceeded");
    assert_eq!(good.manifest("app", "v1"), None);
    assert_eq!((good.count("PUT", "/manifests/"), bad.count("PUT", "/manifests/")), (0, 0));
}

#[test]
fn a_target_that_names_another_digest_is_refused_before_anything_moves() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let manifest = tagged(&from, "app", &[b"layer"]);
    let other = name(&to, &format!("app:v1@{}", Digest::of(b"another")));
    copy(&[&name(&from, "app:v1"), &other]).failed(2, "names another digest");
    assert!(to.lines().is_empty());
    let same = name(&to, &format!("app:v1@{}", Digest::of(&manifest)));
    copy(&[&name(&from, "app:v1"), &same]).succeeded();
    assert_eq!(to.manifest("app", "v1").unwrap(), manifest);
    let by_digest = name(&to, &format!("other@{}", Digest::of(&manifest)));
    copy(&[&name(&from, "app:v1"), &by_digest]).succeeded();
    assert_eq!(to.manifest("other", &Digest::of(&manifest).to_string()).unwrap(), manifest);
}

#[test]
fn a_download_that_breaks_goes_on_within_the_same_upload() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let layer = bytes(3_000_000);
    let manifest = tagged(&from, "app", &[&layer]);
    from.alter("GET", &format!("blobs/{}", Digest::of(&layer)), 1, |answer| Answer {
        cut: Some(1_500_000),
        ..answer
    });
    copy(&[&name(&from, "app:v1"), &name(&to, "app:v1")]).succeeded();
    assert_eq!(to.manifest("app", "v1").unwrap(), manifest);
    assert_eq!(to.blob("app", Digest::of(&layer)).unwrap(), layer);
    assert_eq!(to.count("PATCH", ""), 1, "one for the layer: {:?}", to.lines());
    let ranges: Vec<_> =
        from.log().iter().filter_map(|one| one.head.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges.len(), 1, "it goes on where it was: {ranges:?}");
}

#[test]
fn an_upload_that_breaks_goes_on_and_reads_only_what_it_needs() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let layer = bytes(12_000_000);
    tagged(&from, "app", &[&layer]);
    // The configuration's upload is a PATCH too: the fault is for a body that is large.
    to.fault("PATCH", "/uploads/", 2, |exchange, registry| {
        if exchange.head.header("content-length").unwrap().parse::<usize>().unwrap() < 1_000_000 {
            return registry.normal(exchange);
        }
        let id = exchange.head.path().rsplit('/').next().unwrap().to_owned();
        let body = exchange.body(9_000_000).unwrap();
        registry.keep_of_upload(&id, &body);
        Reply::HangUp
    });
    copy(&[&name(&from, "app:v1"), &name(&to, "app:v1")]).succeeded();
    assert_eq!(to.blob("app", Digest::of(&layer)).unwrap(), layer);
    let ranges: Vec<_> =
        from.log().iter().filter_map(|one| one.head.header("range").map(str::to_owned)).collect();
    // From the last state of the hash before the ninth million, not from the first byte.
    let begin: u64 = ranges[0].trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!((4_000_000..=9_000_000).contains(&begin), "{ranges:?}");
}

#[test]
fn wrong_bytes_are_never_sent_to_their_end_nor_named() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let layer = bytes(500_000);
    tagged(&from, "app", &[&layer]);
    let mut wrong = layer.clone();
    wrong[250_000] ^= 1;
    from.put_wrong_blob("app", Digest::of(&layer), &wrong);
    copy(&[&name(&from, "app:v1"), &name(&to, "app:v1")]).failed(6, "what arrived is");
    assert_eq!(to.manifest("app", "v1"), None);
    assert_eq!(to.blob("app", Digest::of(&layer)), None);
    assert_eq!(to.blob("app", Digest::of(&wrong)), None);
    let commits = to.log().iter().filter(|one| one.head.method == "PUT" && one.status == 400).count();
    assert_eq!(commits, 0, "it is found out here, not there: {:?}", to.lines());
    // Once is an accident of the line.
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    tagged(&from, "app", &[&layer]);
    from.alter("GET", &format!("blobs/{}", Digest::of(&layer)), 1, move |answer| answer.body(wrong.clone()));
    copy(&[&name(&from, "app:v1"), &name(&to, "app:v1")]).succeeded();
    assert_eq!(to.blob("app", Digest::of(&layer)).unwrap(), layer);
}

#[test]
fn one_platform_is_its_manifest() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let index = index(&from, "app", [b"one", b"two", b"three"]);
    copy(&["--platform", "linux/arm64", &name(&from, "app:v1"), &name(&to, "app:arm")]).succeeded();
    assert_eq!(to.manifest("app", "arm").unwrap(), index.children[1]);
    assert!(to.blob("app", Digest::of(b"one")).is_none());
    let none = copy(&["--platform", "linux/s390x", &name(&from, "app:v1"), &name(&to, "app:arm")]);
    none.failed(13, "it has linux/amd64, linux/arm64");
    let arm = name(&from, &format!("app@{}", Digest::of(&index.children[1])));
    copy(&["--platform", "linux/amd64", &arm, &name(&to, "app:amd")]).failed(13, "it has linux/arm64");
}

/// Some answer with schema 1 whatever was asked for, and the digest is not that of the bytes.
/// Source: heroku/docker-registry-client#56.
#[rstest]
#[case("application/vnd.docker.distribution.manifest.v1+prettyjws")]
#[case("application/json")]
fn schema_1_is_said_to_be_that(#[case] kind: &str) {
    let registry = FakeRegistry::open();
    let text = br#"{"schemaVersion":1,"name":"a","tag":"v1","fsLayers":[],"signatures":[]}"#;
    registry.put_manifest("a", "v1", kind, text);
    registry.alter("GET", "/manifests/", 9, |answer| {
        answer.header("Docker-Content-Digest", Digest::of(b"payload").to_string())
    });
    let ran = copy(&[&name(&registry, "a:v1"), &name(&registry, "b:v1")]);
    ran.failed(6, "schema 1, which ended in 2017");
}

/// Windows base images.
/// Source: google/go-containerregistry#741.
#[test]
fn layers_that_lie_elsewhere_stay_there() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let config = from.put_blob("win", CONFIG);
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST,
        "config": {"mediaType": media_type::DOCKER_CONFIG, "digest": config, "size": CONFIG.len()},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 9,
            "digest": Digest::of(b"elsewhere"), "urls": ["https://example.com/layer"]}]})
    .to_string();
    from.put_manifest("win", "v1", media_type::DOCKER_MANIFEST, manifest.as_bytes());
    copy(&[&name(&from, "win:v1"), &name(&to, "win:v1")]).succeeded();
    assert_eq!(to.manifest("win", "v1").unwrap(), manifest.as_bytes());
    assert_eq!(to.count("POST", "/uploads/"), 1, "the configuration alone");
}

/// What a mirror has the registry itself need not have.
/// Source: OCI distribution specification 1.1, "Pushing manifests".
#[test]
fn what_came_from_a_mirror_is_asked_for_where_it_goes() {
    let (origin, mirror) = (FakeRegistry::open(), FakeRegistry::open());
    let manifest = tagged(&mirror, "app", &[b"layer"]);
    let rule = format!("--registry-mirror={}={}", origin.host(), mirror.host());
    copy(&[&rule, &name(&origin, "app:v1"), &name(&origin, "app:v2")]).succeeded();
    assert_eq!(origin.manifest("app", "v2").unwrap(), manifest);
    assert_eq!(origin.blob("app", Digest::of(b"layer")).unwrap(), b"layer");
}

#[test]
fn layouts_archives_and_the_store_give_back_what_they_got() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let directory = Scratch::new("copy-");
    let place = |scheme: &str, file: &str| format!("{scheme}://{}", directory.path().join(file).display());
    let from = registry.reference("library/debian:bookworm-slim");
    let digest = registry.digest("library/debian:bookworm-slim").unwrap();
    let (layout, archive) =
        (place("oci-layout", "layout:v1"), place("docker-archive", "x.tar:example.com/app:v1"));
    let copy = |line: &[&str]| {
        let mut words = vec!["copy"];
        words.extend(line);
        run(&cofferdam, &words).succeeded()
    };
    let one = copy(&["--platform=linux/amd64", &from, &layout, &archive, "store://debian:1"]);
    let image = one.stdout.lines().next().unwrap().to_owned();
    for (number, place) in
        [&layout, &place("oci-layout", "layout"), &archive, &place("docker-archive", "x.tar")]
            .into_iter()
            .map(String::as_str)
            .chain(["store://debian:1"])
            .enumerate()
    {
        let back = format!("back/app:{number}");
        copy(&[place, &registry.reference(&back)]);
        assert_eq!(registry.digest(&back).as_ref(), Some(&image), "{place}");
    }
    // All of an index in a layout, beside what is there.
    copy(&[&from, &place("oci-layout", "layout:all")]);
    copy(&[&place("oci-layout", "layout:all"), &registry.reference("back/all:1")]);
    assert_eq!(registry.digest("back/all:1"), Some(digest));
    run(&cofferdam, &["validate", &directory.path().join("layout").display().to_string()]).succeeded();
    let images = run(&cofferdam, &["images"]).succeeded().stdout;
    assert!(images.contains("debian:1"), "{images}");
    // Others read them too.
    let skopeo = |place: &str| {
        let output = std::process::Command::new("skopeo").args(["inspect", "--raw", place]).output().unwrap();
        assert!(output.status.success(), "{place}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let at = |file: &str| directory.path().join(file).display().to_string();
    assert_eq!(Digest::of(&skopeo(&format!("oci:{}", at("layout:v1")))).to_string(), image);
    skopeo(&format!("docker-archive:{}", at("x.tar:example.com/app:v1")));
}

/// What `docker save` wrote until Docker 25, and skopeo still does: layers that are not compressed, found through
/// `manifest.json`.
#[rstest]
#[case(false)]
#[case(true)]
fn an_archive_without_a_layout_is_read(#[case] compressed: bool) {
    let registry = Registry::start();
    let directory = Scratch::new("copy-");
    let file = directory.path().join("old.tar");
    let made = std::process::Command::new("skopeo")
        .args(["copy", "--src-tls-verify=false", "--override-arch=amd64"])
        .arg(format!("docker://{}", registry.reference("library/busybox:1")))
        .arg(format!("docker-archive:{}:example.com/old:v1", file.display()))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    if compressed {
        let gzip = std::process::Command::new("gzip").arg(&file).status().unwrap();
        assert!(gzip.success());
        std::fs::rename(directory.path().join("old.tar.gz"), &file).unwrap();
    }
    let to = registry.reference("back/old:1");
    for place in [
        format!("docker-archive://{}", file.display()),
        format!("docker-archive://{}:example.com/old:v1", file.display()),
    ] {
        copy(&[&place, &to]).succeeded();
        run(&Cofferdam::new(), &["validate", &to]).succeeded();
    }
    let config = |name: &str| registry.config(name);
    assert_eq!(config("back/old:1")["rootfs"], config("library/busybox:1")["rootfs"]);
    let other = format!("docker-archive://{}:example.com/other:v1", file.display());
    copy(&[&other, &to]).failed(13, "example.com/old:v1");
}

#[test]
fn an_archive_takes_one_platform() {
    let from = FakeRegistry::open();
    index(&from, "app", [b"one", b"two", b"three"]);
    let directory = Scratch::new("copy-");
    let archive = format!("docker-archive://{}", directory.path().join("x.tar").display());
    copy(&[&name(&from, "app:v1"), &archive]).failed(2, "--platform");
    assert_eq!(from.count("GET", "/blobs/"), 0);
    assert!(!directory.path().join("x.tar").exists());
}

fn damaged(layout: &Path, blob: &[u8]) {
    let path = layout.join("blobs/sha256").join(Digest::of(blob).hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_layout_gives_nothing_a_name() {
    let (from, to) = (FakeRegistry::open(), FakeRegistry::open());
    let manifest = tagged(&from, "app", &[b"layer"]);
    let directory = Scratch::new("copy-");
    let layout = directory.path().join("layout");
    let place = format!("oci-layout://{}", layout.display());
    copy(&[&name(&from, "app:v1"), &place]).succeeded();
    damaged(&layout, b"layer");
    let second = format!("oci-layout://{}", directory.path().join("second").display());
    copy(&[&place, &name(&to, "app:v1")]).failed(6, "what was to be sent is");
    copy(&[&place, &second]).failed(11, "is sha256:");
    assert_eq!(to.manifest("app", "v1"), None);
    assert!(!directory.path().join("second/index.json").exists());
    damaged(&layout, &manifest);
    copy(&[&place, &name(&to, "app:v1")]).failed(11, "is sha256:");
}

#[test]
fn what_an_image_is_made_of_is_shown_without_its_layers() {
    let registry = FakeRegistry::open();
    let index = index(&registry, "app", [b"one", b"twotwo", b"three"]);
    let cofferdam = Cofferdam::new();
    let app = name(&registry, "app:v1");
    let text = run(&cofferdam, &["inspect", &app]).succeeded().stdout;
    for part in [
        &format!("digest  {}\n", Digest::of(&index.bytes)),
        "annotation  org.example.kept=yes\n",
        "platform  linux/amd64\n",
        "platform  linux/arm64\n",
        &format!("attestation of {}\n", Digest::of(&index.children[0])),
        "cmd       [\"sh\"]\n",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let json = run(&cofferdam, &["inspect", "--format=json", &app]).succeeded().stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["media_type"], media_type::OCI_INDEX);
    assert_eq!(json["images"][1]["platform"], "linux/arm64");
    assert_eq!(json["images"][1]["layers"][0]["size"], 6);
    assert_eq!(json["images"][0]["config"]["config"]["Cmd"][0], "sh");
    let blobs = [b"one".len(), b"twotwo".len(), b"three".len(), CONFIG.len(), ARM.len(), 2];
    let documents = index.children.iter().chain([&index.bytes]).map(Vec::len);
    assert_eq!(json["size"], blobs.into_iter().chain(documents).sum::<usize>());
    for layer in [&b"one"[..], b"twotwo", b"three"] {
        assert_eq!(registry.count("GET", &Digest::of(layer).to_string()), 0);
    }
    let raw = run(&cofferdam, &["inspect", "--raw", &app]).succeeded().stdout;
    assert_eq!(raw.as_bytes(), index.bytes);
    run(&cofferdam, &["inspect", "--image-config", &app]).failed(2, "--platform");
    let config = ["inspect", "--image-config", "--platform=linux/amd64", &app];
    assert_eq!(run(&cofferdam, &config).succeeded().stdout.as_bytes(), CONFIG);
}
