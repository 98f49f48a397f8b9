//! What a registry says about a failure, out of the body of its answer.
//!
//! The distribution specification has `{"errors":[{"code","message","detail"}]}`; token servers, proxies and
//! several products have their own. Bodies are hostile text: capped before they come here, cut and cleaned
//! before they are shown.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// Characters of one message that are shown; some registries put a whole policy document there.
const LONGEST: usize = 400;

/// One error of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostic {
    /// `MANIFEST_UNKNOWN`, `DENIED`, …; empty where there is none.
    pub code: String,
    /// For people; may be empty.
    pub message: String,
    /// Whatever else was said, if it is text.
    pub detail: String,
}

impl Diagnostic {
    fn new(code: &str, message: &str, detail: &str) -> Self {
        Self { code: clean(code), message: clean(message), detail: clean(detail) }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.code, &self.message, &self.detail];
        let said: Vec<&str> = parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        f.write_str(&said.join(": "))
    }
}

/// What the `body` of a failed answer says, in its order. Empty if it says nothing.
pub(crate) fn decode(body: &[u8]) -> Vec<Diagnostic> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Value,
        /// OAuth 2, RFC 6749 section 5.2, and several token servers.
        #[serde(default)]
        error: Value,
        #[serde(default)]
        error_description: Value,
        /// Docker Hub's token server.
        #[serde(default)]
        details: Value,
        #[serde(default)]
        message: Value,
    }

    let text = String::from_utf8_lossy(body);
    let Ok(answer) = serde_json::from_str::<Answer>(&text) else { return plain(&text) };
    let mut found: Vec<Diagnostic> = match &answer.errors {
        Value::Array(errors) => errors.iter().map(one).collect(),
        Value::Null => Vec::new(),
        other => vec![one(other)],
    };
    if found.is_empty() {
        let own = [&answer.error, &answer.error_description, &answer.details, &answer.message].map(text_of);
        let message: Vec<&str> =
            own.iter().skip(1).map(String::as_str).filter(|part| !part.is_empty()).collect();
        found.push(Diagnostic::new(&own[0], &message.join(": "), ""));
    }
    found.retain(|diagnostic| *diagnostic != Diagnostic::default());
    if found.is_empty() { plain(&text) } else { found }
}

fn one(error: &Value) -> Diagnostic {
    match error {
        Value::Object(fields) => {
            let field = |name| fields.get(name).map(text_of).unwrap_or_default();
            let detail = match fields.get("detail") {
                // distribution repeats the scope here as a list of objects: it is in our own message.
                Some(Value::Array(_)) | None => String::new(),
                Some(other) => text_of(other),
            };
            let message = field("message");
            let detail = if detail == message { String::new() } else { detail };
            Diagnostic::new(&field("code"), &message, &detail)
        }
        other => Diagnostic::new("", &text_of(other), ""),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) if fields.is_empty() => String::new(),
        other => other.to_string(),
    }
}

/// An answer that is not JSON: a proxy's page, whose title says it, or a line of text.
fn plain(text: &str) -> Vec<Diagnostic> {
    let lower = text.to_ascii_lowercase();
    let title = lower.find("<title>").and_then(|start| {
        let start = start + "<title>".len();
        let end = lower.get(start..)?.find("</title>")?;
        text.get(start..start + end)
    });
    let message = match title {
        Some(title) => title,
        None if lower.trim_start().starts_with('<') => "",
        None => text,
    };
    let diagnostic = Diagnostic::new("", message, "");
    if diagnostic.message.is_empty() { Vec::new() } else { vec![diagnostic] }
}

/// One line without control characters, cut to what can be read.
fn clean(text: &str) -> String {
    let words = text.split(|character: char| character.is_whitespace() || character.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#, &["DENIED: requested access to the resource is denied"])]
    #[case(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[{"Type":"repository"}]}]}"#, &["UNAUTHORIZED: authentication required"])]
    #[case(r#"{"errors":[{"code":"A","message":"a","detail":"a"},{"code":"B","message":"b","detail":{"x":1}}]}"#, &["A: a", r#"B: b: {"x":1}"#])]
    #[case(r#"{"errors":[{"code":409,"message":"exists"}]}"#, &["409: exists"])]
    #[case(r#"{"errors":"text"}"#, &["text"])]
    #[case(r#"{"details":"incorrect username or password"}"#, &["incorrect username or password"])]
    #[case(r#"{"error":"invalid_grant","error_description":"expired"}"#, &["invalid_grant: expired"])]
    #[case(r#"{"message":"not found"}"#, &["not found"])]
    #[case("<html><head><TITLE>413 Request Entity\nToo Large</TITLE></head>", &["413 Request Entity Too Large"])]
    #[case("<html><body>x</body></html>", &[])]
    #[case("upstream \u{1b}[31mconnect error", &["upstream [31mconnect error"])]
    #[case("{}", &["{}"])]
    #[case("", &[])]
    fn reads(#[case] body: &str, #[case] shown: &[&str]) {
        let decoded: Vec<String> = decode(body.as_bytes()).iter().map(ToString::to_string).collect();
        assert_eq!(decoded, shown);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let decoded = decode("é".repeat(10_000).as_bytes());
        assert_eq!(decoded[0].message.chars().count(), LONGEST + 1);
    }
}
