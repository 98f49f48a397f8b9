//! Caches beside the store: `--cache-repo`, and `--cache-from` and `--cache-to` by the rules of `docker buildx build`.

use super::build::each;
use super::error::{Problem, SettingsError};
use super::fields::fields;
use super::origin::Given;
use super::output::{Pairs, list};
use super::values::switch;
use crate::build::request::{CacheMode, CachePlace, CacheSink, CacheSource};
use crate::image::{Reference, Repository};

/// The kinds of caches that are looked into.
const FROM: [&str; 2] = ["registry", "local"];
/// The kinds of caches that are filled.
const TO: [&str; 3] = ["registry", "local", "inline"];
/// Kinds of BuildKit's that need a service of somebody's.
const OTHERS: [&str; 4] = ["gha", "s3", "azblob", "image"];
/// Keys of `docker` whose only value is what is done here.
const FIXED: [&str; 3] = ["oci-mediatypes", "image-manifest", "ignore-error"];

/// Reads a repository.
pub(super) fn repository(text: &str) -> Result<Repository, Problem> {
    let reference = reference(text)?;
    if reference.tag().is_some() || reference.digest().is_some() {
        let hint = "leave the tag out: each result has one of its own, its key";
        return Err(Problem::new(text, "is an image, not a repository").hint(hint));
    }
    Ok(reference.repository().clone())
}

/// Reads a repository that results of steps are shared in.
///
/// # Errors
/// If it is none.
pub fn parse_repository(given: &Given<String>) -> Result<Repository, SettingsError> {
    repository(&given.value).map_err(|problem| problem.at(&given.origin))
}

fn reference(text: &str) -> Result<Reference, Problem> {
    text.parse().map_err(|error: crate::image::ReferenceError| Problem::saying(error.to_string()))
}

/// The caches to look into and those to fill.
pub(super) fn resolve(
    repository: Option<Given<Repository>>,
    from: &[String],
    to: &[String],
) -> Result<(Vec<CacheSource>, Vec<CacheSink>), SettingsError> {
    let (mut sources, mut sinks) = (Vec::new(), Vec::new());
    if let Some(Given { value: repository, .. }) = repository {
        sources.push(CacheSource::Registry { repository: repository.clone(), image: None });
        sinks.push(CacheSink { place: CachePlace::Registry(repository), mode: CacheMode::Max });
    }
    for text in from {
        let source = each("--cache-from", text, source)?;
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    for text in to {
        let sink = each("--cache-to", text, sink)?;
        // What is asked for twice is made once, as far as the one that goes farthest.
        match sinks.iter_mut().find(|known: &&mut CacheSink| known.place == sink.place) {
            Some(known) if sink.mode == CacheMode::Max => known.mode = CacheMode::Max,
            Some(_) => {}
            None => sinks.push(sink),
        }
    }
    Ok((sources, sinks))
}

/// Reads a value of `--cache-from`.
fn source(text: &str) -> Result<CacheSource, Problem> {
    let (kind, mut pairs) = read(text, &FROM)?;
    let source = match kind.as_str() {
        "local" => CacheSource::Directory(needed(text, &mut pairs, "src")?.into()),
        _ => {
            let image = reference(&needed(text, &mut pairs, "ref")?)?.or_latest();
            CacheSource::Registry { repository: image.repository().clone(), image: Some(image) }
        }
    };
    nothing_left(&kind, pairs)?;
    Ok(source)
}

/// Reads a value of `--cache-to`.
fn sink(text: &str) -> Result<CacheSink, Problem> {
    let (kind, mut pairs) = read(text, &TO)?;
    let place = match kind.as_str() {
        "local" => CachePlace::Directory(needed(text, &mut pairs, "dest")?.into()),
        "inline" => CachePlace::Inline,
        // Of a reference the repository counts: each result has its key as its tag.
        _ => CachePlace::Registry(reference(&needed(text, &mut pairs, "ref")?)?.repository().clone()),
    };
    let mode = match pairs.take("mode").as_deref() {
        None | Some("min") => CacheMode::Min,
        Some("max") if place == CachePlace::Inline => {
            let problem = Problem::new("mode=max", "is not possible with `type=inline`");
            return Err(problem.hint("an image has its own layers alone: write `type=registry`"));
        }
        Some("max") => CacheMode::Max,
        Some(other) => return Err(Problem::new(other, "is no mode: there are `min` and `max`")),
    };
    nothing_left(&kind, pairs)?;
    Ok(CacheSink { place, mode })
}

/// The kind of a cache, and what else is said of it. A name alone is an image.
fn read(text: &str, kinds: &[&str]) -> Result<(String, Pairs), Problem> {
    let mut found = fields(text)?;
    if let [alone] = found.as_mut_slice()
        && !alone.contains('=')
    {
        let kind = if kinds.contains(&alone.as_str()) { "type" } else { "ref" };
        *alone = format!("{kind}={alone}");
    }
    let mut pairs = Pairs::read(text, &found)?;
    let kind = pairs.take("type").unwrap_or_else(|| "registry".to_owned());
    if OTHERS.contains(&kind.as_str()) {
        let problem = Problem::new(&kind, "is a kind of cache that is not supported");
        return Err(problem.hint(format!("there are {}", list(kinds))));
    }
    if !kinds.contains(&kind.as_str()) {
        let problem = Problem::new(&kind, format!("is no kind of cache here: there are {}", list(kinds)));
        return Err(problem.meant(&kind, kinds.iter().copied()));
    }
    for key in FIXED {
        if let Some(value) = pairs.take(key)
            && !switch(&value)?
        {
            let problem = Problem::new(format!("{key}={value}"), "is not supported");
            return Err(match key {
                "ignore-error" => problem.hint("a cache that cannot be written is a warning, and never more"),
                _ => problem.hint("entries are image manifests of the OCI"),
            });
        }
    }
    Ok((kind, pairs))
}

fn needed(text: &str, pairs: &mut Pairs, key: &str) -> Result<String, Problem> {
    let value = pairs.take(key).filter(|value| !value.is_empty());
    value.ok_or_else(|| Problem::new(text, format!("has no `{key}`")))
}

fn nothing_left(kind: &str, pairs: Pairs) -> Result<(), Problem> {
    match pairs.left().next() {
        None => Ok(()),
        Some(key @ ("compression" | "compression-level" | "force-compression")) => {
            let problem = Problem::new(key, "does not belong to a cache");
            Err(problem.hint("results are cached as they are in the image: give `--compression`"))
        }
        Some(key) => Err(Problem::new(key, format!("is no key of a cache of `type={kind}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn registry(name: &str) -> CacheSource {
        let image: Reference = name.parse().unwrap();
        CacheSource::Registry { repository: image.repository().clone(), image: Some(image) }
    }

    fn place(name: &str) -> CachePlace {
        CachePlace::Registry(name.parse::<Reference>().unwrap().repository().clone())
    }

    #[rstest]
    #[case("a.b/app", registry("a.b/app:latest"))]
    #[case("a.b/app:v1", registry("a.b/app:v1"))]
    #[case("type=registry,ref=a.b/app:cache", registry("a.b/app:cache"))]
    #[case("ref=a.b/app:cache", registry("a.b/app:cache"))]
    #[case("type=local,src=/c", CacheSource::Directory("/c".into()))]
    fn sources(#[case] text: &str, #[case] expected: CacheSource) {
        assert_eq!(source(text).unwrap(), expected);
    }

    #[rstest]
    #[case("a.b/app", place("a.b/app"), CacheMode::Min)]
    #[case("type=registry,ref=a.b/app:cache,mode=max", place("a.b/app"), CacheMode::Max)]
    #[case(
        "type=registry,ref=a.b/app,mode=min,oci-mediatypes=true,image-manifest=true",
        place("a.b/app"),
        CacheMode::Min
    )]
    #[case("type=local,dest=/c,mode=max", CachePlace::Directory("/c".into()), CacheMode::Max)]
    #[case("type=inline", CachePlace::Inline, CacheMode::Min)]
    #[case("inline", CachePlace::Inline, CacheMode::Min)]
    fn sinks(#[case] text: &str, #[case] place: CachePlace, #[case] mode: CacheMode) {
        assert_eq!(sink(text).unwrap(), CacheSink { place, mode });
    }

    #[rstest]
    #[case(
        "type=gha",
        "`gha` is a kind of cache that is not supported; there are `registry`, `local` and `inline`"
    )]
    #[case(
        "type=registri,ref=a",
        "`registri` is no kind of cache here: there are `registry`, `local` and `inline`; did you mean `registry`?"
    )]
    #[case("type=local,src=/c", "`type=local,src=/c` has no `dest`")]
    #[case(
        "type=inline,mode=max",
        "`mode=max` is not possible with `type=inline`; an image has its own layers alone: write `type=registry`"
    )]
    #[case("type=registry,ref=a,mode=all", "`all` is no mode: there are `min` and `max`")]
    #[case(
        "type=registry,ref=a,image-manifest=false",
        "`image-manifest=false` is not supported; entries are image manifests of the OCI"
    )]
    #[case(
        "type=registry,ref=a,ignore-error=false",
        "`ignore-error=false` is not supported; a cache that cannot be written is a warning, and never more"
    )]
    #[case(
        "type=registry,ref=a,compression=zstd",
        "`compression` does not belong to a cache; results are cached as they are in the image: give `--compression`"
    )]
    #[case("type=registry,ref=a,region=x", "`region` is no key of a cache of `type=registry`")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        assert_eq!(sink(text).unwrap_err().words(), message);
    }

    #[test]
    fn a_repository_has_no_tag() {
        assert!(repository("a.b/cache").is_ok());
        assert!(repository("a.b/cache:v1").is_err());
    }

    #[test]
    fn the_same_place_is_named_once() {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let to = texts(&["type=registry,ref=a.b/c:x", "type=registry,ref=a.b/c:y,mode=max", "type=inline"]);
        let (sources, sinks) = resolve(None, &texts(&["a.b/c:x", "ref=a.b/c:x"]), &to).unwrap();
        assert_eq!(sources.len(), 1);
        let modes: Vec<CacheMode> = sinks.iter().map(|sink| sink.mode).collect();
        assert_eq!(modes, [CacheMode::Max, CacheMode::Min]);
    }
}
