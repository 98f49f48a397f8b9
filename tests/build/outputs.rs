//! Keys of `--output` that change how an image is written and not what is in it. BuildKit says what each of them means.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{build, context, differential};
use crate::support::{Cofferdam, Registry, layers};

const DOCKERFILE: &str = "FROM busybox:1\nCOPY app-amd64 app-arm64 /\n";
const FILES: [(&str, &str); 2] = [("app-amd64", "amd64"), ("app-arm64", "arm64")];
const EPOCH: u64 = 1_700_000_000;

/// The media types of an image, and of those of an index.
fn types(registry: &Registry, document: &Value) -> Value {
    if let Some(manifests) = document["manifests"].as_array() {
        let below = manifests.iter().map(|one| {
            json!([one["mediaType"], types(registry, &registry.json(one["digest"].as_str().unwrap()))])
        });
        return json!([document["mediaType"], below.collect::<Vec<_>>()]);
    }
    let layers: Vec<&Value> =
        document["layers"].as_array().unwrap().iter().map(|one| &one["mediaType"]).collect();
    json!([document["mediaType"], document["config"]["mediaType"], layers])
}

/// Has both build with these keys of `--output`, and gives what the manifests or indexes are, BuildKit's first.
fn both(name: &str, keys: &str, platforms: &str, epoch: bool) -> [Value; 2] {
    let differential::Judge { registry, buildkit } = &*differential::JUDGE;
    // BuildKit takes a layer that it has in another compression, unless that is forced: only those that are to be alike are.
    let content = if name.starts_with("docker") { name } else { "alike" };
    let tree = context(DOCKERFILE, &FILES.map(|(file, _)| (file, content)));
    let reference = |who: &str| registry.reference(&format!("{who}/{name}:1"));
    let theirs = buildkit
        .build(tree.path())
        .option(&format!("--output=type=image,name={},push=true,{keys}", reference("theirs")))
        .option(&format!("--opt=platform={platforms}"));
    let epoch = format!("SOURCE_DATE_EPOCH={}", if epoch { EPOCH.to_string() } else { String::new() });
    let theirs = theirs.option(&format!("--opt=build-arg:{epoch}"));
    theirs.run().unwrap_or_else(|log| panic!("BuildKit cannot build it:\n{log}"));
    let flags = [
        format!("--platform={platforms}"),
        format!("--output=type=registry,name={},{keys}", reference("ours")),
        format!("--build-arg={epoch}"),
    ];
    let cofferdam = Cofferdam::new();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    build(&cofferdam, registry, tree.path(), &flags).succeeded();
    cofferdam.run(["validate", &reference("ours")]).success();
    ["theirs", "ours"].map(|who| registry.json(&registry.digest(&format!("{who}/{name}:1")).unwrap()))
}

#[test]
fn dockers_media_types_are_what_buildkit_writes() {
    let registry = &differential::JUDGE.registry;
    for (name, keys, platforms) in [
        ("docker", "oci-mediatypes=false", "linux/amd64"),
        ("docker-zstd", "oci-mediatypes=false,compression=zstd", "linux/amd64"),
        ("docker-plain", "oci-mediatypes=false,compression=uncompressed", "linux/amd64"),
        ("docker-list", "oci-mediatypes=false", "linux/amd64,linux/arm64"),
        ("docker-not", "oci-mediatypes=true", "linux/amd64"),
    ] {
        let [theirs, ours] = both(name, keys, platforms, false);
        assert_eq!(types(registry, &ours), types(registry, &theirs), "{keys}");
        let is_docker = ours["mediaType"].as_str().unwrap().contains("docker");
        assert_eq!(is_docker, keys.contains("=false"), "{ours}");
    }
    // Two outputs are of one image.
    let tree = context(DOCKERFILE, &FILES);
    let flags =
        ["--output=type=oci,dest=x,oci-mediatypes=false", "--output=type=oci,dest=y,oci-mediatypes=true"];
    build(&Cofferdam::new(), registry, tree.path(), &flags).failed(2, &["different media types"]);
    let flags = ["--output=type=oci,dest=x,oci-mediatypes=false", "--annotation=manifest-descriptor:a=b"];
    build(&Cofferdam::new(), registry, tree.path(), &flags).failed(2, &["has no place"]);
}

#[test]
fn layers_of_the_base_are_compressed_anew_if_that_is_forced() {
    let registry = &differential::JUDGE.registry;
    let diff_ids = |manifest: &Value| {
        registry.json(manifest["config"]["digest"].as_str().unwrap())["rootfs"]["diff_ids"].clone()
    };
    let [_, plain] = both("plain", "compression=zstd", "linux/amd64", true);
    for (name, keys) in [
        ("forced-zstd", "compression=zstd,force-compression=true,oci-mediatypes=true"),
        ("forced-none", "compression=uncompressed,force-compression=true,oci-mediatypes=true"),
        // It is gzip already.
        ("forced-gzip", "compression=gzip,force-compression=true,oci-mediatypes=true"),
    ] {
        let [theirs, ours] = both(name, keys, "linux/amd64", true);
        assert_eq!(types(registry, &ours), types(registry, &theirs), "{keys}");
        // The same files, byte for byte.
        assert_eq!(diff_ids(&ours), diff_ids(&plain), "{keys}");
        assert_eq!(layers(registry, &format!("ours/{name}:1")), layers(registry, "ours/plain:1"), "{keys}");
        let is_the_same = ours["layers"][0]["digest"] == plain["layers"][0]["digest"];
        assert_eq!(is_the_same, name == "forced-gzip", "{keys}");
    }
}

#[test]
fn times_are_rewritten_as_buildkit_rewrites_them() {
    let registry = &differential::JUDGE.registry;
    let times = |layer: &Value| -> BTreeMap<String, u64> {
        let file = std::fs::File::open(registry.blob_path(layer["digest"].as_str().unwrap())).unwrap();
        let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(file));
        let entry = |entry: std::io::Result<tar::Entry<'_, _>>| {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
            (name, entry.header().mtime().unwrap())
        };
        archive.entries().unwrap().map(entry).collect()
    };
    let keys = "rewrite-timestamp=true,oci-mediatypes=true";
    let [theirs, ours] = both("docker-rewritten", keys, "linux/amd64", true);
    // The base's are its own.
    assert_eq!(ours["layers"][0]["digest"], theirs["layers"][0]["digest"]);
    let (theirs, ours) = (times(&theirs["layers"][1]), times(&ours["layers"][1]));
    assert_eq!(ours, theirs);
    assert!(ours.values().all(|time| *time <= EPOCH) && ours.contains_key("app-arm64"), "{ours:?}");
}
