//! Several platforms in one build: the files of each, what cannot hold several, and what is told once.

use std::path::Path;

use super::{build, context, differential};
use crate::support::{Cofferdam, Layer, Registry, read_layer};

/// A link, a directory, owners and modes, and a file that is another for each.
const DOCKERFILE: &str = r"
FROM --platform=$BUILDPLATFORM busybox:1 AS made
RUN mkdir -p /out/d && echo one > /out/one && ln /out/one /out/d/same && ln -s one /out/link && chown 3:4 /out/one && chmod 2750 /out/d
FROM scratch
ARG TARGETARCH
COPY --from=made /out /
COPY --chmod=700 app-$TARGETARCH /bin/app
";
const FILES: [(&str, &str); 2] = [("app-amd64", "amd64"), ("app-arm64", "arm64")];
const TWO: &str = "linux/arm64,linux/amd64";

/// The files of an archive without times, which are the clock's, and with hard links as what they are to everyone but tar: one
/// file of several names.
fn files(archive: &Path) -> Vec<String> {
    let files = read_layer(std::fs::File::open(archive).unwrap());
    let line = |(name, node): (&String, &_)| {
        let node: &crate::support::Node = node;
        let is = if node.kind == "link" { &files[&node.content] } else { node };
        let names = names_of(&files, name);
        format!("{name} {} {:o} {}:{} {} {names:?}", is.kind, is.mode, is.uid, is.gid, is.content)
    };
    files.iter().map(line).collect()
}

/// All names of the file that is called `name`.
fn names_of<'a>(files: &'a Layer, name: &'a str) -> Vec<&'a str> {
    let first = if files[name].kind == "link" { &files[name].content } else { name };
    let others = files.iter().filter(|(_, node)| node.kind == "link" && node.content == first);
    let mut names: Vec<&str> = others.map(|(name, _)| name.as_str()).chain([first]).collect();
    names.sort_unstable();
    names
}

#[test]
fn an_archive_of_files_is_what_buildkit_makes() {
    let differential::Judge { registry, buildkit } = &*differential::JUDGE;
    let (tree, cofferdam) = (context(DOCKERFILE, &FILES), Cofferdam::new());
    for platforms in [TWO, "linux/amd64"] {
        let (theirs, ours) = (cofferdam.home().join("theirs.tar"), cofferdam.home().join("ours.tar"));
        buildkit
            .build(tree.path())
            .option(&format!("--output=type=tar,dest={}", theirs.display()))
            .option(&format!("--opt=platform={platforms}"))
            .run()
            .unwrap_or_else(|log| panic!("BuildKit cannot build it:\n{log}"));
        let output = format!("--output=type=tar,dest={}", ours.display());
        let platform = format!("--platform={platforms}");
        build(&cofferdam, registry, tree.path(), &[&platform, &output]).succeeded();
        assert_eq!(files(&theirs), files(&ours), "{platforms}");
        // The same bytes again, whatever is in the cache.
        let bytes = std::fs::read(&ours).unwrap();
        let epoch = "--build-arg=SOURCE_DATE_EPOCH=1700000000";
        let again = |options: &[&str]| {
            build(&cofferdam, registry, tree.path(), &[options, &[&platform, &output, epoch]].concat())
                .succeeded();
            std::fs::read(&ours).unwrap()
        };
        let first = again(&[]);
        assert!(!first.is_empty() && first != bytes && first == again(&["--no-cache"]));
    }
}

/// `docker load` takes one: BuildKit's exporter refuses it, too.
#[test]
fn an_archive_for_docker_holds_one_platform() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let tree = context(DOCKERFILE, &FILES);
    let output = format!("--output=type=docker,dest={}", cofferdam.home().join("x.tar").display());
    let flags = [&format!("--platform={TWO}"), "--tag=x:1", &output];
    build(&cofferdam, &registry, tree.path(), &flags)
        .failed(2, &["`type=docker` holds one platform, and there are 2", "write `type=oci`"]);
    build(&cofferdam, &registry, tree.path(), &["--platform=windows/amd64"]).failed(2, &["Windows"]);
}

/// What holds for all platforms is told once, and what holds for one is told of it.
#[test]
fn warnings_are_told_once() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let dockerfile = "
FROM scratch AS base-amd64
FROM scratch AS base-arm64
ENV legacy form
FROM base-$TARGETARCH
MAINTAINER somebody
COPY app-amd64 /$undefined
";
    let tree = context(dockerfile, &FILES);
    let flags = [&format!("--platform={TWO}"), "--build-arg=UNUSED=1", "--no-cache-filter=nobody"];
    let ran = build(&cofferdam, &registry, tree.path(), &flags).succeeded();
    for text in [
        "[MaintainerDeprecated]",
        "[UndefinedVar]",
        "[LegacyKeyValueFormat]",
        "the build argument `UNUSED` is not used",
        "no stage is called `nobody`",
    ] {
        assert_eq!(ran.stderr.matches(text).count(), 1, "{text}: {}", ran.stderr);
    }
}
