//! The way from a text to a [`Dockerfile`].

use super::checks::before_error;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::directives::CheckOptions;
use super::instruction::Instruction;
use super::keyword::Keyword;
use super::line::is_comment;
use super::lower::{Lowered, lower, unknown};
use super::scan::{Scan, Statement, scan};
use super::span::Span;
use super::stage::{Dockerfile, Stage};

/// Parses a Dockerfile.
///
/// # Errors
/// Everything that is wrong with it, and the warnings with them, in the order of the places; at least one of them is
/// an error.
pub fn parse(source: &str) -> Result<Dockerfile, Diagnostics> {
    let file = read(source);
    if file.warnings.has_errors() { Err(file.warnings) } else { Ok(file) }
}

/// A Dockerfile that cannot be understood as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong with it, as [`parse`] has it.
    pub findings: Diagnostics,
    /// What checks have found in front of the first thing that is wrong.
    pub checks: Vec<Diagnostic>,
}

/// Parses a Dockerfile that is to be checked. `instead` are options of checks that take the place of the file's.
///
/// # Errors
/// If anything is wrong with it.
pub fn parse_for_checks(source: &str, instead: Option<CheckOptions>) -> Result<Dockerfile, Broken> {
    let file = read(source);
    if !file.warnings.has_errors() {
        return Ok(file);
    }
    // Where a directive is wrong, nothing is known of what is behind it.
    let first = file.warnings.0.iter().find(|finding| finding.is_error());
    let before = first.and_then(|error| source.get(..error.span().start)).unwrap_or_default();
    let line = source.get(before.rfind('\n').map_or(0, |at| at + 1)..).unwrap_or_default();
    let in_directive = is_comment(line.trim_start_matches('\u{feff}'));
    let checks = if in_directive { Vec::new() } else { before_error(&file, &file.warnings, instead) };
    Err(Broken { findings: file.warnings, checks })
}

/// As much of a Dockerfile as can be understood. Its warnings are all findings, errors among them.
fn read(source: &str) -> Dockerfile {
    let Scan { directives, statements, mut findings } = scan(source);
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut strangers = Strangers::new(source);
    let mut seen_from = false;
    for statement in &statements {
        let (written, place) = name(statement);
        let Some(keyword) = Keyword::parse(written) else {
            strangers.add(unknown(written, place).within(statement.span), statement, &mut findings);
            continue;
        };
        strangers.end(&mut findings);
        seen_from |= keyword == Keyword::From;
        let before = findings.len();
        let lowered = lower(statement, keyword, directives.escape, &mut findings);
        for finding in findings.iter_mut().skip(before) {
            finding.about = finding.about.or(Some(statement.span));
        }
        strangers.previous = Some((statement, lowered.is_some()));
        match (lowered, stages.last_mut()) {
            (Some(Lowered::From(from)), _) => {
                stages.push(Stage { index: stages.len(), from: *from, instructions: Vec::new() });
            }
            (Some(Lowered::Instruction(instruction)), Some(stage)) => stage.instructions.push(*instruction),
            (Some(Lowered::Instruction(instruction)), None) if keyword == Keyword::Arg => {
                global_args.push(*instruction);
            }
            // The error is in a FROM before it, or in itself.
            (_, None) if keyword == Keyword::Arg || seen_from => {}
            (_, None) => findings.push(
                Diagnostic::error(format!("{keyword} before the first FROM"), place)
                    .within(statement.span)
                    .hint("a stage begins with FROM; only ARG can stand before it"),
            ),
            (None, Some(_)) => {}
        }
    }
    strangers.end(&mut findings);
    if stages.is_empty() && !findings.iter().any(Diagnostic::is_error) {
        findings.push(without_stages(source, &statements));
    }
    findings.sort_by_key(|finding| finding.span().start);
    Dockerfile { directives, global_args, stages, warnings: Diagnostics(findings) }
}

/// The first word of a statement and its place.
fn name(statement: &Statement) -> (&str, Span) {
    let range = statement.head.keyword.clone();
    (statement.line.slice(range.clone()), statement.line.span(range))
}

/// Parses an instruction that an image keeps for the images built on it (`ONBUILD`). Its escape character is the
/// usual one.
///
/// # Errors
/// What is wrong with it; also if it is not exactly one instruction, or FROM.
pub fn parse_trigger(trigger: &str) -> Result<Instruction, Diagnostics> {
    let Scan { directives, statements, mut findings } = scan(trigger);
    let whole = Span::new(0, trigger.len());
    let ([statement], false) = (statements.as_slice(), findings.iter().any(Diagnostic::is_error)) else {
        if !findings.iter().any(Diagnostic::is_error) {
            findings.push(Diagnostic::error("a trigger is exactly one instruction", whole));
        }
        return Err(Diagnostics(findings));
    };
    let (written, place) = name(statement);
    let Some(keyword) = Keyword::parse(written) else {
        return Err(unknown(written, place).into());
    };
    match lower(statement, keyword, directives.escape, &mut findings) {
        Some(Lowered::Instruction(instruction)) => Ok(*instruction),
        Some(Lowered::From(_)) => Err(Diagnostic::error("FROM cannot be a trigger", place).into()),
        None => Err(Diagnostics(findings)),
    }
}

fn without_stages(source: &str, statements: &[Statement]) -> Diagnostic {
    let end = Span::at(source.trim_end().len());
    match statements.last() {
        Some(last) => Diagnostic::error("the Dockerfile has no FROM", last.span)
            .hint("a stage begins with `FROM image`, or with `FROM scratch`"),
        None if source.trim().is_empty() => Diagnostic::error("the Dockerfile is empty", Span::at(0)),
        None => Diagnostic::error("the Dockerfile has no instructions, only comments", end),
    }
}

/// Lines that begin with no instruction. Several in a row have one cause, so they make one finding.
struct Strangers<'a> {
    source: &'a str,
    /// The instruction before them, and whether it was understood.
    previous: Option<(&'a Statement, bool)>,
    first: Option<Diagnostic>,
    more: usize,
}

impl<'a> Strangers<'a> {
    fn new(source: &'a str) -> Self {
        Self { source, previous: None, first: None, more: 0 }
    }

    fn add(&mut self, finding: Diagnostic, statement: &Statement, findings: &mut Vec<Diagnostic>) {
        let cause = self.previous.and_then(|(previous, _)| self.cause(previous, statement));
        let understood = self.previous.is_none_or(|(_, understood)| understood);
        match (&self.first, cause) {
            // What is wrong with that instruction has been said.
            (_, Some(Cause::Heredoc(_))) if !understood => {}
            (None, Some(cause)) => self.first = Some(cause.explain(finding)),
            // Of two misspelt names each is worth a finding.
            (_, None) if finding.hint.is_some() => {
                self.end(findings);
                self.first = Some(finding);
            }
            (None, None) => self.first = Some(finding),
            (Some(_), _) => self.more += 1,
        }
    }

    fn end(&mut self, findings: &mut Vec<Diagnostic>) {
        let more = std::mem::take(&mut self.more);
        findings.extend(self.first.take().map(|finding| match more {
            0 => finding,
            1 => finding.label("nor is the line behind it"),
            more => finding.label(format!("nor are the {more} lines behind it")),
        }));
    }

    /// Why the line probably is not what its author thinks.
    fn cause(&self, previous: &Statement, statement: &Statement) -> Option<Cause> {
        let text = previous.line.text.trim_end();
        let takes_heredocs = matches!(
            Keyword::parse(name(previous).0),
            Some(Keyword::Run | Keyword::Copy | Keyword::Add | Keyword::Onbuild)
        );
        if takes_heredocs && previous.heredocs.is_empty() {
            let opening = text.match_indices("<<").find(|(at, _)| {
                let delimiter = text.get(at + 2..).unwrap_or("").trim_start_matches('-');
                let begins = |letter: char| letter.is_alphanumeric() || matches!(letter, '\'' | '"' | '_');
                delimiter.starts_with(begins)
            });
            if let Some((at, _)) = opening {
                return Some(Cause::Heredoc(previous.line.span(at..at + 2)));
            }
        }
        let before = self.source.get(..statement.span.start).unwrap_or("");
        let indented = before.ends_with([' ', '\t']);
        let open = ["&&", "|", ";", "\\", "`", ",", "("].iter().any(|end| text.ends_with(end));
        let last = text.char_indices().next_back().map(|(at, _)| at)?;
        (indented || open).then(|| Cause::Continuation(previous.line.span(last..text.len())))
    }
}

/// Why a line is no instruction.
enum Cause {
    /// The line before it, which ends here, was to go on.
    Continuation(Span),
    /// The instruction before it was to open a heredoc here.
    Heredoc(Span),
}

impl Cause {
    fn explain(self, finding: Diagnostic) -> Diagnostic {
        match self {
            Self::Continuation(place) => finding
                .context(place, "the instruction before it ends here")
                .hint("if it belongs to that instruction, end that line with the escape character"),
            Self::Heredoc(place) => finding
                .context(place, "this opens no heredoc")
                .hint("heredocs are not seen on a line with a quote that is not closed; escape a lone quote"),
        }
    }
}
