//! Text → statements: physical lines are joined to logical ones, comments and directives taken out, heredocs read.
//!
//! Invariants: statements come in the order of the source and do not overlap; a finding never hides a later one,
//! except where the end of a heredoc is missing, since everything behind it may belong to it.

use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::directives::{DirectiveReader, Directives};
use super::expand::Escape;
use super::head::Head;
use super::heredoc::{self, Heredoc};
use super::json::{self, Json};
use super::keyword::Keyword;
use super::line::{LogicalLine, PhysicalLines, continuation, is_comment, without_break};
use super::rule::Rule;
use super::span::{Span, Spanned};

/// An instruction that has been read but not understood.
#[derive(Debug)]
pub(super) struct Statement {
    /// Its text on one line.
    pub line: LogicalLine,
    /// Where its keyword, flags and arguments are.
    pub head: Head,
    /// Its heredocs.
    pub heredocs: Vec<Heredoc>,
    /// The comments right before it.
    pub comments: Vec<Spanned<String>>,
    /// Everything that belongs to it, heredocs included, without the last line break.
    pub span: Span,
    /// Whether its heredocs could not be read, which a finding says.
    pub broken: bool,
}

/// What a source consists of.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What its directives say.
    pub directives: Directives,
    /// Its statements.
    pub statements: Vec<Statement>,
    /// What is wrong with it so far.
    pub findings: Vec<Diagnostic>,
}

/// Reads `source`.
pub(super) fn scan(source: &str) -> Scan {
    let mut scan = Scan::default();
    match Directives::read(source) {
        Ok(directives) => scan.directives = directives,
        Err(finding) => scan.findings.push(finding),
    }
    let mut lines = PhysicalLines::new(source);
    let mut reader = DirectiveReader::new("#");
    let mut comments = Vec::new();
    while let Some((at, line)) = lines.next() {
        let text = without_break(line);
        let text = text.trim_start();
        let start = at + (without_break(line).len() - text.len());
        match reader.read(text, start) {
            Ok(Some(directive)) => {
                match directive.escape() {
                    Ok(escape) => scan.directives.escape = escape.unwrap_or(scan.directives.escape),
                    Err(finding) => {
                        scan.findings.push(finding.within(Span::new(start, start + text.len())));
                    }
                }
                continue;
            }
            Ok(None) => {}
            Err(finding) => {
                scan.findings.push(finding.within(Span::new(start, start + text.len())));
                continue;
            }
        }
        if text.starts_with('#') {
            comment(line, at, &mut comments);
        } else if !text.is_empty() {
            let statement = statement(text, start, &mut lines, scan.directives.escape, &mut scan.findings);
            scan.statements.push(Statement { comments: std::mem::take(&mut comments), ..statement });
        }
    }
    scan
}

/// Adds the comment on `line` to those that belong to the next instruction; a comment sign alone starts over.
fn comment(line: &str, at: usize, comments: &mut Vec<Spanned<String>>) {
    // BuildKit cuts off the first character of the line, be it the comment sign or a blank before it.
    let skipped = line.chars().next().map_or(0, char::len_utf8);
    let behind = line.get(skipped..).unwrap_or("");
    let text = behind.trim();
    if text.is_empty() {
        comments.clear();
        return;
    }
    let start = at + skipped + (behind.len() - behind.trim_start().len());
    comments.push(Spanned::new(text.to_owned(), Span::new(start, start + text.len())));
}

/// The statement that begins with `first`, which begins at `start`.
fn statement(
    first: &str,
    start: usize,
    lines: &mut PhysicalLines<'_>,
    escape: Escape,
    findings: &mut Vec<Diagnostic>,
) -> Statement {
    let mut line = LogicalLine::default();
    let (kept, mut goes_on) = continuation(first, escape);
    line.push(kept, start);
    let mut end = start + first.len();
    let mut blank = None;
    // Where the last line that was read begins: BuildKit names it for blank ones before it.
    let mut last = start;
    while goes_on {
        let Some((at, text)) = lines.next() else { break };
        last = at;
        let bare = without_break(text);
        if is_comment(bare) {
            continue;
        }
        if bare.trim().is_empty() {
            blank = blank.or(Some(Span::new(at, at + bare.len())));
            continue;
        }
        let (kept, more) = continuation(bare, escape);
        line.push(kept, at);
        end = at + bare.len();
        goes_on = more;
    }
    let head = Head::read(&line, 0..line.text.len(), escape);
    if let Some(blank) = blank {
        let keyword = line.span(head.keyword.clone());
        findings.push(
            Diagnostic::warning("blank line inside an instruction that is continued", blank)
                .label("the instruction goes on behind it")
                .context(keyword, "the instruction begins here")
                .rule(Rule::NoEmptyContinuation)
                .about(Span::at(last))
                .hint(
                    "remove the blank line, or make it a comment; BuildKit will refuse it in a later release",
                ),
        );
    }
    let mut statement = Statement {
        line,
        head,
        heredocs: Vec::new(),
        comments: Vec::new(),
        span: Span::new(start, end),
        broken: false,
    };
    if takes_heredocs(&statement.line, &statement.head, escape)
        && let Err(finding) = read_heredocs(&mut statement, lines)
    {
        statement.broken = true;
        findings.push(finding.within(Span::new(start, lines.end())));
    }
    statement
}

/// Reads the heredocs of a statement from the lines behind it.
fn read_heredocs(statement: &mut Statement, lines: &mut PhysicalLines<'_>) -> Result<(), Diagnostic> {
    let line = &statement.line;
    let openings = heredoc::openings(&line.text).map_err(|(error, range)| {
        Diagnostic::error(format!("the delimiter of a heredoc is wrong: {error}"), line.span(range))
    })?;
    for (opening, range) in openings {
        let read = heredoc::body(opening, line.span(range), lines);
        statement.span.end = lines.end();
        statement.heredocs.push(read?);
    }
    Ok(())
}

/// Whether `<<` in this instruction opens heredocs: RUN, COPY and ADD, unless in JSON form, and ONBUILD of these.
fn takes_heredocs(line: &LogicalLine, head: &Head, escape: Escape) -> bool {
    let takes = |head: &Head| {
        let keyword = Keyword::parse(line.slice(head.keyword.clone()));
        matches!(keyword, Some(Keyword::Run | Keyword::Copy | Keyword::Add))
            && !matches!(json::parse(line.slice(head.rest.clone())), Json::Strings(_))
    };
    match Keyword::parse(line.slice(head.keyword.clone())) {
        Some(Keyword::Onbuild) => takes(&inner(line, head.rest.clone(), escape)),
        _ => takes(head),
    }
}

/// The instruction inside an ONBUILD.
pub(super) fn inner(line: &LogicalLine, rest: Range<usize>, escape: Escape) -> Head {
    Head::read(line, rest, escape)
}
