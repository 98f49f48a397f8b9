//! The tables in `testdata/dockerfile/expand*.jsonl` hold what BuildKit 0.33.0 makes of the same words.

use super::*;
use proptest::prelude::*;
use rstest::rstest;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Case {
    word: String,
    #[serde(default)]
    escape: String,
    #[serde(default)]
    style: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    expect: Expect,
}

#[derive(Deserialize, Debug, PartialEq, Eq)]
struct Expect {
    /// BuildKit's words for the error: only that there is one counts.
    error: Option<String>,
    #[serde(default)]
    text: String,
    /// None where the word has an operator: BuildKit loses the text before it when it splits.
    words: Option<Vec<String>>,
    #[serde(default)]
    used: BTreeSet<String>,
    #[serde(default)]
    undefined: BTreeSet<String>,
}

impl Case {
    fn escape(&self) -> Escape {
        if self.escape == "`" { Escape::Backtick } else { Escape::Backslash }
    }

    fn actual(&self) -> Result<Evaluation, ExpandError> {
        let lookup = |name: &str| self.env.get(name).cloned();
        let escape = self.escape().char();
        match self.style.as_str() {
            "display" => {
                let style = Style { keep_quotes: true, keep_unset: true };
                evaluate(&self.word, Grammar { escape, quotes: true, keep_escapes: false }, style, &lookup)
            }
            "text" => {
                let word = Word::new(self.word.clone(), Span::default(), Syntax::Text);
                evaluate(&self.word, word.grammar().unwrap(), Style::VALUE, &lookup)
            }
            _ => {
                let word = Word::new(self.word.clone(), Span::default(), Syntax::Shell(self.escape()));
                evaluate(&self.word, word.grammar().unwrap(), Style::VALUE, &lookup)
            }
        }
    }
}

#[rstest]
#[case::picked(include_str!("../../../testdata/dockerfile/expand.jsonl"))]
#[case::random(include_str!("../../../testdata/dockerfile/expand-random.jsonl"))]
fn gives_what_buildkit_gives(#[case] table: &str) {
    let mut wrong = Vec::new();
    for line in table.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let actual = match case.actual() {
            Err(_) => Expect {
                error: case.expect.error.clone().or(Some(String::new())),
                text: String::new(),
                words: None,
                used: BTreeSet::new(),
                undefined: BTreeSet::new(),
            },
            Ok(done) => Expect {
                error: None,
                text: done.text,
                words: case.expect.words.is_some().then_some(done.words),
                used: done.used,
                undefined: done.undefined,
            },
        };
        if actual != case.expect {
            wrong.push(format!("{line}\n  gave {actual:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn words_of(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let word = Word::new(text, Span::default(), Syntax::Shell(Escape::Backslash));
    word.expand_words(&lookup).unwrap().words
}

/// BuildKit 0.33.0 loses what stands before `${…-…}` in the same word.
#[test]
fn a_word_before_a_default_is_kept() {
    assert_eq!(words_of("80${X:-80} 9${X+1}0", &[]), ["8080", "90"]);
    assert_eq!(words_of("a${X:-b c}d", &[]), ["ab", "cd"]);
}

#[rstest]
#[case("a $ b", "'$' alone", None)]
#[case("a 'b", "the quote `'` is not closed", Some("'b"))]
#[case("a \"b$", "the quote `\"` is not closed", Some("\"b$"))]
#[case("a ${b", "`}` is missing after `${`", Some("${b"))]
#[case("a ${b/c}", "`/` is missing after `${`", Some("${b/c}"))]
#[case("a ${} b", "`${` is not followed by a variable name", Some("${}"))]
#[case("a ${b^^} c", "the modifier `^` is not supported in `${…}`", Some("${b^"))]
#[case("a ${b:1} c", "the modifier `:1` is not supported in `${…}`", Some("${b:1}"))]
#[case("a ${b?} c", "variable `b` must be set", Some("${b?}"))]
#[case("a ${e:?why} c", "variable `e` must not be empty: why", Some("${e:?why}"))]
#[case("a ${x:-${b?}} c", "variable `b` must be set", Some("${b?}"))]
#[case("${e#\\q}", "the pattern `\\q` escapes `q`, which needs no escape", Some("${e#\\q}"))]
fn errors_point_at_the_part_that_is_wrong(
    #[case] text: &str,
    #[case] message: &str,
    #[case] at: Option<&str>,
) {
    let lookup = |name: &str| (name == "e").then(String::new);
    let source = format!("ENV x={text}");
    let word = Word::new(text, Span::new(6, source.len()), Syntax::Shell(Escape::Backslash));
    let result = word.expand(&lookup);
    let Some(at) = at else {
        assert!(result.is_ok(), "{message}");
        return;
    };
    let finding = word.explain(&result.unwrap_err());
    assert_eq!(finding.message, message);
    assert_eq!(finding.span().text(&source), Some(at));
}

#[test]
fn a_word_that_is_not_as_written_is_marked_as_a_whole() {
    let word = Word::new("a${", Span::new(4, 20), Syntax::Shell(Escape::Backslash));
    assert_eq!(word.explain(&word.expand(&|_| None).unwrap_err()).span(), Span::new(4, 20));
}

#[test]
fn nesting_is_bounded() {
    let nest = |depth: usize| format!("{}x{}", "${a:-".repeat(depth), "}".repeat(depth));
    let word = |depth| Word::new(nest(depth), Span::default(), Syntax::Shell(Escape::Backslash));
    assert_eq!(word(MAX_DEPTH).expand(&|_| None).unwrap().text, "x");
    assert_eq!(word(100_000).expand(&|_| None).unwrap_err().kind, ExpandErrorKind::TooDeep);
}

#[test]
fn replacements_in_replacements_do_not_fill_the_memory() {
    let nested = format!("{}a{}", "${v//?/".repeat(30), "}".repeat(30));
    let word = Word::new(nested.clone(), Span::new(0, nested.len()), Syntax::Shell(Escape::Backslash));
    let error = word.expand(&|_| Some("aaaaaaaa".to_owned())).unwrap_err();
    assert_eq!(error.kind, ExpandErrorKind::TooLong);
    let doubled = Word::new("$v$v", Span::new(0, 4), Syntax::Shell(Escape::Backslash));
    assert_eq!(doubled.expand(&|_| Some("a".repeat(1 << 20))).unwrap().text.len(), 2 << 20);
    let error = doubled.expand(&|_| Some("a".repeat((1 << 20) + 1))).unwrap_err();
    assert_eq!(error.kind, ExpandErrorKind::TooLong);
}

#[test]
fn verbatim_words_have_no_variables() {
    let word = Word::new("$a '${", Span::default(), Syntax::Verbatim);
    assert!(word.is_plain());
    assert_eq!(word.expand(&|_| Some("no".into())).unwrap().text, "$a '${");
}

#[test]
fn a_progress_line_keeps_what_it_does_not_know() {
    let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
    assert_eq!(
        display("RUN echo \"$A\" $B ${C:-x}", Escape::Backslash, &lookup),
        "RUN echo \"1\" $B ${C:-x}"
    );
    assert_eq!(display("RUN echo it's $A", Escape::Backslash, &lookup), "RUN echo it's $A");
}

/// A pattern that makes backtracking matchers run for hours.
#[test]
fn patterns_take_bounded_time() {
    let value = "a".repeat(2000);
    let lookup = |_: &str| Some(value.clone());
    let word = Word::new(
        format!("${{v//{}b/}}", "a*".repeat(30)),
        Span::default(),
        Syntax::Shell(Escape::Backslash),
    );
    assert_eq!(word.expand(&lookup).unwrap().text, value);
}

proptest! {
    #[test]
    fn never_panics_and_plain_words_stand_for_themselves(
        text in r#"[a$ {}:\-+?#%/*'"\\<`é]{0,40}"#,
        value in r#"[a$*é\n]{0,6}"#,
        backtick: bool,
    ) {
        let escape = if backtick { Escape::Backtick } else { Escape::Backslash };
        for syntax in [Syntax::Shell(escape), Syntax::Text, Syntax::Verbatim] {
            let word = Word::new(text.clone(), Span::new(0, text.len()), syntax);
            match word.expand(&|name| (name != "aa").then(|| value.clone())) {
                Ok(done) => prop_assert!(!word.is_plain() || done.text == text),
                Err(error) => {
                    prop_assert!(!word.is_plain());
                    prop_assert!(text.get(error.at.clone()).is_some());
                }
            }
        }
    }
}
