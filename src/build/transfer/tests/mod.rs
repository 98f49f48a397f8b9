//! What COPY and ADD make, against what BuildKit 0.33.0 made of the same.

mod bench;
mod digest;
mod mistakes;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

use super::{Origin, Target, TransferError};
use crate::layer::Tree;
use bench::{Bench, IMAGE_TIME, Made, instruction, told};

/// One instruction. `testdata/transfer/README.md` says what the lines are.
#[derive(Deserialize)]
struct Case {
    name: String,
    dockerfile: String,
    context: Vec<String>,
    #[serde(default)]
    base: Vec<Vec<String>>,
    stage: Option<Vec<String>>,
    /// What BuildKit's layer says.
    layer: Option<Vec<String>>,
    /// What BuildKit said instead.
    error: Option<String>,
    differs: Option<Differs>,
}

/// What is meant to be another answer than BuildKit's.
#[derive(Deserialize)]
struct Differs {
    reason: String,
    /// Lines that BuildKit's layer has, and those that are there instead.
    #[serde(default)]
    instead_of: Vec<String>,
    #[serde(default)]
    layer: Vec<String>,
    /// What is in the message, if it is an error.
    error: Option<String>,
}

impl Case {
    fn text(&self) -> String {
        let base = if self.base.is_empty() { "scratch" } else { "base" };
        format!("FROM {base}\n{}", self.dockerfile)
    }

    /// Carries it out, with a context that is `older` than in the table.
    fn run(&self, bench: &Bench, image: &Tree, threads: usize, older: i64) -> Result<Made, String> {
        let text = self.text();
        let transfer = instruction(&text)?;
        let result = match &self.stage {
            Some(lines) => {
                let root = bench.root(&format!("root-{threads}"), lines);
                bench.transfer(&transfer, Origin::root(root.clone(), "image `src`"), image, threads)
            }
            None => {
                let context = bench.context(&format!("context-{threads}"), &self.context, older);
                bench.transfer(
                    &transfer,
                    Origin::context(context.clone(), "the build context"),
                    image,
                    threads,
                )
            }
        };
        result.map_err(|error: TransferError| told(&error, &text))
    }

    /// What the layer has to say, where BuildKit takes times from the clock.
    fn expected(&self, lines: &[String]) -> Vec<String> {
        let below = self.directories_below();
        let timed = |line: &String| {
            let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            if words.get(3).is_some_and(|time| time == "now") {
                // A directory of the image keeps its time.
                let known = below.get(&words[1]).filter(|_| words[0] == "dir");
                words[3] = known.copied().unwrap_or(Target::TIME).to_string();
            }
            words.join(" ")
        };
        let mut expected: Vec<_> = lines.iter().map(timed).collect();
        expected.sort();
        expected
    }

    /// The directories that the instruction can see in the image, and their times.
    fn directories_below(&self) -> BTreeMap<String, i64> {
        let mut below = BTreeMap::new();
        let stands_alone = self.dockerfile.contains("--link") && !self.dockerfile.contains("--chmod");
        for (number, line) in self.base.iter().flatten().enumerate().filter(|_| !stands_alone) {
            let mut words = line.split(' ');
            let (Some(kind), Some(path)) = (words.next(), words.next()) else { continue };
            for (slash, _) in path.match_indices('/') {
                below.entry(path[..slash].to_owned()).or_insert(IMAGE_TIME);
            }
            if kind == "dir" {
                below.insert(path.to_owned(), IMAGE_TIME + 1 + number as i64);
            }
        }
        below
    }

    /// What is wrong with the answer, if anything is.
    fn fault(&self) -> Option<String> {
        let bench = Bench::new();
        let image = bench.tree(&self.base);
        let made = self.run(&bench, &image, 1, 0);
        let mut layer = self.layer.clone();
        let mut error = None;
        if let Some(differs) = &self.differs {
            error = differs.error.as_ref();
            let mut lines = layer.unwrap_or_default();
            for line in &differs.instead_of {
                let known = lines.iter().position(|known| known == line);
                lines.remove(known.unwrap_or_else(|| panic!("{}: BuildKit has no `{line}`", self.name)));
            }
            lines.extend(differs.layer.iter().cloned());
            layer = error.is_none().then_some(lines);
        }
        let made = match (made, &layer) {
            (Ok(made), Some(_)) => made,
            (Err(told), None) => {
                let expected = error.map_or("", String::as_str);
                return (!told.contains(expected)).then(|| format!("not `{expected}`, but:\n{told}"));
            }
            (Ok(made), None) => {
                let (lines, error) = (bench.lines(&made.layer).join("\n"), &self.error);
                return Some(format!("{lines}\nBuildKit fails: {error:?}"));
            }
            (Err(told), Some(lines)) => return Some(format!("{told}\nBuildKit:\n{}", lines.join("\n"))),
        };
        let lines = bench.lines(&made.layer);
        let expected = self.expected(&layer.unwrap_or_default());
        if lines != expected {
            let only = |these: &[String], those: &[String], sign: &str| {
                let lines = these.iter().filter(|line| !those.contains(line));
                lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
            };
            return Some(only(&lines, &expected, "+") + &only(&expected, &lines, "-"));
        }
        let again = self.run(&bench, &image, 8, 1_000).unwrap();
        (again.selection != made.selection)
            .then(|| "times and the number of threads change the digest of the selection".to_owned())
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../../../testdata/transfer/buildkit.json")).unwrap()
}

#[test]
fn layers_are_those_of_buildkit() {
    let cases = cases();
    assert!(cases.len() > 300);
    // Most of the time is spent waiting for the disk.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut faults = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let meant =
                case.differs.as_ref().map(|differs| format!("(meant to differ: {})\n", differs.reason));
            let head = format!("== {}: {}{}", case.name, case.dockerfile, meant.unwrap_or_default());
            let fault = case.fault().map(|fault| head + &fault);
            faults.extend(fault);
        }
        faults
    };
    let faults: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), cases.len(), faults.join("\n"));
}
