//! The distribution protocol of the registry of the tests, and how it may differ from a plain one.

use cofferdam::image::Digest;

use super::FakeRegistry;
use crate::faulty::http::{Answer, Exchange, Head, Reply};

/// How the registry differs from a plain one.
#[derive(Clone)]
pub struct Manners {
    /// `Location` without scheme and host.
    pub relative_location: bool,
    /// Another base for `Location`.
    pub location_base: Option<String>,
    /// Status of a PATCH that worked.
    pub patched: u16,
    /// Whether a mount works; the status of the answer where it does not.
    pub mount: Result<(), u16>,
    /// Whether chunked and streamed uploads are refused.
    pub monolithic_only: bool,
    /// Whether bytes in the PUT are refused.
    pub patch_only: bool,
    /// The largest body of one request.
    pub largest_body: Option<u64>,
    /// Whether a broken PATCH keeps what arrived.
    pub keeps_broken: bool,
    /// What the upload's status says instead of the truth.
    pub status_range: Option<String>,
    /// Whether ranges of blobs are served.
    pub ranges: bool,
    /// Tags that exist cannot be changed: the status and code.
    pub immutable: Option<(u16, String)>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            relative_location: false,
            location_base: None,
            patched: 202,
            mount: Ok(()),
            monolithic_only: false,
            patch_only: false,
            largest_body: None,
            keeps_broken: true,
            status_range: None,
            ranges: true,
            immutable: None,
        }
    }
}

impl FakeRegistry {
    /// What the registry answers without faults.
    pub fn normal(&self, exchange: &mut Exchange<'_>) -> Reply {
        let head = exchange.head.clone();
        if head.path() == "/token" {
            return self.token(exchange).into();
        }
        if let Some(refused) = self.refused(&head) {
            // As real ones do: the body is not looked at.
            return refused.into();
        }
        let length: u64 = head.header("content-length").map_or(0, |length| length.parse().unwrap());
        if self.manners().largest_body.is_some_and(|largest| length > largest) {
            let page = "<html><head><title>413 Request Entity Too Large</title></head></html>";
            return Answer::new(413).body(page).into();
        }
        let Some(rest) = head.path().strip_prefix("/v2/") else { return Answer::new(404).into() };
        if rest.is_empty() {
            return Answer::new(200).body("{}").into();
        }
        let rest = rest.to_owned();
        if let Some((name, _)) = rest.split_once("/tags/list") {
            return self.tags(name, &head).into();
        }
        if let Some((name, reference)) = rest.split_once("/manifests/") {
            return self.manifests(exchange, name, reference).into();
        }
        if let Some((name, id)) = rest.split_once("/blobs/uploads/") {
            return self.uploads(exchange, name, id);
        }
        match rest.split_once("/blobs/") {
            Some((name, digest)) => self.blobs(&head, name, digest).into(),
            None => Answer::error(404, "NAME_UNKNOWN", "no such path").into(),
        }
    }

    fn tags(&self, name: &str, head: &Head) -> Answer {
        let state = self.state();
        let mut tags: Vec<&String> = state
            .manifests
            .keys()
            .filter(|(repository, tag)| repository == name && !tag.contains(':'))
            .map(|(_, tag)| tag)
            .collect();
        if tags.is_empty() {
            return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        }
        tags.sort();
        let last = head.parameter("last").unwrap_or_default();
        // Two to a page whatever is asked for, so that pages are needed.
        let mut page: Vec<&&String> = tags.iter().filter(|tag| ***tag > last).take(3).collect();
        let more = page.len() == 3;
        page.truncate(2);
        let body = serde_json::json!({ "name": name, "tags": page }).to_string();
        let answer = Answer::new(200).body(body);
        match page.last().filter(|_| more) {
            Some(last) => {
                answer.header("Link", format!("</v2/{name}/tags/list?last={last}&n=2>; rel=\"next\""))
            }
            None => answer,
        }
    }

    fn manifests(&self, exchange: &mut Exchange<'_>, name: &str, reference: &str) -> Answer {
        let key = (name.to_owned(), reference.to_owned());
        match exchange.head.method.as_str() {
            "PUT" => {
                let kind = exchange.head.header("content-type").unwrap_or_default().to_owned();
                let bytes = exchange.body(usize::MAX).unwrap();
                let digest = Digest::of(&bytes);
                let mut state = self.state();
                if let Some((status, code)) = self.manners().immutable
                    && state.manifests.contains_key(&key)
                {
                    return Answer::error(status, &code, "the tag is immutable and cannot be overwritten");
                }
                if reference.contains(':') && reference != digest.to_string() {
                    return Answer::error(400, "DIGEST_INVALID", "the digest is another");
                }
                for reference in [reference.to_owned(), digest.to_string()] {
                    state.manifests.insert((name.to_owned(), reference), (kind.clone(), bytes.clone()));
                }
                Answer::new(201).header("Docker-Content-Digest", digest.to_string())
            }
            "DELETE" => match self.state().manifests.remove(&key) {
                Some(_) => Answer::new(202),
                None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            },
            _ => match self.state().manifests.get(&key) {
                Some((kind, bytes)) => Answer::new(200)
                    .header("Content-Type", kind)
                    .header("Docker-Content-Digest", Digest::of(bytes).to_string())
                    .body(bytes.clone()),
                None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            },
        }
    }

    fn blobs(&self, head: &Head, name: &str, digest: &str) -> Answer {
        let state = self.state();
        let Some(bytes) = state.blobs.get(&(name.to_owned(), digest.to_owned())) else {
            return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let answer = Answer::new(200).header("Docker-Content-Digest", digest);
        let range = head.header("range").filter(|_| self.manners().ranges);
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else {
            return answer.body(bytes.clone());
        };
        let first: usize = range.trim_end_matches('-').parse().unwrap();
        if first >= bytes.len() {
            return Answer::new(416);
        }
        let content = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
        Answer { status: 206, ..answer }.header("Content-Range", content).body(bytes[first..].to_vec())
    }

    fn uploads(&self, exchange: &mut Exchange<'_>, name: &str, id: &str) -> Reply {
        let head = exchange.head.clone();
        let manners = self.manners();
        match head.method.as_str() {
            "POST" => self.start_upload(&head, name, &manners).into(),
            "DELETE" => match self.state().uploads.remove(id) {
                Some(_) => Answer::new(204).into(),
                None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload").into(),
            },
            method => {
                let Some(known) = self.state().uploads.get(id).map(Vec::len) else {
                    return Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload").into();
                };
                if head.parameter("_state").as_deref() != Some("a/b+c==") {
                    return Answer::error(400, "BLOB_UPLOAD_INVALID", "the state is lost").into();
                }
                match method {
                    "GET" => {
                        let range = manners.status_range.unwrap_or(format!("0-{}", known.saturating_sub(1)));
                        Answer::new(204)
                            .header("Location", self.location(name, id))
                            .header("Range", range)
                            .into()
                    }
                    "PATCH" if manners.monolithic_only => {
                        Answer::error(405, "UNSUPPORTED", "chunked uploads are not supported").into()
                    }
                    "PATCH" => self.patch(exchange, name, id, known, &manners),
                    _ => self.commit(exchange, name, id, &manners),
                }
            }
        }
    }

    fn location(&self, name: &str, id: &str) -> String {
        let manners = self.manners();
        let base = match (manners.location_base, manners.relative_location) {
            (Some(base), _) => base,
            (None, true) => String::new(),
            (None, false) => self.0.base.lock().unwrap().clone(),
        };
        // A query that must come back as it is.
        format!("{base}/v2/{name}/blobs/uploads/{id}?_state=a%2Fb%2Bc%3D%3D")
    }

    fn start_upload(&self, head: &Head, name: &str, manners: &Manners) -> Answer {
        if let Some(digest) = head.parameter("mount") {
            let from = head.parameter("from").unwrap_or_default();
            let bytes = self.state().blobs.get(&(from, digest.clone())).cloned();
            match (&manners.mount, bytes) {
                (Err(status), _) if *status != 202 => {
                    return Answer::error(*status, "UNSUPPORTED", "no mount");
                }
                (Ok(()), Some(bytes)) => {
                    self.state().blobs.insert((name.to_owned(), digest), bytes);
                    return Answer::new(201);
                }
                _ => {}
            }
        }
        let id = {
            let mut state = self.state();
            state.counter += 1;
            let id = format!("upload-{}", state.counter);
            state.uploads.insert(id.clone(), Vec::new());
            id
        };
        Answer::new(202).header("Location", self.location(name, &id)).header("Range", "0-0")
    }

    fn patch(
        &self,
        exchange: &mut Exchange<'_>,
        name: &str,
        id: &str,
        known: usize,
        manners: &Manners,
    ) -> Reply {
        let range = exchange.head.header("content-range").map(str::to_owned);
        let length: usize = match exchange.head.header("content-length") {
            Some(length) => length.parse().unwrap(),
            None => return Answer::new(411).into(),
        };
        if let Some(range) = &range {
            let wanted = format!("{known}-{}", known + length - 1);
            if *range != wanted {
                return Answer::new(416).header("Range", format!("0-{}", known.saturating_sub(1))).into();
            }
        } else if known > 0 {
            return Answer::new(416).into();
        }
        let Ok(body) = exchange.body(usize::MAX) else { return Reply::HangUp };
        let mut state = self.state();
        let Some(upload) = state.uploads.get_mut(id) else { return Answer::new(404).into() };
        upload.extend_from_slice(&body);
        let end = upload.len() - 1;
        Answer::new(manners.patched)
            .header("Location", self.location(name, id))
            .header("Range", format!("0-{end}"))
            .into()
    }

    fn commit(&self, exchange: &mut Exchange<'_>, name: &str, id: &str, manners: &Manners) -> Reply {
        let digest = exchange.head.parameter("digest").unwrap_or_default();
        let Ok(body) = exchange.body(usize::MAX) else { return Reply::HangUp };
        if manners.patch_only && !body.is_empty() {
            return Answer::error(405, "UNSUPPORTED", "PATCH it").into();
        }
        let mut state = self.state();
        let mut bytes = state.uploads.get(id).cloned().unwrap_or_default();
        bytes.extend_from_slice(&body);
        if Digest::of(&bytes).to_string() != digest {
            return Answer::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
                .into();
        }
        state.uploads.remove(id);
        state.blobs.insert((name.to_owned(), digest.clone()), bytes);
        Answer::new(201).header("Docker-Content-Digest", digest).into()
    }
}
