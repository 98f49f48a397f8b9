//! What was measured, as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::machine::{self, load, middle, verdict};

/// The most of kubectl's time that a new deployment may take until all of it is ready.
const GOAL: f64 = 0.5;
/// The most memory, in MiB.
const MEMORY_GOAL: f64 = 100.0;

const ROWS: [(usize, &str); 6] = [
    (1, "100 objects that are not there, until all is ready"),
    (2, "the same again: nothing has changed"),
    (3, "another image in all 20 Deployments, until all is ready"),
    (4, "100 objects that are not there, not waited for"),
    (5, "2000 objects that are not there, until all is ready"),
    (6, "the same again: nothing has changed"),
];
/// The row that the goal is for: in others it is controllers that take the time, or there is nothing to be quick about.
const GOAL_OF: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Cofferdam,
    Kubectl,
}

impl Peer {
    pub const ALL: [Self; 2] = [Self::Cofferdam, Self::Kubectl];

    pub fn name(self) -> &'static str {
        match self {
            Self::Cofferdam => "cofferdam",
            Self::Kubectl => "kubectl",
        }
    }
}

/// One deployment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub wall: Duration,
    /// KiB, of the largest process.
    pub peak: u64,
}

pub struct Table {
    head: String,
    load: String,
    samples: BTreeMap<(usize, Peer), Vec<Sample>>,
    requests: BTreeMap<(usize, Peer), usize>,
}

impl Table {
    pub fn begin(repeat: usize, directory: &Path) -> Self {
        let head = format!(
            "{} Kubernetes and kubectl 1.36.3, kwok 0.8.0. Medians of {repeat} rounds, in brackets the least and the most; rows 5 \
             and 6 once.",
            machine::describe_alone(directory)
        );
        Self { head, load: load(), samples: BTreeMap::new(), requests: BTreeMap::new() }
    }

    pub fn note(&mut self, row: usize, peer: Peer, sample: Sample) {
        self.samples.entry((row, peer)).or_default().push(sample);
    }

    pub fn note_requests(&mut self, row: usize, peer: Peer, count: usize) {
        self.requests.insert((row, peer), count);
    }

    pub fn to_markdown(&self) -> String {
        let mut text = format!("{} Load average {} before, {} after.\n\n", self.head, self.load, load());
        text.push_str(
            "| | | seconds: cofferdam | kubectl | of kubectl's | goal | requests: cofferdam | kubectl | MiB: cofferdam | kubectl | goal |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for (row, what) in ROWS {
            let (Some(own), Some(other)) = (self.walls(row, Peer::Cofferdam), self.walls(row, Peer::Kubectl))
            else {
                continue;
            };
            let ratio = middle(&own) / middle(&other);
            let goal = (row == GOAL_OF).then(|| format!("≤ {GOAL}: {}", verdict(ratio <= GOAL)));
            let requests =
                |peer| self.requests.get(&(row, peer)).map(ToString::to_string).unwrap_or_default();
            let memory = |peer| self.peak(row, peer);
            let _ = writeln!(
                text,
                "| {row} | {what} | {} | {} | {ratio:.2} | {} | {} | {} | {:.0} | {:.0} | ≤ {MEMORY_GOAL}: {} |",
                shown(&own),
                shown(&other),
                goal.unwrap_or_default(),
                requests(Peer::Cofferdam),
                requests(Peer::Kubectl),
                memory(Peer::Cofferdam),
                memory(Peer::Kubectl),
                verdict(memory(Peer::Cofferdam) <= MEMORY_GOAL),
            );
        }
        text
    }

    /// Seconds, in order.
    fn walls(&self, row: usize, peer: Peer) -> Option<Vec<f64>> {
        let samples = self.samples.get(&(row, peer))?;
        let mut walls: Vec<f64> = samples.iter().map(|sample| sample.wall.as_secs_f64()).collect();
        walls.sort_by(f64::total_cmp);
        Some(walls)
    }

    /// The most of all rounds, in MiB.
    fn peak(&self, row: usize, peer: Peer) -> f64 {
        let samples = self.samples.get(&(row, peer)).into_iter().flatten();
        samples.map(|sample| sample.peak).max().unwrap_or(0) as f64 / 1024.0
    }
}

fn shown(walls: &[f64]) -> String {
    match walls {
        [one] => format!("{one:.2}"),
        walls => format!("{:.2} ({:.2}–{:.2})", middle(walls), walls[0], walls[walls.len() - 1]),
    }
}
