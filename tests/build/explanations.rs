//! Why a step is not found, in words: one change at a time, as a person reads of it.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::{Cofferdam, Registry};
use crate::{build, context, run};

const DOCKERFILE: &str = r#"
FROM busybox:1 AS tools
RUN echo tool > /tool

FROM busybox:1
ARG VERSION=1
ENV MODE=fast LEVEL=2
WORKDIR /srv
COPY --chown=1:1 src src
RUN cat src/a > a
RUN <<END
echo b > b
END
COPY --from=tools /tool .
RUN --mount=type=bind,source=conf,target=/conf cat /conf > c
USER 7
RUN echo d > /tmp/d
"#;
const FILES: [(&str, &str); 4] = [("src/a", "a"), ("src/b", "b"), ("src/link-target", ""), ("conf", "c")];

/// What is changed, and how: words of the Dockerfile, files, flags.
enum Change {
    Words(&'static str, &'static str),
    Files(fn(&Path)),
    Flags(&'static [&'static str]),
}

use Change::{Files, Flags, Words};

fn changes() -> Vec<(&'static str, Change)> {
    vec![
        ("nothing", Files(|_| {})),
        ("the time of a file", Files(|tree| write(tree, "src/a", "a"))),
        ("the content of a file", Files(|tree| write(tree, "src/a", "other"))),
        (
            "the contents of two files",
            Files(|tree| {
                write(tree, "src/a", "other");
                write(tree, "src/b", "other");
            }),
        ),
        ("the mode of a file", Files(|tree| mode(tree, "src/a", 0o700))),
        ("the mode of a directory", Files(|tree| mode(tree, "src", 0o700))),
        ("a new file", Files(|tree| write(tree, "src/new", ""))),
        ("a new empty directory", Files(|tree| std::fs::create_dir(tree.join("src/new")).unwrap())),
        ("a file that is gone", Files(|tree| std::fs::remove_file(tree.join("src/b")).unwrap())),
        (
            "a file that has become a link",
            Files(|tree| {
                std::fs::remove_file(tree.join("src/a")).unwrap();
                symlink("link-target", tree.join("src/a")).unwrap();
            }),
        ),
        ("a file that is ignored", Files(|tree| write(tree, ".dockerignore", "src/b\n"))),
        ("a file of a mount", Files(|tree| write(tree, "conf", "other"))),
        ("a command", Words("cat src/a > a", "cat src/a > other")),
        ("a script", Words("echo b > b", "echo other > b")),
        ("the value of an ENV", Words("MODE=fast", "MODE=slow")),
        ("a new ENV", Words("LEVEL=2", "LEVEL=2 NEW=1")),
        ("an ENV that is gone", Words(" LEVEL=2", "")),
        ("a build argument", Flags(&["--build-arg=VERSION=2"])),
        ("the default of an argument", Words("VERSION=1", "VERSION=3")),
        ("a user", Words("USER 7", "USER 8")),
        ("a directory", Words("WORKDIR /srv", "WORKDIR /opt")),
        ("the owner of copied files", Words("--chown=1:1", "--chown=2:1")),
        ("the mode of copied files", Words("--chown=1:1", "--chown=1:1 --chmod=755")),
        ("where files are copied to", Words("src src", "src other")),
        ("which files are copied", Words("COPY --chown=1:1 src src", "COPY --chown=1:1 src/a src")),
        ("what is left out", Words("--chown=1:1", "--chown=1:1 --exclude=b")),
        ("a stage that files are taken from", Words("echo tool", "echo other")),
        ("where a mount is", Words("target=/conf cat /conf", "target=/other cat /other")),
        ("another mount", Words("target=/conf", "target=/conf --mount=type=cache,target=/cache")),
        ("the network", Words("RUN cat src", "RUN --network=none cat src")),
        ("the shell", Words("ARG VERSION=1", "SHELL [\"/bin/ash\", \"-c\"]\nARG VERSION=1")),
        ("the base image", Words("FROM busybox:1\nARG", "FROM python:3.9-slim\nARG")),
        ("another step before", Words("RUN cat src", "RUN echo new\nRUN cat src")),
        ("how layers are compressed", Flags(&["--compression=zstd"])),
        ("the latest time", Flags(&["--build-arg=SOURCE_DATE_EPOCH=1700000000"])),
        ("no cache", Flags(&["--no-cache"])),
        ("a label", Words("USER 7", "LABEL a=b\nUSER 7")),
    ]
}

fn write(tree: &Path, name: &str, content: &str) {
    std::fs::write(tree.join(name), content).unwrap();
}

fn mode(tree: &Path, name: &str, mode: u32) {
    std::fs::set_permissions(tree.join(name), PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_miss_says_what_has_changed() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let place = tempfile::tempdir().unwrap();
    // The same path each time: a step is remembered by where its Dockerfile lies.
    let tree = place.path().join("tree");
    let fill = |dockerfile: &str| {
        let fresh = context(dockerfile, &FILES);
        let _ = std::fs::remove_dir_all(&tree);
        std::fs::rename(fresh.keep(), &tree).unwrap();
        for (path, bits) in [("", 0o755), ("src", 0o755), ("src/a", 0o644), ("src/b", 0o644)] {
            mode(&tree, path, bits);
        }
    };
    fill(DOCKERFILE);
    build(&cofferdam, &registry, &tree, &[]).succeeded();
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    let mut said = String::new();
    for (name, change) in changes() {
        let mut flags: &[&str] = &[];
        match change {
            Words(before, after) => {
                assert!(DOCKERFILE.contains(before), "{before}");
                fill(&DOCKERFILE.replace(before, after));
            }
            Files(change) => {
                fill(DOCKERFILE);
                change(&tree);
            }
            Flags(given) => {
                fill(DOCKERFILE);
                flags = given;
            }
        }
        let why = run(cofferdam.command().args(["cache", "why", &mirror]).args(flags).arg(&tree)).succeeded();
        writeln!(said, "== {name}").unwrap();
        let mut lines = why.stdout.lines().peekable();
        while let Some(head) = lines.next() {
            let mut rest = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
                rest.push(line);
            }
            // Of steps behind the first nothing is to be read that is not said of all of them.
            if rest[0].contains("carried out") && !rest[0].contains("a step before it") {
                writeln!(said, "{head}\n{}", rest.join("\n")).unwrap();
            }
        }
    }
    insta::assert_snapshot!(without_digests(&said));
}

/// Digests and versions differ from one make of the base images to the next.
fn without_digests(text: &str) -> String {
    let masked = text.lines().map(|line| {
        let changing = ["    the stage that it takes files from: ", "    environment PYTHON_VERSION: new, "];
        match changing.iter().find(|start| line.starts_with(*start)) {
            Some(start) => format!("{start}…\n"),
            None => format!("{}\n", without_digest_of_base(line)),
        }
    });
    masked.collect()
}

/// Base images are made anew on each machine.
fn without_digest_of_base(line: &str) -> String {
    let is_base = line.starts_with("    the base image: ");
    let word = |word: &str| match word.split_once("@sha256:") {
        Some((name, digest)) if is_base && digest.len() == 64 => format!("{name}@…"),
        _ => word.to_owned(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn values_of_secret_like_variables_are_in_no_log() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let tree = context("FROM busybox:1\nARG NPM_TOKEN MODE\nRUN echo 1 > /a\n", &[]);
    let given = |token: &str, mode: &str| {
        [format!("--build-arg=NPM_TOKEN={token}"), format!("--build-arg=MODE={mode}")]
    };
    let [token, mode] = given("first-value", "fast");
    build(&cofferdam, &registry, tree.path(), &[&token, &mode]).succeeded();
    let [token, mode] = given("second-value", "slow");
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    let why = ["cache", "why", "--format=json", &mirror, &token, &mode];
    let why = run(cofferdam.command().args(why).arg(tree.path())).succeeded().stdout;
    let log = build(&cofferdam, &registry, tree.path(), &[&token, &mode]).succeeded().stderr;
    for said in [&why, &log] {
        assert!(!said.contains("first-value") && !said.contains("second-value"), "{said}");
        assert!(said.contains("environment NPM_TOKEN"), "{said}");
        assert!(said.contains("fast") && said.contains("slow"), "{said}");
    }
    // Nor are they where the fields of keys are kept.
    let records = crate::faults::state_directory(&cofferdam);
    let found =
        std::process::Command::new("grep").args(["-rl", "fast\\|slow"]).arg(&records).output().unwrap();
    let kept = String::from_utf8_lossy(&found.stdout).lines().filter(|path| path.contains("traces")).count();
    assert!(kept > 0, "no field of a key is in {}", records.display());
    let found =
        std::process::Command::new("grep").args(["-rl", "second-value"]).arg(&records).output().unwrap();
    let leaks = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(!leaks.contains("traces"), "{leaks}");
}

#[test]
fn what_is_not_looked_up_or_too_old_is_not_called_lost() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let dockerfile = "FROM busybox:1 AS tools\nRUN date > /tool\nFROM busybox:1\nCOPY --from=tools /tool /\nRUN cat /tool\n";
    let tree = context(dockerfile, &[]);
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    let why = |flag: &str| {
        let mut command = cofferdam.command();
        run(command.args(["cache", "why", &mirror, flag]).arg(tree.path())).succeeded().stdout
    };
    build(&cofferdam, &registry, tree.path(), &[]).succeeded();
    let said = why("--no-cache-filter=tools");
    assert_eq!(said.matches("not looked up, as `--no-cache-filter` has it").count(), 3, "{said}");
    std::thread::sleep(std::time::Duration::from_millis(5100));
    let said = why("--cache-ttl=1s");
    assert_eq!(said.matches("its result is older than `--cache-ttl`").count(), 3, "{said}");
    // A step whose result is there, above one that is not.
    std::fs::write(tree.path().join("Dockerfile"), format!("{dockerfile}RUN echo 1\n")).unwrap();
    build(&cofferdam, &registry, tree.path(), &[]).succeeded();
    let log = build(&cofferdam, &registry, tree.path(), &["--cache-ttl=4s"]).succeeded().stderr;
    assert!(log.contains("its result is older than `--cache-ttl`"), "{log}");
    assert!(log.contains("its result was made above other layers"), "{log}");
    assert!(!log.contains("no longer in the cache"), "{log}");
}

#[test]
fn steps_of_two_projects_are_not_taken_for_one_anothers() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let trees = ["a", "b"].map(|name| context(&format!("FROM busybox:1\nRUN echo {name} > /x\n"), &[]));
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    let within = |tree: &Path, verb: &[&str]| {
        let mut command = cofferdam.command();
        run(command.current_dir(tree).args(verb).args([&mirror, "."])).succeeded()
    };
    for tree in &trees {
        within(tree.path(), &["build"]);
    }
    write(trees[0].path(), "Dockerfile", "FROM busybox:1\nRUN echo other > /x\n");
    let said = within(trees[0].path(), &["cache", "why"]).stdout;
    assert!(said.contains("command: /bin/sh -c echo a > /x -> "), "{said}");
    // The same by its full name.
    let said =
        run(cofferdam.command().args(["cache", "why", &mirror]).arg(trees[0].path())).succeeded().stdout;
    assert!(said.contains("command: /bin/sh -c echo a > /x -> "), "{said}");
}

#[test]
fn services_of_one_repository_have_traces_of_their_own() {
    let registry = Registry::start();
    let tree = context("FROM scratch\n", &[(".git/HEAD", "")]);
    let cache = format!("--cache-repo={}", registry.reference("group/app/cache"));
    let place = |name: &str| tree.path().join("services").join(name);
    let dockerfile = |name: &str, what: &str| {
        std::fs::create_dir_all(place(name)).unwrap();
        write(&place(name), "Dockerfile", &format!("FROM busybox:1\nRUN echo {what} > /x\n"));
    };
    for name in ["api", "web"] {
        dockerfile(name, name);
        build(&Cofferdam::new(), &registry, &place(name), &[&cache]).succeeded();
    }
    dockerfile("api", "other");
    let log = build(&Cofferdam::new(), &registry, &place("api"), &[&cache]).succeeded().stderr;
    assert!(log.contains("command: /bin/sh -c echo api > /x -> "), "{log}");
}

#[test]
fn a_context_that_is_brought_each_time_is_remembered() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    let piped = |dockerfile: &str| {
        let mut command = cofferdam.command();
        command.args(["build", "--progress=plain", &mirror, "-"]).write_stdin(dockerfile.to_owned());
        run(&mut command).succeeded().stderr
    };
    piped("FROM busybox:1\nRUN echo 1 > /x\n");
    let log = piped("FROM busybox:1\nRUN echo 2 > /x\n");
    assert!(log.contains("command: /bin/sh -c echo 1 > /x -> "), "{log}");
}
