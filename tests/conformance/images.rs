//! The registry of the suite, and images in it that cases stand on besides the base images.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::json;

use super::support::{Registry, TestImage};

/// For all cases of both sides. It ends with the process.
pub static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let registry = Registry::start();
    // Everything that a configuration can have.
    TestImage::from("library/busybox:1")
        .bytes("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:2000:app:/home/app:/bin/sh\n")
        .bytes("etc/group", 0o644, b"root:x:0:\napp:x:2000:\nextra:x:3000:app\n")
        .set("User", json!("app"))
        .set("WorkingDir", json!("/srv/app"))
        .set("Env", json!(["PATH=/bin:/usr/bin", "INHERITED=from the base", "EMPTY="]))
        .set("Entrypoint", json!(["/bin/sh", "-c"]))
        .set("Cmd", json!(["echo base"]))
        .set("Labels", json!({"base": "yes", "kept": "1"}))
        .set("ExposedPorts", json!({"80/tcp": {}}))
        .set("Volumes", json!({"/data": {}}))
        .set("StopSignal", json!("SIGINT"))
        .set(
            "Healthcheck",
            json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 2}),
        )
        .push(&registry, "library/conf-full:1");
    TestImage::from("library/busybox:1")
        .set("Shell", json!(["/bin/sh", "-x", "-c"]))
        .push(&registry, "library/conf-shell:1");
    TestImage::from("library/busybox:1")
        .set(
            "OnBuild",
            json!([
                "ARG LATER=late",
                "COPY trigger.txt /triggered/",
                "RUN echo $LATER > /later",
                "WORKDIR /on/build"
            ]),
        )
        .push(&registry, "library/conf-onbuild:1");
    index(&registry);
    registry
});

/// The platforms of `conf-index:1`.
const PLATFORMS: [(&str, &str); 4] = [("amd64", ""), ("arm64", "v8"), ("arm", "v6"), ("arm", "v7")];

/// An image with a file that says which platform it is for, behind an index.
fn index(registry: &Registry) {
    let mut manifests = Vec::new();
    for (architecture, variant) in PLATFORMS {
        let name = format!("library/conf-index:{architecture}{variant}");
        TestImage::scratch()
            .bytes("arch", 0o644, format!("{architecture}{variant}\n").as_bytes())
            .platform(architecture, variant)
            .push(registry, &name);
        let digest = registry.digest(&name).expect("it was pushed");
        let size = std::fs::metadata(registry.blob_path(&digest)).expect("its manifest").len();
        let mut platform = json!({"os": "linux", "architecture": architecture});
        if !variant.is_empty() {
            platform["variant"] = json!(variant);
        }
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        manifests
            .push(json!({"mediaType": media_type, "digest": digest, "size": size, "platform": platform}));
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
    registry.put_image("library/conf-index:1", &[], &serde_json::to_vec(&index).expect("JSON"));
}

/// A layout with the image `name` (`repository:tag`) of the registry, as `it`, below `directory`.
pub fn layout(name: &str, directory: &Path) -> PathBuf {
    let layout = directory.join(format!("layout-{}", name.replace(['/', ':'], "-")));
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false", "--preserve-digests", "--all"])
        .arg(format!("docker://{}", REGISTRY.reference(&format!("library/{name}"))))
        .arg(format!("oci:{}:it", layout.display()))
        .output()
        .expect("skopeo runs");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    layout
}

/// The digest of what is in such a layout.
pub fn digest_in(layout: &Path) -> String {
    let index = std::fs::read(layout.join("index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    index["manifests"][0]["digest"].as_str().expect("a digest").to_owned()
}
