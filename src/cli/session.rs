//! What the commands of one run share: settings, the report, cancellation, and what is made of settings when a command
//! needs it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::error::CliError;
use crate::build::request::{Cancellation, Services};
use crate::cache;
use crate::image::Reference;
use crate::registry::Client;
use crate::report::{Json, Plain, Quiet, Report, Reporter, Sink, Size, Style, SystemClock, Tty, bytes};
use crate::sandbox::EmulatorSearch;
use crate::settings::{
    Form, GlobalFlags, RegistryFlags, ReportSettings, Settings, StateSettings, Surroundings,
};
use crate::settings::{Origin, SettingsError, variables};
use crate::store::{NamedImages, PrunePolicy, Pruned, Store, StoreError};

/// This very program. Not its path: that may lead elsewhere by the time a step is started, if the program was replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// How long tasks of a build that has ended may hold the store.
const LIMIT_WAIT: Duration = Duration::from_millis(250);

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    /// What the user has set.
    pub settings: Settings,
    /// Who is told.
    pub report: Report,
    /// Whether the run is to be given up.
    pub cancellation: Cancellation,
    /// The state directory, once a command has needed it.
    state: OnceLock<PathBuf>,
}

impl Session {
    /// A run with these settings.
    pub fn new(settings: Settings, report: Report) -> Self {
        Self { settings, report, cancellation: Cancellation::default(), state: OnceLock::new() }
    }

    /// Where state is kept.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn state(&self) -> Result<StateSettings, CliError> {
        let state = self.settings.state()?;
        for tried in &state.passed_over {
            tracing::debug!("state directory `{}` passed over: {}", tried.path.display(), tried.why);
        }
        let _ = self.state.set(state.directory.clone());
        Ok(state)
    }

    /// The state directory, if a command has needed it.
    pub fn known_state(&self) -> Option<&std::path::Path> {
        self.state.get().map(PathBuf::as_path)
    }

    /// The store.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn store(&self) -> Result<Store, CliError> {
        Ok(Store::open(self.state()?.directory)?)
    }

    /// A client of registries.
    ///
    /// # Errors
    /// If the settings of registries make no sense.
    pub fn client(&self, flags: &RegistryFlags) -> Result<Client, CliError> {
        let registry = self.settings.registry(flags)?;
        Ok(Client::new(registry.options, registry.keychain)?)
    }

    /// Everything that a build is given.
    ///
    /// # Errors
    /// If the store cannot be opened, or the settings of registries make no sense.
    pub fn services(&self, flags: &RegistryFlags) -> Result<Services, CliError> {
        let state = self.state()?;
        Ok(Services {
            client: self.client(flags)?,
            store: Store::open(state.directory)?,
            keep_roots: state.keep_roots,
            report: self.report.clone(),
            cancellation: self.cancellation.clone(),
            launcher: launcher(),
            emulators: self.emulator_search()?,
        })
    }

    /// Keeps the state directory to `limit` bytes, without what was not used for longest; images of these names stay. Where
    /// another build uses it, that one does it when it ends. That it fails is a warning: what was asked for is done.
    pub async fn keep_within(&self, limit: u64, names: Vec<Reference>) {
        let policy = PrunePolicy {
            names: NamedImages::GoBut(names),
            keep_bytes: Some(limit),
            wait: LIMIT_WAIT,
            ..PrunePolicy::default()
        };
        // Who gives up waits for nothing.
        match self.prune(policy).await {
            Ok(pruned) => {
                let (freed, left) = (bytes(pruned.bytes), bytes(pruned.left));
                if pruned.left > limit {
                    self.report.warn_with(
                        format!("the image that was built takes {left} in the state directory, more than its limit"),
                        "raise `--state-limit`",
                    );
                } else if pruned.bytes > 0 {
                    self.report.note(format!(
                        "state directory: freed {freed} of what was not used for longest; {left} left"
                    ));
                }
            }
            Err(CliError::Cancelled) => {}
            Err(CliError::Store(StoreError::InUse(_))) => {
                tracing::debug!("state directory: another build uses it, and keeps it to its limit");
            }
            Err(error) => {
                self.report.warn(format!("the state directory was not kept to its limit: {error}"));
            }
        }
    }

    /// Prunes the store.
    ///
    /// # Errors
    /// Those of [`Store::prune`], and [`CliError::Cancelled`]: given up in its middle it leaves a store that is whole.
    pub async fn prune(&self, policy: PrunePolicy) -> Result<Pruned, CliError> {
        let mut store = self.store()?;
        let work = async {
            if self.cancellation.is_cancelled() {
                return Err(CliError::Cancelled);
            }
            let work = tokio::task::spawn_blocking(move || {
                store.prune(&policy, |record| cache::referenced(record.namespace, record.content))
            });
            Ok(work.await.map_err(|_| CliError::Panicked)??)
        };
        self.or_cancelled(work).await
    }

    /// Where emulators of other machines' programs are looked for.
    ///
    /// # Errors
    /// If the directory that was named for it is none.
    pub fn emulator_search(&self) -> Result<EmulatorSearch, CliError> {
        let directory = self.settings.emulator_directory()?;
        let environment = &self.settings.surroundings().environment;
        let path = environment.path(variables::PATH).unwrap_or_default().into();
        Ok(EmulatorSearch { directory, path })
    }

    /// Whether standard output is read by people, on a terminal that shows colours.
    pub fn stdout_is_colourful(&self) -> bool {
        let surroundings = self.settings.surroundings();
        let environment = &surroundings.environment;
        surroundings.stdout_is_terminal
            && environment.get(variables::TERM) != Some("dumb")
            && environment.get(variables::NO_COLOR).is_none()
    }

    /// Runs something that does not look at the cancellation itself, until it ends or is given up.
    ///
    /// # Errors
    /// Those of `work`, and [`CliError::Cancelled`].
    pub async fn or_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, CliError>>,
    ) -> Result<T, CliError> {
        tokio::select! {
            result = work => result,
            () = self.cancellation.cancelled() => Err(CliError::Cancelled),
        }
    }
}

/// What is started again to supervise steps.
pub fn launcher() -> PathBuf {
    PathBuf::from(OWN_PROGRAM)
}

/// The report that was asked for.
pub fn report(settings: &ReportSettings) -> Report {
    let clock = Arc::new(SystemClock::start());
    let sink = Sink::stderr();
    let reporter: Box<dyn Reporter> = match settings.form {
        Form::Tty => Box::new(Tty::new(sink, clock, settings.style, Size::of_stderr, settings.details)),
        Form::Plain => Box::new(Plain::new(sink, clock, settings.details)),
        Form::Json => Box::new(Json::new(sink, clock, settings.details)),
        Form::Quiet => Box::new(Quiet::new(sink, clock, settings.style)),
    };
    let report = Report::boxed(reporter);
    if let Some(warning) = &settings.warning {
        report.warn(warning.clone());
    }
    report
}

/// The report where settings cannot be made sense of: JSON for those who have asked for it, else lines.
pub fn fallback_report(flags: &GlobalFlags, surroundings: &Surroundings) -> Report {
    let asked = flags.progress.as_deref().or_else(|| surroundings.environment.get(variables::PROGRESS));
    let form = if asked == Some("json") { Form::Json } else { Form::Quiet };
    let style = Style { color: false, unicode: false };
    report(&ReportSettings { form, origin: Origin::Default, style, details: false, warning: None })
}

/// The settings of this run, and the report that they ask for.
///
/// # Errors
/// What is wrong with them, and the report to tell it to.
pub fn load(flags: GlobalFlags, surroundings: Surroundings) -> Result<Session, (SettingsError, Report)> {
    let fallback = fallback_of(&flags, &surroundings);
    let settings = Settings::load(flags, surroundings).map_err(|error| (error, fallback()))?;
    match settings.report() {
        Ok(wanted) => Ok(Session::new(settings, report(&wanted))),
        Err(error) => Err((error, fallback())),
    }
}

fn fallback_of(flags: &GlobalFlags, surroundings: &Surroundings) -> impl Fn() -> Report + use<> {
    let (flags, surroundings) = (flags.clone(), surroundings.clone());
    move || fallback_report(&flags, &surroundings)
}
