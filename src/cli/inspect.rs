//! `cofferdam inspect`

use clap::Args;

use super::arguments::{Format, FormatArgs, RegistryArgs};
use super::copy::PLACES;
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::build::transport::{self, Described, DescribedImage, Look};
use crate::image::ImageConfig;
use crate::report::{bytes, short};
use crate::settings::{Given, Origin, parse_place, parse_platform};

const AFTER_HELP: &str = "\
No layer is downloaded. SIZE is that of the blobs as they are stored, compressed.

Examples:
  cofferdam inspect registry.example.com/group/app:v1
  cofferdam inspect --format json oci-layout://out:v1
  cofferdam inspect --raw registry.example.com/group/app:v1 | sha256sum
  cofferdam inspect --image-config --platform linux/arm64 registry.example.com/group/app:v1";

/// Flags of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = format!("{PLACES}\n\n{AFTER_HELP}"))]
pub struct InspectArgs {
    /// The place the image is in
    #[arg(value_name = "PLACE")]
    place: String,
    /// Look at the image of this platform alone
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Write the manifest or index, byte for byte
    #[arg(long, conflicts_with_all = ["image_config", "format"])]
    raw: bool,
    /// Write the configuration, byte for byte
    #[arg(long, conflicts_with = "format")]
    image_config: bool,
    #[command(flatten)]
    form: FormatArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Looks.
pub(super) async fn run(arguments: InspectArgs, session: &Session) -> Result<(), CliError> {
    let InspectArgs { place, platform, raw, image_config, form, registry } = arguments;
    let place = parse_place(&Given::new(place, Origin::Flag("PLACE")))?;
    let platform = platform.map(|text| parse_platform(&Given::new(text, Origin::Flag("--platform"))));
    let platform = platform.transpose()?;
    let look = match (raw, image_config) {
        (true, _) => Look::Raw,
        (false, true) => Look::Config,
        (false, false) => Look::Whole,
    };
    let services = session.services(&registry.lower())?;
    let looked = async { Ok(transport::look(&place, platform.as_ref(), look, &services).await?) };
    let described = session.or_cancelled(looked).await?;
    match (look, form.format) {
        (Look::Raw | Look::Config, _) => stdout::write_bytes(&described.bytes),
        (Look::Whole, Format::Json) => stdout::write_json(&described),
        (Look::Whole, Format::Text) => stdout::write(&in_words(&described)),
    }
}

fn in_words(described: &Described) -> String {
    let Described { name, digest, media_type, size, annotations, images, .. } = described;
    let mut text =
        format!("name    {name}\ndigest  {digest}\ntype    {media_type}\nsize    {}\n", bytes(*size));
    for (name, value) in annotations {
        text.push_str(&format!("annotation  {name}={value}\n"));
    }
    for image in images {
        text.push('\n');
        text.push_str(&image_in_words(image, image.digest == *digest));
    }
    text
}

/// An image; what stands above it already is left out if it is all there is.
fn image_in_words(image: &DescribedImage, is_alone: bool) -> String {
    let mut text = match (&image.platform, &image.attests) {
        (_, Some(about)) => format!("attestation of {about}\n"),
        (Some(platform), None) => format!("platform  {platform}\n"),
        (None, None) => String::new(),
    };
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<9} {value}\n"));
    if !is_alone {
        line("digest", &image.digest.to_string());
        line("type", &image.media_type);
        line("size", &bytes(image.size));
        for (name, value) in &image.annotations {
            line("annotation", &format!("{name}={value}"));
        }
    }
    if let Some(created) = &image.created {
        line("created", created);
    }
    line("config", &image.config_digest);
    let config = image.config.as_ref().and_then(|config| serde_json::from_str(config.get()).ok());
    let run = config.map(|config: ImageConfig| config.config).unwrap_or_default();
    let words = |words: &[String]| if words.is_empty() { String::new() } else { format!("{words:?}") };
    let settings = [
        ("user", run.user.clone()),
        ("workdir", run.working_dir.clone()),
        ("entrypoint", words(&run.entrypoint)),
        ("cmd", words(&run.cmd)),
    ];
    for (name, value) in settings.iter().filter(|(_, value)| !value.is_empty()) {
        line(name, value);
    }
    let mut rows = vec![["LAYER", "SIZE", "TYPE"].map(str::to_owned)];
    rows.extend(image.layers.iter().map(|layer| {
        let digest = layer.digest.parse().map_or_else(|_| layer.digest.clone(), |digest| short(&digest));
        let kind = if layer.foreign {
            format!("{} (elsewhere)", layer.media_type)
        } else {
            layer.media_type.clone()
        };
        [digest, bytes(layer.size), kind]
    }));
    text.push_str(&stdout::table(&rows, &[1]));
    text
}
