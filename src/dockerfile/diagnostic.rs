//! What is wrong with a Dockerfile, where, and what was probably meant; and how that is shown.
//!
//! Invariants: a diagnostic points into the source with at least one label, the first of them being the place to
//! look at; its message says what is wrong and its hint, kept apart, what to do about it; rendering is pure and
//! total: any span, even one of another text, renders without a panic.

use std::borrow::Cow;
use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::rule::Rule;
use super::span::{LineIndex, Position, Span};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The build goes on; the author probably wants to know.
    Warning,
    /// The build cannot go on.
    Error,
}

/// A place that belongs to a finding, with a word about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is to be seen there; empty where the message says it all.
    pub text: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The rule it was found by; none for what cannot be skipped.
    pub rule: Option<Rule>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// The place of the finding first, then places that help to understand it.
    pub labels: Vec<Label>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The whole of what it is about, an instruction for the most part, if that is not the place of the finding.
    pub about: Option<Span>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(message: impl Into<String>, span: Span) -> Self {
        Self::new(Severity::Error, message.into(), span)
    }

    /// A warning at `span`.
    pub fn warning(message: impl Into<String>, span: Span) -> Self {
        Self::new(Severity::Warning, message.into(), span)
    }

    fn new(severity: Severity, message: String, span: Span) -> Self {
        let labels = vec![Label { span, text: String::new() }];
        Self { severity, rule: None, message, labels, hint: None, about: None }
    }

    /// Says what is to be seen at the place of the finding.
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(label) = self.labels.first_mut() {
            label.text = text.into();
        }
        self
    }

    /// Adds a place that helps to understand the finding.
    pub fn context(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Says what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what to do about it, if there is something to say.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Names the rule it was found by.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rule = Some(rule);
        self
    }

    /// Says what the whole is that it is about.
    pub fn about(mut self, whole: Span) -> Self {
        self.about = Some(whole);
        self
    }

    /// Says what the whole is that it is about, where that was not said.
    pub fn within(mut self, whole: Span) -> Self {
        self.about = self.about.or(Some(whole));
        self
    }

    /// The whole of what it is about: its lines are those that BuildKit names.
    pub fn subject(&self) -> Span {
        self.about.unwrap_or_else(|| self.span())
    }

    /// Whether the build cannot go on.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The place of the finding.
    pub fn span(&self) -> Span {
        self.labels.first().map(|label| label.span).unwrap_or_default()
    }

    /// The line and column of the finding.
    pub fn position(&self, source: Source<'_>) -> Position {
        LineIndex::new(source.text).position(self.span().start)
    }

    /// Draws the finding with the lines it points at: file, line, column, underlined text, hint. Without a line break
    /// at the end.
    pub fn render(&self, source: Source<'_>, color: bool) -> String {
        // A byte order mark would shift the first line by one cell; editors do not show it either.
        let (text, shift) = match source.text.strip_prefix('\u{feff}') {
            Some(rest) => (rest, source.text.len() - rest.len()),
            None => (source.text, 0),
        };
        let mut snippet = Snippet::source(text).path(source.name);
        for (index, label) in self.labels.iter().enumerate() {
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let span = drawable(label.span, shift, text);
            let annotation = kind.span(span.into());
            snippet = snippet.annotation(match label.text.as_str() {
                "" => annotation,
                words => annotation.label(visible(words)),
            });
        }
        let level = match self.severity {
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let title = level.primary_title(visible(&self.message));
        let title = match self.rule {
            Some(rule) => title.id(rule.name()),
            None => title,
        };
        let mut group = title.element(snippet);
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(visible(hint)));
        }
        if let Some(page) = self.rule.and_then(Rule::url) {
            group = group.element(Level::NOTE.message(page));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// More findings than this have few causes.
const MOST_DRAWN: usize = 20;

/// Findings, in the order of the places they point at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    /// Draws them, a blank line between two. Of very many only the first are drawn, errors before warnings, and the
    /// others counted: nobody reads them, and each is drawn in time that grows with the file.
    pub fn render(&self, source: Source<'_>, color: bool) -> String {
        let mut chosen: Vec<(usize, &Diagnostic)> = self.0.iter().enumerate().collect();
        chosen.sort_by_key(|(_, finding)| !finding.is_error());
        chosen.truncate(MOST_DRAWN);
        chosen.sort_by_key(|(index, _)| *index);
        let mut drawn: Vec<String> =
            chosen.iter().map(|(_, finding)| finding.render(source, color)).collect();
        match self.0.len() - chosen.len() {
            0 => {}
            1 => drawn.push("and 1 more".to_owned()),
            more => drawn.push(format!("and {more} more")),
        }
        drawn.join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(finding: Diagnostic) -> Self {
        Self(vec![finding])
    }
}

/// A text and the name it is shown under.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The name of the file, as the user typed it (`Dockerfile`, `-`).
    pub name: &'a str,
    /// Its text, the one that was parsed.
    pub text: &'a str,
}

/// `text` in backticks for a message: one line, control characters written out, cut where it gets long.
pub fn quote(text: &str) -> String {
    /// Enough to recognise a word by; the rendered source shows the rest.
    const LONGEST: usize = 80;
    let mut quoted = String::from("`");
    for (count, letter) in text.chars().enumerate() {
        if count == LONGEST {
            quoted.push('…');
            break;
        }
        quoted.push(letter);
    }
    quoted.push('`');
    visible(&quoted).into_owned()
}

/// Control characters written out: text of the file must not steer the terminal.
fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\\n"),
            letter if letter.is_control() => shown.extend(letter.escape_default()),
            letter => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// `span` moved by `shift` to the left and forced inside `text`, on character boundaries, without the line breaks at
/// its end.
fn drawable(span: Span, shift: usize, text: &str) -> Span {
    let fit = |offset: usize| {
        let mut offset = offset.saturating_sub(shift).min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    };
    let (start, end) = (fit(span.start), fit(span.end));
    let covered = text.get(start..end).unwrap_or("");
    Span::new(start, start + covered.trim_end_matches(['\r', '\n']).len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;
    use proptest::prelude::*;

    fn source(text: &str) -> Source<'_> {
        Source { name: "Dockerfile", text }
    }

    #[test]
    fn shows_place_label_context_and_hint() {
        let text = "FROM a\nCOPY --chonw=1 a b\n";
        let finding = Diagnostic::error("unknown flag `--chonw` of COPY", Span::new(12, 19))
            .label("not a flag")
            .context(Span::new(7, 11), "of this instruction")
            .hint("did you mean `--chown`?");
        assert_snapshot!(finding.render(source(text), false), @"
        error: unknown flag `--chonw` of COPY
         --> Dockerfile:2:6
          |
        2 | COPY --chonw=1 a b
          | ---- ^^^^^^^ not a flag
          | |
          | of this instruction
          |
          = help: did you mean `--chown`?
        ");
    }

    #[test]
    fn shows_the_rule_of_a_warning_and_colours_only_when_asked() {
        let finding = Diagnostic::warning("empty line", Span::new(2, 3)).rule(Rule::NoEmptyContinuation);
        let plain = finding.render(source("a\n\nb"), false);
        assert!(plain.starts_with("warning[NoEmptyContinuation]: empty line"), "{plain}");
        assert!(!plain.contains('\u{1b}'));
        assert!(finding.render(source("a\n\nb"), true).contains('\u{1b}'));
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_do_not_move_the_marks() {
        let text = "\u{feff}FROM a\r\nRUNN x\r\n";
        let at = text.find("RUNN").unwrap();
        let finding = Diagnostic::error("unknown instruction", Span::new(at, at + 4));
        assert_snapshot!(finding.render(source(text), false), @"
        error: unknown instruction
         --> Dockerfile:2:1
          |
        2 | RUNN x
          | ^^^^
        ");
        let first = Diagnostic::error("first", Span::new(3, 7)).render(source(text), false);
        assert!(first.contains("Dockerfile:1:1"), "{first}");
    }

    #[test]
    fn text_of_the_file_cannot_steer_the_terminal() {
        assert_eq!(quote("a\u{1b}[31m\nb"), "`a\\u{1b}[31m\\nb`");
        assert_eq!(quote(&"x".repeat(200)).chars().count(), 83);
        let finding = Diagnostic::error("bad \u{7} word", Span::new(0, 1));
        let shown = finding.render(source("\u{1b}[31mevil"), false);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
    }

    #[test]
    fn very_many_findings_are_counted_and_no_error_is_lost_among_warnings() {
        let mut findings: Vec<Diagnostic> =
            (0..30).map(|at| Diagnostic::warning(format!("w{at}"), Span::at(at))).collect();
        findings.push(Diagnostic::error("the error", Span::at(30)));
        let text = "x".repeat(40);
        let drawn = Diagnostics(findings).render(source(&text), false);
        assert_eq!(drawn.matches("warning: ").count(), MOST_DRAWN - 1);
        assert!(drawn.contains("error: the error") && drawn.ends_with("\n\nand 11 more"), "{drawn}");
    }

    proptest! {
        #[test]
        fn renders_any_span_of_any_text(text in "(\\PC|[\\n\\r\\t\u{0}\u{301}\u{200d}]){0,80}", start in 0usize..120, end in 0usize..120, color: bool) {
            let finding = Diagnostic::error("m", Span::new(start, end)).label("l").context(Span::new(end, start), "c").hint("h");
            let shown = finding.render(Source { name: "f", text: &text }, color);
            prop_assert!(shown.contains("f:"));
        }
    }
}
