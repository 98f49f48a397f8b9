//! Findings of a Dockerfile or a configuration file, with the text they point into.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::redact::masked_in_place;
use crate::dockerfile::{Diagnostics, LineIndex, Rule, Severity, Source};

/// Findings and the text they are about. It is an error where the findings are.
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    name: String,
    text: Arc<str>,
    list: Diagnostics,
}

impl Findings {
    /// `list` is about `text`, which the user knows as `name` (`Dockerfile`, `-`).
    pub fn new(name: impl Into<String>, text: &str, list: Diagnostics) -> Self {
        // Passwords in addresses are masked letter by letter: every span still points where it did.
        Self { name: name.into(), text: masked_in_place(text).into(), list }
    }

    /// The findings.
    pub fn list(&self) -> &Diagnostics {
        &self.list
    }

    /// `Dockerfile:3:5` of the first error, or else of the first finding.
    pub fn place(&self) -> String {
        let first = self.list.0.iter().find(|finding| finding.is_error()).or(self.list.0.first());
        match first {
            Some(finding) => {
                let at = finding.position(self.source());
                format!("{}:{}:{}", self.name, at.line, at.column)
            }
            None => self.name.clone(),
        }
    }

    /// Draws the findings with the lines they point at, without a line break at the end.
    pub fn render(&self, color: bool) -> String {
        self.list.render(self.source(), color)
    }

    fn source(&self) -> Source<'_> {
        Source { name: &self.name, text: &self.text }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.list)
    }
}

impl std::error::Error for Findings {}

impl Serialize for Findings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct File<'a> {
            file: &'a str,
            findings: Vec<Finding<'a>>,
        }
        #[derive(Serialize)]
        struct Finding<'a> {
            severity: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            rule: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            url: Option<String>,
            message: &'a str,
            line: usize,
            column: usize,
            end_line: usize,
            end_column: usize,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<&'a str>,
        }
        let lines = LineIndex::new(&self.text);
        let findings = self.list.0.iter().map(|finding| {
            let (start, end) = (lines.position(finding.span().start), lines.position(finding.span().end));
            Finding {
                severity: match finding.severity {
                    Severity::Warning => "warning",
                    Severity::Error => "error",
                },
                rule: finding.rule.map(Rule::name),
                url: finding.rule.and_then(Rule::url),
                message: &finding.message,
                line: start.line,
                column: start.column,
                end_line: end.line,
                end_column: end.column,
                hint: finding.hint.as_deref(),
            }
        });
        File { file: &self.name, findings: findings.collect() }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::{Diagnostic, Span};

    #[test]
    fn points_into_the_text_and_hides_passwords() {
        let text = "FROM a\nRUN curl https://me:secret@host/x\n";
        let at = text.find("host").unwrap();
        let list = Diagnostics(vec![Diagnostic::error("no such host", Span::new(at, at + 4)).hint("ask")]);
        let findings = Findings::new("Dockerfile", text, list);
        assert_eq!(findings.to_string(), "Dockerfile:2:28: no such host");
        let drawn = findings.render(false);
        assert!(drawn.contains("https://*********@host/x") && !drawn.contains("secret"), "{drawn}");
        let json = serde_json::to_string(&findings).unwrap();
        assert_eq!(
            json,
            r#"{"file":"Dockerfile","findings":[{"severity":"error","message":"no such host","line":2,"column":28,"end_line":2,"end_column":32,"hint":"ask"}]}"#
        );
    }
}
