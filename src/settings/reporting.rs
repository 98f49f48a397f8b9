//! How progress is shown.

use super::error::{Problem, SettingsError};
use super::file::ConfigFile;
use super::flags::GlobalFlags;
use super::origin::{Given, Origin};
use super::surroundings::Surroundings;
use super::values::{first, first_switch};
use super::variables;
use crate::report::Style;

/// The form that progress is shown in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Drawn on a terminal.
    Tty,
    /// Lines.
    Plain,
    /// JSON, an object a line.
    Json,
    /// Failures alone.
    Quiet,
}

/// How progress is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportSettings {
    /// In which form.
    pub form: Form,
    /// Who chose it.
    pub origin: Origin,
    /// How it may look.
    pub style: Style,
    /// Whether details are told.
    pub details: bool,
    /// What is to be said about the choice itself.
    pub warning: Option<String>,
}

/// What `--progress` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Auto,
    Form(Form),
}

const MODES: [(&str, Mode); 5] = [
    ("auto", Mode::Auto),
    ("tty", Mode::Form(Form::Tty)),
    ("plain", Mode::Form(Form::Plain)),
    ("json", Mode::Form(Form::Json)),
    ("quiet", Mode::Form(Form::Quiet)),
];

pub(super) fn resolve(
    flags: &GlobalFlags,
    surroundings: &Surroundings,
    file: &ConfigFile,
) -> Result<ReportSettings, SettingsError> {
    let environment = &surroundings.environment;
    let variable = |name: &'static str| {
        environment.get(name).map(|value| Given::new(value.to_owned(), Origin::Variable(name)))
    };
    let flag = flags.progress.clone().map(|value| Given::new(value, Origin::Flag("--progress")));
    let asked = if flags.quiet && flag.is_none() {
        Given::new(Mode::Form(Form::Quiet), Origin::Flag("--quiet"))
    } else {
        let buildkit = variable(variables::BUILDKIT_PROGRESS).filter(|given| mode(&given.value).is_ok());
        first([flag, variable(variables::PROGRESS), file.progress.clone(), buildkit], mode)?
            .unwrap_or(Given::default(Mode::Auto))
    };
    let dumb = environment.get(variables::TERM) == Some("dumb");
    let (form, warning) = match asked.value {
        Mode::Form(Form::Tty) if !surroundings.stderr_is_terminal => (
            Form::Plain,
            Some(format!("standard error is no terminal: progress is plain, not `tty` ({})", asked.origin)),
        ),
        Mode::Form(form) => (form, None),
        Mode::Auto if surroundings.stderr_is_terminal && !dumb && !is_ci(surroundings) => (Form::Tty, None),
        Mode::Auto => (Form::Plain, None),
    };
    let details =
        first_switch((flags.verbose, "--verbose"), variable(variables::VERBOSE), file.verbose.clone())?;
    let color = surroundings.stderr_is_terminal && !dumb && environment.get(variables::NO_COLOR).is_none();
    let style = Style { color, unicode: speaks_unicode(surroundings) };
    Ok(ReportSettings { form, origin: asked.origin, style, details: details.value, warning })
}

fn mode(text: &str) -> Result<Mode, Problem> {
    match MODES.iter().find(|(name, _)| *name == text) {
        Some((_, mode)) => Ok(*mode),
        None => {
            Err(Problem::new(text, "is no form of progress: give `auto`, `tty`, `plain`, `json` or `quiet`")
                .meant(text, MODES.map(|(name, _)| name)))
        }
    }
}

fn is_ci(surroundings: &Surroundings) -> bool {
    [variables::CI, variables::GITLAB_CI, variables::GITHUB_ACTIONS]
        .iter()
        .any(|name| surroundings.environment.get(name).is_some_and(|value| value != "false" && value != "0"))
}

fn speaks_unicode(surroundings: &Surroundings) -> bool {
    let locale = variables::LOCALE.iter().find_map(|name| surroundings.environment.get(name));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.ends_with("utf-8") || locale.ends_with("utf8")
    })
}
