//! Nothing but failures: what failed, with the last lines that the step in question had to say.

use std::sync::{Arc, Mutex};

use super::clock::Clock;
use super::event::Event;
use super::failure;
use super::model::{End, Model};
use super::sink::Sink;
use super::style::Style;
use super::text::one_line;
use super::{Reporter, lock};

/// Says nothing of what goes well.
#[derive(Debug)]
pub struct Quiet {
    clock: Arc<dyn Clock>,
    state: Mutex<(Model, Sink)>,
    style: Style,
}

impl Quiet {
    /// Writes to `sink`.
    pub fn new(sink: Sink, clock: Arc<dyn Clock>, style: Style) -> Self {
        Self { clock, state: Mutex::new((Model::default(), sink)), style }
    }
}

impl Reporter for Quiet {
    fn event(&self, event: Event) {
        let mut state = lock(&self.state);
        let (model, sink) = &mut *state;
        let now = self.clock.elapsed();
        model.note(now, &event);
        match event {
            Event::Output { step, stream, bytes } => model.output(step, stream, &bytes.0, |_, _| {}),
            Event::StepDone { step } => model.end(now, step, End::Done, |_, _, _| {}),
            Event::StepCancelled { step } => model.end(now, step, End::Cancelled, |_, _, _| {}),
            Event::StepFailed { step, failure } => {
                model.end(now, step, End::Failed, |_, _, _| {});
                let Some(state) = model.steps.get(&step) else { return };
                let label = one_line(&state.step.label());
                let mut text = format!("{label}: {}\n", one_line(&failure.to_string()));
                for line in state.tail() {
                    text.push_str(&format!("  | {line}\n"));
                }
                sink.write(&text);
            }
            Event::Failed(failure) => {
                let mut text = failure::lines(&failure, self.style).join("\n");
                text.push('\n');
                sink.write(&text);
            }
            _ => {}
        }
    }
}
