//! Parser directives: `# syntax=`, `# escape=` and `# check=` in the comments that begin a file.
//!
//! They count only before anything else, blank lines and other comments included, and each only once.

use serde_json::Value;

use super::diagnostic::{Diagnostic, quote};
use super::expand::Escape;
use super::span::{Span, Spanned};

/// What the directives of a file say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    /// `# syntax=`: the frontend image that the author had in mind.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`.
    pub escape: Escape,
    /// `# check=`.
    pub check: Option<Spanned<CheckOptions>>,
}

/// `# check=skip=…;error=true;experimental=…`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// The checks that are not made.
    pub skip: Rules,
    /// The experimental checks that are made.
    pub experimental: Rules,
    /// Whether a finding of a check fails the build.
    pub error: bool,
}

/// A choice of checks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rules {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// Those with these names.
    Named(Vec<String>),
}

impl Rules {
    fn parse(list: &str) -> Self {
        match list.trim() {
            "all" => Self::All,
            list => Self::Named(list.split(',').map(|rule| rule.trim().to_owned()).collect()),
        }
    }

    /// Whether the check with this name is chosen.
    pub fn contains(&self, rule: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name == rule),
        }
    }
}

impl CheckOptions {
    /// Reads the value of `# check=`.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        if text.trim().is_empty() {
            return Ok(options);
        }
        for option in text.trim().splitn(3, ';') {
            let Some((key, value)) = option.split_once('=') else {
                return Err(format!("{} is not `option=value`", quote(option)));
            };
            match key.trim() {
                "skip" => options.skip = Rules::parse(value),
                "experimental" => options.experimental = Rules::parse(value),
                "error" => match parse_bool(value.trim()) {
                    Some(error) => options.error = error,
                    None => return Err(format!("`error` is true or false, not {}", quote(value.trim()))),
                },
                other => return Err(format!("{} is not an option of `check`", quote(other))),
            }
        }
        Ok(options)
    }

    /// The options in a comment before an instruction (`# check=skip=UndefinedVar`), which hold for that
    /// instruction; none if the comment is an ordinary one. `comment` is the text behind the `#`.
    pub fn in_comment(comment: &str) -> Option<Self> {
        match split(comment)? {
            (Key::Check, value) => {
                let value = value.split(' ').next().unwrap_or("");
                Self::parse(value).ok()
            }
            _ => None,
        }
    }
}

/// A boolean as Go's `strconv.ParseBool` reads it.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Syntax,
    Escape,
    Check,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }
}

/// Splits `key = value`, the text behind the comment sign of a directive.
fn split(text: &str) -> Option<(Key, &str)> {
    const BLANKS: [char; 5] = ['\t', '\n', '\u{c}', '\r', ' '];
    let (key, value) = text.trim_start().split_once('=')?;
    let key = match key.trim_end_matches(BLANKS).to_ascii_lowercase().as_str() {
        "syntax" => Key::Syntax,
        "escape" => Key::Escape,
        "check" => Key::Check,
        _ => return None,
    };
    match value.trim_matches(BLANKS) {
        // Nothing is no value, while blanks are one.
        "" => value.char_indices().next_back().and_then(|(at, _)| value.get(at..)).map(|blank| (key, blank)),
        value => Some((key, value)),
    }
}

/// Reads directives line by line, as long as there are only directives.
#[derive(Debug)]
pub(super) struct DirectiveReader {
    comment: &'static str,
    seen: Vec<(Key, Span)>,
    done: bool,
}

/// A directive as it was written.
#[derive(Debug)]
pub(super) struct Directive<'a> {
    key: Key,
    value: Spanned<&'a str>,
}

impl DirectiveReader {
    /// A reader of directives behind `comment` signs.
    pub(super) fn new(comment: &'static str) -> Self {
        Self { comment, seen: Vec::new(), done: false }
    }

    /// Reads `line`, which begins at `at` of the source and has no line break. None if it is no directive: then no
    /// later line is one either.
    ///
    /// # Errors
    /// The directive was there before.
    pub(super) fn read<'a>(&mut self, line: &'a str, at: usize) -> Result<Option<Directive<'a>>, Diagnostic> {
        let found = line.strip_prefix(self.comment).and_then(split);
        let Some((key, value)) = found.filter(|_| !self.done) else {
            self.done = true;
            return Ok(None);
        };
        let whole = Span::new(at, at + line.trim_end().len());
        if let Some((_, first)) = self.seen.iter().find(|(seen, _)| *seen == key) {
            let message = format!("the directive `{}` is given twice", key.name());
            return Err(Diagnostic::error(message, whole).context(*first, "first here"));
        }
        self.seen.push((key, whole));
        let offset = at + line.rfind(value).unwrap_or(0);
        let value = Spanned::new(value, Span::new(offset, offset + value.len()));
        Ok(Some(Directive { key, value }))
    }
}

impl Directive<'_> {
    /// The first word of the value: for `syntax` and `check` the others do not count.
    fn first_word(&self) -> Spanned<String> {
        let word = self.value.value.split(' ').next().unwrap_or("");
        let start = self.value.span.start;
        Spanned::new(word.to_owned(), Span::new(start, start + word.len()))
    }

    /// The escape character, if the directive chooses it.
    ///
    /// # Errors
    /// It chooses a character that cannot be it.
    pub(super) fn escape(&self) -> Result<Option<Escape>, Diagnostic> {
        match (self.key, self.value.value) {
            (Key::Escape, "\\") => Ok(Some(Escape::Backslash)),
            (Key::Escape, "`") => Ok(Some(Escape::Backtick)),
            (Key::Escape, other) => {
                let message = format!("{} cannot be the escape character", quote(other));
                let finding = Diagnostic::error(message, self.value.span);
                Err(finding.hint("the escape character is `\\` or a backtick"))
            }
            (Key::Syntax | Key::Check, _) => Ok(None),
        }
    }
}

impl Directives {
    /// Reads `# syntax=` and `# check=` of a Dockerfile; a `#!` line before them does not count, while a blank before
    /// the `#` makes them ordinary comments. The escape character is the usual one still.
    ///
    /// # Errors
    /// The options of `# check=` are not well-formed.
    pub(super) fn read(source: &str) -> Result<Self, Diagnostic> {
        let (text, start) = without_shebang(source);
        let syntax = in_comments(text, start, "#", Key::Syntax);
        let check = match in_comments(text, start, "#", Key::Check) {
            None => None,
            Some(written) => {
                let options = CheckOptions::parse(&written.value).map_err(|message| {
                    Diagnostic::error(message, written.span)
                        .hint("write `# check=skip=RuleA,RuleB;error=true`, without blanks")
                })?;
                Some(Spanned::new(options, written.span))
            }
        };
        Ok(Self { syntax, check, escape: Escape::default() })
    }
}

/// The frontend that a file asks for, whatever language it is written in: `# syntax=image` as in Dockerfiles,
/// `// syntax=image`, or a JSON object with the key `syntax`; a `#!` line before it does not count.
pub fn detect_syntax(source: &str) -> Option<Spanned<String>> {
    let (text, start) = without_shebang(source);
    let in_comments = |comment| in_comments(text, start, comment, Key::Syntax);
    ["#", "//"].into_iter().find_map(in_comments).or_else(|| in_json(text, start))
}

/// The source without a byte order mark and a `#!` line, and where that begins.
fn without_shebang(source: &str) -> (&str, usize) {
    let text = source.strip_prefix('\u{feff}').unwrap_or(source);
    let text = match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => rest,
        None if text.starts_with("#!") => "",
        _ => text,
    };
    (text, source.len() - text.len())
}

/// The first word behind `key` in the comments that begin `text`.
fn in_comments(text: &str, start: usize, comment: &'static str, key: Key) -> Option<Spanned<String>> {
    let mut reader = DirectiveReader::new(comment);
    let mut at = start;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches('\n');
        let directive = reader.read(bare.strip_suffix('\r').unwrap_or(bare), at).ok()??;
        if directive.key == key {
            return Some(directive.first_word());
        }
        at += line.len();
    }
    None
}

fn in_json(text: &str, start: usize) -> Option<Spanned<String>> {
    let object: serde_json::Map<String, Value> = serde_json::from_str(text).ok()?;
    let syntax = object.get("syntax")?.as_str()?;
    let at = text.find(syntax).map_or(start, |at| start + at);
    let length = if at == start { 0 } else { syntax.len() };
    Some(Spanned::new(syntax.to_owned(), Span::new(at, at + length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("# syntax=docker/dockerfile:1", "docker/dockerfile:1")]
    #[case("#syntax = docker/dockerfile:1.4  cmdline", "docker/dockerfile:1.4")]
    #[case("\u{feff}# SYNTAX=a/b\r\nFROM x", "a/b")]
    #[case("# escape=`\n# syntax=a/b", "a/b")]
    #[case("#!/usr/bin/env build\n# syntax=a/b", "a/b")]
    #[case("// syntax=a/b\nwhatever", "a/b")]
    #[case("{\"syntax\": \"a/b\", \"x\": 1}", "a/b")]
    fn finds_the_frontend(#[case] source: &str, #[case] image: &str) {
        let syntax = detect_syntax(source).unwrap();
        assert_eq!(syntax.value, image);
        assert_eq!(syntax.span.text(source), Some(image));
    }

    #[rstest]
    #[case("")]
    #[case("\n# syntax=a/b")]
    #[case("# a comment\n# syntax=a/b")]
    #[case("# foo=bar\n# syntax=a/b")]
    #[case("FROM a\n# syntax=a/b")]
    #[case(" # syntax=a/b")]
    #[case("# syntax=")]
    #[case("# syntax")]
    #[case("{\"syntax\": 1}")]
    #[case("#!/bin/sh")]
    fn finds_none_elsewhere(#[case] source: &str) {
        assert_eq!(detect_syntax(source), None);
    }

    #[rstest]
    #[case("skip=all", CheckOptions { skip: Rules::All, ..CheckOptions::default() })]
    #[case("skip=A,B;error=true", CheckOptions { skip: Rules::Named(vec!["A".into(), "B".into()]), error: true, ..CheckOptions::default() })]
    #[case(" error = 1 ; experimental = all ", CheckOptions { experimental: Rules::All, error: true, ..CheckOptions::default() })]
    #[case("", CheckOptions::default())]
    fn reads_check_options(#[case] text: &str, #[case] options: CheckOptions) {
        assert_eq!(CheckOptions::parse(text), Ok(options));
    }

    #[rstest]
    #[case("skip", "`skip` is not `option=value`")]
    #[case("skipp=A", "`skipp` is not an option of `check`")]
    #[case("error=maybe", "`error` is true or false, not `maybe`")]
    fn refuses_check_options(#[case] text: &str, #[case] message: &str) {
        assert_eq!(CheckOptions::parse(text), Err(message.to_owned()));
    }

    #[test]
    fn a_comment_can_carry_options_for_its_instruction() {
        let options = CheckOptions::in_comment("check=skip=UndefinedVar and a reason").unwrap();
        assert!(options.skip.contains("UndefinedVar") && !options.skip.contains("Other"));
        assert_eq!(CheckOptions::in_comment("checks are good"), None);
        assert_eq!(CheckOptions::in_comment("check=nonsense"), None);
    }
}
