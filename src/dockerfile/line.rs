//! Logical lines: physical lines with their continuations joined, and where each byte of them came from.
//!
//! Invariant: the text of a logical line is the concatenation of its pieces, each of them a slice of the source, in
//! the order of the source; so every range of it has a place in the source.

use std::ops::Range;

use super::expand::Escape;
use super::span::Span;

/// An instruction on one line, as BuildKit keeps it: continuation characters, line breaks, comment lines and blank
/// lines taken out, all other white space as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct LogicalLine {
    /// The text.
    pub text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where it begins in the text.
    at: usize,
    /// Where it begins in the source.
    source: usize,
}

impl LogicalLine {
    /// Adds `piece`, which begins at `source`.
    pub(super) fn push(&mut self, piece: &str, source: usize) {
        self.pieces.push(Piece { at: self.text.len(), source });
        self.text.push_str(piece);
    }

    /// The place in the source of a range of the text. What stands between two pieces belongs to it, if it has bytes
    /// of both.
    pub(super) fn span(&self, range: Range<usize>) -> Span {
        let start = self.source(range.start);
        match range.end {
            end if end > range.start => Span::new(start, self.source(end - 1) + 1),
            _ => Span::at(start),
        }
    }

    /// A range of the text; empty where the line has no such range.
    pub(super) fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or("")
    }

    /// Where a byte of the text is in the source.
    fn source(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|piece| piece.at <= at);
        self.pieces.get(piece.saturating_sub(1)).map_or(0, |piece| piece.source + (at - piece.at))
    }
}

/// The physical lines of a source, each with its line break.
#[derive(Debug)]
pub(super) struct PhysicalLines<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> PhysicalLines<'a> {
    /// The lines of `source`. A byte order mark at its beginning belongs to no line.
    pub(super) fn new(source: &'a str) -> Self {
        let at = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { source, at }
    }

    /// Where the next line begins.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// Where the last line that was read ends, without its line break.
    pub(super) fn end(&self) -> usize {
        without_break(self.source.get(..self.at).unwrap_or("")).len()
    }
}

impl<'a> Iterator for PhysicalLines<'a> {
    /// The offset of a line and its text with the line break.
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.source.get(self.at..).filter(|rest| !rest.is_empty())?;
        let line = rest.split_inclusive('\n').next()?;
        let at = self.at;
        self.at += line.len();
        Some((at, line))
    }
}

/// `line` without its line break, whichever it is.
pub(super) fn without_break(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Whether a physical line is a comment.
pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The part of a line that counts, and whether the instruction goes on in the next line: a line goes on if its last
/// character, blanks and tabs aside, is the escape character, and the one before it is not.
pub(super) fn continuation(line: &str, escape: Escape) -> (&str, bool) {
    let escape = escape.char();
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("foo \\", "foo ", true)]
    #[case("foo\\  \t", "foo", true)]
    #[case("\\", "", true)]
    #[case("foo \\\\", "foo \\\\", false)]
    #[case("foo \\\\\\", "foo \\\\\\", false)]
    #[case("foo \\ x", "foo \\ x", false)]
    #[case("foo \\\u{a0}", "foo \\\u{a0}", false)]
    #[case("foo `", "foo `", false)]
    #[case("", "", false)]
    fn lines_go_on_after_a_single_escape(#[case] line: &str, #[case] kept: &str, #[case] goes_on: bool) {
        assert_eq!(continuation(line, Escape::Backslash), (kept, goes_on));
        let (line, kept) = (line.replace('\\', "\u{1}"), kept.replace('\\', "\u{1}"));
        let (line, kept) = (line.replace('`', "\\"), kept.replace('`', "\\"));
        let (line, kept) = (line.replace('\u{1}', "`"), kept.replace('\u{1}', "`"));
        assert_eq!(continuation(&line, Escape::Backtick), (kept.as_str(), goes_on));
    }

    #[test]
    fn ranges_find_their_place() {
        let source = "ab\\\ncd\\\nef";
        let mut line = LogicalLine::default();
        for at in [0, 4, 8] {
            line.push(&source[at..at + 2], at);
        }
        assert_eq!(line.text, "abcdef");
        assert_eq!(line.span(0..2), Span::new(0, 2));
        assert_eq!(line.span(2..4), Span::new(4, 6));
        assert_eq!(line.span(1..3), Span::new(1, 5), "the continuation belongs to a word that crosses it");
        assert_eq!(line.span(2..2), Span::at(4));
        assert_eq!(line.span(6..6), Span::at(10));
        assert_eq!(LogicalLine::default().span(0..0), Span::at(0));
    }

    #[test]
    fn lines_keep_their_breaks() {
        let lines: Vec<_> = PhysicalLines::new("\u{feff}a\r\n\nb").collect();
        assert_eq!(lines, [(3, "a\r\n"), (6, "\n"), (7, "b")]);
        assert_eq!(without_break("a\r\n"), "a");
    }
}
