//! Progress as lines, for logs: whatever happens is a line, lines of a step begin with its number, nothing is drawn over.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::clock::Clock;
use super::event::{Direction, Event, Outcome, RolloutProgress, Step, TransferStarted};
use super::failure;
use super::model::{End, Model, TransferState};
use super::sink::Sink;
use super::style::Style;
use super::text::{one_line, printable};
use super::units;
use super::{Reporter, lock};

/// How often the progress of one transfer is worth a line.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Steps that took less are not in the summary: it is read for where the time went.
const SUMMARY_FROM: Duration = Duration::from_millis(100);

/// Writes lines.
#[derive(Debug)]
pub struct Plain {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    model: Model,
    sink: Sink,
    details: bool,
    /// A command that tells of its start is one that takes time, and has a summary.
    summary: bool,
    /// Why the command failed: the last lines of a log are those that are read.
    failure: Vec<String>,
}

impl Plain {
    /// Writes to `sink`. `details` are told only if that is set.
    pub fn new(sink: Sink, clock: Arc<dyn Clock>, details: bool) -> Self {
        let state = State { model: Model::default(), sink, details, summary: false, failure: Vec::new() };
        Self { clock, state: Mutex::new(state) }
    }
}

impl Reporter for Plain {
    fn event(&self, event: Event) {
        let mut state = lock(&self.state);
        // Under the lock, so that the times of lines never go back.
        let now = self.clock.elapsed();
        let text = state.lines(now, event);
        state.sink.write(&text);
    }
}

impl State {
    /// What is to be written because of `event`.
    fn lines(&mut self, now: Duration, event: Event) -> String {
        let mut out = String::new();
        self.model.note(now, &event);
        match event {
            Event::Started(started) => {
                self.summary = true;
                line(&mut out, format_args!("cofferdam {} {}", started.version, started.command));
                if let Some(machine) = started.machine {
                    line(&mut out, format_args!("{}", one_line(&machine)));
                }
            }
            Event::Planned { .. } => {}
            Event::StepStarted(step) => head(&mut out, &step),
            Event::StepCached { step, from } => {
                head(&mut out, &step);
                line(&mut out, format_args!("#{} cached ({from})", step.id));
            }
            Event::CacheMiss { step, reason, changes } => {
                line(&mut out, format_args!("#{step} not cached: {}", one_line(&reason)));
                for change in changes {
                    line(&mut out, format_args!("#{step}   {}", one_line(&change.to_string())));
                }
            }
            Event::Output { step, stream, bytes } => {
                let begun = self.model.steps.get(&step).map_or(now, |state| state.begun);
                let time = now.saturating_sub(begun).as_secs_f64();
                self.model.output(step, stream, &bytes.0, |_, text| output_line(&mut out, step, time, text));
            }
            Event::StepDone { step } => self.end(&mut out, now, step, End::Done, ""),
            Event::StepFailed { step, failure } => {
                self.end(&mut out, now, step, End::Failed, &format!(": {}", one_line(&failure.to_string())));
            }
            Event::StepCancelled { step } => self.end(&mut out, now, step, End::Cancelled, ""),
            Event::Layer { step, digest, size, content_size } => line(
                &mut out,
                format_args!(
                    "#{step} layer {}: {} ({} uncompressed)",
                    units::short(&digest),
                    units::bytes(size),
                    units::bytes(content_size)
                ),
            ),
            // Its end, or its progress if it takes long, says enough.
            Event::TransferStarted(_) => {}
            Event::TransferProgress { transfer, .. } => self.progress(&mut out, now, transfer),
            Event::TransferDone { transfer, outcome } => {
                if let Some(state) = self.model.end_transfer(transfer, &outcome) {
                    transfer_done(&mut out, now, &state, &outcome);
                }
            }
            Event::Warning { text, hint } => {
                block(&mut out, failure::indented("warning:", "  ", &text));
                if let Some(hint) = hint {
                    block(&mut out, failure::indented("  help:", "    ", &hint));
                }
            }
            Event::Findings(findings) => block(&mut out, findings.render(false).lines().map(str::to_owned)),
            Event::Note { text } => block(&mut out, text.lines().map(|text| printable(text.as_bytes()))),
            Event::Detail { text } if self.details => {
                line(&mut out, format_args!("debug: {}", one_line(&text)))
            }
            Event::Detail { .. } => {}
            Event::Built(built) => {
                line(&mut out, format_args!("image {}", built.digest));
                for (how, names) in
                    [("named", &built.names), ("pushed", &built.pushed), ("wrote", &built.written)]
                {
                    for name in names {
                        line(&mut out, format_args!("  {how} {name}"));
                    }
                }
            }
            Event::RolloutProgress(progress) => self.rolled(&mut out, now, &progress),
            Event::Diagnosis(diagnosis) => line(
                &mut out,
                format_args!("{}: {}", one_line(&diagnosis.object), one_line(&diagnosis.line())),
            ),
            Event::Failed(failure) => self.failure = failure::lines(&failure, Style::default()),
            Event::Ended { status } => self.finish(&mut out, now, status),
        }
        out
    }

    fn rolled(&self, out: &mut String, now: Duration, progress: &RolloutProgress) {
        let key = (progress.namespace.clone(), progress.object.clone());
        let Some(state) = self.model.rollouts.get(&key) else { return };
        let object = one_line(&progress.object);
        let text = one_line(&state.text());
        if progress.state == "in_progress" {
            return line(out, format_args!("{object}: {text}"));
        }
        let colon = if text.is_empty() { "" } else { ": " };
        let took = units::duration(state.took(now));
        line(out, format_args!("{object}: {} after {took}{colon}{text}", one_line(&progress.state)));
    }

    fn end(&mut self, out: &mut String, now: Duration, step: u32, end: End, why: &str) {
        let Some(begun) = self.model.steps.get(&step).map(|state| state.begun) else { return };
        let took = now.saturating_sub(begun);
        self.model.end(now, step, end, |_, _, text| output_line(out, step, took.as_secs_f64(), text));
        let took = units::duration(took);
        match end {
            End::Failed => line(out, format_args!("#{step} failed after {took}{why}")),
            End::Cancelled => line(out, format_args!("#{step} cancelled after {took}")),
            End::Done | End::Cached => line(out, format_args!("#{step} done in {took}")),
        }
        let Some(state) = self.model.steps.get(&step) else { return };
        if end == End::Failed && state.tail_is_interleaved() {
            line(out, format_args!("#{step} its last lines were:"));
            for text in state.tail() {
                line(out, format_args!("#{step} | {text}"));
            }
        }
    }

    fn progress(&mut self, out: &mut String, now: Duration, transfer: u64) {
        let Some(state) = self.model.transfers.get_mut(&transfer) else { return };
        if now.saturating_sub(state.shown) < PROGRESS_EVERY {
            return;
        }
        state.shown = now;
        let verb = match state.started.direction {
            Direction::Download => "pulling",
            Direction::Upload => "pushing",
        };
        let done = units::bytes(state.done);
        let of = state.started.total.map(|total| format!(" of {}", units::bytes(total))).unwrap_or_default();
        let rate = units::rate(state.done, now.saturating_sub(state.begun));
        let rate = rate.map(|rate| format!(", {rate}")).unwrap_or_default();
        line(
            out,
            format_args!("{}{verb} {}: {done}{of}{rate}", prefix(&state.started), what(&state.started)),
        );
    }

    /// What is still held back, and where the time went.
    fn finish(&mut self, out: &mut String, now: Duration, status: u8) {
        let running: Vec<u32> = self.model.running().map(|state| state.step.id).collect();
        for step in running {
            self.end(out, now, step, End::Cancelled, "");
        }
        if self.summary {
            self.sum_up(out, now, status);
        }
        block(out, std::mem::take(&mut self.failure));
    }

    fn sum_up(&self, out: &mut String, now: Duration, status: u8) {
        let how = if status == 0 { "finished in" } else { "failed after" };
        let summary = self.model.summary();
        let colon = if summary.is_empty() { "" } else { ": " };
        line(out, format_args!("{how} {}{colon}{summary}", units::duration(now)));
        let executed = self.model.steps.values().filter(|state| {
            !matches!(state.ended, Some((End::Cached, _))) && state.took(now) >= SUMMARY_FROM
        });
        for state in executed {
            let took = units::duration(state.took(now));
            line(out, format_args!("{took:>8}  #{} {}", state.step.id, one_line(&state.step.label())));
        }
    }
}

fn transfer_done(out: &mut String, now: Duration, state: &TransferState, outcome: &Outcome) {
    let started = &state.started;
    let took = now.saturating_sub(state.begun);
    let size = started.total.unwrap_or(state.done);
    let moved = || {
        let rate = units::rate(size, took).map(|rate| format!(", {rate}")).unwrap_or_default();
        format!("{} in {}{rate}", units::bytes(size), units::duration(took))
    };
    let (verb, rest) = match (outcome, started.direction) {
        (Outcome::Downloaded, _) => ("pulled", moved()),
        (Outcome::Pushed, _) => ("pushed", moved()),
        (Outcome::AlreadyThere, _) => ("already there:", units::bytes(size)),
        (Outcome::Mounted { from }, _) => ("mounted", format!("{} from {from}", units::bytes(size))),
        (Outcome::Failed { reason }, Direction::Download) => ("pull failed:", one_line(reason)),
        (Outcome::Failed { reason }, Direction::Upload) => ("push failed:", one_line(reason)),
        (Outcome::Cancelled, Direction::Download) => ("pull cancelled:", units::bytes(state.done)),
        (Outcome::Cancelled, Direction::Upload) => ("push cancelled:", units::bytes(state.done)),
    };
    line(out, format_args!("{}{verb} {}: {rest}", prefix(started), what(started)));
}

fn prefix(started: &TransferStarted) -> String {
    started.step.map(|step| format!("#{step} ")).unwrap_or_default()
}

fn what(started: &TransferStarted) -> String {
    let digest = started.digest.map(|digest| format!(" {}", units::short(&digest)));
    format!("{}{}", one_line(&started.what), digest.unwrap_or_default())
}

fn head(out: &mut String, step: &Step) {
    line(out, format_args!("#{} {}", step.id, one_line(&step.label())));
}

fn output_line(out: &mut String, step: u32, seconds: f64, text: &str) {
    line(out, format_args!("#{step} {seconds:.2} {text}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
    let end = out.trim_end_matches([' ', '\t']).len();
    out.truncate(end);
    out.push('\n');
}

fn block(out: &mut String, lines: impl IntoIterator<Item = String>) {
    for text in lines {
        line(out, format_args!("{text}"));
    }
}
