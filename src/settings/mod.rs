//! What the user has set, from flags, environment and a file, resolved once into plain values.
//!
//! | file | owns |
//! |---|---|
//! | `variables` | the names of the environment variables |
//! | `keys` | every setting, with its flag, variable, key and default: `docs/configuration.md` is this table |
//! | `file` | the configuration file: where it is, what may stand in it |
//! | `origin`, `error` | where a value came from; what is wrong with it |
//! | `values`, `fields`, `output`, `contexts`, `places` | texts that users type, as values |
//! | `registry`, `state`, `reporting`, `build`, `call` | the resolved settings |
//!
//! # Invariants
//! 1. A flag goes before the environment, that before the file, that before the default. Lists are taken together; where
//!    entries are about the same host, the entry of the higher place counts.
//! 2. Every value knows where it came from, and an error about it says so.
//! 3. What is not understood is an error, with what was probably meant. Nothing is passed over.
//! 4. Nothing here reads the process's environment: [`Surroundings`] are handed in. Files are read (the configuration,
//!    certificates), none is written but the state directory, which is made.

mod annotations;
mod build;
mod caches;
mod call;
mod contexts;
mod error;
mod fields;
mod file;
mod flags;
pub mod keys;
mod origin;
mod output;
mod places;
mod registry;
mod reporting;
mod secrets;
mod state;
mod surroundings;
mod values;
pub mod variables;

pub use build::{BuildSettings, ResultFiles};
pub use caches::parse_repository;
pub use call::{Call, Method};
pub use error::SettingsError;
pub use file::ConfigFile;
pub use flags::{BuildFlags, GlobalFlags, RegistryFlags};
pub use origin::{Given, Origin};
pub use places::{parse_place, parse_platform};
pub use registry::RegistrySettings;
pub use reporting::{Form, ReportSettings};
pub use state::{StateSettings, Tried};
pub use surroundings::Surroundings;
pub use values::{parse_age, parse_size};

use crate::dockerfile::nearest;

/// The settings of one run: where everything is looked up.
#[derive(Debug)]
pub struct Settings {
    surroundings: Surroundings,
    flags: GlobalFlags,
    file: ConfigFile,
}

impl Settings {
    /// Reads the configuration file, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or something in it is wrong.
    pub fn load(flags: GlobalFlags, surroundings: Surroundings) -> Result<Self, SettingsError> {
        let file = ConfigFile::find(flags.config.as_deref(), &surroundings.environment)?;
        Ok(Self { surroundings, flags, file })
    }

    /// What the program was started in.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// The configuration file.
    pub fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// How progress is shown.
    ///
    /// # Errors
    /// If `--progress` or what stands for it is none of its values.
    pub fn report(&self) -> Result<ReportSettings, SettingsError> {
        reporting::resolve(&self.flags, &self.surroundings, &self.file)
    }

    /// Where state is kept. The directory is there and may be written to when this returns.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn state(&self) -> Result<StateSettings, SettingsError> {
        state::resolve(&self.flags, &self.surroundings, &self.file)
    }

    /// The directory in which emulators of other machines' programs are looked for first, if one is named.
    ///
    /// # Errors
    /// If it is no directory.
    pub fn emulator_directory(&self) -> Result<Option<std::path::PathBuf>, SettingsError> {
        let flag =
            self.flags.emulator_dir.clone().map(|path| Given::new(path, Origin::Flag("--emulator-dir")));
        let variable = self.surroundings.environment.path(variables::EMULATOR_DIR);
        let variable = variable.map(|path| Given::new(path, Origin::Variable(variables::EMULATOR_DIR)));
        match flag.or(variable).or_else(|| self.file.emulator_dir.clone()) {
            Some(Given { value, origin }) if !value.is_dir() => {
                Err(error::Problem::new(value.display().to_string(), "is no directory").at(&origin))
            }
            given => Ok(given.map(|given| given.value)),
        }
    }

    /// How registries are reached.
    ///
    /// # Errors
    /// If an entry makes no sense, or a certificate cannot be read.
    pub fn registry(&self, flags: &RegistryFlags) -> Result<RegistrySettings, SettingsError> {
        registry::resolve(flags, &self.surroundings, &self.file)
    }

    /// What is to be built.
    ///
    /// # Errors
    /// If anything in it makes no sense.
    pub fn build(&self, flags: &BuildFlags) -> Result<BuildSettings, SettingsError> {
        build::resolve(flags, &self.surroundings, &self.file)
    }

    /// What is set and means nothing: variables that look like ours and are not, each with a hint.
    pub fn oddities(&self) -> Vec<(String, Option<String>)> {
        let names = self.surroundings.environment.variables().filter_map(|(name, _)| name.to_str());
        names
            .filter(|name| name.starts_with(variables::PREFIX) && !variables::ALL.contains(name))
            .map(|name| {
                let meant = nearest(name, variables::ALL.iter().copied());
                let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
                (format!("environment variable `{name}` is no setting and is not used"), hint)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
