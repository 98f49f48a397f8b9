//! `cofferdam copy`

use clap::Args;

use super::arguments::RegistryArgs;
use super::error::CliError;
use super::session::Session;
use super::stdout;
use crate::build::transport::{self, CopyRequest};
use crate::settings::{Given, Origin, parse_place, parse_platform};

/// What is said of places, by every command that takes one.
pub(super) const PLACES: &str = "\
Places:
  NAME                               a registry: [HOST/]REPOSITORY[:TAG][@DIGEST]
  oci-layout://DIR[:NAME][@DIGEST]   an OCI image layout
  docker-archive://FILE[:NAME]       what `docker save` writes and `docker load` reads
  store://NAME                       the local store";

const AFTER_HELP: &str = "\
Manifests and layers keep their bytes, and so their digests; an index is copied with everything in
it. Within a registry no layer is downloaded or sent: repositories mount each other's. Nothing is
named before everything is there. Standard output has, for each DST, REPOSITORY@DIGEST if it is on a
registry and else the digest.

Examples:
  cofferdam copy registry.example.com/group/app:v1 registry.example.com/group/app:stable
  cofferdam copy registry.example.com/test/app:v1 registry.example.com/prod/app:v1
  cofferdam copy --platform linux/amd64 busybox:1 docker-archive://busybox.tar:busybox:1
  cofferdam copy oci-layout://out:v1 registry.example.com/group/app:v1 other.example.com/app:v1";

/// Flags of `copy`.
#[derive(Debug, Args)]
#[command(after_help = format!("{PLACES}\n\n{AFTER_HELP}"))]
pub struct CopyArgs {
    /// The place the image is in
    #[arg(value_name = "SRC")]
    source: String,
    /// The places it is to be in
    #[arg(value_name = "DST", required = true)]
    targets: Vec<String>,
    /// Copy the image of this platform alone, not the whole index
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Copies.
pub(super) async fn run(arguments: CopyArgs, session: &Session) -> Result<(), CliError> {
    let CopyArgs { source, targets, platform, registry } = arguments;
    let platform = platform.map(|text| parse_platform(&Given::new(text, Origin::Flag("--platform"))));
    let place = |text, origin| parse_place(&Given::new(text, Origin::Flag(origin)));
    let request = CopyRequest {
        source: place(source, "SRC")?,
        targets: targets.into_iter().map(|text| place(text, "DST")).collect::<Result<_, _>>()?,
        platform: platform.transpose()?,
        umask: session.settings.surroundings().umask,
    };
    let services = session.services(&registry.lower())?;
    let copied = async { Ok(transport::copy(&request, &services).await?) };
    let copied = session.or_cancelled(copied).await?;
    stdout::write(&copied.names.iter().map(|name| format!("{name}\n")).collect::<String>())
}
