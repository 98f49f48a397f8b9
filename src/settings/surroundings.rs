//! What the program was started in. The one place that knows is `main`; everybody else is handed this.

use crate::registry::Environment;

/// What the program was started in.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Environment variables and the home directory.
    pub environment: Environment,
    /// The user that the program runs as.
    pub uid: u32,
    /// The user's own umask.
    pub umask: u32,
    /// Processors that the program may use.
    pub threads: usize,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
}

impl Surroundings {
    /// Those of this process. `umask` is the user's, which has been replaced by the program's own.
    pub fn of_this_process(umask: u32) -> Self {
        use std::io::IsTerminal as _;
        Self {
            environment: Environment::new(std::env::vars_os()),
            uid: rustix::process::geteuid().as_raw(),
            umask,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
        }
    }
}
