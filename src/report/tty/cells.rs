//! Text cut to the cells of a terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::report::style::Style;

/// Every so many cells a tab ends.
const TAB: usize = 8;

/// How a part of a row looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    None,
    Strong,
    Faint,
    Good,
}

impl Paint {
    fn on(self, style: Style, text: &str) -> String {
        match self {
            Self::None => text.to_owned(),
            Self::Strong => style.strong(text),
            Self::Faint => style.faint(text),
            Self::Good => style.good(text),
        }
    }
}

/// A row: parts from the left, and a text at the right edge that is never cut.
#[derive(Debug, Default)]
pub(super) struct Row {
    left: Vec<(Paint, String)>,
    right: String,
}

impl Row {
    pub fn new(paint: Paint, text: impl Into<String>) -> Self {
        Self { left: vec![(paint, text.into())], right: String::new() }
    }

    pub fn then(mut self, paint: Paint, text: impl Into<String>) -> Self {
        self.left.push((paint, text.into()));
        self
    }

    pub fn right(mut self, text: impl Into<String>) -> Self {
        self.right = text.into();
        self
    }

    /// The row in at most `width` cells.
    pub fn render(&self, width: usize, style: Style) -> String {
        let right = fit(&self.right, width, style);
        let right_cells = right.width();
        let gap = usize::from(right_cells > 0);
        let mut room = width.saturating_sub(right_cells + gap);
        let mut row = String::new();
        for (paint, text) in &self.left {
            let shown = fit(text, room, style);
            room -= shown.width();
            if !shown.is_empty() {
                row.push_str(&paint.on(style, &shown));
            }
        }
        if right_cells > 0 {
            let gap = gap.min(width - right_cells);
            row.extend(std::iter::repeat_n(' ', room + gap));
            row.push_str(&style.faint(&right));
        }
        row
    }
}

/// `text` in at most `room` cells, tabs as spaces; a sign at its end tells that it was cut.
pub(super) fn fit(text: &str, room: usize, style: Style) -> String {
    let mark = style.sign("…", "~");
    let mut shown = String::new();
    let mut cells = 0;
    // Where the text would be cut to leave a cell for the mark.
    let mut cut = 0;
    for letter in text.chars() {
        let (spaces, wide) = match letter {
            '\t' => (TAB - cells % TAB, 0),
            letter => (0, letter.width().unwrap_or(0)),
        };
        if cells + spaces + wide > room {
            shown.truncate(cut);
            if room > 0 {
                shown.push_str(mark);
            }
            return shown;
        }
        shown.extend(std::iter::repeat_n(' ', spaces));
        if spaces == 0 {
            shown.push(letter);
        }
        cells += spaces + wide;
        if cells < room {
            cut = shown.len();
        }
    }
    shown
}

/// The cells that a row of ours takes, which may hold colours.
pub(super) fn cells(row: &str) -> usize {
    let mut cells = 0;
    let mut letters = row.chars();
    while let Some(letter) = letters.next() {
        if letter == '\x1b' {
            // Colours are the only sequences in rows; they end with `m`.
            letters.by_ref().find(|letter| *letter == 'm');
        } else {
            cells += letter.width().unwrap_or(0);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const STYLE: Style = Style { color: false, unicode: true };

    #[rstest]
    #[case("abc", 3, "abc")]
    #[case("abcd", 3, "ab…")]
    #[case("abcd", 0, "")]
    #[case("日本語", 6, "日本語")]
    #[case("日本語", 5, "日本…")]
    #[case("日本語", 4, "日…")]
    #[case("a\tb", 9, "a       b")]
    #[case("a\tb", 8, "a…")]
    #[case("e\u{301}e", 2, "e\u{301}e")]
    fn cuts(#[case] text: &str, #[case] room: usize, #[case] shown: &str) {
        assert_eq!(fit(text, room, STYLE), shown);
    }

    #[test]
    fn the_right_edge_is_kept() {
        let row = Row::new(Paint::None, "=> ").then(Paint::None, "RUN something long").right("1.2s");
        assert_eq!(row.render(30, STYLE), "=> RUN something long     1.2s");
        assert_eq!(row.render(16, STYLE), "=> RUN som… 1.2s");
        assert_eq!(row.render(3, STYLE), "1.…");
    }

    proptest! {
        #[test]
        fn no_row_is_wider_than_it_may_be(text in "\\PC{0,40}", right in "[a-z]{0,8}", width in 0_usize..60, color: bool) {
            let style = Style { color, unicode: true };
            let row = Row::new(Paint::Good, text.clone()).then(Paint::Faint, text).right(right).render(width, style);
            prop_assert!(cells(&row) <= width, "{row:?}");
        }
    }
}
