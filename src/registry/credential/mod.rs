//! Who we are at a registry: where credentials are looked for, in which order, and which entry wins.
//!
//! The order is one list ([`Keychain::new`]), the first place that has an entry for a repository decides, and
//! within a place `credHelpers` goes before `credsStore` before `auths` and the longest prefix of the name wins.
//! Whatever is found carries the place it came from, so that an error or `doctor` can say which credentials
//! were used. Files are read when they are needed: a registry that asks for nothing costs nothing.

mod file;
mod helper;
mod key;
mod login;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use self::file::AuthFile;
use self::helper::Helper;
use super::environment::Environment;
use super::error::with_causes;
use super::secret::Secret;

pub(crate) use self::key::normal as normal_key;
pub use self::login::{StoredAt, password_from_input};

/// How long a helper may take. Those of cloud providers ask a metadata service and a token service.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// How one proves who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Not at all.
    Anonymous,
    /// A user and a password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth 2 refresh token that the registry's token server gives access tokens for.
    IdentityToken(Secret),
    /// An access token that is used as it is.
    RegistryToken(Secret),
}

impl Login {
    /// The login of a user and a password as files and helpers write it: the user `<token>` marks an identity
    /// token, nothing in both is no login.
    pub fn of(username: impl Into<String>, password: impl Into<String>) -> Option<Self> {
        let (username, password) = (username.into(), Secret::new(password));
        match username.as_str() {
            "" if password.is_empty() => None,
            "<token>" => Some(Self::IdentityToken(password)),
            _ => Some(Self::Basic { username, password }),
        }
    }
}

/// A login and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    login: Login,
    source: String,
    from_helper: bool,
}

impl Credential {
    /// A login with a word on where it came from (`--username`).
    pub fn new(login: Login, source: impl Into<String>) -> Self {
        Self { login, source: source.into(), from_helper: false }
    }

    /// No credentials.
    pub fn anonymous() -> Self {
        Self::new(Login::Anonymous, "none found")
    }

    /// The login.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Where it came from: "`/home/x/.docker/config.json`, auths[ghcr.io/org]".
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether there is nothing to prove who one is with.
    pub fn is_anonymous(&self) -> bool {
        self.login == Login::Anonymous
    }

    /// Whether a helper gave it, which may give another one later.
    pub(crate) fn is_from_helper(&self) -> bool {
        self.from_helper
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// Why credentials could not be looked up or kept.
#[derive(Debug, Error)]
pub enum CredentialError {
    /// A file that is there cannot be read.
    #[error("cannot read credentials from `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of credentials is broken.
    #[error("{origin} is {what}")]
    Malformed {
        /// The file or variable.
        origin: String,
        /// What is wrong with it, without its content.
        what: String,
    },
    /// The entry for the registry is broken.
    #[error("{origin}, auths[{key}]: {what}")]
    Entry {
        /// The file or variable.
        origin: String,
        /// The entry's key.
        key: String,
        /// What is wrong with it, without its content.
        what: String,
    },
    /// A credential helper failed.
    #[error("credential helper `docker-credential-{helper}` (named in {origin}) {what}")]
    Helper {
        /// The helper's name as configured.
        helper: String,
        /// The file or variable that names it.
        origin: String,
        /// What happened.
        what: String,
    },
    /// Credentials cannot be written.
    #[error("cannot write credentials to `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no place to keep a login.
    #[error("there is no place to keep credentials: neither a home directory nor DOCKER_CONFIG is set")]
    NoPlace,
}

/// A place where credentials may be.
#[derive(Debug, Clone)]
enum Place {
    /// A `config.json` or `auth.json`.
    File { path: PathBuf, legacy: bool, named: bool },
    /// The content of such a file in a variable.
    Inline { variable: &'static str },
    /// A host, a user and a password in variables.
    Variables { host: &'static str, user: &'static str, password: &'static str },
    /// GitLab's job token, which every job has.
    JobToken,
}

/// Looks up credentials.
#[derive(Debug, Clone)]
pub struct Keychain {
    explicit: Vec<(String, Credential)>,
    places: Vec<Place>,
    environment: Environment,
    helper_timeout: Duration,
}

/// One place that was looked at, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The place: "`/home/x/.docker/config.json`".
    pub place: String,
    /// What is there, in words: "no such file", "no entry for ghcr.io/org/app", "auths[ghcr.io]".
    pub found: String,
    /// Whether these are the credentials that are used.
    pub used: bool,
}

impl Keychain {
    /// A keychain that has nothing: every registry is asked without credentials.
    pub fn empty() -> Self {
        Self {
            explicit: Vec::new(),
            places: Vec::new(),
            environment: Environment::default(),
            helper_timeout: HELPER_TIMEOUT,
        }
    }

    /// A keychain that looks, in this order, at: logins given by [`Keychain::with`]; `$REGISTRY_AUTH_FILE`;
    /// `$DOCKER_AUTH_CONFIG`, which holds the file itself; `$DOCKER_CONFIG/config.json`, or
    /// `~/.docker/config.json` where that is not set; `$XDG_RUNTIME_DIR/containers/auth.json`;
    /// `$XDG_CONFIG_HOME/containers/auth.json`, or `~/.config/containers/auth.json`; `~/.dockercfg`; GitLab's
    /// variables for its registry and its dependency proxy.
    pub fn new(environment: Environment) -> Self {
        let file = |path: PathBuf, named| Place::File { path, legacy: false, named };
        let home = environment.home().map(Path::to_owned);
        let at_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let mut places = Vec::new();
        places.extend(environment.path("REGISTRY_AUTH_FILE").map(|path| file(path, true)));
        places.push(Place::Inline { variable: "DOCKER_AUTH_CONFIG" });
        places.extend(docker_config(&environment).map(|(path, named)| file(path, named)));
        let runtime = environment.path("XDG_RUNTIME_DIR");
        places.extend(runtime.map(|directory| file(directory.join("containers/auth.json"), false)));
        let config = environment.path("XDG_CONFIG_HOME").or_else(|| at_home(".config"));
        places.extend(config.map(|directory| file(directory.join("containers/auth.json"), false)));
        places.extend(at_home(".dockercfg").map(|path| Place::File { path, legacy: true, named: false }));
        places.push(Place::Variables {
            host: "CI_REGISTRY",
            user: "CI_REGISTRY_USER",
            password: "CI_REGISTRY_PASSWORD",
        });
        places.push(Place::JobToken);
        places.push(Place::Variables {
            host: "CI_DEPENDENCY_PROXY_SERVER",
            user: "CI_DEPENDENCY_PROXY_USER",
            password: "CI_DEPENDENCY_PROXY_PASSWORD",
        });
        Self { explicit: Vec::new(), places, environment, helper_timeout: HELPER_TIMEOUT }
    }

    /// The same, which knows `credential` for `registry` (a host, perhaps with a path) before anything else.
    #[must_use]
    pub fn with(mut self, registry: &str, credential: Credential) -> Self {
        self.explicit.push((key::normal(registry), credential));
        self
    }

    /// The same with another limit on the time a helper may take (30 s).
    #[must_use]
    pub fn with_helper_timeout(mut self, timeout: Duration) -> Self {
        self.helper_timeout = timeout;
        self
    }

    /// The credentials for a repository: `registry` is its host, `path` its path there, which may be empty.
    ///
    /// # Errors
    /// If a place that decides is broken, or a helper fails. A helper that has nothing is no failure.
    pub async fn lookup(&self, registry: &str, path: &str) -> Result<Credential, CredentialError> {
        let keys: Vec<&String> = self.explicit.iter().map(|(key, _)| key).collect();
        if let Some(best) = key::best(keys, registry, path)
            && let Some((_, credential)) = self.explicit.iter().find(|(key, _)| key == best)
        {
            return Ok(credential.clone());
        }
        for place in &self.places {
            if let Ok(credential) = self.look_at(place, registry, path).await? {
                return Ok(credential);
            }
        }
        Ok(Credential::anonymous())
    }

    /// What each place has for a repository. Unlike [`Keychain::lookup`] it goes on behind an error, and asks
    /// helpers too.
    pub async fn explain(&self, registry: &str, path: &str) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        let mut used = false;
        for (key, credential) in &self.explicit {
            let serves = key::best([key], registry, path).is_some();
            let found = if serves { format!("login for {key}") } else { format!("login for {key} only") };
            findings.push(Finding { place: credential.source.clone(), found, used: serves && !used });
            used |= serves;
        }
        for place in &self.places {
            let (found, serves) = match self.look_at(place, registry, path).await {
                Ok(Ok(credential)) => (credential.source, true),
                Ok(Err(nothing)) => (nothing, false),
                Err(error) => (with_causes(&error), false),
            };
            findings.push(Finding { place: self.describe(place), found, used: serves && !used });
            used |= serves;
        }
        findings
    }

    /// The credentials a place has, or in words why it has none.
    async fn look_at(
        &self,
        place: &Place,
        registry: &str,
        path: &str,
    ) -> Result<Result<Credential, String>, CredentialError> {
        let origin = self.describe(place);
        let parsed = match place {
            Place::File { path, legacy, named } => match read(path, *named)? {
                Ok(text) if *legacy => AuthFile::parse_legacy(&text),
                Ok(text) => AuthFile::parse(&text),
                Err(nothing) => return Ok(Err(nothing)),
            },
            Place::Inline { variable } => match self.environment.get(variable) {
                Some(text) => AuthFile::parse(text),
                None => return Ok(Err("not set".to_owned())),
            },
            Place::Variables { host, user, password } => {
                return Ok(self.in_variables(host, user, password, registry, path));
            }
            Place::JobToken => return Ok(self.job_token(registry, path)),
        };
        let file = parsed.map_err(|what| CredentialError::Malformed { origin: origin.clone(), what })?;
        self.in_file(&file, &origin, registry, path).await
    }

    async fn in_file(
        &self,
        file: &AuthFile,
        origin: &str,
        registry: &str,
        path: &str,
    ) -> Result<Result<Credential, String>, CredentialError> {
        let entry = key::best(file.auths.keys(), registry, path);
        let own = match entry.and_then(|key| file.auths.get(key).map(|entry| (key, entry))) {
            None => None,
            Some((key, entry)) => {
                let login = entry.login().map_err(|what| CredentialError::Entry {
                    origin: origin.to_owned(),
                    key: key.clone(),
                    what,
                })?;
                login.map(|login| (key, Credential::new(login, format!("{origin}, auths[{key}]"))))
            }
        };
        let by_host = key::best(file.cred_helpers.keys(), registry, path);
        let (name, named_by, reach) = match by_host.and_then(|key| file.cred_helpers.get_key_value(key)) {
            Some((key, name)) => (name.as_str(), format!("credHelpers[{key}]"), key::normal(key).len()),
            None => (file.creds_store.as_str(), "credsStore".to_owned(), key::normal(registry).len()),
        };
        // A helper knows hosts. An entry for a part of the registry reaches further than its answer.
        let further = own.as_ref().is_some_and(|(key, _)| key::normal(key).len() > reach);
        let own = own.map(|(_, credential)| credential);
        if name.is_empty() || further {
            return Ok(own.ok_or_else(|| format!("no entry for {registry}/{path}")));
        }
        let helper = Helper { name, environment: &self.environment, timeout: self.helper_timeout };
        match helper.get(&key::server_name(registry)).await {
            Ok(Some(login)) => {
                let source = format!("{origin}, {named_by}: docker-credential-{name}");
                Ok(Ok(Credential { login, source, from_helper: true }))
            }
            // "Credentials not found" is an answer, not a failure; an entry beside the helper still counts.
            Ok(None) => Ok(own.ok_or_else(|| format!("docker-credential-{name} has none for {registry}"))),
            Err(what) => {
                Err(CredentialError::Helper { helper: name.to_owned(), origin: origin.to_owned(), what })
            }
        }
    }

    fn in_variables(
        &self,
        host: &str,
        user: &str,
        password: &str,
        registry: &str,
        path: &str,
    ) -> Result<Credential, String> {
        self.serves(host, registry, path)?;
        match (self.environment.get(user), self.environment.get(password)) {
            (Some(user_name), Some(secret)) => {
                let login = Login::of(user_name, secret).ok_or_else(|| format!("{user} is not set"))?;
                Ok(Credential::new(login, format!("variables {user} and {password}")))
            }
            _ => Err(format!("{user} or {password} is not set")),
        }
    }

    fn job_token(&self, registry: &str, path: &str) -> Result<Credential, String> {
        self.serves("CI_REGISTRY", registry, path)?;
        let token = self.environment.get("CI_JOB_TOKEN").ok_or("not set")?;
        let login = Login::Basic { username: "gitlab-ci-token".to_owned(), password: Secret::new(token) };
        Ok(Credential::new(login, "variable CI_JOB_TOKEN"))
    }

    /// Whether the registry in variable `host` is the one that is asked for.
    fn serves(&self, host: &str, registry: &str, path: &str) -> Result<(), String> {
        let named = self.environment.get(host).ok_or_else(|| format!("{host} is not set"))?.to_owned();
        match key::best([&named], registry, path) {
            Some(_) => Ok(()),
            None => Err(format!("for {named} only")),
        }
    }

    fn describe(&self, place: &Place) -> String {
        match place {
            Place::File { path, .. } => format!("`{}`", path.display()),
            Place::Inline { variable } => format!("variable {variable}"),
            Place::Variables { user, password, .. } => format!("variables {user} and {password}"),
            Place::JobToken => "variable CI_JOB_TOKEN".to_owned(),
        }
    }
}

/// The file that `docker` uses, and whether the user named it.
fn docker_config(environment: &Environment) -> Option<(PathBuf, bool)> {
    match environment.path("DOCKER_CONFIG") {
        // A directory by definition; people also write the file's own name there.
        Some(path) if path.is_file() => Some((path, true)),
        Some(directory) => Some((directory.join("config.json"), true)),
        None => environment.home().map(|home| (home.join(".docker/config.json"), false)),
    }
}

/// The text of a file, or in words why there is none. One that may not be read is passed over if nobody named
/// it: a pod's user often has the home directory of another.
fn read(path: &Path, named: bool) -> Result<Result<String, String>, CredentialError> {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Ok(text)),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(Err("no such file".to_owned())),
        Err(error) if !named && matches!(error.kind(), PermissionDenied | IsADirectory) => {
            Ok(Err(error.to_string()))
        }
        Err(source) => Err(CredentialError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
