//! Differences that are meant: a case names the kind and the lines, `docs/conformance.md` has the reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::case::Case;
use super::run::Ran;

/// More kinds than this would be another language.
const MOST_KINDS: usize = 10;
/// A build that failed for a reason that no user has given: a fault of ours, or of the suite's.
const FAULTS: [i32; 5] = [1, 2, 7, 8, 12];

/// # Errors
/// What is not as BuildKit has it, or not as the case says that it is not.
pub fn compare(case: &Case, theirs: &[String], ran: &Ran) -> Result<(), String> {
    let said = || format!("  our status {:?}, and we said:\n{}", ran.status, indented(&ran.stderr));
    if ran.status.is_none_or(|status| FAULTS.contains(&status)) {
        return Err(said());
    }
    if let Some(text) = case.says.iter().find(|text| !ran.stderr.contains(&**text)) {
        return Err(format!("  nothing is said of {text:?}\n{}", said()));
    }
    let meant = case.differs.as_ref().map_or(&[][..], |(_, lines)| lines);
    let found = difference(theirs, &ran.lines);
    if found == meant {
        return Ok(());
    }
    let list = |lines: &[String]| {
        lines.iter().map(|line| format!("  @ {} {}\n", &line[..1], &line[1..])).collect::<String>()
    };
    let meant =
        if case.differs.is_some() { format!("  but this is meant:\n{}", list(meant)) } else { String::new() };
    Err(format!("  BuildKit (-) and we (+):\n{}{meant}{}", list(&found), said()))
}

/// The lines that only one has, theirs with `-` and ours with `+`. Of two lists that differ in order alone, all.
fn difference(theirs: &[String], ours: &[String]) -> Vec<String> {
    if let ([theirs], [ours]) = (theirs, ours)
        && same_place(theirs, ours)
    {
        return Vec::new();
    }
    let ours: Vec<String> = ours.iter().map(|line| without_time(line, theirs)).collect();
    let lacks = |list: &[String], line: &&String| !list.contains(line);
    let signed = |sign: char| move |line: &String| format!("{sign}{line}");
    let mut lines: Vec<String> = theirs.iter().filter(|line| lacks(&ours, line)).map(signed('-')).collect();
    // Where theirs is an error, or ours, the other's image is none that could be told line by line.
    lines.extend(ours.iter().filter(|line| lacks(theirs, line)).map(signed('+')));
    if lines.is_empty() && *theirs != ours {
        lines = theirs.iter().map(signed('-')).chain(ours.iter().map(signed('+'))).collect();
    }
    match (theirs, &*ours) {
        ([error], [_, _, ..]) if error.starts_with("error") => {
            vec![format!("-{error}"), "+an image".to_owned()]
        }
        ([_, _, ..], [error]) if error.starts_with("error") => {
            vec!["-an image".to_owned(), format!("+{error}")]
        }
        _ => lines,
    }
}

/// A line of ours without its time, if theirs has the clock's there: nobody can mean that. What we make has no clock in it.
fn without_time(line: &str, theirs: &[String]) -> String {
    let Some((start, time)) = line.split_once(" @") else { return line.to_owned() };
    let rest = time.trim_start_matches(|c: char| c.is_ascii_digit());
    let without = format!("{start}{rest}");
    if theirs.contains(&without) { without } else { line.to_owned() }
}

/// Whether both are errors and ours points into what theirs points at, if that is known.
fn same_place(theirs: &str, ours: &str) -> bool {
    let lines = |text: &str| -> Option<(usize, usize)> {
        let range = text.strip_prefix("error ")?;
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let both = theirs.starts_with("error") && ours.starts_with("error");
    match (lines(theirs), lines(ours)) {
        (None, _) => both,
        (Some((first, last)), Some((line, _))) => (first..=last).contains(&line),
        (Some(_), None) => false,
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Holds `docs/conformance.md` against the cases: the kinds of the table are those that cases name, with as many cases.
pub fn check_documentation(cases: &[Case]) {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let document = fs::read_to_string(document).unwrap();
    let rows = document.lines().skip_while(|line| !line.starts_with("| kind |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let documented: BTreeMap<String, usize> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let [kind, what, why, count] = cells[..] else { panic!("{row}") };
            assert!(what.len() > 20 && why.len() > 20, "{row}");
            (kind.trim_matches('`').to_owned(), count.parse().unwrap())
        })
        .collect();
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for (kind, lines) in cases.iter().filter_map(|case| case.differs.as_ref()) {
        assert!(!lines.is_empty(), "a difference of the kind {kind} has no lines");
        *counted.entry(kind.clone()).or_default() += 1;
    }
    assert_eq!(
        documented, counted,
        "left the kinds that docs/conformance.md has, right those that cases name"
    );
    assert!(counted.len() < MOST_KINDS, "{:?}", counted.keys().collect::<BTreeSet<_>>());
    assert!(
        document.contains(&format!("{} cases", cases.len())),
        "docs/conformance.md: there are {} cases",
        cases.len()
    );
}

#[test]
fn an_error_has_to_point_into_what_the_judge_points_at() {
    assert!(
        same_place("error", "error 3") && same_place("error 2-4", "error 3") && same_place("error", "error")
    );
    assert!(
        !same_place("error 2", "error 3") && !same_place("error 2", "error") && !same_place("error", "image")
    );
}
