//! The machine: kernel, user, processors, and what the sandbox finds.

use serde::Serialize;

use crate::image::Platform;
use crate::sandbox::{EmulatorSearch, Emulators, Finding, Findings, Protection};
use crate::settings::Settings;

/// What is known of the machine.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub kernel: String,
    pub platform: String,
    pub uid: u32,
    pub processors: usize,
    /// In one line, as the log of a build has it.
    pub summary: String,
    pub isolation: Protection,
    pub findings: Vec<Finding>,
    pub emulators: Emulators,
    /// Why no step can run, if none can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// Where the settings come from, beside flags and environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
}

impl Machine {
    /// Finds out.
    pub fn examine(settings: &Settings, emulators: &EmulatorSearch) -> Self {
        let findings = Findings::gather();
        let kernel = rustix::system::uname();
        let surroundings = settings.surroundings();
        Self {
            kernel: kernel.release().to_string_lossy().into_owned(),
            platform: Platform::host().to_string(),
            uid: surroundings.uid,
            processors: surroundings.threads,
            summary: findings.summary(),
            isolation: findings.protection(),
            obstacle: findings.obstacle(),
            findings: findings.list().to_vec(),
            emulators: Emulators::find(emulators),
            config_file: settings.file().path.as_ref().map(|path| path.display().to_string()),
        }
    }
}
