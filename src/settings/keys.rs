//! Every setting: its flag, variable, key in the file, default and meaning. `docs/configuration.md` shows this table, and a
//! test compares them.

use super::variables;

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The flag with its value.
    pub flag: Option<&'static str>,
    /// The environment variable.
    pub variable: Option<&'static str>,
    /// The key in the configuration file.
    pub file: Option<&'static str>,
    /// What holds if nobody says otherwise.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn key(
    flag: Option<&'static str>,
    variable: Option<&'static str>,
    file: Option<&'static str>,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { flag, variable, file, default, meaning }
}

/// Settings of every command.
pub const GENERAL: &[Key] = &[
    key(
        Some("--config FILE"),
        Some(variables::CONFIG),
        None,
        "`$XDG_CONFIG_HOME/cofferdam/config.toml` (`~/.config/…`), else `/etc/cofferdam/config.toml`",
        "the configuration file",
    ),
    key(
        Some("--state-dir DIR"),
        Some(variables::STATE_DIR),
        Some("state-dir"),
        "see below",
        "where images, layers and the cache are kept",
    ),
    key(
        Some("--emulator-dir DIR"),
        Some(variables::EMULATOR_DIR),
        Some("emulator-dir"),
        "none",
        "look here first for the emulators of other machines' programs",
    ),
    key(
        Some("--progress FORM"),
        Some(variables::PROGRESS),
        Some("progress"),
        "`auto`",
        "how progress is shown: `auto`, `tty`, `plain`, `json` or `quiet`",
    ),
    key(Some("-q`, `--quiet"), None, None, "off", "the same as `--progress=quiet`"),
    key(
        Some("-v`, `--verbose"),
        Some(variables::VERBOSE),
        Some("verbose"),
        "off",
        "tell details too: retries, refused mounts",
    ),
];

/// Settings of the commands that speak to registries.
pub const REGISTRY: &[Key] = &[
    key(
        Some("--registry-mirror [HOST=]MIRROR[,MIRROR]"),
        Some(variables::REGISTRY_MIRRORS),
        Some("registry.\"HOST\".mirrors"),
        "none",
        "pull images of `HOST` (`docker.io` if none is named) from mirrors first",
    ),
    key(
        None,
        None,
        Some("registry.\"HOST\".fall-back"),
        "`true`",
        "ask `HOST` itself when no mirror has what is wanted",
    ),
    key(
        Some("--insecure-registry HOST"),
        Some(variables::INSECURE_REGISTRIES),
        Some("registry.\"HOST\".insecure"),
        "none; loopback may always be spoken to without TLS",
        "allow `HOST` to have no TLS, or a certificate that is not trusted",
    ),
    key(
        Some("--registry-ca [HOST=]FILE"),
        Some(variables::REGISTRY_CA),
        Some("registry-ca`, `registry.\"HOST\".ca"),
        "none",
        "trust the certificates in `FILE` (PEM), for one host or for all, beside the system's",
    ),
    key(
        None,
        None,
        Some("registry.\"HOST\".client-certificate`, `registry.\"HOST\".client-key"),
        "none",
        "show this certificate to `HOST` (files in PEM)",
    ),
    key(
        None,
        None,
        Some("registry.\"HOST\".upload"),
        "what is known of the host",
        "how blobs are uploaded: `streamed`, `monolithic` or `chunked:SIZE`",
    ),
];

/// Settings of `build`.
pub const BUILD: &[Key] = &[
    key(
        Some("--parallel STAGES"),
        Some(variables::PARALLEL),
        Some("parallel"),
        "the processors that may be used",
        "how many stages are worked on at one time, and how many threads read and compress",
    ),
    key(
        Some("--compression KIND[:LEVEL]"),
        Some(variables::COMPRESSION),
        Some("compression"),
        "`gzip`",
        "how layers are compressed: `gzip` (0 to 12), `zstd` (1 to 22) or `none`",
    ),
    key(
        Some("--no-cache"),
        Some(variables::NO_CACHE),
        Some("no-cache"),
        "off",
        "use nothing of what earlier builds have left",
    ),
    key(
        Some("--cache-repo REPOSITORY"),
        Some(variables::CACHE_REPO),
        Some("cache-repo"),
        "none",
        "share the results of steps in this repository",
    ),
    key(
        Some("--cache-ttl AGE"),
        Some(variables::CACHE_TTL),
        Some("cache-ttl"),
        "none",
        "use no result of a step that is older: `36h`, `14d`",
    ),
    key(
        Some("--state-limit SIZE"),
        Some(variables::STATE_LIMIT),
        Some("state-limit"),
        "none",
        "after the build, remove from the state directory what was not used for longest, until it has at most so much: `2GB`",
    ),
    key(
        Some("--no-cache-filter STAGE,…"),
        Some(variables::NO_CACHE_FILTER),
        Some("no-cache-filter"),
        "none",
        "carry out the steps of these stages anew, and those that take files from them",
    ),
    key(
        Some("--platform OS/ARCH,…"),
        Some(variables::PLATFORM),
        Some("platform"),
        "this machine's",
        "the platforms to build for; several make an index",
    ),
    key(
        Some("--require-isolation"),
        Some(variables::REQUIRE_ISOLATION),
        Some("require-isolation"),
        "off",
        "refuse to run steps that the kernel does not confine (Landlock)",
    ),
    key(
        Some("--build-arg SOURCE_DATE_EPOCH=SECONDS"),
        Some(variables::SOURCE_DATE_EPOCH),
        None,
        "none",
        "no time in the image is later than this; the same input gives the same digest",
    ),
];
