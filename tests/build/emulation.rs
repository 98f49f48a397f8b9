//! RUN of another machine's programs: as root and as nobody in particular, beside BuildKit where the kernel starts the
//! emulators, and where there are none.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

use super::{Ran, build, context, differential, run};
use crate::support::{Binfmt, Cofferdam, TestImage, comparable_config, layers, part};

/// An image of Debian for arm64, in the registry that BuildKit has as well.
static BASE: LazyLock<String> = LazyLock::new(|| {
    let registry = &differential::JUDGE.registry;
    let tree = context("FROM scratch\nADD debian-arm64.tar /\nCMD [\"bash\"]\n", &[]);
    std::fs::copy(part("foreign").join("debian-arm64.tar"), tree.path().join("debian-arm64.tar")).unwrap();
    let name = registry.reference("arm64/debian:12");
    let flags = ["--platform=linux/arm64", "--push", "-t", &name];
    build(&Cofferdam::new(), registry, tree.path(), &flags).succeeded();
    name
});

/// Steps that only programs for arm64 can carry out, each of another kind.
const STEPS: &str = r#"
ARG TARGETARCH
RUN uname -m | tee /machine && echo "$TARGETARCH" >> /machine
RUN printf '#!/usr/bin/env python3\nimport sys\nprint("script", *sys.argv[1:])\n' > /usr/bin/tool && chmod 755 /usr/bin/tool && tool a b > /out && yes x | head -100 | sort | uniq -c >> /out
RUN mkdir -p /d/e && touch /d/e/f && chown 12:34 /d/e/f && chmod 4750 /d/e/f && chown -h 5:6 /d && mknod /d/null c 1 3 && ln /d/e/f /d/hard && stat -c '%n %a %u:%g' /d/* > /stat
RUN useradd -m -u 1234 user && rm -rf /var/log/*
RUN ["/bin/bash", "-c", "for i in {1..300}; do (exit 0) & done; wait; seq 60 | xargs -P 6 -n 1 sh -c 'touch /d/$0; chown $0 /d/$0'"]
RUN mkdir -p /pkg/DEBIAN /pkg/usr/bin && printf 'Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: thing\n' > /pkg/DEBIAN/control \
 && printf '#!/bin/sh\nchown 7:8 /usr/bin/thing\n' > /pkg/DEBIAN/postinst && chmod 755 /pkg/DEBIAN/postinst && echo thing > /pkg/usr/bin/thing \
 && dpkg-deb -b /pkg /thing.deb && dpkg -i /thing.deb && rm -rf /pkg /thing.deb /var/lib/dpkg /var/log/* /var/cache
USER 1234:1234
WORKDIR /home/user
RUN id > id && touch made && ! touch /refused
RUN --mount=type=cache,target=/cache,uid=1234 --mount=type=tmpfs,target=/t --network=none cp id /t && cat /t/id > /cache/x && cp /cache/x from-cache
"#;

fn dockerfile(base: &str) -> String {
    format!("FROM {base}{STEPS}")
}

fn for_arm64(cofferdam: &Cofferdam, context: &Path, args: &[&str]) -> Ran {
    let flags = [&["--platform=linux/arm64"], args].concat();
    build(cofferdam, &differential::JUDGE.registry, context, &flags)
}

/// A build where no emulator is found.
fn without_emulators(cofferdam: &Cofferdam, context: &Path, args: &[&str]) -> Ran {
    let mut command = cofferdam.command();
    command.env("PATH", "/nowhere");
    run(command.args(["build", "--progress=plain", "--platform=linux/arm64"]).args(args).arg(context))
}

#[test]
fn an_image_for_another_machine_is_what_buildkit_makes_behind_binfmt() {
    let differential::Judge { registry, buildkit } = &*differential::JUDGE;
    let tree = context(&dockerfile(&BASE), &[]);
    let (theirs, ours) = (registry.reference("theirs/arm:1"), registry.reference("ours/arm:1"));
    {
        let _registered = Binfmt::register();
        buildkit
            .build(tree.path())
            .push(&theirs)
            .option("--opt=platform=linux/arm64")
            .run()
            .unwrap_or_else(|log| panic!("BuildKit cannot build it:\n{log}"));
    }
    let root = Cofferdam::new();
    for_arm64(&root, tree.path(), &["--push", "-t", &ours]).succeeded();
    let comparable = |name: &str| comparable_config(registry.config(name));
    assert_eq!(comparable("theirs/arm:1"), comparable("ours/arm:1"));
    let (theirs, ours) = (layers(registry, "theirs/arm:1"), layers(registry, "ours/arm:1"));
    assert_eq!(theirs.len(), ours.len());
    let mut differences = Vec::new();
    for (number, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        let found = differential::differ(theirs, ours);
        differences.extend(found.into_iter().map(|(name, text)| format!("layer {number}: /{name}: {text}")));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(ours[1]["machine"].content, format!("{:?}", "aarch64\narm64\n"));
    for (number, layer) in ours.iter().enumerate() {
        assert!(layer.keys().all(|name| !name.contains("qemu")), "layer {number}: {layer:?}");
    }
}

#[test]
fn whoever_builds_it_makes_the_same_bytes() {
    let registry = &differential::JUDGE.registry;
    let tree = context(&dockerfile(&BASE), &[]);
    let digests: Vec<Value> = [Cofferdam::new(), Cofferdam::as_uid(1000)]
        .iter()
        .enumerate()
        .map(|(number, cofferdam)| {
            let name = format!("bytes/arm:{number}");
            let reference = registry.reference(&name);
            let flags = ["--build-arg=SOURCE_DATE_EPOCH=1700000000", "--push", "-t", &reference];
            for_arm64(cofferdam, tree.path(), &flags).succeeded();
            registry.manifest(&name)["layers"].clone()
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

/// Nothing is carried out, not even what stands before: the image says what is needed.
#[test]
fn without_an_emulator_the_step_that_needs_one_is_refused_first() {
    let cofferdam = Cofferdam::new();
    let tree = context(&format!("FROM {}\nCOPY Dockerfile /\nRUN true\n", &*BASE), &[]);
    let refused = without_emulators(&cofferdam, tree.path(), &[]);
    refused.failed(
        9,
        &[
            "`RUN true` cannot be carried out",
            "--> Dockerfile:3:1",
            "this machine cannot execute programs for arm64: it has no emulator for them",
            "install `qemu-aarch64-static`",
            "`--emulator-dir`",
        ],
    );
    assert!(!refused.stderr.contains("COPY Dockerfile"), "{}", refused.stderr);
    // A directory that is named is looked in.
    let directory = cofferdam.home().join("emulators");
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy("/usr/bin/qemu-aarch64-static", directory.join("qemu-aarch64")).unwrap();
    let named = format!("--emulator-dir={}", directory.display());
    without_emulators(&cofferdam, tree.path(), &[&named]).succeeded();
    // What is in the cache needs nobody to execute it.
    without_emulators(&cofferdam, tree.path(), &[]).succeeded();
    let missing = without_emulators(&cofferdam, tree.path(), &["--emulator-dir=/nowhere"]);
    missing.failed(2, &["/nowhere", "is no directory", "--emulator-dir"]);
    std::fs::write(directory.join("qemu-aarch64"), "#!/bin/sh\n").unwrap();
    without_emulators(&cofferdam, tree.path(), &[&named, "--no-cache"])
        .failed(9, &["qemu-aarch64` cannot be used: it is no program of this machine"]);
}

/// Of several platforms, the last one's lack is told before the first one's work.
#[test]
fn a_lack_is_told_before_other_platforms_are_built() {
    let registry = &differential::JUDGE.registry;
    let cofferdam = Cofferdam::new();
    let dockerfile = format!(
        "FROM busybox:1 AS on-amd64\nFROM {} AS on-arm64\nFROM on-$TARGETARCH\nRUN echo built\n",
        &*BASE
    );
    let tree = context(&dockerfile.replace("FROM on-", "ARG TARGETARCH\nFROM on-"), &[]);
    let mut command = cofferdam.command();
    command.env("PATH", "/nowhere").args(["build", "--progress=plain"]);
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address()));
    let refused = run(command.arg("--platform=linux/amd64,linux/arm64").arg(tree.path()));
    refused.failed(9, &["this machine cannot execute programs for arm64"]);
    assert!(!refused.stderr.contains("built\n#"), "{}", refused.stderr);
}

/// Where the image does not say what it is of, the program does: the one that cannot be executed is named.
#[test]
fn a_program_that_cannot_be_executed_is_named() {
    let registry = &differential::JUDGE.registry;
    let cofferdam = Cofferdam::new();
    let program = part("foreign").join("busybox-s390x");
    let base =
        TestImage::from("library/busybox:1").file("bin/other", 0o755, &program).push(registry, "mixed:1");
    let child = context(&format!("FROM {base}\nRUN /bin/other true || exit 3\n"), &[]);
    build(&cofferdam, registry, child.path(), &[]).failed(
        4,
        &[
            "exit code 3",
            "the step had no emulator for `/bin/other`, which is a program for s390x; build for `--platform=linux/s390x`",
        ],
    );
    let first = context(&format!("FROM {base}\nRUN [\"/bin/other\", \"true\"]\n"), &[]);
    build(&cofferdam, registry, first.path(), &[])
        .failed(4, &["cannot execute `/bin/other`: it is a program for s390x"]);
    let scratch = context("FROM scratch\nADD busybox-s390x /sh\nRUN [\"/sh\", \"sh\"]\n", &[]);
    std::fs::copy(&program, scratch.path().join("busybox-s390x")).unwrap();
    without_emulators(&cofferdam, scratch.path(), &[])
        .failed(4, &["cannot execute `/sh`: it is a program for s390x", "install `qemu-s390x-static`"]);
}
