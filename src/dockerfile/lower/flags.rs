//! The flags of an instruction: which there are, and what was given.

use super::super::diagnostic::{Diagnostic, quote};
use super::super::expand::Word;
use super::super::head::{Mapped, RawFlag};
use super::super::keyword::Keyword;
use super::super::span::{Span, Spanned};
use super::super::suggest::nearest;
use super::Lowering;

/// A flag that an instruction knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlagSpec {
    /// Its name without `--`.
    pub name: &'static str,
    /// What it takes.
    pub kind: FlagKind,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagKind {
    /// `--name`, `--name=true`, `--name=false`.
    Switch,
    /// `--name=value`.
    Value,
    /// `--name=value`, as often as wanted.
    List,
}

/// The flags that were given, and are what they may be.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: Vec<Given>,
}

#[derive(Debug)]
struct Given {
    name: &'static str,
    span: Span,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Switch(bool),
    Text(Mapped),
}

impl Flags {
    /// Reads the flags of the instruction; what is wrong with them becomes a finding.
    pub(super) fn read(cx: &mut Lowering<'_>, specs: &[FlagSpec]) -> Self {
        let mut flags = Self::default();
        for raw in &cx.head.flags {
            match flags.one(cx, raw, specs) {
                Ok(given) => flags.given.push(given),
                Err(finding) => cx.findings.push(finding),
            }
        }
        flags
    }

    fn one(&self, cx: &Lowering<'_>, raw: &RawFlag, specs: &[FlagSpec]) -> Result<Given, Diagnostic> {
        let whole = cx.line.span(raw.range.clone());
        if let Some(at) = raw.unclosed {
            let place = cx.line.span(at..raw.range.end);
            let message =
                "the quote in a flag is not closed, so the rest of the instruction belongs to the flag";
            return Err(Diagnostic::error(message, place).hint("close it, or escape it"));
        }
        let text = &raw.text.text;
        let (name, value) = match text.find('=') {
            Some(at) => (raw.text.part(0..at), Some(raw.text.part(at + 1..text.len()))),
            None => (raw.text.clone(), None),
        };
        let named = name.text.strip_prefix("--").unwrap_or("");
        let Some(spec) = specs.iter().find(|spec| spec.name == named) else {
            return Err(unknown(cx, &name, specs));
        };
        let first = self.given.iter().find(|given| given.name == spec.name);
        if let Some(first) = first.filter(|_| spec.kind != FlagKind::List) {
            let finding = Diagnostic::error(format!("the flag `--{}` is given twice", spec.name), whole);
            return Err(finding.context(first.span, "first here"));
        }
        let value = match (spec.kind, value) {
            (FlagKind::Switch, None) => Value::Switch(true),
            (FlagKind::Switch, Some(value)) => Value::Switch(switch(cx, spec.name, &value, whole)?),
            (FlagKind::Value | FlagKind::List, Some(value)) => Value::Text(value),
            (FlagKind::Value | FlagKind::List, None) => return Err(missing(cx, spec.name, raw)),
        };
        Ok(Given { name: spec.name, span: whole, value })
    }

    fn texts(&self, name: &str) -> impl Iterator<Item = &Mapped> {
        self.given.iter().filter(move |given| given.name == name).filter_map(|given| match &given.value {
            Value::Text(text) => Some(text),
            Value::Switch(_) => None,
        })
    }

    /// The values of a list.
    pub(super) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Mapped> {
        self.texts(name)
    }

    /// The value of a flag; an empty one is the same as none.
    pub(super) fn text(&self, name: &str) -> Option<&Mapped> {
        self.texts(name).next().filter(|value| !value.text.is_empty())
    }

    /// The value of a flag, also an empty one.
    pub(super) fn given(&self, name: &str) -> Option<&Mapped> {
        self.texts(name).next()
    }

    /// The value of a flag that the planner expands.
    pub(super) fn word(&self, cx: &Lowering<'_>, name: &str) -> Option<Word> {
        self.text(name).map(|value| value.word(cx.line, cx.escape))
    }

    /// Whether a switch is on; none if it is not given.
    pub(super) fn switch(&self, name: &str) -> Option<Spanned<bool>> {
        self.given.iter().find(|given| given.name == name).and_then(|given| match given.value {
            Value::Switch(on) => Some(Spanned::new(on, given.span)),
            Value::Text(_) => None,
        })
    }
}

fn switch(cx: &Lowering<'_>, name: &str, value: &Mapped, whole: Span) -> Result<bool, Diagnostic> {
    let lower = value.text.to_lowercase();
    match lower.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        "" => {
            let finding = Diagnostic::error(format!("the flag `--{name}` has an empty value"), whole);
            Err(finding.hint(format!("write `--{name}` or `--{name}=false`")))
        }
        _ => {
            let message = format!("the flag `--{name}` cannot be {}", quote(&value.text));
            let finding = Diagnostic::error(message, value.span(cx.line));
            Err(finding.hint("it is `true` or `false`; variables are not expanded in it"))
        }
    }
}

fn missing(cx: &Lowering<'_>, name: &str, raw: &RawFlag) -> Diagnostic {
    let finding =
        Diagnostic::error(format!("the flag `--{name}` has no value"), cx.line.span(raw.range.clone()));
    // What stands behind it is often meant to be its value: `--chown 1000:1000 a b`.
    let next = cx.line.slice(raw.range.end..cx.line.text.len()).split_whitespace().next();
    finding.hint(match next {
        Some(next) if !next.starts_with("--") => {
            format!("the value stands behind `=`: {}", quote(&format!("--{name}={next}")))
        }
        _ => format!("write `--{name}=…`"),
    })
}

fn unknown(cx: &Lowering<'_>, name: &Mapped, specs: &[FlagSpec]) -> Diagnostic {
    let message = format!("{} has no flag {}", cx.keyword, quote(&name.text));
    let finding = Diagnostic::error(message, name.span(cx.line));
    let named = name.text.strip_prefix("--").unwrap_or("");
    if let Some(meant) = nearest(named, specs.iter().map(|spec| spec.name)) {
        return finding.hint(format!("did you mean `--{meant}`?"));
    }
    let hint = match cx.keyword {
        Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Shell => Some(format!(
            "flags of the command stand in the JSON form ({} [\"--flag\"]) or behind `--`",
            cx.keyword
        )),
        _ if specs.is_empty() => Some(format!("{} has no flags at all", cx.keyword)),
        _ => {
            let names: Vec<String> = specs.iter().map(|spec| format!("`--{}`", spec.name)).collect();
            Some(format!("it has {}", names.join(", ")))
        }
    };
    finding.maybe_hint(hint)
}
