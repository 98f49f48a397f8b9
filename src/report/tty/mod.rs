//! Progress for people at a terminal: what runs is drawn below, what is finished scrolls up and stays.
//!
//! Events only change the state; a thread of its own draws it some ten times a second, so nobody waits for a terminal.

mod cells;
mod frame;
mod screen;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use self::cells::{Paint, Row};
use self::screen::Screen;
use super::clock::Clock;
use super::event::{Event, Outcome, RolloutProgress};
use super::failure;
use super::model::{End, Model, StepState};
use super::sink::Sink;
use super::style::Style;
use super::text::{one_line, printable};
use super::units;
use super::{Reporter, lock};

/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(100);
/// Bytes of lines that wait to be drawn. A terminal that takes them more slowly than this is waited for.
const MOST_WAITING: usize = 1 << 20;

/// The size of a terminal in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Cells of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Size {
    /// The size of the terminal at standard error; what terminals used to have, where it cannot be found out.
    pub fn of_stderr() -> Self {
        match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                Self { columns: size.ws_col, rows: size.ws_row }
            }
            _ => Self { columns: 80, rows: 24 },
        }
    }
}

/// Draws progress on a terminal.
pub struct Tty {
    shared: Arc<Shared>,
    drawer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    style: Style,
    size: Box<dyn Fn() -> Size + Send + Sync>,
    state: Mutex<State>,
    /// Locked before `state` where both are.
    screen: Mutex<Screen>,
    stop: Condvar,
}

struct State {
    model: Model,
    /// Lines that stay, to be written at the next drawing.
    lines: String,
    /// Cells of rows that stay.
    width: usize,
    /// Why the command failed, which is said last.
    failure: Vec<String>,
    live: bool,
    details: bool,
    /// The result is there. It may be printed on the same terminal now, so nothing is drawn that would be drawn over.
    built: bool,
    ended: bool,
}

impl Tty {
    /// Draws on `sink`, a terminal of the size that `size` gives whenever it is asked. `details` are told only if that
    /// is set.
    pub fn new(
        sink: Sink,
        clock: Arc<dyn Clock>,
        style: Style,
        size: impl Fn() -> Size + Send + Sync + 'static,
        details: bool,
    ) -> Self {
        let tty = Self::without_drawer(sink, clock, style, size, details);
        let shared = tty.shared.clone();
        let drawer = std::thread::Builder::new().name("progress".to_owned()).spawn(move || shared.draw_on());
        // Without a thread it is still drawn, at the end.
        *lock(&tty.drawer) = drawer.ok();
        tty
    }

    /// The same, drawn only by [`Shared::draw`]: for tests.
    pub(super) fn without_drawer(
        sink: Sink,
        clock: Arc<dyn Clock>,
        style: Style,
        size: impl Fn() -> Size + Send + Sync + 'static,
        details: bool,
    ) -> Self {
        let state = State {
            model: Model::default(),
            lines: String::new(),
            width: row_width(size()),
            failure: Vec::new(),
            live: false,
            details,
            built: false,
            ended: false,
        };
        let shared = Shared {
            clock,
            style,
            size: Box::new(size),
            state: Mutex::new(state),
            screen: Mutex::new(Screen::new(sink)),
            stop: Condvar::new(),
        };
        Self { shared: Arc::new(shared), drawer: Mutex::new(None) }
    }

    #[cfg(test)]
    pub(super) fn draw(&self) {
        self.shared.draw();
    }
}

impl Reporter for Tty {
    fn event(&self, event: Event) {
        let ends = matches!(event, Event::Ended { .. });
        let is_built = matches!(event, Event::Built(_));
        let waiting = {
            let mut state = lock(&self.shared.state);
            let now = self.shared.clock.elapsed();
            state.take(now, event, self.shared.style);
            state.lines.len()
        };
        if ends {
            self.shared.stop.notify_all();
            if let Some(drawer) = lock(&self.drawer).take() {
                // It panics no more than this thread does.
                let _ = drawer.join();
            }
        }
        if ends || is_built || waiting > MOST_WAITING {
            self.shared.draw();
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        lock(&self.shared.state).ended = true;
        self.shared.stop.notify_all();
    }
}

impl fmt::Debug for Tty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tty").field("style", &self.shared.style).finish_non_exhaustive()
    }
}

impl Shared {
    /// Draws until the end.
    fn draw_on(&self) {
        loop {
            let state = lock(&self.state);
            let waited = self.stop.wait_timeout_while(state, EVERY, |state| !state.ended);
            // A poisoned lock is one of a thread that is gone; what is shown is none the worse.
            let ended =
                waited.map_or_else(|poisoned| poisoned.into_inner().0.ended, |(state, _)| state.ended);
            if ended {
                return;
            }
            self.draw();
        }
    }

    /// Draws what there is. The state is not locked while the terminal takes it.
    fn draw(&self) {
        let mut screen = lock(&self.screen);
        let size = (self.size)();
        let (lines, rows) = {
            let mut state = lock(&self.state);
            state.width = row_width(size);
            let lines = std::mem::take(&mut state.lines);
            let rows = if state.live && !state.built && !state.ended {
                frame::compose(&state.model, self.clock.elapsed(), size, self.style)
            } else {
                Vec::new()
            };
            (lines, rows)
        };
        screen.draw(size, &lines, rows);
    }
}

impl State {
    fn take(&mut self, now: Duration, event: Event, style: Style) {
        self.model.note(now, &event);
        match event {
            Event::Started(started) => {
                self.live = true;
                if let Some(machine) = started.machine {
                    self.say(style.faint(&one_line(&machine)));
                }
            }
            Event::StepCached { step, .. } => {
                let row = Row::new(Paint::Faint, style.sign("✓ ", "+ "))
                    .then(Paint::Faint, one_line(&step.label()));
                self.row(row.right("cached"), style);
            }
            Event::CacheMiss { step, reason, changes } => self.miss(step, &reason, &changes, style),
            Event::Output { step, stream, bytes } => self.model.output(step, stream, &bytes.0, |_, _| {}),
            Event::StepDone { step } => {
                if let Some(state) = self.end(now, step, End::Done) {
                    let row = Row::new(Paint::Good, style.sign("✓ ", "+ "));
                    let row = row.then(Paint::None, one_line(&state.step.label()));
                    let took = units::duration(state.took(now));
                    self.row(row.right(took), style);
                }
            }
            Event::StepFailed { step, failure } => {
                self.failed(now, step, &one_line(&failure.to_string()), style)
            }
            Event::StepCancelled { step } => self.cancelled(now, step, style),
            Event::TransferDone { transfer, outcome } => {
                let state = self.model.end_transfer(transfer, &outcome);
                if let (Some(state), Outcome::Failed { reason }) = (state, outcome) {
                    let what = one_line(&state.started.what);
                    self.say(format!("{} {what}: {}", style.error(style.sign("✗", "x")), one_line(&reason)));
                }
            }
            Event::Warning { text, hint } => {
                self.block(failure::indented(&style.warning("warning:"), "  ", &text));
                if let Some(hint) = hint {
                    self.block(failure::indented(&style.hint("  help:"), "    ", &hint));
                }
            }
            Event::Findings(findings) => self.block(findings.render(style.color).lines().map(str::to_owned)),
            Event::Note { text } => self.block(text.lines().map(|line| printable(line.as_bytes()))),
            Event::Detail { text } if self.details => {
                self.say(style.faint(&format!("debug: {}", one_line(&text))))
            }
            Event::Built(built) => {
                self.built = true;
                self.say(format!("{} {}", style.strong("image"), built.digest));
                for (how, names) in
                    [("named", &built.names), ("pushed", &built.pushed), ("wrote", &built.written)]
                {
                    self.block(names.iter().map(|name| format!("  {how} {name}")));
                }
            }
            Event::RolloutProgress(progress) => self.rolled(now, &progress, style),
            Event::Diagnosis(diagnosis) => {
                let sign =
                    if diagnosis.is_final { style.error(style.sign("✗", "x")) } else { style.warning("!") };
                let text = one_line(&diagnosis.line());
                self.say(format!("{sign} {}: {text}", one_line(&diagnosis.object)));
            }
            Event::Failed(failure) => self.failure = failure::lines(&failure, style),
            Event::Ended { status } => self.finish(now, status, style),
            Event::Planned { .. }
            | Event::StepStarted(_)
            | Event::Layer { .. }
            | Event::TransferStarted(_)
            | Event::TransferProgress { .. }
            | Event::Detail { .. } => {}
        }
    }

    fn miss(&mut self, step: u32, reason: &str, changes: &[super::event::Change], style: Style) {
        let label =
            self.model.steps.get(&step).map(|state| one_line(&state.step.label())).unwrap_or_default();
        self.say(style.faint(&format!("{} {label}: not cached: {}", style.sign("·", "-"), one_line(reason))));
        self.block(
            changes.iter().map(|change| style.faint(&format!("    {}", one_line(&change.to_string())))),
        );
    }

    /// What is settled stays on the screen; what is on its way is drawn.
    fn rolled(&mut self, now: Duration, progress: &RolloutProgress, style: Style) {
        let key = (progress.namespace.clone(), progress.object.clone());
        self.live = true;
        let Some(state) = self.model.rollouts.get(&key).filter(|state| state.ended.is_some()) else { return };
        let (paint, sign) = match &*progress.state {
            "ready" => (Paint::Good, style.sign("✓ ", "+ ")),
            "failed" => (Paint::Strong, style.sign("✗ ", "x ")),
            _ => (Paint::Faint, style.sign("· ", "- ")),
        };
        let mut row = Row::new(paint, sign).then(Paint::None, one_line(&progress.object));
        if !progress.text.is_empty() {
            row = row.then(Paint::Faint, format!("  {}", one_line(&progress.text)));
        }
        let took = format!("{} {}", progress.state, units::duration(state.took(now)));
        self.row(row.right(took), style);
    }

    fn end(&mut self, now: Duration, step: u32, end: End) -> Option<&StepState> {
        self.model.steps.get(&step).filter(|state| state.is_running())?;
        self.model.end(now, step, end, |_, _, _| {});
        self.model.steps.get(&step)
    }

    fn failed(&mut self, now: Duration, step: u32, how: &str, style: Style) {
        let Some(state) = self.end(now, step, End::Failed) else { return };
        let label = one_line(&state.step.label());
        let bar = style.sign("  │ ", "  | ");
        let tail: Vec<String> = state.tail().map(|line| format!("{}{line}", style.faint(bar))).collect();
        let took = units::duration(state.took(now));
        self.say(format!("{} {label}: {how} after {took}", style.error(style.sign("✗", "x"))));
        self.block(tail);
    }

    fn cancelled(&mut self, now: Duration, step: u32, style: Style) {
        if let Some(state) = self.end(now, step, End::Cancelled) {
            let row = Row::new(Paint::Faint, style.sign("· ", "- "));
            let row = row.then(Paint::Faint, one_line(&state.step.label()));
            self.row(row.right("cancelled"), style);
        }
    }

    fn finish(&mut self, now: Duration, status: u8, style: Style) {
        let running: Vec<u32> = self.model.running().map(|state| state.step.id).collect();
        for step in running {
            self.cancelled(now, step, style);
        }
        self.ended = true;
        if self.live {
            let how = if status == 0 { style.good("finished in") } else { style.error("failed after") };
            let summary = self.model.summary();
            let colon = if summary.is_empty() { "" } else { ": " };
            self.say(format!("{how} {}{colon}{summary}", units::duration(now)));
        }
        let failure = std::mem::take(&mut self.failure);
        self.block(failure);
    }

    /// A row that stays.
    fn row(&mut self, row: Row, style: Style) {
        self.say(row.render(self.width, style));
    }

    fn say(&mut self, line: String) {
        self.lines.push_str(&line);
        self.lines.push('\n');
    }

    fn block(&mut self, lines: impl IntoIterator<Item = String>) {
        lines.into_iter().for_each(|line| self.say(line));
    }
}

/// Cells of rows that stay, on a terminal of `size`.
fn row_width(size: Size) -> usize {
    /// On a wider one the times at the right would be far from what they belong to.
    const WIDEST: usize = 110;
    usize::from(size.columns).saturating_sub(1).clamp(1, WIDEST)
}
