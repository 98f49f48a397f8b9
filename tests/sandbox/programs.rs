//! Programs that Dockerfiles run, beside the same programs as a container's real root.

use crate::native;
use crate::runner::{self, As};
use crate::scenario::{Change, Command, Ending, Outcome, Scenario, StepOutcome};
use crate::{base, scripts};

/// A step of the matrix. It must succeed, and do what it does natively.
pub struct Row {
    pub name: &'static str,
    /// User and group.
    pub user: u32,
    pub script: &'static str,
    pub comparison: Comparison,
}

impl Row {
    pub const fn new(name: &'static str, script: &'static str) -> Self {
        let comparison = Comparison { varying: &[], transient: &[] };
        Self { name, user: 0, script, comparison }
    }

    /// As this user and its group.
    pub const fn by(self, user: u32) -> Self {
        Self { user, ..self }
    }

    /// The content of files whose path has one of these texts is not the same from one run to the next.
    pub const fn varying(mut self, varying: &'static [&'static str]) -> Self {
        self.comparison.varying = varying;
        self
    }

    /// Paths with one of these texts are not there in every run.
    pub const fn transient(mut self, transient: &'static [&'static str]) -> Self {
        self.comparison.transient = transient;
        self
    }
}

/// What must be equal, besides how a step ends and what it makes of which file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Comparison {
    varying: &'static [&'static str],
    transient: &'static [&'static str],
}

/// The base images and what is run in each, one row after the other in one root.
pub const BASES: [(&str, &[Row]); 6] = [
    ("debian:bookworm-slim", scripts::DEBIAN),
    ("python:3.9-slim", scripts::PYTHON),
    ("node:20-slim", scripts::NODE),
    ("golang:1.26", scripts::GOLANG),
    ("gcc:12", scripts::GCC),
    ("busybox:1", scripts::BUSYBOX),
];

/// Runs the rows of one base image in all ways at once.
///
/// # Panics
/// With every difference, if there is one.
pub fn run(image: &str, rows: &[Row]) {
    let rows: Vec<&Row> = rows.iter().collect();
    beside_native(&Scenario::new(base::layers(&format!("library/{image}")), steps(&rows)), &rows);
}

/// The steps that carry rows out.
pub fn steps(rows: &[&Row]) -> Vec<Command> {
    rows.iter().map(|row| Command::shell(row.script).user(row.user, row.user)).collect()
}

/// Carries a scenario out, whose steps are `rows`, in all ways at once.
///
/// # Panics
/// With every difference, if there is one.
pub fn beside_native(scenario: &Scenario, rows: &[&Row]) {
    let [native, root, unprivileged] = std::thread::scope(|scope| {
        let ways: [fn(&Scenario) -> Outcome; 3] = [
            native::run,
            |scenario| runner::run(As::Root, scenario),
            |scenario| runner::run(As::Unprivileged, scenario),
        ];
        let threads = ways.map(|way| scope.spawn(move || way(scenario)));
        threads.map(|thread| thread.join().expect("an outcome"))
    });
    let mut differences = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let (expected, name) = (&native.steps[index], row.name);
        if expected.exit != Ending::Status(0) {
            differences.push(format!(
                "{name}, natively: {:?}\n{}{}",
                expected.exit, expected.stdout, expected.stderr
            ));
            continue;
        }
        for (way, outcome) in [("as root", &root), ("unprivileged", &unprivileged)] {
            let found = &outcome.steps[index];
            let what = format!("{name}, {way} ({} ms, natively {} ms)", found.took, expected.took);
            differences.extend(compare(&what, expected, found, &row.comparison));
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

/// The differences between two outcomes of a step.
pub fn compare(
    what: &str,
    expected: &StepOutcome,
    found: &StepOutcome,
    comparison: &Comparison,
) -> Vec<String> {
    let mut differences = Vec::new();
    if expected.exit != found.exit {
        let said = format!("{}{}", found.stdout, found.stderr);
        differences.push(format!("{what}: ended with {:?}, not {:?}:\n{said}", found.exit, expected.exit));
    }
    let (mut left, mut right) = (expected.stdout.lines(), found.stdout.lines());
    loop {
        let (left, right) = (left.next(), right.next());
        if left != right {
            differences.push(format!("{what}: prints `{}`, not `{}`", shown(right), shown(left)));
        }
        if left.is_none() && right.is_none() {
            break;
        }
    }
    let has = |texts: &[&str], path: &str| texts.iter().any(|text| path.contains(text));
    let paths: std::collections::BTreeSet<_> = expected.changes.keys().chain(found.changes.keys()).collect();
    for path in paths.into_iter().filter(|path| !has(comparison.transient, path)) {
        let seen = |outcome: &StepOutcome| {
            let mut change = outcome.changes.get(path).cloned();
            if let Some(Change::Is(seen)) = &mut change
                && has(comparison.varying, path)
            {
                seen.digest = None;
            }
            change
        };
        let (left, right) = (seen(expected), seen(found));
        if left != right {
            let [left, right] = [left, right].map(|change| change.map(|change| change.to_string()));
            let (left, right) = (shown(left.as_deref()), shown(right.as_deref()));
            differences.push(format!("{what}: {path}: {right}; expected {left}"));
        }
    }
    differences
}

fn shown(text: Option<&str>) -> &str {
    text.unwrap_or("nothing")
}
