//! What a Dockerfile means is what BuildKit makes of it: each case is built by both and the images compared, layer by
//! layer and name by name, and their configurations.
//!
//! Contents, kinds, owners, modes, attributes and whiteouts have to be equal. Times are not compared: BuildKit's are
//! those of the machine. What is deliberately another is in [`DIFFERENT`], with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::LazyLock;

use crate::support::{Build, BuildKit, Cofferdam, Layer, Registry, comparable_config, layers};
use rstest::rstest;

/// Registry and daemon for all cases: each build is small, starting them is not.
pub(super) struct Judge {
    pub(super) registry: Registry,
    pub(super) buildkit: BuildKit,
}

pub(super) static JUDGE: LazyLock<Judge> = LazyLock::new(|| {
    let registry = Registry::start();
    let buildkit = BuildKit::start(&[&registry]);
    Judge { registry, buildkit }
});

/// The files that every case may copy.
pub(super) fn context(directory: &Path) {
    let write = |name: &str, mode: u32, content: &[u8]| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    };
    write("app.py", 0o644, b"print('hello')\n");
    write("run.sh", 0o755, b"#!/bin/sh\necho run\n");
    write("secret.key", 0o600, b"key\n");
    write("src/main.c", 0o644, b"int main(void) { return 0; }\n");
    write("src/lib/util.c", 0o664, b"/* */\n");
    write("src/lib/util.h", 0o640, b"#pragma once\n");
    write("docs/a.md", 0o644, b"a\n");
    write("docs/b.md", 0o644, b"b\n");
    write("docs/keep.txt", 0o644, b"keep\n");
    write(".dockerignore", 0o644, b"docs/*.md\n!docs/b.md\nDockerfile\n");
    std::fs::create_dir(directory.join("empty")).unwrap();
    symlink("app.py", directory.join("link.py")).unwrap();
    symlink("nowhere", directory.join("dangling")).unwrap();
    symlink("src", directory.join("source")).unwrap();
    std::fs::hard_link(directory.join("app.py"), directory.join("src/same.py")).unwrap();
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        std::fs::File::create(directory.join("files.tar.gz")).unwrap(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o4755);
    header.set_uid(12);
    header.set_gid(34);
    archive.append_data(&mut header, "in/side", b"abc".as_slice()).unwrap();
    archive.into_inner().unwrap().finish().unwrap();
    for path in walk(directory) {
        if !path.is_symlink() && path.is_dir() {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            let below = if path.is_dir() && !path.is_symlink() { walk(&path) } else { Vec::new() };
            std::iter::once(path).chain(below)
        })
        .collect()
}

const RUN_FILES: &str = r"
FROM debian:bookworm-slim
RUN mkdir -p /a/b/c && touch /a/b/f && chmod 2750 /a/b && chown 12:34 /a/b/f && chmod 4711 /a/b/f
RUN mknod /a/null c 1 3 && mknod /a/disk b 8 1 && mkfifo -m 600 /a/pipe && chown 5:6 /a/null
RUN ln -s ../target /a/link && ln /a/b/f /a/b/hard && chown -h 7:8 /a/link
";
const RUN_REMOVE: &str = r"
FROM debian:bookworm-slim
RUN mkdir -p /d/x/y /e && echo 1 > /d/x/1 && echo 2 > /d/x/y/2 && echo 3 > /e/3 && ln /d/x/1 /d/hard
RUN rm -r /d/x/y && rm /e/3 && rm -r /usr/share/doc
RUN rm -rf /d/x && mkdir /d/x && echo new > /d/x/new
RUN mv /d /f && echo more >> /f/x/new
RUN rm -r /f/x && touch /f/x && rm /etc/passwd && mkdir /etc/passwd
";
const RUN_CHANGE: &str = r"
FROM debian:bookworm-slim
RUN echo more >> /etc/issue
RUN chmod 700 /root /opt && chown 1:1 /etc/debian_version /var/mail
RUN touch -d 2001-02-03 /etc/issue && touch /etc/debian_version
RUN chmod 600 /etc/issue && chmod 644 /etc/issue
RUN chown root:root /etc/issue && true
RUN true
";
const RUN_ATTRIBUTES: &str = r#"
FROM python:3.9-slim
RUN touch /a /b && chown 1:1 /b
RUN ["python", "-c", "import os; os.setxattr('/a', 'user.note', b'hi'); os.setxattr('/b', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))"]
RUN chown 2:2 /b
RUN python -c "import os; os.truncate(os.open('/sparse', os.O_CREAT|os.O_RDWR), 3000000); open('/' + 'n' * 200, 'w'); os.makedirs('/' + '/'.join(['deep' * 10] * 10))"
RUN python -c "open(b'/caf\xe9', 'w'); open('/caf\u00e9', 'w')"
"#;
const RUN_USERS: &str = r"
FROM debian:bookworm-slim
RUN groupadd --gid 700 team && useradd --uid 700 --gid 700 --create-home --shell /bin/bash worker
USER worker
RUN whoami > ~/me && id -u >> ~/me && umask >> ~/me && mkdir ~/dir && mktemp -d /tmp/x.XXXXXX > /dev/null; rm -rf /tmp/x.*
RUN touch /etc/forbidden 2> ~/refused; test ! -e /etc/forbidden
WORKDIR /home/worker/made
RUN pwd > here && echo $HOME >> here
USER 700:0
RUN id -g > /home/worker/group
USER root
RUN su worker -c 'touch /home/worker/by-su'
";
const LANGUAGE: &str = r#"
ARG BASE=debian
FROM ${BASE}:bookworm-slim AS base
ARG NAME=world
ENV GREETING="hello $NAME" EMPTY=
ENV SECOND ${GREETING:-x} and ${UNSET:+never}more
LABEL a=1 "b c"='two words' d=$GREETING
WORKDIR /w
WORKDIR inner/../other
RUN echo "$GREETING|$SECOND|$NAME|$EMPTY" > out
SHELL ["/bin/bash", "-eo", "pipefail", "-c"]
RUN echo ${BASH_VERSION%%.*} > shell
RUN <<EOF
echo one > heredoc
echo two >> heredoc
EOF
RUN <<-'EOF' cat > quoted
	$GREETING
	EOF
RUN <<EOF
#!/usr/bin/perl
open(F, '>', '/w/perl'); print F "perl\n";
EOF
COPY <<inline.txt <<"raw.txt" /files/
value: $NAME
inline.txt
value: $NAME
raw.txt
MAINTAINER somebody
VOLUME /data ["/more"]
EXPOSE 80 53/udp 8000-8002
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --retries=2 CMD curl -f localhost
ENTRYPOINT ["/bin/sh", "-c"]
CMD echo $GREETING
ONBUILD RUN echo child
FROM base AS child
RUN ls /w > /listing
"#;
const COPIES: &str = r"
FROM debian:bookworm-slim
COPY app.py run.sh /opt/app/
COPY . /all/
COPY src /src
COPY --chown=12:34 --chmod=640 app.py /new/dir/file.py
COPY --chown=games:users src/lib /lib2/
COPY link.py /links/
COPY source /resolved
COPY docs/*.md /md/
ADD files.tar.gz /unpacked/
ADD --chown=9:9 files.tar.gz /owned/
COPY files.tar.gz /packed/
COPY app.py /etc/issue
COPY empty /empty
COPY src/lib/ /etc/
";
const STAGES: &str = r"
FROM debian:bookworm-slim AS build
RUN mkdir -p /out/bin && cp /bin/true /out/bin/tool && chmod 4755 /out/bin/tool && ln /out/bin/tool /out/bin/other && ln -s tool /out/bin/sym && mknod /out/zero c 1 5 && chown -R 3:4 /out && chmod 4755 /out/bin/tool
FROM scratch AS unused
COPY nothing-there /
FROM scratch
COPY --from=build /out /
COPY --from=build --chown=7 /out/bin/tool /tool
COPY --from=busybox:1 /bin/busybox /bin/busybox
COPY --from=0 /etc/debian_version /etc/
USER 7:8
WORKDIR /home/x
ENTRYPOINT [/tool]
";
const SCRATCH_RUN: &str = r#"
FROM scratch
COPY --from=busybox:1 /bin/busybox /busybox
RUN ["/busybox", "touch", "/made"]
RUN ["/busybox", "mkdir", "-p", "/etc"]
"#;
const WORKDIRS: &str = r"
FROM debian:bookworm-slim
RUN mkdir -p /real && ln -s /real /link && useradd -u 500 me
USER me
WORKDIR /var/made/by/me
WORKDIR /link/inside
USER root
WORKDIR /link/second
WORKDIR ..
RUN pwd > /where
";
const APT: &str = r"
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends cron && rm -rf /var/lib/apt/lists/*
";

const MOUNTS: &str = r#"
FROM debian:bookworm-slim AS files
RUN mkdir -p /out/sub && echo one > /out/one && chown 12:34 /out/one && chmod 640 /out/one && chmod 2750 /out/sub && ln -s one /out/link && ln /out/one /out/hard
FROM debian:bookworm-slim
WORKDIR /work
ARG WHERE=bound
RUN --mount=type=bind,source=src,target=/$WHERE stat -c '%n %a %u:%g %F' /bound /bound/* /bound/lib/* > /bind
RUN --mount=source=src,target=/bound exec 2>> /bind; echo x > /bound/new; echo x >> /bound/main.c; rm /bound/main.c; chmod 700 /bound/lib; mkdir /bound/lib /bound/m; mv /bound/main.c /bound/x; touch /bound/main.c; chown 1 /bound/main.c; ln /bound/main.c /bound/h; ln /bound/main.c /h; rmdir /bound; mv /bound /b; test -w /bound/main.c || echo ro >&2
RUN --mount=source=link.py,target=single.py,rw stat -c '%n %a %u:%g %F' single.py >> /bind && cat single.py >> /bind && echo more >> single.py && cat single.py > copied
RUN --mount=from=files,source=/out,target=/stage stat -c '%n %a %u:%g %F' /stage /stage/* > /stage.txt
RUN --mount=from=files,source=/out,target=/stage,rw rm /stage/one && echo 2 > /stage/two && ls /stage >> /stage.txt
RUN --mount=from=busybox:1,source=/bin/busybox,target=/usr/local/bin/busybox busybox echo from an image > /image
RUN --mount=type=cache,target=/cache/a,uid=7,gid=8,mode=0711 exec 2>&1 > /cache.txt; stat -c '%n %a %u:%g' /cache /cache/a; echo kept > /cache/a/kept; ln /cache/a/kept /hard; mv /cache/a/kept /cache/a/there; rmdir /cache/a; mkdir /cache/b; true
RUN --mount=type=cache,id=/cache/a,target=/elsewhere,uid=7,gid=8,mode=0711 ls -n /elsewhere | cut -c1-20 >> /cache.txt; cat /elsewhere/there >> /cache.txt
RUN --mount=type=cache,target=/cache/a ls /cache/a >> /cache.txt
RUN --mount=type=tmpfs,target=fs stat -c '%n %a %u:%g %F' fs > /tmpfs.txt; touch fs/x; ls -A fs >> /tmpfs.txt
RUN --mount=type=tmpfs,target=/outer --mount=type=tmpfs,target=/outer/a/b cd /outer/a/b && pwd > /nested && cd .. && pwd >> /nested && ls >> /nested && touch b/x ../y && ls -A /outer b >> /nested; rmdir b 2>> /nested; mv /outer/a/b /outer/c 2>> /nested; true
RUN --mount=type=tmpfs,target=/made/on/the/way touch /made/on/stays
RUN --mount=type=secret,id=token exec > /secret.txt 2>&1; stat -c '%n %a %u:%g %F' /run/secrets /run/secrets/token; cat /run/secrets/token; echo x > /run/secrets/token; rm /run/secrets/token; chmod 777 /run/secrets/token; true
RUN --mount=type=secret,id=token,target=/etc/token,mode=0440,uid=5,gid=6 --mount=type=secret,id=token,env=TOKEN stat -c '%n %a %u:%g' /etc/token >> /secret.txt; echo "$TOKEN" >> /secret.txt
RUN --mount=type=secret,id=token,target=relative ls / /work >> /secret.txt
RUN --mount=type=secret,id=absent ls -A /run >> /secret.txt
RUN --mount=type=secret,id=absent,env=ABSENT echo "${ABSENT-unset}" >> /secret.txt
RUN --mount=type=ssh echo "$SSH_AUTH_SOCK" > /ssh.txt; ls -A /run >> /ssh.txt
RUN --mount=type=ssh,id=other,target=/agent echo "$SSH_AUTH_SOCK" >> /ssh.txt
USER games
RUN --mount=type=secret,id=token cat /run/secrets/token > /tmp/read 2>&1; true
RUN --mount=type=secret,id=token,uid=5 cat /run/secrets/token > /tmp/read 2>&1
RUN --mount=type=tmpfs,target=/x --mount=type=cache,target=/y exec > /tmp/games 2>&1; touch /x/a && stat -c %u:%g /x/a; touch /y/a; true
"#;

/// What is another in our layers, and why: the case's first step, the layer, the name.
const DIFFERENT: [(&str, usize, &str); 5] = [
    // A new name for a file of a lower layer: both names are written, as Docker's overlay does, and stay one file.
    // BuildKit writes the new name as a file of its own.
    (RUN_FILES, 3, "a/b/f"),
    (RUN_FILES, 3, "a/b/hard"),
    // A mode that was changed and changed back: the file may have changed too, and is written. BuildKit looks at size
    // and time alone.
    (RUN_CHANGE, 4, "etc"),
    (RUN_CHANGE, 4, "etc/issue"),
    // BuildKit loses attributes of users.
    (RUN_ATTRIBUTES, 3, "a"),
];

/// Names whose content is another in each run.
const CHANGING: [&str; 8] = [
    "var/log/",
    "var/cache/",
    "var/lib/dpkg/status-old",
    "etc/ld.so.cache",
    "var/lib/apt/extended_states",
    "etc/shadow",
    "etc/shadow-",
    "var/lib/apt/",
];

#[rstest]
#[case::run_files(RUN_FILES)]
#[case::run_remove(RUN_REMOVE)]
#[case::run_change(RUN_CHANGE)]
#[case::run_attributes(RUN_ATTRIBUTES)]
#[case::run_users(RUN_USERS)]
#[case::language(LANGUAGE)]
#[case::copies(COPIES)]
#[case::stages(STAGES)]
#[case::scratch_run(SCRATCH_RUN)]
#[case::workdirs(WORKDIRS)]
#[case::apt(APT)]
#[case::mounts(MOUNTS)]
fn is_what_buildkit_makes(#[case] dockerfile: &str) {
    let directory = tempfile::tempdir().unwrap();
    context(directory.path());
    std::fs::write(directory.path().join("Dockerfile"), dockerfile.trim_start()).unwrap();
    compare(&JUDGE, directory.path(), dockerfile);
}

/// A stage that begins with the files of a directory.
#[test]
fn a_directory_as_a_base_is_what_buildkit_makes() {
    let directory = tempfile::tempdir().unwrap();
    context(directory.path());
    let dockerfile = "FROM files AS one\nCOPY app.py /new/\nENV A=b\nFROM one\nCOPY --from=files src /again\nFROM other\nCOPY --from=1 /again /again\n";
    std::fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    compare_with(&JUDGE, directory.path(), dockerfile, &["files", "other"]);
}

pub(super) fn compare(judge: &'static Judge, context: &Path, dockerfile: &str) {
    compare_with(judge, context, dockerfile, &[]);
}

/// `named` are the names that the context has besides.
fn compare_with(
    Judge { registry, buildkit }: &'static Judge,
    context: &Path,
    dockerfile: &str,
    named: &[&str],
) {
    let case = context.file_name().unwrap().to_string_lossy().trim_start_matches('.').to_lowercase();
    let (theirs, ours) = (&*format!("theirs/{case}:1"), &*format!("ours/{case}:1"));
    let of_names = |build: Build<'static>, name: &&str| {
        let local = format!("--local={name}={}", context.display());
        build.option(&local).option(&format!("--opt=context:{name}=local:{name}"))
    };
    named
        .iter()
        .fold(buildkit.build(context), of_names)
        .push(&registry.reference(theirs))
        .option(&format!("--secret=id=token,src={}", context.join("secret.key").display()))
        .run()
        .unwrap_or_else(|log| panic!("BuildKit cannot build it:\n{log}"));
    let cofferdam = Cofferdam::new();
    cofferdam
        .command()
        .args(["build", "--push", "--progress=plain"])
        .arg(format!("--secret=id=token,src={}", context.join("secret.key").display()))
        .arg(format!("--tag={}", registry.reference(ours)))
        .arg(format!("--registry-mirror=docker.io=http://{}", registry.address()))
        .args(named.iter().map(|name| format!("--build-context={name}={}", context.display())))
        .arg(context)
        .assert()
        .success();
    let (mut their_config, mut our_config) = (registry.config(theirs), registry.config(ours));
    if !named.is_empty() {
        // A base that is a directory has an entry of its own in our history, and none in BuildKit's.
        for config in [&mut their_config, &mut our_config] {
            config["history"] = serde_json::json!([]);
        }
    }
    let pretty = |config| serde_json::to_string_pretty(&comparable_config(config)).unwrap();
    let (their_config, our_config) = (pretty(their_config), pretty(our_config));
    let changed: Vec<String> = (their_config.lines().zip(our_config.lines()))
        .filter(|(theirs, ours)| theirs != ours)
        .map(|(theirs, ours)| format!("theirs {theirs}\nours   {ours}"))
        .collect();
    assert!(their_config == our_config, "the configurations differ:\n{}", changed.join("\n"));
    let (their_layers, our_layers) = (layers(registry, theirs), layers(registry, ours));
    assert_eq!(their_layers.len(), our_layers.len(), "the number of layers");
    let mut differences = Vec::new();
    for (number, (theirs, ours)) in their_layers.iter().zip(&our_layers).enumerate() {
        let is_meant = |name: &str| DIFFERENT.contains(&(dockerfile, number, name));
        let found = differ(theirs, ours).into_iter().filter(|(name, _)| !is_meant(name));
        differences.extend(found.map(|(name, text)| format!("layer {number}: /{name}: {text}")));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// What is not equal in two layers.
pub(super) fn differ(theirs: &Layer, ours: &Layer) -> Vec<(String, String)> {
    let (theirs, ours) = (normal(theirs), normal(ours));
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    names
        .into_iter()
        .filter(|name| theirs.get(*name) != ours.get(*name))
        .map(|name| (name.clone(), format!("theirs {:?}, ours {:?}", theirs.get(name), ours.get(name))))
        .collect()
}

/// A layer without times and what changes in each run, and with hard links told as sets: which of the names of a file
/// comes first means nothing.
fn normal(layer: &Layer) -> BTreeMap<String, String> {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, node) in layer.iter().filter(|(_, node)| node.kind == "link") {
        groups.entry(&node.content).or_default().insert(name);
    }
    for (target, names) in &mut groups {
        names.insert(target);
    }
    let mut normal = BTreeMap::new();
    for (name, node) in layer {
        let group = groups.values().find(|names| names.contains(name.as_str()));
        let node = match node.kind.as_str() {
            "link" => layer.get(&node.content).unwrap_or(node),
            _ => node,
        };
        let changing = CHANGING.iter().any(|prefix| name.starts_with(prefix)) && node.kind == "file";
        let content = if changing { "changing" } else { &node.content };
        let text = format!(
            "{} {:o} {}:{} {content} {:?} {group:?}",
            node.kind, node.mode, node.uid, node.gid, node.xattrs
        );
        normal.insert(name.clone(), text);
    }
    normal
}
