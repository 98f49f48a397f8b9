//! Contexts as they are typed: the positional one, and `--build-context NAME=VALUE`.

use super::error::Problem;
use super::values::pair;
use crate::build::request::{ContextSource, NamedContext, Selector};
use crate::context::address::Address;
use crate::image::Reference;

/// Reads the context of a build.
pub(super) fn context(text: &str) -> Result<ContextSource, Problem> {
    if text == "-" {
        return Ok(ContextSource::Stdin);
    }
    match Address::parse_context(text) {
        Ok(Some(address)) => Ok(ContextSource::Remote(address)),
        Ok(None) => Ok(ContextSource::Directory(text.into())),
        Err(error) => Err(Problem::new(text, format!("is not an address: {error}"))),
    }
}

/// Reads `NAME=VALUE`.
pub(super) fn named(text: &str) -> Result<(String, NamedContext), Problem> {
    let (name, Some(value)) = pair(text)? else {
        return Err(Problem::new(text, "is not `NAME=VALUE`"));
    };
    if name.contains("::") {
        let problem = Problem::new(name, "is no name: a context is the same for all platforms");
        return Err(problem.hint("name stages or contexts after platforms: `FROM base-$TARGETARCH`"));
    }
    if value.is_empty() {
        return Err(Problem::new(text, "has nothing behind the `=`"));
    }
    Ok((name.to_owned(), value_of(value)?))
}

fn value_of(value: &str) -> Result<NamedContext, Problem> {
    if let Some(image) = value.strip_prefix("docker-image://") {
        let image: Result<Reference, _> = image.parse();
        return image
            .map(|image| NamedContext::Image(image.or_latest()))
            .map_err(|error| Problem::saying(error.to_string()));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (directory, selector) = layout_selector(layout)?;
        return Ok(NamedContext::Layout { directory: directory.into(), selector });
    }
    if let Some(target) = value.strip_prefix("target:") {
        return if target.is_empty() {
            Err(Problem::new(value, "names no stage"))
        } else {
            Ok(NamedContext::Target(target.to_owned()))
        };
    }
    match Address::parse(value) {
        Ok(Some(address)) => Ok(NamedContext::Remote(address)),
        Ok(None) => Ok(NamedContext::Directory(value.into())),
        Err(error) => Err(Problem::new(value, format!("is not an address: {error}"))),
    }
}

/// Reads `DIR[:NAME][@DIGEST]`. A colon is that of a name only behind the last `/`, so `./a:b/c` is a directory.
pub(crate) fn layout_selector(text: &str) -> Result<(&str, Selector), Problem> {
    let (rest, digest) = match text.rsplit_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse()
                .map_err(|error: crate::image::DigestError| Problem::saying(error.to_string()))?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    let (directory, name) = match rest.get(last..).and_then(|part| part.find(':')) {
        Some(colon) => {
            let (directory, name) = rest.split_at(last + colon);
            (directory, name.get(1..))
        }
        None => (rest, None),
    };
    if directory.is_empty() {
        return Err(Problem::new(text, "names no directory"));
    }
    let name = name.filter(|name| !name.is_empty()).map(str::to_owned);
    Ok((directory, Selector { name, digest }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;
    use rstest::rstest;

    fn layout(directory: &str, name: Option<&str>, digest: Option<Digest>) -> NamedContext {
        let selector = Selector { name: name.map(str::to_owned), digest };
        NamedContext::Layout { directory: directory.into(), selector }
    }

    #[rstest]
    #[case("src=../src", NamedContext::Directory("../src".into()))]
    #[case("src=a=b", NamedContext::Directory("a=b".into()))]
    #[case("alpine=docker-image://debian", NamedContext::Image("debian:latest".parse().unwrap()))]
    #[case("x=oci-layout://./out", layout("./out", None, None))]
    #[case("x=oci-layout:///srv/out:v1", layout("/srv/out", Some("v1"), None))]
    #[case("x=oci-layout://a:b/out", layout("a:b/out", None, None))]
    #[case("x=target:build", NamedContext::Target("build".into()))]
    fn reads(#[case] text: &str, #[case] expected: NamedContext) {
        let (name, value) = named(text).unwrap();
        assert_eq!((name.as_str(), value), (text.split('=').next().unwrap(), expected));
    }

    #[test]
    fn a_layout_by_digest() {
        let digest = Digest::of(b"x");
        let found = named(&format!("x=oci-layout://out:v1@{digest}")).unwrap().1;
        assert_eq!(found, layout("out", Some("v1"), Some(digest)));
    }

    #[rstest]
    #[case("src", "`src` is not `NAME=VALUE`")]
    #[case(
        "a::linux/arm64=x",
        "`a::linux/arm64` is no name: a context is the same for all platforms; name stages or contexts after platforms: `FROM base-$TARGETARCH`"
    )]
    #[case("=x", "`=x` has no name before the `=`")]
    #[case("x=", "`x=` has nothing behind the `=`")]
    #[case(
        "x=https://example.com/a.git?ref=",
        "`https://example.com/a.git?ref=` is not an address: `ref` has no value"
    )]
    #[case("x=docker-image://App", "image name `App` must be lower case")]
    #[case("x=oci-layout://:v1", "`:v1` names no directory")]
    #[case("x=oci-layout://out@v1", "`v1` is not a digest: expected `sha256:` and 64 hexadecimal digits")]
    #[case("x=target:", "`target:` names no stage")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        assert_eq!(named(text).unwrap_err().words(), message);
    }

    #[rstest]
    #[case("git@github.com:a/b.git", false)]
    #[case("github.com/a/b#main:sub", false)]
    #[case("https://example.com/x.tar.gz", true)]
    fn what_is_elsewhere(#[case] text: &str, #[case] is_file: bool) {
        let found = context(text).unwrap();
        assert!(matches!(found, ContextSource::Remote(Address::File(_))) == is_file, "{found:?}");
        assert!(matches!(found, ContextSource::Remote(_)), "{found:?}");
    }

    #[test]
    fn standard_input_and_directories() {
        assert_eq!(context("-").unwrap(), ContextSource::Stdin);
        assert_eq!(context("a/b.git").unwrap(), ContextSource::Directory("a/b.git".into()));
        assert!(context("https://h/a.git?depth=1").is_err());
    }
}
