//! What the verbs of manifests share: which ones, and what is put into them.

use clap::{Args, ValueHint};

use super::error::CliError;
use super::session::Session;
use crate::deploy::manifest;
use crate::deploy::object::Object;

/// Under which heading these flags are shown.
const MANIFESTS: &str = "Manifests";

/// Flags of the commands that read manifests.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// A manifest: a file, a directory, a pattern, or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "PATH", required = true, value_hint = ValueHint::AnyPath, help_heading = MANIFESTS)]
    files: Vec<String>,
    /// Look into directories below directories too
    #[arg(short = 'R', long, help_heading = MANIFESTS)]
    recursive: bool,
}

impl ManifestArgs {
    /// The objects.
    ///
    /// # Errors
    /// If a manifest cannot be read or is wrong.
    pub fn read(&self, _session: &Session) -> Result<Vec<Object>, CliError> {
        let options = manifest::Options { recursive: self.recursive, transform: None };
        Ok(manifest::read(&self.files, std::io::stdin(), &options)?)
    }
}
