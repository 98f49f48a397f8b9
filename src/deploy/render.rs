//! `$VARIABLE` and `${VARIABLE}` in a text, by the rules of GNU `envsubst`.
//!
//! Those rules, as gettext's `envsubst` behaves: a name is a letter or `_`, then letters, digits and `_`, all of ASCII; what
//! is not set becomes nothing; everything else that has a `$` stays as it is: `${NAME:-else}`, `$1`, `$$` (of `$$NAME` the
//! second `$` counts); there is no way to keep `$NAME` from being replaced but not to name it. What is put in is not looked
//! at again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::Fault;
use super::object::Source;

/// Which variables are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Names {
    /// All of them.
    #[default]
    All,
    /// These alone; any other is left as it is written.
    Only(BTreeSet<String>),
}

/// How variables are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Which.
    pub names: Names,
    /// Whether a variable that is not set is a mistake.
    pub strict: bool,
}

/// A variable that is not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unset {
    /// Its name.
    pub name: String,
    /// The line that names it, from 1.
    pub line: u32,
}

impl Unset {
    /// As a fault of `file`.
    pub fn fault(&self, file: &Arc<str>) -> Fault {
        let source = Source { file: Arc::clone(file), line: self.line, item: None };
        Fault {
            source: Some(source),
            what: format!("the variable `{}` is not set", self.name),
            hint: Some(
                "set it, or name those that are to be replaced with `--variables`: all others stay as they are".to_owned(),
            ),
        }
    }
}

/// What a variable is set to, if it is. One that is set to nothing is set.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

impl Names {
    /// Those that a text names: as `envsubst` takes them (`'$A ${B}'`, whatever else is written there), or else as a list
    /// (`A,B`).
    ///
    /// # Errors
    /// The part of a list that is no name.
    pub fn parse(text: &str) -> Result<BTreeSet<String>, String> {
        if text.contains('$') {
            let names = pieces(text).filter_map(|piece| match piece {
                Piece::Variable { name, .. } => Some(name.to_owned()),
                Piece::Text(_) => None,
            });
            return Ok(names.collect());
        }
        let words = text.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|word| !word.is_empty());
        words.map(|word| if is_name(word) { Ok(word.to_owned()) } else { Err(word.to_owned()) }).collect()
    }

    fn include(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// Replaces the variables of `text`.
///
/// # Errors
/// If that is asked for: every place of a variable that is not set.
pub fn render(text: &str, lookup: &Lookup<'_>, options: &Options) -> Result<String, Vec<Unset>> {
    let mut out = String::with_capacity(text.len());
    let mut unset = Vec::new();
    let mut line = 1u32;
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => {
                out.push_str(text);
                let lines = text.bytes().filter(|&byte| byte == b'\n').count();
                line = line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
            }
            Piece::Variable { written, name } if !options.names.include(name) => {
                out.push_str(written);
            }
            Piece::Variable { name, .. } => match lookup(name) {
                Some(value) => out.push_str(&value),
                None if options.strict => unset.push(Unset { name: name.to_owned(), line }),
                None => {}
            },
        }
    }
    if unset.is_empty() { Ok(out) } else { Err(unset) }
}

enum Piece<'a> {
    Text(&'a str),
    Variable { written: &'a str, name: &'a str },
}

/// A text as what stands between variables, and variables.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((written, name)) = variable(rest) {
            rest = rest.get(written.len()..).unwrap_or_default();
            return Some(Piece::Variable { written, name });
        }
        // A `$` here begins no variable.
        let end = rest
            .match_indices('$')
            .map(|(at, _)| at)
            .find(|&at| at > 0 && rest.get(at..).is_some_and(|rest| variable(rest).is_some()))
            .unwrap_or(rest.len());
        let (text, behind) = rest.split_at(end);
        rest = behind;
        Some(Piece::Text(text))
    })
}

/// The variable that `text` begins with: as it is written, and its name.
fn variable(text: &str) -> Option<(&str, &str)> {
    let behind = text.strip_prefix('$')?;
    let (brace, name) = match behind.strip_prefix('{') {
        Some(inner) => (true, inner),
        None => (false, behind),
    };
    let length = name.bytes().position(|byte| !is_word(byte)).unwrap_or(name.len());
    let (name, after) = name.split_at(length);
    if !is_name(name) || (brace && !after.starts_with('}')) {
        return None;
    }
    let written = 1 + length + if brace { 2 } else { 0 };
    Some((text.get(..written)?, name))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_name(text: &str) -> bool {
    text.bytes().all(is_word) && text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "DOLLAR" => Some("$A".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[rstest]
    #[case("$A ${A}", "1 1")]
    #[case("$AB$A", "1")]
    #[case("${A:-d} ${A", "${A:-d} ${A")]
    #[case("$$A $${A} $$", "$1 $1 $$")]
    #[case("$1 ${1} $ ${} $", "$1 ${1} $ ${} $")]
    #[case("$DOLLAR", "$A")]
    #[case("$A-$Aé", "1-1é")]
    #[case("${${A}}", "${1}")]
    #[case("$NONE|$EMPTY|", "||")]
    fn as_envsubst(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(render(text, &lookup, &Options::default()).unwrap(), expected);
    }

    #[rstest]
    #[case("A,B C", Ok(vec!["A", "B", "C"]))]
    #[case("$A and ${B} ${C:-x}", Ok(vec!["A", "B"]))]
    #[case("", Ok(vec![]))]
    #[case("A,1B", Err("1B"))]
    fn names(#[case] text: &str, #[case] expected: Result<Vec<&str>, &str>) {
        let found = Names::parse(text);
        let found =
            found.as_ref().map(|names| names.iter().map(String::as_str).collect()).map_err(String::as_str);
        assert_eq!(found, expected);
    }

    #[test]
    fn others_stay_as_they_are_written() {
        let options = Options { names: Names::Only(["A".to_owned()].into()), strict: true };
        assert_eq!(render("$A ${A} $B ${B}", &lookup, &options).unwrap(), "1 1 $B ${B}");
    }

    #[test]
    fn every_place_of_what_is_not_set_is_told() {
        let options = Options { strict: true, ..Options::default() };
        let unset = render("$X $A $EMPTY\n\n${Y}\n$X", &lookup, &options).unwrap_err();
        let places: Vec<String> =
            unset.iter().map(|unset| unset.fault(&"a.yaml".into()).to_string()).collect();
        assert_eq!(
            places,
            [
                "a.yaml:1: the variable `X` is not set",
                "a.yaml:3: the variable `Y` is not set",
                "a.yaml:4: the variable `X` is not set"
            ]
        );
    }
}
