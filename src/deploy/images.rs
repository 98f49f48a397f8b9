//! The images of manifests, replaced by what was built: by structure, never by text.
//!
//! A place is where a kind keeps the name of an image: the containers of pods and of everything that makes pods, volumes of
//! type `image`, and fields of custom resources that the user has named. It is replaced if its repository is one of an image
//! that was handed over, or if it says `cofferdam://NAME`. What is written is `repository:tag@sha256:…`, which the kubelet
//! pulls by digest and people read by tag.

mod path;

use std::collections::BTreeSet;

use serde_json::{Map, Value};

pub use path::ImagePath;

use super::error::{DeployError, Fault};
use super::manifest::pod;
use super::object::{Object, ObjectId, Source};
use crate::image::{Digest, Reference, Repository};

/// What a place begins with that asks for an image by its short name.
const BY_NAME: &str = "cofferdam://";

/// An image that is to be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What the user calls it, if they have said so. It stands for the image in `cofferdam://NAME`, and where it is the name
    /// of a repository for that too.
    pub name: Option<String>,
    /// Where it is, each with the digest. There is one at least.
    pub refs: Vec<Reference>,
    /// Where it was named, for messages: `image.json`, `--image`.
    pub origin: String,
}

/// How images are replaced.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// Fields of custom resources that name images.
    pub paths: Vec<ImagePath>,
    /// Whether the tag is left out, for what does not read a name with both.
    pub without_tag: bool,
    /// Whether an image may be used nowhere.
    pub allow_unused: bool,
}

/// What was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replacements {
    /// Each place that has another value now.
    pub replaced: Vec<Replaced>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// A place that has another value now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// In which object.
    pub object: ObjectId,
    /// Where that was written.
    pub source: Source,
    /// Which field: `spec.template.spec.containers[0].image`.
    pub path: String,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
}

/// Replaces images in `objects`.
///
/// # Errors
/// [`DeployError::Manifests`] with every image that is used nowhere, unless that is allowed; every name that no image has;
/// every field that the user has named and that holds something else.
pub fn substitute(
    objects: &mut [Object],
    images: &[Image],
    options: &ImageOptions,
) -> Result<Replacements, DeployError> {
    let mut work = Work {
        images,
        options,
        used: vec![false; images.len()],
        out: Replacements::default(),
        faults: Vec::new(),
    };
    work.contradictions();
    for object in objects {
        work.object(object);
    }
    if !options.allow_unused {
        work.unused();
    }
    if work.faults.is_empty() { Ok(work.out) } else { Err(DeployError::Manifests(work.faults)) }
}

struct Work<'a> {
    images: &'a [Image],
    options: &'a ImageOptions,
    used: Vec<bool>,
    out: Replacements,
    faults: Vec<Fault>,
}

/// What becomes of a place.
enum Outcome {
    Stays,
    Becomes(Reference),
}

/// Whose place it is.
struct Owner {
    id: ObjectId,
    source: Source,
}

impl Work<'_> {
    fn object(&mut self, object: &mut Object) {
        let kind = object.gvk().group_kind();
        let owner = Owner { id: object.id(), source: object.source.clone() };
        if let Some(path) = pod::spec_path(&kind)
            && let Some(spec) = pod::follow_mut(&mut object.fields, path)
        {
            self.pod(spec, &path.join("."), &owner);
        }
        let options = self.options;
        for path in options.paths.iter().filter(|path| path.is_of(&kind)) {
            self.custom(&mut object.fields, path, &owner);
        }
    }

    fn pod(&mut self, spec: &mut Map<String, Value>, at: &str, owner: &Owner) {
        for containers in pod::CONTAINERS {
            let Some(Value::Array(list)) = spec.get_mut(containers) else { continue };
            for (index, container) in list.iter_mut().enumerate() {
                let Some(place) = container.get_mut("image") else { continue };
                self.place(place, || format!("{at}.{containers}[{index}].image"), owner);
            }
        }
        let Some(Value::Array(volumes)) = spec.get_mut("volumes") else { return };
        for (index, volume) in volumes.iter_mut().enumerate() {
            let Some(place) = volume.pointer_mut("/image/reference") else { continue };
            self.place(place, || format!("{at}.volumes[{index}].image.reference"), owner);
        }
    }

    fn place(&mut self, place: &mut Value, path: impl Fn() -> String, owner: &Owner) {
        // What is no text the server will refuse, in its own words.
        let Some(text) = place.as_str().map(str::to_owned) else { return };
        if let Outcome::Becomes(reference) = self.decide(&text, &path, owner) {
            let to = match (self.options.without_tag, reference.digest()) {
                (true, Some(digest)) => reference.repository().at(digest).to_string(),
                _ => reference.to_string(),
            };
            *place = Value::String(to.clone());
            self.tell(owner, path(), text, to);
        }
    }

    fn tell(&mut self, owner: &Owner, path: String, from: String, to: String) {
        if from != to {
            let (object, source) = (owner.id.clone(), owner.source.clone());
            self.out.replaced.push(Replaced { object, source, path, from, to });
        }
    }

    /// What becomes of a place that says `text`.
    fn decide(&mut self, text: &str, path: &dyn Fn() -> String, owner: &Owner) -> Outcome {
        if let Some(name) = text.strip_prefix(BY_NAME) {
            return self.by_name(name, path, owner);
        }
        let Ok(found) = text.parse::<Reference>() else { return Outcome::Stays };
        let Some((index, wanted)) = self.of_repository(found.repository()) else { return Outcome::Stays };
        if let Some(mark) = self.used.get_mut(index) {
            *mark = true;
        }
        match found.digest() {
            Some(pinned) if Some(pinned) != wanted.digest() => {
                self.out.notes.push(format!(
                    "{}: {} of `{}` stays as it is: it is pinned to {pinned}",
                    owner.source,
                    path(),
                    owner.id
                ));
                Outcome::Stays
            }
            _ => Outcome::Becomes(wanted),
        }
    }

    /// The image that is in `repository`, and its name there.
    fn of_repository(&self, repository: &Repository) -> Option<(usize, Reference)> {
        self.images.iter().enumerate().find_map(|(index, image)| {
            let there = image.refs.iter().find(|name| name.repository() == repository);
            let meant = || image.stands_for(repository).then(|| image.refs.first()).flatten();
            there.or_else(meant).map(|name| (index, name.clone()))
        })
    }

    fn by_name(&mut self, name: &str, path: &dyn Fn() -> String, owner: &Owner) -> Outcome {
        let fitting: Vec<usize> =
            (0..self.images.len()).filter(|&index| self.is_called(index, name)).collect();
        let fault =
            |what: String, hint: String| Fault { source: Some(owner.source.clone()), what, hint: Some(hint) };
        match fitting.as_slice() {
            [index] => {
                if let Some(mark) = self.used.get_mut(*index) {
                    *mark = true;
                }
                let reference = self.images.get(*index).and_then(|image| image.refs.first());
                reference.cloned().map_or(Outcome::Stays, Outcome::Becomes)
            }
            [] => {
                let names: BTreeSet<String> = self.images.iter().flat_map(Image::short_names).collect();
                let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
                let hint = match names.as_slice() {
                    [] => "name it: --image NAME=REF, or --images image.json".to_owned(),
                    names => format!("there are {}", names.join(", ")),
                };
                self.faults.push(fault(format!("{}: there is no image `{name}`", path()), hint));
                Outcome::Stays
            }
            _ => {
                let hint = "give the whole repository, or names of your own: --image NAME=REF".to_owned();
                self.faults.push(fault(format!("{}: there are several images `{name}`", path()), hint));
                Outcome::Stays
            }
        }
    }

    fn is_called(&self, index: usize, name: &str) -> bool {
        self.images.get(index).is_some_and(|image| {
            image.short_names().any(|short| short == name)
                || name.parse::<Repository>().is_ok_and(|name| {
                    name.to_string().contains('/')
                        && image.refs.iter().any(|known| *known.repository() == name)
                })
        })
    }

    /// Two images for one repository: which is meant nobody knows.
    fn contradictions(&mut self) {
        for (index, image) in self.images.iter().enumerate() {
            let earlier = self.images.iter().take(index);
            let other = earlier.into_iter().find_map(|other| {
                let common = |name: &&Reference| {
                    other.refs.iter().any(|known| known.repository() == name.repository())
                };
                let name = image.refs.iter().find(common)?;
                (other.digest() != image.digest()).then_some((name, other))
            });
            if let Some((name, other)) = other {
                let what = format!(
                    "two images are of repository `{}`: {} says {}, and {} says {}",
                    name.repository(),
                    other.origin,
                    in_words(other.digest()),
                    image.origin,
                    in_words(image.digest())
                );
                self.faults.push(Fault { source: None, what, hint: None });
            }
        }
    }

    fn unused(&mut self) {
        for (image, used) in self.images.iter().zip(&self.used) {
            let Some(reference) = image.refs.first().filter(|_| !used) else { continue };
            let what = format!("no manifest uses the image `{reference}` of {}", image.origin);
            let hint = "its repository has to stand where an image is named, or `cofferdam://NAME`; `--image-path` names \
                        such fields of custom resources; `--allow-unused-images` deploys without it";
            self.faults.push(Fault { source: None, what, hint: Some(hint.to_owned()) });
        }
    }

    /// A field that the user has named, or several that make up a name together.
    fn custom(&mut self, fields: &mut Map<String, Value>, path: &ImagePath, owner: &Owner) {
        for found in path.find(fields) {
            let text = match found.read(fields) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(what) => {
                    self.faults.push(Fault { source: Some(owner.source.clone()), what, hint: None });
                    continue;
                }
            };
            let words = found.words();
            if let Outcome::Becomes(reference) = self.decide(&text, &|| words.clone(), owner) {
                let to = found.write(fields, &reference, self.options.without_tag);
                self.tell(owner, words.clone(), text, to);
            }
        }
    }
}

fn in_words(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string())
}

impl Image {
    fn digest(&self) -> Option<Digest> {
        self.refs.first().and_then(Reference::digest)
    }

    /// Whether its name is that of `repository`.
    fn stands_for(&self, repository: &Repository) -> bool {
        self.name
            .as_ref()
            .and_then(|name| name.parse::<Repository>().ok())
            .is_some_and(|name| name == *repository)
    }

    /// What `cofferdam://` may call it: the name that it was given, else the last part of its repository.
    fn short_names(&self) -> impl Iterator<Item = String> + '_ {
        let last =
            |name: &Reference| name.repository().path().rsplit('/').next().unwrap_or_default().to_owned();
        let own = self.name.clone();
        let others: BTreeSet<String> =
            if own.is_some() { BTreeSet::new() } else { self.refs.iter().map(last).collect() };
        own.into_iter().chain(others)
    }
}

#[cfg(test)]
mod tests;
