//! Places in a source text: byte ranges, and the lines and columns people read.
//!
//! Invariant: a [`Span`] made by this room lies inside the text it was made from and on character boundaries.

use std::ops::Range;

/// A byte range of a source text.
///
/// It may run over several physical lines: a word that is continued on the next line has one span which covers the
/// continuation as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

impl Span {
    /// The span of `start..end`; an `end` before the `start` gives an empty span.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    /// The empty span at `offset`.
    pub fn at(offset: usize) -> Self {
        Self { start: offset, end: offset }
    }

    /// The number of bytes covered.
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is covered.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The text covered, if the span belongs to `source`.
    pub fn text(self, source: &str) -> Option<&str> {
        source.get(self.start..self.end)
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self::new(range.start, range.end)
    }
}

impl From<Span> for Range<usize> {
    fn from(span: Span) -> Self {
        span.start..span.end
    }
}

/// A value and the place it was written at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Joins a value and its place.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl<T> AsRef<T> for Spanned<T> {
    fn as_ref(&self) -> &T {
        &self.value
    }
}

/// A line and a column, as an editor shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted from 1 in characters (not bytes, not terminal cells).
    pub column: usize,
}

/// Where the lines of a text begin, to turn offsets into positions without reading the text again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineIndex<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    /// Reads the lines of `text`.
    pub fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The number of the line, from 1, that holds the byte at `offset`. An offset behind the end is on the last
    /// line.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    /// The position of the byte at `offset`. A byte order mark takes no column: editors do not show it.
    pub fn position(&self, offset: usize) -> Position {
        let line = self.line(offset);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or("");
        let before = if line == 1 { before.strip_prefix('\u{feff}').unwrap_or(before) } else { before };
        Position { line, column: before.chars().count() + 1 }
    }

    /// The first and the last line, from 1, that a span touches. A line break at the very end of the span still
    /// belongs to the line it ends.
    pub fn lines(&self, span: Span) -> (usize, usize) {
        let last = if span.is_empty() { span.start } else { span.end - 1 };
        (self.line(span.start), self.line(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const TEXT: &str = "\u{feff}FROM a\nRUN é x\n\nlast";

    #[rstest]
    #[case::start_of_file(3, 1, 1)]
    #[case::the_mark_itself(0, 1, 1)]
    #[case::in_first_line(8, 1, 6)]
    #[case::on_the_line_break(9, 1, 7)]
    #[case::second_line(10, 2, 1)]
    #[case::after_a_wide_letter(17, 2, 7)]
    #[case::empty_line(19, 3, 1)]
    #[case::end_of_file(24, 4, 5)]
    #[case::behind_the_end(99, 4, 5)]
    fn positions(#[case] offset: usize, #[case] line: usize, #[case] column: usize) {
        assert_eq!(LineIndex::new(TEXT).position(offset), Position { line, column });
    }

    #[test]
    fn a_span_that_ends_with_its_line_break_stays_on_its_line() {
        let index = LineIndex::new("a\nb\nc");
        assert_eq!(index.lines(Span::new(0, 2)), (1, 1));
        assert_eq!(index.lines(Span::new(0, 3)), (1, 2));
        assert_eq!(index.lines(Span::at(5)), (3, 3));
    }

    #[test]
    fn joins_and_reads() {
        let span = Span::new(3, 5).to(Span::new(1, 2));
        assert_eq!(span, Span::new(1, 5));
        assert_eq!(span.text("abcdef"), Some("bcde"));
        assert_eq!(Span::new(5, 9).text("abc"), None, "a span of another text has no text here");
        assert!(Span::new(4, 2).is_empty());
    }
}
