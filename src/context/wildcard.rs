//! The wildcards of COPY and ADD sources, as Go's `filepath.Match` reads them.
//!
//! `*` is any text without `/`, `?` any character but `/`, `[a-c]` and `[^a-c]` one character, `\` takes the meaning
//! away from what follows it. Names are bytes: what is no UTF-8 in them counts as one character a byte.
//!
//! Invariants: a [`Wildcard`] is well-formed, so matching cannot fail; a name is matched as a whole.

use std::ops::RangeInclusive;

use super::clean::clean;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a pattern: {reason}")]
pub struct BadPattern {
    /// The text.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A pattern, ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard {
    /// What stands between the stars. The first one begins where the name does, the last one ends where it ends.
    chunks: Vec<Vec<Step>>,
}

/// Something that takes one character, or one byte.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The byte itself.
    Byte(u8),
    /// `?`
    One,
    /// `[…]`, which takes `/` as any other character.
    Class { negated: bool, ranges: Vec<RangeInclusive<char>> },
}

impl Wildcard {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A `[` without its `]`, an empty class, a range without its end, a `\` at the end.
    pub fn parse(pattern: &str) -> Result<Self, BadPattern> {
        let bad = |reason| BadPattern { pattern: pattern.to_owned(), reason };
        let mut chunks = vec![Vec::new()];
        let mut chunk = Vec::new();
        let mut rest = pattern.chars();
        while let Some(letter) = rest.next() {
            match letter {
                '*' => {
                    if let Some(last) = chunks.last_mut() {
                        *last = std::mem::take(&mut chunk);
                    }
                    chunks.push(Vec::new());
                }
                '?' => chunk.push(Step::One),
                '[' => {
                    let (step, after) = class(rest.as_str()).map_err(bad)?;
                    chunk.push(step);
                    rest = after.chars();
                }
                '\\' => match rest.next() {
                    Some(letter) => literal(letter, &mut chunk),
                    None => return Err(bad("nothing follows the `\\` at its end")),
                },
                letter => literal(letter, &mut chunk),
            }
        }
        if let Some(last) = chunks.last_mut() {
            *last = chunk;
        }
        Ok(Self { chunks })
    }

    /// Whether the pattern means `name`.
    pub fn matches(&self, name: &[u8]) -> bool {
        let Some((first, others)) = self.chunks.split_first() else { return name.is_empty() };
        let Some(mut rest) = take(first, name) else { return false };
        let Some((last, between)) = others.split_last() else { return rest.is_empty() };
        for chunk in between {
            // As far left as it can be leaves the most to those behind it.
            match places(rest).find_map(|place| take(chunk, place)) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        places(rest).any(|place| take(last, place).is_some_and(<[u8]>::is_empty))
    }

    /// How many parts (`a/b` has two) each name has that the pattern means; none if it may have any number, because
    /// a class takes `/`. A walk need not go deeper than that.
    pub fn depth(&self) -> Option<usize> {
        let mut slashes = 0;
        for step in self.chunks.iter().flatten() {
            match step {
                Step::Byte(b'/') => slashes += 1,
                Step::Class { negated, ranges }
                    if ranges.iter().any(|range| range.contains(&'/')) != *negated =>
                {
                    return None;
                }
                _ => {}
            }
        }
        Some(slashes + 1)
    }
}

/// Whether `text` has a wildcard in it: `*`, `?` or `[` without a `\` before it. If not, it is no pattern but a name,
/// backslashes included.
pub fn has_wildcard(text: &str) -> bool {
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '*' | '?' | '[' => return true,
            '\\' => {
                letters.next();
            }
            _ => {}
        }
    }
    false
}

/// Parts a source into the directory that is looked into, a name, and the pattern for what is in it: at the first
/// part of the path with a wildcard. The source is cleaned first. The pattern is none if there is no wildcard, the
/// directory is empty if the first part has one.
pub fn split(source: &str) -> (String, Option<String>) {
    let cleaned = if source.is_empty() { String::new() } else { clean(source) };
    let parts: Vec<&str> = cleaned.split('/').collect();
    let Some(first) = parts.iter().position(|part| has_wildcard(part)) else { return (cleaned, None) };
    let (before, behind) = parts.split_at(first);
    let directory = match before {
        [""] => "/".to_owned(),
        before => before.join("/"),
    };
    (directory, Some(behind.join("/")))
}

/// The places where what follows a star can begin: each byte up to the first `/`.
fn places(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = text.iter().position(|&byte| byte == b'/').unwrap_or(text.len());
    (0..=end).filter_map(|at| text.get(at..))
}

/// What is left of `text` behind `chunk`, if it begins with it.
fn take<'a>(chunk: &[Step], text: &'a [u8]) -> Option<&'a [u8]> {
    chunk.iter().try_fold(text, |text, step| match step {
        Step::Byte(byte) => text.strip_prefix(&[*byte]),
        Step::One => first_character(text).filter(|(letter, _)| *letter != '/').map(|(_, rest)| rest),
        Step::Class { negated, ranges } => {
            let (letter, rest) = first_character(text)?;
            (ranges.iter().any(|range| range.contains(&letter)) != *negated).then_some(rest)
        }
    })
}

/// The first character of `text` and what follows; a byte that begins none is U+FFFD.
pub(super) fn first_character(text: &[u8]) -> Option<(char, &[u8])> {
    // Almost all names are ASCII, and walks of large contexts spend their time here.
    if let Some((&byte, rest)) = text.split_first().filter(|(byte, _)| byte.is_ascii()) {
        return Some((char::from(byte), rest));
    }
    let chunk = text.get(..text.len().min(4))?.utf8_chunks().next()?;
    match chunk.valid().chars().next() {
        Some(letter) => Some((letter, text.get(letter.len_utf8()..)?)),
        None => Some((char::REPLACEMENT_CHARACTER, text.get(1..)?)),
    }
}

fn literal(letter: char, chunk: &mut Vec<Step>) {
    chunk.extend(letter.encode_utf8(&mut [0; 4]).bytes().map(Step::Byte));
}

/// The class whose `[` has been read, and what follows its `]`.
fn class(text: &str) -> Result<(Step, &str), &'static str> {
    const OPEN: &str = "a `[` is not closed";
    let (negated, mut rest) = match text.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        if let Some(rest) = rest.strip_prefix(']').filter(|_| !ranges.is_empty()) {
            return Ok((Step::Class { negated, ranges }, rest));
        }
        let (low, after) = member(rest)?;
        let (high, after) = match after.strip_prefix('-') {
            Some(after) => member(after)?,
            None => (low, after),
        };
        if after.is_empty() {
            return Err(OPEN);
        }
        ranges.push(low..=high);
        rest = after;
    }
}

/// A character of a class.
fn member(text: &str) -> Result<(char, &str), &'static str> {
    let mut letters = text.chars();
    let letter = match letters.next() {
        None => return Err("a `[` is not closed"),
        Some('-') => return Err("a `-` in `[…]` stands between two characters, or behind a `\\`"),
        Some(']') => return Err("a `[…]` is empty, or a `-` in it has no end"),
        Some('\\') => letters.next().ok_or("a `[` is not closed")?,
        Some(letter) => letter,
    };
    Ok((letter, letters.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::Value;

    /// `testdata/context/wildcard.jsonl` holds what Go 1.26 answers. Go does not always see that a pattern is bad: it
    /// stops at the first part that does not match. Such a pattern means nothing there, and is refused here.
    #[test]
    fn means_what_go_means() {
        let mut wrong = Vec::new();
        for case in include_str!("../../testdata/context/wildcard.jsonl").lines() {
            let case: Value = serde_json::from_str(case).unwrap();
            let (pattern, name) = (case["pattern"].as_str().unwrap(), case["name"].as_str().unwrap());
            let answer = Wildcard::parse(pattern).map(|wildcard| wildcard.matches(name.as_bytes()));
            let right = match (&answer, case["expect"]["match"].as_bool()) {
                (Ok(answer), Some(expected)) => *answer == expected,
                (Err(_), expected) => expected != Some(true),
                (Ok(_), None) => false,
            };
            if !right {
                wrong.push(format!("{case} gave {answer:?}"));
            }
        }
        assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[rstest]
    #[case("[a", "a `[` is not closed")]
    #[case("[", "a `[` is not closed")]
    #[case("[]a]", "a `[…]` is empty, or a `-` in it has no end")]
    #[case("[a-]", "a `[…]` is empty, or a `-` in it has no end")]
    #[case("[-a]", "a `-` in `[…]` stands between two characters, or behind a `\\`")]
    #[case("a\\", "nothing follows the `\\` at its end")]
    #[case("[a\\", "a `[` is not closed")]
    fn refuses(#[case] pattern: &str, #[case] reason: &str) {
        assert_eq!(
            Wildcard::parse(pattern).unwrap_err().to_string(),
            format!("`{pattern}` is not a pattern: {reason}")
        );
    }

    #[test]
    fn names_are_bytes() {
        let matches = |pattern: &str, name: &[u8]| Wildcard::parse(pattern).unwrap().matches(name);
        assert!(matches("a?c", b"a\xffc"));
        assert!(matches("a[^b]c", b"a\xffc"));
        assert!(matches("a*c", b"a\xff\xfe\xc3c"));
        assert!(!matches("a?c", b"a\xc3\xff/c"));
        assert!(matches("\u{fffd}", "\u{fffd}".as_bytes()));
        assert!(!matches("\u{fffd}", b"\xff"));
    }

    #[rstest]
    #[case("a", false)]
    #[case("a*", true)]
    #[case("a?b", true)]
    #[case("[", true)]
    #[case("a\\*", false)]
    #[case("a\\\\*", true)]
    #[case("\\", false)]
    #[case("]", false)]
    fn knows_wildcards(#[case] text: &str, #[case] has: bool) {
        assert_eq!(has_wildcard(text), has);
    }

    #[rstest]
    #[case("a/b", "a/b", None)]
    #[case("./a//b/", "a/b", None)]
    #[case("", "", None)]
    #[case(".", ".", None)]
    #[case("*.c", "", Some("*.c"))]
    #[case("src/*.c", "src", Some("*.c"))]
    #[case("/src/a?/b", "/src", Some("a?/b"))]
    #[case("/*", "/", Some("*"))]
    #[case("a/b*/../c*", "a", Some("c*"))]
    #[case("a\\*/b*", "a\\*", Some("b*"))]
    fn splits(#[case] source: &str, #[case] directory: &str, #[case] pattern: Option<&str>) {
        assert_eq!(split(source), (directory.to_owned(), pattern.map(str::to_owned)));
    }

    #[rstest]
    #[case("*", Some(1))]
    #[case("a/*/b", Some(3))]
    #[case("[a-c]", Some(1))]
    #[case("[^a]", None)]
    #[case("[+-9]", None)]
    #[case("[^/]", Some(1))]
    #[case("\\/", Some(2))]
    fn knows_how_deep_names_are(#[case] pattern: &str, #[case] depth: Option<usize>) {
        assert_eq!(Wildcard::parse(pattern).unwrap().depth(), depth);
    }

    proptest! {
        #[test]
        fn never_panics_and_literals_mean_themselves(pattern in r"[a*?\[\]^\-\\/é]{0,12}", name in "[a/é\\-^]{0,8}") {
            if let Ok(wildcard) = Wildcard::parse(&pattern) {
                let matched = wildcard.matches(name.as_bytes());
                if let Some(depth) = wildcard.depth().filter(|_| matched) {
                    prop_assert_eq!(name.split('/').count(), depth);
                }
            }
            let escaped: String = name.chars().flat_map(|letter| ['\\', letter]).collect();
            prop_assert!(Wildcard::parse(&escaped).unwrap().matches(name.as_bytes()));
        }
    }
}
