//! A look from outside: whether an address answers.

use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode, Url};

use crate::registry::{Environment, TrustStore, tls_config, with_causes};

/// How long one try may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The pause between tries.
const PAUSE: Duration = Duration::from_millis(500);
/// The most of an answer that is quoted.
const QUOTED: usize = 200;

/// A client that trusts what everything else here trusts: the authorities that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or
/// the machine's, or where there are none the ones that the program carries. For an address without TLS none are looked
/// for.
fn client(url: &Url, environment: &Environment) -> Result<Client, String> {
    let tls = match tls_config(&TrustStore::from_environment(environment)) {
        // A redirect may lead from the one to the other: what cannot be read then is told where TLS was asked for alone.
        Err(_) if url.scheme() == "http" => tls_config(&TrustStore::carried())?,
        tls => tls?,
    };
    Client::builder()
        .timeout(ATTEMPT)
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
        // An address with a name and a password is asked with them, and what it redirects to without.
        .referer(false)
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|error| with_causes(&error))
}

/// Asks `url` until the answer is one of success, or `patience` is at its end: a load balancer or an ingress follows a
/// rollout some seconds later. Gives the status.
///
/// # Errors
/// In words, what the last answer was.
pub async fn check(url: &Url, patience: Duration, environment: &Environment) -> Result<StatusCode, String> {
    let client = client(url, environment)?;
    let begun = Instant::now();
    loop {
        let last = match client.get(url.clone()).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(answer.status()),
            Ok(answer) => {
                let status = answer.status();
                let text = answer.text().await.unwrap_or_default();
                let text: String = text.trim().chars().take(QUOTED).collect();
                if text.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {text}") }
            }
            Err(error) => with_causes(&error.without_url()),
        };
        if begun.elapsed() + PAUSE > patience {
            return Err(last);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
