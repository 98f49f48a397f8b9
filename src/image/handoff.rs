//! What a build hands to a deployment: the images it has pushed, by digest.
//!
//! Two forms of the same: `image.json`, which has everything, and a file of variables as GitLab's `artifacts:reports:dotenv`
//! takes it. An image without a digest cannot be handed over: a tag may be another image by the time it is deployed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::digest::Digest;
use super::reference::Reference;

/// The version of the form. A reader refuses those it does not know.
const VERSION: u32 = 1;
/// Bytes of a file of variables that GitLab takes
/// (<https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv>).
pub const LARGEST_DOTENV: usize = 5120;
/// What variables are called that nobody has named.
pub const VARIABLE: &str = "IMAGE";

/// The images of one build or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// Always the version above, once read.
    version: u32,
    /// The images.
    pub images: Vec<HandedImage>,
}

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedImage {
    /// The names that it was pushed under, each pinned: `repository:tag@sha256:…`. There is one at least, and all have the
    /// same digest.
    pub refs: Vec<Reference>,
    /// The first of them without its digest.
    pub name: String,
    /// Its repository.
    pub repository: String,
    /// Its tag, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// The first of `refs`.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// The images of each platform.
    #[serde(default)]
    pub platforms: Vec<HandedPlatform>,
    /// How long the build took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// The image of a platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedPlatform {
    /// Which platform: `linux/arm64/v8`.
    pub platform: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes of its layers and configuration, as they are stored.
    pub size: u64,
}

/// Why something cannot be handed over.
#[derive(Debug, Error)]
pub enum HandoffError {
    /// It is not what a build has written.
    #[error("it is not what `--image-json` writes")]
    Json(#[from] serde_json::Error),
    /// It was written by another version of this program.
    #[error("it is of version {0}, and only version {VERSION} is known")]
    Version(u32),
    /// An image is not pinned, or not to one digest.
    #[error("the image `{0}` has no digest of its own")]
    NotPinned(String),
    /// No name was pushed.
    #[error("the image was pushed under no name")]
    NoName,
    /// Variables cannot be called that.
    #[error("`{0}` is no name for a variable")]
    Variable(String),
    /// There is more than GitLab takes.
    #[error("the variables have {0} bytes, and GitLab takes {LARGEST_DOTENV}")]
    TooLarge(usize),
}

impl HandedImage {
    /// The image of `digest`, pushed under `names`.
    ///
    /// # Errors
    /// If there is no name.
    pub fn new(
        names: &[Reference],
        digest: Digest,
        platforms: Vec<HandedPlatform>,
        seconds: Option<u64>,
    ) -> Result<Self, HandoffError> {
        let refs: Vec<Reference> = names.iter().map(|name| name.pinned(digest)).collect();
        let (Some(name), Some(reference)) = (names.first(), refs.first().cloned()) else {
            return Err(HandoffError::NoName);
        };
        let repository = name.repository().to_string();
        let tag = name.tag().map(str::to_owned);
        let name = tag.as_ref().map_or_else(|| repository.clone(), |tag| format!("{repository}:{tag}"));
        Ok(Self { refs, name, repository, tag, digest, reference, platforms, seconds })
    }

    fn check(&self) -> Result<(), HandoffError> {
        let mut all = self.refs.iter().chain([&self.reference]);
        match all.find(|name| name.digest() != Some(self.digest)) {
            Some(name) => Err(HandoffError::NotPinned(name.to_string())),
            None if self.refs.is_empty() => Err(HandoffError::NoName),
            None => Ok(()),
        }
    }

    /// The lines of a file of variables: `PREFIX`, `PREFIX_TAG`, `PREFIX_DIGEST` and `PREFIX_REF`. They have neither quotes
    /// nor comments, which GitLab would take for a part of the value.
    ///
    /// # Errors
    /// If variables cannot be called that, or GitLab would not take the file.
    pub fn dotenv(&self, prefix: &str) -> Result<String, HandoffError> {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !prefix.bytes().all(letters) || prefix.bytes().next().is_none_or(|byte| byte.is_ascii_digit()) {
            return Err(HandoffError::Variable(prefix.to_owned()));
        }
        let Self { repository, digest, reference, .. } = self;
        // None but one that is not the default has no tag: the variable is there all the same.
        let tag = self.tag.as_deref().unwrap_or_default();
        let text = format!(
            "{prefix}={repository}\n{prefix}_TAG={tag}\n{prefix}_DIGEST={digest}\n{prefix}_REF={reference}\n"
        );
        if text.len() > LARGEST_DOTENV { Err(HandoffError::TooLarge(text.len())) } else { Ok(text) }
    }
}

impl Handoff {
    /// What is handed over of these images.
    pub fn of(images: Vec<HandedImage>) -> Self {
        Self { version: VERSION, images }
    }

    /// Reads `image.json`.
    ///
    /// # Errors
    /// If it is something else, or an image of it is not pinned.
    pub fn parse(text: &[u8]) -> Result<Self, HandoffError> {
        let handoff: Self = serde_json::from_slice(text)?;
        if handoff.version != VERSION {
            return Err(HandoffError::Version(handoff.version));
        }
        handoff.images.iter().try_for_each(HandedImage::check)?;
        Ok(handoff)
    }

    /// `image.json`.
    pub fn to_json(&self) -> String {
        // There is nothing in it that JSON cannot say.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(names: &[&str]) -> HandedImage {
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        let digest = Digest::of(b"image");
        let platform = HandedPlatform { platform: "linux/amd64".to_owned(), digest, size: 5 };
        HandedImage::new(&names, digest, vec![platform], Some(3)).unwrap()
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let handoff = Handoff::of(vec![
            image(&["r.example/g/app:v1", "r.example/g/app:latest"]),
            image(&["r.example/other"]),
        ]);
        let text = handoff.to_json();
        assert_eq!(Handoff::parse(text.as_bytes()).unwrap(), handoff);
        let digest = Digest::of(b"image");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["images"][0]["name"], "r.example/g/app:v1");
        assert_eq!(value["images"][0]["ref"], format!("r.example/g/app:v1@{digest}"));
        assert_eq!(value["images"][0]["platforms"][0]["platform"], "linux/amd64");
    }

    #[test]
    fn nothing_goes_by_a_tag_alone() {
        let text = Handoff::of(vec![image(&["r.example/app:v1"])]).to_json();
        let digest = format!("@{}", Digest::of(b"image"));
        let loose = text.replacen(&digest, "", 1);
        assert!(
            matches!(Handoff::parse(loose.as_bytes()), Err(HandoffError::NotPinned(name)) if name == "r.example/app:v1")
        );
        let newer = text.replace("\"version\": 1", "\"version\": 2");
        assert!(matches!(Handoff::parse(newer.as_bytes()), Err(HandoffError::Version(2))));
        assert!(matches!(Handoff::parse(b"{}"), Err(HandoffError::Json(_))));
        assert!(matches!(
            HandedImage::new(&[], Digest::of(b""), Vec::new(), None),
            Err(HandoffError::NoName)
        ));
    }

    #[test]
    fn variables_as_gitlab_takes_them() {
        let digest = Digest::of(b"image");
        assert_eq!(
            image(&["r.example/app:v1"]).dotenv("IMAGE").unwrap(),
            format!(
                "IMAGE=r.example/app\nIMAGE_TAG=v1\nIMAGE_DIGEST={digest}\nIMAGE_REF=r.example/app:v1@{digest}\n"
            )
        );
        for name in ["", "1A", "A-B", "É"] {
            assert!(matches!(image(&["a"]).dotenv(name), Err(HandoffError::Variable(_))), "{name}");
        }
        assert!(matches!(image(&["a"]).dotenv(&"A".repeat(1300)), Err(HandoffError::TooLarge(_))));
    }
}
