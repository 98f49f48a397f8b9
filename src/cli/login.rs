//! `cofferdam login` and `cofferdam logout`: the same files and credential helpers that `docker` uses.

use std::io::Read as _;

use clap::{Args, ValueHint};

use super::arguments::RegistryArgs;
use super::error::CliError;
use super::session::Session;
use crate::image::Reference;
use crate::registry::{Credential, Login, password_from_input};

/// What is meant where no registry is named, as for `docker`.
const DOCKER_HUB: &str = "docker.io";
/// Bytes of a password that are read; the tokens of cloud registries have a few thousand.
const LONGEST_PASSWORD: u64 = 256 * 1024;

const AFTER_LOGIN: &str = "\
Examples:
  echo \"$TOKEN\" | cofferdam login registry.example.com -u robot --password-stdin
  cofferdam login --password-stdin -u me < token.txt

The login is checked before it is kept. It is kept where `docker` looks: in $REGISTRY_AUTH_FILE,
$DOCKER_CONFIG/config.json or ~/.docker/config.json, or with the credential helper named there.";

/// Flags of `login`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_LOGIN)]
pub struct LoginArgs {
    /// The registry, perhaps with a path below which the login counts [default: docker.io]
    #[arg(value_name = "HOST", value_hint = ValueHint::Hostname)]
    host: Option<String>,
    /// The user; <token> if the password is an identity token
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input, less one line break at its end
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Flags of `logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry, as it was named to `login` [default: docker.io]
    #[arg(value_name = "HOST", value_hint = ValueHint::Hostname)]
    host: Option<String>,
}

/// Checks a login and keeps it.
pub(super) async fn login(arguments: LoginArgs, session: &Session) -> Result<(), CliError> {
    let host = host(arguments.host.as_deref())?;
    let username = arguments
        .username
        .filter(|name| !name.is_empty())
        .ok_or_else(|| CliError::usage("there is no user to log in as", "name one with `-u NAME`"))?;
    if !arguments.password_stdin {
        let hint =
            "give `--password-stdin` and the password on standard input: on a command line others see it";
        return Err(CliError::usage("there is no password to log in with", hint));
    }
    let client = session.client(&arguments.registry.lower())?;
    let read = async {
        // A thread of its own, so that a terminal where nothing is typed can be left by Ctrl-C.
        tokio::task::spawn_blocking(read_password).await.map_err(|_| CliError::Panicked)?
    };
    let password = session.or_cancelled(read).await?;
    let login = Login::of(username, password)
        .ok_or_else(|| CliError::usage("there is no password to log in with", "standard input is empty"))?;
    let credential = Credential::new(login, "standard input");
    let check = async { Ok(client.check_login(&host, &credential).await?) };
    session.or_cancelled(check).await?;
    let stored = client.keychain().store(&host, credential.login()).await?;
    let file = stored.file.display();
    session.report.note(match stored.helper {
        Some(helper) => format!(
            "logged in to {host}; the helper docker-credential-{helper} keeps the password (named in {file})"
        ),
        None => format!("logged in to {host}; the password is kept in {file}, not encrypted"),
    });
    Ok(())
}

/// Forgets a login.
pub(super) async fn logout(arguments: LogoutArgs, session: &Session) -> Result<(), CliError> {
    let host = host(arguments.host.as_deref())?;
    let registry = session.settings.registry(&RegistryArgs::default().lower())?;
    match registry.keychain.erase(&host).await? {
        Some(stored) => {
            session.report.note(format!("the login to {host} is gone from {}", stored.file.display()))
        }
        None => session.report.note(format!("there was no login to {host}")),
    }
    Ok(())
}

/// Reads a password from standard input.
///
/// # Errors
/// If there is none.
pub(super) fn read_password() -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(LONGEST_PASSWORD + 1).read_to_end(&mut bytes);
    let what = || "the password from standard input".to_owned();
    read.map_err(|source| CliError::Input { what: what(), source })?;
    if bytes.len() as u64 > LONGEST_PASSWORD {
        let hint = format!("it has more than {LONGEST_PASSWORD} bytes");
        return Err(CliError::usage("what is on standard input is no password", hint));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| CliError::usage("what is on standard input is no password", "it is not UTF-8"))?;
    let password = password_from_input(&text);
    if password.is_empty() {
        return Err(CliError::usage("there is no password to log in with", "standard input is empty"));
    }
    Ok(password.to_owned())
}

/// A registry, perhaps with a path, as image names begin with it. Addresses are taken too, as `docker` takes them.
///
/// # Errors
/// If no image's name could begin like this.
pub(super) fn host(typed: Option<&str>) -> Result<String, CliError> {
    let Some(typed) = typed else { return Ok(DOCKER_HUB.to_owned()) };
    let bare = typed.strip_prefix("https://").or_else(|| typed.strip_prefix("http://")).unwrap_or(typed);
    let bare = bare.trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    let first = bare.split('/').next().unwrap_or_default();
    // The rule by which the first part of an image's name is a registry (distribution/reference).
    let is_host = first.contains(['.', ':']) || first == "localhost";
    let name: Result<Reference, _> = format!("{bare}/x").parse();
    match name {
        Ok(_) if is_host => Ok(bare.to_owned()),
        _ => Err(CliError::usage(
            format!("`{}` is no registry", crate::report::redact(typed)),
            "give HOST or HOST:PORT as image names begin with it; a host has a dot or a port, or is `localhost`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(None, Some("docker.io"))]
    #[case(Some("ghcr.io"), Some("ghcr.io"))]
    #[case(Some("https://ghcr.io/"), Some("ghcr.io"))]
    #[case(Some("https://index.docker.io/v1/"), Some("index.docker.io"))]
    #[case(Some("localhost:5000"), Some("localhost:5000"))]
    #[case(Some("localhost"), Some("localhost"))]
    #[case(Some("[::1]:5000"), Some("[::1]:5000"))]
    #[case(Some("quay.io/group/app"), Some("quay.io/group/app"))]
    #[case(Some("me"), None)]
    #[case(Some(""), None)]
    #[case(Some("a b.c"), None)]
    #[case(Some("ftp://x.example"), None)]
    #[case(Some("https://user:secret@x.example"), None)]
    fn hosts(#[case] typed: Option<&str>, #[case] expected: Option<&str>) {
        let found = host(typed);
        assert_eq!(found.as_deref().ok(), expected);
        if let Err(error) = found {
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
