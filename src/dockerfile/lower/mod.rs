//! Statements → typed instructions.
//!
//! Invariant: each statement gives an instruction or at least one error, and errors of one statement do not keep the
//! next one from being read.

mod copy;
mod flags;
mod health;
mod run;

use std::ops::Range;

use super::diagnostic::{Diagnostic, quote};
use super::expand::{Escape, Syntax, Word};
use super::head::{Head, blank_separated, quoted_words};
use super::heredoc::Heredoc;
use super::instruction::{Arg, CommandLine, Instruction, InstructionKind, OnbuildInstruction, Pair};
use super::json::{self, Json};
use super::keyword::Keyword;
use super::line::LogicalLine;
use super::scan::{Statement, inner};
use super::span::{Span, Spanned};
use super::stage::{FromInstruction, StageName};
use flags::{FlagKind, FlagSpec, Flags};

/// What a statement turns out to be.
#[derive(Debug)]
pub(super) enum Lowered {
    /// FROM: a stage begins.
    From(Box<FromInstruction>),
    /// Anything else.
    Instruction(Box<Instruction>),
}

/// The statement at hand.
pub(super) struct Lowering<'a> {
    line: &'a LogicalLine,
    head: &'a Head,
    heredocs: &'a [Heredoc],
    comments: &'a [Spanned<String>],
    /// The instruction on one line, where that is in `line`.
    original: Range<usize>,
    /// Everything that belongs to it.
    span: Span,
    escape: Escape,
    keyword: Keyword,
    findings: &'a mut Vec<Diagnostic>,
}

/// What people get wrong about JSON.
const JSON_RULES: &str = "JSON has double quotes around each string and no comma behind the last one";

/// Understands `statement`; none if it cannot be, which findings tell. `keyword` is its name, which is known.
pub(super) fn lower(
    statement: &Statement,
    keyword: Keyword,
    escape: Escape,
    findings: &mut Vec<Diagnostic>,
) -> Option<Lowered> {
    let mut cx = Lowering {
        line: &statement.line,
        head: &statement.head,
        heredocs: &statement.heredocs,
        comments: &statement.comments,
        original: super::head::trim(&statement.line, 0..statement.line.text.len()),
        span: statement.span,
        escape,
        keyword,
        findings,
    };
    if statement.broken {
        return None;
    }
    let before = cx.findings.len();
    let lowered = if keyword == Keyword::From {
        cx.from().map(|from| Lowered::From(Box::new(from)))
    } else {
        cx.instruction().map(|instruction| Lowered::Instruction(Box::new(instruction)))
    };
    let failed = cx.findings.iter().skip(before).any(Diagnostic::is_error);
    lowered.filter(|_| !failed)
}

impl Lowering<'_> {
    fn instruction(&mut self) -> Option<Instruction> {
        let kind = self.kind()?;
        Some(Instruction {
            keyword: Spanned::new(self.keyword, self.line.span(self.head.keyword.clone())),
            written: self.line.slice(self.head.keyword.clone()).to_owned(),
            original: self.line.slice(self.original.clone()).to_owned(),
            span: self.span,
            comments: self.comments.to_vec(),
            kind,
        })
    }

    fn kind(&mut self) -> Option<InstructionKind> {
        Some(match self.keyword {
            Keyword::Add => InstructionKind::Add(self.add()?),
            Keyword::Arg => InstructionKind::Arg(self.arg()?),
            Keyword::Cmd => InstructionKind::Cmd(self.command_without_flags()?),
            Keyword::Copy => InstructionKind::Copy(self.copy()?),
            Keyword::Entrypoint => InstructionKind::Entrypoint(self.command_without_flags()?),
            Keyword::Env => InstructionKind::Env(self.pairs()?),
            Keyword::Expose => InstructionKind::Expose(self.expose()?),
            Keyword::Healthcheck => InstructionKind::Healthcheck(self.healthcheck()?),
            Keyword::Label => InstructionKind::Label(self.pairs()?),
            Keyword::Maintainer => {
                self.no_flags();
                let rest = self.rest_as_one("a name")?;
                InstructionKind::Maintainer(self.spanned(rest))
            }
            Keyword::Onbuild => InstructionKind::Onbuild(self.onbuild()?),
            Keyword::Run => InstructionKind::Run(self.run()?),
            Keyword::Shell => InstructionKind::Shell(self.shell()?),
            Keyword::Stopsignal => {
                self.idle_flags();
                InstructionKind::Stopsignal(self.rest_as_one("a signal").map(|rest| self.word(rest))?)
            }
            Keyword::User => {
                self.no_flags();
                InstructionKind::User(self.rest_as_one("a user").map(|rest| self.word(rest))?)
            }
            Keyword::Volume => InstructionKind::Volume(self.volume()?),
            Keyword::Workdir => {
                self.no_flags();
                InstructionKind::Workdir(self.rest_as_one("a directory").map(|rest| self.word(rest))?)
            }
            // A stage of its own: `from` reads it.
            Keyword::From => return None,
        })
    }

    // Pieces that instructions are made of.

    fn rest(&self) -> Range<usize> {
        self.head.rest.clone()
    }

    fn word(&self, range: Range<usize>) -> Word {
        let text = self.line.slice(range.clone());
        Word::new(text, self.line.span(range), Syntax::Shell(self.escape))
    }

    fn spanned(&self, range: Range<usize>) -> Spanned<String> {
        Spanned::new(self.line.slice(range.clone()).to_owned(), self.line.span(range))
    }

    fn keyword_span(&self) -> Span {
        self.line.span(self.head.keyword.clone())
    }

    /// An error about the arguments, or about the keyword where there are none.
    fn about_arguments(&self, message: impl Into<String>) -> Diagnostic {
        let rest = self.rest();
        let place = if rest.is_empty() { self.keyword_span() } else { self.line.span(rest) };
        Diagnostic::error(message, place)
    }

    fn no_flags(&mut self) {
        Flags::read(self, &[]);
    }

    /// Flags where BuildKit does not look at them.
    fn idle_flags(&mut self) {
        for raw in &self.head.flags {
            let place = self.line.span(raw.range.clone());
            let message = format!("{} has no effect", quote(&raw.text.text));
            self.findings
                .push(Diagnostic::warning(message, place).hint(format!("{} has no flags", self.keyword)));
        }
    }

    /// The arguments as one text; an error if there are none.
    fn rest_as_one(&mut self, what: &str) -> Option<Range<usize>> {
        let rest = self.rest();
        if rest.is_empty() {
            let finding = self.about_arguments(format!("{} is not followed by {what}", self.keyword));
            self.findings.push(finding);
            return None;
        }
        Some(rest)
    }

    /// The arguments if they are a JSON array of strings. One with anything else in it is an error (and none of
    /// both); a warning if they look as if they were meant to be one, and are not.
    fn json(&mut self, range: Range<usize>) -> Result<Option<Vec<Spanned<String>>>, ()> {
        let text = self.line.slice(range.clone());
        match json::parse(text) {
            Json::Strings(strings) => {
                let place = |at: Range<usize>| self.line.span(range.start + at.start..range.start + at.end);
                let spanned = strings.into_iter().map(|(value, at)| Spanned::new(value, place(at)));
                Ok(Some(spanned.collect()))
            }
            Json::Mixed(at) => {
                let place = self.line.span(range.start + at.start..range.start + at.end);
                let finding = Diagnostic::error("the JSON form holds something that is not a string", place);
                self.findings.push(finding.hint("put each argument in double quotes"));
                Err(())
            }
            Json::No => {
                if json::looks_meant(text) && self.keyword != Keyword::Shell {
                    let place = self.line.span(range);
                    let finding = Diagnostic::warning("this looks like the JSON form and is not JSON", place)
                        .label("taken word for word")
                        .hint("JSON has double quotes around each string and no comma behind the last one");
                    self.findings.push(finding);
                }
                Ok(None)
            }
        }
    }

    /// JSON strings as words to expand.
    fn words(&self, strings: Vec<Spanned<String>>) -> Vec<Word> {
        let syntax = Syntax::Shell(self.escape);
        strings.into_iter().map(|string| Word::new(string.value, string.span, syntax)).collect()
    }

    /// Words in JSON or separated by blanks.
    fn list(&mut self) -> Option<Vec<Word>> {
        let rest = self.rest();
        match self.json(rest.clone()) {
            Err(()) => None,
            Ok(Some(strings)) => Some(self.words(strings)),
            Ok(None) => {
                Some(blank_separated(self.line, rest).into_iter().map(|word| self.word(word)).collect())
            }
        }
    }

    /// A command in exec or shell form.
    fn command(&mut self, range: Range<usize>) -> Option<CommandLine> {
        match self.json(range.clone()) {
            Err(()) => None,
            Ok(Some(words)) => Some(CommandLine::Exec(words)),
            Ok(None) => Some(CommandLine::Shell(self.spanned(range))),
        }
    }

    // Instructions.

    fn command_without_flags(&mut self) -> Option<CommandLine> {
        self.no_flags();
        self.command(self.rest())
    }

    fn shell(&mut self) -> Option<Vec<Spanned<String>>> {
        self.no_flags();
        match self.command(self.rest())? {
            CommandLine::Exec(words) if !words.is_empty() => Some(words),
            command => {
                let (message, hint) = match &command {
                    CommandLine::Shell(text) if json::looks_meant(&text.value) => {
                        ("the arguments of SHELL are not JSON", JSON_RULES)
                    }
                    CommandLine::Shell(text) if !text.value.is_empty() => {
                        ("SHELL must be in the JSON form", "write `SHELL [\"/bin/bash\", \"-c\"]`")
                    }
                    _ => ("SHELL is not followed by a shell", "write `SHELL [\"/bin/bash\", \"-c\"]`"),
                };
                let finding = self.about_arguments(message);
                self.findings.push(finding.hint(hint));
                None
            }
        }
    }

    fn expose(&mut self) -> Option<Vec<Word>> {
        self.no_flags();
        let rest = self.rest_as_one("a port")?;
        let mut ports: Vec<Word> =
            blank_separated(self.line, rest).into_iter().map(|port| self.word(port)).collect();
        ports.sort_by(|a, b| a.text.cmp(&b.text));
        Some(ports)
    }

    fn volume(&mut self) -> Option<Vec<Word>> {
        self.no_flags();
        let mut volumes = self.list()?;
        if volumes.is_empty() {
            let finding = self.about_arguments("VOLUME is not followed by a path");
            self.findings.push(finding);
            return None;
        }
        for volume in &mut volumes {
            let trimmed = volume.text.trim();
            if trimmed.is_empty() {
                self.findings.push(Diagnostic::error("the path of a volume is empty", volume.span));
            } else if trimmed.len() != volume.text.len() {
                volume.text = trimmed.to_owned();
            }
        }
        Some(volumes)
    }

    /// ENV and LABEL.
    fn pairs(&mut self) -> Option<Vec<Pair>> {
        self.no_flags();
        let keyword = self.keyword;
        let rest = self.rest_as_one("a name and a value")?;
        let words = quoted_words(self.line, rest.clone(), self.escape);
        let equals = |word: &Range<usize>| self.line.slice(word.clone()).find('=').map(|at| word.start + at);
        if words.first().is_some_and(|first| equals(first).is_none()) {
            let text = self.line.slice(rest.clone());
            let Some(end) = text.find(super::head::is_blank) else {
                let finding = Diagnostic::error(
                    format!("{keyword} {} has no value", quote(text)),
                    self.line.span(rest.clone()),
                );
                self.findings.push(finding.hint(format!("write {}", quote(&format!("{keyword} {text}=…")))));
                return None;
            };
            let behind = text.get(end..).unwrap_or("");
            let value = rest.end - behind.trim_start_matches(super::head::is_blank).len();
            let pair = Pair {
                key: self.word(rest.start..rest.start + end),
                value: self.word(value..rest.end),
                legacy: true,
            };
            return Some(vec![pair]);
        }
        let mut pairs: Vec<Pair> = Vec::with_capacity(words.len());
        for word in words {
            let finding = match equals(&word) {
                Some(at) if at > word.start => {
                    let (key, value) = (self.word(word.start..at), self.word(at + 1..word.end));
                    pairs.push(Pair { key, value, legacy: false });
                    continue;
                }
                Some(_) => {
                    Diagnostic::error(format!("{keyword} has a value without a name"), self.line.span(word))
                }
                None => {
                    let text = self.line.slice(word.clone());
                    let finding = Diagnostic::error(
                        format!("{} is not `name=value`", quote(text)),
                        self.line.span(word),
                    );
                    let example = match pairs.last() {
                        Some(Pair { key, value, .. }) if value.is_plain() && !value.text.is_empty() => {
                            quote(&format!("{key}=\"{value} {text}\""))
                        }
                        _ => "`name=\"some value\"`".to_owned(),
                    };
                    finding.hint(format!("put a value with blanks in quotes: {example}"))
                }
            };
            self.findings.push(finding);
        }
        Some(pairs)
    }

    fn arg(&mut self) -> Option<Vec<Arg>> {
        self.idle_flags();
        let rest = self.rest_as_one("a name")?;
        let mut args = Vec::new();
        for word in quoted_words(self.line, rest, self.escape) {
            let text = self.line.slice(word.clone());
            match text.find('=') {
                Some(0) => {
                    let place = self.line.span(word);
                    self.findings.push(Diagnostic::error("ARG has a default without a name", place));
                }
                Some(at) => args.push(Arg {
                    name: self.spanned(word.start..word.start + at),
                    default: Some(self.word(word.start + at + 1..word.end)),
                }),
                None => args.push(Arg { name: self.spanned(word), default: None }),
            }
        }
        Some(args)
    }

    fn from(&mut self) -> Option<FromInstruction> {
        const FLAGS: [FlagSpec; 1] = [FlagSpec { name: "platform", kind: FlagKind::Value }];
        let before = self.findings.len();
        let flags = Flags::read(self, &FLAGS);
        if self.findings.len() > before {
            // A flag that was not understood leaves its value among the arguments.
            return None;
        }
        let words = blank_separated(self.line, self.rest());
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, keyword, name] if self.line.slice(keyword.clone()).eq_ignore_ascii_case("as") => {
                (image, Some((keyword.clone(), name.clone())))
            }
            words => {
                let finding = self.malformed_from(words);
                self.findings.push(finding);
                return None;
            }
        };
        let name = match name {
            None => None,
            Some((keyword, name)) => Some(self.stage_name(keyword, name)?),
        };
        Some(FromInstruction {
            keyword: self.keyword_span(),
            written: self.line.slice(self.head.keyword.clone()).to_owned(),
            image: self.word(image.clone()),
            platform: flags.word(self, "platform"),
            name,
            original: self.line.slice(self.original.clone()).to_owned(),
            span: self.span,
            comments: self.comments.to_vec(),
        })
    }

    fn malformed_from(&self, words: &[Range<usize>]) -> Diagnostic {
        let [_, second, others @ ..] = words else {
            return self.about_arguments("FROM is not followed by an image");
        };
        let place = |words: &[Range<usize>]| match (words.first(), words.last()) {
            (Some(first), Some(last)) => self.line.span(first.start..last.end),
            _ => self.keyword_span(),
        };
        let is_as = self.line.slice(second.clone()).eq_ignore_ascii_case("as");
        if is_as && others.is_empty() {
            return Diagnostic::error("AS is not followed by a name", self.line.span(second.clone()));
        }
        let extra = if is_as { others.get(1..).unwrap_or(&[]) } else { words.get(1..).unwrap_or(&[]) };
        let finding = Diagnostic::error("FROM has too many arguments", place(extra));
        if is_as {
            finding.hint("the name of a stage is one word")
        } else {
            finding
                .hint("only an image, or `image AS name`, can follow FROM; comments need a line of their own")
        }
    }

    fn stage_name(&mut self, keyword: Range<usize>, range: Range<usize>) -> Option<StageName> {
        let written = self.line.slice(range.clone());
        let name = written.to_lowercase();
        let legal = name.starts_with(|letter: char| letter.is_ascii_lowercase())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
        if !legal {
            let message = format!("{} cannot be the name of a stage", quote(written));
            let finding = Diagnostic::error(message, self.line.span(range));
            self.findings.push(
                finding
                    .hint("a name begins with a letter and goes on with letters, digits, `-`, `_` and `.`"),
            );
            return None;
        }
        Some(StageName {
            name,
            written: written.to_owned(),
            span: self.line.span(range),
            keyword: self.spanned(keyword),
        })
    }

    fn onbuild(&mut self) -> Option<OnbuildInstruction> {
        self.no_flags();
        let rest = self.rest_as_one("an instruction")?;
        let head = inner(self.line, rest.clone(), self.escape);
        let written = self.line.slice(head.keyword.clone());
        let place = self.line.span(head.keyword.clone());
        let keyword = match Keyword::parse(written) {
            Some(Keyword::Onbuild) => {
                self.findings.push(Diagnostic::error("ONBUILD cannot be kept by ONBUILD", place));
                return None;
            }
            Some(keyword @ (Keyword::From | Keyword::Maintainer)) => {
                let message = format!("{keyword} cannot be kept by ONBUILD");
                self.findings.push(Diagnostic::error(message, place));
                return None;
            }
            Some(keyword) => keyword,
            None => {
                self.findings.push(unknown(written, place));
                return None;
            }
        };
        let instruction = Lowering {
            line: self.line,
            head: &head,
            heredocs: self.heredocs,
            comments: &[],
            original: rest.clone(),
            span: self.line.span(rest),
            escape: self.escape,
            keyword,
            findings: self.findings,
        }
        .instruction()?;
        Some(OnbuildInstruction { trigger: self.trigger(), instruction: Box::new(instruction) })
    }

    /// The text that an image keeps: the line behind ONBUILD, white space at its end included, and the heredocs.
    fn trigger(&self) -> String {
        let behind = self.line.slice(self.head.keyword.end..self.line.text.len());
        let mut trigger = behind.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']).to_owned();
        for heredoc in self.heredocs {
            trigger.push('\n');
            trigger.push_str(&heredoc.body.value);
            trigger.push_str(&heredoc.name);
        }
        trigger
    }
}

/// The error for a name that is no instruction.
pub(super) fn unknown(written: &str, place: Span) -> Diagnostic {
    if written.is_empty() {
        return Diagnostic::error("a line continuation without an instruction", place)
            .hint("remove the escape character");
    }
    let finding = Diagnostic::error(format!("{} is not an instruction", quote(written)), place);
    if let Some(meant) = nearest_keyword(written) {
        return finding.hint(format!("did you mean {meant}?"));
    }
    if written.starts_with("//") || written.starts_with("--") || written.starts_with("/*") {
        return finding.hint("a comment begins with `#`");
    }
    match written.chars().find(|letter| letter.is_whitespace() || matches!(letter, '\u{200b}' | '\u{feff}')) {
        Some(letter) => {
            finding.hint(format!("it holds U+{:04X}, which is not an ordinary blank", letter as u32))
        }
        None => finding,
    }
}

fn nearest_keyword(written: &str) -> Option<String> {
    let meant = super::suggest::nearest(written, Keyword::ALL.iter().map(|keyword| keyword.name()))?;
    let lower = written == written.to_lowercase();
    Some(if lower { meant.to_lowercase() } else { meant.to_owned() })
}
