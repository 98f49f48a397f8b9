//! The one error of this room: what was attempted, where, what came back, with which credentials, how often.
//!
//! Messages hold no secret: addresses are redacted, bodies are decoded, cut and cleaned, credentials appear as
//! the place they came from. What to do about it is [`RegistryError::hint`].

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};

use super::credential::CredentialError;
use super::diagnostic::Diagnostic;
use super::hint;
use super::retry::Reason;
use super::scope::Scopes;
use super::secret::redacted;
use super::transport::{TransportError, TransportErrorKind};

/// An error with its causes on one line.
pub(crate) fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What kind of failure it is, for exit codes and for callers that go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The registry wants credentials, or others.
    Unauthorized,
    /// The credentials are known and may not do this.
    Denied,
    /// There is no such image, tag, blob or repository.
    NotFound,
    /// The registry limits how much may be asked of it.
    Throttled,
    /// The registry could not be reached, or the connection broke.
    Network,
    /// TLS could not be set up: an unknown certificate, or no TLS at all.
    Tls,
    /// The registry answered with an error or something that makes no sense.
    Registry,
    /// The bytes are not those of the digest or the size.
    Integrity,
    /// An index has no image for the platform.
    Platform,
    /// A local file could not be read or written.
    Local,
    /// Credentials could not be looked up: a broken file, a helper that fails.
    Credentials,
    /// Options that cannot be used: a certificate that is none, a mirror that is no host.
    Options,
}

/// An operation on a registry that failed.
///
/// The message says all but the cause below it ([`StdError::source`]), which is there for failures of the
/// network and of local files.
pub struct RegistryError(Box<Details>);

struct Details {
    kind: ErrorKind,
    operation: String,
    host: String,
    request: Option<(Method, String)>,
    status: Option<StatusCode>,
    diagnostics: Vec<Diagnostic>,
    message: Option<String>,
    scopes: Scopes,
    credential: Option<String>,
    retries: u32,
    reason: Option<Reason>,
    retry_after: Option<Duration>,
    earlier: Vec<(String, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl RegistryError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was attempted: "push blob `sha256:…` to `ghcr.io/group/app`".
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The registry or mirror that was asked, empty if none was.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The method and the redacted address of the request that failed.
    pub fn request(&self) -> Option<(&str, &str)> {
        self.0.request.as_ref().map(|(method, url)| (method.as_str(), url.as_str()))
    }

    /// The status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status.map(|status| status.as_u16())
    }

    /// What the registry said, decoded.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0.diagnostics
    }

    /// What the request needed (`repository:group/app:pull,push`), empty for none.
    pub fn scope(&self) -> String {
        self.0.scopes.to_string()
    }

    /// Where the credentials that were sent came from, in words; nothing if no request got that far.
    pub fn credential(&self) -> Option<&str> {
        self.0.credential.as_deref()
    }

    /// How many times it was tried again.
    pub fn retries(&self) -> u32 {
        self.0.retries
    }

    /// Whether the same may succeed later without anything being changed.
    pub fn is_temporary(&self) -> bool {
        self.0.reason.is_some()
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// What the user could do about it.
    pub fn hint(&self) -> Option<String> {
        hint::for_error(self)
    }

    /// The endpoints that were asked before this one, and what each said.
    pub fn earlier(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.earlier.iter().map(|(endpoint, message)| (endpoint.as_str(), message.as_str()))
    }

    /// The text behind the operation's name, for a list of several endpoints' errors.
    pub(crate) fn essence(&self) -> String {
        self.what()
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.0.reason
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the registry gave this error code.
    pub(crate) fn has_code(&self, code: &str) -> bool {
        self.0.diagnostics.iter().any(|diagnostic| diagnostic.code.eq_ignore_ascii_case(code))
    }

    pub(crate) fn new(kind: ErrorKind, operation: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            operation: operation.into(),
            host: String::new(),
            request: None,
            status: None,
            diagnostics: Vec::new(),
            message: None,
            scopes: Scopes::none(),
            credential: None,
            retries: 0,
            reason: None,
            retry_after: None,
            earlier: Vec::new(),
            source: None,
        }))
    }

    /// A request that got no answer.
    pub(crate) fn no_answer(operation: &str, method: &Method, url: &Url, error: TransportError) -> Self {
        use TransportErrorKind as Kind;
        let kind = match error.kind {
            Kind::Certificate | Kind::NotTls | Kind::Tls => ErrorKind::Tls,
            Kind::Source => ErrorKind::Local,
            Kind::Request => ErrorKind::Options,
            _ => ErrorKind::Network,
        };
        let reason = Reason::for_failure(error.kind);
        let mut this = Self::new(kind, operation).asked(method, url).saying(error.kind.to_string());
        this.0.reason = reason;
        this.0.source = error.source;
        this
    }

    /// An answer that is not what was asked for.
    pub(crate) fn answered(
        operation: &str,
        method: &Method,
        url: &Url,
        status: StatusCode,
        diagnostics: Vec<Diagnostic>,
    ) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => ErrorKind::Unauthorized,
            StatusCode::FORBIDDEN => ErrorKind::Denied,
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::Throttled,
            _ => ErrorKind::Registry,
        };
        let mut this = Self::new(kind, operation).asked(method, url);
        // Docker Hub's pull limit is counted over six hours: asking again only costs time. Its other 429, the
        // short one against abuse, passes within seconds.
        let exhausted = diagnostics.iter().any(|said| said.message.contains("pull rate limit"));
        this.0.reason = Reason::for_status(status).filter(|_| !exhausted);
        this.0.status = Some(status);
        this.0.diagnostics = diagnostics;
        this
    }

    pub(crate) fn asked(mut self, method: &Method, url: &Url) -> Self {
        self.0.request = Some((method.clone(), redacted(url)));
        if self.0.host.is_empty() {
            let host = url.host_str().unwrap_or_default();
            self.0.host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        }
        self
    }

    pub(crate) fn saying(mut self, message: impl Into<String>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn with_scopes(mut self, scopes: &Scopes) -> Self {
        self.0.scopes = scopes.clone();
        self
    }

    pub(crate) fn with_credential(mut self, source: Option<String>) -> Self {
        self.0.credential = source;
        self
    }

    pub(crate) fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Worth another try for `reason`.
    pub(crate) fn again(mut self, reason: Reason) -> Self {
        self.0.reason = Some(reason);
        self
    }

    /// After so many further tries.
    pub(crate) fn finally(mut self, retries: u32) -> Self {
        self.0.retries = self.0.retries.max(retries);
        self
    }

    /// No longer worth another try at this level, because the level below has done so.
    pub(crate) fn exhausted(mut self) -> Self {
        self.0.reason = None;
        self
    }

    /// What other endpoints said before.
    pub(crate) fn after(mut self, earlier: Vec<(String, String)>) -> Self {
        self.0.earlier = earlier;
        self
    }

    fn what(&self) -> String {
        let details = &*self.0;
        let mut text = String::new();
        let mut part = |separator: &str, words: &str| {
            if !text.is_empty() {
                text.push_str(separator);
            }
            text.push_str(words);
        };
        if let Some((method, url)) = &details.request {
            part("", &format!("`{method} {url}`"));
        }
        if let Some(status) = details.status {
            let name = status.canonical_reason().unwrap_or("");
            part(" answered ", format!("{} {name}", status.as_u16()).trim_end());
        }
        if let Some(message) = &details.message {
            part(": ", message);
        }
        for diagnostic in &details.diagnostics {
            part(": ", &diagnostic.to_string());
        }
        let mut context = Vec::new();
        let about_access = matches!(
            details.kind,
            ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Throttled
        );
        if about_access && !details.scopes.is_empty() {
            context.push(format!("scope `{}`", details.scopes));
        }
        if about_access && let Some(credential) = &details.credential {
            context.push(format!("credentials: {credential}"));
        }
        match details.retries {
            0 => {}
            1 => context.push("tried twice".to_owned()),
            more => context.push(format!("tried {} times", more + 1)),
        }
        if !context.is_empty() {
            part(" ", &format!("({})", context.join("; ")));
        }
        text
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.0.operation, self.what())?;
        for (endpoint, message) in &self.0.earlier {
            write!(f, "; before that, {endpoint}: {message}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryError")
            .field("kind", &self.0.kind)
            .field("message", &self.to_string())
            .field("temporary", &self.is_temporary())
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for RegistryError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<CredentialError> for RegistryError {
    fn from(error: CredentialError) -> Self {
        let operation = "look up credentials";
        Self::new(ErrorKind::Credentials, operation).saying(error.to_string()).because(error)
    }
}
