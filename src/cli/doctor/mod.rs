//! `cofferdam doctor`: what this machine allows, where state is kept, how registries are reached and with which
//! credentials. It looks and tries; it changes nothing but that the state directory is made.

mod machine;
mod registries;
mod state;
mod text;
mod trial;

use clap::{Args, ValueHint};
use serde::Serialize;

use super::arguments::{Format, FormatArgs, RegistryArgs};
use super::error::CliError;
use super::session::Session;
use super::{login, stdout};
use machine::Machine;
use registries::{HostReport, Registries};
use state::StateReport;
use trial::Trial;

const AFTER_HELP: &str = "\
It finds out by trying what this machine or pod allows, runs a step, and says where state is kept
and why. For registries that are named it shows every place where credentials are looked for, which
are used, and whether the registry takes them.

Examples:
  cofferdam doctor
  cofferdam doctor registry.example.com docker.io
  kubectl run doctor --rm -i --restart=Never --image=IMAGE -- cofferdam doctor

No registry is spoken to unless it is named. The exit status is 9 if `RUN` steps cannot be run.";

/// Flags of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {
    /// Registries to try, perhaps with the path of a repository
    #[arg(value_name = "HOST", value_hint = ValueHint::Hostname)]
    hosts: Vec<String>,
    #[command(flatten)]
    form: FormatArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Everything that was found out.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    /// Whether steps can be run.
    usable: bool,
    machine: Machine,
    state: StateReport,
    /// A step that was run, if there was a place for it.
    trial: Trial,
    registries: Registries,
    hosts: Vec<HostReport>,
}

/// Examines.
pub(super) async fn run(arguments: DoctorArgs, session: &Session) -> Result<(), CliError> {
    let hosts = arguments.hosts.iter().map(|text| login::host(Some(text))).collect::<Result<Vec<_>, _>>()?;
    let settings = session.settings.registry(&arguments.registry.lower())?;
    let machine = Machine::examine(&session.settings, &session.emulator_search()?);
    let state = StateReport::examine(session);
    let trial = match (&machine.obstacle, state.directory()) {
        (Some(obstacle), _) => Trial::not_possible(obstacle),
        (None, None) => Trial::not_possible("there is no state directory to run a step in"),
        (None, Some(_)) => {
            let store = session.store();
            let tried = tokio::task::spawn_blocking(move || Trial::run(store));
            session.or_cancelled(async { tried.await.map_err(|_| CliError::Panicked) }).await?
        }
    };
    let registries = Registries::examine(&settings);
    let tried = registries::try_hosts(&hosts, &settings);
    let hosts = session.or_cancelled(tried).await?;
    let obstacle = machine.obstacle.clone().or_else(|| trial.failure());
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        usable: obstacle.is_none(),
        machine,
        state,
        trial,
        registries,
        hosts,
    };
    match arguments.form.format {
        Format::Text => stdout::write(&text::render(&report))?,
        Format::Json => stdout::write_json(&report)?,
    }
    match obstacle {
        Some(obstacle) => Err(CliError::Machine(obstacle)),
        None => Ok(()),
    }
}
