//! Pushing: blobs that are not there yet, manifests, and the question whether one may.
//!
//! A blob is looked up, unless it is small and was made just now, then mounted from a repository that has it, then uploaded. Every
//! attempt but the first starts from the look-up, because a registry that failed to answer a commit may well have done it.

use bytes::Bytes;
use reqwest::header::RANGE;
use reqwest::{Method, StatusCode, Url};

use super::client::{Client, Retries, SMALL_BLOB};
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::exchange::{Answer, Call, Payload, Target};
use super::guard;
use super::pull::announced_digest;
use super::retry::Reason;
use super::scope::Scopes;
use super::source::{BlobSource, Progress};
use super::upload::Session;
use crate::image::{Digest, Reference, Repository};

/// Statuses that mean "done" of an upload's requests, whichever of them the specification names.
pub(super) const DONE: [StatusCode; 4] =
    [StatusCode::OK, StatusCode::CREATED, StatusCode::ACCEPTED, StatusCode::NO_CONTENT];
/// Repositories that a blob is tried to be mounted from. Each costs a request.
const MOST_MOUNTS: usize = 3;
/// Failures of a registry at mounts of one blob before its bytes are sent. A hiccup is over by then, and some registries
/// answer each mount with a 500 and yet take uploads.
const MOST_FAILED_MOUNTS: usize = 3;

/// A blob to be pushed.
pub struct BlobUpload<'a> {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes.
    pub source: &'a dyn BlobSource,
    /// Whether it was made just now, so that nobody is likely to have it.
    pub is_new: bool,
    /// Repositories that may have it. Those that are on other registries, with all their mirrors, are passed over.
    pub mount_from: &'a [Repository],
    /// Who is told how far it is.
    pub progress: Option<Progress>,
}

impl std::fmt::Debug for BlobUpload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobUpload").field("digest", &self.digest).field("size", &self.size).finish()
    }
}

/// How a blob came to be in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobOutcome {
    /// It was there.
    AlreadyThere,
    /// The registry took it from another of its repositories.
    Mounted(Repository),
    /// Its bytes were sent.
    Uploaded,
}

/// The answer to a request for an upload.
enum Opened {
    Mounted,
    Session(Session),
    /// The mount was refused; an upload may still be allowed.
    Refused(RegistryError),
}

impl Client {
    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// Whatever kept the registry from being asked.
    pub async fn has_blob(&self, repository: &Repository, digest: Digest) -> Result<bool, RegistryError> {
        let operation = format!("look up blob `{digest}` of `{repository}`");
        let endpoint = Endpoint::origin(repository);
        let mut retries = self.retries(&endpoint);
        loop {
            match self.blob_is_there(&operation, &endpoint, digest, Scopes::pull(&endpoint.path)).await {
                Ok(is_there) => return Ok(is_there),
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => retries.after(error).await?,
            }
        }
    }

    /// Sees to it that `repository` has a blob.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if the source cannot be read; [`ErrorKind::Integrity`] if its bytes are not those of
    /// the digest; whatever the registry has against it.
    pub async fn push_blob(
        &self,
        repository: &Repository,
        blob: &BlobUpload<'_>,
    ) -> Result<BlobOutcome, RegistryError> {
        let operation = format!("push blob `{}` to `{repository}`", blob.digest);
        let endpoint = Endpoint::origin(repository);
        let mut push = BlobPush {
            client: self,
            operation: &operation,
            endpoint: &endpoint,
            blob,
            mounts: self.mounts(repository, blob.mount_from),
            failed_mounts: 0,
            sent: false,
        };
        let mut retries = self.retries(&endpoint);
        loop {
            match push.attempt(&mut retries).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => match retries.after(error).await {
                    Ok(()) => {}
                    Err(error) => return Err(self.explained(&endpoint, error).await),
                },
            }
        }
    }

    /// Where on the registry of `repository` a blob of other repositories may be mounted from: they themselves, and their
    /// mirrors.
    fn mounts(&self, repository: &Repository, others: &[Repository]) -> Vec<Repository> {
        let places = others.iter().flat_map(|other| self.pull_endpoints(other));
        let near = places.filter(|place| place.registry == repository.registry());
        let mut found: Vec<Repository> = Vec::new();
        for place in near {
            let name = format!("{}/{}", place.registry, place.path);
            let Ok(reference) = name.parse::<Reference>() else { continue };
            if reference.repository() != repository && !found.contains(reference.repository()) {
                found.push(reference.repository().clone());
            }
        }
        found.truncate(MOST_MOUNTS);
        found
    }

    /// Checks that one may push to `repository`, by starting an upload and giving it up, which is not waited for.
    ///
    /// # Errors
    /// What a push would fail with.
    pub async fn check_push(&self, repository: &Repository) -> Result<(), RegistryError> {
        let operation = format!("check that `{repository}` may be pushed to");
        let endpoint = Endpoint::origin(repository);
        let scopes = Scopes::push(&endpoint.path);
        let call =
            Call::new(self, &operation, &endpoint, Method::POST, Target::Path("blobs/uploads/"), scopes);
        let answer = match self.request(&call, &DONE).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.explained(&endpoint, error).await),
        };
        // Registries that cannot give an upload up forget it by themselves.
        if let Ok(location) = answer.location(self, &call) {
            answer.response.finish().await;
            self.cancel(&endpoint, &location);
        }
        Ok(())
    }

    /// Puts a manifest under the tag of `reference`, or under its digest if it has no tag. Gives the digest of
    /// `bytes`, which the registry has confirmed if it says what it stored.
    ///
    /// # Errors
    /// [`ErrorKind::Integrity`] if the registry stored something else; whatever it has against the manifest. A
    /// tag that cannot be changed and names this very manifest is no error.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::of(&bytes);
        let target = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let operation = format!("push manifest `{reference}`");
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != digest) {
            return Err(RegistryError::new(ErrorKind::Integrity, operation)
                .saying(format!("the manifest's digest is {digest}, not {wanted}")));
        }
        let endpoint = Endpoint::origin(reference.repository());
        let path = format!("manifests/{target}");
        let scopes = Scopes::push(&endpoint.path);
        let call = Call::new(self, &operation, &endpoint, Method::PUT, Target::Path(&path), scopes)
            .payload(media_type, Payload::Bytes(bytes));
        match self.request(&call, &DONE).await {
            Ok(answer) => {
                self.confirm(&call, &answer, digest)?;
                answer.response.finish().await;
                Ok(digest)
            }
            Err(error) => {
                if may_be_immutable(&error) && self.has_manifest(reference, digest).await {
                    return Ok(digest);
                }
                Err(self.explained(&endpoint, error).await)
            }
        }
    }

    /// Checks the digest that a registry says it stored, if it says one.
    pub(super) fn confirm(
        &self,
        call: &Call<'_>,
        answer: &Answer,
        digest: Digest,
    ) -> Result<(), RegistryError> {
        match announced_digest(answer) {
            Some(stored) if stored != digest => Err(self
                .senseless(call, &answer.url, format!("the registry stored {stored}, not {digest}"))
                .with_kind(ErrorKind::Integrity)),
            _ => Ok(()),
        }
    }

    /// Whether a tag names a manifest at the registry itself, no mirror asked. If that cannot be found out, it does not.
    pub async fn has_manifest(&self, reference: &Reference, digest: Digest) -> bool {
        self.tagged_digest(reference).await == Some(digest)
    }

    /// What a tag names at the registry itself, no mirror asked. If that cannot be found out, it is nothing.
    pub async fn tagged_digest(&self, reference: &Reference) -> Option<Digest> {
        let operation = format!("look up manifest `{reference}`");
        let tagged = reference.repository().tagged(reference.tag()?).ok()?;
        let endpoint = Endpoint::origin(reference.repository());
        Some(self.head_from(&operation, &endpoint, &tagged).await.ok()?.digest)
    }

    /// Begins to give an upload up, as well as the registry can. Nothing depends on it, so nobody waits for it.
    pub(super) fn cancel(&self, endpoint: &Endpoint, location: &Url) {
        let (client, endpoint, location) = (self.clone(), endpoint.clone(), location.clone());
        tokio::spawn(async move {
            let scopes = Scopes::push(&endpoint.path);
            let target = Target::Url(&location);
            let call = Call::new(&client, "give an upload up", &endpoint, Method::DELETE, target, scopes);
            if let Ok(answer) = client.exchange(&call).await {
                answer.response.finish().await;
            }
        });
    }

    /// The error of a push, made plainer where the registry only hung up: ECR drops the connection when there is
    /// no such repository.
    async fn explained(&self, endpoint: &Endpoint, error: RegistryError) -> RegistryError {
        let opening = error.request().is_some_and(|(method, _)| method == "POST");
        if error.kind() != ErrorKind::Network || !opening {
            return error;
        }
        let operation = error.operation().to_owned();
        let scopes = Scopes::pull(&endpoint.path);
        let path = "tags/list?n=1";
        let call = Call::new(self, &operation, endpoint, Method::GET, Target::Path(path), scopes);
        match self.exchange(&call).await {
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                let refused = self.refused(&call, answer).await;
                if !refused.has_code("NAME_UNKNOWN") {
                    return error;
                }
                let earlier = vec![("the upload".to_owned(), error.essence())];
                refused.after(earlier)
            }
            _ => error,
        }
    }
}

/// Statuses by which registries refuse to change a tag: ECR 400, Quay and GitLab 403, Docker Hub 400, Artifact
/// Registry 400 and 409, Harbor 412.
fn may_be_immutable(error: &RegistryError) -> bool {
    matches!(error.status(), Some(400 | 403 | 405 | 409 | 412))
}

/// A blob on its way to a repository.
struct BlobPush<'a> {
    client: &'a Client,
    operation: &'a str,
    endpoint: &'a Endpoint,
    blob: &'a BlobUpload<'a>,
    /// Repositories it may still be mounted from.
    mounts: Vec<Repository>,
    /// How often the registry failed at a mount, as against saying no to it.
    failed_mounts: usize,
    /// Whether bytes have been sent, so that a blob that is there then is our doing.
    sent: bool,
}

impl BlobPush<'_> {
    async fn attempt(&mut self, retries: &mut Retries<'_>) -> Result<BlobOutcome, RegistryError> {
        let client = self.client;
        // What nobody can have is not asked for; but after a try that failed it may be there after all.
        if (self.sent || !self.is_unheard_of()) && self.is_there().await? {
            return Ok(if self.sent { BlobOutcome::Uploaded } else { BlobOutcome::AlreadyThere });
        }
        let session = match self.mount().await? {
            Ok(from) => return Ok(BlobOutcome::Mounted(from)),
            Err(Some(session)) => session,
            Err(None) => self.open().await?,
        };
        self.sent = true;
        session.upload(client, self.operation, self.endpoint, self.blob, retries).await?;
        Ok(BlobOutcome::Uploaded)
    }

    /// Whether asking for the blob is hardly worth it: it is new, and small or in the repository that it is mounted from.
    fn is_unheard_of(&self) -> bool {
        self.blob.is_new && (self.blob.size <= SMALL_BLOB || !self.mounts.is_empty())
    }

    async fn is_there(&self) -> Result<bool, RegistryError> {
        let scopes = Scopes::push(&self.endpoint.path);
        match self.client.blob_is_there(self.operation, self.endpoint, self.blob.digest, scopes).await {
            // Some credentials may write and not read: the upload will show.
            Err(error) if is_refusal(&error) => {
                tracing::debug!("{error}");
                Ok(false)
            }
            answer => answer,
        }
    }

    /// Tries to mount the blob. Where that fails the registry may have opened an upload instead.
    async fn mount(&mut self) -> Result<Result<Repository, Option<Session>>, RegistryError> {
        while let Some(from) = self.mounts.first().cloned() {
            let opened = match self.open_mount(&from).await {
                Ok(opened) => opened,
                Err(error) => {
                    self.note_failed_mount(&error);
                    return Err(error);
                }
            };
            // An answer stands for all attempts: what was refused now will be refused on another.
            self.mounts.remove(0);
            match opened {
                Opened::Mounted => return Ok(Ok(from)),
                Opened::Session(session) if self.mounts.is_empty() => return Ok(Err(Some(session))),
                Opened::Session(session) => {
                    self.client.cancel(self.endpoint, session.location());
                }
                Opened::Refused(error) => tracing::debug!("{error}"),
            }
        }
        Ok(Err(None))
    }

    /// A registry that fails at a mount may do it the next time: a layer that is mounted need not be fetched in order to be
    /// sent. One that fails again and again is not asked for mounts any more. No connection and 429 are nothing that an upload
    /// would be spared.
    fn note_failed_mount(&mut self, error: &RegistryError) {
        if !matches!(error.reason(), Some(Reason::Connect | Reason::Throttled)) {
            self.failed_mounts += 1;
        }
        if self.failed_mounts >= MOST_FAILED_MOUNTS {
            self.mounts.clear();
        }
    }

    async fn open_mount(&self, from: &Repository) -> Result<Opened, RegistryError> {
        // The token must be good for reading the source (Docker Hub); asking for it may itself be refused.
        let scopes = Scopes::push(&self.endpoint.path).and(&Scopes::pull(from.path()));
        let path = format!("blobs/uploads/?mount={}&from={}", self.blob.digest, from.path());
        let call =
            Call::new(self.client, self.operation, self.endpoint, Method::POST, Target::Path(&path), scopes);
        let answer = match self.client.exchange(&call).await {
            Ok(answer) => answer,
            Err(error) if is_refusal(&error) => return Ok(Opened::Refused(error)),
            Err(error) => return Err(error),
        };
        match answer.status() {
            StatusCode::CREATED => {
                answer.response.finish().await;
                Ok(Opened::Mounted)
            }
            StatusCode::ACCEPTED => Session::opened(self.client, &call, answer).await.map(Opened::Session),
            _ => {
                let error = self.client.refused(&call, answer).await;
                // Harbor 401, Quay 403, others 404, 405 and 400: none of them says that an upload is refused.
                if is_refusal(&error) { Ok(Opened::Refused(error)) } else { Err(error) }
            }
        }
    }

    async fn open(&self) -> Result<Session, RegistryError> {
        Session::open(self.client, self.operation, self.endpoint).await
    }
}

/// Whether an error is a registry's no to a mount, as against a registry that is unwell.
fn is_refusal(error: &RegistryError) -> bool {
    error.reason().is_none() && matches!(error.status(), Some(400..=499))
}

impl Client {
    /// Whether a blob is there, with a token for `scopes`.
    async fn blob_is_there(
        &self,
        operation: &str,
        endpoint: &Endpoint,
        digest: Digest,
        scopes: Scopes,
    ) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        let call = Call::new(self, operation, endpoint, Method::HEAD, Target::Path(&path), scopes);
        let mut answer = self.exchange(&call).await?;
        let home = endpoint.url(self.scheme(endpoint), "")?;
        if answer.status().is_client_error() && !guard::same_origin(&answer.url, &home) {
            // The registry redirects to storage, whose addresses are often signed for GET alone: one byte of the
            // blob answers the question as well.
            answer.response.finish().await;
            let scopes = call.scopes.clone();
            let call = Call::new(self, operation, endpoint, Method::GET, Target::Path(&path), scopes)
                .header(RANGE, "bytes=0-0");
            answer = self.exchange(&call).await?;
        }
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                answer.response.finish().await;
                Ok(true)
            }
            StatusCode::NOT_FOUND => {
                answer.response.finish().await;
                Ok(false)
            }
            _ => Err(self.refused(&call, answer).await),
        }
    }
}
