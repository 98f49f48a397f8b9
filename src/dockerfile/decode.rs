//! Bytes → text.

use std::borrow::Cow;

use super::diagnostic::Diagnostic;
use super::line::is_comment;
use super::span::Span;

/// The text of a Dockerfile's bytes. Comments may hold anything (old files have Latin-1 in them): what is not UTF-8
/// there becomes U+FFFD.
///
/// # Errors
/// Bytes that are not UTF-8 outside a comment. Its spans belong to the text with U+FFFD for each of them, which
/// comes with it, to be drawn.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Box<(Diagnostic, String)>> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(Cow::Borrowed(text));
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut at = 0;
    let mut raw = bytes.split_inclusive(|&byte| byte == b'\n');
    for line in text.split_inclusive('\n') {
        let broken = raw.next().is_some_and(|raw| std::str::from_utf8(raw).is_err());
        if broken && !is_comment(line) {
            let start = at + line.find(char::REPLACEMENT_CHARACTER).unwrap_or(0);
            let span = Span::new(start, start + char::REPLACEMENT_CHARACTER.len_utf8());
            let finding = Diagnostic::error("the Dockerfile is not UTF-8", span)
                .hint("save it as UTF-8; other encodings are read in comments only");
            return Err(Box::new((finding, text)));
        }
        at += line.len();
    }
    Ok(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text() {
        assert!(matches!(decode("FROM é".as_bytes()), Ok(Cow::Borrowed("FROM é"))));
    }

    #[test]
    fn comments_may_hold_other_encodings() {
        assert_eq!(decode(b"# caf\xe9\nFROM a\n").unwrap(), "# caf\u{fffd}\nFROM a\n");
    }

    #[test]
    fn instructions_may_not() {
        let (finding, text) = *decode(b"FROM \xc3\xa9\n# \xe9\nENV a=caf\xe9 b\n").unwrap_err();
        assert_eq!(finding.span().text(&text), Some("\u{fffd}"));
        assert_eq!(text[..finding.span().start].matches('\n').count(), 2);
    }
}
