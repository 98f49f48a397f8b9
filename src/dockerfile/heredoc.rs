//! Heredocs: finding `<<EOF` in an instruction and reading the lines that belong to it.
//!
//! A word of the line is a heredoc if it is `digits<<`, perhaps `-`, perhaps blanks, and a delimiter without `<`;
//! its escape character is `\` whatever the file's is. Quotes anywhere in the delimiter switch expansion off. If the
//! line is not well-formed as a shell line (an apostrophe without partner), it has no heredocs at all.

use std::ops::Range;

use super::diagnostic::{Diagnostic, quote};
use super::expand::{self, ExpandError};
use super::line::{PhysicalLines, without_break};
use super::span::{Span, Spanned};

/// A heredoc of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without its quotes; for COPY and ADD the name of the file.
    pub name: String,
    /// The file descriptor before `<<`, if there is one.
    pub descriptor: Option<u32>,
    /// Whether variables in the body are expanded: the delimiter has no quotes.
    pub expand: bool,
    /// Whether tabs at the beginning of each line are no part of the content: `<<-`.
    pub strip_tabs: bool,
    /// The lines between instruction and delimiter as they are in the file, each with its line break.
    pub body: Spanned<String>,
    /// The word `<<EOF` in the instruction.
    pub span: Span,
}

impl Heredoc {
    /// The content: the body, without leading tabs where `<<-` says so.
    pub fn content(&self) -> String {
        if self.strip_tabs { without_tabs(&self.body.value) } else { self.body.value.clone() }
    }
}

fn without_tabs(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// What `<<EOF` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    /// The delimiter without its quotes.
    pub name: String,
    descriptor: Option<u32>,
    expand: bool,
    strip_tabs: bool,
}

/// Reads `word` as a heredoc; none if it is not one.
///
/// # Errors
/// The delimiter is not well-formed (`<<'EOF`).
pub(super) fn opening(word: &str) -> Result<Option<Opening>, ExpandError> {
    let Some((digits, delimiter)) = word.split_once("<<") else { return Ok(None) };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || delimiter.contains('<') {
        return Ok(None);
    }
    let (strip_tabs, delimiter) = match delimiter.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, delimiter),
    };
    let delimiter = delimiter.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if delimiter.is_empty() {
        return Ok(None);
    }
    let (bare, quoted) = expand::delimiter_words(delimiter)?;
    let ([name], [with_quotes]) = (bare.as_slice(), quoted.as_slice()) else { return Ok(None) };
    let quotes = |word: &str| word.matches(['\'', '"']).count();
    Ok(Some(Opening {
        name: name.clone(),
        descriptor: digits.parse().ok(),
        expand: quotes(name) == quotes(with_quotes),
        strip_tabs,
    }))
}

/// Something, and where it is in its line.
type Placed<T> = (T, Range<usize>);

/// The heredocs that `line` opens.
///
/// # Errors
/// A delimiter is not well-formed.
pub(super) fn openings(line: &str) -> Result<Vec<Placed<Opening>>, Placed<ExpandError>> {
    let mut found = Vec::new();
    if !line.contains("<<") {
        return Ok(found);
    }
    let mut at = 0;
    for word in expand::raw_words(line).unwrap_or_default() {
        let place = line.get(at..).and_then(|rest| rest.find(&word));
        let range = match place {
            Some(offset) => at + offset..at + offset + word.len(),
            // The word is not written like that (doubled escapes): the line has to do.
            None => at..line.len(),
        };
        at = if place.is_some() { range.end } else { at };
        match opening(&word) {
            Ok(Some(opening)) => found.push((opening, range)),
            Ok(None) => {}
            Err(error) => return Err((error, range)),
        }
    }
    Ok(found)
}

/// Reads the body of `opening` from `lines`, which stand behind the instruction.
///
/// # Errors
/// The file ends before the delimiter does; all its lines are taken then.
pub(super) fn body(
    opening: Opening,
    span: Span,
    lines: &mut PhysicalLines<'_>,
) -> Result<Heredoc, Diagnostic> {
    let start = lines.offset();
    let mut text = String::new();
    let mut near = None;
    for (at, line) in lines.by_ref() {
        let bare = without_break(line);
        let candidate = if opening.strip_tabs { bare.trim_start_matches('\t') } else { bare };
        if candidate == opening.name {
            let Opening { name, descriptor, expand, strip_tabs } = opening;
            let body = Spanned::new(text, Span::new(start, at));
            return Ok(Heredoc { name, descriptor, expand, strip_tabs, body, span });
        }
        if near.is_none() && candidate.trim() == opening.name {
            near = Some((Span::new(at, at + bare.len()), bare));
        }
        text.push_str(line);
    }
    let name = quote(&opening.name);
    let finding = Diagnostic::error(format!("the heredoc {name} is not closed"), span)
        .label("opened here, open to the end of the file");
    Err(match near {
        None => finding.hint(format!("write {name} on a line of its own, with nothing before or behind it")),
        Some((place, line)) => {
            let only_tabs = line.trim_start_matches('\t') == opening.name;
            let finding = finding.context(place, "not the delimiter: there is white space around it");
            if only_tabs {
                finding.hint("open it with `<<-`, which allows tabs before the delimiter")
            } else {
                finding.hint(format!("remove the white space around {name}"))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn read(word: &str) -> Option<(String, Option<u32>, bool, bool)> {
        opening(word).unwrap().map(|it| (it.name, it.descriptor, it.expand, it.strip_tabs))
    }

    #[rstest]
    #[case("<<EOF", "EOF", None, true, false)]
    #[case("<< EOF", "EOF", None, true, false)]
    #[case("3<<EOF", "EOF", Some(3), true, false)]
    #[case("<<-EOF", "EOF", None, true, true)]
    #[case("<<- EOF", "EOF", None, true, true)]
    #[case("<<'EOF'", "EOF", None, false, false)]
    #[case("<<\"E O F\"", "E O F", None, false, false)]
    #[case("<<E'O'F", "EOF", None, false, false)]
    #[case("<<E\\'OF", "E'OF", None, true, false)]
    #[case("<<robots.txt", "robots.txt", None, true, false)]
    #[case("<<$A", "$A", None, true, false)]
    #[case("<<EOF>x", "EOF>x", None, true, false)]
    fn reads_openings(
        #[case] word: &str,
        #[case] name: &str,
        #[case] descriptor: Option<u32>,
        #[case] expand: bool,
        #[case] strip_tabs: bool,
    ) {
        assert_eq!(read(word), Some((name.to_owned(), descriptor, expand, strip_tabs)));
    }

    #[rstest]
    #[case("EOF")]
    #[case("<EOF")]
    #[case("<<<EOF")]
    #[case("<<")]
    #[case("<<-")]
    #[case("x<<EOF")]
    #[case("<<A<B")]
    #[case("<<A B")]
    #[case("<<''")]
    fn leaves_other_words_alone(#[case] word: &str) {
        assert_eq!(read(word), None);
    }

    #[rstest]
    #[case("RUN <<A cat && <<-'B' tac", &["<<A", "<<-'B'"])]
    #[case("RUN cat << A > /x", &["<< A"])]
    #[case("RUN cat 3<<A 4<<B", &["3<<A", "4<<B"])]
    #[case("RUN echo '<<A' \"<<B\"", &[])]
    #[case("RUN echo it's <<A", &[])]
    #[case("RUN echo \\'s <<A", &["<<A"])]
    #[case("RUN echo ${x^^} <<A", &[])]
    #[case("RUN echo ${x:-y} <<A", &["<<A"])]
    #[case("RUN echo $((1<<2))", &[])]
    fn finds_them_in_lines(#[case] line: &str, #[case] expected: &[&str]) {
        let found = openings(line).unwrap();
        let words: Vec<&str> = found.into_iter().map(|(_, range)| &line[range]).collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn leading_tabs_go_from_each_line() {
        assert_eq!(without_tabs("\ta\n\t\tb \tc\n  d\n\r\n\t"), "a\nb \tc\n  d\n\r\n");
    }
}
