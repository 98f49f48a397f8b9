//! A small HTTP client for tests: one request, the whole answer.

use std::sync::Once;
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Panics
    /// If the body is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client. It uses no proxy: what tests ask for is on this machine.
pub struct Http {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    credentials: Option<(String, String)>,
}

impl Http {
    pub fn new() -> Self {
        Self::build(|builder| builder)
    }

    /// A client that trusts one authority (PEM) and no other.
    pub fn trusting(ca: &std::path::Path) -> Self {
        let pem = std::fs::read(ca).expect("the authority's certificate");
        let certificate = reqwest::Certificate::from_pem(&pem).expect("a PEM certificate");
        Self::build(|builder| builder.tls_certs_only([certificate]))
    }

    fn build(with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { client: with(builder).build().expect("an HTTP client"), runtime, credentials: None }
    }

    /// Sends this user and password with every request.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.credentials = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// # Errors
    /// If there is no answer.
    pub fn get(&self, url: &str) -> Result<Response, String> {
        self.send(self.client.get(url))
    }

    /// A GET with one header.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn get_with(&self, url: &str, header: &str, value: &str) -> Result<Response, String> {
        self.send(self.client.get(url).header(header, value))
    }

    /// # Errors
    /// If there is no answer.
    pub fn post_json(&self, url: &str, body: &serde_json::Value) -> Result<Response, String> {
        self.send(self.client.post(url).json(body))
    }

    fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, String> {
        let request = match &self.credentials {
            Some((name, password)) => request.basic_auth(name, Some(password)),
            None => request,
        };
        self.runtime.block_on(async {
            let response = request.send().await.map_err(|e| format!("{e:?}"))?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.bytes().await.map_err(|e| format!("{e:?}"))?.to_vec();
            Ok(Response { status, headers, body })
        })
    }
}
