//! The grammar of a word: text → parts, without any values.
//!
//! Invariants: every part remembers what its expansion needs and no more; the nesting of parts is bounded by
//! [`MAX_DEPTH`], so that walking them needs bounded stack.

use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

use super::{ExpandError, ExpandErrorKind};

/// How deep `${a:-${b:-…}}` may nest: far more than anybody writes, far less than the stack of a thread holds.
pub(in crate::dockerfile) const MAX_DEPTH: usize = 100;

/// Which characters have a meaning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grammar {
    /// The escape character.
    pub escape: char,
    /// Whether `'` and `"` quote.
    pub quotes: bool,
    /// Whether escape characters stay in the result.
    pub keep_escapes: bool,
}

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Ordinary text; white space in it separates words.
    Text(String),
    /// An escaped character (none at the end of the text), and the escape character if that is to stay.
    Escaped { escape: Option<char>, letter: Option<char> },
    /// What stands between two quotes.
    Quoted { quote: char, parts: Vec<Part> },
    /// `<<` and the white space behind it, which does not separate a heredoc's delimiter from it.
    Redirect(String),
    /// A variable.
    Variable { name: String, operator: Operator, at: Range<usize> },
}

/// What is done with the value of a variable. A `colon` makes an empty value count as unset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operator {
    /// `$v`, `${v}`
    Value { braces: bool },
    /// `${v-word}`
    Default { colon: bool, word: Vec<Part> },
    /// `${v+word}`
    Alternative { colon: bool, word: Vec<Part> },
    /// `${v?word}`
    Required { colon: bool, word: Vec<Part> },
    /// `${v#word}`, `${v%word}`; a word that begins with the operator again asks for the longest match.
    Strip { operator: char, word: Vec<Part> },
    /// `${v/pattern/with}`, `${v//pattern/with}`
    Replace { all: bool, pattern: Vec<Part>, with: Vec<Part> },
    /// `${v:1}` and the like: an error once the variable's value is asked for.
    Unsupported { modifier: String, word: Vec<Part> },
}

/// Reads the parts of `text`.
pub(super) fn parse(text: &str, grammar: Grammar) -> Result<Vec<Part>, ExpandError> {
    let mut parser = Parser { text, letters: text.char_indices().peekable(), grammar, depth: 0 };
    // BuildKit's scanner drops a byte order mark that begins a word.
    parser.letters.next_if(|&(_, letter)| letter == '\u{feff}');
    parser.parts(None, grammar.keep_escapes)
}

struct Parser<'a> {
    text: &'a str,
    letters: Peekable<CharIndices<'a>>,
    grammar: Grammar,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        self.letters.peek().map(|&(_, letter)| letter)
    }

    fn next(&mut self) -> Option<char> {
        self.letters.next().map(|(_, letter)| letter)
    }

    /// The offset of the next character.
    fn offset(&mut self) -> usize {
        self.letters.peek().map_or(self.text.len(), |&(at, _)| at)
    }

    /// The error `kind` about everything from `start` to here.
    fn fail<T>(&mut self, kind: ExpandErrorKind, start: usize) -> Result<T, ExpandError> {
        let end = self.offset();
        Err(ExpandError { kind, at: start..end })
    }

    /// Parts up to the end of the text, or up to `stop`, which is taken away. `raw` keeps escape characters.
    fn parts(&mut self, stop: Option<(char, usize)>, raw: bool) -> Result<Vec<Part>, ExpandError> {
        let mut parts = Vec::new();
        while let Some(letter) = self.peek() {
            if stop.is_some_and(|(stop, _)| letter == stop) {
                self.next();
                return Ok(parts);
            }
            match letter {
                '$' => parts.push(self.dollar()?),
                '<' => parts.push(self.angle()),
                '\'' if self.grammar.quotes => parts.push(self.single_quoted()?),
                '"' if self.grammar.quotes => parts.push(self.double_quoted(raw)?),
                escape if escape == self.grammar.escape => {
                    self.next();
                    let letter = self.next();
                    parts.push(Part::Escaped { escape: raw.then_some(escape), letter });
                }
                letter => {
                    self.next();
                    push_text(&mut parts, letter);
                }
            }
        }
        match stop {
            Some((stop, opened)) => self.fail(ExpandErrorKind::Unclosed(stop), opened),
            None => Ok(parts),
        }
    }

    fn angle(&mut self) -> Part {
        self.next();
        if self.letters.next_if(|&(_, letter)| letter == '<').is_none() {
            return Part::Redirect("<".to_owned());
        }
        let mut text = "<<".to_owned();
        while let Some((_, space)) = self.letters.next_if(|&(_, letter)| matches!(letter, '\t' | '\r' | ' '))
        {
            text.push(space);
        }
        Part::Redirect(text)
    }

    fn single_quoted(&mut self) -> Result<Part, ExpandError> {
        let start = self.offset();
        self.next();
        let mut text = String::new();
        while let Some(letter) = self.next() {
            if letter == '\'' {
                return Ok(Part::Quoted { quote: letter, parts: vec![Part::Text(text)] });
            }
            text.push(letter);
        }
        self.fail(ExpandErrorKind::UnclosedQuote('\''), start)
    }

    /// Within double quotes the escape character escapes `"`, `$` and itself; before anything else it stands for
    /// itself (and, where escapes are kept, is written twice: that is what BuildKit does).
    fn double_quoted(&mut self, raw: bool) -> Result<Part, ExpandError> {
        let start = self.offset();
        self.next();
        let mut parts = Vec::new();
        while let Some(letter) = self.peek() {
            if letter == '$' {
                parts.push(self.dollar()?);
                continue;
            }
            self.next();
            if letter == '"' {
                return Ok(Part::Quoted { quote: letter, parts });
            }
            if letter != self.grammar.escape {
                push_text(&mut parts, letter);
                continue;
            }
            if raw {
                push_text(&mut parts, letter);
            }
            let escape = self.grammar.escape;
            let special = |&(_, next): &(usize, char)| next == '"' || next == '$' || next == escape;
            let escaped = self.letters.next_if(special).map_or(letter, |(_, next)| next);
            push_text(&mut parts, escaped);
        }
        self.fail(ExpandErrorKind::UnclosedQuote('"'), start)
    }

    fn dollar(&mut self) -> Result<Part, ExpandError> {
        let start = self.offset();
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok(Part::Text("$".to_owned()));
            }
            let operator = Operator::Value { braces: false };
            return Ok(Part::Variable { name, operator, at: start..self.offset() });
        }
        self.next();
        match self.peek() {
            None => return self.fail(ExpandErrorKind::Unclosed('}'), start),
            Some('{' | '}' | ':') => {
                self.next();
                return self.fail(ExpandErrorKind::BadSubstitution, start);
            }
            Some(_) => {}
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(ExpandErrorKind::TooDeep, start);
        }
        let name = self.name();
        let operator = self.operator(start)?;
        self.depth -= 1;
        Ok(Part::Variable { name, operator, at: start..self.offset() })
    }

    /// What follows the name in `${name…}`, up to and with the closing brace.
    fn operator(&mut self, start: usize) -> Result<Operator, ExpandError> {
        let Some(first) = self.next() else { return self.fail(ExpandErrorKind::Unclosed('}'), start) };
        let close = Some(('}', start));
        let (colon, operator) = match first {
            '}' => return Ok(Operator::Value { braces: true }),
            '/' => {
                let all = self.letters.next_if(|&(_, letter)| letter == '/').is_some();
                let pattern = self.parts(Some(('/', start)), true)?;
                let with = self.parts(close, true)?;
                return Ok(Operator::Replace { all, pattern, with });
            }
            ':' => match self.next() {
                Some(operator) => (true, operator),
                None => return self.fail(ExpandErrorKind::Unclosed('}'), start),
            },
            operator => (false, operator),
        };
        Ok(match operator {
            '-' => Operator::Default { colon, word: self.parts(close, false)? },
            '+' => Operator::Alternative { colon, word: self.parts(close, false)? },
            '?' => Operator::Required { colon, word: self.parts(close, false)? },
            '#' | '%' if !colon => Operator::Strip { operator, word: self.parts(close, true)? },
            other if colon && !matches!(other, '#' | '%') => {
                Operator::Unsupported { modifier: format!(":{other}"), word: self.parts(close, false)? }
            }
            other => {
                let colon = if colon { ":" } else { "" };
                let modifier = format!("{colon}{other}");
                return self.fail(ExpandErrorKind::UnsupportedModifier(modifier), start);
            }
        })
    }

    /// A variable name: letters, digits and `_`; or only digits; or one of the shell's special parameters; or
    /// nothing.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(digit) if digit.is_ascii_digit() => {
                while let Some((_, digit)) = self.letters.next_if(|(_, letter)| letter.is_ascii_digit()) {
                    name.push(digit);
                }
            }
            Some(special @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.next();
                name.push(special);
            }
            _ => {
                let part = |&(_, letter): &(usize, char)| {
                    letter == '_' || letter.is_ascii_digit() || letter.is_alphabetic()
                };
                while let Some((_, letter)) = self.letters.next_if(part) {
                    name.push(letter);
                }
            }
        }
        name
    }
}

fn push_text(parts: &mut Vec<Part>, letter: char) {
    match parts.last_mut() {
        Some(Part::Text(text)) => text.push(letter),
        _ => parts.push(Part::Text(letter.to_string())),
    }
}
