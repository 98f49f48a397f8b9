//! Caches beside the store: what one machine has made another finds, and takes no more of it than it needs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::support::{Cofferdam, Registry, Request, layers, sha256};
use crate::{Ran, build, context, run};

/// Two stages that run something, and a result that takes a file of the first.
const APPLICATION: &str = r#"
FROM busybox:1 AS build
WORKDIR /src
COPY lib lib
RUN cat lib/* > /lib.out
COPY main main
RUN sed s/#.*// main > /app && cp /lib.out /lib

FROM python:3.9-slim
RUN echo 1 > /installed
WORKDIR /srv
COPY --from=build /app .
COPY conf conf
RUN cat app conf > all
"#;

pub(crate) const FILES: [(&str, &str); 3] =
    [("lib/a", "library"), ("main", "code # and what it means"), ("conf", "x=1")];

/// A machine that has never built anything builds with a cache in `cache` and pushes as `tag`. Gives what it asked for besides.
pub(crate) fn fresh(registry: &Registry, tree: &Path, cache: &str, more: &[&str]) -> (Ran, Vec<Request>) {
    let before = registry.requests().len();
    let built = build(&Cofferdam::new(), registry, tree, &[&[cache], more].concat());
    (built, registry.requests().split_off(before))
}

pub(crate) fn cache_repo(registry: &Registry) -> String {
    format!("--cache-repo={}", registry.reference("group/app/cache"))
}

/// The blobs that were downloaded, but for the configurations of base images.
fn downloads<'a>(registry: &Registry, requests: &'a [Request]) -> Vec<&'a Request> {
    let is_large = |request: &&Request| {
        let digest = request.path.rsplit('/').next().unwrap();
        request.path.contains("/blobs/sha256:")
            && std::fs::metadata(registry.blob_path(digest)).is_ok_and(|file| file.len() > 20_000)
    };
    requests.iter().filter(|request| request.method == "GET").filter(is_large).collect()
}

/// How many steps were cached, of how many.
pub(crate) fn cached(ran: &Ran) -> (usize, usize) {
    let is_summary = |line: &&str| line.contains(" step, ") || line.contains(" steps, ");
    let line = ran.stderr.lines().rev().find(is_summary).expect("a summary");
    let number = |word: &str| {
        let before = line.split_once(word).map_or("0", |(before, _)| before);
        before.rsplit([' ', ',']).find(|word| !word.is_empty()).unwrap().parse().unwrap()
    };
    (number(" cached"), number(" step"))
}

#[test]
fn a_new_machine_finds_all_that_another_has_made() {
    let registry = Registry::start();
    let tree = context(APPLICATION, &FILES);
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    let (first, _) = fresh(&registry, tree.path(), &cache_repo(&registry), &[&tag, "--push"]);
    let first = first.succeeded();
    assert_eq!(cached(&first).0, 0, "{}", first.stderr);

    let (again, requests) = fresh(&registry, tree.path(), &cache_repo(&registry), &[&tag, "--push"]);
    let again = again.succeeded();
    assert_eq!(again.digest(), first.digest());
    assert_eq!(cached(&again), (5, 5), "{}", again.stderr);
    assert!(again.stderr.contains("cached (127.0.0.1:"), "{}", again.stderr);
    // The base image, the entry of the last step, the image itself: nothing else is asked for.
    assert_eq!(downloads(&registry, &requests), Vec::<&Request>::new());
    assert!(requests.len() <= 7, "{} requests: {requests:#?}", requests.len());

    // Under another name, everything is mounted.
    let other = format!("--tag={}", registry.reference("other/app:1"));
    let (named, requests) = fresh(&registry, tree.path(), &cache_repo(&registry), &[&other, "--push"]);
    assert_eq!(named.succeeded().digest(), first.digest());
    assert_eq!(downloads(&registry, &requests), Vec::<&Request>::new());
    assert_eq!(registry.digest("other/app:1").as_deref(), Some(first.digest()));
    assert_eq!(layers(&registry, "other/app:1").len(), layers(&registry, "group/app:1").len());
}

#[test]
fn a_changed_file_is_one_small_layer_and_nothing_is_downloaded_for_it() {
    let registry = Registry::start();
    let dockerfile =
        "FROM python:3.9-slim\nRUN echo 1 > /installed\nWORKDIR /srv\nCOPY --chown=daemon main conf ./\n";
    let tree = context(dockerfile, &FILES);
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    fresh(&registry, tree.path(), &cache_repo(&registry), &[&tag, "--push"]).0.succeeded();

    std::fs::write(tree.path().join("main"), "other code").unwrap();
    let (second, requests) = fresh(&registry, tree.path(), &cache_repo(&registry), &[&tag, "--push"]);
    let second = second.succeeded();
    assert_eq!(cached(&second), (2, 3), "{}", second.stderr);
    let all = layers(&registry, "group/app:1");
    let node = &all.last().unwrap()["srv/main"];
    assert_eq!((node.uid, node.content.as_str()), (1, r#""other code""#));
    // The lists of files come, the files of base and cached layers do not.
    let large: Vec<u64> = downloads(&registry, &requests)
        .iter()
        .map(|request| {
            let digest = request.path.rsplit('/').next().unwrap();
            std::fs::metadata(registry.blob_path(digest)).unwrap().len()
        })
        .collect();
    assert!(large.iter().sum::<u64>() < 1_000_000, "{large:?}: {requests:#?}");
    let is_upload = |request: &&Request| request.method == "PUT" && request.path.contains("/blobs/uploads/");
    // The layer (to the image and to the cache), the configuration, what this build knew. The list of files is in the entry.
    assert_eq!(requests.iter().filter(is_upload).count(), 4, "{requests:#?}");
    assert!(!requests.iter().any(|request| request.method == "PATCH"), "{requests:#?}");
    // It is the image that is made without any cache.
    let plain = Cofferdam::new();
    let epoch = |cofferdam: &Cofferdam, args: &[&str]| {
        let args = [&["--build-arg=SOURCE_DATE_EPOCH=1700000000"], args].concat();
        build(cofferdam, &registry, tree.path(), &args).succeeded().digest().to_owned()
    };
    let without = epoch(&plain, &["--no-cache"]);
    epoch(&Cofferdam::new(), &[&cache_repo(&registry)]);
    assert_eq!(epoch(&Cofferdam::new(), &[&cache_repo(&registry)]), without);
}

#[test]
fn the_same_content_ends_the_rebuilding() {
    let registry = Registry::start();
    let tree = context(APPLICATION, &FILES);
    let cache = cache_repo(&registry);
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    let kept = Cofferdam::new();
    let first = build(&kept, &registry, tree.path(), &[&tag, "--push", &cache]).succeeded();
    // A comment changes: the stage is built anew, and makes the same file.
    for (cofferdam, what) in [(&kept, "the store"), (&Cofferdam::new(), "a registry")] {
        std::fs::write(tree.path().join("main"), format!("code # for {what}")).unwrap();
        let again = build(cofferdam, &registry, tree.path(), &[&tag, "--push", &cache]).succeeded();
        assert_eq!(again.digest(), first.digest(), "{what}: {}", again.stderr);
        assert_eq!(again.stderr.matches("by the same content").count(), 3, "{what}: {}", again.stderr);
        // COPY main and the RUN behind it were carried out.
        assert_eq!(cached(&again), (8, 10), "{what}: {}", again.stderr);
        // What was found by content is found by name from now on.
        let (named, requests) = fresh(&registry, tree.path(), &cache, &[&tag, "--push"]);
        assert_eq!(cached(&named.succeeded()), (5, 5));
        assert_eq!(downloads(&registry, &requests), Vec::<&Request>::new());
    }
    // And a change that matters is one.
    std::fs::write(tree.path().join("main"), "other # code").unwrap();
    let (other, _) = fresh(&registry, tree.path(), &cache, &[&tag, "--push"]);
    let other = other.succeeded();
    assert_ne!(other.digest(), first.digest());
    let all = layers(&registry, "group/app:1");
    assert_eq!(all.last().unwrap()["srv/all"].content, r#""other x=1""#);
}

#[test]
fn a_directory_and_an_image_are_caches_too() {
    let registry = Registry::start();
    let tree = context(APPLICATION, &FILES);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache").display().to_string();
    let (to, from) = (
        format!("--cache-to=type=local,dest={path},mode=max"),
        format!("--cache-from=type=local,src={path}"),
    );
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    let inline = ["--cache-to=type=inline", &tag, "--push"];
    let (first, _) = fresh(&registry, tree.path(), &from, &[&[to.as_str()], &inline[..]].concat());
    let first = first.succeeded();
    assert!(first.stderr.contains("there is no cache in"), "{}", first.stderr);
    let (second, requests) = fresh(&registry, tree.path(), &from, &inline);
    let second = second.succeeded();
    assert_eq!((cached(&second), second.digest()), ((5, 5), first.digest()), "{}", second.stderr);
    assert_eq!(downloads(&registry, &requests), Vec::<&Request>::new());
    // A change: the stage that took no part in the image is in the directory too.
    std::fs::write(tree.path().join("conf"), "x=2").unwrap();
    let (third, _) = fresh(&registry, tree.path(), &from, &[]);
    assert_eq!(cached(&third.succeeded()), (3, 5));

    // The image knows its own steps, and those alone.
    let of_image = format!("--cache-from={}", registry.reference("group/app:1"));
    let (fourth, requests) = fresh(&registry, tree.path(), &of_image, &[]);
    assert_eq!(cached(&fourth.succeeded()), (3, 5));
    assert!(!requests.iter().any(|request| request.method == "PUT"), "{requests:#?}");
}

/// A volume that is mounted read-only or that another user has filled is a cache like any other; one that cannot even be read
/// is told of, and the build goes on.
#[test]
fn a_directory_that_cannot_be_written_does_not_fail_the_build() {
    let registry = Registry::start();
    let tree = context(APPLICATION, &FILES);
    let user = Cofferdam::as_uid(4711);
    let path = user.user().unwrap().directory("volume").join("cache");
    let to = format!("--cache-to=type=local,dest={}", path.display());
    let from = format!("--cache-from=type=local,src={}", path.display());
    let first = fresh(&registry, tree.path(), &to, &[]).0.succeeded();

    // Root's, and readable by all.
    modes(&path, 0o755, 0o644);
    let second = build(&user, &registry, tree.path(), &[&from]).succeeded();
    assert_eq!((cached(&second), second.digest()), ((5, 5), first.digest()), "{}", second.stderr);
    // Layers are taken from it, where a step needs what is in them.
    std::fs::write(tree.path().join("conf"), "x=2").unwrap();
    let third = build(&user, &registry, tree.path(), &[&from]).succeeded();
    assert_eq!(cached(&third), (3, 5), "{}", third.stderr);

    // And for root alone.
    modes(&path, 0o700, 0o600);
    let other = Cofferdam::as_uid(4711);
    let fourth = build(&other, &registry, tree.path(), &[&from]).succeeded();
    assert_eq!(cached(&fourth).0, 0, "{}", fourth.stderr);
    let warning = format!("the cache in `{}` cannot be used: ", path.display());
    assert_eq!(fourth.stderr.matches(&warning).count(), 1, "{}", fourth.stderr);
    assert!(fourth.stderr.contains("Permission denied"), "{}", fourth.stderr);
}

/// Gives every directory from `path` on one mode, and every file another.
fn modes(path: &Path, of_directories: u32, of_files: u32) {
    let is_directory = path.is_dir();
    if is_directory {
        for entry in std::fs::read_dir(path).unwrap() {
            modes(&entry.unwrap().path(), of_directories, of_files);
        }
    }
    let mode = if is_directory { of_directories } else { of_files };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_cache_in_the_context_is_not_of_it() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nCOPY . /all\n", &FILES);
    let path = tree.path().join(".cache/layers");
    let both = format!("--cache-to=type=local,dest={}", path.display());
    for (count, from) in [(0, None), (1, Some(format!("--cache-from=type=local,src={}", path.display())))] {
        let args: Vec<&str> = from.iter().map(String::as_str).collect();
        let (built, _) = fresh(&registry, tree.path(), &both, &args);
        assert_eq!(cached(&built.succeeded()).0, count);
    }
}

#[test]
fn only_layers_of_the_image_are_cached_unless_asked() {
    let registry = Registry::start();
    let tree = context(APPLICATION, &FILES);
    let of = |mode: &str| {
        let repository = registry.reference(&format!("cache/{mode}"));
        let both = [
            format!("--cache-to=type=registry,ref={repository}:any,mode={mode}"),
            format!("--cache-from=type=registry,ref={repository}:any"),
        ];
        fresh(&registry, tree.path(), &both[0], &[]).0.succeeded();
        std::fs::write(tree.path().join("main"), format!("{mode} other code")).unwrap();
        let (built, _) = fresh(&registry, tree.path(), &both[1], &[]);
        cached(&built.succeeded()).0
    };
    // Of the target, what is before the file that has changed; with `max` of the first stage as well.
    assert_eq!((of("min"), of("max")), (2, 5));
}

#[test]
fn a_cache_that_fails_is_a_warning() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nRUN echo 1 > /a\n", &[]);
    let nowhere = "127.0.0.1:1/group/cache";
    let (built, _) = fresh(&registry, tree.path(), &format!("--cache-repo={nowhere}"), &[]);
    let built = built.succeeded();
    for text in [
        "the cache 127.0.0.1:1/group/cache cannot be used",
        "the cache 127.0.0.1:1/group/cache cannot be written",
    ] {
        assert_eq!(built.stderr.matches(text).count(), 1, "{}", built.stderr);
    }
    // What cannot be a repository is said before anything is built.
    let (wrong, _) = fresh(&registry, tree.path(), "--cache-repo=x.example/cache:tag", &[]);
    wrong.failed(2, &["is an image, not a repository", "leave the tag out"]);
}

#[test]
fn a_cache_that_has_lost_a_layer_is_built_without() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nRUN echo 1 > /a\nCOPY conf /\nRUN cat /conf > /b\n", &FILES);
    let cache = cache_repo(&registry);
    let tag = format!("--tag={}", registry.reference("group/app:1"));
    fresh(&registry, tree.path(), &cache, &[&tag, "--push"]).0.succeeded();
    let manifest = registry.manifest("group/app:1");
    let lost = manifest["layers"][1]["digest"].as_str().unwrap();
    std::fs::remove_file(registry.blob_path(lost)).unwrap();

    std::fs::write(tree.path().join("conf"), "x=2").unwrap();
    let other = format!("--tag={}", registry.reference("other/app:1"));
    let (again, _) = fresh(&registry, tree.path(), &cache, &[&other, "--push"]);
    let again = again.succeeded();
    assert!(again.stderr.contains("does not have what it should"), "{}", again.stderr);
    assert!(again.stderr.contains("building without it"), "{}", again.stderr);
    assert_eq!(layers(&registry, "other/app:1").last().unwrap()["b"].content, r#""x=2""#);
}

#[test]
fn results_have_an_age() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nRUN echo 1 > /a\n", &[]);
    let cache = cache_repo(&registry);
    let kept = Cofferdam::new();
    build(&kept, &registry, tree.path(), &[&cache]).succeeded();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    for cofferdam in [&kept, &Cofferdam::new()] {
        let of = |ttl: &str| cached(&build(cofferdam, &registry, tree.path(), &[&cache, ttl]).succeeded()).0;
        assert_eq!(of("--cache-ttl=1h"), 1);
        assert_eq!(of("--cache-ttl=1s"), 0);
        std::thread::sleep(std::time::Duration::from_millis(2100));
    }
}

#[test]
fn a_target_without_steps_finds_those_it_is_built_upon() {
    let registry = Registry::start();
    let tree = context(
        "FROM busybox:1 AS base\nRUN echo 1 > /a\nFROM base AS middle\nENV A=1\nFROM middle\nLABEL b=1\n",
        &[],
    );
    let cache = cache_repo(&registry);
    let push = ["--push", &format!("--tag={}", registry.reference("group/app:1"))];
    fresh(&registry, tree.path(), &cache, &push).0.succeeded();
    let (again, asked) = fresh(&registry, tree.path(), &cache, &push);
    assert_eq!(cached(&again.succeeded()), (1, 1));
    assert_eq!(downloads(&registry, &asked).len(), 0);
}

/// `docker build` asks for a base that it has with `--pull` alone; here every build asks, and the flag is none that is not known.
#[test]
fn a_tag_that_has_moved_is_found_with_pull_and_without() {
    let registry = Registry::start();
    let base = registry.reference("group/base:1");
    let (kept, tag) = (Cofferdam::new(), format!("--tag={base}"));
    let tree = context(&format!("FROM {base}\nRUN cat /base > /all\n"), &[]);
    let built = |number: usize, flags: &[&str]| {
        let moved = context(&format!("FROM busybox:1\nRUN echo {number} > /base\n"), &[]);
        build(&Cofferdam::new(), &registry, moved.path(), &[&tag, "--push"]).succeeded();
        build(&kept, &registry, tree.path(), flags).succeeded()
    };
    let all = [(1, &[][..]), (2, &[]), (3, &["--pull"])].map(|(number, flags)| built(number, flags));
    for (ran, next) in all.iter().zip(&all[1..]) {
        assert_ne!(ran.digest(), next.digest(), "{}", next.stderr);
        assert_eq!(cached(next), (0, 1), "{}", next.stderr);
    }
    let same = build(&kept, &registry, tree.path(), &["--pull"]).succeeded();
    assert_eq!(
        (cached(&same), same.digest()),
        ((1, 1), all[2].digest()),
        "it says nothing against results of steps"
    );
}

#[test]
fn what_one_platform_has_made_is_kept_when_another_fails() {
    let registry = Registry::start();
    let tree = context("FROM scratch\nARG TARGETARCH\nCOPY a-$TARGETARCH /a\n", &[("a-amd64", "a")]);
    let noise: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(tree.path().join("a-amd64"), noise).unwrap();
    let cache = cache_repo(&registry);
    let (failed, _) = fresh(&registry, tree.path(), &cache, &["--platform=linux/amd64,linux/arm64"]);
    failed.failed(3, &["a-arm64"]);
    let (again, _) = fresh(&registry, tree.path(), &cache, &["--platform=linux/amd64"]);
    assert_eq!(cached(&again.succeeded()), (1, 1));
}

#[test]
fn a_failed_build_is_not_what_the_next_is_compared_with() {
    let registry = Registry::start();
    let cache = cache_repo(&registry);
    let dockerfile = |command: &str| format!("FROM busybox:1\nCOPY conf /\nRUN {command}\n");
    let tree = context(&dockerfile("grep x conf"), &FILES);
    let change = |command: &str| std::fs::write(tree.path().join("Dockerfile"), dockerfile(command)).unwrap();
    let (kept, token) = (Cofferdam::new(), "--build-arg=TOKEN=hidden");
    build(&kept, &registry, tree.path(), &[&cache, token]).succeeded();
    change("grep nothing conf");
    build(&kept, &registry, tree.path(), &[&cache, token]).failed(4, &["grep nothing conf"]);
    change("grep x conf && true");
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    let why = |cofferdam: &Cofferdam| {
        let mut command = cofferdam.command();
        run(command.args(["cache", "why", &cache, token, &mirror]).arg(tree.path())).succeeded().stdout
    };
    for cofferdam in [&kept, &Cofferdam::new()] {
        let said = why(cofferdam);
        assert!(said.contains("command: /bin/sh -c grep x conf -> "), "{said}");
        assert!(!said.contains("nothing"), "{said}");
    }
}

#[test]
fn a_cache_of_buildkit_is_refused() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nRUN echo 1 > /a\n", &[]);
    let config = b"{}";
    let descriptor = json!({
        "mediaType": "application/vnd.buildkit.cacheconfig.v0",
        "digest": sha256(config),
        "size": config.len(),
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor,
        "layers": [],
    });
    push_raw(&registry, "group/buildkit", "cache", config, &manifest.to_string());
    let from = format!("--cache-from=type=registry,ref={}", registry.reference("group/buildkit:cache"));
    let (refused, _) = fresh(&registry, tree.path(), &from, &[]);
    refused.failed(2, &["is a cache of BuildKit", "--cache-repo"]);
}

/// Puts a blob and a manifest into a registry, by the protocol's own words.
fn push_raw(registry: &Registry, repository: &str, tag: &str, blob: &[u8], manifest: &str) {
    let put = |method: &str, url: &str, kind: &str, body: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), body).unwrap();
        let out = std::process::Command::new("curl")
            .args(["-sS", "--fail-with-body", "-i", "-X", method, "-H", &format!("Content-Type: {kind}")])
            .args(["--data-binary", &format!("@{}", file.path().display()), url])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8(out.stdout).unwrap()
    };
    let url = registry.url(&format!("/v2/{repository}/blobs/uploads/"));
    let answer = put("POST", &url, "application/octet-stream", b"");
    let location = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    let location = location.unwrap();
    let digest = sha256(blob);
    put("PUT", &format!("{location}&digest={digest}"), "application/octet-stream", blob);
    let url = registry.url(&format!("/v2/{repository}/manifests/{tag}"));
    put("PUT", &url, "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
}

#[test]
fn a_new_machine_says_why_and_before_it_does() {
    let registry = Registry::start();
    let tree = context(APPLICATION, &FILES);
    let cache = cache_repo(&registry);
    let secret = ["--build-arg=TOKEN=hidden-value"];
    let with_argument =
        APPLICATION.replace("FROM busybox:1 AS build\n", "FROM busybox:1 AS build\nARG TOKEN\n");
    std::fs::write(tree.path().join("Dockerfile"), with_argument.trim_start()).unwrap();
    fresh(&registry, tree.path(), &cache, &secret).0.succeeded();
    std::fs::write(tree.path().join("lib/b"), "more").unwrap();
    std::fs::write(tree.path().join("conf"), "x=2").unwrap();

    let why = |cofferdam: &Cofferdam, more: &[&str]| {
        let mut command = cofferdam.command();
        command.args([
            "cache",
            "why",
            &cache,
            &format!("--registry-mirror=docker.io=http://{}", registry.address()),
        ]);
        run(command.args(more).arg(tree.path())).succeeded().stdout
    };
    let said = why(&Cofferdam::new(), &secret);
    for text in [
        "#2 [build 3/6] COPY lib lib\n  carried out: file lib/b is new\n",
        "#3 [build 4/6] RUN cat lib/* > /lib.out\n  carried out: a step before it has changed\n",
        "RUN echo 1 > /installed\n  cached (127.0.0.1:",
        "COPY conf conf\n  carried out: file conf has changed\n",
    ] {
        assert!(said.contains(text), "{text}\n{said}");
    }
    let other = why(&Cofferdam::new(), &["--build-arg=TOKEN=other"]);
    assert!(other.contains("environment TOKEN has changed"), "{other}");
    assert!(!other.contains("hidden-value"), "{other}");
    let json = why(&Cofferdam::new(), &["--format=json"]);
    let steps: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(steps.as_array().unwrap().len(), 10);
    assert_eq!(steps[5]["fate"], "cached");

    // What asks something else is not passed over.
    for other in ["--check", "--call=outline"] {
        let cofferdam = Cofferdam::new();
        let asked = run(cofferdam.command().args(["cache", "why", other]).arg(tree.path()));
        asked.failed(2, &["ask for something else"]);
    }

    // A build says the same, and does it.
    let (built, _) = fresh(&registry, tree.path(), &cache, &["--explain", secret[0]]);
    let built = built.succeeded();
    let (before, after) = built.stderr.split_once("\n#1 ").expect("steps after explanations");
    let said_first =
        before.contains("carried out: file lib/b is new") || after.contains("carried out: file lib/b is new");
    assert!(said_first, "{}", built.stderr);
    assert!(built.stderr.contains("not cached: file lib/b is new"), "{}", built.stderr);
}

#[test]
fn results_are_listed_shown_and_removed() {
    let registry = Registry::options().start();
    let tree = context("FROM busybox:1\nRUN echo 1 > /a\nRUN echo 2 > /b\n", &[]);
    let kept = Cofferdam::new();
    build(&kept, &registry, tree.path(), &[&cache_repo(&registry)]).succeeded();
    let repository = registry.reference("group/app/cache");
    let cache = |cofferdam: &Cofferdam, args: &[&str]| run(cofferdam.command().arg("cache").args(args));
    let other = Cofferdam::new();
    let (here, there) = (cache(&kept, &["ls"]).succeeded(), cache(&other, &["ls", &repository]).succeeded());
    for list in [&here.stdout, &there.stdout] {
        assert_eq!(list.lines().count(), 3, "{list}");
        assert!(list.contains("RUN echo 2 > /b"), "{list}");
    }
    assert_eq!(cache(&other, &["ls"]).succeeded().stdout.lines().count(), 1);
    let line = there.stdout.lines().find(|line| line.contains("echo 2")).unwrap();
    let key = line.split(' ').next().unwrap();
    let shown = cache(&other, &["show", key, &repository]).succeeded().stdout;
    assert!(shown.contains("step         RUN echo 2 > /b") && shown.contains("RUN echo 1 > /a"), "{shown}");
    assert!(cache(&kept, &["show", key]).succeeded().stdout.contains("step         RUN echo 2 > /b"));
    cache(&kept, &["show", "ffffffffffff"]).failed(2, &["there is no result"]);

    let prune = |age: &str| cache(&other, &["prune", &repository, "--older-than", age]).succeeded().stdout;
    assert_eq!(prune("1h"), "removed 0 results; 2 results left\n");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(prune("0s"), "removed 2 results; 0 results left\n");
    assert_eq!(cache(&other, &["ls", &repository]).succeeded().stdout.lines().count(), 1);
}
