//! What is wrong with a setting, where it stands, and what was probably meant.

use std::path::PathBuf;

use thiserror::Error;

use super::origin::Origin;
use super::state::Tried;
use crate::report::Findings;

/// A setting that cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A value is wrong.
    #[error("{origin}: {problem}")]
    Value {
        /// Where it came from.
        origin: Origin,
        /// What is wrong with it; it names the value.
        problem: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Settings contradict each other, or one needs another.
    #[error("{problem}")]
    Conflict {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Something in the configuration file is wrong.
    #[error(transparent)]
    Config(Box<Findings>),
    /// A file that a setting names cannot be read.
    #[error("cannot read `{}` ({origin})", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Who named it.
        origin: Origin,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The state directory that was asked for cannot be used.
    #[error("the state directory `{}` ({origin}) cannot be used", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Who asked for it.
        origin: Origin,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is no place for a state directory.
    #[error("there is no place for the state directory: {}", tried_in_words(.0))]
    NoState(Vec<Tried>),
}

fn tried_in_words(tried: &[Tried]) -> String {
    let words: Vec<String> =
        tried.iter().map(|tried| format!("`{}`: {}", tried.path.display(), tried.why)).collect();
    words.join("; ")
}

impl SettingsError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Value { hint, .. } | Self::Conflict { hint, .. } => hint.clone(),
            Self::State { .. } => Some("name a directory that may be written to with `--state-dir`".to_owned()),
            Self::NoState(_) => Some(
                "mount a volume (an `emptyDir` will do) and name it with `--state-dir` or `COFFERDAM_STATE_DIR`"
                    .to_owned(),
            ),
            Self::Config(_) | Self::File { .. } => None,
        }
    }

    /// Whether it is the disk that is wrong, and not what the user has asked for.
    pub fn is_about_the_disk(&self) -> bool {
        matches!(self, Self::State { .. } | Self::NoState(_))
    }
}

/// What is wrong with a text, before it is known where the text came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// A sentence that names the part of the text that is wrong.
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    /// `value` and what is wrong with it, as the end of a sentence that begins with the value.
    pub fn new(value: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        Self::saying(format!("`{}` {}", value.as_ref(), problem.as_ref()))
    }

    /// A whole sentence.
    pub fn saying(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `did you mean …?`, if one of `known` is near to `word`.
    pub fn meant<'a>(mut self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        if let Some(meant) = crate::dockerfile::nearest(word, known) {
            self.hint = Some(format!("did you mean `{meant}`?"));
        }
        self
    }

    /// The error, now that it is known where the text came from.
    pub fn at(self, origin: &Origin) -> SettingsError {
        // What was typed may be an address with a password in it.
        let problem = crate::report::redact(&self.message).into_owned();
        SettingsError::Value { origin: origin.clone(), problem, hint: self.hint }
    }
}

#[cfg(test)]
impl Problem {
    /// Message and hint, for tables of tests.
    pub fn words(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{}{hint}", self.message)
    }
}
