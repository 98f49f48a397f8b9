//! `cofferdam render`

use clap::{Args, ValueHint};

use super::error::CliError;
use super::manifests::{self, VariableArgs};
use super::session::Session;
use super::stdout;
use crate::deploy::manifest;
use crate::deploy::{DeployError, render};

const AFTER_HELP: &str = "\
The rules are those of GNU `envsubst`: $NAME and ${NAME} are replaced, what is not set becomes nothing,
everything else with a $ stays (${NAME:-else}, $1). What must keep a $NAME, such as the configuration of
nginx, needs a list of those that are replaced. Several files come out as documents, with `---` between.

Examples:
  cofferdam render -f app.yaml --strict
  cofferdam render '$IMAGE_TAG ${HOST}' < app.yaml | kubectl diff -f -
  cofferdam render -f k8s/ --variables IMAGE_TAG,HOST";

/// Flags of `render`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RenderArgs {
    /// Replace only the variables that this text names, as `envsubst` takes it: '$A ${B}'
    #[arg(value_name = "SHELL-FORMAT", conflicts_with = "variables")]
    format: Option<String>,
    /// A text: a file, a directory, a pattern, or - for standard input; may be given several times [default: -]
    #[arg(short, long = "filename", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    files: Vec<String>,
    /// Look into directories below directories too
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    variables: VariableArgs,
}

/// Renders.
pub(super) fn run(arguments: RenderArgs, session: &Session) -> Result<(), CliError> {
    let RenderArgs { format, mut files, recursive, variables } = arguments;
    if files.is_empty() {
        files.push("-".to_owned());
    }
    let mut options = variables.options()?;
    if let Some(format) = format {
        // A text without any `$` names none: then nothing is replaced, as with `envsubst`.
        let named = if format.contains('$') { render::Names::parse(&format) } else { Ok(Default::default()) };
        options.names = render::Names::Only(named.unwrap_or_default());
    }
    let lookup = manifests::lookup(session);
    let mut out = String::new();
    let mut faults = Vec::new();
    for (file, text) in manifest::texts(&files, std::io::stdin(), recursive)? {
        if !out.is_empty() {
            if !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str("---\n");
        }
        match render::render(&text, &lookup, &options) {
            Ok(text) => out.push_str(&text),
            Err(unset) => faults.extend(unset.iter().map(|unset| unset.fault(&file))),
        }
    }
    if faults.is_empty() { stdout::write(&out) } else { Err(DeployError::Manifests(faults).into()) }
}
