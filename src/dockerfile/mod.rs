//! The Dockerfile language: text → logical lines → typed instructions, and the expansion of their words.
//!
//! The judge of every doubt is BuildKit 0.33.0. What it accepts is accepted here and means the same; where it goes
//! on with something else than the author can have meant, this room says so (an error if the outcome is wrong, a
//! warning if something merely has no effect).
//!
//! Owns: the grammar, [`parse`]; the AST, [`Dockerfile`]; variables, quotes and escapes, [`Word`]; findings with
//! places, [`Diagnostic`], and how they are drawn; the rules of checks, [`Rule`], and those that the text alone
//! tells of, [`Checks`].
//!
//! Invariants:
//! - Nothing here does I/O, and everything is a function of the text.
//! - No input makes it panic, run for long, or use stack in proportion to its length.
//! - Every part of the AST has a [`Span`] on character boundaries of the source.
//! - Nothing is expanded here: scopes and values are the planner's.
//!
//! Differences from BuildKit 0.33.0, each of them a build that would go wrong there:
//! - A quote that is not closed within a flag is an error; BuildKit takes the rest of the line into the flag.
//! - A heredoc in the JSON form of COPY or ADD, or on a line with an open quote, is an error; BuildKit makes an empty
//!   file of it.
//! - The instruction behind ONBUILD is checked when it is written, not only when the image is used.
//! - Letters outside ASCII in flags stay what they are; BuildKit garbles them.
//! - Text before `${name:-word}` in a word of EXPOSE is kept; BuildKit loses it.
//! - Lines may be longer than 64 KiB.
//! - `source` of a tmpfs mount and an empty `env` of a secret are errors; with BuildKit the step fails, or gets a
//!   variable without a name.
//!
//! ```
//! use cofferdam::dockerfile::{InstructionKind, Source, parse};
//!
//! let text = "FROM debian AS build\nENV DIR=/srv\nWORKDIR ${DIR}/app\n";
//! let file = parse(text).map_err(|findings| findings.render(Source { name: "Dockerfile", text }, false))?;
//! let stage = &file.stages[0];
//! assert_eq!(stage.name(), Some("build"));
//! if let InstructionKind::Workdir(path) = &stage.instructions[1].kind {
//!     let value = path.expand(&|name| (name == "DIR").then(|| "/srv".to_owned()));
//!     assert_eq!(value.unwrap().text, "/srv/app");
//! }
//! # Ok::<(), String>(())
//! ```

mod checks;
mod decode;
mod diagnostic;
mod directives;
mod expand;
mod head;
mod heredoc;
mod instruction;
mod json;
mod keyword;
mod line;
mod lower;
mod mount;
mod parser;
mod rule;
mod scan;
mod span;
mod stage;
mod suggest;
mod values;

pub use checks::Checks;
pub use decode::decode;
pub use diagnostic::{Diagnostic, Diagnostics, Label, Severity, Source, quote};
pub use directives::{CheckOptions, Directives, Rules, detect_syntax};
pub use expand::{
    Escape, ExpandError, ExpandErrorKind, Expanded, ExpandedWords, Lookup, Syntax, Word, display,
};
pub use heredoc::Heredoc;
pub use instruction::{
    AddInstruction, Arg, CommandLine, CopyInstruction, Device, Healthcheck, InlineFile, Instruction,
    InstructionKind, Network, OnbuildInstruction, Pair, RunInstruction, Script, Security, Transfer,
};
pub use keyword::Keyword;
pub use mount::{FileAttributes, Mount, MountField, MountFlag, Resolved, Sharing};
pub use parser::{Broken, parse, parse_for_checks, parse_trigger};
pub use rule::Rule;
pub use span::{LineIndex, Position, Span, Spanned};
pub use stage::{Dockerfile, FromInstruction, Stage, StageName, description};
pub use suggest::nearest;

#[cfg(test)]
mod tests;
