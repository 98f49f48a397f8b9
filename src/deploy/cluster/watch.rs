//! Watches: changes as they happen.

use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;

use super::answer::{ApiError, Refusal};

/// A server ends a watch after 30 s, as it is asked to. What is silent for longer was forgotten on the way, as load
/// balancers and agents' tunnels do: it is asked for anew then, and no change is seen later than this.
const SILENCE: Duration = Duration::from_secs(35);

/// A change.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// The object is there now, or has changed.
    Applied(Value),
    /// The object is gone; this was the last of it.
    Deleted(Value),
    /// All changes up to this resource version were told.
    Bookmark(String),
}

/// The changes that a server tells of, one after the other.
#[derive(Debug)]
pub struct Watch {
    body: Body,
    buffer: Vec<u8>,
    request: String,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl Watch {
    pub(super) fn new(body: Body, request: String) -> Self {
        Self { body, buffer: Vec::new(), request }
    }

    /// The next change; nothing if the server has ended the watch, which is its right at any time.
    ///
    /// # Errors
    /// [`ApiError::Expired`] if one must list again; otherwise if the connection broke or fell silent.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.event(&line).map(Some);
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            match frame {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                // What is cut in the middle of a line is as good as ended.
                Ok(None | Some(Err(_))) | Err(_) => return Ok(None),
            }
        }
    }

    fn event(&self, line: &[u8]) -> Result<WatchEvent, ApiError> {
        let Line { kind, object } = serde_json::from_slice(line)
            .map_err(|error| ApiError::Garbled { request: self.request.clone(), why: error.to_string() })?;
        match kind.as_str() {
            "ADDED" | "MODIFIED" => Ok(WatchEvent::Applied(object)),
            "DELETED" => Ok(WatchEvent::Deleted(object)),
            "BOOKMARK" => {
                let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
                Ok(WatchEvent::Bookmark(version.unwrap_or_default().to_owned()))
            }
            _ => {
                let code = object.get("code").and_then(Value::as_u64).unwrap_or(500);
                let code = u16::try_from(code).unwrap_or(500);
                if code == 410 {
                    return Err(ApiError::Expired);
                }
                let refusal = Refusal::new(code, self.request.clone(), object.to_string().as_bytes());
                Err(ApiError::Refused(Box::new(refusal)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_events_wherever_they_are_cut() {
        let text = concat!(
            r#"{"type":"ADDED","object":{"a":1}}"#,
            "\n\n",
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}"#,
            "\n",
            r#"{"type":"DELETED","object":{}}"#,
            "\n",
            r#"{"type":"MODIF"#,
        );
        let mut watch = Watch::new(Body::from(text.as_bytes().to_vec()), "GET x".to_owned());
        let mut events = Vec::new();
        while let Some(event) = watch.next().await.unwrap() {
            events.push(event);
        }
        let expected = [
            WatchEvent::Applied(serde_json::json!({"a": 1})),
            WatchEvent::Bookmark("7".to_owned()),
            WatchEvent::Deleted(serde_json::json!({})),
        ];
        assert_eq!(events, expected);
    }

    #[tokio::test]
    async fn a_version_that_is_forgotten_is_an_error_of_its_own() {
        let text =
            br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}
"#;
        let mut watch = Watch::new(Body::from(text.to_vec()), "GET x".to_owned());
        assert!(matches!(watch.next().await, Err(ApiError::Expired)));
    }
}
