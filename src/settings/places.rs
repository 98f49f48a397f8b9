//! Places of images as they are typed: `NAME`, `oci-layout://…`, `docker-archive://…`, `store://…`.

use super::annotations::platform;
use super::contexts::layout_selector;
use super::error::{Problem, SettingsError};
use super::origin::Given;
use crate::build::transport::Place;
use crate::image::{Platform, Reference, ReferenceError};

/// What may stand before `://`.
const SCHEMES: [&str; 4] = ["docker-image", "oci-layout", "docker-archive", "store"];

/// Reads a place.
///
/// # Errors
/// If it is none.
pub fn parse_place(given: &Given<String>) -> Result<Place, SettingsError> {
    place(&given.value).map_err(|problem| problem.at(&given.origin))
}

/// Reads `OS/ARCH[/VARIANT]`.
///
/// # Errors
/// If it is none.
pub fn parse_platform(given: &Given<String>) -> Result<Platform, SettingsError> {
    platform(&given.value).map_err(|problem| problem.at(&given.origin))
}

fn place(text: &str) -> Result<Place, Problem> {
    let Some((scheme, rest)) = text.split_once("://") else {
        let looks_like_a_file = text.starts_with(['.', '/']);
        return name(text).map(Place::Registry).map_err(|problem| {
            if looks_like_a_file {
                problem.hint("a directory is `oci-layout://DIR`, an archive `docker-archive://FILE`")
            } else {
                problem
            }
        });
    };
    match scheme {
        "docker-image" => name(rest).map(Place::Registry),
        "store" => name(rest).map(Place::Store),
        "oci-layout" => {
            let (directory, selector) = layout_selector(rest)?;
            Ok(Place::Layout { directory: directory.into(), selector })
        }
        "docker-archive" => {
            // A name has colons and slashes itself, so the first colon ends the file.
            let (file, wanted) = rest.split_once(':').unwrap_or((rest, ""));
            if file.is_empty() {
                return Err(Problem::new(text, "names no file"));
            }
            let wanted = Some(wanted).filter(|wanted| !wanted.is_empty());
            let wanted = wanted.map(super::output::tag).transpose()?;
            Ok(Place::Archive { file: file.into(), name: wanted })
        }
        _ => {
            let what =
                "is no kind of place: there are `docker-image`, `oci-layout`, `docker-archive` and `store`";
            Err(Problem::new(scheme, what).meant(scheme, SCHEMES))
        }
    }
}

fn name(text: &str) -> Result<Reference, Problem> {
    let reference: Reference =
        text.parse().map_err(|error: ReferenceError| Problem::saying(error.to_string()))?;
    Ok(reference.or_latest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::request::Selector;
    use rstest::rstest;

    fn layout(directory: &str, name: Option<&str>) -> Place {
        let selector = Selector { name: name.map(str::to_owned), digest: None };
        Place::Layout { directory: directory.into(), selector }
    }

    fn archive(file: &str, name: Option<&str>) -> Place {
        Place::Archive { file: file.into(), name: name.map(|name| name.parse().unwrap()) }
    }

    #[rstest]
    #[case("app", Place::Registry("app:latest".parse().unwrap()))]
    #[case("docker-image://r.example/app:v1", Place::Registry("r.example/app:v1".parse().unwrap()))]
    #[case("store://app:v1", Place::Store("app:v1".parse().unwrap()))]
    #[case("oci-layout://./out", layout("./out", None))]
    #[case("oci-layout:///srv/out:v1", layout("/srv/out", Some("v1")))]
    #[case("docker-archive://out.tar", archive("out.tar", None))]
    #[case(
        "docker-archive:///srv/out.tar:r.example:5000/app:v1",
        archive("/srv/out.tar", Some("r.example:5000/app:v1"))
    )]
    #[case("docker-archive://out.tar:app", archive("out.tar", Some("app:latest")))]
    fn reads(#[case] text: &str, #[case] expected: Place) {
        assert_eq!(place(text).unwrap(), expected);
    }

    /// A place is shown as it would be typed.
    #[rstest]
    #[case("r.example/app:v1")]
    #[case("store://app:v1")]
    #[case("oci-layout://out:v1@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")]
    #[case("docker-archive://out.tar:r.example/app:v1")]
    fn shows(#[case] text: &str) {
        assert_eq!(place(text).unwrap().to_string(), text);
    }

    #[test]
    fn a_name_by_its_digest_has_no_tag() {
        let digest = crate::image::Digest::of(b"x");
        let Place::Registry(name) = place(&format!("r.example/app@{digest}")).unwrap() else { panic!() };
        assert_eq!((name.tag(), name.digest()), (None, Some(digest)));
    }

    #[rstest]
    #[case("App", "image name `App` must be lower case")]
    #[case(
        "oci-layot://x",
        "`oci-layot` is no kind of place: there are `docker-image`, `oci-layout`, `docker-archive` and `store`; did you mean `oci-layout`?"
    )]
    #[case("docker-archive://:app", "`docker-archive://:app` names no file")]
    #[case("oci-layout://:v1", "`:v1` names no directory")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        assert_eq!(place(text).unwrap_err().words(), message);
    }

    #[test]
    fn a_path_is_said_to_need_its_kind() {
        let words = place("./out").unwrap_err().words();
        assert!(
            words.ends_with("a directory is `oci-layout://DIR`, an archive `docker-archive://FILE`"),
            "{words}"
        );
    }
}
