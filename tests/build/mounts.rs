//! `RUN --mount` and `--network`: what steps find, what they leave, and what nobody may find afterwards.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rstest::rstest;

use crate::faults::{nothing_is_left, state_directory};
use crate::support::{Cofferdam, Registry, eventually, layers};
use crate::{build, context, run};

/// As root, and as a user without any privilege.
fn builder(uid: Option<u32>) -> Cofferdam {
    uid.map_or_else(Cofferdam::new, Cofferdam::as_uid)
}

const EACH_KIND: &str = r#"
FROM busybox:1 AS files
RUN mkdir -p /out/sub && echo one > /out/one && chown 12:34 /out/one && chmod 640 /out/one
RUN ln -s one /out/link && mknod /out/zero c 1 5 && echo deep > /out/sub/deep

FROM busybox:1
WORKDIR /work
RUN --mount=target=. test "$(cat a.txt)" = a && test "$(stat -c '%a %u:%g' d/b.sh)" = '755 0:0' && ls / | grep -q work
RUN --mount=target=/c,rw echo changed > /c/a.txt && echo more > /c/new && rm -r /c/d && mkdir /c/x && chown 3 /c/x
RUN --mount=target=/c test "$(ls /c)" = "$(printf 'Dockerfile\na.txt\nd')" && test "$(cat /c/a.txt)" = a
RUN --mount=source=d/b.sh,target=/bin/tool test "$(tool)" = ran && test -f /bin/tool && test ! -h /bin/tool
RUN --mount=target=/c set +e; \
    for command in 'touch /c/new' 'rm /c/a.txt' 'chmod 777 /c/d' 'chown 1 /c/a.txt' 'mkdir /c/m' 'mv /c/a.txt /c/b.txt' \
        'ln /c/a.txt /c/h' 'ln -s x /c/s' 'touch /c/a.txt' 'truncate -s 0 /c/a.txt' 'mkfifo /c/p' 'sh -c "cd /c && echo > d/b.sh"'; do \
        eval "$command" 2> /said && echo "$command is allowed" && exit 1; grep -q 'Read-only' /said || { echo "$command"; cat /said; exit 1; }; \
    done; test "$(cat /c/a.txt)" = a && rm /said
RUN --mount=from=files,source=/out,target=/s test "$(stat -c '%a %u:%g' /s/one)" = '640 12:34' && test "$(cat /s/link)" = one && test -c /s/zero
RUN --mount=from=files,source=out/sub,target=/s,readwrite rm /s/deep && touch /s/mine
RUN --mount=from=files,source=out/sub,target=/s test "$(ls /s)" = deep
RUN --mount=from=busybox:1,source=/bin/busybox,target=/usr/busybox /usr/busybox true
RUN --mount=type=tmpfs,target=/t touch /t/x && test "$(stat -c %a /t)" = 1777 && chown 5 /t/x && test "$(stat -c %u /t/x)" = 5
RUN --mount=type=tmpfs,target=/t test -z "$(ls /t)"
RUN --mount=type=tmpfs,target=/t --mount=type=tmpfs,target=/t/deep/er cd /t/deep/er && test "$(pwd)" = /t/deep/er \
    && cd .. && test "$(pwd)" = /t/deep && test "$(ls)" = er && touch ../up && ls /t | grep -q up \
    && ! rmdir /t/deep/er 2> /dev/null && ! mv /t/deep/er /t/other 2> /dev/null && touch er/in && test -z "$(ls -A / | grep deep)"
RUN --mount=type=cache,target=/k,uid=7,gid=8,mode=0710 test "$(stat -c '%a %u:%g' /k)" = '710 7:8' && echo kept > /k/f && chown 9:9 /k/f \
    && ! ln /k/f /linked 2> /said && grep -qi 'cross-device' /said && rm /said && mv /k/f /k/g && mv /k/g /moved && mv /moved /k/f
RUN --mount=type=cache,id=/k,target=rel,uid=7,gid=8,mode=0710 test "$(stat -c %u:%g /work/rel/f)" = 9:9 && rm -rf /work/rel/* && test -z "$(ls rel)"
RUN --mount=type=cache,from=files,source=/out,target=/k2 test "$(stat -c %u /k2/one)" = 12 && touch /k2/grown && test -c /k2/zero
RUN --mount=type=cache,from=files,source=/out,target=/k2,ro test -e /k2/grown && ! touch /k2/x 2> /dev/null
RUN grep -q ' / ' /proc/self/mountinfo && test ! -e /work/rel && test ! -e /t && test ! -e /c && ! grep -q /k2 /proc/self/mounts
RUN --mount=type=tmpfs,target=/above/t touch /above/stays
RUN --network=none test -e /above/stays && ! wget -q http://127.0.0.1:1/ 2> /said; grep -q 'Address family not supported' /said && rm /said
"#;

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn each_kind_is_what_it_says_and_leaves_nothing(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let directory = context(EACH_KIND, &[("a.txt", "a"), ("d/b.sh", "#!/bin/sh\necho ran\n")]);
    std::fs::set_permissions(directory.path().join("d/b.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    let tag = format!("--tag={}", registry.reference("mounts/kinds:1"));
    build(&cofferdam, &registry, directory.path(), &[&tag, "--push"]).succeeded();
    let all = layers(&registry, "mounts/kinds:1");
    let names: Vec<&String> = all.iter().skip(1).flat_map(|layer| layer.keys()).collect();
    for name in names {
        let expected = ["above", "above/stays", "dev", "proc", "sys", "work", "said", ".wh.said"];
        assert!(expected.contains(&name.as_str()), "{name} is in a layer");
    }
    nothing_is_left(&state_directory(&cofferdam));
    // And a second time nothing is carried out.
    let again = build(&cofferdam, &registry, directory.path(), &[&tag, "--push"]).succeeded();
    assert!(again.stderr.contains("steps, 2") && again.stderr.contains(" cached"), "{}", again.stderr);
}

#[test]
fn a_step_is_made_anew_when_what_it_mounts_has_changed() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let dockerfile = "FROM busybox:1\nRUN --mount=source=a,target=/a cat /a > /b\n";
    let directory = context(dockerfile, &[("a", "1"), ("other", "1")]);
    let build = || build(&cofferdam, &registry, directory.path(), &[]).succeeded();
    build();
    std::fs::write(directory.path().join("other"), "2").unwrap();
    assert!(build().stderr.contains("1 step, 1 cached"));
    std::fs::write(directory.path().join("a"), "2").unwrap();
    assert!(build().stderr.contains("1 step, 0 cached"));
    // The value of a secret is in no key, and neither is whether there is one.
    let dockerfile = "FROM busybox:1\nRUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null || true\n";
    std::fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    build();
    let secret = format!("id=s,src={}", directory.path().join("a").display());
    let given = crate::build(&cofferdam, &registry, directory.path(), &["--secret", &secret]).succeeded();
    assert!(given.stderr.contains("1 step, 1 cached"), "{}", given.stderr);
}

/// The files below that have `needle` in them.
fn places_of(needle: &str, directory: &Path) -> String {
    let found = Command::new("grep").args(["-r", "-l", "-a", "-F", needle]).arg(directory).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

const SECRETS: &str = r#"
FROM python:3.9-slim
RUN --mount=type=secret,id=token test "$(wc -c < /run/secrets/token)" = 31 && test "$(stat -c '%a %u:%g %F' /run/secrets/token)" = '400 0:0 regular file'
RUN --mount=type=secret,id=token,target=/etc/deep/token,mode=0440,uid=5,gid=6 test "$(stat -c '%a %u:%g' /etc/deep/token)" = '440 5:6'
RUN --mount=type=secret,id=token,env=TOKEN test "${#TOKEN}" = 31 && test ! -e /run/secrets
RUN --mount=type=secret,id=token,env=TOKEN,target=/both test "$TOKEN" = "$(cat /both)"
RUN --mount=type=secret,id=token,required sh -c '! echo x > /run/secrets/token && ! rm /run/secrets/token && ! chmod 777 /run/secrets/token'
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
RUN --mount=type=secret,id=absent,env=ABSENT test "${ABSENT-unset}" = ""
RUN --mount=type=secret,id=token cp /run/secrets/token /tmp/copy && rm /tmp/copy
RUN test ! -e /run/secrets && test ! -e /etc/deep && test -z "$TOKEN"
USER 1000
RUN --mount=type=secret,id=token ! cat /run/secrets/token
RUN --mount=type=secret,id=token,uid=1000 test -r /run/secrets/token && python -c 'open("/run/secrets/token").read()'
"#;

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_secret_is_found_by_its_step_and_by_nobody_else(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let secret = format!("s3cret-{:024}", fastrand::u64(..) % 1_000_000_000_000_000_000);
    assert_eq!(secret.len(), 31);
    let directory = context(SECRETS, &[]);
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::set_permissions(elsewhere.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let file = elsewhere.path().join("token");
    std::fs::write(&file, &secret).unwrap();
    let tag = format!("--tag={}", registry.reference("mounts/secret:1"));
    let by_file = format!("id=token,src={}", file.display());
    let built = build(&cofferdam, &registry, directory.path(), &[&tag, "--push", "-v", "--secret", &by_file]);
    let built = built.succeeded();
    assert!(!built.stderr.contains(&secret), "{}", built.stderr);
    let all = layers(&registry, "mounts/secret:1");
    assert!(
        all.iter().skip(5).flatten().all(|(name, _)| !name.contains("secrets") && !name.contains("token"))
    );
    assert!(places_of(&secret, elsewhere.path()).contains("token"), "it is found where it is");
    nothing_is_left(&state_directory(&cofferdam));
    // By a variable, and as JSON.
    let mut command = cofferdam.command();
    command.env("CI_TOKEN", &secret).args([
        "build",
        "--no-cache",
        "--progress=json",
        "--secret",
        "id=token,env=CI_TOKEN",
    ]);
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address())).arg(directory.path());
    let built = run(&mut command).succeeded();
    assert!(!built.stderr.contains(&secret) && !built.stdout.contains(&secret));
    assert_eq!(places_of(&secret, &cofferdam.home()), "");
    // Layers are compressed: what would be in one is looked for in the uncompressed image.
    let mut command = cofferdam.command();
    command.args([
        "build",
        "--compression=none",
        "-o",
        "type=oci,tar=false,dest=plain",
        "--secret",
        &by_file,
    ]);
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address())).arg(directory.path());
    run(&mut command).succeeded();
    let plain =
        cofferdam.user().map_or_else(|| cofferdam.home(), |user| user.directory("work")).join("plain");
    assert!(plain.join("index.json").exists());
    assert_eq!(places_of(&secret, &plain), "");
    assert_eq!(places_of(&secret, &cofferdam.home()), "");
}

#[test]
fn what_cannot_be_mounted_is_said_with_its_place() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let cases: [(&str, i32, &[&str]); 7] = [
        (
            "--mount=type=secret,id=token,required",
            3,
            &["the secret `token` is required, and was not given", "Dockerfile:2:13"],
        ),
        ("--mount=type=ssh,required", 3, &["the SSH agent `default` is required", "--ssh default"]),
        ("--mount=type=tmpfs,target=/", 3, &["nothing can be mounted at `/`"]),
        ("--mount=source=none,target=/x", 3, &["`/none` is not in the build context", "Dockerfile:2:13"]),
        (
            "--mount=type=tmpfs,target=/bin/sh",
            3,
            &["nothing can be mounted at `/bin/sh`", "the image has a file there"],
        ),
        (
            "--mount=source=Dockerfile,target=/bin",
            3,
            &["the image has a directory there, and this is a file"],
        ),
        ("--mount=type=cache,target=/c,source=/x", 3, &["there is no `/x` in a cache that begins empty"]),
    ];
    for (flag, status, says) in cases {
        let directory = context(&format!("FROM busybox:1\nRUN {flag} true\n"), &[]);
        build(&cofferdam, &registry, directory.path(), &[]).failed(status, says);
    }
    // Nothing of a step that could not begin stays in its way.
    let directory = context("FROM busybox:1\nRUN --mount=type=tmpfs,target=/t touch /t/x\n", &[]);
    build(&cofferdam, &registry, directory.path(), &[]).succeeded();
    nothing_is_left(&state_directory(&cofferdam));
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_step_reaches_the_agent_of_the_build(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let place = cofferdam.user().map_or_else(|| cofferdam.home(), |user| user.directory("work"));
    let path = place.join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut message = [0; 5];
            while stream.read_exact(&mut message).is_ok() {
                heard.lock().unwrap().push(message);
                // No keys.
                stream.write_all(b"\0\0\0\x05\x0c\0\0\0\0").unwrap();
            }
        }
    });
    // Asks which keys there are; then, in vain, for all of them to be removed.
    let ask = r"import os, socket; s = socket.socket(socket.AF_UNIX); s.connect(os.environ['SSH_AUTH_SOCK']); s.sendall(b'\0\0\0\x01\x0b'); assert s.recv(9) == b'\0\0\0\x05\x0c\0\0\0\0'; s.sendall(b'\0\0\0\x01\x13'); assert s.recv(5) == b'\0\0\0\x01\x05'";
    let dockerfile = format!(
        r#"FROM python:3.9-slim
RUN --mount=type=ssh test "$SSH_AUTH_SOCK" = /run/buildkit/ssh_agent.0 && test "$(stat -c '%a %u:%g %F' $SSH_AUTH_SOCK)" = '600 0:0 socket' && python -c "{ask}" && python -c "{ask}"
RUN --network=none --mount=type=ssh,id=git,target=/agent,mode=0666 test "$SSH_AUTH_SOCK" = /agent && cd / && python -c "{ask}"
RUN test -z "$SSH_AUTH_SOCK" && test ! -e /run/buildkit && test ! -e /agent
USER 1000
RUN --mount=type=ssh ! python -c "{ask}" 2> /dev/null
RUN --mount=type=ssh,uid=1000 python -c "{ask}"
RUN --mount=type=ssh,id=absent test -n "$SSH_AUTH_SOCK" && test ! -e "$SSH_AUTH_SOCK"
"#
    );
    let directory = context(&dockerfile, &[]);
    let named = format!("--ssh=git={}", path.display());
    let mut command = cofferdam.command();
    command.env("SSH_AUTH_SOCK", &path).args(["build", "--progress=plain", "--ssh", "default", &named]);
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address())).arg(directory.path());
    run(&mut command).succeeded();
    nothing_is_left(&state_directory(&cofferdam));
    let asked = asked.lock().unwrap();
    assert!(asked.len() >= 4 && asked.iter().all(|message| message == b"\0\0\0\x01\x0b"), "{asked:?}");
}

/// Each kind of key signs what OpenSSH's own programs then find to be signed by it.
#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn keys_from_files_sign_in_a_step(#[case] uid: Option<u32>) {
    const KINDS: [(&str, &[&str]); 7] = [
        ("ed25519", &["-t", "ed25519"]),
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p384", &["-t", "ecdsa", "-b", "384"]),
        ("rsa2048", &["-t", "rsa", "-b", "2048"]),
        ("rsa4096", &["-t", "rsa", "-b", "4096"]),
        ("pem", &["-t", "rsa", "-b", "3072", "-m", "PEM"]),
        ("pkcs8", &["-t", "ecdsa", "-b", "256", "-m", "PKCS8"]),
    ];
    const DOCKERFILE: &str = r#"FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends openssh-client && rm -rf /var/lib/apt/lists/*
COPY *.pub /keys/
WORKDIR /keys
RUN --mount=type=ssh cut -d' ' -f1,2 *.pub | sort > /mine && ssh-add -L | cut -d' ' -f1,2 | sort | cmp /mine - && ssh-add -l | grep -q 'of ed25519 (ED25519)'
RUN --mount=type=ssh for key in *.pub; do \
      echo hello > text && ssh-keygen -q -Y sign -f $key -n test text && echo "me $(cat $key)" > allowed \
      && ssh-keygen -Y verify -f allowed -I me -n test -s text.sig < text && ! ssh-keygen -Y verify -f allowed -I me -n test -s text.sig < allowed \
      && rm text.sig || exit 1; done
RUN --mount=type=ssh,id=one ! ssh-add -D && ! ssh-add -q -d ed25519.pub && ! ssh-add -x < /dev/null && test "$(ssh-add -l | wc -l)" = 1 \
      && ssh-keygen -q -t ed25519 -N '' -f /own && ! ssh-add /own && ! ssh-keygen -q -Y sign -f p256.pub -n test text
"#;
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let place = cofferdam.user().map_or_else(|| cofferdam.home(), |user| user.directory("work"));
    let directory = context(DOCKERFILE, &[]);
    let mut all = Vec::new();
    for (name, options) in KINDS {
        let path = place.join(name);
        let comment = format!("of {name}");
        let keygen = |arguments: &[&str]| {
            let made = Command::new("ssh-keygen").args(arguments).arg("-f").arg(&path).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        };
        keygen(&[&["-q", "-N", "", "-C", &comment], options].concat());
        std::fs::copy(path.with_extension("pub"), directory.path().join(format!("{name}.pub"))).unwrap();
        // The user that builds reads it; nobody else has to.
        if let Some(uid) = uid {
            std::os::unix::fs::chown(&path, Some(uid), None).unwrap();
        }
        all.push(path.display().to_string());
    }
    let (keys, one) = (format!("--ssh=default={}", all.join(",")), format!("--ssh=one={}", all[0]));
    let tag = format!("--tag={}", registry.reference("keys:1"));
    let ran = build(&cofferdam, &registry, directory.path(), &[&keys, &one, &tag, "--push"]).succeeded();
    assert!(!ran.stderr.contains("PRIVATE KEY"), "{}", ran.stderr);
    nothing_is_left(&state_directory(&cofferdam));
    // Neither the keys nor that there were any is in a key or a layer.
    let again = build(&cofferdam, &registry, directory.path(), &["--push", &tag]).succeeded();
    assert_eq!(again.digest(), ran.digest());
    // What has a passphrase would have to be asked for it.
    let locked = place.join("locked");
    let mut keygen = Command::new("ssh-keygen");
    let made = keygen.args(["-q", "-t", "ed25519", "-N", "secret", "-f"]).arg(&locked).status();
    assert!(made.unwrap().success());
    if let Some(uid) = uid {
        std::os::unix::fs::chown(&locked, Some(uid), None).unwrap();
    }
    let locked = format!("--ssh=default={}", locked.display());
    build(&cofferdam, &registry, directory.path(), &[&locked]).failed(2, &["it has a passphrase", "ssh-add"]);
}

/// Pages count that hold something, once each; what is more fails the step, when it ends or while it runs.
#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_tmpfs_holds_no_more_than_its_size(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let with = |size: &str, command: &str| {
        let mount = format!("--mount=type=tmpfs,target=/t,size={size}");
        let directory = context(&format!("FROM busybox:1\nRUN {mount} {command}\n"), &[]);
        build(&cofferdam, &registry, directory.path(), &[])
    };
    with(
        "63k",
        "head -c 65536 /dev/zero > /t/f && ln /t/f /t/g && truncate -s 1G /t/sparse && mkdir -p /t/a/b",
    )
    .succeeded();
    with("0", "head -c 300000 /dev/zero > /t/f").succeeded();
    let says: [&str; 3] = ["failed: `/t` is a tmpfs of 65.5 kB", "and the step has put", "Dockerfile:2:1"];
    with("64k", "mkdir /t/a && head -c 300000 /dev/zero > /t/a/f").failed(4, &says);
    let start = std::time::Instant::now();
    with("64k", "head -c 300000 /dev/zero > /t/f; sleep 300").failed(4, &says);
    assert!(start.elapsed() < Duration::from_secs(100), "it was not watched: {:?}", start.elapsed());
    nothing_is_left(&state_directory(&cofferdam));
}

#[test]
fn a_step_without_network_is_told_so() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let directory = context("FROM busybox:1\nRUN --network=none wget -q http://127.0.0.1:1/\n", &[]);
    build(&cofferdam, &registry, directory.path(), &[])
        .failed(4, &["`--network=none` gives none, not even on a loopback device"]);
    let other = context("FROM busybox:1\nRUN --network=none false\n", &[]);
    let failed = build(&cofferdam, &registry, other.path(), &[]);
    failed.failed(4, &["exit code 1"]);
    assert!(!failed.stderr.contains("loopback"), "{}", failed.stderr);
}

/// `docker.io`'s images from here.
fn start(cofferdam: &Cofferdam, registry: &Registry, context: &Path) -> std::process::Child {
    cofferdam
        .process()
        .args(["build", "--no-cache", "--progress=plain"])
        .arg(format!("--registry-mirror=docker.io=http://{}", registry.address()))
        .arg(context)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The directories of all caches.
fn caches(cofferdam: &Cofferdam) -> Vec<PathBuf> {
    let found = Command::new("find")
        .arg(state_directory(cofferdam).join("cofferdam/caches"))
        .args(["-name", "files", "-mindepth", "3", "-maxdepth", "3"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&found.stdout).lines().map(PathBuf::from).collect()
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_cache_is_kept_with_its_owners_until_it_is_pruned(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let dockerfile = |command: &str| {
        context(&format!("FROM busybox:1\nRUN --mount=type=cache,id=c,target=/c {command}\n"), &[])
    };
    let first = dockerfile(
        "echo 1 > /c/a && chown 33:34 /c/a && chmod 4750 /c/a && mknod /c/null c 1 3 && mkdir -m 700 /c/d && chown 5 /c/d",
    );
    build(&cofferdam, &registry, first.path(), &[]).succeeded();
    let second = dockerfile(
        "test \"$(stat -c '%a %u:%g' /c/a)\" = '4750 33:34' && test -c /c/null && test \"$(stat -c '%a %u' /c/d)\" = '700 5' && rm /c/a && touch /c/b",
    );
    build(&cofferdam, &registry, second.path(), &[]).succeeded();
    // A step that fails leaves what it has made, as it does with BuildKit.
    let third = dockerfile("touch /c/failed && chown 8 /c/failed && false");
    build(&cofferdam, &registry, third.path(), &[]).failed(4, &["exit code 1"]);
    let fourth = dockerfile(
        "test ! -e /c/a && test \"$(stat -c %u /c/failed)\" = 8 && test \"$(stat -c %u /c/b)\" = 0",
    );
    build(&cofferdam, &registry, fourth.path(), &["--no-cache"]).succeeded();
    assert_eq!(caches(&cofferdam).len(), 1);
    // What has taken over the last build's root may still be at work.
    run(cofferdam.command().args(["prune", "--wait=1m"])).succeeded();
    assert_eq!(caches(&cofferdam).len(), 1, "without a limit caches stay");
    let pruned = run(cofferdam.command().args(["prune", "--all", "--wait=1m", "--format=json"])).succeeded();
    assert!(
        pruned.stdout.contains("\"cache_mounts\":1") || pruned.stdout.contains("\"cache_mounts\": 1"),
        "{}",
        pruned.stdout
    );
    assert_eq!(caches(&cofferdam).len(), 0);
    let fifth = dockerfile("test -z \"$(ls /c)\"");
    build(&cofferdam, &registry, fifth.path(), &[]).succeeded();
}

#[rstest]
#[case::shared("shared", 1)]
#[case::locked("locked", 1)]
#[case::private("private", 3)]
fn builds_at_one_time_share_a_cache_as_it_says(#[case] sharing: &str, #[case] directories: usize) {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let others = if sharing == "shared" { "true" } else { "test ! -e /c/busy" };
    let contexts: Vec<_> = (0..3)
        .map(|number| {
            let command = format!("{others} && touch /c/busy /c/{number} && chown {number} /c/{number} && sleep 1.5 && rm -f /c/busy");
            context(
                &format!("FROM busybox:1\nRUN --mount=type=cache,target=/c,sharing={sharing} {command}\n"),
                &[],
            )
        })
        .collect();
    // So that they do not wait for the base image.
    build(&cofferdam, &registry, context("FROM busybox:1\nRUN true\n", &[]).path(), &[]).succeeded();
    let mut builds: Vec<_> =
        contexts.iter().map(|context| start(&cofferdam, &registry, context.path())).collect();
    for child in &mut builds {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(caches(&cofferdam).len(), directories);
    if sharing != "private" {
        let owners = "test \"$(stat -c %u /c/0 /c/1 /c/2 | tr '\\n' ' ')\" = '0 1 2 '";
        let check = format!("FROM busybox:1\nRUN --mount=type=cache,target=/c {owners}\n");
        build(&cofferdam, &registry, context(&check, &[]).path(), &[]).succeeded();
    }
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn a_killed_build_leaves_its_cache_to_the_next(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let dockerfile = |command: &str| {
        let flags = "--mount=type=cache,target=/c,sharing=locked,uid=1000 --mount=type=tmpfs,target=/c/t";
        context(&format!("FROM busybox:1\nUSER 1000\nRUN {flags} {command}\n"), &[])
    };
    build(&cofferdam, &registry, dockerfile("touch /c/first").path(), &[]).succeeded();
    let killed = dockerfile("echo half > /c/made && sleep 600");
    let mut child = start(&cofferdam, &registry, killed.path());
    let files = caches(&cofferdam).pop().unwrap();
    eventually("a file in the cache", Duration::from_secs(20), || match files.join("made").exists() {
        true => Ok(()),
        false => Err("nothing yet".to_owned()),
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let next = dockerfile(
        "test \"$(stat -c %u /c/first /c/made | tr '\\n' ' ')\" = '1000 1000 ' && echo whole > /c/made && test -z \"$(ls /c/t)\" && touch /c/t/x",
    );
    build(&cofferdam, &registry, next.path(), &[]).succeeded();
    assert!(
        !files.join("t").exists()
            || std::fs::metadata(files.join("t")).unwrap().permissions().mode() & 0o777 != 0
    );
    assert_eq!(caches(&cofferdam).len(), 1, "the lock went with its holder");
    nothing_is_left(&state_directory(&cofferdam));
}

#[rstest]
#[case::as_root(None)]
#[case::without_privileges(Some(1000))]
fn apt_finds_its_caches_again(#[case] uid: Option<u32>) {
    let (registry, cofferdam) = (Registry::start(), builder(uid));
    let dockerfile = r"
FROM debian:bookworm-slim
RUN rm -f /etc/apt/apt.conf.d/docker-clean && echo 'Binary::apt::APT::Keep-Downloaded-Packages true;' > /etc/apt/apt.conf.d/keep
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked apt-get update && apt-get install -y --no-install-recommends hello
RUN hello
";
    let directory = context(dockerfile, &[]);
    let tag = format!("--tag={}", registry.reference("mounts/packages:1"));
    build(&cofferdam, &registry, directory.path(), &["--no-cache"]).succeeded();
    let again = build(&cofferdam, &registry, directory.path(), &["--no-cache", &tag, "--push"]).succeeded();
    assert!(again.stderr.contains("Need to get 0 B/"), "{}", again.stderr);
    for layer in layers(&registry, "mounts/packages:1").iter().rev().take(3) {
        let cached = |name: &&String| name.starts_with("var/cache/apt/") || name.starts_with("var/lib/apt/");
        assert_eq!(layer.keys().find(cached), None);
    }
}
