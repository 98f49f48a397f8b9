//! Kinds of failure and the exit statuses they have: `docs/exit-codes.md` is the table of this file.
//!
//! Every kind of error of every room is sorted here, by matches that name each variant: a new one does not compile
//! before it has its place. A full disk is one wherever it is met.

use std::error::Error;
use std::io;

use super::error::CliError;
use crate::build::transfer::TransferError;
use crate::build::{BuildError, ImageFault};
use crate::deploy::DeployError;
use crate::deploy::apply::FailureKind;
use crate::deploy::cluster::ApiError;
use crate::layer::{LayerError, TreeError};
use crate::registry::{ErrorKind, RegistryError};
use crate::remote::RemoteError;
use crate::sandbox::{RootError, SandboxError};
use crate::settings::SettingsError;
use crate::store::StoreError;

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// None of the others: most of all this program's own faults.
    Other,
    /// The command line or a setting is wrong.
    Usage,
    /// The Dockerfile is wrong.
    Dockerfile,
    /// A step ran and failed.
    Step,
    /// The context or another input cannot be used.
    Input,
    /// A registry could not be reached or failed.
    Registry,
    /// Credentials are missing, refused or broken.
    Credentials,
    /// The state directory cannot be used.
    Store,
    /// Steps cannot be run on this machine.
    Sandbox,
    /// A result cannot be written.
    Output,
    /// An image is not what it should be.
    Invalid,
    /// A disk is full.
    DiskFull,
    /// There is no such image.
    NotFound,
    /// Manifests are wrong.
    Manifest,
    /// The cluster cannot be reached, or there is no way to it.
    Cluster,
    /// The identity may not do this in the cluster.
    Forbidden,
    /// Fields of objects belong to somebody else.
    Conflict,
    /// The cluster does not take an object.
    Apply,
    /// What was applied does not come to life.
    Rollout,
    /// What was applied has not come to life in time.
    TimedOut,
    /// It was cancelled by a signal.
    Cancelled,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The exit status; for [`Kind::Cancelled`] that of SIGINT.
    pub status: u8,
    /// What `kind` is in the JSON of a failure.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

const fn row(status: u8, name: &'static str, meaning: &'static str, advice: &'static str) -> Row {
    Row { status, name, meaning, advice }
}

/// Added to the number of a signal, as shells do (POSIX, "Exit Status for Commands").
const SIGNALLED: u8 = 128;
/// SIGINT.
const INTERRUPT: u8 = 2;

impl Kind {
    /// Every kind, in the order of their statuses.
    pub const ALL: [Self; 21] = [
        Self::Other,
        Self::Usage,
        Self::Dockerfile,
        Self::Step,
        Self::Input,
        Self::Registry,
        Self::Credentials,
        Self::Store,
        Self::Sandbox,
        Self::Output,
        Self::Invalid,
        Self::DiskFull,
        Self::NotFound,
        Self::Manifest,
        Self::Cluster,
        Self::Forbidden,
        Self::Conflict,
        Self::Apply,
        Self::Rollout,
        Self::TimedOut,
        Self::Cancelled,
    ];

    /// Its row of the table.
    pub const fn row(self) -> Row {
        match self {
            Self::Other => row(
                1,
                "other",
                "none of the others, most of all a fault of cofferdam itself",
                "read the message; a fault is worth a report, with the output of `--verbose`",
            ),
            Self::Usage => row(
                2,
                "usage",
                "the command line, a variable or the configuration file is wrong, or asks for what is not supported",
                "the message names the place the value came from; `--help` shows what may be given",
            ),
            Self::Dockerfile => row(
                3,
                "dockerfile",
                "the Dockerfile is wrong, or names a file, stage or image argument that is not there",
                "the message points at the line",
            ),
            Self::Step => row(
                4,
                "step",
                "a `RUN` step was started and failed, or its program is not there",
                "the step's last lines are in the log, its own exit status in the message",
            ),
            Self::Input => row(
                5,
                "input",
                "the context, the Dockerfile or another input cannot be read or fetched, or changed while it was read",
                "check the paths and who may read them, the address and what it needs",
            ),
            Self::Registry => row(
                6,
                "registry",
                "a registry could not be reached, or answered with an error",
                "it has been tried again already: check address, proxy, mirror and certificate; `cofferdam doctor HOST` tries them",
            ),
            Self::Credentials => row(
                7,
                "credentials",
                "credentials are missing, refused or not sufficient, or cannot be looked up or kept",
                "the message names the host and the place they came from; `cofferdam doctor HOST` shows every place",
            ),
            Self::Store => row(
                8,
                "store",
                "the state directory cannot be used, is damaged, or is in use by a build that a prune waited for",
                "name another with `--state-dir`",
            ),
            Self::Sandbox => row(
                9,
                "sandbox",
                "steps cannot be run on this machine, or not as isolated as was asked for",
                "`cofferdam doctor` shows what is missing",
            ),
            Self::Output => row(
                10,
                "output",
                "the image, its digest or its metadata cannot be written where they are to go",
                "check the path and who may write there",
            ),
            Self::Invalid => row(
                11,
                "invalid",
                "an image is not what it should be: `validate` has found faults, or a base image is damaged",
                "pull or push the image anew",
            ),
            Self::DiskFull => row(
                12,
                "disk_full",
                "no space is left on a disk, or the user's share of it is used up",
                "make room in the directory that is named; `cofferdam prune` empties the cache",
            ),
            Self::NotFound => row(
                13,
                "not_found",
                "there is no such image, tag or platform in the registry, or no image of that name in the store",
                "check the spelling, and whether the credentials show private repositories",
            ),
            Self::Manifest => row(
                14,
                "manifest",
                "manifests cannot be read, are wrong, or do not fit this cluster",
                "the message names the file and the line",
            ),
            Self::Cluster => row(
                15,
                "cluster",
                "there is no way to the cluster: no kubeconfig, no credentials, or no answer",
                "`cofferdam deploy doctor` shows which cluster is asked, and as whom",
            ),
            Self::Forbidden => row(
                16,
                "forbidden",
                "the cluster knows who asks and does not allow it",
                "the message has the rule that is missing; `cofferdam rbac generate` prints all of them",
            ),
            Self::Conflict => row(
                17,
                "conflict",
                "fields or objects belong to somebody else, or somebody else is at work on them",
                "the message names the owner, both values and the ways out",
            ),
            Self::Apply => row(
                18,
                "apply",
                "the cluster does not take an object: it is invalid, or quota or policy are against it",
                "the message is the cluster's, with what can be done about it",
            ),
            Self::Rollout => row(
                19,
                "rollout",
                "everything was applied, and something does not come to life",
                "the message says what, where, why and what to do",
            ),
            Self::TimedOut => row(
                20,
                "timed_out",
                "everything was applied, and something has not come to life in time",
                "the message says what it was waiting for; give it more with `--timeout`",
            ),
            Self::Cancelled => row(
                SIGNALLED + INTERRUPT,
                "cancelled",
                "it was cancelled by a signal: 128 and the signal's number, so 130 for SIGINT and 143 for SIGTERM",
                "start it again: what was finished is not done twice",
            ),
        }
    }

    /// The exit status, where `signal` is the one that cancelled the command.
    pub const fn status(self, signal: Option<u8>) -> u8 {
        match (self, signal) {
            (Self::Cancelled, Some(signal)) => SIGNALLED.saturating_add(signal),
            _ => self.row().status,
        }
    }

    /// What kind of failure an error is.
    pub fn of(error: &CliError) -> Self {
        if is_disk_full(error) { Self::DiskFull } else { of_command(error) }
    }
}

/// Whether the system has said anywhere below `error` that there is no room.
fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        })
    })
}

fn of_command(error: &CliError) -> Kind {
    match error {
        CliError::Usage { .. } => Kind::Usage,
        CliError::Settings(error) => of_settings(error),
        CliError::Build(error) => of_build(error),
        CliError::Registry(error) => of_registry(error),
        CliError::Credential(_) => Kind::Credentials,
        CliError::Store(error) => of_store(error),
        CliError::Output { .. } | CliError::Stdout(_) => Kind::Output,
        CliError::Input { .. } => Kind::Input,
        CliError::Faults { .. } => Kind::Invalid,
        CliError::Findings { .. } => Kind::Dockerfile,
        CliError::Machine(_) => Kind::Sandbox,
        CliError::Deploy(error) => of_deploy(error),
        CliError::Cancelled => Kind::Cancelled,
        CliError::Start(_) | CliError::Panicked | CliError::Differs => Kind::Other,
    }
}

fn of_deploy(error: &DeployError) -> Kind {
    match error {
        DeployError::Manifests(_) => Kind::Manifest,
        DeployError::Input { .. } => Kind::Input,
        DeployError::Access(_) => Kind::Cluster,
        DeployError::Api(error) => of_api(error),
        DeployError::Apply(failures) => match failures.iter().map(|failure| failure.kind).min() {
            Some(FailureKind::Forbidden) => Kind::Forbidden,
            Some(FailureKind::Conflict) => Kind::Conflict,
            Some(FailureKind::Refused) | None => Kind::Apply,
        },
        DeployError::NotAllowed(_) => Kind::Forbidden,
        DeployError::Smoke { .. } => Kind::Rollout,
        DeployError::NotGone(_) => Kind::TimedOut,
        DeployError::Refused { .. } => Kind::Apply,
        DeployError::Busy { .. } => Kind::Conflict,
        DeployError::Rollout(_) => Kind::Rollout,
        DeployError::TimedOut { .. } => Kind::TimedOut,
        DeployError::Cancelled => Kind::Cancelled,
    }
}

fn of_api(error: &ApiError) -> Kind {
    match error {
        ApiError::Refused(refusal) => match refusal.code {
            401 | 403 => Kind::Forbidden,
            404 => Kind::NotFound,
            _ => Kind::Apply,
        },
        ApiError::Unreachable { .. }
        | ApiError::Credentials { .. }
        | ApiError::Garbled { .. }
        | ApiError::Expired => Kind::Cluster,
        ApiError::Cancelled => Kind::Cancelled,
    }
}

fn of_settings(error: &SettingsError) -> Kind {
    if error.is_about_the_disk() { Kind::Store } else { Kind::Usage }
}

fn of_build(error: &BuildError) -> Kind {
    match error {
        BuildError::Dockerfile(_) => Kind::Dockerfile,
        BuildError::Input { .. } | BuildError::Context(_) => Kind::Input,
        BuildError::Step { .. } => Kind::Step,
        BuildError::Setup { source, .. } | BuildError::CacheLost { source, .. } => of_build(source),
        BuildError::Refused { .. } => Kind::Usage,
        BuildError::NotFound { .. } => Kind::NotFound,
        BuildError::Sandbox(error) => of_sandbox(error),
        BuildError::Registry(error) => of_registry(error),
        BuildError::Remote(error) => of_remote(error),
        BuildError::Store(error) => of_store(error),
        BuildError::Layer(error) => of_layer(error),
        BuildError::Tree(error) => of_tree(error),
        BuildError::Root(error) => of_root(error),
        BuildError::Transfer(error) => of_transfer(error),
        BuildError::Image { source: ImageFault::NotInLayout { .. }, .. } => Kind::NotFound,
        BuildError::Image { .. } => Kind::Invalid,
        BuildError::Output { .. } => Kind::Output,
        BuildError::Cancelled => Kind::Cancelled,
    }
}

fn of_sandbox(error: &SandboxError) -> Kind {
    match error {
        SandboxError::Unusable { .. }
        | SandboxError::Foreign { .. }
        | SandboxError::Host { .. }
        | SandboxError::SupervisorLost => Kind::Sandbox,
        SandboxError::Program { .. } | SandboxError::MountPoint { .. } => Kind::Step,
    }
}

fn of_registry(error: &RegistryError) -> Kind {
    match error.kind() {
        ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::Credentials => Kind::Credentials,
        ErrorKind::NotFound | ErrorKind::Platform => Kind::NotFound,
        ErrorKind::Throttled
        | ErrorKind::Network
        | ErrorKind::Tls
        | ErrorKind::Registry
        | ErrorKind::Integrity => Kind::Registry,
        ErrorKind::Local => Kind::Store,
        ErrorKind::Options => Kind::Usage,
    }
}

fn of_remote(error: &RemoteError) -> Kind {
    match error {
        RemoteError::Store(error) => of_store(error),
        RemoteError::Web { .. }
        | RemoteError::Digest { .. }
        | RemoteError::NoGit(_)
        | RemoteError::Git { .. }
        | RemoteError::NoReference { .. }
        | RemoteError::Commit { .. }
        | RemoteError::NoDirectory { .. }
        | RemoteError::Files { .. } => Kind::Input,
    }
}

fn of_store(error: &StoreError) -> Kind {
    match error {
        StoreError::Full { .. } => Kind::DiskFull,
        StoreError::Io { .. }
        | StoreError::NotWritable { .. }
        | StoreError::NotALayout(_)
        | StoreError::Version { .. }
        | StoreError::Missing(_)
        | StoreError::Mismatch { .. }
        | StoreError::Size { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Incomplete { .. }
        | StoreError::Manifest { .. }
        | StoreError::Json { .. }
        | StoreError::Key(_)
        | StoreError::Broken(_)
        | StoreError::InUse(_) => Kind::Store,
    }
}

fn of_layer(error: &LayerError) -> Kind {
    match error {
        LayerError::Store(error) => of_store(error),
        LayerError::WhiteoutName(_)
        | LayerError::Unrepresentable { .. }
        | LayerError::Shrank { .. }
        | LayerError::Grew { .. }
        | LayerError::Content { .. } => Kind::Input,
        LayerError::Source(..)
        | LayerError::Malformed { .. }
        | LayerError::Unsupported { .. }
        | LayerError::Name(_)
        | LayerError::Inside { .. }
        | LayerError::DiffId { .. }
        | LayerError::BlobDigest { .. } => Kind::Invalid,
        LayerError::Order { .. }
        | LayerError::HardlinkOrder { .. }
        | LayerError::Broken
        | LayerError::Level(..)
        | LayerError::Compress(_) => Kind::Other,
    }
}

fn of_tree(error: &TreeError) -> Kind {
    match error {
        TreeError::Store(error) => of_store(error),
        TreeError::NotIndexed(_) | TreeError::Index { .. } => Kind::Store,
        TreeError::Path(_)
        | TreeError::Loop(_)
        | TreeError::NotADirectory(_)
        | TreeError::BrokenHardlink { .. }
        | TreeError::NotKept(_) => Kind::Invalid,
    }
}

fn of_root(error: &RootError) -> Kind {
    match error {
        RootError::Layer(error) => of_layer(error),
        RootError::File { .. } | RootError::Touched(_) => Kind::Store,
        RootError::NotADirectory(_) | RootError::NoTarget { .. } => Kind::Invalid,
        RootError::LedgerFull | RootError::NotRestorable(_) => Kind::Other,
    }
}

fn of_transfer(error: &TransferError) -> Kind {
    match error {
        TransferError::Mistake(_) | TransferError::Path(_) => Kind::Dockerfile,
        TransferError::Changed { .. }
        | TransferError::Read { .. }
        | TransferError::Archive { .. }
        | TransferError::Context(_) => Kind::Input,
        TransferError::Root(error) => of_root(error),
        TransferError::Tree(error) => of_tree(error),
        TransferError::Layer(error) => of_layer(error),
        TransferError::Store(error) => of_store(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::PathBuf;

    use rstest::rstest;

    use super::*;
    use crate::dockerfile::{Diagnostic, Diagnostics, Span};
    use crate::report::{Findings, StepFailure};

    /// The table as the document has it.
    fn table() -> String {
        let mut text = "| status | kind | meaning | what to do |\n|---|---|---|---|\n".to_owned();
        text.push_str("| 0 | – | all went well | – |\n");
        for kind in Kind::ALL {
            let Row { status, name, meaning, advice } = kind.row();
            let status = match kind {
                Kind::Cancelled => format!("{}, {}", kind.status(Some(2)), kind.status(Some(15))),
                _ => status.to_string(),
            };
            text.push_str(&format!("| {status} | `{name}` | {meaning} | {advice} |\n"));
        }
        text
    }

    #[test]
    fn the_document_has_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-codes.md");
        let document = std::fs::read_to_string(path).unwrap();
        let rows: Vec<&str> = document.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows, table().lines().collect::<Vec<_>>(), "the table should be\n{}", table());
    }

    #[test]
    fn no_two_kinds_are_the_same() {
        let statuses: HashSet<u8> = Kind::ALL.iter().map(|kind| kind.row().status).collect();
        let names: HashSet<&str> = Kind::ALL.iter().map(|kind| kind.row().name).collect();
        assert_eq!((statuses.len(), names.len()), (Kind::ALL.len(), Kind::ALL.len()));
        assert!(!statuses.contains(&0));
    }

    #[test]
    fn a_signal_decides_the_status_of_what_it_cancelled() {
        assert_eq!(Kind::Cancelled.status(Some(2)), 130);
        assert_eq!(Kind::Cancelled.status(Some(15)), 143);
        assert_eq!(Kind::Step.status(Some(15)), 4);
    }

    fn findings() -> Box<Findings> {
        let list = Diagnostics(vec![Diagnostic::error("no", Span::new(0, 4))]);
        Box::new(Findings::new("Dockerfile", "FROM a", list))
    }

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    fn write_failed(source: io::Error) -> StoreError {
        StoreError::Io { operation: "write", path: "/state/x".into(), source }
    }

    #[rstest]
    #[case(BuildError::Dockerfile(findings()), Kind::Dockerfile)]
    #[case(BuildError::Input { what: "x".into(), source: None, hint: None }, Kind::Input)]
    #[case(BuildError::Step { finding: findings(), failure: StepFailure::ExitCode(1) }, Kind::Step)]
    #[case(BuildError::refused("x"), Kind::Usage)]
    #[case(SandboxError::Unusable { what: "x".into() }.into(), Kind::Sandbox)]
    #[case(SandboxError::Program { program: "x".into(), source: io::ErrorKind::NotFound.into() }.into(), Kind::Step)]
    #[case(write_failed(io::ErrorKind::PermissionDenied.into()).into(), Kind::Store)]
    #[case(BuildError::Cancelled, Kind::Cancelled)]
    #[case(BuildError::Output { path: "x".into(), source: io::ErrorKind::NotFound.into() }, Kind::Output)]
    // Whose fault it is decides, not where it was found.
    #[case(BuildError::Setup { finding: findings(), source: Box::new(BuildError::Cancelled) }, Kind::Cancelled)]
    #[case(TransferError::from(Diagnostic::error("no", Span::new(0, 1))).into(), Kind::Dockerfile)]
    #[case(LayerError::Malformed { offset: 0, reason: "x".into() }.into(), Kind::Invalid)]
    // A full disk is one at every depth.
    #[case(write_failed(full()).into(), Kind::DiskFull)]
    #[case(BuildError::Output { path: "x".into(), source: full() }, Kind::DiskFull)]
    #[case(LayerError::Store(write_failed(full())).into(), Kind::DiskFull)]
    #[case(TransferError::Layer(LayerError::Compress(write_failed(full()).into_io())).into(), Kind::DiskFull)]
    #[case(BuildError::Setup { finding: findings(), source: Box::new(write_failed(full()).into()) }, Kind::DiskFull)]
    fn failures_of_builds(#[case] error: BuildError, #[case] kind: Kind) {
        assert_eq!(Kind::of(&error.into()), kind);
    }

    #[rstest]
    #[case(CliError::usage("x", "y"), Kind::Usage)]
    #[case(CliError::Output { path: PathBuf::from("x"), source: full() }, Kind::DiskFull)]
    #[case(CliError::Store(StoreError::InUse("x".into())), Kind::Store)]
    #[case(CliError::Settings(SettingsError::NoState(Vec::new())), Kind::Store)]
    #[case(CliError::Settings(SettingsError::Conflict { problem: "x".into(), hint: None }), Kind::Usage)]
    #[case(CliError::Faults { what: "x".into(), count: 2 }, Kind::Invalid)]
    #[case(CliError::Findings { what: "x".into(), count: 2 }, Kind::Dockerfile)]
    #[case(CliError::Panicked, Kind::Other)]
    fn failures_of_other_commands(#[case] error: CliError, #[case] kind: Kind) {
        assert_eq!(Kind::of(&error), kind);
    }
}
