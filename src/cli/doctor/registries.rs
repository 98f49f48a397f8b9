//! Registries: how they are reached, with which credentials, and, for those that are named, whether they answer.

use serde::Serialize;

use crate::cli::error::{CliError, Scene};
use crate::registry::{Client, ClientOptions, Credential, ErrorKind, Finding, Keychain, RegistryError};
use crate::settings::RegistrySettings;

/// What is special about registries.
#[derive(Debug, Serialize)]
pub(super) struct Registries {
    pub mirrors: Vec<Mirrored>,
    pub hosts: Vec<Special>,
    /// How many files of certificates are trusted for all hosts, beside the system's.
    pub extra_authorities: usize,
}

/// A registry, or a part of one, with mirrors.
#[derive(Debug, Serialize)]
pub(super) struct Mirrored {
    pub of: String,
    pub mirrors: Vec<String>,
    pub fall_back: bool,
}

/// A host that is treated in its own way.
#[derive(Debug, Serialize)]
pub(super) struct Special {
    pub host: String,
    /// Whether it may have no TLS, or a certificate that is not trusted.
    pub insecure: bool,
    /// How many files of certificates are trusted for this host.
    pub authorities: usize,
    pub client_certificate: bool,
}

/// A registry that was named.
#[derive(Debug, Serialize)]
pub(super) struct HostReport {
    pub host: String,
    /// Where the credentials came from, or why there are none.
    pub credentials: String,
    /// Every place that was looked at.
    pub places: Vec<Place>,
    /// The host itself, and its mirrors.
    pub answers: Vec<Answer>,
}

/// A place where credentials may be.
#[derive(Debug, Serialize)]
pub(super) struct Place {
    pub place: String,
    pub found: String,
    pub used: bool,
}

impl From<Finding> for Place {
    fn from(Finding { place, found, used }: Finding) -> Self {
        Self { place, found, used }
    }
}

/// What a host said.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub host: String,
    pub is_mirror: bool,
    /// Whether anything answered that speaks the protocol.
    pub reachable: bool,
    /// Whether it takes the credentials, or wants none.
    pub accepted: bool,
    pub outcome: String,
    pub hints: Vec<String>,
}

impl Registries {
    /// Sums up the settings.
    pub fn examine(settings: &RegistrySettings) -> Self {
        let options = &settings.options;
        let mirrors = options.mirrors.iter().map(|rule| Mirrored {
            of: rule.prefix.clone(),
            mirrors: rule.mirrors.clone(),
            fall_back: rule.fall_back,
        });
        let hosts = options.hosts.iter().map(|(host, special)| Special {
            host: host.clone(),
            insecure: special.plain_http || special.untrusted_certificate,
            authorities: special.extra_roots.len(),
            client_certificate: special.identity.is_some(),
        });
        Self {
            mirrors: mirrors.collect(),
            hosts: hosts.collect(),
            extra_authorities: options.extra_roots.len(),
        }
    }
}

/// Asks each of `hosts`, and its mirrors.
///
/// # Errors
/// If the settings cannot be used. A host that does not answer is no error.
pub(super) async fn try_hosts(
    hosts: &[String],
    settings: &RegistrySettings,
) -> Result<Vec<HostReport>, CliError> {
    let mut options = settings.options.clone();
    // Who asks for an examination wants to know what happens, not to wait until it no longer does.
    options.retry.attempts = 1;
    options.mirror_retry.attempts = 1;
    let client = Client::new(options, settings.keychain.clone())?;
    let mut reports = Vec::new();
    for host in hosts {
        reports.push(try_host(host, &client, &settings.options, &settings.keychain).await);
    }
    Ok(reports)
}

async fn try_host(host: &str, client: &Client, options: &ClientOptions, keychain: &Keychain) -> HostReport {
    let (name, path) = host.split_once('/').unwrap_or((host, ""));
    let places: Vec<Place> = keychain.explain(name, path).await.into_iter().map(Place::from).collect();
    let mut answers = vec![ask(host, false, client, keychain).await];
    let mirrored = options.mirrors.iter().filter(|rule| {
        rule.prefix == name || rule.prefix.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
    });
    for mirror in mirrored.flat_map(|rule| &rule.mirrors) {
        answers.push(ask(mirror, true, client, keychain).await);
    }
    let credentials = match keychain.lookup(name, path).await {
        Ok(credential) => credential.source().to_owned(),
        Err(error) => error.to_string(),
    };
    HostReport { host: host.to_owned(), credentials, places, answers }
}

async fn ask(address: &str, is_mirror: bool, client: &Client, keychain: &Keychain) -> Answer {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let answer = |reachable, accepted, outcome: String, hints| Answer {
        host: address.to_owned(),
        is_mirror,
        reachable,
        accepted,
        outcome,
        hints,
    };
    let credential = match keychain.lookup(host, path).await {
        Ok(credential) => credential,
        Err(error) => return answer(false, false, format!("not asked: {error}"), Vec::new()),
    };
    match client.check_login(host, &credential).await {
        Ok(()) if credential.is_anonymous() => {
            answer(true, true, "answers, and asks for no credentials here".to_owned(), Vec::new())
        }
        Ok(()) => answer(true, true, "answers, and takes the credentials".to_owned(), Vec::new()),
        Err(error) => {
            let reachable = answered(&error);
            let outcome = match (reachable, credential.is_anonymous(), error.kind()) {
                (true, true, ErrorKind::Unauthorized) => wants_credentials(&credential),
                _ => error.to_string(),
            };
            let failure = CliError::from(error).failure(Scene::default());
            let causes = failure.causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
            answer(reachable, false, outcome + &causes, failure.hints)
        }
    }
}

fn wants_credentials(credential: &Credential) -> String {
    format!("answers, and wants credentials ({credential})")
}

/// Whether there was an answer at all.
fn answered(error: &RegistryError) -> bool {
    error.status().is_some()
}
