//! Where a result goes and what is printed of it: outputs, files, the store and its commands.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cofferdam::image::Digest;
use serde_json::Value;

use crate::support::{Cofferdam, Registry, eventually, layers, read_layer};
use crate::{build, context, run};

const DOCKERFILE: &str = "FROM busybox:1\nWORKDIR /w\nCOPY --chown=7:8 a /w/\nRUN mknod null c 1 3 && ln -s a l && chmod 750 .\nCMD [\"a\"]\n";

fn input() -> tempfile::TempDir {
    context(DOCKERFILE, &[("a", "content\n")])
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_layout_is_what_others_read() {
    let (registry, cofferdam, directory) = (Registry::start(), Cofferdam::new(), input());
    let layout = cofferdam.home().join("layout");
    let archive = cofferdam.home().join("image.tar");
    let docker = cofferdam.home().join("docker.tar");
    let args = [
        "--tag=example.com/group/app:v1".to_owned(),
        format!("--output=type=oci,tar=false,dest={}", layout.display()),
        format!("--output=type=oci,dest={}", archive.display()),
        format!("--output=type=docker,dest={}", docker.display()),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let built = build(&cofferdam, &registry, directory.path(), &args).succeeded();
    let ran = run(cofferdam.command().arg("validate").arg(&layout)).succeeded();
    assert!(ran.stdout.contains("valid"), "{}", ran.stdout);
    assert_eq!(json(&layout.join("index.json"))["manifests"][0]["digest"], built.digest());
    for source in [
        format!("oci:{}:example.com/group/app:v1", layout.display()),
        format!("oci-archive:{}:example.com/group/app:v1", archive.display()),
        format!("docker-archive:{}", docker.display()),
    ] {
        let to = cofferdam.home().join("copy");
        let _ = std::fs::remove_dir_all(&to);
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", &source, &format!("dir:{}", to.display())])
            .output()
            .unwrap();
        assert!(copied.status.success(), "{source}: {}", String::from_utf8_lossy(&copied.stderr));
    }
    // A blob that is not what its name says is found.
    let blob = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&blob, b"something else").unwrap();
    run(cofferdam.command().arg("validate").arg(&layout)).failed(11, &[]);
}

#[test]
fn the_files_of_an_image_are_had_as_a_directory_and_as_an_archive() {
    let (registry, directory) = (Registry::start(), input());
    for cofferdam in [Cofferdam::new(), Cofferdam::as_uid(1000)] {
        let out = cofferdam.user().map_or_else(|| cofferdam.home(), |user| user.directory("out"));
        let (files, archive, state) = (out.join("files"), out.join("files.tar"), out.join("state"));
        let args = [
            format!("--state-dir={}", state.display()),
            format!("--output={}", files.display()),
            format!("--output=type=tar,dest={}", archive.display()),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        build(&cofferdam, &registry, directory.path(), &args).succeeded();
        assert_eq!(std::fs::read_to_string(files.join("w/a")).unwrap(), "content\n");
        assert_eq!(std::fs::read_link(files.join("w/l")).unwrap(), Path::new("a"));
        let all = read_layer(std::fs::File::open(&archive).unwrap());
        assert_eq!((all["w/a"].uid, all["w/a"].gid), (7, 8));
        assert_eq!((all["w/null"].kind.as_str(), all["w"].mode), ("char", 0o750));
        assert!(all.contains_key("bin/busybox"));
        // The store keeps the layers of the image, not its files once more. A process that outlives the build clears its
        // workspace away.
        let workspaces = state.join("cofferdam/workspaces");
        eventually("the workspace goes", Duration::from_secs(60), || {
            match std::fs::read_dir(&workspaces).unwrap().count() {
                0 => Ok(()),
                left => Err(format!("{left} entries are left")),
            }
        });
        let flat = Digest::of(&std::fs::read(&archive).unwrap()).hex();
        let kept = walkdir::WalkDir::new(&state).into_iter().map(|found| found.unwrap().into_path());
        let kept: Vec<_> = kept.filter(|path| path.to_str().unwrap().contains(&flat)).collect();
        assert!(kept.is_empty(), "{kept:?}");
    }
}

#[test]
fn standard_output_has_the_archive_alone() {
    let (registry, cofferdam, directory) = (Registry::start(), Cofferdam::new(), input());
    let mut command = cofferdam.command();
    command.args(["build", "--output=-"]);
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address())).arg(directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(read_layer(output.stdout.as_slice()).contains_key("w/a"));
}

#[test]
fn digests_are_written_where_they_are_wanted() {
    let (registry, cofferdam, directory) = (Registry::start(), Cofferdam::new(), input());
    let (iid, metadata) = (cofferdam.home().join("iid"), cofferdam.home().join("metadata.json"));
    let args = [
        format!("--iidfile={}", iid.display()),
        format!("--metadata-file={}", metadata.display()),
        format!("--tag={}", registry.reference("x/a:1")),
        format!("--tag={}", registry.reference("x/b:2")),
        "--push".to_owned(),
        "--label=one=1".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let built = build(&cofferdam, &registry, directory.path(), &args).succeeded();
    let digest = registry.digest("x/a:1").unwrap();
    assert_eq!(registry.digest("x/b:2").as_ref(), Some(&digest));
    assert_eq!(built.digest(), digest);
    let manifest = registry.manifest("x/a:1");
    assert_eq!(manifest["config"]["digest"], std::fs::read_to_string(&iid).unwrap().trim());
    assert_eq!(registry.config("x/a:1")["config"]["Labels"]["one"], "1");
    let metadata = json(&metadata);
    assert_eq!(metadata["containerimage.digest"], digest.as_str());
    assert_eq!(metadata["containerimage.config.digest"], manifest["config"]["digest"]);
}

#[test]
fn progress_is_lines_or_objects_or_nothing() {
    let (registry, directory) = (Registry::start(), input());
    let stderr = |form: &str| {
        let cofferdam = Cofferdam::new();
        let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
        let mut command = cofferdam.command();
        command.args(["build", form, &mirror]).arg(directory.path());
        run(&mut command).succeeded().stderr
    };
    let plain = stderr("--progress=plain");
    assert!(!plain.contains('\x1b') && plain.contains("#1 [2/4] WORKDIR /w"), "{plain}");
    for line in stderr("--progress=json").lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["event"].is_string(), "{line}");
    }
    assert_eq!(stderr("--progress=quiet"), "");
    assert_eq!(stderr("-q"), "");
}

#[test]
fn an_image_of_the_store_is_pushed_later_and_pruned_never() {
    let (registry, cofferdam, directory) = (Registry::start(), Cofferdam::new(), input());
    let name = registry.reference("later/app:1");
    let tag = format!("--tag={name}");
    let built = build(&cofferdam, &registry, directory.path(), &[&tag]).succeeded();
    assert_eq!(registry.digest("later/app:1"), None);
    let images = run(cofferdam.command().args(["images", "--format=json"])).succeeded();
    assert!(images.stdout.contains(&name) && images.stdout.contains(built.digest()), "{}", images.stdout);
    run(cofferdam.command().args(["prune", "--all"])).succeeded();
    run(cofferdam.command().args(["push", &name])).succeeded();
    assert_eq!(registry.digest("later/app:1").as_deref(), Some(built.digest()));
    run(cofferdam.command().args(["push", &registry.reference("not/there:1")])).failed(13, &["not/there"]);
}

#[test]
fn named_contexts_are_directories_images_layouts_and_stages() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let base = input();
    let layout = cofferdam.home().join("base");
    let output = format!("--output=type=oci,tar=false,dest={}", layout.display());
    build(&cofferdam, &registry, base.path(), &[&output]).succeeded();
    let other = context("", &[("other.txt", "other\n")]);
    let directory = context(
        "FROM base\nCOPY --from=files other.txt /\nCOPY --from=image /etc/debian_version /\nRUN test -e /w/a\n",
        &[],
    );
    let args = [
        format!("--build-context=base=oci-layout://{}", layout.display()),
        format!("--build-context=files={}", other.path().display()),
        "--build-context=image=docker-image://debian:bookworm-slim".to_owned(),
        format!("--tag={}", registry.reference("x/named:1")),
        "--push".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    build(&cofferdam, &registry, directory.path(), &args).succeeded();
    let layers = layers(&registry, "x/named:1");
    assert!(layers.iter().any(|layer| layer.contains_key("other.txt")));
    assert!(layers.iter().any(|layer| layer.contains_key("debian_version")));
    assert!(layers.iter().any(|layer| layer.contains_key("w/a")), "the layers of the layout are pushed");
}

#[test]
fn the_state_directory_is_no_part_of_the_context() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    // A frontend that is built in is not fetched.
    let directory = context("# syntax=docker/dockerfile:1\nFROM scratch\nCOPY . /\n", &[("a", "1")]);
    let state = format!("--state-dir={}", directory.path().join("ci/.state").display());
    let tag = format!("--tag={}", registry.reference("x/state:1"));
    let built = build(&cofferdam, &registry, directory.path(), &[&state, &tag, "--push"]).succeeded();
    let names: Vec<String> = layers(&registry, "x/state:1").remove(0).into_keys().collect();
    assert_eq!(names, ["Dockerfile", "a", "ci"]);
    let again = build(&cofferdam, &registry, directory.path(), &[&state, &tag, "--push"]).succeeded();
    assert_eq!(again.digest(), built.digest());
}

#[test]
fn a_miss_says_which_input_has_changed() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let directory =
        context("FROM busybox:1\nARG A\nRUN echo $A\nCOPY a b /\nRUN true\n", &[("a", "1"), ("b", "1")]);
    let build = |args: &[&str]| build(&cofferdam, &registry, directory.path(), args).succeeded().stderr;
    assert!(build(&["--build-arg=A=1"]).contains("not built here before"));
    assert!(build(&["--build-arg=A=1"]).contains("3 steps, 3 cached"));
    let other = build(&["--build-arg=A=2"]);
    assert!(other.contains("A has changed"), "{other}");
    std::fs::write(directory.path().join("b"), "2").unwrap();
    let other = build(&["--build-arg=A=2"]);
    assert!(other.contains("file b has changed") && other.contains("3 steps, 1 cached"), "{other}");
    std::fs::write(directory.path().join("b"), "1").unwrap();
    assert!(build(&["--build-arg=A=2"]).contains("3 steps, 3 cached"));
    assert!(build(&["--build-arg=A=2", "--no-cache"]).contains("3 steps"));
}

/// Each stage writes a number that nobody has had before.
const NUMBERS: &str = "
FROM busybox:1 AS Base
RUN cat /proc/sys/kernel/random/uuid > /base
FROM base AS made
RUN cp /base /made
FROM busybox:1 AS other
RUN cat /proc/sys/kernel/random/uuid > /other
FROM scratch
COPY --from=made /made /
COPY --from=other /other /
";

#[test]
fn stages_that_are_named_are_carried_out_anew_and_what_takes_from_them() {
    let (registry, cofferdam) = (Registry::start(), Cofferdam::new());
    let directory = context(NUMBERS, &[]);
    let tag = format!("--tag={}", registry.reference("numbers:1"));
    let built = |args: &[&str]| {
        let ran = build(&cofferdam, &registry, directory.path(), &[args, &[&tag, "--push"]].concat());
        let all = layers(&registry, "numbers:1");
        (all[0]["made"].content.clone(), all[1]["other"].content.clone(), ran.succeeded().stderr)
    };
    let (made, other, _) = built(&[]);
    let (same, same_other, said) = built(&["--no-cache-filter=nobody"]);
    assert_eq!((&same, &same_other), (&made, &other));
    assert!(said.contains("no stage is called `nobody`") && said.contains("2 steps, 2 cached"), "{said}");
    // What is built upon it, too: a layer that copies the old number would be wrong.
    let (new, same_other, said) = built(&["--no-cache-filter=BASE"]);
    assert!(new != made && same_other == other, "{said}");
    assert!(said.contains("5 steps, 1 cached") && !said.contains("not built here before"), "{said}");
    let (same, new_other, said) = built(&["--no-cache-filter", "x,other"]);
    assert!(same == new && new_other != other, "{said}");
    assert!(said.contains("3 steps, 1 cached"), "{said}");
    // What was made then is in the cache now.
    let (same, same_other, said) = built(&[]);
    assert_eq!((same, same_other), (new.clone(), new_other.clone()));
    assert!(said.contains("2 steps, 2 cached"), "{said}");
    let mut command = cofferdam.command();
    command.env("COFFERDAM_NO_CACHE_FILTER", "base,other").args(["build", "--progress=plain"]);
    command.arg(format!("--registry-mirror=docker.io=http://{}", registry.address())).arg(directory.path());
    let ran = run(&mut command).succeeded();
    assert!(ran.stderr.contains("5 steps, 0 cached"), "{}", ran.stderr);
}
