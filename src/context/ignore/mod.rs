//! `.dockerignore`: which files of a context the build does not see.
//!
//! The rules are moby's (`patternmatcher` 0.6.1), as BuildKit applies them in a walk:
//! - a pattern is for a path from the context's root, and for everything below it;
//! - of the patterns that are for a path the last one decides; `!` before it brings the path back, also from below a
//!   directory that is excluded;
//! - `*` and `?` do not take `/`, `**` takes any number of directories.
//!
//! Each pattern remembers its line, so that a message can name it.
//!
//! Invariants: an [`IgnoreFile`] is well-formed, so matching cannot fail; a walk that follows the [`Verdict`]s sees
//! exactly the paths that are not excluded, and never looks where there are none.

mod expression;
mod patterns;

use super::clean::clean;
use super::wildcard::Wildcard;
use expression::Expression;
pub use patterns::Patterns;

/// The patterns of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IgnoreFile {
    patterns: Vec<Pattern>,
}

/// A line of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The line as it was written, without white space around it.
    pub text: String,
    /// Its number, from 1.
    pub line: usize,
    /// Whether it brings back what others exclude: it begins with `!`.
    pub exception: bool,
    matcher: Matcher,
}

/// Why a text is not an ignore file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the ignore file, `{text}`, is not a pattern: {reason}")]
pub struct IgnoreError {
    /// The line's number, from 1.
    pub line: usize,
    /// The line, without white space around it.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a walk does with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs to the context.
    Included,
    /// It does not, and neither does anything below it.
    Excluded,
    /// It does not, but something below it may: a directory to look into. It belongs to the context, as an empty
    /// one, if something below it does.
    LookInside,
}

/// What the patterns said of a directory: its entries are judged by this and their own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// For each pattern whether it is for the directory. A pattern is not asked where its answer changes nothing.
    matched: Vec<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    /// One path.
    Exact(String),
    /// `dir/**`: what begins like this.
    Prefix(String),
    /// `**/name`: what ends like this, or is this without its `/`.
    Suffix(String),
    /// Anything else.
    Expression(Expression),
}

impl IgnoreFile {
    /// Reads an ignore file: one pattern a line, `#` at the very beginning of a line makes it a comment; white space
    /// around patterns, a `/` before them, and a byte order mark do not count.
    ///
    /// # Errors
    /// A line that is not a pattern.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let text = line.trim();
            let fault = |reason| IgnoreError { line: index + 1, text: text.to_owned(), reason };
            patterns.extend(Pattern::parse(text, index + 1).map_err(fault)?);
        }
        Ok(Self { patterns })
    }

    /// The patterns, in the order of their lines.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether nothing is excluded because nothing is written.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Where a walk begins: the context's root, of which no pattern speaks.
    pub fn root(&self) -> Directory {
        Directory { matched: vec![false; self.patterns.len()] }
    }

    /// What becomes of a path that is not a directory. `path` is from the context's root, parts separated by `/`;
    /// `parent` is what [`IgnoreFile::enter`] said of the directory it is in.
    pub fn check(&self, parent: &Directory, path: &[u8]) -> Verdict {
        match self.judge(parent, path, &mut |_, _| {}) {
            Some(_) => Verdict::Excluded,
            None => Verdict::Included,
        }
    }

    /// What becomes of a directory, and what to judge its entries by.
    pub fn enter(&self, parent: &Directory, path: &[u8]) -> (Verdict, Directory) {
        let mut directory = self.root();
        let decider = self.judge(parent, path, &mut |index, matched| {
            if let Some(place) = directory.matched.get_mut(index) {
                *place = matched;
            }
        });
        let verdict = match decider {
            None => Verdict::Included,
            Some(_) if self.something_returns(&directory, path) => Verdict::LookInside,
            Some(_) => Verdict::Excluded,
        };
        (verdict, directory)
    }

    /// Whether a path, of any kind, is excluded.
    pub fn is_excluded(&self, path: &[u8]) -> bool {
        self.explain(path).is_some()
    }

    /// The pattern that excludes a path; none if it is not excluded.
    pub fn explain(&self, path: &[u8]) -> Option<&Pattern> {
        let mut directory = self.root();
        let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        while let Some(parent) = ends.next().and_then(|end| path.get(..end)) {
            directory = self.enter(&directory, parent).1;
        }
        self.judge(&directory, path, &mut |_, _| {}).and_then(|index| self.patterns.get(index))
    }

    /// The number of the pattern that excludes `path`. `note` is told of each pattern whether it is for the path.
    fn judge(&self, parent: &Directory, path: &[u8], note: &mut dyn FnMut(usize, bool)) -> Option<usize> {
        let mut decider = None;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.matched.get(index).copied().unwrap_or(false);
            // Excluding what is excluded, or bringing back what is there, changes nothing. moby does not even
            // look, and so forgets what such a pattern would have said of entries below.
            let matched =
                inherited || pattern.exception == decider.is_some() && pattern.matcher.matches(path);
            note(index, matched);
            if matched {
                decider = (!pattern.exception).then_some(index);
            }
        }
        decider
    }

    /// Whether an exception may bring back something below a directory that is excluded: one that comes after all
    /// patterns which exclude the directory and everything in it.
    fn something_returns(&self, directory: &Directory, path: &[u8]) -> bool {
        let start = [path, b"/"].concat();
        let excludes = |index: usize, pattern: &Pattern| {
            let matched = directory.matched.get(index) == Some(&true);
            !pattern.exception && (matched || pattern.matcher.takes_all_behind(&start))
        };
        let later = self.patterns.iter().enumerate().rev();
        let mut later = later.take_while(|(index, pattern)| !excludes(*index, pattern));
        later.any(|(_, pattern)| pattern.exception && pattern.matcher.can_begin_with(&start))
    }
}

impl Pattern {
    /// Reads a line that is neither empty nor a comment; none if nothing of it is left.
    fn parse(text: &str, line: usize) -> Result<Option<Self>, String> {
        // Twice, because moby does it twice: once reading the file, and once more reading the pattern that came
        // of it. So `/!a` is an exception, and `/ a` is `a`.
        let (exception, path) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, text),
        };
        if path.is_empty() {
            return Err("nothing follows the `!`".to_owned());
        }
        let cleaned = clean(path);
        let path = match cleaned.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest,
            _ => &cleaned,
        };
        let path = if exception { format!("!{path}") } else { path.to_owned() };
        let path = path.trim();
        if path.is_empty() {
            return Ok(None);
        }
        Self::compile(text, path, line).map(Some)
    }

    /// The pattern that `path`, which is not empty, is; it was written as `text`.
    fn compile(text: &str, path: &str, line: usize) -> Result<Self, String> {
        let path = clean(path);
        let (exception, path) = match path.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, path.as_str()),
        };
        if path.is_empty() {
            return Err("the context itself is never excluded".to_owned());
        }
        Wildcard::parse(path).map_err(|bad| bad.reason.to_owned())?;
        let matcher = Matcher::parse(path)?;
        Ok(Self { text: text.to_owned(), line, exception, matcher })
    }
}

/// A piece of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Letter(char),
    Escaped(char),
    Bracket(char),
    One,
    Star,
    /// `**` and a `/` behind it; `last` if nothing follows.
    Directories {
        last: bool,
    },
}

impl Matcher {
    fn parse(pattern: &str) -> Result<Self, String> {
        let tokens = tokens(pattern);
        let plain = |tokens: &[Token]| tokens.iter().all(|token| matches!(token, Token::Letter(_)));
        let text = |from: usize, to: usize| pattern.get(from..to).unwrap_or("").to_owned();
        match tokens.as_slice() {
            tokens if plain(tokens) => Ok(Self::Exact(pattern.to_owned())),
            [Token::Directories { .. }, rest @ ..] if plain(rest) => Ok(Self::Suffix(text(2, pattern.len()))),
            [rest @ .., Token::Directories { last: true }] if plain(rest) => {
                Ok(Self::Prefix(text(0, pattern.len() - 2)))
            }
            tokens => Expression::parse(&expression(tokens)).map(Self::Expression),
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text.as_bytes(),
            Self::Prefix(text) => path.starts_with(text.as_bytes()),
            Self::Suffix(text) => {
                path.ends_with(text.as_bytes())
                    || text.strip_prefix('/').is_some_and(|name| path == name.as_bytes())
            }
            Self::Expression(expression) => expression.matches(path),
        }
    }

    /// Whether it is sure that every path that begins with `start` matches.
    fn takes_all_behind(&self, start: &[u8]) -> bool {
        match self {
            Self::Prefix(text) => start.starts_with(text.as_bytes()),
            Self::Suffix(text) => text.is_empty(),
            Self::Exact(_) | Self::Expression(_) => false,
        }
    }

    /// Whether there can be a path that begins with `start` and matches.
    fn can_begin_with(&self, start: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes().starts_with(start),
            Self::Prefix(text) => text.as_bytes().starts_with(start) || start.starts_with(text.as_bytes()),
            Self::Suffix(_) => true,
            Self::Expression(expression) => expression.can_begin_with(start),
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '*' if letters.next_if_eq(&'*').is_some() => {
                letters.next_if_eq(&'/');
                Token::Directories { last: letters.peek().is_none() }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '[' | ']' => Token::Bracket(letter),
            '\\' => letters.next().map_or(Token::Letter('\\'), Token::Escaped),
            letter => Token::Letter(letter),
        });
    }
    tokens
}

/// The regular expression that moby makes of a pattern. Wildcards become the same text inside a class, where it
/// means something else: [`Expression`] reads it as Go does.
fn expression(tokens: &[Token]) -> String {
    let mut text = String::from("^");
    for token in tokens {
        match *token {
            Token::Letter(letter) => {
                // moby means `|`, `{` and `}` as well, and misses them.
                if ".+()$".contains(letter) {
                    text.push('\\');
                }
                text.push(letter);
            }
            Token::Escaped(letter) => text.extend(['\\', letter]),
            Token::Bracket(letter) => text.push(letter),
            Token::One => text.push_str("[^/]"),
            Token::Star => text.push_str("[^/]*"),
            Token::Directories { last: true } => text.push_str(".*"),
            Token::Directories { last: false } => text.push_str("(.*/)?"),
        }
    }
    text
}

#[cfg(test)]
mod tests;
