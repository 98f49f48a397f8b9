//! What reporters keep of a build: its steps, the ends of their output, transfers, totals. No reporter's own format is
//! known here.
//!
//! Invariants: memory grows with the number of steps and of transfers under way, not with output; an event about a step
//! or transfer that is not known changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::event::{Direction, Event, Outcome, RolloutProgress, Step, Stream, TransferStarted};
use super::text::{Lines, printable};
use super::units::{self, count};

/// Lines of a step's output that are kept, to be shown if it fails.
pub(super) const TAIL: usize = 20;
/// Letters of a line that are kept of it.
const TAIL_WIDTH: usize = 500;
/// Bytes of a line without an end that are shown.
const PARTIAL_SHOWN: usize = 2000;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Cached,
    Done,
    Failed,
    Cancelled,
}

/// A step and what became of it.
#[derive(Debug)]
pub(super) struct StepState {
    pub step: Step,
    pub begun: Duration,
    pub ended: Option<(End, Duration)>,
    /// The last lines of output, and the place of each among the lines of all steps.
    tail: VecDeque<(u64, String)>,
    lines: [Lines; 2],
    /// Bytes that were fetched for it.
    pub pulled: u64,
}

impl StepState {
    pub fn is_running(&self) -> bool {
        self.ended.is_none()
    }

    /// How long it took, or has taken so far.
    pub fn took(&self, now: Duration) -> Duration {
        self.ended.map_or(now, |(_, at)| at).saturating_sub(self.begun)
    }

    /// The last lines of its output.
    pub fn tail(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.tail.iter().map(|(_, line)| line.as_str())
    }

    /// The line that is being written, if it has anything to show: a progress bar, a question.
    pub fn partial(&self) -> Option<String> {
        let mut shown = self.lines.iter().map(|lines| printable(lines.partial(PARTIAL_SHOWN)));
        shown.rfind(|line| !line.trim().is_empty())
    }

    /// Whether lines of other steps came between its last lines.
    pub fn tail_is_interleaved(&self) -> bool {
        match (self.tail.front(), self.tail.back()) {
            (Some((first, _)), Some((last, _))) => last - first + 1 != self.tail.len() as u64,
            _ => false,
        }
    }

    fn lines(&mut self, stream: Stream) -> &mut Lines {
        let [stdout, stderr] = &mut self.lines;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    fn keep(&mut self, place: u64, line: &str) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        let kept = match line.char_indices().nth(TAIL_WIDTH) {
            Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
            None => line.to_owned(),
        };
        self.tail.push_back((place, kept));
    }
}

/// A transfer under way.
#[derive(Debug)]
pub(super) struct TransferState {
    pub started: TransferStarted,
    pub begun: Duration,
    pub done: u64,
    /// When its progress was last shown.
    pub shown: Duration,
}

/// An object of a cluster, and how far it has come.
#[derive(Debug)]
pub(super) struct RolloutState {
    pub progress: RolloutProgress,
    pub begun: Duration,
    /// When it was settled, if it is.
    pub ended: Option<Duration>,
    /// What is wrong with it, if something is.
    pub wrong: Option<String>,
}

impl RolloutState {
    /// How long it took, or has taken so far.
    pub fn took(&self, now: Duration) -> Duration {
        self.ended.unwrap_or(now).saturating_sub(self.begun)
    }

    /// `2 of 3: 1 old replica to end`
    pub fn text(&self) -> String {
        let RolloutProgress { done, of, text, .. } = &self.progress;
        match (done, of) {
            (Some(done), Some(of)) if *of > 0 && !text.contains(" of ") => {
                format!("{done} of {of}: {text}")
            }
            _ => text.clone(),
        }
    }

    /// What is wrong, or else how far it is.
    pub fn shown(&self) -> String {
        self.wrong.clone().unwrap_or_else(|| self.text())
    }
}

/// What all transfers came to.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    pub pulled: u64,
    pub pushed: u64,
    pub already_there: usize,
    pub mounted: usize,
}

/// The state of a build.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub steps: BTreeMap<u32, StepState>,
    pub transfers: BTreeMap<u64, TransferState>,
    /// Objects of a cluster, by namespace and name.
    pub rollouts: BTreeMap<(Option<String>, String), RolloutState>,
    pub totals: Totals,
    pub warnings: usize,
    /// How many steps the plan has; 0 before there is one.
    pub planned: usize,
    lines_seen: u64,
}

impl Model {
    /// Takes note of an event other than output and the ends of steps and transfers, which give something back.
    pub fn note(&mut self, now: Duration, event: &Event) {
        match event {
            Event::Planned { steps } => self.planned = *steps,
            Event::StepStarted(step) => self.begin(now, step, None),
            Event::StepCached { step, .. } => self.begin(now, step, Some((End::Cached, now))),
            Event::TransferStarted(started) => {
                let state = TransferState { started: started.clone(), begun: now, done: 0, shown: now };
                self.transfers.insert(started.transfer, state);
            }
            Event::TransferProgress { transfer, done } => {
                if let Some(state) = self.transfers.get_mut(transfer) {
                    state.done = *done;
                }
            }
            Event::Warning { .. } | Event::Findings(_) => self.warnings += 1,
            Event::RolloutProgress(progress) => self.roll(now, progress),
            Event::Diagnosis(diagnosis) => {
                let key = (diagnosis.namespace.clone(), diagnosis.object.clone());
                if let Some(state) = self.rollouts.get_mut(&key) {
                    state.wrong = Some(diagnosis.text.clone());
                }
            }
            _ => {}
        }
    }

    fn roll(&mut self, now: Duration, progress: &RolloutProgress) {
        let key = (progress.namespace.clone(), progress.object.clone());
        let ended = (progress.state != "in_progress").then_some(now);
        let state = RolloutState { progress: progress.clone(), begun: now, ended, wrong: None };
        match self.rollouts.get_mut(&key) {
            Some(before) => {
                let (begun, wrong) = (before.begun, before.wrong.take().filter(|_| ended.is_none()));
                *before = RolloutState { begun, wrong, ..state };
            }
            None => drop(self.rollouts.insert(key, state)),
        }
    }

    /// Objects that are on their way.
    pub fn rolling(&self) -> impl Iterator<Item = &RolloutState> {
        self.rollouts.values().filter(|state| state.ended.is_none())
    }

    fn begin(&mut self, now: Duration, step: &Step, ended: Option<(End, Duration)>) {
        let state = StepState {
            step: step.clone(),
            begun: now,
            ended,
            tail: VecDeque::new(),
            lines: Default::default(),
            pulled: 0,
        };
        self.steps.insert(step.id, state);
    }

    /// Takes output of a step; `shown` is given each line that it completes: as it was written, and as it can be shown.
    pub fn output(&mut self, step: u32, stream: Stream, bytes: &[u8], mut shown: impl FnMut(&[u8], &str)) {
        let Some(state) = self.steps.get_mut(&step) else { return };
        let mut lines = std::mem::take(state.lines(stream));
        lines.push(bytes, |line| {
            let text = printable(line);
            state.keep(self.lines_seen, &text);
            self.lines_seen += 1;
            shown(line, &text);
        });
        *state.lines(stream) = lines;
    }

    /// Ends a step; `shown` is given the lines that have no end.
    pub fn end(&mut self, now: Duration, step: u32, end: End, mut shown: impl FnMut(Stream, &[u8], &str)) {
        let Some(state) = self.steps.get_mut(&step).filter(|state| state.is_running()) else { return };
        let [stdout, stderr] = std::mem::take(&mut state.lines);
        for (stream, mut lines) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            if let Some(line) = lines.finish() {
                let text = printable(&line);
                state.keep(self.lines_seen, &text);
                self.lines_seen += 1;
                shown(stream, &line, &text);
            }
        }
        state.ended = Some((end, now));
    }

    /// Ends a transfer and gives it back, if it is known.
    pub fn end_transfer(&mut self, transfer: u64, outcome: &Outcome) -> Option<TransferState> {
        let state = self.transfers.remove(&transfer)?;
        let size = state.started.total.unwrap_or(state.done);
        match outcome {
            Outcome::Downloaded => {
                self.totals.pulled += size;
                if let Some(step) = state.started.step.and_then(|step| self.steps.get_mut(&step)) {
                    step.pulled += size;
                }
            }
            Outcome::Pushed => self.totals.pushed += size,
            Outcome::AlreadyThere if state.started.direction == Direction::Upload => {
                self.totals.already_there += 1;
            }
            Outcome::Mounted { .. } => self.totals.mounted += 1,
            Outcome::AlreadyThere | Outcome::Failed { .. } | Outcome::Cancelled => {}
        }
        Some(state)
    }

    /// What it all came to, in words: `; `-separated, empty if there is nothing to tell.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        if !self.steps.is_empty() {
            parts.push(format!("{}, {} cached", count(self.steps.len(), "step"), self.ended(End::Cached)));
        }
        for (how, bytes) in [("pulled", self.totals.pulled), ("pushed", self.totals.pushed)] {
            if bytes > 0 {
                parts.push(format!("{how} {}", units::bytes(bytes)));
            }
        }
        for (how, blobs) in [("already there", self.totals.already_there), ("mounted", self.totals.mounted)] {
            if blobs > 0 {
                parts.push(format!("{} {how}", count(blobs, "blob")));
            }
        }
        if self.warnings > 0 {
            parts.push(count(self.warnings, "warning"));
        }
        parts.join("; ")
    }

    /// The steps that are being executed.
    pub fn running(&self) -> impl Iterator<Item = &StepState> {
        self.steps.values().filter(|state| state.is_running())
    }

    /// How many steps ended so.
    pub fn ended(&self, end: End) -> usize {
        self.steps.values().filter(|state| state.ended.is_some_and(|(how, _)| how == end)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(steps: u32) -> Model {
        let mut model = Model::default();
        for id in 1..=steps {
            let step = Step { id, stage: None, number: id, of: steps, text: format!("RUN {id}") };
            model.note(Duration::from_secs(1), &Event::StepStarted(step));
        }
        model
    }

    #[test]
    fn the_two_streams_of_a_step_do_not_mix_lines() {
        let mut model = model(1);
        let mut lines = Vec::new();
        for (stream, bytes) in [
            (Stream::Stdout, "out "),
            (Stream::Stderr, "err "),
            (Stream::Stdout, "put\n"),
            (Stream::Stderr, "or\nrest"),
        ] {
            model.output(1, stream, bytes.as_bytes(), |_, line| lines.push(line.to_owned()));
        }
        model.end(Duration::from_secs(3), 1, End::Done, |stream, _, line| {
            lines.push(format!("{stream:?} {line}"))
        });
        assert_eq!(lines, ["out put", "err or", "Stderr rest"]);
        assert_eq!(model.steps[&1].took(Duration::from_secs(9)), Duration::from_secs(2));
    }

    #[test]
    fn the_tail_is_short_and_knows_whether_it_was_cut_into() {
        let mut model = model(2);
        for line in 0..100 {
            model.output(1, Stream::Stdout, format!("{line}\n").as_bytes(), |_, _| {});
        }
        assert_eq!(model.steps[&1].tail().next(), Some("80"));
        assert!(!model.steps[&1].tail_is_interleaved());
        model.output(2, Stream::Stdout, b"between\n", |_, _| {});
        assert!(!model.steps[&1].tail_is_interleaved() && !model.steps[&2].tail_is_interleaved());
        model.output(1, Stream::Stdout, b"100\n", |_, _| {});
        assert!(model.steps[&1].tail_is_interleaved());
        model.output(1, Stream::Stdout, &[b'x'; 10_000], |_, _| {});
        model.end(Duration::ZERO, 1, End::Done, |_, _, _| {});
        assert!(model.steps[&1].tail().all(|line| line.chars().count() <= TAIL_WIDTH + 1));
    }

    #[test]
    fn what_is_not_known_changes_nothing() {
        let mut model = model(1);
        model.output(7, Stream::Stdout, b"x\n", |_, _| panic!("no such step"));
        model.end(Duration::ZERO, 7, End::Done, |_, _, _| {});
        model.note(Duration::ZERO, &Event::TransferProgress { transfer: 3, done: 1 });
        assert!(model.end_transfer(3, &Outcome::Pushed).is_none());
        assert_eq!(model.running().count(), 1);
    }
}
