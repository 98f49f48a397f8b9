//! Docker's `config.json`, podman's `auth.json` and the old `~/.dockercfg`, as far as they hold credentials.
//!
//! Parsing only. Errors name the place, never the content: a JSON library's own message quotes the value it
//! stumbled over, and here that is a password.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{Login, Secret};

/// Base64 as people paste it: with padding or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file of credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthFile {
    /// Credentials by key.
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) auths: BTreeMap<String, Entry>,
    /// The helper for all hosts.
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) creds_store: String,
    /// Helpers for single hosts.
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) cred_helpers: BTreeMap<String, String>,
}

/// One entry of `auths`.
#[derive(Default, Deserialize)]
pub(super) struct Entry {
    #[serde(default, deserialize_with = "null_is_default")]
    auth: String,
    #[serde(default, deserialize_with = "null_is_default")]
    username: String,
    #[serde(default, deserialize_with = "null_is_default")]
    password: String,
    #[serde(default, deserialize_with = "null_is_default")]
    identitytoken: String,
    #[serde(default, deserialize_with = "null_is_default")]
    registrytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry")
    }
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl AuthFile {
    /// Reads a file of credentials.
    ///
    /// # Errors
    /// Where it is wrong, in words without its content.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        // An empty file is what `touch` and some secret mounts leave.
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map_err(|error| position(&error))
    }

    /// Reads `~/.dockercfg`, which is the `auths` object alone.
    pub(super) fn parse_legacy(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let auths = serde_json::from_str(text).map_err(|error| position(&error))?;
        Ok(Self { auths, ..Self::default() })
    }
}

fn position(error: &serde_json::Error) -> String {
    let kind = if error.is_data() { "not a file of credentials" } else { "not valid JSON" };
    format!("{kind} (line {}, column {})", error.line(), error.column())
}

impl Entry {
    /// The login that the entry holds, nothing if it holds none (which says that a helper has it).
    ///
    /// # Errors
    /// If `auth` is not base64 of `user:password`, in words without its content.
    pub(super) fn login(&self) -> Result<Option<Login>, String> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Login::RegistryToken(Secret::new(&*self.registrytoken))));
        }
        let (username, password) = if self.auth.trim().is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            decode(&self.auth)?
        };
        if !self.identitytoken.is_empty() {
            return Ok(Some(Login::IdentityToken(Secret::new(&*self.identitytoken))));
        }
        Ok(Login::of(username, password))
    }
}

/// The parts of base64(`user:password`); the password may hold colons.
fn decode(auth: &str) -> Result<(String, String), String> {
    let text: String = auth.split_whitespace().collect();
    let decoded = LENIENT.decode(text).map_err(|_| "its `auth` is not base64".to_owned())?;
    let decoded = String::from_utf8(decoded).map_err(|_| "its `auth` does not decode to text".to_owned())?;
    // `docker` cuts the zeros that its own old versions wrote.
    let decoded = decoded.trim_end_matches('\0');
    match decoded.split_once(':') {
        Some((username, password)) => Ok((username.to_owned(), password.to_owned())),
        None => Err("its `auth` does not decode to `user:password`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn login(entry: &str) -> Result<Option<Login>, String> {
        serde_json::from_str::<Entry>(entry).unwrap().login()
    }

    fn basic(username: &str, password: &str) -> Login {
        Login::Basic { username: username.into(), password: Secret::new(password) }
    }

    /// Source: docker/cli, reference of "docker login".
    #[test]
    fn every_form_of_an_entry() {
        assert_eq!(
            login(r#"{"auth":"dTpwOnE="}"#),
            Ok(Some(basic("u", "p:q"))),
            "colons belong to the password"
        );
        assert_eq!(login(r#"{"auth":"dTpwOnE"}"#), Ok(Some(basic("u", "p:q"))), "padding may be missing");
        assert_eq!(login(r#"{"auth":" dTpw\nOnE= "}"#), Ok(Some(basic("u", "p:q"))), "wrapped lines");
        assert_eq!(login(r#"{"username":"u","password":"p"}"#), Ok(Some(basic("u", "p"))));
        assert_eq!(
            login(r#"{"auth":"dTpwOnE=","username":"x","password":"y"}"#),
            Ok(Some(basic("u", "p:q")))
        );
        let identity = Ok(Some(Login::IdentityToken(Secret::new("idt"))));
        assert_eq!(
            login(r#"{"identitytoken":"idt","auth":"MDAwMDo="}"#),
            identity,
            "as `az acr login` writes it"
        );
        assert_eq!(login(r#"{"username":"<token>","password":"idt"}"#), identity, "as helpers write it");
        assert_eq!(login(r#"{"registrytoken":"rt"}"#), Ok(Some(Login::RegistryToken(Secret::new("rt")))));
        assert_eq!(login(r#"{"email":"x@example.org","auth":null}"#), Ok(None), "a helper has it");
    }

    #[rstest]
    #[case(r#"{"auth":"%%%"}"#)]
    #[case(r#"{"auth":"aHVudGVyMg=="}"#)]
    #[case(r#"{"auth":"/////w=="}"#)]
    fn a_broken_auth_is_an_error_that_does_not_quote_it(#[case] entry: &str) {
        let message = login(entry).unwrap_err();
        assert!(!message.contains("hunter2") && !message.contains("%%%"), "{message}");
    }

    #[test]
    fn a_broken_file_is_an_error_that_does_not_quote_it() {
        for text in [r#"{"auths":{"x":"hunter2"}}"#, r#"{"auths":["hunter2"]}"#, r#"{"auths":{"hunter2"}"#] {
            let message = AuthFile::parse(text).unwrap_err();
            assert!(message.contains("line 1") && !message.contains("hunter2"), "{message}");
        }
        assert!(AuthFile::parse(" \n").unwrap().auths.is_empty());
    }

    #[test]
    fn unknown_keys_and_nulls_are_fine() {
        let file =
            AuthFile::parse(r#"{"auths":null,"credsStore":"x","credHelpers":null,"proxies":{}}"#).unwrap();
        assert_eq!(file.creds_store, "x");
        let old =
            AuthFile::parse_legacy(r#"{"https://index.docker.io/v1/":{"auth":"dTpw","email":"e"}}"#).unwrap();
        assert_eq!(old.auths["https://index.docker.io/v1/"].login(), Ok(Some(basic("u", "p"))));
    }
}
