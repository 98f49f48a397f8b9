//! cofferdam beside BuildKit and buildah: the same builds, on the same machine, from and to the same registry, in turns.
//!
//! `cargo bench --bench peers [-- --rows 1,4 --repeat 3]`. Rows are 1 (the calculator: its rows 1 to 3), 4, 5, 6 and 7; without
//! `--rows` all of them are measured and the tables in `docs/benchmarks.md`, which says what is counted, are written anew. Needs
//! root and `fixtures/provision`, for the peers do; cofferdam itself is run as uid 1000 without any capability. Files are made
//! in `$TMPDIR`, which has to be on a disk, and removed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod apt;
mod inputs;
mod memory;
mod rows;
mod table;
mod tools;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use table::Table;
use tools::{Sample, Tool};

const PREFIX: &str = "cofferdam-peers-";
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// How often each build is measured, if nobody says so.
const REPEAT: usize = 5;

type Measure = fn(&mut Bench);

/// The rows, as they are chosen.
const GROUPS: [(u32, Measure); 5] =
    [(1, rows::calculator), (4, rows::many_files), (5, rows::one_gib), (6, rows::touch), (7, apt::row)];

/// What the rows are given.
struct Bench {
    /// A directory on disk that anyone may read.
    scratch: PathBuf,
    repeat: usize,
    table: Table,
}

impl Bench {
    /// The tools, beginning with another in each round.
    fn turn(round: usize) -> [Tool; 3] {
        let mut tools = Tool::ALL;
        tools.rotate_left(round % Tool::ALL.len());
        tools
    }

    fn note(&mut self, row: &'static str, tool: Tool, sample: Sample) {
        let (wall, peak) = (sample.wall.as_secs_f64(), sample.peak >> 10);
        eprintln!("{row:3} {:10} {wall:8.2} s {peak:5} MiB", tool.name());
        self.table.note(row, tool, sample);
    }
}

fn main() {
    let (groups, repeat) = arguments();
    let scratch = scratch();
    let mut bench =
        Bench { scratch: scratch.path().to_owned(), repeat, table: Table::begin(repeat, scratch.path()) };
    for (number, group) in GROUPS {
        if groups.contains(&number) {
            group(&mut bench);
        }
    }
    let text = bench.table.to_markdown();
    println!("{text}");
    std::io::stdout().flush().unwrap();
    if groups.len() == GROUPS.len() {
        table::write_into_documentation(&text);
    }
}

fn arguments() -> (Vec<u32>, usize) {
    let mut groups: Vec<u32> = GROUPS.iter().map(|(number, _)| *number).collect();
    let mut repeat = REPEAT;
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{argument} has a value"));
        match argument.as_str() {
            "--rows" => {
                groups = value.split(',').map(|row| row.parse().expect("rows are numbers")).collect();
                let known = |row: &u32| GROUPS.iter().any(|(number, _)| number == row);
                assert!(groups.iter().all(known), "the rows are 1, 4, 5, 6 and 7");
            }
            "--repeat" => repeat = value.parse().expect("a number"),
            other => panic!("`{other}` is no option: there are --rows and --repeat"),
        }
    }
    (groups, repeat)
}

/// A directory on disk, and an end to those of runs that were killed.
fn scratch() -> tempfile::TempDir {
    let parent = std::env::temp_dir();
    let kind = rustix::fs::statfs(&parent).expect("a file system").f_type;
    assert!(kind != TMPFS_MAGIC, "temporary files would be in memory: set TMPDIR to a directory on a disk");
    for entry in fs::read_dir(&parent).expect("a directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            fs::remove_dir_all(entry.path()).expect("what a killed run has left can be removed");
        }
    }
    let scratch =
        tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(parent);
    let scratch = scratch.expect("a directory");
    fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("its mode");
    scratch
}
