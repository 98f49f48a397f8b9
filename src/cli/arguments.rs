//! The command line: what may be typed, and what is said of it by `--help`. Values are taken as they are typed;
//! `settings` makes sense of them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::build::BuildArgs;
use super::cache::CacheArgs;
use super::completions::CompletionsArgs;
use super::copy::CopyArgs;
use super::deploy::DeployArgs;
use super::diff::DiffArgs;
use super::doctor::DoctorArgs;
use super::images::ImagesArgs;
use super::inspect::InspectArgs;
use super::login::{LoginArgs, LogoutArgs};
use super::prune::PruneArgs;
use super::pull_secret::PullSecretArgs;
use super::push::PushArgs;
use super::rbac::RbacArgs;
use super::reconcile::ReconcileArgs;
use super::render::RenderArgs;
use super::rollout::RolloutArgs;
use super::undeploy::UndeployArgs;
use super::validate::ValidateArgs;
use crate::settings::{GlobalFlags, RegistryFlags};

/// Under which heading flags of every command are shown.
const EVERY: &str = "Every command";
/// Under which heading flags of registries are shown.
const REGISTRIES: &str = "Registries";

const AFTER_HELP: &str = "\
Examples:
  cofferdam build -t registry.example.com/group/app:v1 --push .
  cofferdam build -f images/api.Dockerfile --target test --build-arg VERSION=1.2 .
  cofferdam deploy -f k8s/ --images image.json
  echo \"$TOKEN\" | cofferdam login registry.example.com -u robot --password-stdin
  cofferdam doctor registry.example.com

Standard output has the result alone, for example the digest of what was built; progress and
messages are on standard error. Flags may also be set by variables (COFFERDAM_…) and in a
configuration file.";

/// Builds container images from Dockerfiles, pushes them, and rolls them out. It needs no daemon and no privileges: it works
/// as any user, in pods of the restricted Pod Security Standard too.
#[derive(Debug, Parser)]
#[command(
    name = "cofferdam",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    propagate_version = false,
    infer_long_args = false
)]
pub struct Arguments {
    /// What is to be done
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Apply manifests to a cluster, and wait until what they describe is alive
    Deploy(Box<DeployArgs>),
    /// Show what a deployment would change
    Diff(Box<DiffArgs>),
    /// Ask about, undo or repeat a rollout
    Rollout(Box<RolloutArgs>),
    /// Have Flux or Argo CD look at its repository now, and wait until it has done what that says
    Reconcile(Box<ReconcileArgs>),
    /// Remove a deployment
    Undeploy(UndeployArgs),
    /// Replace variables in manifests and other texts, as `envsubst` does
    Render(RenderArgs),
    /// Let a cluster pull from a registry: make the Secret with the login, and send it
    PullSecret(Box<PullSecretArgs>),
    /// Find out which rights a deployment needs
    Rbac(Box<RbacArgs>),
    /// Push images of the local store
    Push(PushArgs),
    /// Copy images between registries, layouts, archives and the local store, as they are
    Copy(CopyArgs),
    /// Show what an image is made of
    Inspect(InspectArgs),
    /// Log in to a registry
    Login(LoginArgs),
    /// Forget the login to a registry
    Logout(LogoutArgs),
    /// List the images of the local store
    Images(ImagesArgs),
    /// Remove what no image needs from the state directory
    Prune(PruneArgs),
    /// Look at the results of steps that are kept, and say why they are or are not used
    Cache(CacheArgs),
    /// Find out what this machine allows, and which registries and credentials are used
    Doctor(DoctorArgs),
    /// Check every digest of an image
    Validate(ValidateArgs),
    /// Write a script that completes commands in a shell
    Completions(CompletionsArgs),
    /// Show the version
    Version,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// The configuration file [default: ~/.config/cofferdam/config.toml, else /etc/cofferdam/config.toml]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = EVERY)]
    config: Option<PathBuf>,
    /// Where images, layers and the cache are kept [default: ~/.local/share/cofferdam, or what `doctor` finds]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = EVERY)]
    state_dir: Option<PathBuf>,
    /// Look here first for the emulators of other machines' programs, such as qemu-aarch64-static
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = EVERY)]
    emulator_dir: Option<PathBuf>,
    /// How progress is shown: auto, tty, plain, json or quiet [default: auto]
    #[arg(long, global = true, value_name = "FORM", help_heading = EVERY)]
    progress: Option<String>,
    /// Show nothing but failures, the same as --progress=quiet
    #[arg(short, long, global = true, help_heading = EVERY)]
    quiet: bool,
    /// Tell details too, such as retries
    #[arg(short, long, global = true, help_heading = EVERY)]
    verbose: bool,
}

impl GlobalArgs {
    /// As `settings` takes them.
    pub fn lower(self) -> GlobalFlags {
        let Self { config, state_dir, emulator_dir, progress, quiet, verbose } = self;
        GlobalFlags { config, state_dir, emulator_dir, progress, quiet, verbose }
    }
}

/// Flags of the commands that speak to registries.
#[derive(Debug, Default, Args)]
pub struct RegistryArgs {
    /// Pull images of HOST (docker.io if none is named) from these mirrors first
    #[arg(long = "registry-mirror", visible_alias = "registry-map", value_name = "[HOST=]MIRROR,…", help_heading = REGISTRIES)]
    mirrors: Vec<String>,
    /// Allow HOST to have no TLS, or a certificate that is not trusted
    #[arg(long = "insecure-registry", value_name = "HOST", value_hint = ValueHint::Hostname, help_heading = REGISTRIES)]
    insecure: Vec<String>,
    /// Trust the certificates in FILE (PEM), for one host or for all
    #[arg(long = "registry-ca", value_name = "[HOST=]FILE", help_heading = REGISTRIES)]
    ca: Vec<String>,
}

impl RegistryArgs {
    /// As `settings` takes them.
    pub fn lower(self) -> RegistryFlags {
        let Self { mirrors, insecure, ca } = self;
        RegistryFlags { mirrors, insecure, ca }
    }
}

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// The flag of the commands that have their result in two forms.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// Form of the result: text or json [default: text]
    #[arg(
        long,
        value_enum,
        value_name = "FORM",
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub format: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_flag_of_the_documentation_is_there() {
        use crate::settings::keys::{BUILD, GENERAL, REGISTRY};
        let command = Arguments::command();
        let build = command.find_subcommand("build").unwrap();
        for key in GENERAL.iter().chain(REGISTRY).chain(BUILD) {
            let Some(flag) = key.flag.and_then(|flag| flag.split("--").nth(1)) else { continue };
            let name = flag.split(' ').next().unwrap();
            let known = |command: &clap::Command| {
                command.get_arguments().any(|argument| argument.get_long() == Some(name))
            };
            assert!(known(&command) || known(build), "--{name}");
        }
    }

    #[test]
    fn every_argument_is_described() {
        fn visit(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Arguments::command());
    }
}
