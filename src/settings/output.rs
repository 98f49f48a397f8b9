//! `--output`: where a result goes, by the rules of `docker buildx build`.

use std::path::PathBuf;

use super::error::Problem;
use super::fields::fields;
use super::values::{compression_of, switch};
use crate::build::request::{Destination, MediaTypes, Output};
use crate::image::Reference;
use crate::layer::Compression;

/// The kinds of output.
const TYPES: [&str; 6] = ["registry", "image", "oci", "docker", "local", "tar"];
/// The keys that are understood, and the types that know them.
const KEYS: [(&str, &[&str]); 9] = [
    ("type", &TYPES),
    ("dest", &["oci", "docker", "local", "tar"]),
    ("name", &["registry", "image", "oci", "docker"]),
    ("push", &["registry", "image"]),
    ("tar", &["oci"]),
    ("compression", &["registry", "image", "oci", "docker"]),
    ("compression-level", &["registry", "image", "oci", "docker"]),
    ("force-compression", &["registry", "image", "oci", "docker"]),
    ("oci-mediatypes", &["registry", "image", "oci", "docker"]),
];
/// Keys of `docker` with the one value that is what is done here. Times of files in layers are never later than
/// `SOURCE_DATE_EPOCH`, and those of the base are its own, which is what `rewrite-timestamp` asks for.
const FIXED: [(&str, bool); 3] = [("rewrite-timestamp", true), ("push-by-digest", false), ("unpack", false)];

/// An output as typed, before it is known which names the image has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Typed {
    kind: Kind,
    names: Vec<Reference>,
    /// How it wants layers to be compressed, if it says so.
    pub compression: Option<Compression>,
    /// Whether layers of the base are to be compressed in the same way.
    pub force_compression: bool,
    /// Whose media types it wants, if it says so.
    pub media_types: Option<MediaTypes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Into the store, where everything goes.
    Store,
    Registry,
    Oci(Destination),
    Docker(Destination),
    Local(PathBuf),
    Tar(Destination),
}

impl Typed {
    /// What `--push` means.
    pub fn push() -> Self {
        Self::plain(Kind::Registry)
    }

    fn plain(kind: Kind) -> Self {
        Self { kind, names: Vec::new(), compression: None, force_compression: false, media_types: None }
    }

    /// The names it brings.
    pub fn names(&self) -> &[Reference] {
        &self.names
    }

    /// The output of an image that is called `tags`; nothing for one that goes into the store alone.
    pub fn resolve(&self, tags: &[Reference]) -> Result<Option<Output>, Problem> {
        let names = if self.names.is_empty() { tags.to_vec() } else { self.names.clone() };
        Ok(Some(match &self.kind {
            Kind::Store => return Ok(None),
            Kind::Registry if names.is_empty() => {
                return Err(Problem::saying("there is no name to push to").hint("give one with `-t NAME`"));
            }
            Kind::Registry => Output::Registry { names },
            Kind::Oci(destination) => Output::Oci { destination: destination.clone(), names },
            Kind::Docker(destination) => Output::Docker { destination: destination.clone(), names },
            Kind::Local(directory) => Output::Local { directory: directory.clone() },
            Kind::Tar(destination) => Output::Tar { destination: destination.clone() },
        }))
    }
}

/// Reads an output as it is typed.
pub(super) fn parse(text: &str) -> Result<Typed, Problem> {
    let found = fields(text)?;
    // A path alone is short for `type=local`, and `-` for an archive on standard output.
    if let [alone] = found.as_slice()
        && !alone.starts_with("type=")
    {
        let kind = match alone.as_str() {
            "" => return Err(Problem::new(text, "is no place for an output")),
            "-" => Kind::Tar(Destination::Stdout),
            path => Kind::Local(path.into()),
        };
        return Ok(Typed::plain(kind));
    }
    let mut pairs = Pairs::read(text, &found)?;
    let kind = pairs.take("type").ok_or_else(|| {
        Problem::new(text, "has no `type`").hint(format!("begin with `type=` and one of {}", list(&TYPES)))
    })?;
    if !TYPES.contains(&kind.as_str()) {
        let problem = Problem::new(&kind, format!("is no type of output: there are {}", list(&TYPES)));
        return Err(problem.meant(&kind, TYPES));
    }
    pairs.check(&kind)?;
    let compression = compression(&mut pairs)?;
    let mut on = |key: &str| pairs.take(key).map(|value| switch(&value)).transpose();
    let force_compression = on("force-compression")?.unwrap_or(false);
    let media_types = on("oci-mediatypes")?.map(|oci| if oci { MediaTypes::Oci } else { MediaTypes::Docker });
    let names = names(&mut pairs)?;
    let kind = kind_of(&kind, &mut pairs)?;
    Ok(Typed { kind, names, compression, force_compression, media_types })
}

/// `key=value` fields that are taken one by one.
pub(super) struct Pairs {
    text: String,
    list: Vec<(String, String)>,
}

impl Pairs {
    pub(super) fn read(text: &str, found: &[String]) -> Result<Self, Problem> {
        let mut list: Vec<(String, String)> = Vec::new();
        for field in found {
            let Some((key, value)) = field.split_once('=') else {
                return Err(Problem::new(field, "is not `KEY=VALUE`"));
            };
            let key = key.trim().to_ascii_lowercase();
            if list.iter().any(|(known, _)| *known == key) {
                return Err(Problem::new(text, format!("has `{key}` twice")));
            }
            list.push((key, value.to_owned()));
        }
        Ok(Self { text: text.to_owned(), list })
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.list.iter().position(|(known, _)| known == key)?;
        Some(self.list.remove(at).1)
    }

    /// The keys that nobody has taken.
    pub(super) fn left(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(key, _)| key.as_str())
    }

    /// Refuses keys that the type does not know, and takes out those whose value is what is done anyway.
    fn check(&mut self, kind: &str) -> Result<(), Problem> {
        for (key, value) in std::mem::take(&mut self.list) {
            if let Some((_, fixed)) = FIXED.iter().find(|(known, _)| *known == key) {
                if switch(&value)? != *fixed {
                    return Err(Problem::new(format!("{key}={value}"), "is not supported"));
                }
                continue;
            }
            match KEYS.iter().find(|(known, _)| *known == key) {
                Some((_, types)) if types.contains(&kind) => self.list.push((key, value)),
                Some((_, types)) => {
                    let problem = format!("does not belong to `type={kind}`, only to {}", list(types));
                    return Err(Problem::new(key, problem));
                }
                None => {
                    let known =
                        KEYS.iter().filter(|(_, types)| types.contains(&kind)).map(|(known, _)| *known);
                    let known: Vec<&str> = known.collect();
                    let problem =
                        Problem::new(&key, format!("is no key of `type={kind}`: there are {}", list(&known)));
                    return Err(problem.meant(&key, known));
                }
            }
        }
        Ok(())
    }
}

fn compression(pairs: &mut Pairs) -> Result<Option<Compression>, Problem> {
    let (kind, level) = (pairs.take("compression"), pairs.take("compression-level"));
    match (kind, level) {
        (None, None) => Ok(None),
        (kind, level) => compression_of(kind.as_deref().unwrap_or("gzip"), level.as_deref()).map(Some),
    }
}

fn names(pairs: &mut Pairs) -> Result<Vec<Reference>, Problem> {
    let Some(value) = pairs.take("name") else { return Ok(Vec::new()) };
    value.split(',').map(|name| tag(name.trim())).collect()
}

fn kind_of(kind: &str, pairs: &mut Pairs) -> Result<Kind, Problem> {
    let push = pairs.take("push").map(|value| switch(&value)).transpose()?;
    let as_tar = pairs.take("tar").map(|value| switch(&value)).transpose()?.unwrap_or(true);
    let dest = pairs.take("dest").filter(|dest| !dest.is_empty());
    let place = |dest: Option<String>| match dest.as_deref() {
        Some("-") => Ok(Destination::Stdout),
        Some(path) => Ok(Destination::File(path.into())),
        None => Err(Problem::new(&pairs.text, "has no `dest`")),
    };
    Ok(match kind {
        "registry" if push == Some(false) => {
            return Err(Problem::new(&pairs.text, "pushes, and says `push=false`").hint("give `type=image`"));
        }
        "registry" => Kind::Registry,
        "image" if push == Some(true) => Kind::Registry,
        "image" => Kind::Store,
        "oci" if as_tar => Kind::Oci(place(dest)?),
        "oci" => match place(dest)? {
            Destination::File(path) => Kind::Oci(Destination::Directory(path)),
            _ => return Err(Problem::new("-", "cannot take a directory, which `tar=false` asks for")),
        },
        "docker" => Kind::Docker(place(dest).map_err(|problem| {
            problem.hint("there is no daemon to load the image into: write it to a file with `dest=FILE`")
        })?),
        "local" => match place(dest)? {
            Destination::File(path) => Kind::Local(path),
            _ => return Err(Problem::new("-", "cannot take a directory").hint("give `type=tar`")),
        },
        _ => Kind::Tar(place(dest)?),
    })
}

/// Reads a name that an image is to have.
pub(super) fn tag(text: &str) -> Result<Reference, Problem> {
    let reference: Reference =
        text.parse().map_err(|error: crate::image::ReferenceError| Problem::saying(error.to_string()))?;
    if reference.digest().is_some() {
        return Err(Problem::new(text, "names a digest, which only the image's content decides"));
    }
    Ok(reference.or_latest())
}

/// `a`, `b` and `c`
pub(super) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn resolved(text: &str, tags: &[&str]) -> Result<Option<Output>, String> {
        let tags: Vec<Reference> = tags.iter().map(|name| tag(name).unwrap()).collect();
        parse(text).and_then(|typed| typed.resolve(&tags)).map_err(|problem| problem.words())
    }

    fn names(names: &[&str]) -> Vec<Reference> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[rstest]
    #[case("out", Output::Local { directory: "out".into() })]
    #[case("-", Output::Tar { destination: Destination::Stdout })]
    #[case("type=local,dest=out", Output::Local { directory: "out".into() })]
    #[case("type=tar,dest=out.tar", Output::Tar { destination: Destination::File("out.tar".into()) })]
    #[case("type=tar,dest=-", Output::Tar { destination: Destination::Stdout })]
    #[case("type=oci,dest=x.tar", Output::Oci { destination: Destination::File("x.tar".into()), names: names(&["app:latest"]) })]
    #[case("type=oci,tar=false,dest=x", Output::Oci { destination: Destination::Directory("x".into()), names: names(&["app:latest"]) })]
    #[case("type=oci,dest=x,name=other:1", Output::Oci { destination: Destination::File("x".into()), names: names(&["other:1"]) })]
    #[case("type=docker,dest=-", Output::Docker { destination: Destination::Stdout, names: names(&["app:latest"]) })]
    #[case("type=registry", Output::Registry { names: names(&["app:latest"]) })]
    #[case("type=image,push=true", Output::Registry { names: names(&["app:latest"]) })]
    #[case("type=image,\"name=a.b/c:1,a.b/c\",push=true", Output::Registry { names: names(&["a.b/c:1", "a.b/c:latest"]) })]
    #[case("type=registry,rewrite-timestamp=true,unpack=false", Output::Registry { names: names(&["app:latest"]) })]
    fn reads(#[case] text: &str, #[case] expected: Output) {
        assert_eq!(resolved(text, &["app"]).unwrap().unwrap(), expected);
    }

    #[test]
    fn an_image_that_is_not_pushed_stays_in_the_store() {
        assert_eq!(resolved("type=image,name=a.b/c", &[]), Ok(None));
    }

    #[rstest]
    #[case("type=oci,dest=x,compression=zstd,compression-level=9", Some(Compression::Zstd(9)))]
    #[case("type=oci,dest=x,compression-level=9", Some(Compression::Gzip(9)))]
    #[case("type=oci,dest=x,compression=uncompressed", Some(Compression::None))]
    #[case("type=oci,dest=x", None)]
    #[case("type=oci,dest=x,force-compression=true", None)]
    fn compressions(#[case] text: &str, #[case] expected: Option<Compression>) {
        assert_eq!(parse(text).unwrap().compression, expected);
    }

    #[test]
    fn media_types_and_forced_compression() {
        let of = |text: &str| {
            let typed = parse(text).unwrap();
            (typed.media_types, typed.force_compression)
        };
        assert_eq!(of("type=oci,dest=x,oci-mediatypes=false"), (Some(MediaTypes::Docker), false));
        assert_eq!(
            of("type=registry,oci-mediatypes=1,force-compression=true"),
            (Some(MediaTypes::Oci), true)
        );
        assert_eq!(of("type=image"), (None, false));
    }

    #[rstest]
    #[case("", "`` is no place for an output")]
    #[case(
        "dest=x,tar=false",
        "`dest=x,tar=false` has no `type`; begin with `type=` and one of `registry`, `image`, `oci`, `docker`, `local` and `tar`"
    )]
    #[case(
        "type=ocl,dest=x",
        "`ocl` is no type of output: there are `registry`, `image`, `oci`, `docker`, `local` and `tar`; did you mean `oci`?"
    )]
    #[case(
        "type=oci,dst=x",
        "`dst` is no key of `type=oci`: there are `type`, `dest`, `name`, `tar`, `compression`, `compression-level`, `force-compression` and `oci-mediatypes`; did you mean `dest`?"
    )]
    #[case(
        "type=local,dest=x,name=a",
        "`name` does not belong to `type=local`, only to `registry`, `image`, `oci` and `docker`"
    )]
    #[case("type=oci", "`type=oci` has no `dest`")]
    #[case("type=oci,dest=-,tar=false", "`-` cannot take a directory, which `tar=false` asks for")]
    #[case(
        "type=docker",
        "`type=docker` has no `dest`; there is no daemon to load the image into: write it to a file with `dest=FILE`"
    )]
    #[case("type=local,dest=-", "`-` cannot take a directory; give `type=tar`")]
    #[case("type=registry", "there is no name to push to; give one with `-t NAME`")]
    #[case(
        "type=registry,push=false",
        "`type=registry,push=false` pushes, and says `push=false`; give `type=image`"
    )]
    #[case("type=registry,push=maybe", "`maybe` is neither `true` nor `false`")]
    #[case("type=registry,rewrite-timestamp=false", "`rewrite-timestamp=false` is not supported")]
    #[case(
        "type=tar,dest=x,oci-mediatypes=false",
        "`oci-mediatypes` does not belong to `type=tar`, only to `registry`, `image`, `oci` and `docker`"
    )]
    #[case("type=registry,push-by-digest=true", "`push-by-digest=true` is not supported")]
    #[case("type=oci,type=tar", "`type=oci,type=tar` has `type` twice")]
    #[case("type=oci,x", "`x` is not `KEY=VALUE`")]
    #[case("type=oci,dest=x,name=App", "image name `App` must be lower case")]
    #[case("type=oci,dest=x,compression=gzip,compression-level=99", "`99` is no level of gzip: give 0 to 12")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        assert_eq!(resolved(text, &[]).unwrap_err(), message);
    }

    #[test]
    fn a_name_is_no_digest() {
        let digest = crate::image::Digest::of(b"x");
        assert!(tag(&format!("app@{digest}")).is_err());
        assert_eq!(tag("app").unwrap().to_string(), "docker.io/library/app:latest");
    }
}
