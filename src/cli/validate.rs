//! `cofferdam validate`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::arguments::{Format, FormatArgs, RegistryArgs};
use super::error::CliError;
use super::push::reference;
use super::session::Session;
use super::stdout;
use crate::build::validate::{self, Validation};
use crate::image::Reference;
use crate::report::bytes;

const AFTER_HELP: &str = "\
Reads everything that an image in a registry, or the images of an OCI layout, are made of, and
checks that it is what it says. Faults are listed on standard output; the exit status is 11 if
there are any.

Examples:
  cofferdam validate registry.example.com/group/app:v1
  cofferdam validate ./layout

What has an `oci-layout` file in it, begins with `.` or `/`, or has `oci-layout://` before it is a
directory; everything else is an image's name.";

/// Flags of `validate`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ValidateArgs {
    /// The name of an image in a registry, or the directory of an OCI layout
    #[arg(value_name = "REF|LAYOUT")]
    subject: String,
    #[command(flatten)]
    form: FormatArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// What is to be checked.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Image(Reference),
    Layout(PathBuf),
}

impl Subject {
    fn read(text: &str) -> Result<Self, CliError> {
        if let Some(directory) = text.strip_prefix("oci-layout://") {
            return Ok(Self::Layout(directory.into()));
        }
        if text.starts_with(['.', '/']) || Path::new(text).join("oci-layout").is_file() {
            return Ok(Self::Layout(text.into()));
        }
        Ok(Self::Image(reference(text)?))
    }
}

/// Checks.
pub(super) async fn run(arguments: ValidateArgs, session: &Session) -> Result<(), CliError> {
    let found = match Subject::read(&arguments.subject)? {
        Subject::Layout(directory) => {
            session.or_cancelled(async { Ok(validate::layout(&directory).await?) }).await?
        }
        Subject::Image(name) => {
            let services = session.services(&arguments.registry.lower())?;
            session.or_cancelled(async { Ok(validate::reference(&name, &services).await?) }).await?
        }
    };
    match arguments.form.format {
        Format::Text => stdout::write(&in_words(&found))?,
        Format::Json => stdout::write_json(&Checked::from(&found))?,
    }
    match found.is_valid() {
        true => Ok(()),
        false => Err(CliError::Faults { what: arguments.subject, count: found.faults.len() }),
    }
}

/// The result for programs.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    valid: bool,
    images: &'a [String],
    blobs: usize,
    bytes: u64,
    faults: &'a [String],
}

impl<'a> From<&'a Validation> for Checked<'a> {
    fn from(found: &'a Validation) -> Self {
        let Validation { images, blobs, bytes, faults } = found;
        Self { valid: found.is_valid(), images, blobs: *blobs, bytes: *bytes, faults }
    }
}

fn in_words(found: &Validation) -> String {
    let mut text = String::new();
    for image in &found.images {
        text.push_str(&format!("image {image}\n"));
    }
    for fault in &found.faults {
        text.push_str(&format!("fault: {fault}\n"));
    }
    let verdict = if found.is_valid() { "valid" } else { "not valid" };
    text.push_str(&format!("{verdict}: {} blobs, {}\n", found.blobs, bytes(found.bytes)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_names_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let layout = directory.path().to_str().unwrap();
        assert_eq!(Subject::read(layout).unwrap(), Subject::Layout(layout.into()));
        assert_eq!(Subject::read("./x").unwrap(), Subject::Layout("./x".into()));
        assert_eq!(Subject::read("oci-layout://x").unwrap(), Subject::Layout("x".into()));
        assert_eq!(Subject::read("app").unwrap(), Subject::Image("app:latest".parse().unwrap()));
        assert!(Subject::read("App").is_err());
    }

    #[test]
    fn faults_are_listed() {
        let found = Validation {
            images: vec!["app:1".into()],
            blobs: 3,
            bytes: 2000,
            faults: vec!["blob sha256:12 is missing".into()],
        };
        assert_eq!(
            in_words(&found),
            "image app:1\nfault: blob sha256:12 is missing\nnot valid: 3 blobs, 2.0 kB\n"
        );
        let json = serde_json::to_value(Checked::from(&found)).unwrap();
        assert_eq!(json["valid"], false);
    }
}
