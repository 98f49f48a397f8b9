//! Progress as JSON, one object a line, for programs. `docs/events.md` is its documentation.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;

use super::clock::Clock;
use super::event::{Event, OutputBytes, Stream};
use super::model::{End, Model};
use super::sink::Sink;
use super::{Reporter, lock};

/// How often the progress of one transfer is told: often enough for a bar, seldom enough for a log.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Writes objects.
#[derive(Debug)]
pub struct Json {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    model: Model,
    sink: Sink,
    details: bool,
}

/// An object: the event, when it was, and what the reporter knows beside it.
#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    event: &'a Event,
    timestamp: String,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_lines: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Summary>,
}

/// What the work came to.
#[derive(Serialize)]
struct Summary {
    steps: usize,
    cached: usize,
    pulled: u64,
    pushed: u64,
    already_there: usize,
    mounted: usize,
    warnings: usize,
}

impl Json {
    /// Writes to `sink`. `details` are told only if that is set.
    pub fn new(sink: Sink, clock: Arc<dyn Clock>, details: bool) -> Self {
        Self { clock, state: Mutex::new(State { model: Model::default(), sink, details }) }
    }
}

impl Reporter for Json {
    fn event(&self, event: Event) {
        let mut state = lock(&self.state);
        let now = Now { elapsed: self.clock.elapsed(), date: timestamp(&*self.clock) };
        let text = state.objects(&now, event);
        state.sink.write(&text);
    }
}

struct Now {
    elapsed: Duration,
    date: String,
}

impl State {
    fn objects(&mut self, now: &Now, event: Event) -> String {
        let mut out = String::new();
        self.model.note(now.elapsed, &event);
        match event {
            Event::Output { step, stream, bytes } => self.model.output(step, stream, &bytes.0, |line, _| {
                object(&mut out, now, &output(step, stream, line), None, None);
            }),
            Event::StepDone { step } => self.end(&mut out, now, step, End::Done, &event),
            Event::StepFailed { step, .. } => self.end(&mut out, now, step, End::Failed, &event),
            Event::StepCancelled { step } => self.end(&mut out, now, step, End::Cancelled, &event),
            Event::TransferProgress { transfer, .. } => {
                if let Some(state) = self.model.transfers.get_mut(&transfer)
                    && now.elapsed.saturating_sub(state.shown) >= PROGRESS_EVERY
                {
                    state.shown = now.elapsed;
                    object(&mut out, now, &event, None, None);
                }
            }
            Event::TransferDone { transfer, ref outcome } => {
                let state = self.model.end_transfer(transfer, outcome);
                let took = state.map(|state| now.elapsed.saturating_sub(state.begun));
                object(&mut out, now, &event, took, None);
            }
            Event::Detail { .. } if !self.details => {}
            Event::Ended { .. } => {
                let running: Vec<u32> = self.model.running().map(|state| state.step.id).collect();
                for step in running {
                    self.end(&mut out, now, step, End::Cancelled, &Event::StepCancelled { step });
                }
                let summary = Some(self.summary());
                write(&mut out, &Object { summary, ..Object::new(now, &event) });
            }
            event => object(&mut out, now, &event, None, None),
        }
        out
    }

    fn end(&mut self, out: &mut String, now: &Now, step: u32, end: End, event: &Event) {
        self.model.end(now.elapsed, step, end, |stream, line, _| {
            object(out, now, &output(step, stream, line), None, None);
        });
        let state = self.model.steps.get(&step);
        let took = state.map(|state| state.took(now.elapsed));
        let tail =
            state.filter(|_| end == End::Failed).map(|state| state.tail().map(str::to_owned).collect());
        object(out, now, event, took, tail);
    }

    fn summary(&self) -> Summary {
        let totals = self.model.totals;
        Summary {
            steps: self.model.steps.len(),
            cached: self.model.ended(End::Cached),
            pulled: totals.pulled,
            pushed: totals.pushed,
            already_there: totals.already_there,
            mounted: totals.mounted,
            warnings: self.model.warnings,
        }
    }
}

impl<'a> Object<'a> {
    fn new(now: &Now, event: &'a Event) -> Self {
        let timestamp = now.date.clone();
        Self {
            event,
            timestamp,
            seconds: seconds(now.elapsed),
            duration: None,
            last_lines: None,
            summary: None,
        }
    }
}

fn output(step: u32, stream: Stream, line: &[u8]) -> Event {
    Event::Output { step, stream, bytes: OutputBytes(line.to_vec()) }
}

fn object(out: &mut String, now: &Now, event: &Event, took: Option<Duration>, tail: Option<Vec<String>>) {
    write(out, &Object { duration: took.map(seconds), last_lines: tail, ..Object::new(now, event) });
}

fn write(out: &mut String, object: &Object<'_>) {
    // Every key is text and every number finite: there is nothing in an event that is not JSON.
    if let Ok(text) = serde_json::to_string(object) {
        out.push_str(&text);
        out.push('\n');
    }
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// RFC 3339, to the millisecond.
fn timestamp(clock: &dyn Clock) -> String {
    // A date that jiff cannot hold is one of the year 9999.
    jiff::Timestamp::try_from(clock.date()).map(|date| format!("{date:.3}")).unwrap_or_default()
}
