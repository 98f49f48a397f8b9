//! The JSON form of instructions: `["program", "argument"]`.
//!
//! Whether a text counts as JSON decides between exec and shell form, so the rules are those of Go's `encoding/json`:
//! half a surrogate pair is U+FFFD and no error, and anything behind the array makes it no JSON.

use std::ops::Range;

use serde_json::value::RawValue;

/// What a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Json {
    /// No JSON array: the shell form.
    No,
    /// An array of strings, each with the bytes between its quotes.
    Strings(Vec<(String, Range<usize>)>),
    /// A JSON array with something else in it, which is there.
    Mixed(Range<usize>),
}

/// Reads `text` as a JSON array, white space before it allowed.
pub(super) fn parse(text: &str) -> Json {
    let body = text.trim_start();
    if !body.starts_with('[') {
        return Json::No;
    }
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(body) else { return Json::No };
    let mut at = text.len() - body.len() + 1;
    let mut strings = Vec::with_capacity(elements.len());
    let mut mixed = None;
    for element in elements {
        let element = element.get();
        // Between the elements there are white space and commas only, and an element begins with neither.
        let gap = text.get(at..).and_then(|rest| rest.find(|letter| !is_gap(letter))).unwrap_or(0);
        let range = at + gap..at + gap + element.len();
        at = range.end;
        match element.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')) {
            Some(inner) => strings.push((unescape(inner), range.start + 1..range.end - 1)),
            None => mixed = mixed.or(Some(range)),
        }
    }
    match mixed {
        Some(range) => Json::Mixed(range),
        None => Json::Strings(strings),
    }
}

/// Whether a text that is no JSON was probably meant to be: it begins like an array of strings and ends like one. The
/// test command of a shell (`[ "$a" = b ]`) has a blank behind its bracket and no commas.
pub(super) fn looks_meant(text: &str) -> bool {
    const QUOTES: [char; 6] = ['"', '\'', '“', '”', '‘', '’'];
    let Some(inner) = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return false;
    };
    let commas = inner.split(',').rev().skip(1).any(|before| before.trim_end().ends_with(QUOTES));
    inner.trim_start().starts_with(QUOTES) && (commas || inner.starts_with(QUOTES))
}

fn is_gap(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\r' | ',')
}

/// The text of a JSON string, given what stands between its quotes; it is known to be well-formed.
fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let mut letters = after.chars();
        rest = match letters.next() {
            Some('u') => {
                let (letter, rest) = unicode(after);
                out.push(letter);
                rest
            }
            Some(letter) => {
                out.push(match letter {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                });
                letters.as_str()
            }
            None => "",
        };
    }
    out.push_str(rest);
    out
}

/// The number of `uXXXX`, and what follows it.
fn unit(text: &str) -> Option<(u32, &str)> {
    let digits = text.strip_prefix('u')?.get(..4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, text.get(5..)?))
}

/// The character of `uXXXX`, or of the pair `uXXXX\uXXXX`, and what follows it.
fn unicode(text: &str) -> (char, &str) {
    let Some((first, rest)) = unit(text) else { return (char::REPLACEMENT_CHARACTER, "") };
    if let Some(letter) = char::from_u32(first) {
        return (letter, rest);
    }
    match rest.strip_prefix('\\').and_then(unit) {
        Some((second @ 0xdc00..0xe000, rest)) if first < 0xdc00 => {
            let letter = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            (letter.unwrap_or(char::REPLACEMENT_CHARACTER), rest)
        }
        _ => (char::REPLACEMENT_CHARACTER, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(r#"["a", "b c"]"#, &["a", "b c"])]
    #[case("[]", &[])]
    #[case(" \u{a0}[ ] ", &[])]
    #[case(r#"["\"\\\/\b\f\n\r\t\u00e9"]"#, &["\"\\/\u{8}\u{c}\n\r\té"])]
    #[case(r#"["\ud83d\ude00", "\ud83d", "\ude00x", "\ud83dA", "\ud83d\u0041"]"#, &["😀", "\u{fffd}", "\u{fffd}x", "\u{fffd}A", "\u{fffd}A"])]
    #[case("[\"a\"\t,\r\n\"b,]\"]", &["a", "b,]"])]
    fn reads_arrays_of_strings(#[case] text: &str, #[case] expected: &[&str]) {
        let Json::Strings(strings) = parse(text) else { panic!("{text} is JSON") };
        let values: Vec<&str> = strings.iter().map(|(value, _)| value.as_str()).collect();
        assert_eq!(values, expected);
        for (value, range) in strings {
            assert_eq!(unescape(&text[range]), value);
        }
    }

    #[rstest]
    #[case("echo")]
    #[case("")]
    #[case("[")]
    #[case("['a']")]
    #[case(r#"["a",]"#)]
    #[case(r#"["a" "b"]"#)]
    #[case(r#"["a"] x"#)]
    #[case(r#"["a\q"]"#)]
    #[case(r#"["a\u12"]"#)]
    #[case("[\"a\tb\"]")]
    #[case("[ -f x ]")]
    fn leaves_the_rest_to_the_shell(#[case] text: &str) {
        assert_eq!(parse(text), Json::No);
    }

    #[rstest]
    #[case(r#"["a", 1]"#, "1")]
    #[case(r#"[["a"]]"#, r#"["a"]"#)]
    #[case(r#"["a", null, true]"#, "null")]
    #[case(r#"[{"a": "b"}]"#, r#"{"a": "b"}"#)]
    fn finds_what_is_no_string(#[case] text: &str, #[case] culprit: &str) {
        let Json::Mixed(range) = parse(text) else { panic!("{text} is mixed") };
        assert_eq!(&text[range], culprit);
    }

    #[rstest]
    #[case("['a', 'b']", true)]
    #[case("[“a”]", true)]
    #[case(r#"["a", "b",]"#, true)]
    #[case("[ 'a', 'b' ]", true)]
    #[case("[ -f x ]", false)]
    #[case("[ \"$a\" = b ]", false)]
    #[case("[ \"$a\" ]", false)]
    #[case("[ \"$a\" = b ] && c", false)]
    fn knows_slips(#[case] text: &str, #[case] meant: bool) {
        assert_eq!(looks_meant(text), meant);
    }
}
