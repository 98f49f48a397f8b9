//! Memory does not grow with layers: one of many times the memory that there is, is made, pulled, changed, compressed and
//! pushed.
//!
//! `LAYER_MIB=5120` is the campaign at full size; see `docs/campaigns.md`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::context;
use crate::support::{Cofferdam, Registry};

/// In an ordinary run of the tests: more than the limit.
const LAYER_MIB: u64 = 320;
/// What the container has, page cache included.
const LIMIT_MIB: u64 = 256;
/// What cofferdam may need of it. It is below 64 on a machine that does nothing else; a busy one keeps more pieces on
/// their way.
const RSS_MIB: u64 = 80;

/// A control group with a limit of memory, as a pod has one.
struct Limited {
    directory: PathBuf,
    is_first_version: bool,
}

impl Limited {
    fn new(mebibytes: u64) -> Self {
        let first = Path::new("/sys/fs/cgroup/memory");
        let is_first_version = first.exists();
        let root = if is_first_version { first } else { Path::new("/sys/fs/cgroup") };
        if !is_first_version {
            std::fs::write(root.join("cgroup.subtree_control"), "+memory")
                .expect("control groups limit memory: this needs root and no container around it");
        }
        let directory = root.join(format!("cofferdam-test-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a control group: this needs root");
        let limit = if is_first_version { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::write(directory.join(limit), (mebibytes << 20).to_string()).expect("its limit");
        Self { directory, is_first_version }
    }

    /// Memory of the group that is no page cache, in bytes.
    fn anonymous(&self) -> u64 {
        let name = if self.is_first_version { "total_rss " } else { "anon " };
        let stat = std::fs::read_to_string(self.directory.join("memory.stat")).unwrap();
        stat.lines().find_map(|line| line.strip_prefix(name)).expect("a figure").parse().unwrap()
    }

    /// Runs a build in it. Gives what it printed, and how much memory all its processes had at most, in bytes.
    fn run(&self, cofferdam: &Cofferdam, arguments: &[&str]) -> (String, u64) {
        let mut command = std::process::Command::new("/bin/sh");
        let into = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.directory.display());
        let started = cofferdam.process();
        command.args(["-c", &into, "sh"]).arg(started.get_program()).args(arguments).env_clear();
        command.envs(started.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(cofferdam.home()).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = child.id();
        let ended = std::thread::spawn(move || child.wait_with_output().unwrap());
        let mut peak = 0;
        while !ended.is_finished() {
            peak = peak.max(self.anonymous());
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = ended.join().unwrap();
        assert!(output.status.success(), "process {pid}: {}", output.status);
        (String::from_utf8(output.stdout).unwrap(), peak)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.directory);
    }
}

#[test]
fn a_layer_that_is_larger_than_memory_is_made_pulled_changed_and_pushed() {
    let size = std::env::var("LAYER_MIB").map_or(LAYER_MIB, |text| text.parse().unwrap());
    let limited = Limited::new(LIMIT_MIB);
    let registry = Registry::start();
    let (base, changed) = (registry.reference("group/large:1"), registry.reference("group/large:2"));
    // A quarter is noise: there is something to do for a compressor, and disks need not hold all of it several times.
    let make = format!(
        "FROM busybox:1\nRUN head -c 4194304 /dev/urandom > /noise && for i in $(seq {}); do \
         {{ echo $i; cat /noise; head -c 16777216 /dev/zero; }} | head -c 16777216; done > /large && rm /noise\n",
        size / 16
    );
    let change = format!("FROM {base}\nRUN echo changed >> /large\n");
    let mirror = format!("--registry-mirror=docker.io=http://{}", registry.address());
    for (dockerfile, tag) in [(make, &base), (change, &changed)] {
        let tree = context(&dockerfile, &[]);
        let cofferdam = Cofferdam::new();
        let began = Instant::now();
        let directory = tree.path().to_str().unwrap();
        let (digest, peak) = limited.run(
            &cofferdam,
            &["build", "--progress=plain", &mirror, "--push", &format!("--tag={tag}"), directory],
        );
        assert!(digest.starts_with("sha256:"), "{digest}");
        eprintln!("{size} MiB: {} MiB of memory at most, {:.0?}", peak >> 20, began.elapsed());
        assert!(peak < RSS_MIB << 20, "{} MiB", peak >> 20);
    }
    let manifest = registry.manifest("group/large:2");
    let digest = |layer: usize| manifest["layers"][layer]["digest"].as_str().unwrap();
    let open = |layer: usize| {
        let file = std::fs::File::open(registry.blob_path(digest(layer))).unwrap();
        tar::Archive::new(flate2::read::MultiGzDecoder::new(file))
    };
    let (mut made, mut changed) = (open(1), open(2));
    let (mut made, mut changed) = (large(&mut made), large(&mut changed));
    assert_eq!((made.size(), changed.size()), (size << 20, (size << 20) + 8));
    let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for number in 0..size {
        made.read_exact(&mut ours).unwrap();
        changed.read_exact(&mut theirs).unwrap();
        assert!(ours == theirs, "MiB {number} differs");
    }
    let mut end = String::new();
    changed.read_to_string(&mut end).unwrap();
    assert_eq!(end, "changed\n");
}

/// The large file in an archive.
fn large<R: Read>(archive: &mut tar::Archive<R>) -> tar::Entry<'_, R> {
    let is_large = |entry: &tar::Entry<'_, R>| entry.path().unwrap() == Path::new("large");
    archive.entries().unwrap().map(Result::unwrap).find(is_large).expect("the large file")
}
