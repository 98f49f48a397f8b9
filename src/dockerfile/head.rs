//! The parts that all instructions share: keyword, flags, and the rest.
//!
//! `KEYWORD --flag --flag=value -- rest`: flags end at the first word without `--`, or at `--`. Quotes and escapes
//! are taken out of flags here, before anything else looks at them; the rest is left as it is.
//!
//! BuildKit 0.33.0 reads flags byte by byte and garbles letters outside ASCII in them; here they stay what they are.

use std::ops::Range;

use super::expand::{Escape, Syntax, Word};
use super::line::LogicalLine;
use super::span::{Span, Spanned};

/// The white space that ends a keyword and separates words: ASCII only, while other parts of the language trim all
/// of Unicode's.
pub(super) fn is_blank(letter: char) -> bool {
    matches!(letter, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Where the parts of an instruction are in its logical line.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The keyword as it was written.
    pub keyword: Range<usize>,
    /// The flags, in order.
    pub flags: Vec<RawFlag>,
    /// What follows, without white space around it.
    pub rest: Range<usize>,
}

/// A flag without its quotes.
#[derive(Debug, Clone)]
pub(super) struct RawFlag {
    /// The whole flag, `--` included.
    pub text: Mapped,
    /// Where it is in the line, quotes included.
    pub range: Range<usize>,
    /// Where the quote begins that is not closed.
    pub unclosed: Option<usize>,
}

/// A text made from a line by leaving characters out, which knows where each of its bytes was.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapped {
    /// The text.
    pub text: String,
    /// The offset in the line of each byte.
    offsets: Vec<usize>,
    /// The offset in the line behind the last byte.
    end: usize,
}

impl Mapped {
    fn push(&mut self, letter: char, at: usize) {
        self.text.push(letter);
        self.offsets.extend(at..at + letter.len_utf8());
        self.end = at + letter.len_utf8();
    }

    /// The part of the text in `range`.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        let text = self.text.get(range.clone()).unwrap_or("").to_owned();
        let offsets = self.offsets.get(range.clone()).unwrap_or(&[]).to_vec();
        let start = self.offsets.get(range.start).copied().unwrap_or(self.end);
        let end = offsets.last().map_or(start, |last| last + 1);
        Self { text, offsets, end }
    }

    /// This text and another one that stands behind it.
    pub(super) fn followed_by(mut self, other: &Self) -> Self {
        self.text.push_str(&other.text);
        self.offsets.extend(&other.offsets);
        self.end = other.end;
        self
    }

    /// The place of the text in the source.
    pub(super) fn span(&self, line: &LogicalLine) -> Span {
        let start = self.offsets.first().copied().unwrap_or(self.end);
        line.span(start..self.end)
    }

    /// The text as a word that the planner expands.
    pub(super) fn word(&self, line: &LogicalLine, escape: Escape) -> Word {
        Word::new(self.text.clone(), self.span(line), Syntax::Shell(escape))
    }

    /// The text as a value that is not expanded.
    pub(super) fn spanned(&self, line: &LogicalLine) -> Spanned<String> {
        Spanned::new(self.text.clone(), self.span(line))
    }
}

impl Head {
    /// Finds the parts of the instruction in `range` of `line`.
    pub(super) fn read(line: &LogicalLine, range: Range<usize>, escape: Escape) -> Self {
        let range = trim(line, range);
        let text = line.slice(range.clone());
        let length = text.find(is_blank).unwrap_or(text.len());
        let keyword = range.start..range.start + length;
        let after = text.get(length..).unwrap_or("");
        let start = keyword.end + (after.len() - after.trim_start_matches(is_blank).len());
        let (flags, rest) = flags(line, start..range.end, escape);
        Self { keyword, flags, rest: trim(line, rest..range.end) }
    }
}

/// `range` without the white space at its ends.
pub(super) fn trim(line: &LogicalLine, range: Range<usize>) -> Range<usize> {
    let text = line.slice(range.clone());
    let start = range.start + (text.len() - text.trim_start().len());
    start..start + text.trim().len()
}

/// The flags at the beginning of `range`, and where they end.
fn flags(line: &LogicalLine, range: Range<usize>, escape: Escape) -> (Vec<RawFlag>, usize) {
    let mut flags = Vec::new();
    let mut at = range.start;
    loop {
        let text = line.slice(at..range.end);
        at += text.len() - text.trim_start().len();
        if !line.slice(at..range.end).starts_with("--") {
            return (flags, at);
        }
        let (flag, end) = flag(line.slice(at..range.end), at, escape);
        at = end;
        if flag.text.text == "--" {
            return (flags, at);
        }
        flags.push(flag);
    }
}

/// The flag at the beginning of `text`, which begins at `base` of its line, and where it ends.
fn flag(text: &str, base: usize, escape: Escape) -> (RawFlag, usize) {
    let mut out = Mapped { end: base, ..Mapped::default() };
    let mut quote: Option<(char, usize)> = None;
    let mut letters = text.char_indices().map(|(at, letter)| (base + at, letter));
    let mut end = base + text.len();
    while let Some((at, letter)) = letters.next() {
        match quote {
            None if letter.is_whitespace() => {
                end = at;
                break;
            }
            None if letter == '\'' || letter == '"' => quote = Some((letter, at)),
            Some((open, _)) if letter == open => quote = None,
            _ if letter == escape.char() => {
                // An escape character at the very end is dropped.
                if let Some((at, letter)) = letters.next() {
                    out.push(letter, at);
                }
            }
            _ => out.push(letter, at),
        }
    }
    let range = base..end;
    (RawFlag { text: out, range, unclosed: quote.map(|(_, at)| at) }, end)
}

/// The words of `range`, separated by blanks; quotes mean nothing here.
pub(super) fn blank_separated(line: &LogicalLine, range: Range<usize>) -> Vec<Range<usize>> {
    let text = line.slice(range.clone());
    let mut words = Vec::new();
    let mut at = range.start;
    for word in text.split(is_blank) {
        if !word.is_empty() {
            words.push(at..at + word.len());
        }
        // All blanks are one byte long.
        at += word.len() + 1;
    }
    words
}

/// The words of `range`, separated by white space that is neither quoted nor escaped; quotes and escapes stay, but
/// for an escape character at the very end.
pub(super) fn quoted_words(line: &LogicalLine, range: Range<usize>, escape: Escape) -> Vec<Range<usize>> {
    let text = line.slice(range.clone());
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut end = range.end;
    let mut letters = text.char_indices().map(|(at, letter)| (range.start + at, letter));
    while let Some((at, letter)) = letters.next() {
        if quote.is_none() && letter.is_whitespace() {
            words.extend(start.take().map(|start| start..at));
            continue;
        }
        start = start.or(Some(at));
        if letter == escape.char() && quote != Some('\'') {
            if letters.next().is_none() {
                end = at;
            }
            continue;
        }
        match quote {
            Some(open) if letter == open => quote = None,
            None if letter == '\'' || letter == '"' => quote = Some(letter),
            _ => {}
        }
    }
    words.extend(start.map(|start| start..end).filter(|word| !word.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn line(text: &str) -> LogicalLine {
        let mut line = LogicalLine::default();
        line.push(text, 0);
        line
    }

    #[rstest]
    #[case("RUN", "RUN", &[], "")]
    #[case("  run\t x y ", "run", &[], "x y")]
    #[case("COPY --a --b=c d", "COPY", &["--a", "--b=c"], "d")]
    #[case("COPY --a -- --b c", "COPY", &["--a"], "--b c")]
    #[case("COPY --a --", "COPY", &["--a"], "")]
    #[case("COPY -a b", "COPY", &[], "-a b")]
    #[case("COPY --a='b c' --d=\"e' f\" g", "COPY", &["--a=b c", "--d=e' f"], "g")]
    #[case("COPY --a=b\\ c\\\"d '--e' f", "COPY", &["--a=b c\"d"], "'--e' f")]
    #[case("COPY --a='b\\'c' d", "COPY", &["--a=b'c"], "d")]
    #[case("COPY --a=\\", "COPY", &["--a="], "")]
    #[case("COPY --ä=ö d", "COPY", &["--ä=ö"], "d")]
    #[case("COPY --a\u{a0}b", "COPY", &["--a"], "b")]
    #[case("RUN\u{a0}x", "RUN\u{a0}x", &[], "")]
    fn splits(#[case] text: &str, #[case] keyword: &str, #[case] flags: &[&str], #[case] rest: &str) {
        let line = line(text);
        let head = Head::read(&line, 0..text.len(), Escape::Backslash);
        assert_eq!(line.slice(head.keyword), keyword);
        let found: Vec<&str> = head.flags.iter().map(|flag| flag.text.text.as_str()).collect();
        assert_eq!(found, flags);
        assert_eq!(line.slice(head.rest), rest);
    }

    #[test]
    fn parts_of_a_quoted_flag_know_their_place() {
        let line = line("COPY --a='b'\"cd\" x");
        let head = Head::read(&line, 0..line.text.len(), Escape::Backslash);
        let flag = &head.flags[0];
        assert_eq!(flag.range, 5..16);
        assert_eq!(flag.text.text, "--a=bcd");
        assert_eq!(flag.text.part(4..7).span(&line), Span::new(10, 15));
        assert_eq!(flag.text.part(6..7).span(&line), Span::new(14, 15));
        assert_eq!(flag.text.part(7..7).span(&line), Span::at(15));
    }

    #[test]
    fn an_open_quote_is_found() {
        let line = line("RUN --mount=type='bind x");
        let head = Head::read(&line, 0..line.text.len(), Escape::Backslash);
        assert_eq!(head.flags[0].unclosed, Some(17));
        assert!(head.rest.is_empty());
    }

    #[rstest]
    #[case("a  b\tc", &["a", "b", "c"])]
    #[case("a='b c' d", &["a='b c'", "d"])]
    #[case("a=\"b \\\" c\" d", &["a=\"b \\\" c\"", "d"])]
    #[case("a='b\\' c d", &["a='b\\'", "c", "d"])]
    #[case("a=b\\ c d", &["a=b\\ c", "d"])]
    #[case("a=b\\", &["a=b"])]
    #[case("a \\", &["a"])]
    #[case("a\u{a0}b", &["a", "b"])]
    #[case("a='b c", &["a='b c"])]
    #[case("", &[])]
    fn words_keep_their_quotes(#[case] text: &str, #[case] expected: &[&str]) {
        let line = line(text);
        let words = quoted_words(&line, 0..text.len(), Escape::Backslash);
        let words: Vec<&str> = words.into_iter().map(|word| line.slice(word)).collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn blanks_separate_and_quotes_do_not_join() {
        let line = line("\"a b\"  c\u{a0}d");
        let words = blank_separated(&line, 0..line.text.len());
        let words: Vec<&str> = words.into_iter().map(|word| line.slice(word)).collect();
        assert_eq!(words, ["\"a", "b\"", "c\u{a0}d"]);
    }
}
