//! The bytes that steps write, made into lines that can be shown anywhere.
//!
//! Invariants: a line that comes out holds no control character but tabs, no escape sequence and nothing that turns the
//! direction of text; it is at most [`LONGEST`] bytes of input; nothing that was written is lost, except states of a
//! line that were overwritten after a carriage return.

/// Bytes of a line that are held back. A longer one is shown in pieces: a program may write gigabytes without a break.
pub(super) const LONGEST: usize = 16 * 1024;
/// The most bytes that a UTF-8 sequence has behind its first (RFC 3629, 3).
const MOST_CONTINUATION: usize = 3;

/// Puts lines together from pieces.
///
/// A carriage return starts the line again: what is written then replaces it, so a progress bar comes out in its last
/// state.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// A carriage return came: the next byte that is no line feed replaces the line.
    returned: bool,
}

impl Lines {
    /// Takes the next piece; `line` is given each line that it completes, without its end.
    pub fn push(&mut self, mut piece: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(at) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (head, rest) = piece.split_at(at);
            self.append(head, &mut line);
            if rest.first() == Some(&b'\n') {
                line(&self.partial);
                self.partial.clear();
                self.returned = false;
            } else {
                self.returned = true;
            }
            piece = rest.get(1..).unwrap_or_default();
        }
        self.append(piece, &mut line);
    }

    /// Up to `most` bytes of the line that has no end yet.
    pub fn partial(&self, most: usize) -> &[u8] {
        self.partial.get(..most).unwrap_or(&self.partial)
    }

    /// The line that has no end yet, if one was begun.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        self.returned = false;
        (!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial))
    }

    fn append(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.partial.clear();
        }
        while self.partial.len() + bytes.len() > LONGEST {
            let (head, rest) = bytes.split_at(LONGEST.saturating_sub(self.partial.len()).min(bytes.len()));
            self.partial.extend_from_slice(head);
            let cut = character_start(&self.partial);
            let begun = self.partial.split_off(cut);
            line(&self.partial);
            self.partial = begun;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }
}

/// Where a character begins that `bytes` holds only a part of, or else their end.
fn character_start(bytes: &[u8]) -> usize {
    let behind = bytes.iter().rev().take(MOST_CONTINUATION).take_while(|byte| **byte & 0xc0 == 0x80).count();
    let first = bytes.len().saturating_sub(behind + 1);
    match bytes.get(first) {
        Some(lead) if first > 0 && *lead >= 0xc0 && lead.leading_ones() as usize > behind + 1 => first,
        _ => bytes.len(),
    }
}

/// `bytes` as text that steers nothing: without escape sequences, control characters other than tabs, and marks that turn
/// the direction of text; what is not UTF-8 is `�`.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => skip_sequence(&mut letters),
            '\u{9b}' => skip_parameters(&mut letters),
            '\t' => shown.push('\t'),
            letter if letter.is_control() || turns(letter) => {}
            letter => shown.push(letter),
        }
    }
    shown
}

/// Text of ours on one line: like [`printable`], with every run of white space as one space, and without the signs that
/// continue an instruction on the next line.
pub(super) fn one_line(text: &str) -> String {
    let text = text.replace("\\\n", " ");
    let spaced: String =
        text.chars().map(|letter| if letter.is_whitespace() { ' ' } else { letter }).collect();
    let shown = printable(spaced.as_bytes());
    shown.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Marks that make a terminal or a browser show letters in another order than they stand in (Unicode, UAX #9).
fn turns(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

type Letters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Skips the rest of an escape sequence (ECMA-48, 5.3 and 5.4).
fn skip_sequence(letters: &mut Letters<'_>) {
    match letters.peek() {
        Some('[') => {
            letters.next();
            skip_parameters(letters);
        }
        // Strings for the terminal (titles, links): up to BEL or ST.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(letter) = letters.next() {
                match letter {
                    '\u{7}' | '\u{9c}' => break,
                    '\u{1b}' => {
                        letters.next_if_eq(&'\\');
                        break;
                    }
                    _ => {}
                }
            }
        }
        _ => {
            while letters.next_if(|letter| ('\u{20}'..='\u{2f}').contains(letter)).is_some() {}
            letters.next_if(|letter| ('\u{30}'..='\u{7e}').contains(letter));
        }
    }
}

/// Skips the parameters and the end of a control sequence.
fn skip_parameters(letters: &mut Letters<'_>) {
    while letters.next_if(|letter| ('\u{20}'..='\u{3f}').contains(letter)).is_some() {}
    letters.next_if(|letter| ('\u{40}'..='\u{7e}').contains(letter));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut assembled, mut shown) = (Lines::default(), Vec::new());
        for piece in pieces {
            assembled.push(piece, |line| shown.push(printable(line)));
        }
        shown.extend(assembled.finish().map(|line| printable(&line)));
        shown
    }

    #[test]
    fn assembles() {
        let cases: &[(&[&[u8]], &[&str])] = &[
            (&[b"a\nb\n"], &["a", "b"]),
            (&[b"a", b"b\nc"], &["ab", "c"]),
            (&[b"a\r\nb\r\n"], &["a", "b"]),
            (&[b"a\r", b"\nb"], &["a", "b"]),
            (&[b"\n\n"], &["", ""]),
            (&[b"10%\r50%\r100%\ndone\n"], &["100%", "done"]),
            (&[b"10%\r", b"50%\r"], &["50%"]),
            (&[b"\rx\n"], &["x"]),
            (&[b"\xff\xfe ok\n"], &["\u{fffd}\u{fffd} ok"]),
            (&[b"\xe2\x82", b"\xac\n"], &["€"]),
            (&[], &[]),
        ];
        for (pieces, expected) in cases {
            assert_eq!(lines(pieces), *expected, "{pieces:?}");
        }
    }

    #[rstest]
    #[case(b"\x1b[1;31mred\x1b[0m", "red")]
    #[case(b"\x1b]0;title\x07text", "text")]
    #[case(b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link")]
    #[case(b"a\x1b[2Kb\x1b[1Gc", "abc")]
    #[case(b"a\x1b(Bb\x1bc\x1b", "ab")]
    #[case(b"bell\x07 back\x08\x00\x7f", "bell back")]
    #[case(b"a\tb", "a\tb")]
    #[case("\u{9b}31mred \u{202e}abc".as_bytes(), "red abc")]
    #[case(b"\x1b[", "")]
    fn steers_nothing(#[case] bytes: &[u8], #[case] expected: &str) {
        assert_eq!(printable(bytes), expected);
    }

    #[test]
    fn a_line_without_an_end_comes_in_pieces() {
        let long = "é".repeat(LONGEST);
        let shown = lines(&[b"x", long.as_bytes()]);
        assert!(shown.len() > 1 && shown.iter().all(|line| line.len() <= LONGEST));
        assert_eq!(shown.concat(), format!("x{long}"), "no letter was cut in two");
    }

    #[test]
    fn an_instruction_is_one_line() {
        assert_eq!(one_line("RUN a \\\n\t  b\x1b[31m"), "RUN a b");
    }

    proptest! {
        #[test]
        fn how_output_is_cut_does_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..400), cuts in proptest::collection::vec(0..400_usize, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(&pieces), lines(&[&bytes]));
        }

        #[test]
        fn nothing_steers(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(printable(&bytes).chars().all(|letter| letter == '\t' || !letter.is_control()));
        }
    }
}
