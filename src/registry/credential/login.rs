//! `login` and `logout`: a credential is kept where `docker` would keep it, in a helper's store if the file
//! names one, else in the file.
//!
//! The file is written beside itself with mode 0600 and renamed, so that it is whole at every instant; keys
//! this program does not know stay in it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::file::AuthFile;
use super::helper::Helper;
use super::{CredentialError, Keychain, Login, docker_config, key};

/// Where a login was put, or taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAt {
    /// The file.
    pub file: PathBuf,
    /// The helper that the file names and that has the secret, if one does.
    pub helper: Option<String>,
}

/// The password in what stands on standard input: all of it but one newline at its end.
pub fn password_from_input(input: &str) -> &str {
    let input = input.strip_suffix('\n').unwrap_or(input);
    input.strip_suffix('\r').unwrap_or(input)
}

impl Keychain {
    /// Keeps `login` for `registry` (a host, perhaps with a path). Check it first
    /// ([`Client::check_login`](crate::registry::Client::check_login)).
    ///
    /// # Errors
    /// If there is no place to keep it, the file cannot be read or written, or the helper fails.
    pub async fn store(&self, registry: &str, login: &Login) -> Result<StoredAt, CredentialError> {
        let (path, mut config) = self.load()?;
        // Helpers know users with passwords and identity tokens, for whole hosts.
        let pair = match login {
            Login::Basic { username, password } => Some((username.as_str(), password.expose())),
            Login::IdentityToken(token) => Some(("<token>", token.expose())),
            Login::RegistryToken(_) | Login::Anonymous => None,
        };
        let helper = helper_for(&config, &path, registry)?.filter(|_| !key::normal(registry).contains('/'));
        let (marker, helper) = match (helper, pair) {
            (Some(name), Some((username, secret))) => {
                let stored = self.helper(&name).store(&key::server_name(registry), username, secret).await;
                stored.map_err(|what| helper_error(&name, &path, what))?;
                // The empty entry is how `docker` marks that the helper has it.
                (Value::Object(Map::new()), Some(name))
            }
            _ => (entry(login), None),
        };
        forget(&mut config, registry);
        auths(&mut config).insert(key::filed_under(registry), marker);
        write(&path, &config)?;
        Ok(StoredAt { file: path, helper })
    }

    /// Forgets the login for `registry`. Gives nothing if there was none to forget.
    ///
    /// # Errors
    /// If the file cannot be read or written, or the helper fails.
    pub async fn erase(&self, registry: &str) -> Result<Option<StoredAt>, CredentialError> {
        let (path, mut config) = self.load()?;
        let helper = helper_for(&config, &path, registry)?.filter(|_| !key::normal(registry).contains('/'));
        if let Some(name) = &helper {
            let erased = self.helper(name).erase(&key::server_name(registry)).await;
            erased.map_err(|what| helper_error(name, &path, what))?;
        }
        let known = forget(&mut config, registry);
        if known {
            write(&path, &config)?;
        }
        Ok((known || helper.is_some()).then_some(StoredAt { file: path, helper }))
    }

    fn helper<'a>(&'a self, name: &'a str) -> Helper<'a> {
        Helper { name, environment: &self.environment, timeout: self.helper_timeout }
    }

    /// The file that logins are kept in, and what it holds.
    fn load(&self) -> Result<(PathBuf, Map<String, Value>), CredentialError> {
        let named = self.environment.path("REGISTRY_AUTH_FILE");
        let path = named.or_else(|| docker_config(&self.environment).map(|(path, _)| path));
        let path = path.ok_or(CredentialError::NoPlace)?;
        // A link is followed, so that renaming does not replace it.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(CredentialError::Read { path, source }),
        };
        if text.trim().is_empty() {
            return Ok((path, Map::new()));
        }
        match serde_json::from_str(&text) {
            Ok(config) => Ok((path, config)),
            Err(error) => Err(CredentialError::Malformed {
                origin: format!("`{}`", path.display()),
                what: format!("not valid JSON (line {}, column {})", error.line(), error.column()),
            }),
        }
    }
}

fn helper_error(name: &str, path: &Path, what: String) -> CredentialError {
    CredentialError::Helper { helper: name.to_owned(), origin: format!("`{}`", path.display()), what }
}

/// The helper that keeps the logins for `registry`.
fn helper_for(
    config: &Map<String, Value>,
    path: &Path,
    registry: &str,
) -> Result<Option<String>, CredentialError> {
    let text = Value::Object(config.clone()).to_string();
    let file = AuthFile::parse(&text)
        .map_err(|what| CredentialError::Malformed { origin: format!("`{}`", path.display()), what })?;
    let name = match key::best(file.cred_helpers.keys(), registry, "") {
        Some(key) => file.cred_helpers.get(key).cloned().unwrap_or_default(),
        None => file.creds_store,
    };
    Ok(Some(name).filter(|name| !name.is_empty()))
}

fn auths(config: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let auths = config.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    if !auths.is_object() {
        *auths = Value::Object(Map::new());
    }
    match auths {
        Value::Object(auths) => auths,
        _ => unreachable!("it was just made an object"),
    }
}

/// Takes out every spelling of `registry`. Says whether there was one.
fn forget(config: &mut Map<String, Value>, registry: &str) -> bool {
    let wanted = key::normal(registry);
    let auths = auths(config);
    let before = auths.len();
    auths.retain(|key, _| key::normal(key) != wanted);
    auths.len() < before
}

fn entry(login: &Login) -> Value {
    match login {
        Login::Anonymous => Value::Object(Map::new()),
        Login::Basic { username, password } => {
            serde_json::json!({ "auth": STANDARD.encode(format!("{username}:{}", password.expose())) })
        }
        Login::IdentityToken(token) => serde_json::json!({ "identitytoken": token.expose() }),
        Login::RegistryToken(token) => serde_json::json!({ "registrytoken": token.expose() }),
    }
}

fn write(path: &Path, config: &Map<String, Value>) -> Result<(), CredentialError> {
    let attempt = || -> io::Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = tempfile::Builder::new()
            .prefix(".config.json.")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(directory)?;
        serde_json::to_writer_pretty(&mut file, config)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(|source| CredentialError::Write { path: path.to_owned(), source })
}
