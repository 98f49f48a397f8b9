//! Roots that are kept between builds: they save the unpacking, and nobody can tell them from new ones.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::faults::state_directory;
use crate::support::{Cofferdam, Registry};
use crate::{build, context, run};

/// Steps that change much of what the base has, each in another way.
const DISORDER: &str = "FROM debian:bookworm-slim\n\
    COPY source /source\n\
    RUN rm -r /etc/apt && echo x >> /etc/passwd && mv /usr/share/doc /usr/share/papers && ln -s / /root/all\n\
    RUN chmod 700 /usr && chown -R 7:7 /var/log && mknod /dev/odd c 1 3 && echo x > /etc/hosts && mkdir /new\n";
/// What a step sees that looks everywhere: kinds, modes, owners, sizes, times and links, but for what other steps made.
const LOOK: &str = "FROM debian:bookworm-slim\n\
    RUN find / -xdev -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -path /look -prune -o \
        -printf '%y %m %U:%G %n %l %p\\n' | sort > /look && find /etc /usr -type f -exec sha256sum {} + | sort >> /look \
        && find /usr /var -printf '%T@ %p\\n' | sort >> /look\n";

fn kept(cofferdam: &Cofferdam) -> Vec<PathBuf> {
    let roots = std::fs::read_dir(state_directory(cofferdam).join("cofferdam/roots"));
    roots.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// Waits until what a build has left is either kept or gone.
fn settled(cofferdam: &Cofferdam) -> Vec<PathBuf> {
    crate::faults::nothing_is_left(&state_directory(cofferdam));
    kept(cofferdam)
}

fn digest(cofferdam: &Cofferdam, registry: &Registry, dockerfile: &str, name: &str) -> String {
    let directory = context(dockerfile, &[("source", "text\n")]);
    let built = run(cofferdam.command().env("SOURCE_DATE_EPOCH", "1700000000").args([
        "build",
        "--no-cache",
        "--push",
        &format!("--registry-mirror={}", registry.address()),
        &format!("--tag={}", registry.reference(name)),
        directory.path().to_str().unwrap(),
    ]));
    built.succeeded().stdout.trim().to_owned()
}

#[test]
fn a_kept_root_is_what_a_new_one_is() {
    for uid in [None, Some(1000)] {
        let registry = Registry::start();
        let new = || uid.map_or_else(Cofferdam::new, Cofferdam::as_uid);
        let expected = digest(&new(), &registry, LOOK, "x/new:1");
        let cofferdam = new();
        digest(&cofferdam, &registry, DISORDER, "x/disorder:1");
        let [root] = &settled(&cofferdam)[..] else { panic!("{:?}", kept(&cofferdam)) };
        let inode =
            |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path.join("fs")).unwrap());
        let before = inode(root);
        for _ in 0..2 {
            assert_eq!(digest(&cofferdam, &registry, LOOK, "x/look:1"), expected, "as {uid:?}");
            let [root] = &settled(&cofferdam)[..] else { panic!("{:?}", kept(&cofferdam)) };
            assert_eq!(inode(root), before, "it is the same root still");
        }
    }
}

#[test]
fn a_kept_root_needs_no_layers() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let directory = context("FROM debian:bookworm-slim\nRUN true > /one\n", &[]);
    build(&cofferdam, &registry, directory.path(), &[]).succeeded();
    assert_eq!(settled(&cofferdam).len(), 1);
    let base = registry.manifest("library/debian:bookworm-slim");
    let layer = base["layers"][0]["digest"].as_str().unwrap();
    std::fs::remove_file(registry.blob_path(layer)).unwrap();
    std::fs::remove_file(state_directory(&cofferdam).join("blobs/sha256").join(&layer[7..])).unwrap();
    // More layers come on top; that the one below is nowhere does not matter, for it is in the root.
    let more = context("FROM debian:bookworm-slim\nCOPY two /two\nRUN cat /two > /three\n", &[("two", "2")]);
    let out = tempfile::tempdir().unwrap();
    let output = format!("--output=type=local,dest={}", out.path().display());
    build(&cofferdam, &registry, more.path(), &[&output]).succeeded();
    assert_eq!(std::fs::read(out.path().join("three")).unwrap(), b"2");
    assert!(out.path().join("usr/bin/dpkg").exists());
}

#[test]
fn a_kept_root_that_something_was_at_is_found_out() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let directory =
        |number: u32| context(&format!("FROM debian:bookworm-slim\nRUN echo {number} > /file\n"), &[]);
    build(&cofferdam, &registry, directory(1).path(), &[]).succeeded();
    let [root] = &settled(&cofferdam)[..] else { panic!("{:?}", kept(&cofferdam)) };
    let touched = root.join("fs/usr/lib/os-release");
    std::fs::set_permissions(&touched, PermissionsExt::from_mode(0o4755)).unwrap();
    let ran = build(&cofferdam, &registry, directory(2).path(), &[]);
    assert_eq!(ran.status, Some(8), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("`/usr/lib/os-release` in a root filesystem that was kept"),
        "{}",
        ran.stderr
    );
    settled(&cofferdam);
    build(&cofferdam, &registry, directory(3).path(), &[]).succeeded();
}

#[test]
fn prune_removes_kept_roots_and_a_project_directory_has_none() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let directory = context("FROM busybox:1\nRUN echo > /file\n", &[]);
    build(&cofferdam, &registry, directory.path(), &[]).succeeded();
    assert_eq!(settled(&cofferdam).len(), 1);
    let pruned = run(cofferdam.command().args(["prune", "--format=json"]));
    let pruned: serde_json::Value = serde_json::from_str(&pruned.succeeded().stdout).unwrap();
    assert_eq!(pruned["roots"], 1, "{pruned}");
    assert!(kept(&cofferdam).is_empty());

    // A relative directory is the same to the process that outlives the build.
    let elsewhere = tempfile::tempdir().unwrap();
    let built = run(cofferdam.command().current_dir(elsewhere.path()).args([
        "build",
        "--state-dir=state",
        &format!("--registry-mirror={}", registry.address()),
        directory.path().to_str().unwrap(),
    ]));
    built.succeeded();
    crate::faults::nothing_is_left(&elsewhere.path().join("state"));
    assert_eq!(std::fs::read_dir(elsewhere.path().join("state/cofferdam/roots")).unwrap().count(), 1);

    // Who keeps none takes none away either.
    let built = run(cofferdam.command().env("CI_PROJECT_DIR", elsewhere.path()).args([
        "build",
        "--no-cache",
        &format!("--state-dir={}", elsewhere.path().join("state").display()),
        &format!("--registry-mirror={}", registry.address()),
        directory.path().to_str().unwrap(),
    ]));
    built.succeeded();
    crate::faults::nothing_is_left(&elsewhere.path().join("state"));
    assert_eq!(std::fs::read_dir(elsewhere.path().join("state/cofferdam/roots")).unwrap().count(), 1);

    let project = tempfile::tempdir().unwrap();
    let state = project.path().join(".cofferdam");
    let built = run(cofferdam.command().env("CI_PROJECT_DIR", project.path()).args([
        "build",
        &format!("--state-dir={}", state.display()),
        &format!("--registry-mirror={}", registry.address()),
        directory.path().to_str().unwrap(),
    ]));
    built.succeeded();
    crate::faults::nothing_is_left(&state);
    assert_eq!(std::fs::read_dir(state.join("cofferdam/roots")).unwrap().count(), 0);
}
