//! Lists of patterns that are not a file: those of `--exclude`, and the sources of `COPY --parents`.
//!
//! They are matched as the lines of an ignore file are, but taken as they stand: nothing in front of them is dropped,
//! so that `/a` means nothing in a walk.

use super::{Directory, IgnoreError, IgnoreFile, Pattern};

/// A list of patterns, of which the last one that is for a path decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patterns(IgnoreFile);

impl Patterns {
    /// Reads patterns. Blank ones are nothing.
    ///
    /// # Errors
    /// The first text that is not a pattern; its `line` is its number in the list, from 1.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let mut patterns = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            let text = text.trim();
            let fault = |reason| IgnoreError { line: index + 1, text: text.to_owned(), reason };
            if !text.is_empty() {
                patterns.push(Pattern::compile(text, text, index + 1).map_err(fault)?);
            }
        }
        Ok(Self(IgnoreFile { patterns }))
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a walk begins.
    pub fn root(&self) -> Directory {
        self.0.root()
    }

    /// Whether the list is for a path that is not a directory; `parent` is what [`Patterns::enter`] said of the
    /// directory it is in.
    pub fn matches(&self, parent: &Directory, path: &[u8]) -> bool {
        self.0.judge(parent, path, &mut |_, _| {}).is_some()
    }

    /// Whether the list is for a directory, and what to judge its entries by.
    pub fn enter(&self, parent: &Directory, path: &[u8]) -> (bool, Directory) {
        let mut directory = self.0.root();
        let decider = self.0.judge(parent, path, &mut |index, matched| {
            if let Some(place) = directory.matched.get_mut(index) {
                *place = matched;
            }
        });
        (decider.is_some(), directory)
    }

    /// Whether the list may be for something in a directory that it is not for itself.
    pub fn may_match_in(&self, path: &[u8]) -> bool {
        let start = [path, b"/"].concat();
        self.0.patterns.iter().any(|pattern| !pattern.exception && pattern.matcher.can_begin_with(&start))
    }

    /// Whether the list may not be for something in a directory that it is for.
    pub fn may_spare_in(&self, directory: &Directory, path: &[u8]) -> bool {
        self.0.something_returns(directory, path)
    }

    /// The pattern that is for this very path, whatever is said of the directories above it.
    pub fn decider(&self, path: &[u8]) -> Option<&Pattern> {
        let index = self.0.judge(&self.0.root(), path, &mut |_, _| {})?;
        self.0.patterns.get(index)
    }
}
