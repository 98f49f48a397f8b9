//! What the verbs of manifests share: which ones, and what is put into them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueHint};

use super::error::CliError;
use super::session::Session;
use crate::deploy::images::{ImageOptions, ImagePath};
use crate::deploy::manifest;
use crate::deploy::object::Object;
use crate::deploy::render::{self, Names};
use crate::deploy::{handoff, images};

/// Under which heading these flags are shown.
const MANIFESTS: &str = "Manifests";

/// Flags of the commands that read manifests.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// A manifest: a file, a directory, a pattern, or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = MANIFESTS)]
    files: Vec<String>,
    /// Look into directories below directories too
    #[arg(short = 'R', long, help_heading = MANIFESTS)]
    recursive: bool,
    /// Replace $NAME and ${NAME} first, as `cofferdam render` does
    #[arg(long, help_heading = MANIFESTS)]
    render: bool,
    #[command(flatten)]
    variables: VariableArgs,
    /// Put in the images of this file, which `cofferdam build --image-json` has written; may be given several times
    #[arg(long = "images", value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = MANIFESTS)]
    image_files: Vec<PathBuf>,
    /// Put this image in where its repository or NAME is named, or cofferdam://NAME
    #[arg(long = "image", value_name = "[NAME=]REPOSITORY:TAG@DIGEST", help_heading = MANIFESTS)]
    images: Vec<String>,
    /// A field of a custom resource that names an image, or two: repository and tag
    #[arg(long = "image-path", value_name = "KIND.GROUP=FIELD[,FIELD]", help_heading = MANIFESTS)]
    image_paths: Vec<String>,
    /// Name images by digest alone, without their tags
    #[arg(long, help_heading = MANIFESTS)]
    image_without_tag: bool,
    /// Allow images that no manifest uses
    #[arg(long, help_heading = MANIFESTS)]
    allow_unused_images: bool,
}

/// Which variables are replaced, and how.
#[derive(Debug, Default, Args)]
pub struct VariableArgs {
    /// Replace these variables alone: a list A,B, or a text that names them '$A ${B}'
    #[arg(long, value_name = "NAMES", help_heading = MANIFESTS)]
    variables: Option<String>,
    /// Refuse variables that are not set
    #[arg(long, help_heading = MANIFESTS)]
    strict: bool,
}

impl VariableArgs {
    /// As they are taken.
    ///
    /// # Errors
    /// If a list has what is no name.
    pub(super) fn options(&self) -> Result<render::Options, CliError> {
        let Self { variables, strict } = self;
        let names = match variables {
            None => Names::All,
            Some(text) => Names::Only(Names::parse(text).map_err(|word| {
                let hint = "give names with commas between: letters, digits and `_`, no digit first";
                CliError::usage(format!("--variables: `{word}` is no name of a variable"), hint)
            })?),
        };
        Ok(render::Options { names, strict: *strict })
    }

    fn is_given(&self) -> bool {
        self.strict || self.variables.is_some()
    }
}

/// The variables of the environment. One that is empty is set, other than for settings.
pub(super) fn lookup(session: &Session) -> impl Fn(&str) -> Option<String> + use<> {
    let environment = &session.settings.surroundings().environment;
    let text = |text: &std::ffi::OsStr| text.to_str().map(str::to_owned);
    let variables = environment.variables().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    let variables: BTreeMap<String, String> = variables.collect();
    move |name| variables.get(name).cloned()
}

impl ManifestArgs {
    /// The objects, with variables replaced and images put in.
    ///
    /// # Errors
    /// If a manifest cannot be read or is wrong, or an image has no digest or no place.
    pub fn read(&self, session: &Session) -> Result<Vec<Object>, CliError> {
        if !self.are_given() {
            return Err(CliError::usage(
                "which manifests?",
                "name them with `--filename`; `-` is standard input",
            ));
        }
        if self.variables.is_given() && !self.render {
            let hint = "give `--render` too, which replaces variables";
            return Err(CliError::usage(
                "`--variables` and `--strict` are about variables that stay as they are",
                hint,
            ));
        }
        let wanted = handoff::images(&self.image_files, &self.images)?;
        let options = self.image_options()?;
        let variables = self.variables.options()?;
        let lookup = lookup(session);
        let transform = |file: &Arc<str>, text: &str| {
            let rendered = render::render(text, &lookup, &variables);
            rendered.map_err(|unset| unset.iter().map(|unset| unset.fault(file)).collect())
        };
        let transform: Option<&manifest::Transform<'_>> = if self.render { Some(&transform) } else { None };
        let reading = manifest::Options { recursive: self.recursive, transform };
        let mut objects = manifest::read(&self.files, std::io::stdin(), &reading)?;
        let replacements = images::substitute(&mut objects, &wanted, &options)?;
        for note in replacements.notes {
            session.report.note(note);
        }
        for replaced in replacements.replaced {
            let images::Replaced { object, path, to, .. } = replaced;
            session.report.note(format!("{object}: {path} is {to}"));
        }
        Ok(objects)
    }

    /// Whether there are any.
    pub fn are_given(&self) -> bool {
        !self.files.is_empty()
    }

    fn image_options(&self) -> Result<ImageOptions, CliError> {
        let path = |text: &String| {
            let path: Result<ImagePath, String> = text.parse();
            path.map_err(|what| {
                CliError::usage(format!("--image-path: {what}"), "see `cofferdam deploy --help`")
            })
        };
        Ok(ImageOptions {
            paths: self.image_paths.iter().map(path).collect::<Result<_, _>>()?,
            without_tag: self.image_without_tag,
            allow_unused: self.allow_unused_images,
        })
    }
}
