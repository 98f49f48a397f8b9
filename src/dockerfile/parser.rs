//! The way from a text to a [`Dockerfile`].

use super::diagnostic::{Diagnostic, Diagnostics};
use super::instruction::Instruction;
use super::keyword::Keyword;
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
    let Scan { directives, statements, mut findings } = scan(source);
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut previous: Option<&Statement> = None;
    let mut strangers = Strangers::default();
    let mut seen_from = false;
    let failed_scan = findings.iter().any(Diagnostic::is_error);
    for statement in &statements {
        let written = statement.line.slice(statement.head.keyword.clone());
        let place = statement.line.span(statement.head.keyword.clone());
        let Some(keyword) = Keyword::parse(written) else {
            strangers.add(unknown(written, place), previous, statement, &mut findings);
            previous = Some(statement);
            continue;
        };
        strangers.end(&mut findings);
        previous = Some(statement);
        seen_from |= keyword == Keyword::From;
        let lowered = lower(statement, keyword, directives.escape, &mut findings);
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
                    .hint("a stage begins with FROM; only ARG can stand before it"),
            ),
            (None, Some(_)) => {}
        }
    }
    strangers.end(&mut findings);
    let failed = failed_scan || findings.iter().any(Diagnostic::is_error);
    if stages.is_empty() && !failed {
        findings.push(without_stages(source, &statements));
    }
    findings.sort_by_key(|finding| finding.span().start);
    let findings = Diagnostics(findings);
    if findings.has_errors() {
        return Err(findings);
    }
    Ok(Dockerfile { directives, global_args, stages, warnings: findings })
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
    let written = statement.line.slice(statement.head.keyword.clone());
    let place = statement.line.span(statement.head.keyword.clone());
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
#[derive(Default)]
struct Strangers {
    first: Option<Diagnostic>,
    more: usize,
}

impl Strangers {
    fn add(
        &mut self,
        finding: Diagnostic,
        previous: Option<&Statement>,
        statement: &Statement,
        findings: &mut Vec<Diagnostic>,
    ) {
        // Its flags and arguments say nothing, but two misspelt names are two findings.
        if finding.hint.is_some() || self.first.is_none() {
            self.end(findings);
            self.first = Some(match previous.and_then(|previous| cause(previous, statement)) {
                Some(cause) if finding.hint.is_none() => cause.explain(finding),
                _ => finding,
            });
        } else {
            self.more += 1;
        }
    }

    fn end(&mut self, findings: &mut Vec<Diagnostic>) {
        let more = std::mem::take(&mut self.more);
        if let Some(finding) = self.first.take() {
            findings.push(match more {
                0 => finding,
                1 => finding.label("nor is the line behind it"),
                more => finding.label(format!("nor are the {more} lines behind it")),
            });
        }
    }
}

/// Why a line probably is not what its author thinks.
enum Cause {
    /// The line before it was to go on.
    Continuation(Span),
    /// The line before it was to open a heredoc.
    Heredoc(Span),
}

impl Cause {
    fn explain(self, finding: Diagnostic) -> Diagnostic {
        match self {
            Self::Continuation(place) => finding
                .context(place, "this line does not go on")
                .hint("end that line with the escape character to continue it"),
            Self::Heredoc(place) => finding
                .context(place, "this opens no heredoc")
                .hint("a heredoc is not seen where quotes on its line are not closed; escape a lone quote"),
        }
    }
}

fn cause(previous: &Statement, statement: &Statement) -> Option<Cause> {
    let text = previous.line.text.trim_end();
    let keyword = Keyword::parse(previous.line.slice(previous.head.keyword.clone()));
    if previous.heredocs.is_empty() && matches!(keyword, Some(Keyword::Run | Keyword::Copy | Keyword::Add)) {
        let opening = text.match_indices("<<").find(|(at, _)| {
            let rest = text.get(at + 2..).unwrap_or("").trim_start_matches('-');
            rest.starts_with(|letter: char| letter.is_alphanumeric() || matches!(letter, '\'' | '"' | '_'))
        });
        if let Some((at, _)) = opening {
            return Some(Cause::Heredoc(previous.line.span(at..at + 2)));
        }
    }
    let open = ["&&", "||", "|", ";", "\\", "`", ","].iter().any(|end| text.ends_with(end));
    let _ = statement;
    open.then(|| Cause::Continuation(previous.line.span(text.len() - 1..text.len())))
}
