//! Asking a registry for an image as the kubelet does: with a pod's pull secrets, and without.
//!
//! The credentials go to the registry that the image names and nowhere else, as every request of `registry` does; they
//! are in no result.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use super::evidence::{PullAnswer, PullCheck, SecretFact};
use super::image::serves;
use crate::image::{Manifest, Platform, Reference};
use crate::registry::{
    Client, ClientOptions, Credential, ErrorKind, Keychain, Login, RegistryError, RetryPolicy, with_causes,
};

/// How long one question may take: an answer that comes later is of no use.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// Asks registries.
#[derive(Debug, Clone)]
pub struct Puller {
    options: ClientOptions,
}

/// The credentials of a Secret for one registry.
pub(super) struct PullLogin {
    pub host: String,
    login: Login,
}

impl Puller {
    /// Asks with these options (certificates, proxies, hosts without TLS); never through mirrors, and only once.
    pub fn new(options: &ClientOptions) -> Self {
        let mut options = options.clone();
        options.mirrors.clear();
        options.retry = RetryPolicy::never();
        options.timeouts.connect = options.timeouts.connect.min(CONNECT);
        Self { options }
    }

    /// What the registry says of `image` to nobody in particular, and to each of `secrets`.
    pub(super) async fn check(&self, image: &str, secrets: &BTreeMap<String, Vec<PullLogin>>) -> PullCheck {
        let mut check = PullCheck::default();
        let Ok(name) = image.parse::<Reference>() else { return check };
        let name = name.or_latest();
        let anonymous = self.ask(&name, None).await;
        let is_open = matches!(anonymous, PullAnswer::There { .. });
        check.anonymous = Some(anonymous);
        if is_open {
            return check;
        }
        for (secret, logins) in secrets {
            if let Some(login) = logins.iter().find(|login| serves(&login.host, image)) {
                let answer = self.ask(&name, Some(&login.login)).await;
                check.with.insert(secret.clone(), answer);
            }
        }
        check
    }

    async fn ask(&self, name: &Reference, login: Option<&Login>) -> PullAnswer {
        let mut options = self.options.clone();
        let mut answer = self.attempt(name, login, &options).await;
        // The kubelet's runtime may be told to do without TLS, which cannot be known here. Nothing but an anonymous
        // question goes there in the clear.
        if login.is_none() && matches!(answer, PullAnswer::Tls(_)) {
            options.hosts.entry(name.registry().to_owned()).or_default().plain_http = true;
            if let plain @ (PullAnswer::There { .. } | PullAnswer::NotFound | PullAnswer::Refused) =
                self.attempt(name, None, &options).await
            {
                answer = plain;
            }
        }
        answer
    }

    async fn attempt(&self, name: &Reference, login: Option<&Login>, options: &ClientOptions) -> PullAnswer {
        let keychain = match login {
            Some(login) => {
                Keychain::empty().with(name.registry(), Credential::new(login.clone(), "the pull secret"))
            }
            None => Keychain::empty(),
        };
        let client = match Client::new(options.clone(), keychain) {
            Ok(client) => client,
            Err(error) => return PullAnswer::Other(error.to_string()),
        };
        match tokio::time::timeout(PATIENCE, client.manifest(name)).await {
            Err(_) => PullAnswer::Unreachable("no answer".to_owned()),
            Ok(Ok(fetched)) => PullAnswer::There {
                platforms: platforms(&client, name, &fetched.bytes, &fetched.media_type).await,
            },
            Ok(Err(error)) => refused(&error),
        }
    }
}

fn refused(error: &RegistryError) -> PullAnswer {
    match error.kind() {
        ErrorKind::NotFound => PullAnswer::NotFound,
        ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::Credentials => PullAnswer::Refused,
        ErrorKind::Tls => PullAnswer::Tls(with_causes(error)),
        ErrorKind::Network => PullAnswer::Unreachable(with_causes(error)),
        _ => PullAnswer::Other(error.to_string()),
    }
}

/// The platforms of what a manifest names.
async fn platforms(client: &Client, name: &Reference, bytes: &[u8], media_type: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    match Manifest::parse(bytes, Some(media_type)) {
        Ok(Manifest::Index(index)) => {
            for platform in index.manifests().iter().filter_map(|entry| entry.platform().as_ref()) {
                let platform = Platform::from(platform).to_string();
                // Attestations stand there as images of no platform.
                if !platform.starts_with("unknown") && !found.contains(&platform) {
                    found.push(platform);
                }
            }
        }
        Ok(Manifest::Image(manifest)) => {
            let config = manifest.config();
            if let Ok(digest) = crate::image::Digest::try_from(config.digest()) {
                let read = client.blob_bytes(name.repository(), digest, config.size());
                if let Ok(Ok(bytes)) = tokio::time::timeout(PATIENCE, read).await
                    && let Ok(config) = serde_json::from_slice::<Value>(&bytes)
                {
                    let part = |name: &str| config.get(name).and_then(Value::as_str);
                    if let (Some(os), Some(architecture)) = (part("os"), part("architecture")) {
                        found.push(Platform::new(os, architecture, part("variant")).to_string());
                    }
                }
            }
        }
        Err(_) => {}
    }
    found
}

/// What may be known of a Secret, and what a registry can be asked with.
pub(super) fn read_secret(secret: &Value) -> (SecretFact, Vec<PullLogin>) {
    let kind = secret.get("type").and_then(Value::as_str).unwrap_or("Opaque").to_owned();
    let data = secret.get("data").and_then(Value::as_object);
    let keys = data.into_iter().flatten().map(|(key, _)| key.clone()).collect();
    let mut fact = SecretFact { kind, keys, ..SecretFact::default() };
    let key = match fact.kind.as_str() {
        "kubernetes.io/dockerconfigjson" => ".dockerconfigjson",
        "kubernetes.io/dockercfg" => ".dockercfg",
        _ => return (fact, Vec::new()),
    };
    let decoded = data
        .and_then(|data| data.get(key)?.as_str())
        .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok())
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let auths = match (&decoded, key) {
        (Some(config), ".dockercfg") => config.as_object(),
        (Some(config), _) => config.get("auths").and_then(Value::as_object),
        (None, _) => None,
    };
    let Some(auths) = auths else {
        fact.is_broken = true;
        return (fact, Vec::new());
    };
    let mut logins = Vec::new();
    for (host, entry) in auths {
        fact.hosts.push(host.clone());
        let Some((username, password)) = credentials(entry) else { continue };
        fact.is_job_token |= username == "gitlab-ci-token";
        if let Some(login) = Login::of(username, password) {
            logins.push(PullLogin { host: host.clone(), login });
        }
    }
    (fact, logins)
}

/// User and password of an entry: as they are, or together in `auth`.
fn credentials(entry: &Value) -> Option<(String, String)> {
    let part = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let (Some(username), Some(password)) = (part("username"), part("password")) {
        return Some((username.to_owned(), password.to_owned()));
    }
    let auth = base64::engine::general_purpose::STANDARD.decode(part("auth")?.trim()).ok()?;
    let auth = String::from_utf8(auth).ok()?;
    let (username, password) = auth.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}
