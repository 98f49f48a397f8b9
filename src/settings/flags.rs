//! What was typed, as it was typed: the low end of settings. A command line of another shape (`docker build`, kaniko's)
//! is lowered to these and means the same from here on.

use std::path::PathBuf;

/// Flags of every command.
#[derive(Debug, Clone, Default)]
pub struct GlobalFlags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--emulator-dir`
    pub emulator_dir: Option<PathBuf>,
    /// `--progress`
    pub progress: Option<String>,
    /// `--quiet`
    pub quiet: bool,
    /// `--verbose`
    pub verbose: bool,
}

/// Flags of the commands that speak to registries.
#[derive(Debug, Clone, Default)]
pub struct RegistryFlags {
    /// `--registry-mirror`, each as typed.
    pub mirrors: Vec<String>,
    /// `--insecure-registry`, each as typed.
    pub insecure: Vec<String>,
    /// `--registry-ca`, each as typed.
    pub ca: Vec<String>,
}

/// Flags of `build`.
#[derive(Debug, Clone, Default)]
pub struct BuildFlags {
    /// The context; `.` if none is given.
    pub context: Option<String>,
    /// `--file`
    pub file: Option<PathBuf>,
    /// `--tag`, each as typed.
    pub tags: Vec<String>,
    /// `--target`
    pub target: Option<String>,
    /// `--build-arg`, each as typed.
    pub build_args: Vec<String>,
    /// `--build-context`, each as typed.
    pub build_contexts: Vec<String>,
    /// `--label`, each as typed.
    pub labels: Vec<String>,
    /// `--secret`, each as typed.
    pub secrets: Vec<String>,
    /// `--ssh`, each as typed.
    pub agents: Vec<String>,
    /// `--platform`, each as typed.
    pub platforms: Vec<String>,
    /// `--annotation`, each as typed.
    pub annotations: Vec<String>,
    /// `--output`, each as typed.
    pub outputs: Vec<String>,
    /// `--push`
    pub push: bool,
    /// `--no-cache`
    pub no_cache: bool,
    /// `--cache-repo`
    pub cache_repo: Option<String>,
    /// `--cache-from`, each as typed.
    pub cache_from: Vec<String>,
    /// `--cache-to`, each as typed.
    pub cache_to: Vec<String>,
    /// `--state-limit`
    pub state_limit: Option<String>,
    /// `--cache-ttl`
    pub cache_ttl: Option<String>,
    /// `--explain`
    pub explain: bool,
    /// `--no-cache-filter`, each as typed.
    pub no_cache_filter: Vec<String>,
    /// `--compression`
    pub compression: Option<String>,
    /// `--parallel`
    pub parallel: Option<String>,
    /// `--require-isolation`
    pub require_isolation: bool,
    /// `--iidfile`
    pub iidfile: Option<PathBuf>,
    /// `--metadata-file`
    pub metadata_file: Option<PathBuf>,
    /// `--image-json`
    pub image_json: Option<PathBuf>,
    /// `--image-env`, as typed.
    pub image_env: Option<String>,
    /// `--call`
    pub call: Option<String>,
    /// `--check`
    pub check: bool,
}
