//! What was measured, as tables.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use super::machine::{self, load, middle, verdict};
use super::tool::Tool;

/// How far away the registry is in the second pass: a round trip from one continent to another, or through a busy proxy.
pub const FAR: Duration = Duration::from_millis(50);

/// The most of BuildKit's time that a build with nothing changed may take.
const UNCHANGED_GOAL: f64 = 0.5;
/// The same if one line has changed and only a COPY has to be done.
const LINE_GOAL: f64 = 0.05;
/// Requests one after the other that a build with nothing changed may take.
const ROUND_TRIPS_GOAL: f64 = 6.0;

const ROWS: [(&str, &str); 11] = [
    ("1", "first build, nothing to be found"),
    ("2", "nothing changed, same tag"),
    ("3", "nothing changed, new tag"),
    ("4", "one line changed, COPY only"),
    ("5", "dependencies changed"),
    ("6", "base changed"),
    ("7", "a new stage"),
    ("8", "one line changed, RUN follows"),
    ("9", "40 steps, nothing changed"),
    ("10", "40 steps, the 20th changed"),
    ("11", "10 pipelines at once, another line each"),
];

/// One build, or several that began at once.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Until the last has ended.
    pub wall: Duration,
    /// KiB, of all together.
    pub peak: u64,
    /// Bytes of bodies from the registry.
    pub down: u64,
    /// Those of them that are of layers.
    pub of_layers: u64,
    /// Bytes of bodies to the registry.
    pub up: u64,
    pub requests: u64,
    pub connections: u64,
    /// Requests one after the other; the most that one of several builds had.
    pub round_trips: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:8.3} s, {:8.3} MB down ({:.3} of layers), {:8.3} up, {:4} requests on {:3} connections, {:3} in a row, {:4} MiB",
            self.wall.as_secs_f64(),
            self.down as f64 / 1e6,
            self.of_layers as f64 / 1e6,
            self.up as f64 / 1e6,
            self.requests,
            self.connections,
            self.round_trips,
            self.peak >> 10,
        )
    }
}

/// All samples of a run.
pub struct Table {
    head: String,
    load: String,
    samples: BTreeMap<(Duration, &'static str, Tool), Vec<Sample>>,
    counted: (u64, u64),
}

impl Table {
    /// Notes the machine as it is before the first build. Builds will write below `directory`.
    pub fn begin(repeat: usize, directory: &Path) -> Self {
        let head =
            format!("{} Medians of {repeat} rounds; row 1 is built once.", machine::describe(directory));
        Self { head, load: load(), samples: BTreeMap::new(), counted: (0, 0) }
    }

    pub fn note(&mut self, delay: Duration, row: &'static str, tool: Tool, sample: Sample) {
        self.samples.entry((delay, row, tool)).or_default().push(sample);
    }

    /// Requests that the proxies saw, and that the registry says it answered.
    pub fn note_requests(&mut self, by_proxies: u64, by_registry: u64) {
        self.counted = (self.counted.0 + by_proxies, self.counted.1 + by_registry);
    }

    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "{} Load average {} before, {} after. Requests counted by the proxies: {}, by the registries: {}.\n",
            self.head,
            self.load,
            load(),
            self.counted.0,
            self.counted.1
        );
        self.goals(&mut text);
        self.builds(&mut text);
        text
    }

    /// The median of one figure; `None` if it was not measured.
    fn median(&self, delay: Duration, row: &'static str, tool: Tool, of: fn(&Sample) -> f64) -> Option<f64> {
        let mut figures: Vec<f64> = self.samples.get(&(delay, row, tool))?.iter().map(of).collect();
        figures.sort_by(f64::total_cmp);
        Some(middle(&figures))
    }

    /// The worst of cofferdam's.
    fn most(&self, delay: Duration, row: &'static str, of: fn(&Sample) -> f64) -> Option<f64> {
        let samples = self.samples.get(&(delay, row, Tool::Cofferdam))?;
        samples.iter().map(of).max_by(f64::total_cmp)
    }

    fn goals(&self, text: &mut String) {
        text.push_str("\n| row | goal | measured | |\n|---|---|---|---|\n");
        for (row, goal) in [("2", UNCHANGED_GOAL), ("3", UNCHANGED_GOAL), ("4", LINE_GOAL)] {
            let wall = |tool| self.median(Duration::ZERO, row, tool, seconds);
            if let (Some(own), Some(buildkit)) = (wall(Tool::Cofferdam), wall(Tool::BuildKit)) {
                let ratio = own / buildkit;
                let met = verdict(ratio <= goal);
                let _ = writeln!(text, "| {row} | ≤ {goal} of BuildKit's time | {ratio:.3} | {met} |");
            }
        }
        for row in ["2", "3"] {
            if let Some(bytes) = self.most(Duration::ZERO, row, |sample| sample.of_layers as f64) {
                let met = verdict(bytes == 0.0);
                let _ = writeln!(text, "| {row} | no byte of a layer comes down | {bytes} | {met} |");
            }
            if let Some(trips) = self.most(FAR, row, round_trips) {
                let met = verdict(trips <= ROUND_TRIPS_GOAL);
                let _ = writeln!(
                    text,
                    "| {row} | ≤ {ROUND_TRIPS_GOAL} requests one after the other | {trips} | {met} |"
                );
            }
        }
    }

    fn builds(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n| | | | seconds | {far} ms away | of BuildKit's | {far} ms away | MB down | of layers | MB up | requests | connections | one after the other | {far} ms in the difference | MiB |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
            far = FAR.as_millis()
        );
        for (row, what) in ROWS {
            for (number, tool) in Tool::ALL.into_iter().enumerate() {
                let names = if number == 0 { (row, what) } else { ("", "") };
                let near = |of| self.median(Duration::ZERO, row, tool, of);
                let far = |of| self.median(FAR, row, tool, of);
                if near(seconds).is_none() && far(seconds).is_none() {
                    continue;
                }
                let wall = |delay, of| self.median(delay, row, of, seconds);
                let ratio = |delay| Some(wall(delay, tool)? / wall(delay, Tool::BuildKit)?);
                // Requests and bytes are the same at any distance; what was measured near is what is shown.
                let either = |of| near(of).or_else(|| far(of));
                let extra =
                    far(seconds).zip(near(seconds)).map(|(far, near)| (far - near) / FAR.as_secs_f64());
                let cells = [
                    shown(near(seconds), 3),
                    shown(far(seconds), 3),
                    shown(ratio(Duration::ZERO), 2),
                    shown(ratio(FAR), 2),
                    shown(either(|sample| sample.down as f64 / 1e6), 2),
                    shown(either(|sample| sample.of_layers as f64 / 1e6), 2),
                    shown(either(|sample| sample.up as f64 / 1e6), 2),
                    shown(either(|sample| sample.requests as f64), 0),
                    shown(either(|sample| sample.connections as f64), 0),
                    shown(far(round_trips), 0),
                    shown(extra, 1),
                    shown(either(|sample| sample.peak as f64 / 1024.0), 0),
                ];
                let _ =
                    writeln!(text, "| {} | {} | {} | {} |", names.0, names.1, title(tool), cells.join(" | "));
            }
        }
    }
}

/// A tool as people write it.
fn title(tool: Tool) -> &'static str {
    match tool {
        Tool::BuildKit => "BuildKit",
        other => other.name(),
    }
}

fn seconds(sample: &Sample) -> f64 {
    sample.wall.as_secs_f64()
}

fn round_trips(sample: &Sample) -> f64 {
    sample.round_trips as f64
}

fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map(|figure| format!("{figure:.digits$}")).unwrap_or_default()
}
