//! What fuzzing has found worth keeping, run through its targets with the compiler of the project. `fuzz/run` looks for more.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fuzz/src/archive.rs"]
mod archive;
#[path = "../fuzz/src/expansion.rs"]
mod expansion;
#[path = "../fuzz/src/ignore.rs"]
mod ignore;
#[path = "../fuzz/src/parser.rs"]
mod parser;

use std::io::Read;
use std::path::Path;

use rstest::rstest;

#[rstest]
#[case::parser("parser", parser::run)]
#[case::expansion("expansion", expansion::run)]
#[case::ignore("ignore", ignore::run)]
#[case::archive("archive", archive::run)]
fn nothing_that_was_kept_is_a_fault(#[case] target: &str, #[case] run: fn(&[u8])) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/kept").join(format!("{target}.tar.xz"));
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut archive = tar::Archive::new(lzma_rust2::XzReader::new(file, true));
    let mut inputs = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut input = Vec::new();
        entry.read_to_end(&mut input).unwrap();
        if entry.header().entry_type().is_file() {
            run(&input);
            inputs += 1;
        }
    }
    assert!(inputs > 30, "the corpus has {inputs} inputs only");
}
