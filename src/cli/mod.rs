//! Everything between the shell and the library: the command line, what a run of the program is, one file a verb.
//!
//! | file | owns |
//! |---|---|
//! | `arguments` | what may be typed, and the help |
//! | `build`, `cache`, `push`, `copy`, `inspect`, `login`, `images`, `prune`, `doctor`, `validate`, `completions`, `deploy`, `diff`, `rollout`, `undeploy`, `render`, `pull_secret`, `rbac` | a verb each: its flags, its result |
//! | `cluster`, `manifests` | what the verbs of clusters share: which cluster, which objects |
//! | `call` | what is asked of a Dockerfile instead of a build |
//! | `session` | what the verbs share: settings, report, store, client |
//! | `rollout_wait` | what the verbs that wait for a cluster share |
//! | `kind`, `error` | why a command failed, its exit status, what to do about it |
//! | `signals`, `panics` | what comes from outside of a command's own course |
//! | `stdout`, `results` | where results go |
//!
//! # Invariants
//! 1. Standard output has the result of a command and nothing else, and has it only when the command has succeeded, the
//!    result is itself a list of faults, or it tells what has been done for good: objects applied, images pushed.
//! 2. Whatever fails is told through the report, once, and has a [`Kind`], which decides the exit status.
//! 3. A verb takes its arguments and a session; nothing here is global but the panic hook.

mod arguments;
mod build;
mod cache;
mod call;
mod cluster;
mod completions;
mod copy;
mod deploy;
mod deploy_doctor;
mod diff;
mod doctor;
mod error;
mod images;
mod inspect;
mod kind;
mod login;
mod manifests;
mod outcome;
mod panics;
mod prune;
mod pull_secret;
mod push;
mod rbac;
mod reconcile;
mod render;
mod results;
mod rollout;
mod rollout_wait;
mod session;
mod signals;
mod stdout;
mod undeploy;
mod validate;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use clap::Parser as _;
use tokio::runtime::Runtime;

pub use kind::{Kind, Row};

use arguments::{Arguments, Command};
use error::{CliError, Scene};
use session::Session;
use signals::Signals;

use crate::report::{Event, Report};
use crate::settings::Surroundings;

/// All went well.
const SUCCESS: u8 = 0;
/// `diff` has found differences.
const DIFFERS: u8 = 1;
/// `diff` could not find out.
const DIFF_FAILED: u8 = 2;
/// How long work that was given up may take to notice.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long a thread that reads and writes files waits for more. The allocator keeps for a thread what the thread has freed: some
/// megabytes each, where layers are compressed.
const IDLE: Duration = Duration::from_millis(50);

/// Runs the program; gives its exit status.
pub fn run(line: impl IntoIterator<Item = OsString>, surroundings: Surroundings) -> u8 {
    let arguments = match Arguments::try_parse_from(line) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let flags = arguments.global.lower();
    if let Some(outcome) = without_settings(&arguments.command) {
        return end(&session::fallback_report(&flags, &surroundings), outcome, Scene::default());
    }
    let session = match session::load(flags, surroundings) {
        Ok(session) => session,
        Err((error, report)) => return end(&report, Err(error.into()), Scene::default()),
    };
    panics::tell_to(&session.report);
    crate::report::install_tracing(session.report.clone());
    crate::registry::install_tls_provider();
    for (text, hint) in session.settings.oddities() {
        session.report.event(Event::Warning { text, hint });
    }
    // As kubectl's and diff's own: 1 says that there are differences.
    let failed = matches!(arguments.command, Command::Diff(_)).then_some(DIFF_FAILED);
    let (outcome, signal) = match start_runtime(&session) {
        Ok(runtime) => in_runtime(runtime, arguments.command, &session),
        Err(error) => (Err(CliError::Start(error)), None),
    };
    let panics = panics::take();
    end(&session.report, outcome, Scene { state: session.known_state(), signal, panics: &panics, failed })
}

/// Says what is wrong with a command line, or shows the help that it asks for.
fn usage(error: &clap::Error) -> u8 {
    // There is nobody to be told that nobody can be told; and who reads the head of a help alone has what they want.
    let _ = error.print();
    if error.use_stderr() { Kind::Usage.status(None) } else { SUCCESS }
}

/// Runs the commands that nothing can keep from their work, a broken configuration least of all.
fn without_settings(command: &Command) -> Option<Result<(), CliError>> {
    match command {
        Command::Completions(arguments) => Some(completions::run(arguments)),
        Command::Version => Some(stdout::write(concat!("cofferdam ", env!("CARGO_PKG_VERSION"), "\n"))),
        _ => None,
    }
}

fn start_runtime(session: &Session) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(session.settings.surroundings().threads.max(1))
        .thread_name("network")
        .thread_keep_alive(IDLE)
        .enable_all()
        .build()
}

/// Runs a command to its end, or to that of its panic; says which signal came meanwhile.
fn in_runtime(runtime: Runtime, command: Command, session: &Session) -> (Result<(), CliError>, Option<u8>) {
    let signals = {
        let _inside = runtime.enter();
        Signals::listen(&session.cancellation, &session.report)
    };
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => return (Err(CliError::Start(error)), None),
    };
    let work = AssertUnwindSafe(|| runtime.block_on(dispatch(command, session)));
    let outcome = catch_unwind(work).unwrap_or(Err(CliError::Panicked));
    runtime.shutdown_timeout(PATIENCE);
    let signal = signals.received();
    match (outcome, signal) {
        // Whatever came of it, it came of the signal.
        (Err(error), Some(_)) if !matches!(error, CliError::Panicked) => (Err(CliError::Cancelled), signal),
        other => other,
    }
}

async fn dispatch(command: Command, session: &Session) -> Result<(), CliError> {
    match command {
        Command::Build(arguments) => build::run(*arguments, session).await,
        Command::Deploy(arguments) => deploy::run(*arguments, session).await,
        Command::Diff(arguments) => diff::run(*arguments, session).await,
        Command::Rollout(arguments) => rollout::run(*arguments, session).await,
        Command::Reconcile(arguments) => reconcile::run(*arguments, session).await,
        Command::Undeploy(arguments) => undeploy::run(arguments, session).await,
        Command::Render(arguments) => render::run(arguments, session),
        Command::PullSecret(arguments) => pull_secret::run(*arguments, session).await,
        Command::Rbac(arguments) => rbac::run(*arguments, session).await,
        Command::Push(arguments) => push::run(arguments, session).await,
        Command::Copy(arguments) => copy::run(arguments, session).await,
        Command::Inspect(arguments) => inspect::run(arguments, session).await,
        Command::Login(arguments) => login::login(arguments, session).await,
        Command::Logout(arguments) => login::logout(arguments, session).await,
        Command::Images(arguments) => images::run(&arguments, session),
        Command::Prune(arguments) => prune::run(arguments, session).await,
        Command::Cache(arguments) => cache::run(arguments, session).await,
        Command::Doctor(arguments) => doctor::run(arguments, session).await,
        Command::Validate(arguments) => validate::run(arguments, session).await,
        Command::Completions(_) | Command::Version => without_settings(&command).unwrap_or(Ok(())),
    }
}

/// Tells how it ended; gives the exit status.
fn end(report: &Report, outcome: Result<(), CliError>, scene: Scene<'_>) -> u8 {
    let status = match outcome {
        Err(CliError::Differs) => DIFFERS,
        Err(error) if !error.is_closed_pipe() => {
            report.event(Event::Failed(error.failure(scene)));
            let status = Kind::of(&error).status(scene.signal);
            scene.failed.filter(|_| scene.signal.is_none()).unwrap_or(status)
        }
        _ => SUCCESS,
    };
    report.event(Event::Ended { status });
    status
}
