//! What an API server says when it does not do what it was asked.

use std::error::Error as StdError;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Why a request has no result.
#[derive(Debug, Clone, Error)]
pub enum ApiError {
    /// The server has answered, and refused.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// There was no answer, or none from an API server.
    #[error("the API server {server} cannot be reached: {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened, with its causes.
        why: String,
    },
    /// The credentials for the cluster cannot be had.
    #[error("no credentials for the API server {server}: {why}")]
    Credentials {
        /// Its address.
        server: String,
        /// What happened. Nothing that a plugin wrote to its standard output is in it.
        why: String,
    },
    /// The server has answered with what cannot be understood.
    #[error("cannot understand the answer to {request}: {why}")]
    Garbled {
        /// What was asked: method and path.
        request: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A watch knows of nothing before a version that was forgotten: list again.
    #[error("the resource version is too old")]
    Expired,
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl ApiError {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the server has said that it may not be.
    pub fn is_forbidden(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == 403)
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unreachable { why, .. } if why.to_lowercase().contains("certificate") => {
                "if the cluster has a certificate authority of its own, name its certificate with --certificate-authority \
                 or SSL_CERT_FILE"
            }
            Self::Unreachable { .. } => {
                "check the address in the kubeconfig, and proxy and network of where this runs; \
                 `cofferdam deploy doctor` tries them"
            }
            Self::Credentials { .. } => "the kubeconfig's credentials or its plugin do not work here",
            Self::Refused(refusal) if refusal.code == 401 => {
                "the token may have expired: that of a CI job ends with the job"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == 404)
    }
}

/// A `Status` of an API server, and the request it answers
/// (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// In one word: `Conflict`, `Invalid`, `Forbidden`; empty if what answered was no API server.
    pub reason: String,
    /// In words.
    pub message: String,
    /// What about it, field by field.
    pub causes: Vec<Cause>,
    /// What was asked: method and path.
    pub request: String,
    /// What the server warns of besides.
    pub warnings: Vec<String>,
}

/// A part of the reason for a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// In one word: `FieldManagerConflict`, `FieldValueInvalid`.
    pub reason: String,
    /// In words.
    pub message: String,
    /// The field, as `.spec.replicas` or `spec.replicas`.
    pub field: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    kind: String,
    reason: String,
    message: String,
    details: Option<Details>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    causes: Option<Vec<Cause>>,
}

/// The most of an answer that is quoted if it is not an API server's.
const QUOTED: usize = 200;

impl Refusal {
    /// From the body of an answer.
    pub fn new(code: u16, request: String, body: &[u8]) -> Self {
        match serde_json::from_slice::<Status>(body) {
            Ok(status) if status.kind == "Status" => Self {
                code,
                reason: status.reason,
                message: status.message,
                causes: status.details.and_then(|details| details.causes).unwrap_or_default(),
                request,
                warnings: Vec::new(),
            },
            _ => {
                let text = String::from_utf8_lossy(body);
                let text: String = text.trim().chars().take(QUOTED).collect();
                let message =
                    if text.is_empty() { format!("HTTP {code}") } else { format!("HTTP {code}: {text}") };
                Self {
                    code,
                    reason: String::new(),
                    message,
                    causes: Vec::new(),
                    request,
                    warnings: Vec::new(),
                }
            }
        }
    }

    /// The conflicts with other managers of fields; none if that is not why.
    pub fn field_conflicts(&self) -> impl Iterator<Item = &Cause> {
        self.causes.iter().filter(|cause| cause.reason == "FieldManagerConflict")
    }

    /// Whether fields belong to somebody else.
    pub fn is_field_conflict(&self) -> bool {
        self.code == 409 && self.field_conflicts().next().is_some()
    }

    /// Whether two requests met at a quota, so that trying again is all there is to do (kubernetes/kubernetes#67761).
    pub fn is_quota_race(&self) -> bool {
        self.code == 409 && self.message.contains("on resourcequotas")
    }

    /// Whether a field cannot be changed. There is no reason of its own for this: the words are those of
    /// `k8s.io/apimachinery/pkg/api/validation`, of CRDs' transition rules as far as they say so, and of `StatefulSet`.
    pub fn is_immutable(&self) -> bool {
        self.reason == "Invalid"
            && (self.message.contains("field is immutable")
                || self.message.contains("is immutable after")
                || self.message.contains("updates to statefulset spec for fields other than")
                || self.message.contains("may not change once set"))
    }

    /// Whether the server does not know the kind at all: a CRD that is not there or not served yet.
    pub fn is_unknown_kind(&self) -> bool {
        self.code == 404 && self.message.contains("could not find the requested resource")
    }

    /// Whether the kind has no such field.
    pub fn is_unknown_field(&self) -> bool {
        self.message.contains("unknown field") || self.message.contains("field not declared in schema")
    }
}

/// Takes the managed fields out of an object. They are half of it, and thousands of objects are kept until everything is
/// ready.
pub fn forget_managers(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// An error with its causes, but not what a plugin has written: that may be the token.
pub(super) fn told(error: &(dyn StdError + 'static)) -> String {
    use kube::client::AuthError;
    if let Some(kube::Error::Auth(AuthError::AuthExecRun { cmd, out })) = error.downcast_ref() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said = said.trim().lines().last().unwrap_or_default().to_owned();
        return format!("`{cmd}` failed ({}): {said}", out.status);
    }
    if let Some(kube::Error::Auth(AuthError::AuthExecParse(_))) = error.downcast_ref() {
        return "the plugin of the kubeconfig has written what is no credential".to_owned();
    }
    let mut text = String::new();
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        // Many of the library's own errors say what their cause will say again.
        if let Some(tail) = text.rfind(&said) {
            text.truncate(tail);
            text.push_str(&said);
        } else {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        next = error.source();
    }
    text
}

/// Whether asking again is of no use: certificates do not get better by it.
pub(super) fn is_final(why: &str) -> bool {
    let why = why.to_lowercase();
    ["certificate", "unsupported protocol", "invalid url"].iter().any(|word| why.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_its_causes() {
        let body = br#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Conflict","code":409,
            "message":"Apply failed with 1 conflict: conflict with \"kubectl-edit\" using apps/v1: .spec.replicas",
            "details":{"causes":[{"reason":"FieldManagerConflict","field":".spec.replicas",
            "message":"conflict with \"kubectl-edit\" using apps/v1"}]}}"#;
        let refusal = Refusal::new(409, "PATCH x".to_owned(), body);
        assert!(refusal.is_field_conflict());
        let fields: Vec<_> = refusal.field_conflicts().map(|cause| &*cause.field).collect();
        assert_eq!(fields, [".spec.replicas"]);
    }

    #[test]
    fn what_a_proxy_says_is_quoted_in_part() {
        let refusal = Refusal::new(502, "GET x".to_owned(), &[b'x'; 1000]);
        assert_eq!(refusal.message.len(), "HTTP 502: ".len() + QUOTED);
        assert_eq!(Refusal::new(503, "GET x".to_owned(), b"").message, "HTTP 503");
    }

    #[test]
    fn null_details_are_none() {
        let body = br#"{"kind":"Status","reason":"NotFound","message":"no","details":null}"#;
        assert_eq!(Refusal::new(404, "GET x".to_owned(), body).causes, []);
    }
}
