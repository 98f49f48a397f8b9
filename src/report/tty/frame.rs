//! What is drawn of a build that is under way: a head, the steps that run with the last lines of their output, and
//! transfers. A pure function of the state, the time and the size of the terminal.

use std::time::Duration;

use super::Size;
use super::cells::{Paint, Row};
use crate::report::event::Direction;
use crate::report::model::{End, Model, RolloutState, StepState, TransferState};
use crate::report::style::Style;
use crate::report::text::one_line;
use crate::report::units;

/// Lines of output of one step: enough to see that it goes on.
const MOST_OUTPUT: usize = 6;
/// Cells of a bar.
const BAR: usize = 20;
/// Terminals narrower than this show no bar, only numbers.
const NARROW: usize = 60;

/// The rows for a terminal of `size`, each at most its width, together at most its height.
pub(super) fn compose(model: &Model, now: Duration, size: Size, style: Style) -> Vec<String> {
    // In the last column a terminal may break the line; the last line is the cursor's.
    let width = usize::from(size.columns).saturating_sub(1).max(1);
    let height = usize::from(size.rows).saturating_sub(1).max(1);
    let steps: Vec<&StepState> = model.running().collect();
    let transfers: Vec<&TransferState> = model.transfers.values().collect();
    let mut rows = vec![head(model, now, steps.len())];
    if !model.rollouts.is_empty() {
        return rollouts(model, now, height, rows).iter().map(|row| row.render(width, style)).collect();
    }
    let room = height.saturating_sub(1);
    let (shown_steps, shown_transfers) = share(room, steps.len(), transfers.len());
    let left = room - shown_steps - shown_transfers;
    let output = left.checked_div(shown_steps).unwrap_or(0).min(MOST_OUTPUT);
    for state in steps.iter().take(shown_steps) {
        rows.push(step(state, now, style));
        rows.extend(last_lines(state, output).into_iter().map(|line| output_row(&line, style)));
    }
    for state in transfers.iter().take(shown_transfers) {
        rows.push(transfer(state, now, width, style));
    }
    let hidden = (steps.len() - shown_steps) + (transfers.len() - shown_transfers);
    if hidden > 0
        && let Some(first) = rows.first_mut()
    {
        let head = std::mem::take(first);
        *first = head.then(Paint::Faint, format!(", {hidden} more under way"));
    }
    rows.iter().take(height).map(|row| row.render(width, style)).collect()
}

/// A table of the objects that are on their way, the troubled ones first.
fn rollouts(model: &Model, now: Duration, height: usize, mut rows: Vec<Row>) -> Vec<Row> {
    let mut rolling: Vec<&RolloutState> = model.rolling().collect();
    rolling.sort_by_key(|state| state.wrong.is_none());
    let room = height.saturating_sub(rows.len());
    let shown = if rolling.len() > room { room.saturating_sub(1) } else { rolling.len() };
    // Names of one width make it a table.
    let names: Vec<String> =
        rolling.iter().take(shown).map(|state| one_line(&state.progress.object)).collect();
    let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (state, name) in rolling.iter().zip(&names) {
        let paint = if state.wrong.is_some() { Paint::Strong } else { Paint::Faint };
        let row = Row::new(Paint::None, format!("  {name:widest$}  "));
        rows.push(row.then(paint, one_line(&state.shown())).right(units::duration(state.took(now))));
    }
    if shown < rolling.len() {
        rows.push(Row::new(Paint::Faint, format!("  and {} more", rolling.len() - shown)));
    }
    rows.truncate(height);
    rows
}

/// How many rows of `room` steps and transfers get: steps first, but a row for a transfer where there are any.
fn share(room: usize, steps: usize, transfers: usize) -> (usize, usize) {
    let kept = usize::from(transfers > 0 && room > 1);
    let shown_steps = steps.min(room - kept);
    (shown_steps, transfers.min(room - shown_steps))
}

fn head(model: &Model, now: Duration, running: usize) -> Row {
    if !model.rollouts.is_empty() {
        let ready = model.rollouts.len() - model.rolling().count();
        let text = format!("{ready} of {} ready", units::count(model.rollouts.len(), "object"));
        return Row::new(Paint::Strong, text).right(units::duration(now));
    }
    let known = model.steps.len();
    if known.max(model.planned) == 0 {
        return Row::new(Paint::Strong, "preparing").right(units::duration(now));
    }
    let done = known - running;
    let of = if model.planned > known { model.planned } else { known };
    let mut text = format!("{done} of {}", units::count(of, "step"));
    let cached = model.ended(End::Cached);
    if cached > 0 {
        text.push_str(&format!(", {cached} cached"));
    }
    Row::new(Paint::Strong, text).right(units::duration(now))
}

fn step(state: &StepState, now: Duration, style: Style) -> Row {
    Row::new(Paint::Strong, style.sign("▸ ", "> "))
        .then(Paint::None, one_line(&state.step.label()))
        .right(units::duration(state.took(now)))
}

fn output_row(line: &str, style: Style) -> Row {
    Row::new(Paint::Faint, style.sign("  │ ", "  | ")).then(Paint::Faint, line)
}

fn last_lines(state: &StepState, most: usize) -> Vec<String> {
    let partial = state.partial();
    let whole = most.saturating_sub(usize::from(partial.is_some()));
    let skipped = state.tail().len().saturating_sub(whole);
    state.tail().skip(skipped).map(str::to_owned).chain(partial).take(most).collect()
}

fn transfer(state: &TransferState, now: Duration, width: usize, style: Style) -> Row {
    let started = &state.started;
    let arrow = match started.direction {
        Direction::Download => style.sign("↓ ", "v "),
        Direction::Upload => style.sign("↑ ", "^ "),
    };
    let done = units::bytes(state.done);
    let mut right = match started.total {
        Some(total) => format!("{done} / {}", units::bytes(total)),
        None => done,
    };
    if width >= NARROW {
        if let Some(total) = started.total.filter(|total| *total > 0) {
            right = format!("{} {right:>19}", bar(state.done, total, style));
        }
        let rate = units::rate(state.done, now.saturating_sub(state.begun)).unwrap_or_default();
        right = format!("{right} {rate:>10}");
    }
    Row::new(Paint::Strong, arrow).then(Paint::None, one_line(&started.what)).right(right)
}

fn bar(done: u64, total: u64, style: Style) -> String {
    let share = done.min(total) as f64 / total as f64;
    let full = ((share * BAR as f64) as usize).min(BAR);
    let (on, off) = (style.sign("━", "="), style.sign("─", "."));
    format!("{}{}", on.repeat(full), off.repeat(BAR - full))
}
