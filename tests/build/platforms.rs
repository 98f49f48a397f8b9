//! Several platforms in one build: an index, as BuildKit makes it.

use std::process::Command;

use serde_json::{Value, json};

use super::{build, context, differential, run};
use crate::support::{Cofferdam, Registry, comparable_config, layers};

/// Files for two platforms: one is made where the build runs, one is chosen by name, one is the same for both.
const CROSS: &str = r#"
FROM --platform=$BUILDPLATFORM busybox:1 AS build
ARG TARGETARCH
RUN echo "for $TARGETARCH on $(uname -m)" > /made

FROM scratch
ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM
COPY --from=build /made /
COPY app-$TARGETARCH /app
COPY both /
ENV FOR=$TARGETPLATFORM VARIANT=$TARGETVARIANT ON=$BUILDPLATFORM
LABEL arch=$TARGETARCH
ENTRYPOINT ["/app"]
"#;
const FILES: [(&str, &str); 4] =
    [("app-amd64", "amd64"), ("app-arm64", "arm64"), ("app-arm", "arm"), ("both", "both")];
const THREE: &str = "linux/amd64,linux/arm64,linux/arm/v7";

/// What an index says, less digests and sizes of what has times in it.
fn comparable_index(registry: &Registry, name: &str) -> Value {
    let index = registry.json(&registry.digest(name).unwrap());
    let images: Vec<Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        // BuildKit's attestations, which it makes for an index unless all of them are turned off one by one.
        .filter(|descriptor| descriptor["platform"]["os"] != "unknown")
        .map(|descriptor| {
            let manifest = registry.json(descriptor["digest"].as_str().unwrap());
            json!({
                "platform": descriptor["platform"],
                "media type": descriptor["mediaType"],
                "annotations": descriptor["annotations"],
                "manifest": { "annotations": manifest["annotations"], "media type": manifest["mediaType"] },
                "config": comparable_config(registry.json(manifest["config"]["digest"].as_str().unwrap())),
            })
        })
        .collect();
    json!({ "media type": index["mediaType"], "annotations": index["annotations"], "images": images })
}

#[test]
fn an_index_is_what_buildkit_makes() {
    let differential::Judge { registry, buildkit } = &*differential::JUDGE;
    let tree = context(CROSS, &FILES);
    let (theirs, ours) = (registry.reference("theirs/cross:1"), registry.reference("ours/cross:1"));
    let annotated = [
        ("annotation.a", "a=1"),
        ("annotation-index.b", "index:b=2"),
        ("annotation-manifest[linux/arm64].c", "manifest[linux/arm64]:c=3"),
        ("annotation-manifest[linux/arm64].f", "manifest[linux/arm64]:f=6"),
        ("annotation-manifest[linux/arm64].e", "manifest[linux/arm64]:e=5"),
        ("annotation-index.g", "index:g=7"),
        ("annotation-manifest-descriptor.d", "manifest-descriptor:d=4"),
    ];
    let output = annotated.iter().fold(
        format!("--output=type=image,name={theirs},push=true,oci-mediatypes=true"),
        |output, (key, flag)| format!("{output},{key}={}", flag.rsplit('=').next().unwrap()),
    );
    buildkit
        .build(tree.path())
        .option(&output)
        .option(&format!("--opt=platform={THREE}"))
        .run()
        .unwrap_or_else(|log| panic!("BuildKit cannot build it:\n{log}"));
    let cofferdam = Cofferdam::new();
    let mut flags = vec![format!("--platform={THREE}"), "--push".to_owned(), format!("--tag={ours}")];
    flags.extend(annotated.iter().map(|(_, flag)| format!("--annotation={flag}")));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let ran = build(&cofferdam, registry, tree.path(), &flags).succeeded();
    assert_eq!(ran.digest(), registry.digest("ours/cross:1").unwrap());
    assert_eq!(comparable_index(registry, "theirs/cross:1"), comparable_index(registry, "ours/cross:1"));
    let arm = registry.json(&registry.digest("ours/cross:1").unwrap())["manifests"][1]["digest"].clone();
    let manifest = std::fs::read_to_string(registry.blob_path(arm.as_str().unwrap())).unwrap();
    assert!(manifest.ends_with(r#""annotations":{"a":"1","c":"3","e":"5","f":"6"}}"#), "{manifest}");
    // Every layer of every platform is there and right, and nothing is sent the second time.
    cofferdam.run(["validate", &ours]).success();
    let again = build(&cofferdam, registry, tree.path(), &flags).succeeded();
    assert_eq!(ran.digest(), again.digest());
    assert!(again.stderr.contains("already there"), "{}", again.stderr);
}

#[test]
fn what_platforms_share_is_made_once_and_steps_say_which_they_are_for() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let dockerfile = "
FROM --platform=$BUILDPLATFORM busybox:1 AS shared
RUN echo shared > /shared
FROM scratch
ARG TARGETARCH
COPY --from=shared /shared /
COPY app-$TARGETARCH /app
";
    let tree = context(dockerfile, &FILES);
    let name = registry.reference("shared:1");
    let flags = ["--platform=linux/amd64", "--platform=linux/arm64", "--push", "-t", &name];
    let ran = build(&cofferdam, &registry, tree.path(), &flags).succeeded();
    assert!(ran.stderr.contains("6 steps, 1 cached"), "{}", ran.stderr);
    for text in ["[linux/amd64 ", "[linux/arm64 "] {
        assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
    }
    // A platform alone is the same image as among others.
    let index = registry.json(&registry.digest("shared:1").unwrap());
    let alone = registry.reference("alone:1");
    build(&cofferdam, &registry, tree.path(), &["--platform=linux/arm64", "--push", "-t", &alone])
        .succeeded();
    assert_eq!(index["manifests"][1]["digest"].as_str(), registry.digest("alone:1").as_deref());
    assert_eq!(layers(&registry, "alone:1").len(), 2);
}

#[test]
fn an_index_goes_everywhere_an_image_goes() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let tree = context(CROSS, &FILES);
    let home = cofferdam.home();
    let (layout, files, result) = (home.join("layout"), home.join("files"), home.join("result.json"));
    let name = registry.reference("everywhere:1");
    let flags = [
        format!("--platform={THREE}"),
        format!("--output=type=oci,tar=false,dest={}", layout.display()),
        format!("--output=type=local,dest={}", files.display()),
        format!("--metadata-file={}", result.display()),
        format!("--iidfile={}", home.join("iid").display()),
        format!("--tag={name}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let ran = build(&cofferdam, &registry, tree.path(), &flags).succeeded();
    cofferdam.run(["validate".as_ref(), layout.as_os_str()]).success();
    for (platform, content) in [("linux_amd64", "amd64"), ("linux_arm64", "arm64"), ("linux_arm_v7", "arm")] {
        assert_eq!(std::fs::read_to_string(files.join(platform).join("app")).unwrap(), content);
    }
    let result: Value = serde_json::from_slice(&std::fs::read(result).unwrap()).unwrap();
    assert_eq!(result["containerimage.digest"], ran.digest());
    assert_eq!(result["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(std::fs::read_to_string(home.join("iid")).unwrap(), ran.digest());
    // From the store to a registry, and read there by somebody else.
    let pushed = run(cofferdam.command().args(["push", &name])).succeeded();
    assert_eq!(registry.digest("everywhere:1").as_deref(), Some(ran.digest()), "{}", pushed.stderr);
    let skopeo = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--override-arch=arm64", "--format={{.Labels.arch}}"])
        .arg(format!("docker://{name}"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&skopeo.stdout).trim(), "arm64");
    let listed = run(cofferdam.command().args(["images", "--format=json"])).succeeded();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed[0]["platforms"], json!(["linux/amd64", "linux/arm64", "linux/arm/v7"]));
}

#[test]
fn an_index_as_a_base_has_the_platforms_it_has() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let base = registry.reference("base:1");
    let tree = context(CROSS, &FILES);
    build(&cofferdam, &registry, tree.path(), &[&format!("--platform={THREE}"), "--push", "-t", &base])
        .succeeded();
    let upon = context(&format!("FROM {base}\nCOPY both /more\n"), &FILES);
    let on = |platforms: &str, name: &str| {
        let (flag, name) = (format!("--platform={platforms}"), registry.reference(name));
        build(&cofferdam, &registry, upon.path(), &[&flag, "--push", "-t", &name])
    };
    on("linux/arm64,linux/amd64", "upon:1").succeeded();
    let index = registry.json(&registry.digest("upon:1").unwrap());
    let architectures = ["arm64", "amd64"];
    for (descriptor, architecture) in index["manifests"].as_array().unwrap().iter().zip(architectures) {
        let manifest = registry.json(descriptor["digest"].as_str().unwrap());
        let config = registry.json(manifest["config"]["digest"].as_str().unwrap());
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["Labels"]["arch"], architecture);
    }
    on("linux/amd64,linux/s390x", "upon:2")
        .failed(13, &["linux/s390x: it has images for linux/amd64, linux/arm/v7, linux/arm64 only"]);
    assert_eq!(registry.digest("upon:2"), None, "nothing is named before all of it is there");
}

#[test]
fn one_platform_makes_no_index() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let tree = context("FROM scratch\nCOPY both /\n", &FILES);
    let annotated = build(&cofferdam, &registry, tree.path(), &["--annotation=index:a=b"]);
    annotated.failed(2, &["the annotation `a` is for an index"]);
    let name = registry.reference("one:1");
    let flags = ["--platform=linux/arm64", "--annotation=a=b", "--push", "-t", &name];
    build(&cofferdam, &registry, tree.path(), &flags).succeeded();
    let manifest = registry.json(&registry.digest("one:1").unwrap());
    assert_eq!((&manifest["annotations"], &manifest["manifests"]), (&json!({ "a": "b" }), &Value::Null));
}

/// The annotations of a layout, as those of manifests, have one order in all processes.
#[test]
fn an_archive_has_the_same_bytes_each_time() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let tree = context("FROM scratch\nCOPY both /\n", &FILES);
    let annotations =
        ["a", "b", "c", "d"].map(|name| format!("--annotation=manifest,manifest-descriptor:{name}=1"));
    let archives: Vec<Vec<u8>> = (0..4)
        .map(|number| {
            let path = cofferdam.home().join(format!("{number}.tar"));
            let output = format!("--output=type=oci,dest={}", path.display());
            let mut flags = vec!["--tag=app:1", &output];
            flags.extend(annotations.iter().map(String::as_str));
            build(&cofferdam, &registry, tree.path(), &flags).succeeded();
            std::fs::read(path).unwrap()
        })
        .collect();
    assert!(archives.iter().all(|archive| *archive == archives[0]));
}
