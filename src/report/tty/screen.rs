//! The part of a terminal that is drawn over, below lines that stay.

use super::Size;
use super::cells::cells;
use crate::report::sink::Sink;

/// Draws. The cursor rests at the beginning of the line below the part that is drawn over, so that whatever else is
/// written there, a shell's prompt after a kill among it, begins on a line of its own.
#[derive(Debug)]
pub(super) struct Screen {
    sink: Sink,
    /// Cells of each row that is on the screen now.
    drawn: Vec<usize>,
    last: Vec<String>,
}

impl Screen {
    pub fn new(sink: Sink) -> Self {
        Self { sink, drawn: Vec::new(), last: Vec::new() }
    }

    /// Puts `lines` (each with its line break) above the live part, which becomes `rows`. One write, so that no
    /// terminal shows half of it.
    pub fn draw(&mut self, size: Size, lines: &str, rows: Vec<String>) {
        if lines.is_empty() && rows == self.last {
            return;
        }
        let mut out = String::new();
        let up = self.height(size);
        if up > 0 {
            // Up, to the first column, and clear to the end of the screen (ECMA-48: CUU, ED).
            out.push_str(&format!("\x1b[{up}A\r\x1b[J"));
        }
        out.push_str(lines);
        for row in &rows {
            out.push_str(row);
            out.push('\n');
        }
        self.sink.write(&out);
        self.drawn = rows.iter().map(|row| cells(row)).collect();
        self.last = rows;
    }

    /// How many lines the rows take. Where the terminal has become narrower they were broken (and where one does not
    /// break them, clearing too much takes a line of the past, not of what is to come).
    fn height(&self, size: Size) -> usize {
        let columns = usize::from(size.columns).max(1);
        self.drawn.iter().map(|row| row.div_ceil(columns).max(1)).sum()
    }
}
