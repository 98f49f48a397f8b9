//! Contexts as they are typed: the positional one, and `--build-context NAME=VALUE`.

use super::error::Problem;
use super::values::pair;
use crate::build::request::{ContextSource, NamedContext, Selector};
use crate::image::Reference;

/// Beginnings of what BuildKit takes for a Git repository or a file on the web.
const REMOTE: [&str; 8] =
    ["http://", "https://", "git://", "git@", "ssh://", "github.com/", "git+https://", "git+ssh://"];
/// What can be given instead.
const INSTEAD: &str = "fetch it before, and give the directory";

/// Reads the context of a build.
pub(super) fn context(text: &str) -> Result<ContextSource, Problem> {
    if text == "-" {
        return Err(Problem::new(text, "as a context, an archive on standard input, is not supported yet")
            .hint("unpack it before, and give the directory"));
    }
    if let Some(problem) = remote(text) {
        return Err(problem);
    }
    Ok(ContextSource::Directory(text.into()))
}

/// Reads `NAME=VALUE`.
pub(super) fn named(text: &str) -> Result<(String, NamedContext), Problem> {
    let (name, Some(value)) = pair(text)? else {
        return Err(Problem::new(text, "is not `NAME=VALUE`"));
    };
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
    match remote(value) {
        Some(problem) => Err(problem),
        None => Ok(NamedContext::Directory(value.into())),
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

fn remote(text: &str) -> Option<Problem> {
    let is_remote = REMOTE.iter().any(|scheme| text.starts_with(scheme));
    is_remote.then(|| Problem::new(text, "is a remote context, which is not supported yet").hint(INSTEAD))
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
    #[case("=x", "`=x` has no name before the `=`")]
    #[case("x=", "`x=` has nothing behind the `=`")]
    #[case(
        "x=https://example.com/a.git",
        "`https://example.com/a.git` is a remote context, which is not supported yet; fetch it before, and give the directory"
    )]
    #[case("x=docker-image://App", "image name `App` must be lower case")]
    #[case("x=oci-layout://:v1", "`:v1` names no directory")]
    #[case("x=oci-layout://out@v1", "`v1` is not a digest: expected `sha256:` and 64 hexadecimal digits")]
    #[case("x=target:", "`target:` names no stage")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        assert_eq!(named(text).unwrap_err().words(), message);
    }

    #[rstest]
    #[case("git@github.com:a/b.git")]
    #[case("https://example.com/x.tar.gz")]
    #[case("-")]
    fn only_directories_are_contexts(#[case] text: &str) {
        assert!(context(text).unwrap_err().message.contains("not supported yet"));
    }
}
