//! Things that must not be shown, and how they are shown instead.
//!
//! A secret leaves [`Secret`] only through [`Secret::expose`], so every place that handles one can be found by
//! that name. Addresses are shown without what signs them: storage back-ends put their credentials into the
//! query of the address a registry redirects to.

use std::fmt;

use reqwest::Url;

/// What stands where a secret would.
const HIDDEN: &str = "***";

/// Query parameters of the distribution protocol that say what was asked for and are worth reading in an error.
/// Everything else (`X-Amz-Signature`, `_state`, `sig`, …) is hidden.
const PUBLIC_PARAMETERS: [&str; 8] = ["digest", "mount", "from", "n", "last", "service", "scope", "ns"];

/// A password or token. It prints as `***`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the wire alone.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `text` with every occurrence of the secret hidden, for answers that may echo what was sent.
    pub(crate) fn scrub(&self, text: &str) -> String {
        // A secret of a few characters would hide half of every message, and is none.
        if self.0.len() < 6 { text.to_owned() } else { text.replace(&self.0, HIDDEN) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// `url` without user, password, fragment and the values of query parameters that may be secret.
pub(crate) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // These fail only for addresses without a host, which have no user either.
    let _no_host = shown.set_username("").and_then(|()| shown.set_password(None));
    shown.set_fragment(None);
    let pairs: Vec<String> = url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if PUBLIC_PARAMETERS.contains(&name) => pair.to_owned(),
            Some((name, _)) => format!("{name}={HIDDEN}"),
            None => HIDDEN.to_owned(),
        })
        .collect();
    shown.set_query((!pairs.is_empty()).then(|| pairs.join("&")).as_deref());
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.scrub("bad token hunter2hunter2"), "bad token ***");
    }

    #[rstest]
    #[case(
        "https://r.example/v2/a/blobs/uploads/?mount=sha256:1&from=b",
        "https://r.example/v2/a/blobs/uploads/?mount=sha256:1&from=b"
    )]
    #[case(
        "https://u:p@r.example/v2/?_state=abc&digest=sha256:1",
        "https://r.example/v2/?_state=***&digest=sha256:1"
    )]
    #[case(
        "https://s3.example/b?X-Amz-Signature=ab%3D&X-Amz-Date=1#frag",
        "https://s3.example/b?X-Amz-Signature=***&X-Amz-Date=***"
    )]
    #[case("https://s3.example/b?opaque", "https://s3.example/b?***")]
    fn addresses_show_no_signature(#[case] url: Url, #[case] shown: &str) {
        assert_eq!(redacted(&url), shown);
    }
}
