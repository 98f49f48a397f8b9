//! A look from outside: whether an address answers.

use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode, Url};

use crate::registry::with_causes;

/// How long one try may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The pause between tries.
const PAUSE: Duration = Duration::from_millis(500);
/// The most of an answer that is quoted.
const QUOTED: usize = 200;

/// Asks `url` until the answer is one of success, or `patience` is at its end: a load balancer or an ingress follows a
/// rollout some seconds later. Gives the status.
///
/// # Errors
/// In words, what the last answer was.
pub async fn check(url: &Url, patience: Duration) -> Result<StatusCode, String> {
    let client = Client::builder()
        .timeout(ATTEMPT)
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| with_causes(&error))?;
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
