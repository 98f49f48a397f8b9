//! What goes wrong is said: where, what, whose fault, and what to do about it; with the exit status that is documented.

use crate::support::{Cofferdam, Registry, TestImage};
use crate::{Ran, build, context, run};

fn fails(dockerfile: &str, files: &[(&str, &str)], status: i32, says: &[&str]) -> Ran {
    let registry = Registry::start();
    let directory = context(dockerfile, files);
    let ran = build(&Cofferdam::new(), &registry, directory.path(), &[]);
    ran.failed(status, says);
    assert_eq!(ran.stdout, "", "nothing is printed that could be taken for a digest");
    ran
}

#[test]
fn a_missing_file_is_named_and_so_is_what_hides_it() {
    let files = [("app.py", ""), ("docs/a.md", ""), (".dockerignore", "*.txt\ndocs/*.md\n")];
    fails(
        "FROM scratch\nCOPY aap.py /\n",
        &files,
        3,
        &["Dockerfile:2", "`aap.py`", "COPY aap.py /", "`app.py`"],
    );
    fails(
        "FROM scratch\nCOPY docs/a.md /\n",
        &files,
        3,
        &["`docs/a.md`", ".dockerignore", "line 2", "docs/*.md"],
    );
    fails("FROM scratch\nCOPY ../outside /\n", &files, 3, &["`../outside`"]);
}

#[test]
fn an_unknown_instruction_is_a_suggestion() {
    fails("FROM scratch\nCOYP a /\n", &[("a", "")], 3, &["Dockerfile:2", "`COYP`", "COPY"]);
    fails("FROM scratch\nCOPY --chwon=1 a /\n", &[("a", "")], 3, &["`--chwon", "--chown"]);
    // It could be an image, so the registry is asked.
    fails("FROM scratch AS base\nFROM bsae\n", &[], 6, &["Dockerfile:2", "bsae", "there is a stage `base`"]);
}

#[test]
fn what_is_not_supported_is_an_error_that_says_so() {
    fails(
        "# syntax=example.com/my/frontend\nFROM scratch\n",
        &[],
        3,
        &["Dockerfile:1", "example.com/my/frontend"],
    );
    let line = "RUN --device=vendor.com/class true";
    fails(&format!("FROM busybox:1\n{line}\n"), &[], 3, &["Dockerfile:2", "not supported", line]);
}

#[test]
fn a_wrong_base_is_said_with_its_place() {
    let registry = Registry::start();
    let name = registry.reference("library/debian:bookworm-slimm");
    let directory = context(&format!("FROM {name}\nRUN true\n"), &[]);
    let ran = build(&Cofferdam::new(), &registry, directory.path(), &[]);
    ran.failed(13, &[&name, "404", "Dockerfile:1", "FROM 127."]);
    fails("FROM --platform=linux/s390x debian:bookworm-slim\n", &[], 13, &["linux/s390x", "linux/amd64"]);
}

#[test]
fn wrong_credentials_name_host_place_and_status() {
    let registry = Registry::options().user("robot", "secret").start();
    let cofferdam = Cofferdam::new();
    let directory = context("FROM scratch\nCOPY a /\n", &[("a", "")]);
    let tag = format!("--tag={}", registry.reference("x/y:1"));
    std::fs::create_dir_all(cofferdam.home().join(".docker")).unwrap();
    // robot:wrong
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"cm9ib3Q6d3Jvbmc="}}}}}}"#, registry.address());
    std::fs::write(cofferdam.home().join(".docker/config.json"), config).unwrap();
    let ran = build(&cofferdam, &registry, directory.path(), &[&tag, "--push"]);
    ran.failed(7, &[registry.address(), ".docker/config.json", "401", "robot"]);
    assert!(!ran.stderr.contains("wrong") && !ran.stderr.contains("cm9ib3Q6d3Jvbmc"), "{}", ran.stderr);
    // It was found out before any step was executed.
    assert!(!ran.stderr.contains("COPY a / in"), "{}", ran.stderr);
}

#[test]
fn a_failing_run_says_where_how_and_what_it_wrote_last() {
    let script =
        "FROM busybox:1\nRUN true\nRUN for i in 1 2 3; do echo line $i; done; echo oops >&2; exit 42\n";
    let ran = fails(script, &[], 4, &["Dockerfile:3", "exit code 42", "line 3", "oops"]);
    // Its output is told as it comes, too, with the step's number.
    assert!(
        ran.stderr.lines().any(|line| line.starts_with("#2 ") && line.ends_with("line 1")),
        "{}",
        ran.stderr
    );
    fails("FROM busybox:1\nRUN kill -9 $$\n", &[], 4, &["Dockerfile:2", "SIGKILL"]);
    fails("FROM busybox:1\nRUN [\"/missing\", \"x\"]\n", &[], 4, &["/missing", "no such program"]);
    fails("FROM busybox:1\nUSER nobody-here\nRUN true\n", &[], 3, &["nobody-here"]);
    fails("FROM busybox:1\nWORKDIR /etc/passwd\n", &[], 3, &["Dockerfile:2", "/etc/passwd"]);
    fails("FROM busybox:1\nCOPY --chown=nobody-here a /\n", &[("a", "")], 3, &["nobody-here"]);
}

#[test]
fn the_steps_before_a_failure_are_not_done_twice() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let broken = context("FROM busybox:1\nRUN echo once\nRUN false\n", &[]);
    build(&cofferdam, &registry, broken.path(), &[]).failed(4, &["exit code 1"]);
    std::fs::write(broken.path().join("Dockerfile"), "FROM busybox:1\nRUN echo once\nRUN true\n").unwrap();
    let mended = build(&cofferdam, &registry, broken.path(), &[]).succeeded();
    assert!(mended.stderr.contains("2 steps, 1 cached"), "{}", mended.stderr);
}

/// A layer that would write outside the root if its names were believed.
fn hostile(entries: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, target, content) in entries {
        let mut header = tar::Header::new_gnu();
        // The library refuses such names; the bytes of the header do not.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o666);
        header.set_size(content.len() as u64);
        if kind.is_character_special() {
            header.set_device_major(1).unwrap();
            header.set_device_minor(1).unwrap();
        }
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn a_hostile_layer_touches_nothing_outside() {
    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "intact").unwrap();
    let at = outside.path().to_str().unwrap();
    let through = format!("{at}/victim");
    let cases: [(&str, Vec<u8>, Option<i32>); 6] = [
        ("dots", hostile(&[("../../../../../../../../victim", Regular, "", b"x")]), Some(11)),
        ("absolute link", hostile(&[("d", Symlink, at, b""), ("d/victim", Regular, "", b"x")]), None),
        (
            "relative link",
            hostile(&[
                ("d", Symlink, "../../../../../../../../../..", b""),
                (&format!("d{through}"), Regular, "", b"x"),
            ]),
            None,
        ),
        ("hard link", hostile(&[("h", Link, &through, b"")]), Some(11)),
        ("hard link with dots", hostile(&[("h", Link, "../../../../../etc/passwd", b"")]), Some(11)),
        (
            "device in a directory swap",
            hostile(&[("d", Directory, "", b""), ("d", Symlink, at, b""), ("d/victim", Char, "", b"")]),
            None,
        ),
    ];
    for (name, layer, status) in cases {
        let registry = Registry::start();
        TestImage::from("library/busybox:1").layer(&layer).push(&registry, "library/hostile:1");
        let directory = context("FROM hostile:1\nRUN true\n", &[]);
        for cofferdam in [Cofferdam::new(), Cofferdam::as_uid(1000)] {
            let ran = build(&cofferdam, &registry, directory.path(), &[]);
            match status {
                Some(status) => assert_eq!(ran.status, Some(status), "{name}: {}", ran.stderr),
                // A link inside the image may lead anywhere: inside the image.
                None => assert!(matches!(ran.status, Some(0 | 11)), "{name}: {}", ran.stderr),
            }
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "intact", "{name}");
            assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "{name}");
        }
    }
}

#[test]
fn a_damaged_image_is_found_out() {
    let registry = Registry::start();
    let directory = context("FROM scratch\nCOPY a /\n", &[("a", "content")]);
    let cofferdam = Cofferdam::new();
    let tag = format!("--tag={}", registry.reference("x/damaged:1"));
    build(&cofferdam, &registry, directory.path(), &[&tag, "--push"]).succeeded();
    let manifest = registry.manifest("x/damaged:1");
    for blob in [&manifest["layers"][0], &manifest["config"]] {
        damage(&registry, &cofferdam, blob["digest"].as_str().unwrap());
    }
}

/// Changes a bit of a blob on the registry, and then takes the blob away; both have to be found.
fn damage(registry: &Registry, cofferdam: &Cofferdam, digest: &str) {
    let path = registry.blob_path(digest);
    let whole = std::fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    // The one that built it has the right bytes in its store, which must not count.
    for cofferdam in [cofferdam, &Cofferdam::new()] {
        let ran = run(cofferdam.command().args(["validate", &registry.reference("x/damaged:1")]));
        assert_eq!(ran.status, Some(11), "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains(digest) || ran.stdout.contains("configuration"), "{}", ran.stdout);
    }
    std::fs::remove_file(&path).unwrap();
    let ran = run(cofferdam.command().args(["validate", &registry.reference("x/damaged:1")]));
    assert_eq!(ran.status, Some(11), "{}{}", ran.stdout, ran.stderr);
    std::fs::write(&path, whole).unwrap();
}
