//! One upload session: from the address the registry gave to the commit.
//!
//! The bytes go out as one streamed PATCH without `Content-Range`, or all in the PUT, as those of small blobs do, or in chunks;
//! which of them a host takes is known, configured or learnt from its refusals, and remembered for the next blob. After a
//! PATCH that failed, of all or of a chunk, the upload goes on where the registry proves that it has the bytes so far;
//! otherwise the whole attempt begins anew.

use reqwest::header::{CONTENT_RANGE, HeaderName, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::client::{Client, Retries};
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::exchange::{Answer, Call, Payload, Target};
use super::options::UploadStyle;
use super::push::{BlobUpload, DONE};
use super::quirks::Quirks;
use super::retry::Reason;
use super::scope::Scopes;
use crate::image::{Digest, Sha256};

/// What the bytes of a blob are, to the protocol.
const OCTETS: &str = "application/octet-stream";
/// The smallest chunk a registry takes, in an upload's first answer (OCI distribution specification 1.1).
const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// Chunks to go down to when a body is too large, in bytes. Below the 100 MB of a content delivery network; below
/// GHCR's 4 MB; below the 1 MB that nginx has by default, which is every second registry in a cluster.
const CHUNKS: [u64; 3] = [64_000_000, 4_000_000, 900_000];
/// Ways of uploading that are tried on one blob before its last refusal stands.
const MOST_STYLES: usize = 5;
/// How often a registry is asked how much it has of a blob, before it is sent anew: that it may be as unwell as it was at the
/// PATCH is worth a second question, and a new session is worth what is left of the tries.
const MOST_QUESTIONS: usize = 2;

/// An upload that the registry has opened.
pub(super) struct Session {
    location: Url,
    /// The smallest chunk the registry takes.
    smallest_chunk: u64,
}

impl Session {
    /// Opens an upload.
    pub(super) async fn open(
        client: &Client,
        operation: &str,
        endpoint: &Endpoint,
    ) -> Result<Self, RegistryError> {
        let scopes = Scopes::push(&endpoint.path);
        let target = Target::Path("blobs/uploads/");
        let call = Call::new(client, operation, endpoint, Method::POST, target, scopes);
        let answer = client.once(&call, &DONE).await?;
        Self::opened(client, &call, answer).await
    }

    /// The upload that an answer says is open.
    pub(super) async fn opened(
        client: &Client,
        call: &Call<'_>,
        answer: Answer,
    ) -> Result<Self, RegistryError> {
        let location = answer.location(client, call)?;
        let announced = answer.response.number(OCI_CHUNK_MIN_LENGTH).unwrap_or(0);
        let smallest_chunk = announced.max(Quirks::of(&call.endpoint.registry).smallest_chunk);
        answer.response.finish().await;
        Ok(Self { location, smallest_chunk })
    }

    pub(super) fn location(&self) -> &Url {
        &self.location
    }

    /// Sends the blob and commits it, in the way the host takes.
    pub(super) async fn upload(
        self,
        client: &Client,
        operation: &str,
        endpoint: &Endpoint,
        blob: &BlobUpload<'_>,
        retries: &mut Retries<'_>,
    ) -> Result<(), RegistryError> {
        let mut session = self;
        let mut tried = 1;
        loop {
            let style = client.upload_style(endpoint, blob.size);
            let upload = Upload { client, operation, endpoint, blob };
            let error = match upload.run(&mut session, style, retries).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let other = other_style(style, &error, session.smallest_chunk, blob.size);
            match other.filter(|_| tried < MOST_STYLES) {
                Some(other) => {
                    tracing::debug!(?style, ?other, "{error}");
                    client.note_upload_style(endpoint, other);
                    client.cancel(endpoint, &session.location);
                    session = Self::open(client, operation, endpoint).await?;
                    tried += 1;
                }
                None => return Err(upload.blamed(error).await),
            }
        }
    }
}

/// The style to try after one was refused, if the refusal speaks against the style.
fn other_style(
    style: UploadStyle,
    error: &RegistryError,
    smallest_chunk: u64,
    size: u64,
) -> Option<UploadStyle> {
    let smaller_than = |limit: u64| {
        let fitting = CHUNKS.into_iter().find(|chunk| *chunk < limit && *chunk < size);
        fitting.map(|chunk| UploadStyle::Chunked(chunk.max(smallest_chunk))).filter(|style| match style {
            UploadStyle::Chunked(chunk) => *chunk < limit,
            _ => false,
        })
    };
    // A session that is lost (the registry has restarted) is a 404 too, and says nothing of how bytes are to be sent.
    let unsupported = !error.has_code("BLOB_UPLOAD_UNKNOWN")
        && (matches!(error.status(), Some(404 | 405 | 411 | 415 | 501)) || error.has_code("UNSUPPORTED"));
    match style {
        UploadStyle::Chunked(chunk) if is_too_large(error) => smaller_than(chunk),
        _ if is_too_large(error) => smaller_than(u64::MAX),
        UploadStyle::Streamed if unsupported => Some(UploadStyle::Monolithic),
        UploadStyle::Monolithic if unsupported => Some(UploadStyle::Streamed),
        _ => None,
    }
}

/// Whether a body was too large. GHCR says so of a chunk above 4 MiB with a status that means something else: 416, "the
/// request body is too large and exceeds the maximum permissible limit of 4.00MiB".
fn is_too_large(error: &RegistryError) -> bool {
    match error.status() {
        Some(413) => true,
        Some(416) => error.diagnostics().iter().any(|said| said.message.contains("too large")),
        _ => false,
    }
}

/// The bytes of a blob on their way into a session.
struct Upload<'a> {
    client: &'a Client,
    operation: &'a str,
    endpoint: &'a Endpoint,
    blob: &'a BlobUpload<'a>,
}

impl Upload<'_> {
    async fn run(
        &self,
        session: &mut Session,
        style: UploadStyle,
        retries: &mut Retries<'_>,
    ) -> Result<(), RegistryError> {
        match style {
            // Nothing to patch: some registries refuse a PATCH of no bytes.
            _ if self.blob.size == 0 => self.commit(session, Payload::Nothing).await,
            UploadStyle::Streamed => {
                self.patches(session, u64::MAX, false, retries).await?;
                self.commit(session, Payload::Nothing).await
            }
            UploadStyle::Monolithic => self.commit(session, self.part(0, self.blob.size)).await,
            UploadStyle::Chunked(size) => {
                let size = size.max(session.smallest_chunk).max(1);
                self.patches(session, size, true, retries).await?;
                self.commit(session, Payload::Nothing).await
            }
        }
    }

    fn part(&self, offset: u64, length: u64) -> Payload<'_> {
        Payload::Source { source: self.blob.source, offset, length, progress: self.blob.progress.as_ref() }
    }

    /// PATCHes of at most `largest` bytes each. After a failure they go on with what the registry does not have yet, if it proves
    /// what it has. `ranged` says whether the first one says where it belongs, too.
    async fn patches(
        &self,
        session: &mut Session,
        largest: u64,
        ranged: bool,
        retries: &mut Retries<'_>,
    ) -> Result<(), RegistryError> {
        let mut offset = 0;
        while offset < self.blob.size {
            let length = largest.min(self.blob.size - offset);
            offset = match self.patch(session, offset, length, ranged || offset > 0).await {
                Ok(()) => offset + length,
                Err(error) => self.resume(session, error, retries).await?,
            };
            retries.reached(offset);
        }
        Ok(())
    }

    /// Where a session goes on in which a PATCH has failed with `error`. Waits before.
    ///
    /// # Errors
    /// That of the PATCH, if there is no further try or the session is not what it speaks of; another, if a new session has to
    /// be tried.
    async fn resume(
        &self,
        session: &mut Session,
        error: RegistryError,
        retries: &mut Retries<'_>,
    ) -> Result<u64, RegistryError> {
        let mut error = error;
        for _ in 0..MOST_QUESTIONS {
            if error.reason().is_none() || !Quirks::of(&self.endpoint.registry).tells_offset {
                return Err(error);
            }
            // Waits, and gives the error back where there is no further try.
            retries.after(error).await?;
            error = match self.proven(session).await {
                Ok(Some((location, proven))) => {
                    tracing::debug!(offset = proven, "the upload goes on");
                    session.location = location;
                    return Ok(proven);
                }
                // It is still as unwell as it was at the PATCH.
                Err(unwell) if unwell.reason().is_some() => unwell,
                Ok(None) | Err(_) => {
                    retries.excuse();
                    return Err(RegistryError::new(ErrorKind::Network, self.operation)
                        .asked(&Method::PATCH, &session.location)
                        .saying(
                            "the upload broke off, and the registry does not say how much of the blob it has",
                        )
                        .again(Reason::Broken));
                }
            };
        }
        Err(error)
    }

    /// How much of the blob a session has, if the registry says so in so many words, and where it goes on.
    async fn proven(&self, session: &Session) -> Result<Option<(Url, u64)>, RegistryError> {
        let call = self.call(Method::GET, &session.location);
        let answer =
            self.client.once(&call, &[StatusCode::NO_CONTENT, StatusCode::OK, StatusCode::ACCEPTED]).await?;
        let proven = answer.response.header(RANGE).and_then(received);
        let location = answer.location(self.client, &call).ok();
        answer.response.finish().await;
        Ok(location.zip(proven.filter(|proven| *proven <= self.blob.size)))
    }

    async fn patch(
        &self,
        session: &mut Session,
        offset: u64,
        length: u64,
        ranged: bool,
    ) -> Result<(), RegistryError> {
        let mut call = self.call(Method::PATCH, &session.location).payload(OCTETS, self.part(offset, length));
        if ranged {
            // Without a unit: the protocol's own form.
            call = call.header(CONTENT_RANGE, &format!("{offset}-{}", offset + length - 1));
        }
        // The specification says 202; ECR says 201, others 204.
        let answer = self.client.once(&call, &DONE).await?;
        let location = answer.location(self.client, &call);
        answer.response.finish().await;
        // An answer without `Location` means that the address stays.
        if let Ok(location) = location {
            session.location = location;
        }
        Ok(())
    }

    /// The PUT that names the digest, with the bytes or behind them.
    async fn commit(&self, session: &Session, payload: Payload<'_>) -> Result<(), RegistryError> {
        let url = with_digest(&session.location, self.blob.digest);
        let call = self
            .call(Method::PUT, &url)
            .payload(OCTETS, payload)
            .patient(self.client.options().timeouts.commit);
        let answer = self.client.once(&call, &DONE).await?;
        self.client.confirm(&call, &answer, self.blob.digest)?;
        answer.response.finish().await;
        Ok(())
    }

    fn call<'c>(&'c self, method: Method, location: &'c Url) -> Call<'c> {
        let scopes = Scopes::push(&self.endpoint.path);
        Call::new(self.client, self.operation, self.endpoint, method, Target::Url(location), scopes)
    }

    /// The error of an upload, with the one at fault named where the registry says that the bytes are wrong:
    /// either the source is not what it should be, which is final, or they were damaged on the way.
    async fn blamed(&self, error: RegistryError) -> RegistryError {
        if !error.has_code("DIGEST_INVALID") {
            return lost_session(error);
        }
        let reader = match self.blob.source.open(0) {
            Ok(reader) => reader,
            Err(source) => return local(self.operation, source),
        };
        let hashed = tokio::task::spawn_blocking(move || hash(reader)).await;
        match hashed {
            Ok(Ok(digest)) if digest != self.blob.digest => {
                RegistryError::new(ErrorKind::Integrity, self.operation)
                    .saying(format!("what was to be sent is {digest}"))
            }
            Ok(Err(source)) => local(self.operation, source),
            Ok(Ok(_)) => error.again(Reason::Corrupt),
            Err(_) => error,
        }
    }
}

/// A session that the registry no longer knows (it restarted, or another replica answers): worth a new one.
fn lost_session(error: RegistryError) -> RegistryError {
    let lost = error.has_code("BLOB_UPLOAD_UNKNOWN") || error.status() == Some(416) && !is_too_large(&error);
    if lost && error.reason().is_none() { error.again(Reason::Broken) } else { error }
}

fn local(operation: &str, source: std::io::Error) -> RegistryError {
    RegistryError::new(ErrorKind::Local, operation)
        .saying("what was to be sent could not be read")
        .because(source)
}

fn hash(mut reader: Box<dyn std::io::Read + Send>) -> std::io::Result<Digest> {
    let mut hash = Sha256::new();
    std::io::copy(&mut reader, &mut hash)?;
    Ok(hash.finish())
}

/// The address of the commit: the registry's own query is kept, it holds the upload's state.
fn with_digest(location: &Url, digest: Digest) -> Url {
    let mut url = location.clone();
    let query = match location.query().filter(|query| !query.is_empty()) {
        Some(query) => format!("{query}&digest={digest}"),
        None => format!("digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

/// The number of bytes in `Range: 0-99` (the protocol's form) or `bytes=0-99`. Nothing else proves anything.
fn received(range: &str) -> Option<u64> {
    let range = range.trim();
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    match first.trim() {
        // `0-0` is what distribution says of one byte and of none: it proves nothing.
        "0" if last > 0 => last.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::diagnostic;
    use rstest::rstest;

    #[rstest]
    #[case("0-99", Some(100))]
    #[case("bytes=0-99", Some(100))]
    #[case("0-0", None)]
    #[case("5-99", None)]
    #[case("0--1", None)]
    #[case("0-18446744073709551615", None)]
    #[case("", None)]
    fn what_a_range_proves(#[case] header: &str, #[case] bytes: Option<u64>) {
        assert_eq!(received(header), bytes);
    }

    /// Source: distribution/distribution#48.
    #[rstest]
    #[case("https://r/v2/a/blobs/uploads/1", "https://r/v2/a/blobs/uploads/1?digest=")]
    #[case(
        "https://r/v2/a/blobs/uploads/1?_state=a%2Fb%3D%3D&x",
        "https://r/v2/a/blobs/uploads/1?_state=a%2Fb%3D%3D&x&digest="
    )]
    fn the_registrys_query_is_kept(#[case] location: Url, #[case] commit: &str) {
        let digest = Digest::of(b"");
        assert_eq!(with_digest(&location, digest).as_str(), format!("{commit}{digest}"));
    }

    /// A registry that has restarted knows none of its sessions: that one is gone says nothing of the way of sending.
    #[rstest]
    #[case(UploadStyle::Streamed)]
    #[case(UploadStyle::Monolithic)]
    #[case(UploadStyle::Chunked(900_000))]
    fn a_lost_session_speaks_against_no_style(#[case] style: UploadStyle) {
        let (url, body) =
            (Url::parse("https://r/").unwrap(), br#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#);
        let diagnostics = diagnostic::decode(body);
        let error = RegistryError::answered("push", &Method::PATCH, &url, StatusCode::NOT_FOUND, diagnostics);
        assert_eq!(other_style(style, &error, 0, 1 << 30), None);
    }

    fn refusal(status: u16) -> RegistryError {
        let (status, url) = (StatusCode::from_u16(status).unwrap(), Url::parse("https://r/").unwrap());
        RegistryError::answered("push", &Method::PATCH, &url, status, Vec::new())
    }

    #[rstest]
    #[case(UploadStyle::Streamed, 413, 0, Some(UploadStyle::Chunked(64_000_000)))]
    #[case(UploadStyle::Monolithic, 413, 5 << 20, Some(UploadStyle::Chunked(64_000_000)))]
    #[case(UploadStyle::Chunked(64_000_000), 413, 0, Some(UploadStyle::Chunked(4_000_000)))]
    #[case(UploadStyle::Chunked(64_000_000), 413, 5 << 20, Some(UploadStyle::Chunked(5 << 20)))]
    #[case(UploadStyle::Chunked(5 << 20), 413, 5 << 20, None)]
    #[case(UploadStyle::Chunked(4_000_000), 413, 0, Some(UploadStyle::Chunked(900_000)))]
    #[case(UploadStyle::Chunked(900_000), 413, 0, None)]
    #[case(UploadStyle::Streamed, 405, 0, Some(UploadStyle::Monolithic))]
    #[case(UploadStyle::Monolithic, 405, 0, Some(UploadStyle::Streamed))]
    #[case(UploadStyle::Streamed, 403, 0, None)]
    #[case(UploadStyle::Streamed, 500, 0, None)]
    fn refusals_that_speak_against_a_style(
        #[case] style: UploadStyle,
        #[case] status: u16,
        #[case] smallest: u64,
        #[case] next: Option<UploadStyle>,
    ) {
        assert_eq!(other_style(style, &refusal(status), smallest, 1 << 30), next);
    }
}
