//! What rooms write with `tracing` (retries, refused mounts, …) as details of the report.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event as TraceEvent, Level, Metadata, Subscriber};

use super::Report;
use super::event::Event;

/// Only what this program says of itself: its libraries' own notes are about their insides.
const OURS: &str = "cofferdam";

/// Tells every `tracing` event of this program, from now on and for the whole process, as [`Event::Detail`]. Calling it
/// again does nothing.
pub fn install_tracing(report: Report) {
    let _installed = tracing::subscriber::set_global_default(Details(report));
}

struct Details(Report);

impl Subscriber for Details {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with(OURS) && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &TraceEvent<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.event(Event::Detail { text: text.message + &text.fields });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// `message (name=value, …)` without the brackets where there are no fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, "; {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
