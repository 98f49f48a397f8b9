//! Pulling: manifests, the image of a platform, tags.
//!
//! Everything is verified: a manifest against the digest it was asked for by, or the one the registry announces.
//! Mirrors are asked in their order and the registry last; an error names each.

use std::collections::HashSet;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, LINK};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::client::{Client, Trail};
use super::endpoint::Endpoint;
use super::error::{ErrorKind, RegistryError};
use super::exchange::{Answer, Call, Target, corrupt};
use super::scope::Scopes;
use crate::image::{
    Digest, ImageIndex, ImageManifest, Manifest, Platform, Reference, Repository, media_type, select,
};

/// Bytes of a manifest. The specification has registries take 4 MiB; nobody serves more.
const LARGEST_MANIFEST: usize = 8 * 1024 * 1024;
/// Bytes of one page of tags.
const LARGEST_PAGE: usize = 8 * 1024 * 1024;
/// Tags of one page that are asked for.
const PAGE: &str = "tags/list?n=1000";
/// Indexes inside of indexes that are followed.
const DEEPEST_INDEX: usize = 4;

/// The digest of a manifest in an answer.
pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A manifest as the registry has it, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The bytes.
    pub bytes: Bytes,
    /// What the registry calls them, or else they themselves.
    pub media_type: String,
    /// Their digest, which has been verified.
    pub digest: Digest,
}

/// What a registry says of a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its media type; empty if the registry does not say.
    pub media_type: String,
    /// Its length in bytes; 0 if the registry does not say.
    pub size: u64,
}

/// The image that a name means on a platform.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedImage {
    /// The name, pinned to the image's manifest.
    pub reference: Reference,
    /// The index that the manifest was found in, if the name is that of an index.
    pub index: Option<Digest>,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest, byte for byte.
    pub bytes: Bytes,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The platform, as the index has it. A manifest that stands alone names none: its configuration does.
    pub platform: Option<Platform>,
}

impl Client {
    /// The manifest that `reference` names: its digest, else its tag, else `latest`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; whatever kept it from being read.
    pub async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let operation = format!("pull manifest `{reference}`");
        let mut trail = Trail::default();
        for endpoint in self.pull_endpoints(reference.repository()) {
            match self.manifest_from(&operation, &endpoint, reference).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => trail.failed(self, &endpoint, error)?,
            }
        }
        Err(trail.error(&operation))
    }

    /// What the registry says of the manifest that `reference` names, nothing if there is none.
    ///
    /// # Errors
    /// Whatever kept the registry from being asked. A private repository that one may not see is
    /// [`ErrorKind::Unauthorized`] with some registries and not there with others.
    pub async fn head_manifest(&self, reference: &Reference) -> Result<Option<ManifestHead>, RegistryError> {
        let operation = format!("look up manifest `{reference}`");
        let mut trail = Trail::default();
        for endpoint in self.pull_endpoints(reference.repository()) {
            match self.head_from(&operation, &endpoint, reference).await {
                Ok(head) => return Ok(Some(head)),
                Err(error) => trail.failed(self, &endpoint, error)?,
            }
        }
        let error = trail.error(&operation);
        if error.is_not_found() { Ok(None) } else { Err(error) }
    }

    /// The image that `reference` means on `platform`: the manifest itself, or the one that its index has.
    ///
    /// # Errors
    /// [`ErrorKind::Platform`] if the index has no image for the platform, which names those it has;
    /// [`ErrorKind::Registry`] if what is there is no image.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, RegistryError> {
        let operation = format!("resolve `{reference}` for {platform}");
        let mut index = None;
        let mut found = None;
        let mut next = reference.clone();
        for _ in 0..DEEPEST_INDEX {
            let fetched = self.manifest(&next).await?;
            let parsed = Manifest::parse(&fetched.bytes, Some(&fetched.media_type)).map_err(|error| {
                RegistryError::new(ErrorKind::Registry, &*operation)
                    .saying(format!("what `{next}` names is no image"))
                    .because(error)
            })?;
            match parsed {
                Manifest::Image(manifest) => {
                    return Ok(ResolvedImage {
                        reference: reference.pinned(fetched.digest),
                        index,
                        digest: fetched.digest,
                        media_type: fetched.media_type,
                        bytes: fetched.bytes,
                        manifest: *manifest,
                        platform: found,
                    });
                }
                Manifest::Index(offered) => {
                    let chosen = select(&offered, platform).ok_or_else(|| {
                        RegistryError::new(ErrorKind::Platform, &*operation)
                            .saying(format!("it has images for {} only", platforms(&offered)))
                    })?;
                    let digest = Digest::try_from(chosen.digest()).map_err(|error| {
                        RegistryError::new(ErrorKind::Registry, &*operation)
                            .saying("the index names a manifest by an unknown kind of digest")
                            .because(error)
                    })?;
                    index.get_or_insert(fetched.digest);
                    found = chosen.platform().as_ref().map(Platform::from);
                    next = reference.repository().at(digest);
                }
            }
        }
        Err(RegistryError::new(ErrorKind::Registry, operation)
            .saying(format!("indexes lie in each other more than {DEEPEST_INDEX} deep")))
    }

    /// The tags of a repository, in the registry's order.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such repository.
    pub async fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }

        let operation = format!("list the tags of `{repository}`");
        let endpoint = Endpoint::origin(repository);
        let mut tags = Vec::new();
        let mut seen: HashSet<Url> = HashSet::new();
        let mut next: Option<Url> = None;
        loop {
            let target = next.as_ref().map_or(Target::Path(PAGE), Target::Url);
            let scopes = Scopes::pull(&endpoint.path);
            let call = Call::new(self, &operation, &endpoint, Method::GET, target, scopes).maybe_hidden();
            let answer = self.request(&call, &[StatusCode::OK]).await?;
            let url = answer.url.clone();
            let following = answer.response.header(LINK).and_then(next_page).map(str::to_owned);
            let (body, _) = answer
                .response
                .read(LARGEST_PAGE)
                .await
                .map_err(|error| self.broken_body(&call, &url, error))?;
            let page: Page = serde_json::from_slice(&body).map_err(|error| {
                self.senseless(&call, &url, "the list of tags is not valid").because(error)
            })?;
            tags.extend(page.tags.unwrap_or_default());
            let Some(following) = following else { return Ok(tags) };
            let following = url
                .join(&following)
                .ok()
                .filter(|following| following.host_str() == url.host_str() && following.port() == url.port())
                .ok_or_else(|| self.senseless(&call, &url, "the next page of tags lies elsewhere"))?;
            let following = super::guard::upgraded(&url, following);
            // A registry that repeats itself would be asked for ever.
            if !seen.insert(following.clone()) {
                return Ok(tags);
            }
            next = Some(following);
        }
    }

    /// Removes a manifest, and with it all tags that name it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; [`ErrorKind::Registry`] if the registry does not delete.
    pub async fn delete_manifest(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<(), RegistryError> {
        let operation = format!("delete manifest `{}`", repository.at(digest));
        let endpoint = Endpoint::origin(repository);
        let path = format!("manifests/{digest}");
        let scopes = Scopes::delete(&endpoint.path);
        let call = Call::new(self, &operation, &endpoint, Method::DELETE, Target::Path(&path), scopes);
        let answer =
            self.request(&call, &[StatusCode::OK, StatusCode::ACCEPTED, StatusCode::NO_CONTENT]).await?;
        answer.response.finish().await;
        Ok(())
    }

    async fn manifest_from(
        &self,
        operation: &str,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<FetchedManifest, RegistryError> {
        let mut retries = self.retries(endpoint);
        loop {
            match self.manifest_once(operation, endpoint, reference).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => retries.after(error).await?,
            }
        }
    }

    async fn manifest_once(
        &self,
        operation: &str,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<FetchedManifest, RegistryError> {
        let path = format!("manifests/{}", reference.selector());
        let call = self.manifest_call(operation, endpoint, Method::GET, &path);
        let answer = self.once(&call, &[StatusCode::OK]).await?;
        let announced = announced_digest(&answer);
        let (kind, url) = (content_type(&answer), answer.url.clone());
        let (bytes, whole) = answer
            .response
            .read(LARGEST_MANIFEST)
            .await
            .map_err(|error| self.broken_body(&call, &url, error))?;
        if !whole {
            let what = format!("the manifest is larger than {LARGEST_MANIFEST} bytes");
            return Err(self.senseless(&call, &url, what));
        }
        if is_schema_1(&kind, &bytes) {
            // Its announced digest is not that of these bytes, which are signed.
            let what =
                "the image is of Docker's schema 1, which ended in 2017: push it anew with a tool of today";
            return Err(self.senseless(&call, &url, what));
        }
        let digest = Digest::of(&bytes);
        match reference.digest().or(announced) {
            Some(wanted) if wanted != digest => {
                Err(corrupt(&call, &url, format!("the manifest that arrived is {digest}, not {wanted}")))
            }
            _ => {
                let media_type = if kind.is_empty() { own_media_type(&bytes) } else { kind };
                Ok(FetchedManifest { bytes, media_type, digest })
            }
        }
    }

    pub(super) async fn head_from(
        &self,
        operation: &str,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<ManifestHead, RegistryError> {
        let path = format!("manifests/{}", reference.selector());
        let call = self.manifest_call(operation, endpoint, Method::HEAD, &path);
        let asked = self.request(&call, &[StatusCode::OK]).await;
        let answer = match asked {
            Ok(answer) => answer,
            // Some proxies know no HEAD.
            Err(error) if error.status() == Some(405) => {
                return self.head_by_get(operation, endpoint, reference).await;
            }
            Err(error) => return Err(error),
        };
        let Some(digest) = announced_digest(&answer) else {
            answer.response.finish().await;
            return self.head_by_get(operation, endpoint, reference).await;
        };
        let size = answer.response.number(reqwest::header::CONTENT_LENGTH).unwrap_or(0);
        let (media_type, url) = (content_type(&answer), answer.url.clone());
        answer.response.finish().await;
        match reference.digest() {
            Some(wanted) if wanted != digest => {
                Err(self.senseless(&call, &url, format!("it says that {wanted} is {digest}")))
            }
            _ => Ok(ManifestHead { digest, media_type, size }),
        }
    }

    async fn head_by_get(
        &self,
        operation: &str,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<ManifestHead, RegistryError> {
        let FetchedManifest { bytes, media_type, digest } =
            self.manifest_from(operation, endpoint, reference).await?;
        Ok(ManifestHead { digest, media_type, size: bytes.len() as u64 })
    }

    fn manifest_call<'a>(
        &self,
        operation: &'a str,
        endpoint: &'a Endpoint,
        method: Method,
        path: &'a str,
    ) -> Call<'a> {
        let scopes = Scopes::pull(&endpoint.path);
        Call::new(self, operation, endpoint, method, Target::Path(path), scopes)
            .maybe_hidden()
            .header(ACCEPT, &media_type::MANIFESTS.join(", "))
    }
}

/// The digest the registry announces, if it is one that can be checked.
pub(super) fn announced_digest(answer: &Answer) -> Option<Digest> {
    answer.response.header(DOCKER_CONTENT_DIGEST).and_then(|digest| digest.parse().ok())
}

/// The media type in the header, if it says anything.
fn content_type(answer: &Answer) -> String {
    let header = answer.response.header(CONTENT_TYPE).unwrap_or_default();
    let kind = header.split(';').next().unwrap_or_default().trim();
    if kind.starts_with("application/vnd.") { kind.to_owned() } else { String::new() }
}

/// Whether a manifest is one of Docker's schema 1, signed or not, whatever was asked for: distribution 2 makes one for those
/// who do not say that they take others.
fn is_schema_1(kind: &str, bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u64,
    }
    kind.starts_with("application/vnd.docker.distribution.manifest.v1+")
        || serde_json::from_slice::<Version>(bytes).is_ok_and(|version| version.schema_version == 1)
}

/// What a manifest calls itself, or what its shape says it is.
fn own_media_type(bytes: &[u8]) -> String {
    Manifest::parse(bytes, None).map(|manifest| manifest.media_type()).unwrap_or_default()
}

/// The platforms of an index, for an error.
fn platforms(index: &ImageIndex) -> String {
    let mut names: Vec<String> = index
        .manifests()
        .iter()
        .filter_map(|descriptor| descriptor.platform().as_ref())
        .map(|platform| Platform::from(platform).to_string())
        // Attestations are filed under this name.
        .filter(|platform| platform != "unknown/unknown")
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() { "no platform".to_owned() } else { names.join(", ") }
}

/// The address of the next page in a `Link` header (RFC 8288): `</v2/…>; rel="next"`.
fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim();
            parameter.eq_ignore_ascii_case("rel=next") || parameter.eq_ignore_ascii_case("rel=\"next\"")
        });
        next.then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn index(platforms: &[&str]) -> ImageIndex {
        let manifest = |platform: &&str| {
            let digest = Digest::of(platform.as_bytes());
            let (os, architecture) = platform.split_once('/').unwrap();
            let platform = format!(r#"{{"os":"{os}","architecture":"{architecture}"}}"#);
            let media_type = media_type::OCI_MANIFEST;
            format!(r#"{{"mediaType":"{media_type}","size":1,"digest":"{digest}","platform":{platform}}}"#)
        };
        let manifests: Vec<String> = platforms.iter().map(manifest).collect();
        serde_json::from_str(&format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(",")))
            .unwrap()
    }

    #[test]
    fn platforms_are_listed_without_attestations() {
        let index = index(&["linux/arm64", "unknown/unknown", "linux/amd64", "linux/amd64"]);
        assert_eq!(platforms(&index), "linux/amd64, linux/arm64");
    }

    #[rstest]
    #[case(r#"</v2/a/tags/list?last=x&n=2>; rel="next""#, Some("/v2/a/tags/list?last=x&n=2"))]
    #[case(r#"<https://r/x>; rel="prev", <https://r/y>; foo=1; rel=next"#, Some("https://r/y"))]
    #[case(r#"</x>; rel="last""#, None)]
    #[case("nonsense", None)]
    fn next_pages(#[case] header: &str, #[case] next: Option<&str>) {
        assert_eq!(next_page(header), next);
    }
}
