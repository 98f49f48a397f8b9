//! The value of a word: parts + variables → text and words.

use std::collections::BTreeSet;

use super::pattern::{self, Pattern};
use super::template::{Operator, Part};
use super::{ExpandError, ExpandErrorKind, Lookup};

/// The longest value of a variable, in bytes. Linux hands programs none above 128 KiB (`MAX_ARG_STRLEN`); each replacement in
/// another can be as many times as long, so that without a limit some lines fill the memory.
const LONGEST_VALUE: usize = 1 << 20;
/// The longest text that a word can become: a heredoc can be long.
const LONGEST_TEXT: usize = 64 << 20;

/// What a result is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Quotes stay in the result.
    pub keep_quotes: bool,
    /// A variable that is not set stays as it is written.
    pub keep_unset: bool,
}

impl Style {
    /// The value that an instruction works with.
    pub const VALUE: Self = Self { keep_quotes: false, keep_unset: false };
}

/// The result.
#[derive(Debug, Default)]
pub(super) struct Evaluation {
    /// As one word.
    pub text: String,
    /// As words: the runs of characters between white space that separates.
    pub words: Vec<String>,
    /// Variables that were asked for and set.
    pub used: BTreeSet<String>,
    /// Variables that were asked for and not set.
    pub undefined: BTreeSet<String>,
}

/// Works out the value of `parts`.
pub(super) fn run(parts: &[Part], style: Style, lookup: &Lookup<'_>) -> Result<Evaluation, ExpandError> {
    let mut state = State { style, lookup, used: BTreeSet::new(), undefined: BTreeSet::new() };
    let mut out = Output::default();
    state.parts(parts, &mut out)?;
    out.end_word();
    Ok(Evaluation { text: out.text, words: out.words, used: state.used, undefined: state.undefined })
}

/// Collects text as a whole and in words at once.
#[derive(Default)]
struct Output {
    text: String,
    word: String,
    words: Vec<String>,
}

impl Output {
    /// Adds text whose white space separates words.
    fn split(&mut self, text: &str) {
        self.text.push_str(text);
        for letter in text.chars() {
            if letter.is_whitespace() {
                self.end_word();
            } else {
                self.word.push(letter);
            }
        }
    }

    /// Adds text that belongs to one word.
    fn keep(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

struct State<'a, 'b> {
    style: Style,
    lookup: &'a Lookup<'b>,
    used: BTreeSet<String>,
    undefined: BTreeSet<String>,
}

impl State<'_, '_> {
    fn parts(&mut self, parts: &[Part], out: &mut Output) -> Result<(), ExpandError> {
        for part in parts {
            match part {
                Part::Text(text) => out.split(text),
                Part::Escaped { escape, letter } => {
                    for letter in escape.iter().chain(letter) {
                        out.keep(letter.encode_utf8(&mut [0; 4]));
                    }
                }
                Part::Quoted { quote, parts } => {
                    let inner = self.text(parts)?;
                    let quote = quote.encode_utf8(&mut [0; 4]).to_owned();
                    let quote = if self.style.keep_quotes { quote.as_str() } else { "" };
                    out.keep(&format!("{quote}{inner}{quote}"));
                }
                Part::Redirect(text) => out.keep(text),
                Part::Variable { name, operator, at } => {
                    let value = self.variable(name, operator).map_err(|error| match error {
                        Fault::Here(kind) => ExpandError { kind, at: at.clone() },
                        Fault::Inside(error) => error,
                    })?;
                    if value.len() > LONGEST_VALUE || out.text.len() + value.len() > LONGEST_TEXT {
                        return Err(ExpandError { kind: ExpandErrorKind::TooLong, at: at.clone() });
                    }
                    out.split(&value);
                }
            }
        }
        Ok(())
    }

    /// The text of parts that cannot become several words.
    fn text(&mut self, parts: &[Part]) -> Result<String, ExpandError> {
        let mut out = Output::default();
        self.parts(parts, &mut out)?;
        Ok(out.text)
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        let names = if value.is_some() { &mut self.used } else { &mut self.undefined };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }

    /// The value of a variable, or how it is written where unset ones are kept: `written` is asked for that.
    fn variable(&mut self, name: &str, operator: &Operator) -> Result<String, Fault> {
        // The word behind an operator is worked out first, chosen or not: BuildKit reports its errors, and counts
        // its variables, in any case.
        match operator {
            Operator::Value { braces } => {
                let written = || if *braces { format!("${{{name}}}") } else { format!("${name}") };
                self.look_up(name, written).map(Option::unwrap_or_default).or_else(Kept::text)
            }
            Operator::Default { colon, word } => {
                let word = self.text(word)?;
                let value = self.look_up(name, || written(name, *colon, "-", &word));
                value.map(|value| filled(value, *colon).unwrap_or(word)).or_else(Kept::text)
            }
            Operator::Alternative { colon, word } => {
                let word = self.text(word)?;
                let value = self.look_up(name, || written(name, *colon, "+", &word));
                value.map(|value| filled(value, *colon).map(|_| word).unwrap_or_default()).or_else(Kept::text)
            }
            Operator::Required { colon, word } => {
                let word = self.text(word)?;
                match self.look_up(name, || written(name, *colon, "?", &word)) {
                    Ok(value) => required(name, value, *colon, word),
                    Err(kept) => kept.text(),
                }
            }
            Operator::Strip { operator, word } => {
                let word = self.text(word)?;
                match self.look_up(name, || written(name, false, &operator.to_string(), &word)) {
                    Ok(value) => strip(*operator, &word, &value.unwrap_or_default()),
                    Err(kept) => kept.text(),
                }
            }
            Operator::Replace { all, pattern, with } => {
                let pattern = self.text(pattern)?;
                let with = self.text(with)?;
                match self.look_up(name, || format!("${{{name}/{pattern}/{with}}}")) {
                    Ok(value) => {
                        let compiled = Pattern::parse(&pattern).map_err(|letter| bad(&pattern, letter))?;
                        let value = value.unwrap_or_default();
                        pattern::replace(&compiled, &value, &with, *all, LONGEST_VALUE)
                            .ok_or(Fault::Here(ExpandErrorKind::TooLong))
                    }
                    Err(kept) => kept.text(),
                }
            }
            Operator::Unsupported { modifier, word } => {
                let word = self.text(word)?;
                match self.look_up(name, || written(name, false, modifier, &word)) {
                    Ok(_) => Err(Fault::Here(ExpandErrorKind::UnsupportedModifier(modifier.clone()))),
                    Err(kept) => kept.text(),
                }
            }
        }
    }

    /// The value, or `written` for a variable that is not set and is to be kept.
    fn look_up(&mut self, name: &str, written: impl FnOnce() -> String) -> Result<Option<String>, Kept> {
        match self.get(name) {
            None if self.style.keep_unset => Err(Kept(written())),
            value => Ok(value),
        }
    }
}

/// A variable that stays as it was written.
struct Kept(String);

impl Kept {
    fn text(self) -> Result<String, Fault> {
        Ok(self.0)
    }
}

/// Where an error belongs.
enum Fault {
    /// To the variable at hand.
    Here(ExpandErrorKind),
    /// To a part of the word behind its operator.
    Inside(ExpandError),
}

impl From<ExpandError> for Fault {
    fn from(error: ExpandError) -> Self {
        Self::Inside(error)
    }
}

fn written(name: &str, colon: bool, operator: &str, word: &str) -> String {
    let colon = if colon { ":" } else { "" };
    format!("${{{name}{colon}{operator}{word}}}")
}

/// The value, unless it counts as unset.
fn filled(value: Option<String>, colon: bool) -> Option<String> {
    value.filter(|value| !colon || !value.is_empty())
}

fn required(name: &str, value: Option<String>, colon: bool, word: String) -> Result<String, Fault> {
    let usual = if value.is_none() { "must be set" } else { "must not be empty" };
    filled(value, colon).ok_or_else(|| {
        let message = if word.is_empty() { usual.to_owned() } else { format!("{usual}: {word}") };
        Fault::Here(ExpandErrorKind::Required { name: name.to_owned(), message })
    })
}

fn strip(operator: char, word: &str, value: &str) -> Result<String, Fault> {
    let (longest, word) = match word.strip_prefix(operator) {
        Some(rest) => (true, rest),
        None => (false, word),
    };
    let fault = |letter| bad(word, letter);
    Ok(match operator {
        '#' => pattern::strip_prefix(&Pattern::parse(word).map_err(fault)?, value, longest),
        _ => pattern::strip_suffix(&Pattern::parse_reversed(word).map_err(fault)?, value, longest),
    })
}

fn bad(pattern: &str, letter: Option<char>) -> Fault {
    Fault::Here(ExpandErrorKind::BadPattern { pattern: pattern.to_owned(), letter })
}
