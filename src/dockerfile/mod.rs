//! The Dockerfile language: the expansion of words, and findings with their places.

mod diagnostic;
mod expand;
mod span;

pub use diagnostic::{Diagnostic, Diagnostics, Label, Severity, Source, quote};
pub use expand::{Escape, ExpandError, ExpandErrorKind, Expanded, ExpandedWords, Lookup, Syntax, Word, display};
pub use span::{LineIndex, Position, Span, Spanned};
