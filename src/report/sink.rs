//! The end of standard error that reporters write to.

use std::fmt;
use std::io::Write;

/// Somewhere to write to. What can no longer be written to is passed over from then on: that nobody reads the log is no
/// reason to fail a build.
pub struct Sink {
    writer: Option<Box<dyn Write + Send>>,
}

impl Sink {
    /// Writes to `writer`, a whole line or frame at a time.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Some(Box::new(writer)) }
    }

    /// Standard error.
    pub fn stderr() -> Self {
        Self::new(std::io::stderr())
    }

    /// Writes `text` in one piece.
    pub(super) fn write(&mut self, text: &str) {
        let Some(writer) = &mut self.writer else { return };
        if text.is_empty() {
            return;
        }
        // A pipe without a reader, a terminal that was closed, a full disk: whichever it is, it does not pass.
        if writer.write_all(text.as_bytes()).and_then(|()| writer.flush()).is_err() {
            self.writer = None;
        }
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("open", &self.writer.is_some()).finish()
    }
}
