//! The token server: how an access token is asked for.
//!
//! Protocols: distribution, "Token Authentication" (GET with Basic) and "OAuth2 Token Authentication" (POST
//! with a refresh token). The realm has been checked before anything comes here.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use super::client::Client;
use super::credential::{Credential, Login};
use super::diagnostic;
use super::error::{ErrorKind, RegistryError};
use super::exchange::{Call, Payload, Shipment};
use super::retry::retry_after;
use super::scope::Scopes;
use super::secret::Secret;

/// A token's life where the server names none, by the specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Nobody's token is good for longer, whatever a server says.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is renewed so long before its end: the request it is for must still be on time.
const MARGIN: Duration = Duration::from_secs(30);
/// Bytes of an answer: tokens with many scopes reach tens of thousands.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// What we are called as an OAuth 2 client.
const CLIENT_ID: &str = "cofferdam";

/// A token that was granted.
pub(super) struct Granted {
    pub(super) secret: Secret,
    life: Duration,
}

impl Granted {
    /// How long the token is used.
    pub(super) fn useful_for(&self) -> Duration {
        self.life - MARGIN.min(self.life / 4)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Value,
}

impl Answer {
    fn granted(self) -> Option<Granted> {
        let secret = self.token.into_iter().chain(self.access_token).find(|token| !token.is_empty())?;
        let seconds = match &self.expires_in {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let life = seconds
            .filter(|seconds| *seconds >= 1.0)
            .map_or(DEFAULT_LIFE, |seconds| Duration::from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64())));
        Some(Granted { secret: Secret::new(secret), life })
    }
}

impl Client {
    /// Fetches a token for `scopes` with what `credential` holds. Tries again by itself, so the error it gives
    /// is final.
    pub(super) async fn fetch_token(
        &self,
        call: &Call<'_>,
        realm: &Url,
        service: Option<&str>,
        credential: &Credential,
        scopes: &Scopes,
    ) -> Result<Granted, RegistryError> {
        let mut retries = self.retries(call.endpoint);
        loop {
            match self.ask_for_token(call, realm, service, credential, scopes).await {
                Ok(granted) => return Ok(granted),
                Err(error) => {
                    let error =
                        error.with_scopes(scopes).with_credential(Some(credential.source().to_owned()));
                    if let Err(error) = retries.after(error).await {
                        return Err(error.exhausted());
                    }
                }
            }
        }
    }

    async fn ask_for_token(
        &self,
        call: &Call<'_>,
        realm: &Url,
        service: Option<&str>,
        credential: &Credential,
        scopes: &Scopes,
    ) -> Result<Granted, RegistryError> {
        let question = Question::new(realm, service, credential, scopes);
        let secret = question.secret.clone();
        let method = question.method.clone();
        let shipment = Shipment {
            operation: call.operation,
            method: question.method,
            url: question.url,
            headers: &question.headers,
            authorization: question.authorization,
            origin: realm,
            payload: &question.payload,
            patience: self.options().timeouts.answer,
            endpoint: None,
            // A refresh token in a body would go wherever a redirect leads.
            follow: method == Method::GET,
        };
        let (response, url) = self.follow(shipment).await?;
        let (status, wait) = (response.status, response.header(RETRY_AFTER).map(str::to_owned));
        let (body, _) = response
            .read(LONGEST_ANSWER)
            .await
            .map_err(|error| RegistryError::no_answer(call.operation, &method, &url, error))?;
        if status != StatusCode::OK {
            let shown = secret.map_or_else(
                || body.to_vec(),
                |secret| secret.scrub(&String::from_utf8_lossy(&body)).into_bytes(),
            );
            let wait = wait.and_then(|wait| retry_after(&wait, self.inner.clock.date()));
            let error =
                RegistryError::answered(call.operation, &method, &url, status, diagnostic::decode(&shown));
            // 400 is OAuth 2's "these credentials are no good" (RFC 6749, section 5.2).
            let error = match status {
                StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => error.with_kind(ErrorKind::Unauthorized),
                _ => error,
            };
            return Err(error.with_retry_after(wait));
        }
        serde_json::from_slice::<Answer>(&body).ok().and_then(Answer::granted).ok_or_else(|| {
            RegistryError::new(ErrorKind::Registry, call.operation)
                .asked(&method, &url)
                .saying("the token server's answer holds no token")
        })
    }
}

/// What a token server is asked.
struct Question {
    method: Method,
    url: Url,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
    payload: Payload<'static>,
    /// The secret that was sent, for a server that echoes it.
    secret: Option<Secret>,
}

impl Question {
    fn new(realm: &Url, service: Option<&str>, credential: &Credential, scopes: &Scopes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        match credential.login() {
            Login::IdentityToken(token) => Self::refresh(realm, service, token, scopes, headers),
            Login::Basic { username, password } => {
                use base64::Engine as _;
                let pair = format!("{username}:{}", password.expose());
                let pair = base64::engine::general_purpose::STANDARD.encode(pair);
                let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok();
                if let Some(value) = &mut value {
                    value.set_sensitive(true);
                }
                let question = Self::get(realm, service, scopes, headers);
                Self { authorization: value, secret: Some(password.clone()), ..question }
            }
            Login::Anonymous | Login::RegistryToken(_) => Self::get(realm, service, scopes, headers),
        }
    }

    fn get(realm: &Url, service: Option<&str>, scopes: &Scopes, headers: HeaderMap) -> Self {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(service.map(|service| ("service", service)));
            query.extend_pairs(scopes.each().map(|scope| ("scope", scope)));
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        let payload = Payload::Nothing;
        Self { method: Method::GET, url, headers, authorization: None, payload, secret: None }
    }

    fn refresh(
        realm: &Url,
        service: Option<&str>,
        token: &Secret,
        scopes: &Scopes,
        mut headers: HeaderMap,
    ) -> Self {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.extend_pairs(service.map(|service| ("service", service)));
        form.append_pair("client_id", CLIENT_ID);
        if !scopes.is_empty() {
            form.append_pair("scope", &scopes.to_string());
        }
        form.append_pair("refresh_token", token.expose());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.remove(AUTHORIZATION);
        Self {
            method: Method::POST,
            url: realm.clone(),
            headers,
            authorization: None,
            payload: Payload::Bytes(Bytes::from(form.finish())),
            secret: Some(token.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(r#"{"token":"t"}"#, Some(("t", 60)))]
    #[case(r#"{"access_token":"a","expires_in":300}"#, Some(("a", 300)))]
    #[case(r#"{"token":"t","access_token":"a","expires_in":"900"}"#, Some(("t", 900)))]
    #[case(r#"{"token":"","access_token":"a","expires_in":0}"#, Some(("a", 60)))]
    #[case(r#"{"token":"t","expires_in":-5}"#, Some(("t", 60)))]
    #[case(r#"{"token":"t","expires_in":1e300}"#, Some(("t", 86400)))]
    #[case(r#"{"token":null,"expires_in":5}"#, None)]
    fn answers(#[case] body: &str, #[case] expected: Option<(&str, u64)>) {
        let granted = serde_json::from_str::<Answer>(body).unwrap().granted();
        let granted = granted.as_ref().map(|granted| (granted.secret.expose(), granted.life.as_secs()));
        assert_eq!(granted, expected);
    }

    /// Source: docker/buildx#324.
    #[rstest]
    #[case(60, 45)]
    #[case(300, 270)]
    #[case(4, 3)]
    fn tokens_are_renewed_before_their_end(#[case] life: u64, #[case] useful: u64) {
        let granted = Granted { secret: Secret::new("t"), life: Duration::from_secs(life) };
        assert_eq!(granted.useful_for(), Duration::from_secs(useful));
    }

    #[test]
    fn each_scope_is_a_parameter_and_the_realms_own_query_is_kept() {
        let realm: Url = "https://auth.example/token?account=x".parse().unwrap();
        let scopes = Scopes::push("a").and(&Scopes::pull("b"));
        let question = Question::new(&realm, Some("r.example"), &Credential::anonymous(), &scopes);
        assert_eq!(
            question.url.as_str(),
            "https://auth.example/token?account=x&service=r.example&scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull"
        );
        assert!(question.authorization.is_none());
    }
}
