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
mod machine;
mod memory;
mod rows;
mod table;
mod tool;
mod tools;

use std::io::Write;
use std::path::PathBuf;

use table::Table;
use tool::{Ran, Tool};

const PREFIX: &str = "cofferdam-peers-";
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

    fn note(&mut self, row: &'static str, tool: Tool, sample: Ran) {
        let (wall, peak) = (sample.wall.as_secs_f64(), sample.peak >> 10);
        eprintln!("{row:3} {:10} {wall:8.2} s {peak:5} MiB", tool.name());
        self.table.note(row, tool, sample);
    }
}

fn main() {
    let (groups, repeat) = arguments();
    let scratch = machine::scratch(PREFIX);
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
        machine::write_into_documentation("peers", &text);
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
