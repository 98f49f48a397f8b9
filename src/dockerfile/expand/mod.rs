//! Variable expansion, quotes and escapes in the words of instructions, as BuildKit's Dockerfile shell lexer does it.
//!
//! A [`Word`] is what the author wrote and may hold variables; nothing is expanded while a Dockerfile is parsed,
//! because the values depend on scopes that only the planner knows. [`Word::expand`] gives the value, and which
//! variables it came from: a cache key and the checks for undefined variables need that.
//!
//! Invariants: expansion is a function of the word and of what `lookup` answers; it never panics and needs stack in
//! proportion to [`MAX_DEPTH`] only; a variable counts as used or undefined if it is written in the word, also where
//! its value is not chosen in the end (`${A:-$B}` with `A` set uses `B` as well).
//!
//! Known differences from BuildKit 0.33.0, all on the side of what its documentation says: `EXPOSE 80${X:-80}` keeps
//! the `80` before the braces, and only ASCII digits continue a name.

mod eval;
mod pattern;
mod template;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use super::diagnostic::{Diagnostic, quote};
use super::span::Span;
use eval::{Evaluation, Style};
use template::Grammar;
pub(super) use template::MAX_DEPTH;

/// Answers what a variable holds; none if it is not set (which is not the same as empty).
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The character that escapes others and continues lines: `\`, or what `# escape=` chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Escape {
    /// `\`
    #[default]
    Backslash,
    /// `` ` ``
    Backtick,
}

impl Escape {
    /// The character itself.
    pub fn char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }
}

/// How the text of a [`Word`] is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Syntax {
    /// Variables, quotes and escapes: the words of instructions.
    Shell(Escape),
    /// Variables and `\` escapes, while quotes stand for themselves: the body of a heredoc that is copied.
    Text,
    /// Nothing has a meaning: the body of a heredoc whose delimiter was quoted.
    Verbatim,
}

/// A piece of an instruction that is to be expanded when its stage is planned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Word {
    /// What was written, line continuations taken out. In a flag the quotes around its value are already gone, in
    /// the JSON form its escapes.
    pub text: String,
    /// Where it was written.
    pub span: Span,
    /// How it is to be read.
    pub syntax: Syntax,
}

/// What became of a word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The value.
    pub text: String,
    /// The names of the variables that were asked for and are set, sorted.
    pub used: BTreeSet<String>,
    /// The names of the variables that were asked for and are not set, sorted.
    pub undefined: BTreeSet<String>,
}

/// What became of a word that may turn into several (`EXPOSE $PORTS`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpandedWords {
    /// The words: split at white space that was neither quoted nor escaped, also where a variable brought it. None
    /// of them is empty.
    pub words: Vec<String>,
    /// The names of the variables that were asked for and are set, sorted.
    pub used: BTreeSet<String>,
    /// The names of the variables that were asked for and are not set, sorted.
    pub undefined: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct ExpandError {
    /// What is wrong.
    pub kind: ExpandErrorKind,
    /// The bytes of the word's text it is about.
    pub at: Range<usize>,
}

/// What can be wrong with a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandErrorKind {
    /// A `'` or `"` without its partner.
    #[error("the quote {} is not closed", quote(&.0.to_string()))]
    UnclosedQuote(char),
    /// `${` without its `}`, or `${v/a` without the second `/`.
    #[error("{} is missing after `${{`", quote(&.0.to_string()))]
    Unclosed(char),
    /// `${}`, `${:x}`, `${{x}`.
    #[error("`${{` is not followed by a variable name")]
    BadSubstitution,
    /// `${v^^}`: something that other shells know.
    #[error("the modifier {} is not supported in `${{…}}`", quote(.0))]
    UnsupportedModifier(String),
    /// `${v?message}` or `${v:?message}` of a variable that must be there.
    #[error("variable {} {message}", quote(.name))]
    Required {
        /// The variable.
        name: String,
        /// The author's words about it, or the usual ones.
        message: String,
    },
    /// `${v#pattern}` with a backslash that escapes nothing.
    #[error("the pattern {} escapes {}, which needs no escape", quote(.pattern), match .letter {
        Some(letter) => quote(&letter.to_string()),
        None => "nothing".to_owned(),
    })]
    BadPattern {
        /// The pattern after expansion.
        pattern: String,
        /// What follows the backslash; nothing at the end of the pattern.
        letter: Option<char>,
    },
    /// `${a:-${b:-${c:-…}}}` without end.
    #[error("more than {MAX_DEPTH} `${{…}}` are nested in each other")]
    TooDeep,
    /// Replacements in replacements, or a variable that is set to itself several times over and over.
    #[error("the value is too long: a variable can hold 1 MiB, and all of a word 64 MiB")]
    TooLong,
}

impl ExpandErrorKind {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnclosedQuote(_) => Some("close it, or escape it to mean the character itself"),
            Self::BadSubstitution => Some("write `${NAME}`, or escape the `$` to mean the character itself"),
            Self::UnsupportedModifier(_) => {
                Some("supported are `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` and `//`")
            }
            Self::BadPattern { .. } => Some("only `*`, `?`, `\\`, `}` and `/` are escaped in a pattern"),
            Self::Unclosed(_) | Self::Required { .. } | Self::TooDeep | Self::TooLong => None,
        }
    }
}

impl Word {
    /// A word of an instruction.
    pub fn new(text: impl Into<String>, span: Span, syntax: Syntax) -> Self {
        Self { text: text.into(), span, syntax }
    }

    /// The value of the word: variables replaced, quotes and escapes taken away.
    ///
    /// # Errors
    /// The word is malformed (`${`, a quote without partner) or says `${v?}` of a variable that is not there;
    /// [`Word::explain`] makes a finding of it.
    pub fn expand(&self, lookup: &Lookup<'_>) -> Result<Expanded, ExpandError> {
        let Some(grammar) = self.grammar() else {
            return Ok(Expanded { text: self.text.clone(), ..Expanded::default() });
        };
        let done = evaluate(&self.text, grammar, Style::VALUE, lookup)?;
        Ok(Expanded { text: done.text, used: done.used, undefined: done.undefined })
    }

    /// The value of the word, split at white space after expansion.
    ///
    /// # Errors
    /// As [`Word::expand`].
    pub fn expand_words(&self, lookup: &Lookup<'_>) -> Result<ExpandedWords, ExpandError> {
        let Some(grammar) = self.grammar() else {
            let words = Some(self.text.clone()).filter(|text| !text.is_empty());
            return Ok(ExpandedWords { words: words.into_iter().collect(), ..ExpandedWords::default() });
        };
        let done = evaluate(&self.text, grammar, Style::VALUE, lookup)?;
        Ok(ExpandedWords { words: done.words, used: done.used, undefined: done.undefined })
    }

    /// The finding to show for an error of this word: the place is the part of the word that is wrong.
    pub fn explain(&self, error: &ExpandError) -> Diagnostic {
        let finding = Diagnostic::error(error.to_string(), self.part(error.at.clone()));
        finding.maybe_hint(error.kind.hint().map(str::to_owned))
    }

    /// Whether the word has anything to expand, quotes and escapes included: if not, its text is its value.
    pub fn is_plain(&self) -> bool {
        match self.syntax {
            Syntax::Shell(escape) => !self.text.contains(['$', '\'', '"', '\u{feff}', escape.char()]),
            Syntax::Text => !self.text.contains(['$', '\\', '\u{feff}']),
            Syntax::Verbatim => true,
        }
    }

    /// The place of some bytes of the text, or that of the whole word where the text is not what the source holds
    /// (continued lines, quotes of a flag, escapes of the JSON form).
    fn part(&self, range: Range<usize>) -> Span {
        if self.text.len() == self.span.len() && self.text.get(range.clone()).is_some() {
            Span::new(self.span.start + range.start, self.span.start + range.end)
        } else {
            self.span
        }
    }

    fn grammar(&self) -> Option<Grammar> {
        match self.syntax {
            Syntax::Shell(escape) => {
                Some(Grammar { escape: escape.char(), quotes: true, keep_escapes: false })
            }
            Syntax::Text => Some(Grammar { escape: '\\', quotes: false, keep_escapes: false }),
            Syntax::Verbatim => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `text` with the values of its variables, for the progress line of a RUN: quotes stay, a variable that is not set
/// stays as it is written. A text that is not well-formed comes back unchanged. (BuildKit shows other instructions
/// as [`Word::expand`] would give them.)
pub fn display(text: &str, escape: Escape, lookup: &Lookup<'_>) -> String {
    let grammar = Grammar { escape: escape.char(), quotes: true, keep_escapes: false };
    match evaluate(text, grammar, Style { keep_quotes: true, keep_unset: true }, lookup) {
        Ok(done) => done.text,
        Err(_) => text.to_owned(),
    }
}

/// The words of a line as a heredoc is looked for in them: quotes and escapes stay, nothing is expanded. None if
/// the line is not well-formed as a whole.
pub(super) fn raw_words(text: &str) -> Option<Vec<String>> {
    let grammar = Grammar { escape: '\\', quotes: true, keep_escapes: true };
    let style = Style { keep_quotes: true, keep_unset: true };
    evaluate(text, grammar, style, &|_| None).ok().map(|done| done.words)
}

/// The words of a heredoc delimiter, without and with their quotes.
///
/// # Errors
/// The delimiter is not well-formed.
pub(super) fn delimiter_words(text: &str) -> Result<(Vec<String>, Vec<String>), ExpandError> {
    let grammar = Grammar { escape: '\\', quotes: true, keep_escapes: false };
    let bare = Style { keep_quotes: false, keep_unset: true };
    let quoted = Style { keep_quotes: true, keep_unset: true };
    let words = |style| evaluate(text, grammar, style, &|_| None).map(|done| done.words);
    Ok((words(bare)?, words(quoted)?))
}

fn evaluate(
    text: &str,
    grammar: Grammar,
    style: Style,
    lookup: &Lookup<'_>,
) -> Result<Evaluation, ExpandError> {
    let parts = template::parse(text, grammar)?;
    eval::run(&parts, style, lookup)
}

#[cfg(test)]
mod tests;
