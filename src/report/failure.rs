//! How a failure is written out, for every reporter that shows text.

use super::event::Failure;
use super::style::Style;
use super::text::printable;

/// The lines of a failure: what failed, why, the source it is about, what to do about it.
pub(super) fn lines(failure: &Failure, style: Style) -> Vec<String> {
    let mut shown = Vec::new();
    match &failure.source {
        // What is drawn of a source says more than the sentence about it.
        Some(source) => shown.extend(source.render(style.color).lines().map(str::to_owned)),
        None => shown.extend(indented(&style.error("error:"), "  ", &failure.message)),
    }
    for cause in &failure.causes {
        shown.extend(indented("  because:", "    ", cause));
    }
    for hint in &failure.hints {
        shown.extend(indented(&style.hint("help:"), "  ", hint));
    }
    shown
}

/// `head text`, further lines of the text indented.
pub(super) fn indented(head: &str, indent: &str, text: &str) -> Vec<String> {
    let mut lines = text.lines().map(|line| printable(line.as_bytes()));
    let first = lines.next().unwrap_or_default();
    std::iter::once(format!("{head} {first}")).chain(lines.map(|line| format!("{indent}{line}"))).collect()
}
