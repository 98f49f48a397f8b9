//! Deployments: cofferdam beside `kubectl apply --server-side` and `kubectl rollout status`, against a real API server with real
//! controllers and nodes that are there by name alone, on which pods are ready as soon as they are bound.
//!
//! `cargo bench --bench deploy [-- --rows 1,5 --repeat 1]`. Rows are 1 (a hundred objects: rows 1 to 4) and 5 (two thousand: rows 5 and
//! 6, once). If nothing is left out, the table in `docs/benchmarks.md`, which says what is measured, is written anew. Needs root and
//! `fixtures/provision`, for the cluster does.
//!
//! A look that takes less than a minute: `cargo bench --bench deploy -- --rows 1 --repeat 1`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod inputs;
#[path = "../peers/machine.rs"]
#[allow(dead_code)]
mod machine;
#[path = "../peers/memory.rs"]
#[allow(dead_code)]
mod memory;
mod table;
#[path = "../peers/tool.rs"]
#[allow(dead_code)]
mod tool;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use inputs::{Scale, manifests, workloads};
use support::{Cluster, Cofferdam, Fate, Front, eventually};
use table::{Peer, Sample, Table};
use tool::timed;

const PREFIX: &str = "cofferdam-deploy-";
/// How often each row of a hundred objects is measured, if nobody says so.
const REPEAT: usize = 5;
/// Nodes by name.
const NODES: usize = 10;
/// How long the cluster may take to clear up.
const CLEARING: Duration = Duration::from_secs(300);

/// What a tool is to do.
#[derive(Clone, Copy)]
struct Job<'a> {
    kubeconfig: &'a Path,
    namespace: &'a str,
    file: &'a Path,
    workloads: &'a [String],
    /// Whether it is waited until everything is ready.
    waits: bool,
}

struct Bench {
    cluster: Cluster,
    kubectl: PathBuf,
    scratch: PathBuf,
    table: Table,
    number: u32,
}

impl Bench {
    /// The commands by which a tool does it.
    fn commands(&self, peer: Peer, job: Job<'_>) -> Vec<Command> {
        let program = self.program(peer);
        let begin = |args: &[&str]| {
            let mut command = Command::new(program);
            command.env_clear().env("HOME", &self.scratch).env("KUBECONFIG", job.kubeconfig);
            command.args(args).args(["-n", job.namespace]);
            command
        };
        let file = job.file.to_str().expect("a path");
        match peer {
            Peer::Cofferdam => {
                let wait: &[&str] = if job.waits { &[] } else { &["--no-wait"] };
                vec![begin(&[&["deploy", "-f", file], wait].concat())]
            }
            Peer::Kubectl => {
                let mut commands = vec![begin(&["apply", "--server-side", "-f", file])];
                let waited = job.workloads.iter().filter(|_| job.waits);
                commands
                    .extend(waited.map(|workload| begin(&["rollout", "status", workload, "--timeout=300s"])));
                commands
            }
        }
    }

    fn program(&self, peer: Peer) -> &Path {
        match peer {
            Peer::Cofferdam => Cofferdam::binary(),
            Peer::Kubectl => &self.kubectl,
        }
    }

    fn measure(&mut self, row: Option<usize>, peer: Peer, job: Job<'_>) {
        let ran = timed(&mut self.commands(peer, job), self.program(peer));
        let sample = Sample { wall: ran.wall, peak: ran.peak };
        eprintln!(
            "{:?} {:9} {:8.3} s {:4} MiB",
            row,
            peer.name(),
            sample.wall.as_secs_f64(),
            sample.peak >> 10
        );
        if let Some(row) = row {
            self.table.note(row, peer, sample);
        }
    }

    /// The same over a proxy that counts.
    fn count(&mut self, row: usize, peer: Peer, job: Job<'_>) {
        let front = Front::start(&self.cluster, Duration::ZERO, |_| Fate::Passed);
        let kubeconfig = front.kubeconfig();
        let job = Job { kubeconfig: &kubeconfig, ..job };
        timed(&mut self.commands(peer, job), self.program(peer));
        self.table.note_requests(row, peer, front.asked().len());
    }

    /// A new namespace, in which everything is as it will be.
    fn namespace(&mut self) -> String {
        self.number += 1;
        let name = format!("bench-{}", self.number);
        self.cluster.run(&["create", "namespace", &name], "").expect("a namespace");
        eventually("its service account", CLEARING, || {
            self.cluster.run(&["-n", &name, "get", "serviceaccount", "default"], "")
        });
        name
    }

    /// Its end: what is cleared away afterwards is at nobody's expense.
    fn clear(&self, namespace: &str) {
        self.cluster.run(&["delete", "namespace", namespace, "--timeout=300s"], "").expect("it goes");
        eventually("the end of pods", CLEARING, || {
            let left = self.cluster.run(&["get", "pods", "-A", "-o", "name"], "")?;
            if left.trim().is_empty() { Ok(()) } else { Err(left) }
        });
        std::thread::sleep(Duration::from_secs(1));
    }

    /// What is applied, as a file; and the names of what is waited for.
    fn file(&self, scale: Scale, version: &str) -> (PathBuf, Vec<String>) {
        let path = self.scratch.join(format!("{}-{version}.yaml", scale.objects()));
        fs::write(&path, manifests(scale, version)).expect("a file");
        (path, workloads(scale))
    }

    /// Rows `first` (new), `first + 1` (the same again) and, if there is one, `first + 2` (another image).
    fn life(&mut self, first: usize, scale: Scale, peer: Peer, work: fn(&mut Self, usize, Peer, Job<'_>)) {
        let namespace = self.namespace();
        let kubeconfig = self.cluster.kubeconfig().to_owned();
        let ((one, workloads), (two, _)) = (self.file(scale, "v1"), self.file(scale, "v2"));
        let job = Job {
            kubeconfig: &kubeconfig,
            namespace: &namespace,
            file: &one,
            workloads: &workloads,
            waits: true,
        };
        work(self, first, peer, job);
        work(self, first + 1, peer, job);
        if scale == Scale::Hundred {
            work(self, first + 2, peer, Job { file: &two, ..job });
            self.clear(&namespace);
            let other = self.namespace();
            work(self, first + 3, peer, Job { namespace: &other, waits: false, ..job });
            self.clear(&other);
        } else {
            self.clear(&namespace);
        }
    }
}

fn main() {
    let (rows, repeat) = arguments();
    let scratch = machine::scratch(PREFIX);
    let cluster = Cluster::with_named_nodes(NODES);
    let kubectl = PathBuf::from(cluster.kubectl().get_program());
    let table = Table::begin(repeat, scratch.path());
    let mut bench = Bench { cluster, kubectl, scratch: scratch.path().to_owned(), table, number: 0 };
    if rows.contains(&1) {
        // kubectl keeps what it has found out about the cluster, and begins with that; the server has seen it all once.
        for peer in Peer::ALL {
            bench.life(1, Scale::Hundred, peer, |bench, _, peer, job| bench.measure(None, peer, job));
        }
        for round in 0..repeat {
            let mut peers = Peer::ALL;
            peers.rotate_left(round % Peer::ALL.len());
            for peer in peers {
                bench.life(1, Scale::Hundred, peer, |bench, row, peer, job| {
                    bench.measure(Some(row), peer, job)
                });
            }
        }
        for peer in Peer::ALL {
            bench.life(1, Scale::Hundred, peer, Bench::count);
        }
    }
    if rows.contains(&5) {
        for peer in Peer::ALL {
            bench
                .life(5, Scale::Thousands, peer, |bench, row, peer, job| bench.measure(Some(row), peer, job));
        }
    }
    let text = bench.table.to_markdown();
    println!("{text}");
    if rows == [1, 5] {
        machine::write_into_documentation("deploy", &text);
    }
}

fn arguments() -> (Vec<u32>, usize) {
    let (mut rows, mut repeat) = (vec![1, 5], REPEAT);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{argument} has a value"));
        match argument.as_str() {
            "--rows" => rows = value.split(',').map(|word| word.parse().expect("1 or 5")).collect(),
            "--repeat" => repeat = value.parse().expect("a number"),
            other => panic!("`{other}` is no option: there are --rows and --repeat"),
        }
    }
    (rows, repeat)
}
