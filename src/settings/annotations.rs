//! `--platform` and `--annotation`, as `docker buildx build` has them.

use super::build::each;
use super::error::{Problem, SettingsError};
use super::values::pair;
use crate::build::request::{Annotation, AnnotationPlace};
use crate::image::{Platform, PlatformError};

/// What an annotation can be for.
const PLACES: [(&str, AnnotationPlace); 4] = [
    ("manifest", AnnotationPlace::Manifest),
    ("index", AnnotationPlace::Index),
    ("manifest-descriptor", AnnotationPlace::ManifestDescriptor),
    ("index-descriptor", AnnotationPlace::IndexDescriptor),
];

/// Reads `OS/ARCH,…`, each once.
pub(super) fn platforms(text: &str) -> Result<Vec<Platform>, Problem> {
    let mut platforms = Vec::new();
    for part in text.split(',').map(str::trim) {
        let platform = platform(part)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

pub(super) fn platform(text: &str) -> Result<Platform, Problem> {
    let platform: Platform =
        text.parse().map_err(|error: PlatformError| Problem::saying(error.to_string()))?;
    // Its paths have drives and backslashes, and its layers a form of their own.
    match platform.os.as_str() {
        "windows" => Err(Problem::new(text, "is not supported: images for Windows are not built")),
        _ => Ok(platform),
    }
}

/// Reads `[PLACE[[PLATFORM]],…:]NAME=VALUE` of each flag.
pub(super) fn annotations(typed: &[String]) -> Result<Vec<Annotation>, SettingsError> {
    let mut annotations: Vec<Annotation> = Vec::new();
    for text in typed {
        for annotation in each("--annotation", text, annotation)? {
            let Annotation { place, platform, name, .. } = &annotation;
            annotations
                .retain(|known| (&known.place, &known.platform, &known.name) != (place, platform, name));
            annotations.push(annotation);
        }
    }
    Ok(annotations)
}

fn annotation(text: &str) -> Result<Vec<Annotation>, Problem> {
    let (name, Some(value)) = pair(text)? else {
        return Err(Problem::new(text, "is not `NAME=VALUE`"));
    };
    let (places, name) = match name.split_once(':') {
        Some((places, name)) => (places, name),
        None => ("manifest", name),
    };
    if name.is_empty() {
        return Err(Problem::new(text, "has no name before the `=`"));
    }
    let of = |place: &str| {
        let (place, platform) = match place.split_once('[') {
            Some((place, rest)) => {
                let Some(text) = rest.strip_suffix(']') else {
                    return Err(Problem::new(text, "has a `[` without its `]`"));
                };
                (place, Some(platform(text)?))
            }
            None => (place, None),
        };
        let Some((_, found)) = PLACES.iter().find(|(known, _)| *known == place) else {
            let known = PLACES.map(|(known, _)| known).join(", ");
            return Err(Problem::new(place, "is nothing that an annotation can be for")
                .hint(format!("it is {known}")));
        };
        if found.is_of_index() && platform.is_some() {
            return Err(Problem::new(text, "names a platform, and an index has none"));
        }
        Ok(Annotation { place: *found, platform, name: name.to_owned(), value: value.to_owned() })
    };
    places.split(',').map(of).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn of(place: AnnotationPlace, platform: Option<&str>) -> Annotation {
        let platform = platform.map(|platform| platform.parse().unwrap());
        Annotation { place, platform, name: "a".to_owned(), value: "b=c".to_owned() }
    }

    #[rstest]
    #[case("a=b=c", vec![of(AnnotationPlace::Manifest, None)])]
    #[case("index:a=b=c", vec![of(AnnotationPlace::Index, None)])]
    #[case("manifest[linux/arm64],index-descriptor:a=b=c", vec![of(AnnotationPlace::Manifest, Some("linux/arm64")), of(AnnotationPlace::IndexDescriptor, None)])]
    #[case("manifest-descriptor:a=b=c", vec![of(AnnotationPlace::ManifestDescriptor, None)])]
    fn reads(#[case] text: &str, #[case] expected: Vec<Annotation>) {
        assert_eq!(annotation(text).unwrap(), expected);
    }

    #[rstest]
    #[case("a", "is not `NAME=VALUE`")]
    #[case("layer:a=b", "is nothing that an annotation can be for; it is manifest, index")]
    #[case("index:=b", "has no name before the `=`")]
    #[case("manifest[linux/arm64:a=b", "without its `]`")]
    #[case("index[linux/arm64]:a=b", "an index has none")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        let words = annotation(text).unwrap_err().words();
        assert!(words.contains(message), "{words}");
    }

    #[test]
    fn the_last_of_two_counts() {
        let typed = ["a=1", "index:a=2", "a=3"].map(str::to_owned);
        let found = annotations(&typed).unwrap();
        let values: Vec<&str> = found.iter().map(|one| one.value.as_str()).collect();
        assert_eq!(values, ["2", "3"]);
    }

    #[test]
    fn platforms_are_each_there_once() {
        let found = platforms("linux/amd64, linux/arm64,linux/amd64").unwrap();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
        assert!(platforms("linux/amd64,").is_err());
    }
}
