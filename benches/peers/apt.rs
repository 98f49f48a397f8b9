//! Row 7: what the sandbox costs. The same command in a step of each tool, and as real root in a chroot.
//!
//! The command takes its times itself, so that the same is measured wherever it runs: nothing of the tool but the step.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Bench;
use super::inputs;
use super::rows::end;
use super::support::Registry;
use super::tool::Tool;
use super::tools::Session;

const BASE: &str = "library/debian:bookworm-slim";

/// Downloads first, so that there is a time without the network. It prints `took=NANOSECONDS,…`, one number a part.
const SCRIPT: &str = "\
export DEBIAN_FRONTEND=noninteractive; packages='git build-essential'; install='apt-get install -y --no-install-recommends'; \
a=$(date +%s%N) && apt-get update && b=$(date +%s%N) && $install --download-only $packages && c=$(date +%s%N) && \
$install $packages && d=$(date +%s%N) && echo took=$((b - a)),$((c - b)),$((d - c))";

/// Seconds of each part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub update: f64,
    pub download: f64,
    pub install: f64,
}

impl Times {
    fn parse(log: &str) -> Self {
        let digits =
            |rest: &str| rest.chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect::<String>();
        // The command itself may be in the log too.
        let found = log.match_indices("took=").map(|(at, word)| digits(&log[at + word.len()..]));
        let numbers = found.filter(|digits| digits.matches(',').count() == 2).last();
        let numbers = numbers.unwrap_or_else(|| panic!("the command did not say what it took:\n{log}"));
        let seconds: Vec<f64> =
            numbers.split(',').map(|n| n.parse::<f64>().expect("a number") / 1e9).collect();
        Self { update: seconds[0], download: seconds[1], install: seconds[2] }
    }

    pub fn total(self) -> f64 {
        self.update + self.download + self.install
    }
}

/// Who runs the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runner {
    /// Real root in a chroot on the disk.
    Chroot,
    /// The same on an overlay that is mounted `volatile`: the kernel answers `fsync` at once. cofferdam does so in its steps,
    /// and buildah mounts its layers so; package managers call it for every file.
    Unsynced,
    /// A step of a tool.
    Tool(Tool),
}

impl Runner {
    pub fn name(self) -> &'static str {
        match self {
            Self::Chroot => "root in a chroot",
            Self::Unsynced => "root in a chroot, `fsync` answered at once",
            Self::Tool(Tool::Cofferdam) => "cofferdam, uid 1000",
            Self::Tool(Tool::BuildKit) => "BuildKit",
            Self::Tool(Tool::Buildah) => "buildah",
        }
    }
}

pub type Results = BTreeMap<Runner, Vec<Times>>;

pub fn row(bench: &mut Bench) {
    let registry = Registry::start();
    let context =
        inputs::context(bench.scratch.join("apt"), &format!("FROM debian:bookworm-slim\nRUN {SCRIPT}\n"));
    for round in 0..bench.repeat {
        let mut turn: Vec<Runner> = vec![Runner::Chroot, Runner::Unsynced];
        turn.extend(Bench::turn(round).map(Runner::Tool));
        let runners = turn.len();
        turn.rotate_left(round % runners);
        for runner in turn {
            let times = match runner {
                Runner::Chroot | Runner::Unsynced => chroot(&registry, &bench.scratch, runner),
                Runner::Tool(tool) => {
                    let name = registry.reference(&format!("peers/apt-{}-{round}:1", tool.name()));
                    let session = Session::start(tool, &registry, &bench.scratch);
                    let sample = session.build(&context, &name);
                    let times = Times::parse(&sample.log);
                    bench.note("7", tool, sample);
                    session.end();
                    times
                }
            };
            eprintln!("7   {} {times:.2?}", runner.name());
            bench.table.note_apt(runner, times);
        }
    }
    fs::remove_dir_all(context).expect("the context can be removed");
    end(registry);
}

/// The command as root, confined by nothing.
fn chroot(registry: &Registry, scratch: &Path, runner: Runner) -> Times {
    let place = scratch.join("chroot");
    for name in ["root", "upper", "work"] {
        fs::create_dir_all(place.join(name)).expect("a directory");
    }
    let root = place.join("root");
    for layer in registry.manifest(BASE)["layers"].as_array().expect("layers") {
        let blob = registry.blob_path(layer["digest"].as_str().expect("a digest"));
        let unpacked = Command::new("tar")
            .args(["-x", "-p", "--numeric-owner", "-C"])
            .arg(&root)
            .arg("-f")
            .arg(blob)
            .status();
        assert!(unpacked.expect("tar runs").success(), "the base cannot be unpacked");
    }
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).expect("name servers");
    for directory in ["proc", "dev"] {
        fs::create_dir_all(root.join(directory)).expect("a mount point");
    }
    rustix::fs::sync();
    // Mounts end with the namespace.
    let overlay = match runner {
        Runner::Unsynced => {
            "mount -t overlay overlay -o volatile,lowerdir=root,upperdir=upper,workdir=work root && "
        }
        _ => "",
    };
    let outside = format!(
        "cd \"$1\" && {overlay}mount -t proc proc root/proc && mount --rbind /dev root/dev && \
         exec chroot root /usr/bin/env -i HOME=/root PATH=\"$2\" /bin/sh -c \"$3\""
    );
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child=KILL", "sh", "-ec", &outside, "sh"])
        .arg(&place)
        .args(["/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", SCRIPT])
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "the command failed:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::remove_dir_all(&place).expect("the root can be removed");
    Times::parse(&said)
}
