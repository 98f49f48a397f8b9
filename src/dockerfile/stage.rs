//! Stages: what begins with FROM, and the whole file.

use super::diagnostic::Diagnostics;
use super::directives::Directives;
use super::expand::Word;
use super::instruction::Instruction;
use super::span::{Span, Spanned};

/// A Dockerfile, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What its directives say.
    pub directives: Directives,
    /// The ARG instructions before the first FROM: the global arguments, which FROM sees, and a stage only if it
    /// declares them again.
    pub global_args: Vec<Instruction>,
    /// The stages, in order; at least one.
    pub stages: Vec<Stage>,
    /// What the author should know, in the order of the places.
    pub warnings: Diagnostics,
}

/// A stage: FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its number, by which `COPY --from=0` calls it.
    pub index: usize,
    /// How it begins.
    pub from: FromInstruction,
    /// Its instructions, in order.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// The name, in lower case.
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_ref().map(|name| name.name.as_str())
    }
}

/// FROM
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromInstruction {
    /// Where the keyword is.
    pub keyword: Span,
    /// The keyword as it was written (`from`).
    pub written: String,
    /// The base: a stage's name or an image, expanded with the global arguments.
    pub image: Word,
    /// `--platform`, expanded with the global arguments.
    pub platform: Option<Word>,
    /// `AS name`
    pub name: Option<StageName>,
    /// The instruction on one line, as [`Instruction::original`].
    pub original: String,
    /// Everything that belongs to it.
    pub span: Span,
    /// The comments right before it, as [`Instruction::comments`].
    pub comments: Vec<Spanned<String>>,
}

/// `AS name`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageName {
    /// The name in lower case, in which names are compared.
    pub name: String,
    /// The name as it was written.
    pub written: String,
    /// Where the name is.
    pub span: Span,
    /// `AS`, as it was written.
    pub keyword: Spanned<String>,
}

/// The description of `name` in the comments before its declaration: the rest of the first one that begins with the
/// name (`# version the release to build`).
pub fn description<'a>(comments: &'a [Spanned<String>], name: &str) -> Option<&'a str> {
    if name.is_empty() {
        return None;
    }
    comments.iter().find_map(|comment| comment.value.strip_prefix(name)?.strip_prefix(' '))
}
