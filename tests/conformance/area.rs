//! A file of cases and the answers beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::case::Case;
use super::support::testdata;

/// What stands before the title of a case and of an answer.
pub const TITLE: &str = "===== ";

/// Cases of one part of the language.
pub struct Area {
    pub cases: Vec<Case>,
    /// By title.
    pub answers: BTreeMap<String, Answer>,
}

/// What BuildKit made of a case.
pub struct Answer {
    /// The fingerprint of the case that was asked.
    pub of: String,
    /// See [`crate::answer`].
    pub lines: Vec<String>,
}

impl Area {
    pub fn read(name: &str) -> Self {
        let text = fs::read_to_string(testdata("conformance").join(format!("{name}.txt"))).unwrap();
        let cases = text.split(TITLE).skip(1).map(Case::parse).collect();
        // No file yet: nothing has been asked.
        let golden = fs::read_to_string(golden(name)).unwrap_or_default();
        let answers = golden.split(TITLE).skip(1).map(|answer| {
            let (head, lines) = answer.split_once('\n').unwrap();
            let (of, title) = head.split_once(' ').unwrap();
            // What BuildKit said of an error is there to be read.
            let lines = lines.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
            (title.to_owned(), Answer { of: of.to_owned(), lines })
        });
        Self { cases, answers: answers.collect() }
    }
}

/// The file of an area's answers.
pub fn golden(name: &str) -> PathBuf {
    testdata("conformance").join(format!("{name}.golden"))
}
