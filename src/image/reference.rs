//! Image names (`registry.example:5000/group/app:tag@sha256:…`) as `docker` reads them.
//!
//! Grammar and normalisation follow distribution/reference (`reference.go`, `normalize.go`): a first component
//! with a dot, a colon or an upper-case letter, or `localhost`, is a host; everything else lives on Docker Hub,
//! where a single-component name lives under `library/`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::digest::{Digest, DigestError};

/// The registry that names without a host belong to.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where Docker Hub keeps the names of one component.
const OFFICIAL_PREFIX: &str = "library/";
/// The limit of distribution/reference on a repository's name, in characters.
const MAX_NAME: usize = 255;
/// The limit of the grammar on a tag, in characters.
const MAX_TAG: usize = 128;

/// A repository on a registry, without tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// The registry's host and perhaps port, in normal form: `docker.io`, `127.0.0.1:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path on the registry, with `library/` where Docker Hub has it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same path on another registry, as a mirror has it.
    pub fn on(&self, registry: &str) -> Self {
        Self { registry: registry.to_owned(), path: self.path.clone() }
    }

    /// The reference to `tag` in this repository.
    ///
    /// # Errors
    /// If `tag` is not a tag.
    pub fn tagged(&self, tag: &str) -> Result<Reference, ReferenceError> {
        check_tag(tag)?;
        Ok(Reference { repository: self.clone(), tag: Some(tag.to_owned()), digest: None })
    }

    /// The reference to the manifest of `digest` in this repository.
    pub fn at(&self, digest: Digest) -> Reference {
        Reference { repository: self.clone(), tag: None, digest: Some(digest) }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    /// Reads a repository; a tag or a digest behind it is an error.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let reference: Reference = text.parse()?;
        match reference {
            Reference { repository, tag: None, digest: None } => Ok(repository),
            _ => Err(ReferenceError::NotARepository(text.to_owned())),
        }
    }
}

/// The name of an image: a repository, and a tag or a digest or both (the digest decides).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// There is nothing to read.
    #[error("an image name is empty")]
    Empty,
    /// The registry's host or port is not one.
    #[error("`{0}` is not a registry host")]
    Registry(String),
    /// Repository names are lower case.
    #[error("image name `{0}` must be lower case")]
    UpperCase(String),
    /// A component of the path does not follow the grammar.
    #[error(
        "`{0}` is not an image name: components are lower-case letters and digits, joined by `.`, `_`, `__` or `-`"
    )]
    Path(String),
    /// The path is longer than registries accept.
    #[error("image name `{0}` is longer than {MAX_NAME} characters")]
    TooLong(String),
    /// The tag does not follow the grammar.
    #[error(
        "`{0}` is not a tag: a tag is up to {MAX_TAG} letters, digits, `_`, `.` and `-`, and starts with a letter, digit or `_`"
    )]
    Tag(String),
    /// The part behind `@` is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// 64 hexadecimal digits would be read as an image's ID.
    #[error("`{0}` is not an image name: 64 hexadecimal digits are an image ID")]
    LooksLikeAnId(String),
    /// A repository was asked for, and the text names a tag or digest too.
    #[error("`{0}` names a tag or digest: expected a repository alone")]
    NotARepository(String),
}

impl Reference {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The registry's host and perhaps port.
    pub fn registry(&self) -> &str {
        &self.repository.registry
    }

    /// The tag as written, if any.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if any.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The name with the tag that it has, or `latest` where it has neither tag nor digest.
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same name pinned to `digest`: `repository:tag@digest`.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The name as `docker` shows it: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix("docker.io/") else { return full };
        match rest.strip_prefix(OFFICIAL_PREFIX) {
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => rest.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ReferenceError::LooksLikeAnId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (host, rest) = split_host(rest);
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let repository = repository(host, path)?;
        Ok(Self { repository, tag: tag.map(str::to_owned), digest })
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Splits off a leading host, if the first component can only be one.
fn split_host(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

fn repository(host: Option<&str>, path: &str) -> Result<Repository, ReferenceError> {
    let registry = match host {
        None | Some("index.docker.io" | "registry-1.docker.io" | DEFAULT_REGISTRY) => DEFAULT_REGISTRY,
        Some(host) => {
            check_host(host)?;
            host
        }
    };
    if path.is_empty() {
        return Err(ReferenceError::Empty);
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::UpperCase(path.to_owned()));
    }
    if !path.split('/').all(is_path_component) {
        return Err(ReferenceError::Path(path.to_owned()));
    }
    if path.len() > MAX_NAME {
        return Err(ReferenceError::TooLong(path.to_owned()));
    }
    let official = registry == DEFAULT_REGISTRY && !path.contains('/');
    let path = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
    Ok(Repository { registry: registry.to_owned(), path })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(|&byte| alphanumeric(byte)).all(|separator| match separator {
        [] | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|&byte| byte == b'-'),
    })
}

/// A host name, IPv4 or bracketed IPv6 address, and perhaps a port.
fn check_host(host: &str) -> Result<(), ReferenceError> {
    let error = || ReferenceError::Registry(host.to_owned());
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(error)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
            (None, rest.strip_prefix(':').or((!rest.is_empty()).then_some(rest)))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        },
    };
    let legal_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if let Some(name) = name
        && !name.split('.').all(legal_label)
    {
        return Err(error());
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() || port.starts_with('+') => Err(error()),
        _ => Ok(()),
    }
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let legal = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if legal { Ok(()) } else { Err(ReferenceError::Tag(tag.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rstest]
    #[case("python", "docker.io/library/python")]
    #[case("python:3.9-slim", "docker.io/library/python:3.9-slim")]
    #[case("bitnami/kubectl", "docker.io/bitnami/kubectl")]
    #[case("docker.io/python", "docker.io/library/python")]
    #[case("index.docker.io/library/python", "docker.io/library/python")]
    #[case("localhost/app", "localhost/app")]
    #[case("localhost:5000/app:v1", "localhost:5000/app:v1")]
    #[case("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000/a/b/c:1")]
    #[case("[::1]:5000/app:1", "[::1]:5000/app:1")]
    #[case("[2001:db8::1]/app", "[2001:db8::1]/app")]
    #[case("Registry/app", "Registry/app")]
    #[case("a.b/c__d/e--f:x_1.2-3", "a.b/c__d/e--f:x_1.2-3")]
    #[case(
        "private-registry.example.com/private/group/calculator:56cc4792-86",
        "private-registry.example.com/private/group/calculator:56cc4792-86"
    )]
    fn normalises(#[case] typed: &str, #[case] full: &str) {
        let reference: Reference = typed.parse().unwrap();
        assert_eq!(reference.to_string(), full);
        assert_eq!(full.parse::<Reference>().unwrap(), reference, "the full name reads back");
        assert_eq!(
            reference.familiar().parse::<Reference>().unwrap(),
            reference,
            "and so does the short one"
        );
    }

    #[test]
    fn keeps_tag_and_digest_and_asks_for_the_digest() {
        let reference: Reference = format!("app:v1@{D}").parse().unwrap();
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(reference.selector(), D);
        assert_eq!(reference.familiar(), format!("app:v1@{D}"));
        assert_eq!("app".parse::<Reference>().unwrap().selector(), "latest");
    }

    #[rstest]
    #[case("", ReferenceError::Empty)]
    #[case("App", ReferenceError::UpperCase("App".into()))]
    #[case("host.example/App", ReferenceError::UpperCase("App".into()))]
    #[case("a//b", ReferenceError::Path("a//b".into()))]
    #[case("-a", ReferenceError::Path("-a".into()))]
    #[case("a___b", ReferenceError::Path("a___b".into()))]
    #[case("a..b", ReferenceError::Path("a..b".into()))]
    #[case("https://host/app", ReferenceError::Registry("https:".into()))]
    #[case("app:", ReferenceError::Tag(String::new()))]
    #[case("app:-x", ReferenceError::Tag("-x".into()))]
    #[case("app:a b", ReferenceError::Tag("a b".into()))]
    #[case("host.example:99999/app", ReferenceError::Registry("host.example:99999".into()))]
    #[case("[::zz]:1/app", ReferenceError::Registry("[::zz]:1".into()))]
    #[case("ho_st.example/app", ReferenceError::Registry("ho_st.example".into()))]
    #[case(&"a".repeat(64), ReferenceError::LooksLikeAnId("a".repeat(64)))]
    fn refuses(#[case] typed: &str, #[case] error: ReferenceError) {
        assert_eq!(typed.parse::<Reference>(), Err(error));
    }

    #[test]
    fn a_repository_has_no_tag() {
        assert_eq!("host:1/a/b".parse::<Repository>().unwrap().path(), "a/b");
        assert!("host:1/a/b:tag".parse::<Repository>().is_err());
    }
}
