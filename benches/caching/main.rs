//! Layer caching: cofferdam beside BuildKit and buildah, each in a state of its own for every build, with nothing between two builds
//! but a registry. Everything between a builder and the registry goes through a proxy that counts, and that is in one pass as
//! near as loopback is, in the other 50 ms away.
//!
//! `cargo bench --bench caching [-- --rows 1,8 --repeat 1 --delay 0 --tools cofferdam --show]`. Rows are 1 (the application: its rows
//! 1 to 7), 8, 9 (forty steps: 9 and 10) and 11; `--delay` is in milliseconds; `--show` prints what was asked for, and when. If nothing
//! is left out, the tables in `docs/benchmarks.md`, which says what is counted, are written anew. Needs root and
//! `fixtures/provision`, for the peers do; cofferdam itself is run as uid 1000 without any capability. Files are made in `$TMPDIR`,
//! which has to be on a disk with 5 GB to spare, and removed.
//!
//! A look that takes less than a minute: `cargo bench --bench caching -- --rows 8 --repeat 1 --delay 0`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod inputs;
#[path = "../peers/machine.rs"]
mod machine;
#[path = "../peers/memory.rs"]
mod memory;
mod proxy;
mod rows;
mod table;
#[path = "../peers/tool.rs"]
mod tool;
mod tools;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use proxy::{Exchange, Proxy, one_after_another};
use support::Registry;
use table::{Sample, Table};
use tool::{Ran, Tool, gone};
use tools::{Job, Session};

const PREFIX: &str = "cofferdam-caching-";
/// How often each build is measured, if nobody says so.
const REPEAT: usize = 5;
/// Builds that begin at once in row 11.
pub const PIPELINES: usize = 10;
/// How far away the registry is in each pass.
const DELAYS: [Duration; 2] = [Duration::ZERO, table::FAR];

type Measure = fn(&mut Bench);

/// The rows, as they are chosen.
const GROUPS: [(u32, Measure); 4] =
    [(1, rows::application), (8, rows::run_follows), (9, rows::forty_steps), (11, rows::pipelines)];

struct Arguments {
    groups: Vec<u32>,
    repeat: usize,
    delays: Vec<Duration>,
    tools: Vec<Tool>,
    show: bool,
}

/// What the rows are given.
struct Bench<'a> {
    /// A directory on disk that anyone may read.
    scratch: PathBuf,
    arguments: &'a Arguments,
    registry: &'a Registry,
    /// Ways to the registry, one a builder.
    proxies: Vec<Proxy>,
    delay: Duration,
    table: &'a mut Table,
    requests: u64,
}

impl Bench<'_> {
    /// The tools, beginning with another in each round.
    fn turn(&self, round: usize) -> Vec<Tool> {
        let mut tools = self.arguments.tools.clone();
        tools.rotate_left(round % self.arguments.tools.len());
        tools
    }

    /// One build, from nothing but what is on the registry.
    fn build(&mut self, row: Option<&'static str>, tool: Tool, job: Job) {
        self.build_all(row, tool, &[job]);
    }

    /// Builds that begin at once, each with a state of its own. Without a row they are not noted.
    fn build_all(&mut self, row: Option<&'static str>, tool: Tool, jobs: &[Job]) {
        let with = |(number, proxy): (usize, &Proxy)| {
            Session::start(tool, proxy.address(), &self.scratch, &format!("state-{number}"))
        };
        let sessions: Vec<Session> = self.proxies.iter().take(jobs.len()).enumerate().map(with).collect();
        // What was written before is not written back at this build's expense.
        rustix::fs::sync();
        for proxy in &self.proxies {
            proxy.take();
        }
        let barrier = Barrier::new(jobs.len());
        let ran: Vec<Ran> = thread::scope(|scope| {
            let begin = |(session, job)| {
                let (session, barrier): (&Session, &Barrier) = (session, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    session.build(job)
                })
            };
            let running: Vec<_> = sessions.iter().zip(jobs).map(begin).collect();
            running.into_iter().map(|one| one.join().expect("a build that succeeds")).collect()
        });
        let went: Vec<(Vec<Exchange>, usize)> =
            self.proxies.iter().take(jobs.len()).map(Proxy::take).collect();
        for session in sessions {
            session.end();
        }
        self.note(row, tool, &ran, &went);
    }

    fn note(&mut self, row: Option<&'static str>, tool: Tool, ran: &[Ran], went: &[(Vec<Exchange>, usize)]) {
        let of_all = |of: fn(&Exchange) -> u64| went.iter().flat_map(|(all, _)| all).map(of).sum::<u64>();
        let of_layers = went.iter().flat_map(|(all, _)| all).filter(|one| self.is_of_a_layer(one));
        let sample = Sample {
            wall: ran.iter().map(|one| one.wall).max().unwrap_or_default(),
            peak: ran.iter().map(|one| one.peak).sum(),
            down: of_all(|one| one.down),
            of_layers: of_layers.map(|one| one.down).sum(),
            up: of_all(|one| one.up),
            requests: of_all(|one| u64::from(one.method != proxy::TLS)),
            connections: went.iter().map(|(_, connections)| *connections as u64).sum(),
            round_trips: went.iter().map(|(all, _)| one_after_another(all)).max().unwrap_or(0) as u64,
        };
        self.requests += sample.requests;
        let name = format!("{:2} {:9} {:2} ms", row.unwrap_or("-"), tool.name(), self.delay.as_millis());
        eprintln!("{name} {sample}");
        if self.arguments.show {
            for (ran, (exchanges, _)) in ran.iter().zip(went) {
                eprintln!("{}{}", ran.log, shown(exchanges));
            }
        }
        if let Some(row) = row {
            self.table.note(self.delay, row, tool, sample);
        }
    }

    /// Whether a request brought what is not JSON: manifests and configurations are.
    fn is_of_a_layer(&self, exchange: &Exchange) -> bool {
        // Some ask mirrors with a query that says whose they are.
        let path = exchange.path.split('?').next().unwrap_or_default();
        let blob = path.rsplit_once("/blobs/").map(|(_, digest)| digest);
        let Some(digest) = blob.filter(|digest| exchange.down > 0 && digest.starts_with("sha256:")) else {
            return false;
        };
        let mut first = [0];
        let read = fs::File::open(self.registry.blob_path(digest))
            .and_then(|mut file| std::io::Read::read(&mut file, &mut first));
        read.is_ok() && first != *b"{"
    }
}

/// Requests, one a line: when they began and ended, in milliseconds, bytes up and down, and what was asked.
fn shown(exchanges: &[Exchange]) -> String {
    let line = |one: &Exchange| {
        let (start, end) = (one.start.as_secs_f64() * 1e3, one.end.as_secs_f64() * 1e3);
        let Exchange { method, path, status, up, down, .. } = one;
        format!("  {start:8.1} {end:8.1} {up:>9} {down:>9} {status} {method} {path}\n")
    };
    exchanges.iter().map(line).collect()
}

fn main() {
    let arguments = arguments();
    let scratch = machine::scratch(PREFIX);
    let mut table = Table::begin(arguments.repeat, scratch.path());
    for delay in arguments.delays.clone() {
        pass(&arguments, delay, scratch.path(), &mut table);
    }
    let text = table.to_markdown();
    println!("{text}");
    std::io::stdout().flush().unwrap();
    let whole = arguments.groups.len() == GROUPS.len()
        && arguments.delays == DELAYS
        && arguments.tools.len() == Tool::ALL.len();
    if whole {
        machine::write_into_documentation("caching", &text);
    }
}

/// All rows, with the registry at one distance.
fn pass(arguments: &Arguments, delay: Duration, scratch: &Path, table: &mut Table) {
    let registry = Registry::start();
    let storage = registry.storage();
    let proxies = (0..PIPELINES).map(|_| Proxy::start(registry.address(), delay)).collect();
    let scratch = scratch.to_owned();
    let mut bench = Bench { scratch, arguments, registry: &registry, proxies, delay, table, requests: 0 };
    for (number, group) in GROUPS {
        if arguments.groups.contains(&number) {
            group(&mut bench);
        }
    }
    let counted = bench.requests;
    drop(bench);
    // The registry has its own count.
    table.note_requests(counted, registry.requests().len() as u64);
    drop(registry);
    gone(&storage);
}

fn arguments() -> Arguments {
    let mut read = Arguments {
        groups: GROUPS.iter().map(|(number, _)| *number).collect(),
        repeat: REPEAT,
        delays: DELAYS.to_vec(),
        tools: Tool::ALL.to_vec(),
        show: false,
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        if argument == "--show" {
            read.show = true;
            continue;
        }
        let value = arguments.next().unwrap_or_else(|| panic!("{argument} has a value"));
        match argument.as_str() {
            "--rows" => read.groups = value.split(',').map(group).collect(),
            "--repeat" => read.repeat = value.parse().expect("a number"),
            "--delay" => {
                let delay = |word: &str| Duration::from_millis(word.parse().expect("milliseconds"));
                read.delays = value.split(',').map(delay).collect();
            }
            "--tools" => read.tools = value.split(',').map(tool).collect(),
            other => {
                panic!("`{other}` is no option: there are --rows, --repeat, --delay, --tools and --show")
            }
        }
    }
    read
}

fn group(word: &str) -> u32 {
    let known = |number: &u32| GROUPS.iter().any(|(known, _)| known == number);
    word.parse().ok().filter(known).unwrap_or_else(|| panic!("the rows are 1, 8, 9 and 11, not `{word}`"))
}

fn tool(word: &str) -> Tool {
    let found = Tool::ALL.into_iter().find(|tool| tool.name() == word);
    found.unwrap_or_else(|| panic!("the tools are cofferdam, buildkit and buildah, not `{word}`"))
}
