//! The environment variables that settings are taken from. Those of credentials and proxies belong to the registry room.

/// How all of ours begin.
pub const PREFIX: &str = "COFFERDAM_";

/// The configuration file.
pub const CONFIG: &str = "COFFERDAM_CONFIG";
/// The state directory.
pub const STATE_DIR: &str = "COFFERDAM_STATE_DIR";
/// The directory in which emulators of other machines' programs are looked for first.
pub const EMULATOR_DIR: &str = "COFFERDAM_EMULATOR_DIR";
/// How progress is shown: `auto`, `tty`, `plain`, `json` or `quiet`.
pub const PROGRESS: &str = "COFFERDAM_PROGRESS";
/// Whether details are told: `1` or `0`.
pub const VERBOSE: &str = "COFFERDAM_VERBOSE";
/// Mirrors, as `--registry-mirror` takes them, parted by spaces or `;`.
pub const REGISTRY_MIRRORS: &str = "COFFERDAM_REGISTRY_MIRRORS";
/// Hosts as `--insecure-registry` takes them, parted by spaces, commas or `;`.
pub const INSECURE_REGISTRIES: &str = "COFFERDAM_INSECURE_REGISTRIES";
/// Certificates as `--registry-ca` takes them, parted by spaces, commas or `;`.
pub const REGISTRY_CA: &str = "COFFERDAM_REGISTRY_CA";
/// How many stages are worked on at one time, and how many threads read and compress.
pub const PARALLEL: &str = "COFFERDAM_PARALLEL";
/// How layers are compressed.
pub const COMPRESSION: &str = "COFFERDAM_COMPRESSION";
/// Whether steps are refused that the kernel does not confine: `1` or `0`.
pub const REQUIRE_ISOLATION: &str = "COFFERDAM_REQUIRE_ISOLATION";
/// Whether nothing of earlier builds is used: `1` or `0`.
pub const NO_CACHE: &str = "COFFERDAM_NO_CACHE";
/// The stages that nothing of earlier builds is used for, parted by commas.
pub const NO_CACHE_FILTER: &str = "COFFERDAM_NO_CACHE_FILTER";
/// The platforms to build for, parted by commas.
pub const PLATFORM: &str = "COFFERDAM_PLATFORM";

/// The repository that results of steps are shared in.
pub const CACHE_REPO: &str = "COFFERDAM_CACHE_REPO";
/// How old a result may be that is used.
pub const CACHE_TTL: &str = "COFFERDAM_CACHE_TTL";
/// How large the state directory may be when a build has ended.
pub const STATE_LIMIT: &str = "COFFERDAM_STATE_LIMIT";

/// All of ours.
pub const ALL: [&str; 17] = [
    CONFIG,
    STATE_DIR,
    EMULATOR_DIR,
    PROGRESS,
    VERBOSE,
    REGISTRY_MIRRORS,
    INSECURE_REGISTRIES,
    REGISTRY_CA,
    PARALLEL,
    COMPRESSION,
    REQUIRE_ISOLATION,
    NO_CACHE,
    NO_CACHE_FILTER,
    PLATFORM,
    CACHE_REPO,
    CACHE_TTL,
    STATE_LIMIT,
];

/// The latest time in an image, in seconds since 1970 (reproducible-builds.org, "SOURCE_DATE_EPOCH").
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// BuildKit's name of [`PROGRESS`], which many pipelines set.
pub const BUILDKIT_PROGRESS: &str = "BUILDKIT_PROGRESS";
/// Set by every CI system that is known (`true`).
pub const CI: &str = "CI";
/// The directory that GitLab's runner has checked the project out to.
pub const CI_PROJECT_DIR: &str = "CI_PROJECT_DIR";
/// Set by GitLab's runner.
pub const GITLAB_CI: &str = "GITLAB_CI";
/// Set by GitHub's runner.
pub const GITHUB_ACTIONS: &str = "GITHUB_ACTIONS";
/// Asks for no colour, whatever its value (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";
/// The kind of terminal; `dumb` is one that nothing can be drawn on.
pub const TERM: &str = "TERM";
/// Where the user's configuration files are (XDG Base Directory Specification).
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Where the user's data are (XDG Base Directory Specification).
pub const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
/// The directories of programs, parted by colons.
pub const PATH: &str = "PATH";
/// Where temporary files are.
pub const TMPDIR: &str = "TMPDIR";
/// What says which letters a terminal shows, the first that is set (POSIX, "Environment Variables").
pub const LOCALE: [&str; 3] = ["LC_ALL", "LC_CTYPE", "LANG"];
