//! `cofferdam push`

use clap::Args;

use super::arguments::RegistryArgs;
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::image::Reference;

const AFTER_HELP: &str = "\
Images are pushed under the names that they have in the local store. Standard output has, for each,
the digest of its manifest.

Examples:
  cofferdam push registry.example.com/group/app:v1
  cofferdam push registry.example.com/group/app:v1 registry.example.com/group/app:latest";

/// Flags of `push`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PushArgs {
    /// Names of images, as `cofferdam images` shows them
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pushes.
pub(super) async fn run(arguments: PushArgs, session: &Session) -> Result<(), CliError> {
    // All are understood before the first is pushed.
    let names = arguments.names.iter().map(|name| reference(name)).collect::<Result<Vec<_>, _>>()?;
    let services = session.services(&arguments.registry.lower())?;
    for name in names {
        let pushed = async { Ok(crate::build::push_named(&name, &services).await?) };
        let digest = session.or_cancelled(pushed).await?;
        stdout::write(&format!("{digest}\n"))?;
    }
    Ok(())
}

/// Reads the name of an image.
///
/// # Errors
/// If it is none.
pub(super) fn reference(text: &str) -> Result<Reference, CliError> {
    let name: Reference = text.parse().map_err(|error: crate::image::ReferenceError| {
        CliError::usage(error.to_string(), "an image's name is [HOST/]REPOSITORY[:TAG]")
    })?;
    Ok(name.or_latest())
}
