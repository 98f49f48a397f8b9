//! What was measured, as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::apt::{Results, Runner, Times};
use super::machine::{self, load, middle, verdict};
use super::tool::{Ran, Tool};

/// MiB that cofferdam may have.
const MEMORY_GOAL: u64 = 128;
/// How much longer than natively a step may take.
const STEP_GOAL: f64 = 1.2;

/// The rows: name, what is built, and the most of the best peer's time that it may take.
const ROWS: [(&str, &str, f64); 8] = [
    ("1", "calculator, cold", 1.0),
    ("2", "calculator, nothing changed", 1.0),
    ("3", "calculator, one line of `app.py` changed", 1.0),
    ("4", "`COPY` of 100 000 files", 0.5),
    ("5", "`COPY` of 1 GiB", 0.5),
    ("6", "`RUN` that writes one file, on an image of 100 000; image not there", 1.0),
    ("6b", "the same, built upon before", 1.0),
    ("7", "`RUN apt-get install git build-essential`, cold", 1.0),
];

/// All samples of a run.
pub struct Table {
    head: String,
    load: String,
    samples: BTreeMap<(&'static str, Tool), Vec<Ran>>,
    layers: BTreeMap<(&'static str, Tool), u64>,
    apt: Results,
}

impl Table {
    /// Notes the machine as it is before the first build. Builds will write below `directory`.
    pub fn begin(repeat: usize, directory: &Path) -> Self {
        let head = format!(
            "{} Medians of {repeat} rounds (three times as many in rows 2 and 3), in brackets the least and the most.",
            machine::describe(directory),
        );
        Self { head, load: load(), samples: BTreeMap::new(), layers: BTreeMap::new(), apt: Results::new() }
    }

    pub fn note(&mut self, row: &'static str, tool: Tool, sample: Ran) {
        self.samples.entry((row, tool)).or_default().push(sample);
    }

    pub fn note_layer(&mut self, row: &'static str, tool: Tool, size: u64) {
        self.layers.insert((row, tool), size);
    }

    pub fn note_apt(&mut self, runner: Runner, times: Times) {
        self.apt.entry(runner).or_default().push(times);
    }

    fn walls(&self, row: &'static str, tool: Tool) -> Option<Vec<f64>> {
        let samples = self.samples.get(&(row, tool))?;
        let mut walls: Vec<f64> = samples.iter().map(|sample| sample.wall.as_secs_f64()).collect();
        walls.sort_by(f64::total_cmp);
        Some(walls)
    }

    pub fn to_markdown(&self) -> String {
        let mut text = format!("{} Load average {} before, {} after.\n", self.head, self.load, load());
        self.times(&mut text);
        self.apt(&mut text);
        self.memory(&mut text);
        self.sizes(&mut text);
        text
    }

    fn times(&self, text: &mut String) {
        text.push_str("\n| | seconds | cofferdam | BuildKit | buildah | of the best peer's | goal |\n|---|---|---|---|---|---|---|\n");
        for (row, what, goal) in ROWS {
            let walls = Tool::ALL.map(|tool| self.walls(row, tool));
            let [Some(own), Some(buildkit), Some(buildah)] = &walls else { continue };
            let ratio = middle(own) / middle(buildkit).min(middle(buildah));
            let verdict = verdict(if goal < 1.0 { ratio <= goal } else { ratio < goal });
            let sign = if goal < 1.0 { "≤" } else { "<" };
            let cells: Vec<String> = [own, buildkit, buildah].map(|walls| spread(walls)).to_vec();
            let _ = writeln!(
                text,
                "| {row} | {what} | {} | {ratio:.2} | {sign} {goal}: {verdict} |",
                cells.join(" | ")
            );
        }
    }

    fn apt(&self, text: &mut String) {
        let (Some(native), Some(unsynced)) = (self.apt.get(&Runner::Chroot), self.apt.get(&Runner::Unsynced))
        else {
            return;
        };
        text.push_str("\n| row 7: the command alone, seconds | `update` | download | unpack and configure | whole | of the chroot's | of that without `fsync` | the same, without the network |\n|---|---|---|---|---|---|---|---|\n");
        let part = |times: &[Times], of: fn(&Times) -> f64| {
            let mut times: Vec<f64> = times.iter().map(of).collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let [whole, install]: [fn(&Times) -> f64; 2] = [|times| times.total(), |times| times.install];
        for (runner, times) in &self.apt {
            let name = runner.name();
            let of =
                |base: &[Times], of: fn(&Times) -> f64| middle(&part(times, of)) / middle(&part(base, of));
            let goal = match runner {
                Runner::Tool(Tool::Cofferdam) => {
                    format!(" (≤ {STEP_GOAL}: {})", verdict(of(unsynced, whole) <= STEP_GOAL))
                }
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {:.2} | {:.2}{goal} | {:.2} |",
                spread(&part(times, |times| times.update)),
                spread(&part(times, |times| times.download)),
                spread(&part(times, install)),
                spread(&part(times, whole)),
                of(native, whole),
                of(unsynced, whole),
                of(unsynced, install),
            );
        }
    }

    fn memory(&self, text: &mut String) {
        text.push_str(
            "\n| peak memory, MiB | cofferdam | buildkitd | buildah | goal |\n|---|---|---|---|---|\n",
        );
        for (row, _, _) in ROWS {
            let peak =
                |tool| Some(self.samples.get(&(row, tool))?.iter().map(|sample| sample.peak).max()? >> 10);
            let [Some(own), Some(buildkit), Some(buildah)] = Tool::ALL.map(peak) else { continue };
            let verdict = verdict(own <= MEMORY_GOAL);
            let _ =
                writeln!(text, "| row {row} | {own} | {buildkit} | {buildah} | ≤ {MEMORY_GOAL}: {verdict} |");
        }
    }

    fn sizes(&self, text: &mut String) {
        if self.layers.is_empty() {
            return;
        }
        text.push_str("\n| layer as pushed, MB | cofferdam | BuildKit | buildah |\n|---|---|---|---|\n");
        for (row, _, _) in ROWS {
            let size = |tool| self.layers.get(&(row, tool)).map(|size| *size as f64 / 1e6);
            let [Some(own), Some(buildkit), Some(buildah)] = Tool::ALL.map(size) else { continue };
            let _ = writeln!(text, "| row {row} | {own:.1} | {buildkit:.1} | {buildah:.1} |");
        }
    }
}

fn spread(sorted: &[f64]) -> String {
    format!("{:.2} ({:.2}–{:.2})", middle(sorted), sorted[0], sorted[sorted.len() - 1])
}
