//! Why a command failed, and how it is told: message, causes, what to do about it.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::kind::Kind;
use crate::build::BuildError;
use crate::deploy::DeployError;
use crate::registry::{CredentialError, ErrorKind, RegistryError};
use crate::report::{Failure, Findings};
use crate::sandbox::SandboxError;
use crate::settings::SettingsError;
use crate::store::StoreError;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// What was asked for makes no sense.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A build, or what it is made of, failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A registry refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Credentials cannot be looked up or kept.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file that the user asked for cannot be written.
    #[error("cannot write `{}`", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The result cannot be written.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// Something that was to be read cannot be.
    #[error("cannot read {what}")]
    Input {
        /// What.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A check has found something.
    #[error("`{what}` has {count} {}", if *count == 1 { "fault" } else { "faults" })]
    Faults {
        /// What was checked.
        what: String,
        /// How many faults.
        count: usize,
    },
    /// Checks have found something in a Dockerfile.
    #[error("`{what}` has {count} {}", if *count == 1 { "finding" } else { "findings" })]
    Findings {
        /// The Dockerfile.
        what: String,
        /// How many findings.
        count: usize,
    },
    /// `doctor` has found that steps cannot be run.
    #[error("`RUN` steps cannot be run on this machine: {0}")]
    Machine(String),
    /// A deployment, or what it is made of, failed.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// `diff` has found differences, and told them. It is no failure, and has a status.
    #[error("there are differences")]
    Differs,
    /// A signal came.
    #[error("cancelled")]
    Cancelled,
    /// The program cannot set itself up.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// A fault of the program's own.
    #[error("cofferdam has a fault: it has stopped in the middle of its work")]
    Panicked,
}

/// What is known of a run when it fails, for hints.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scene<'a> {
    /// The state directory, if one was settled on.
    pub state: Option<&'a Path>,
    /// The signal that cancelled the run.
    pub signal: Option<u8>,
    /// What the program's own faults have said.
    pub panics: &'a [String],
    /// The exit status of every failure, for a command whose statuses are given by others.
    pub failed: Option<u8>,
}

impl CliError {
    /// A command line that makes no sense.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: hint.into() }
    }

    /// Whether nobody reads standard output any more. That is how `head` ends, and no failure.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// How it is told.
    pub fn failure(&self, scene: Scene<'_>) -> Failure {
        let kind = Kind::of(self);
        let message = match (kind, scene.signal.and_then(|signal| crate::report::signal_name(signal.into())))
        {
            (Kind::Cancelled, Some(signal)) => format!("cancelled by {signal}"),
            _ => self.to_string(),
        };
        let mut causes = match self {
            Self::Deploy(error) if !error.details().is_empty() => error.details(),
            _ => causes(self, &message),
        };
        causes.extend(scene.panics.iter().cloned());
        Failure {
            message,
            causes,
            hints: self.hints(kind, scene),
            source: self.findings().cloned(),
            kind: kind.row().name.to_owned(),
        }
    }

    /// What to do about it: what the error itself knows, and behind it what the command line can add.
    fn hints(&self, kind: Kind, scene: Scene<'_>) -> Vec<String> {
        let mut hints: Vec<String> = match self {
            Self::Deploy(error) => error.hints(),
            _ => self.own_hint().into_iter().collect(),
        };
        match kind {
            Kind::DiskFull => hints.push(self.room(scene.state)),
            Kind::Sandbox => hints.push("`cofferdam doctor` shows what this machine allows".to_owned()),
            Kind::Registry | Kind::Credentials | Kind::NotFound => {
                hints.extend(self.registry_error().and_then(registry_hint));
            }
            Kind::Store => {
                if let Some(StoreError::InUse(_)) = self.store_error() {
                    hints.push("wait for running builds with `--wait 10m`".to_owned());
                }
            }
            Kind::Other
            | Kind::Usage
            | Kind::Dockerfile
            | Kind::Step
            | Kind::Input
            | Kind::Output
            | Kind::Invalid
            | Kind::Manifest
            | Kind::Cluster
            | Kind::Forbidden
            | Kind::Conflict
            | Kind::Apply
            | Kind::Rollout
            | Kind::TimedOut
            | Kind::Cancelled => {}
        }
        hints
    }

    fn own_hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => Some(hint.clone()),
            Self::Settings(error) => error.hint(),
            Self::Build(error) => build_hint(error),
            Self::Registry(error) => error.hint(),
            Self::Credential(CredentialError::NoPlace) => {
                Some("set `DOCKER_CONFIG` to a directory that may be written to".to_owned())
            }
            Self::Panicked => Some("please report this, with what is written above".to_owned()),
            Self::Deploy(_)
            | Self::Differs
            | Self::Credential(_)
            | Self::Store(_)
            | Self::Output { .. }
            | Self::Stdout(_)
            | Self::Input { .. }
            | Self::Faults { .. }
            | Self::Findings { .. }
            | Self::Machine(_)
            | Self::Cancelled
            | Self::Start(_) => None,
        }
    }

    /// Where room is to be made.
    fn room(&self, state: Option<&Path>) -> String {
        let place = match self {
            Self::Output { path, .. } | Self::Build(BuildError::Output { path, .. }) => Some(path.as_path()),
            _ => None,
        };
        match (place, state) {
            (Some(place), _) => {
                format!("make room where `{}` is to be, or write it elsewhere", place.display())
            }
            (None, Some(state)) => format!(
                "make room in `{}` (`cofferdam prune --all` empties the cache), or name a larger place with `--state-dir`",
                state.display()
            ),
            (None, None) => "make room, or name a larger place with `--state-dir`".to_owned(),
        }
    }

    fn registry_error(&self) -> Option<&RegistryError> {
        match self {
            Self::Registry(error) => Some(error),
            Self::Build(error) => match root(error) {
                BuildError::Registry(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            Self::Build(error) => match root(error) {
                BuildError::Store(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// The places in a source text that it is about.
    fn findings(&self) -> Option<&Findings> {
        match self {
            Self::Settings(SettingsError::Config(findings)) => Some(findings),
            Self::Build(
                BuildError::Dockerfile(finding)
                | BuildError::Step { finding, .. }
                | BuildError::Setup { finding, .. },
            ) => Some(finding),
            _ => None,
        }
    }
}

/// What kept a step from being carried out.
fn root(error: &BuildError) -> &BuildError {
    match error {
        BuildError::Setup { source, .. } => root(source),
        other => other,
    }
}

fn build_hint(error: &BuildError) -> Option<String> {
    match root(error) {
        BuildError::Input { hint, .. } | BuildError::Refused { hint, .. } => hint.clone(),
        BuildError::Registry(error) => error.hint(),
        BuildError::Remote(error) => error.hint(),
        BuildError::Sandbox(SandboxError::SupervisorLost) => {
            Some("if the container has a limit on memory, it may be too low".to_owned())
        }
        _ => None,
    }
}

/// What the command line can do about a registry.
fn registry_hint(error: &RegistryError) -> Option<String> {
    let host = error.host();
    Some(match error.kind() {
        ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::Credentials if host.is_empty() => {
            "`cofferdam doctor HOST` shows every place where credentials are looked for".to_owned()
        }
        ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::Credentials => {
            format!("`cofferdam doctor {host}` shows every place where credentials are looked for")
        }
        ErrorKind::NotFound => {
            "check the registry's name, the repository, the tag, and whether these credentials may see it: \
             registries hide what may not be seen"
                .to_owned()
        }
        ErrorKind::Network => format!(
            "check that `{host}` is spelled rightly and can be reached from here: through a proxy with \
             `HTTPS_PROXY`, or another host in its stead with `--registry-mirror`"
        ),
        ErrorKind::Tls => {
            format!(
                "`--registry-ca {host}=FILE` names a certificate, `--insecure-registry {host}` does without"
            )
        }
        ErrorKind::Throttled
        | ErrorKind::Registry
        | ErrorKind::Integrity
        | ErrorKind::Platform
        | ErrorKind::Local
        | ErrorKind::Options => return None,
    })
}

/// The sentences below `error` that say something which those before have not.
pub(super) fn causes(error: &(dyn Error + 'static), message: &str) -> Vec<String> {
    let mut said = vec![message.to_owned()];
    for cause in std::iter::successors(error.source(), |&error| error.source()) {
        let text = cause.to_string();
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
    }
    said.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Reference;
    use crate::registry::{Client, ClientOptions, Keychain, install_tls_provider};

    #[test]
    fn causes_are_told_once_each() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = CliError::from(BuildError::Setup {
            finding: Box::new(Findings::new(
                "Dockerfile",
                "FROM a",
                crate::dockerfile::Diagnostics(Vec::new()),
            )),
            source: Box::new(BuildError::Store(StoreError::Io {
                operation: "write",
                path: "/x".into(),
                source: denied,
            })),
        });
        let failure = error.failure(Scene::default());
        assert_eq!(failure.causes, ["cannot write `/x`", "permission denied"]);
        assert_eq!(failure.kind, "store");
    }

    #[test]
    fn a_full_disk_names_the_directory() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let scene = Scene { state: Some(Path::new("/state")), ..Scene::default() };
        let store = StoreError::Full { operation: "write", path: "/state/blobs/x".into(), source: full() };
        let hints = CliError::from(store).failure(scene).hints;
        assert!(hints[0].contains("`/state`") && hints[0].contains("--state-dir"), "{hints:?}");
        let hints = CliError::Output { path: "/out/image.tar".into(), source: full() }.failure(scene).hints;
        assert!(hints[0].contains("`/out/image.tar`") && !hints[0].contains("/state"), "{hints:?}");
    }

    #[test]
    fn a_fault_of_our_own_says_where() {
        let panics = ["internal error at x.rs:1 (thread `main`): no".to_owned()];
        let failure = CliError::Panicked.failure(Scene { panics: &panics, ..Scene::default() });
        assert_eq!((&*failure.kind, &failure.causes[..]), ("other", &panics[..]));
        assert!(failure.hints[0].contains("report"), "{failure:?}");
    }

    #[test]
    fn the_signal_is_named() {
        let failure = CliError::Cancelled.failure(Scene { signal: Some(15), ..Scene::default() });
        assert_eq!(failure.message, "cancelled by SIGTERM");
        let failure = CliError::from(BuildError::Cancelled).failure(Scene::default());
        assert_eq!((&*failure.message, &*failure.kind), ("cancelled", "cancelled"));
    }

    #[tokio::test]
    async fn a_registry_out_of_reach_is_a_matter_of_names_proxies_and_mirrors() {
        install_tls_provider();
        let mut options = ClientOptions::default();
        options.retry.attempts = 1;
        let client = Client::new(options, Keychain::empty()).unwrap();
        // Port 1 of loopback: nobody listens, and nobody has to be asked for the name.
        let name: Reference = "127.0.0.1:1/app:v1".parse().unwrap();
        let error = CliError::from(client.manifest(&name).await.unwrap_err());
        let failure = error.failure(Scene::default());
        assert_eq!(failure.kind, "registry", "{failure:?}");
        let hint = failure.hints.last().unwrap();
        assert!(hint.contains("`127.0.0.1:1`") && hint.contains("--registry-mirror"), "{hint}");
    }
}
