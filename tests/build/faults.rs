//! Disks that fill up, registries that go away, builds beside builds: a clear error, the documented exit status, and the
//! next build works.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Cofferdam, Registry, eventually, layers};
use crate::{build, context, run};

/// A file system of its own, of a few megabytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> Self {
        let directory = tempfile::Builder::new().prefix("small-disk-").tempdir().unwrap();
        let size = format!("size={megabytes}m,mode=0777");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).status();
        assert!(
            status.unwrap().success(),
            "a file system of {megabytes} MB cannot be mounted: this needs root"
        );
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_the_next_build_works() {
    let registry = Registry::start();
    let directory = context("FROM busybox:1\nCOPY . /\n", &[("small", "content\n")]);
    std::fs::write(directory.path().join("large"), noise(40 << 20)).unwrap();
    for cofferdam in [Cofferdam::new(), Cofferdam::as_uid(1000)] {
        let disk = SmallDisk::new(20);
        let state = format!("--state-dir={}", disk.path().join("state").display());
        let ran = build(&cofferdam, &registry, directory.path(), &[&state]);
        ran.failed(12, &["No space left on device", &disk.path().display().to_string()]);
        // What the failed build has left is not in the way of one that has room.
        let smaller = context("FROM busybox:1\nRUN dd if=/dev/zero of=/f bs=1M count=2\n", &[]);
        build(&cofferdam, &registry, smaller.path(), &[&state]).succeeded();
        // Nor may a step fill the disk without being told.
        let greedy = context("FROM busybox:1\nRUN dd if=/dev/urandom of=/f bs=1M count=60\n", &[]);
        build(&cofferdam, &registry, greedy.path(), &[&state]).failed(4, &["No space left on device"]);
        // The next build needs the room now, and not when somebody comes to tidy up.
        let left = leftovers(&disk.path().join("state"));
        assert!(left.is_empty(), "{left:?}");
        build(&cofferdam, &registry, smaller.path(), &[&state, "--no-cache"]).succeeded();
    }
}

/// Without the cache it would be full again.
#[test]
fn a_full_disk_is_not_the_caches_fault() {
    let registry = Registry::start();
    let tree = context("FROM busybox:1\nCOPY large /\nRUN echo 1\n", &[]);
    std::fs::write(tree.path().join("large"), noise(40 << 20)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("cache").display().to_string();
    let repository = registry.reference("group/cache");
    let filled = Cofferdam::new();
    let both = [format!("--cache-to=type=local,dest={directory}"), format!("--cache-repo={repository}")];
    build(&filled, &registry, tree.path(), &[&both[0], &both[1]]).succeeded();
    std::fs::write(tree.path().join("Dockerfile"), "FROM busybox:1\nCOPY large /\nRUN echo 2\n").unwrap();
    for from in [format!("--cache-from=type=local,src={directory}"), format!("--cache-from={repository}")] {
        let disk = SmallDisk::new(20);
        let state = format!("--state-dir={}", disk.path().join("state").display());
        let ran = build(&Cofferdam::new(), &registry, tree.path(), &[&state, &from]);
        ran.failed(12, &["No space left on device"]);
        assert!(!ran.stderr.contains("building without it"), "{}", ran.stderr);
    }
}

/// Bytes that no compression makes fewer.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn a_registry_that_goes_away_is_told_and_the_next_push_works() {
    let registry = Registry::start();
    let target = Registry::options().empty().start();
    let cofferdam = Cofferdam::new();
    let directory = context("FROM busybox:1\nRUN sleep 3 && echo done > /done\nCOPY a /\n", &[("a", "1")]);
    let name = target.reference("x/y:1");
    let mut command = Command::new(Cofferdam::binary());
    let mut child = command
        .env_clear()
        .env("HOME", cofferdam.home())
        .args(["build", "--push", "--progress=plain", &format!("--tag={name}")])
        .arg(format!("--registry-mirror=docker.io=http://{}", registry.address()))
        .arg(directory.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let address = target.address().to_owned();
    drop(target);
    let began = Instant::now();
    let status = child.wait().unwrap();
    let output = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(6), "{output}");
    assert!(output.contains(&address) && output.contains("refused"), "{output}");
    assert!(began.elapsed() < Duration::from_mins(2), "it gave up after {:?}", began.elapsed());
    // The same name somewhere else: all steps are known.
    let again = Registry::options().empty().start();
    let tag = format!("--tag={}", again.reference("x/y:1"));
    let pushed = build(&cofferdam, &registry, directory.path(), &[&tag, "--push"]).succeeded();
    assert!(pushed.stderr.contains("2 steps, 2 cached"), "{}", pushed.stderr);
    assert_eq!(again.digest("x/y:1").as_deref(), Some(pushed.digest()));
}

#[test]
fn builds_side_by_side_share_a_state_directory() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let contexts: Vec<_> = (0..4)
        .map(|number| {
            let own = format!("FROM python:3.9-slim\nRUN echo shared > /shared\nRUN echo {number} > /own\n");
            context(&own, &[])
        })
        .collect();
    std::thread::scope(|scope| {
        for (number, context) in contexts.iter().enumerate() {
            let (registry, cofferdam) = (&registry, &cofferdam);
            scope.spawn(move || {
                let tag = format!("--tag={}", registry.reference(&format!("side/by-side:{number}")));
                build(cofferdam, registry, context.path(), &[&tag, "--push"]).succeeded();
            });
        }
    });
    for number in 0..4 {
        let layers = layers(&registry, &format!("side/by-side:{number}"));
        let own = layers.last().unwrap().get("own").unwrap();
        assert_eq!(own.content, format!("{:?}", format!("{number}\n")));
    }
    // The base image was brought once, whoever asked first.
    let blobs = registry.requests().into_iter().filter(|request| {
        request.method == "GET" && request.path.contains("library/python/blobs") && request.status == 200
    });
    let mut paths: Vec<String> = blobs.map(|request| request.path).collect();
    let all = paths.len();
    paths.sort();
    paths.dedup();
    assert!(
        all <= paths.len() + 3,
        "each of {} blobs was brought once, configurations aside: {all}",
        paths.len()
    );
    let state = state_directory(&cofferdam);
    run(cofferdam.command().arg("validate").arg(&state)).succeeded();
    nothing_is_left(&state);
}

/// Where a home's state lies.
pub fn state_directory(cofferdam: &Cofferdam) -> PathBuf {
    cofferdam.home().join(".local/share/cofferdam")
}

/// Waits until there are no files of builds that are over: a process that outlives a build keeps its roots or removes them.
///
/// # Panics
/// If there still are some after a minute.
pub fn nothing_is_left(state: &Path) {
    eventually("removal of what builds have left", Duration::from_mins(1), || match leftovers(state) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

fn leftovers(state: &Path) -> Vec<PathBuf> {
    ["cofferdam/tmp", "cofferdam/workspaces"]
        .iter()
        .filter_map(|name| std::fs::read_dir(state.join(name)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn an_interrupted_build_ends_its_steps() {
    let registry = Registry::start();
    let cofferdam = Cofferdam::new();
    let marker = format!("{}.{}", std::process::id(), 4217);
    let directory = context(&format!("FROM busybox:1\nRUN sleep {marker} & sleep {marker}\n"), &[]);
    let mut child = Command::new(Cofferdam::binary())
        .env_clear()
        .env("HOME", cofferdam.home())
        .args(["build", "--progress=plain"])
        .arg(format!("--registry-mirror=docker.io=http://{}", registry.address()))
        .arg(directory.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let running = || {
        let found = Command::new("pgrep").args(["-f", &format!("^sleep {marker}")]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).lines().count()
    };
    eventually("two sleeping programs", Duration::from_secs(20), || match running() {
        2 => Ok(()),
        other => Err(format!("{other}")),
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(143));
    eventually("the end of both", Duration::from_secs(5), || match running() {
        0 => Ok(()),
        other => Err(format!("{other}")),
    });
}
