//! Platforms (`linux/arm64/v8`): parsing, normalising and matching, as containerd does it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An operating system, an architecture and perhaps a variant of it, in normal form (`arm64`, not `aarch64`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `GOOS`: `linux`.
    pub os: String,
    /// `GOARCH`: `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7`, `v8`, …; absent where it is the architecture's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a platform: expected `os/architecture` or `os/architecture/variant`, such as `linux/amd64`"
)]
pub struct PlatformError(String);

impl Platform {
    /// The platform of the given parts, normalised (`aarch64` becomes `arm64`, `x86_64` becomes `amd64`; the
    /// default variants `arm64/v8` and `amd64/v1` are left out, `arm` without one is `arm/v7`).
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("i386", _) => ("386", None),
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", other) => ("arm64", other),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            (other, variant) => (other, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// The platform this program was built for, and whose programs it can run.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// Whether an image of `offered` serves where `self` is wanted: same system and architecture, and a variant
    /// that is the wanted one or, for `arm`, an older one (`linux/arm/v6` runs on `linux/arm/v7`).
    pub fn accepts(&self, offered: &Self) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant == offered.variant
                || self.architecture == "arm" && offered.variant <= self.variant
                || offered.variant.is_none() && self.architecture != "arm")
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError(text.to_owned());
        let legal = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| legal(part)) {
            return Err(error());
        }
        match parts[..] {
            // `--platform=arm64` is what people type: the system is ours, or the architecture is.
            ["linux" | "windows" | "darwin" | "freebsd"] => {
                Ok(Self { os: parts[0].to_owned(), ..Self::host() })
            }
            [architecture] => Ok(Self::new(std::env::consts::OS, architecture, None)),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        Self::new(
            &platform.os().to_string(),
            &platform.architecture().to_string(),
            platform.variant().as_deref(),
        )
    }
}

impl From<&Platform> for oci_spec::image::Platform {
    fn from(platform: &Platform) -> Self {
        let mut theirs = Self::default();
        theirs.set_os(platform.os.as_str().into());
        theirs.set_architecture(platform.architecture.as_str().into());
        theirs.set_variant(platform.variant.clone());
        theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("linux/amd64", "linux/amd64")]
    #[case("linux/x86_64", "linux/amd64")]
    #[case("Linux/AMD64", "linux/amd64")]
    #[case("linux/amd64/v1", "linux/amd64")]
    #[case("linux/amd64/v3", "linux/amd64/v3")]
    #[case("linux/aarch64", "linux/arm64")]
    #[case("linux/arm64/v8", "linux/arm64")]
    #[case("linux/arm", "linux/arm/v7")]
    #[case("linux/armhf", "linux/arm/v7")]
    #[case("linux/arm/6", "linux/arm/v6")]
    #[case("linux/i386", "linux/386")]
    #[case("arm64", "linux/arm64")]
    #[case("linux", "linux/amd64")]
    fn normalises(#[case] typed: &str, #[case] normal: &str) {
        assert_eq!(typed.parse::<Platform>().unwrap().to_string(), normal);
    }

    #[rstest]
    #[case("")]
    #[case("linux/")]
    #[case("linux/amd64/v1/x")]
    #[case("linux/am d64")]
    fn refuses(#[case] typed: &str) {
        assert!(typed.parse::<Platform>().is_err());
    }

    #[rstest]
    #[case("linux/amd64", "linux/amd64", true)]
    #[case("linux/amd64", "linux/arm64", false)]
    #[case("linux/arm/v7", "linux/arm/v6", true)]
    #[case("linux/arm/v6", "linux/arm/v7", false)]
    #[case("linux/amd64/v3", "linux/amd64", true)]
    #[case("linux/amd64", "linux/amd64/v3", false)]
    fn accepts(#[case] wanted: Platform, #[case] offered: Platform, #[case] serves: bool) {
        assert_eq!(wanted.accepts(&offered), serves);
    }
}
