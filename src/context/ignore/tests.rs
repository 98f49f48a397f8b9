//! `testdata/context/ignore*.jsonl` hold what moby's patternmatcher 0.6.1 answers in a walk.

use super::*;
use proptest::prelude::*;
use rstest::rstest;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct Case {
    file: String,
    expect: Expect,
}

#[derive(Deserialize)]
struct Expect {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    excluded: BTreeMap<String, bool>,
}

#[rstest]
#[case::picked(include_str!("../../../testdata/context/ignore.jsonl"))]
#[case::random(include_str!("../../../testdata/context/ignore-random.jsonl"))]
fn excludes_what_moby_excludes(#[case] table: &str) {
    let mut wrong = Vec::new();
    for line in table.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        match (IgnoreFile::parse(&case.file), case.expect.error) {
            (Err(_), Some(_)) => {}
            (Ok(_), Some(error)) => wrong.push(format!("{:?} is accepted, and {error}", case.file)),
            (Err(error), None) => wrong.push(format!("{:?} is refused: {error}", case.file)),
            (Ok(file), None) => {
                for (path, excluded) in case.expect.excluded {
                    if file.is_excluded(path.as_bytes()) != excluded {
                        wrong.push(format!("{:?} for {path:?}: expected {excluded}", case.file));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[rstest]
#[case("a.env", Some((3, "*.env")))]
#[case("sub/a.env", None)]
#[case("keep.env", None)]
#[case("node_modules/x/y.js", Some((1, "node_modules")))]
#[case("node_modules/x/README.md", None)]
#[case("src/main.rs", None)]
fn names_the_line_that_hides_a_path(#[case] path: &str, #[case] pattern: Option<(usize, &str)>) {
    let file = IgnoreFile::parse("node_modules\n# secrets\n  /*.env  \n!keep.env\n!**/README.md\n").unwrap();
    let explained = file.explain(path.as_bytes()).map(|pattern| (pattern.line, pattern.text.as_str()));
    let expected = pattern.map(|(line, text)| (line, if line == 3 { "/*.env" } else { text }));
    assert_eq!(explained, expected);
}

#[rstest]
#[case("a\n[b", "line 2 of the ignore file, `[b`, is not a pattern: a `[` is not closed")]
#[case("!", "line 1 of the ignore file, `!`, is not a pattern: nothing follows the `!`")]
#[case("! ", "line 1 of the ignore file, `!`, is not a pattern: nothing follows the `!`")]
#[case("!/", "line 1 of the ignore file, `!/`, is not a pattern: the context itself is never excluded")]
#[case("a\\", "line 1 of the ignore file, `a\\`, is not a pattern: nothing follows the `\\` at its end")]
#[case("x*[z-a]", "line 1 of the ignore file, `x*[z-a]`, is not a pattern: the range `z-a` runs backwards")]
#[case(
    "*.{2}",
    "line 1 of the ignore file, `*.{2}`, is not a pattern: `{…}` with numbers repeats what is before it, which is surely not meant"
)]
#[case("/!", "line 1 of the ignore file, `/!`, is not a pattern: the context itself is never excluded")]
#[case(
    "a\\public",
    "line 1 of the ignore file, `a\\public`, is not a pattern: `\\p` stands for nothing; the parts of a path are separated by `/`"
)]
#[case(
    "[[:nope:]]",
    "line 1 of the ignore file, `[[:nope:]]`, is not a pattern: `[:nope:]` is not a class of characters"
)]
fn refuses(#[case] text: &str, #[case] message: &str) {
    assert_eq!(IgnoreFile::parse(text).unwrap_err().to_string(), message);
}

#[test]
fn a_walk_looks_only_where_something_can_return() {
    let file = IgnoreFile::parse("*\n!src\n!docs/*.md\n!**/LICENSE\ntarget\nbuild/**\n!build/out/x").unwrap();
    let enter = |path: &str| {
        let mut directory = file.root();
        let mut verdict = Verdict::Included;
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            (verdict, directory) = file.enter(&directory, &path.as_bytes()[..at]);
        }
        verdict
    };
    assert_eq!(enter("src"), Verdict::Included);
    assert_eq!(enter("docs"), Verdict::LookInside);
    assert_eq!(enter("other"), Verdict::LookInside, "there may be a LICENSE in it");
    assert_eq!(enter("target"), Verdict::LookInside, "there, too: `*` hides the line `target` from moby");
    assert_eq!(enter("build"), Verdict::LookInside);
    assert_eq!(enter("build/out"), Verdict::LookInside);
    assert_eq!(enter("build/log"), Verdict::Excluded);
}

#[test]
fn names_are_bytes() {
    let file = IgnoreFile::parse("a?b\n*.\u{fffd}\n").unwrap();
    assert!(file.is_excluded(b"a\xffb"));
    assert!(file.is_excluded(b"x.\xff"), "Go reads such a byte as U+FFFD");
    assert!(!file.is_excluded(b"a\xff\xfeb"));
}

/// A pattern that makes backtracking matchers run for hours.
#[test]
fn patterns_take_bounded_time() {
    let file = IgnoreFile::parse(&format!("{}b", "*a".repeat(40))).unwrap();
    assert!(!file.is_excluded("a".repeat(4000).as_bytes()));
    assert!(!file.is_excluded(format!("{}cb", "a".repeat(4000)).as_bytes()));
    assert!(file.is_excluded(format!("{}b", "a".repeat(4000)).as_bytes()));
}

/// A tree with names that the patterns below speak of.
fn tree() -> BTreeSet<String> {
    let names = ["a", "b", "c.md", "ab"];
    let mut paths = BTreeSet::new();
    for one in names {
        paths.insert(one.to_owned());
        for two in names {
            paths.insert(format!("{one}/{two}"));
            for three in names {
                paths.insert(format!("{one}/{two}/{three}"));
            }
        }
    }
    paths
}

/// The paths that a walk finds, which follows the verdicts.
fn walk(
    file: &IgnoreFile,
    directory: &Directory,
    at: &str,
    tree: &BTreeSet<String>,
    out: &mut BTreeSet<String>,
) {
    let depth = if at.is_empty() { 0 } else { at.matches('/').count() + 1 };
    let inside = |path: &&String| {
        path.matches('/').count() == depth && (at.is_empty() || path.starts_with(&format!("{at}/")))
    };
    for path in tree.iter().filter(inside) {
        let (verdict, below) = file.enter(directory, path.as_bytes());
        if verdict == Verdict::Included {
            out.insert(path.clone());
        }
        if verdict != Verdict::Excluded {
            walk(file, &below, path, tree, out);
        }
    }
}

proptest! {
    /// Pruning is exact: what is below a directory that is not looked into is excluded, all of it.
    #[test]
    fn a_walk_finds_all_that_is_not_excluded(
        lines in prop::collection::vec(r"!?(\*\*|\*|a|b|c\.md|a\?|\[ab\]|/|a\*){1,4}", 0..6),
    ) {
        let Ok(file) = IgnoreFile::parse(&lines.join("\n")) else { return Ok(()) };
        let tree = tree();
        let mut found = BTreeSet::new();
        walk(&file, &file.root(), "", &tree, &mut found);
        let expected: BTreeSet<String> =
            tree.iter().filter(|path| !file.is_excluded(path.as_bytes())).cloned().collect();
        prop_assert_eq!(found, expected, "{:?}", lines);
    }

    #[test]
    fn parsing_takes_any_text(text in "(?s).{0,80}", path in prop::collection::vec(any::<u8>(), 0..30)) {
        if let Ok(file) = IgnoreFile::parse(&text)
            && let Some(pattern) = file.explain(&path)
        {
            prop_assert!(!pattern.exception && pattern.line >= 1);
        }
    }
}
