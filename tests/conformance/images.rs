//! The registry of the suite, and images in it that cases stand on besides the base images.

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
    registry
});
