//! Fields of custom resources that name images.

use std::str::FromStr;

use serde_json::{Map, Value};

use super::super::object::GroupKind;
use crate::image::Reference;

/// `KIND.GROUP=PATH`: a field that names an image; or `KIND.GROUP=REPOSITORY,TAG` and `…,DIGEST`: fields that do together.
///
/// A path is made of names with dots between, `[*]` for each entry of a list, `[0]` for one, and `['a.b']` for a name with
/// dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePath {
    kind: String,
    group: String,
    paths: Vec<Vec<Step>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Entry(usize),
    Each,
}

impl FromStr for ImagePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("`{text}` {why}: give KIND.GROUP=FIELD, or KIND.GROUP=REPOSITORY,TAG");
        let (kind, paths) = text.split_once('=').ok_or_else(|| wrong("has no `=`"))?;
        let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
        if kind.is_empty() {
            return Err(wrong("names no kind"));
        }
        let paths: Vec<Vec<Step>> = paths
            .split(',')
            .map(|path| steps(path).ok_or_else(|| wrong("has a path that is none")))
            .collect::<Result<_, _>>()?;
        if paths.len() > 3 {
            return Err(wrong("has more than repository, tag and digest"));
        }
        Ok(Self { kind: kind.to_owned(), group: group.to_owned(), paths })
    }
}

/// Reads a path; `$` and a dot may stand before it.
fn steps(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.trim().trim_start_matches('$').trim_start_matches('.');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (word, behind) = match inner.strip_prefix('\'') {
                Some(quoted) => {
                    let (name, behind) = quoted.split_once("']")?;
                    (Step::Field(name.to_owned()), behind)
                }
                None => {
                    let (index, behind) = inner.split_once(']')?;
                    (if index == "*" { Step::Each } else { Step::Entry(index.parse().ok()?) }, behind)
                }
            };
            steps.push(word);
            rest = behind;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, behind) = rest.split_at(end);
            if name.is_empty() {
                return None;
            }
            steps.push(Step::Field(name.to_owned()));
            rest = behind;
        }
        match rest.strip_prefix('.') {
            Some("") => return None,
            Some(behind) => rest = behind,
            None if rest.is_empty() || rest.starts_with('[') => {}
            None => return None,
        }
    }
    (!steps.is_empty()).then_some(steps)
}

/// Fields of one object that make up the name of an image: one alone, or repository, tag, digest.
#[derive(Debug)]
pub(super) struct Found(Vec<Vec<Step>>);

impl ImagePath {
    /// Whether it is of this kind, in any letters.
    pub(super) fn is_of(&self, kind: &GroupKind) -> bool {
        self.kind.eq_ignore_ascii_case(&kind.kind) && self.group.eq_ignore_ascii_case(&kind.group)
    }

    /// The places of an object. `[*]` of further paths is the entry that it is in the first.
    pub(super) fn find(&self, fields: &Map<String, Value>) -> Vec<Found> {
        let Some((first, others)) = self.paths.split_first() else { return Vec::new() };
        // The root is borrowed as a mapping, so its first field is looked up apart.
        let mut places = vec![(Vec::new(), Vec::new())];
        for (index, step) in first.iter().enumerate() {
            let mut next = Vec::new();
            for (place, entries) in places {
                match step {
                    Step::Each => {
                        let list = look(fields, &place).and_then(Value::as_array).map_or(0, Vec::len);
                        for at in 0..list {
                            let mut place: Vec<Step> = place.clone();
                            let mut entries: Vec<usize> = entries.clone();
                            place.push(Step::Entry(at));
                            entries.push(at);
                            next.push((place, entries));
                        }
                    }
                    step => {
                        let mut place = place;
                        place.push(step.clone());
                        // The last may be absent, as a tag is.
                        if index + 1 == first.len() || look(fields, &place).is_some() {
                            next.push((place, entries));
                        }
                    }
                }
            }
            places = next;
        }
        let whole = |(place, entries): (Vec<Step>, Vec<usize>)| {
            let mut all = vec![place];
            for path in others {
                let mut entries = entries.iter();
                let step = |step: &Step| match step {
                    Step::Each => entries.next().map(|&at| Step::Entry(at)),
                    step => Some(step.clone()),
                };
                all.push(path.iter().map_while(step).collect());
            }
            Found(all)
        };
        places.into_iter().map(whole).collect()
    }
}

fn look<'a>(fields: &'a Map<String, Value>, path: &[Step]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let Step::Field(name) = first else { return None };
    rest.iter().try_fold(fields.get(name)?, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Entry(at) => value.get(at),
        Step::Each => None,
    })
}

/// Sets a value; whatever leads to it is there, but for the last field.
fn set(fields: &mut Map<String, Value>, path: &[Step], new: Value) {
    let Some((last, before)) = path.split_last() else { return };
    let parent = match before.split_first() {
        None => {
            if let Step::Field(name) = last {
                fields.insert(name.clone(), new);
            }
            return;
        }
        Some((Step::Field(name), rest)) => {
            let Some(first) = fields.get_mut(name) else { return };
            rest.iter().try_fold(first, |value, step| match step {
                Step::Field(name) => value.get_mut(name),
                Step::Entry(at) => value.get_mut(at),
                Step::Each => None,
            })
        }
        Some(_) => return,
    };
    match (parent, last) {
        (Some(Value::Object(parent)), Step::Field(name)) => {
            parent.insert(name.clone(), new);
        }
        (Some(Value::Array(parent)), Step::Entry(at)) => {
            if let Some(place) = parent.get_mut(*at) {
                *place = new;
            }
        }
        _ => {}
    }
}

impl Found {
    /// The name of the image, if there is one.
    ///
    /// # Errors
    /// What holds something else.
    pub(super) fn read(&self, fields: &Map<String, Value>) -> Result<Option<String>, String> {
        let text = |path: &Vec<Step>| match look(fields, path) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(format!("{}: it is not the text that `--image-path` takes it for", words(path))),
        };
        let [name, more @ ..] = self.0.as_slice() else { return Ok(None) };
        let Some(mut whole) = text(name)? else { return Ok(None) };
        let more = more.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        for (sign, part) in [":", "@"].into_iter().zip(more) {
            if let Some(part) = part {
                whole.push_str(sign);
                whole.push_str(&part);
            }
        }
        Ok(Some(whole))
    }

    /// Writes the name of an image; gives it as it is now.
    pub(super) fn write(
        &self,
        fields: &mut Map<String, Value>,
        image: &Reference,
        without_tag: bool,
    ) -> String {
        let repository = image.repository().to_string();
        let digest = image.digest().map(|digest| digest.to_string()).unwrap_or_default();
        let tag = image.tag().unwrap_or("latest");
        let whole = match image.digest() {
            Some(digest) if without_tag => image.repository().at(digest).to_string(),
            _ => image.to_string(),
        };
        match self.0.as_slice() {
            [name] => set(fields, name, whole.clone().into()),
            [name, tag_at] => {
                set(fields, name, repository.into());
                // There is no place for the digest but behind the tag: who joins the two with a colon has a name with both.
                set(fields, tag_at, format!("{tag}@{digest}").into());
            }
            [name, tag_at, digest_at, ..] => {
                set(fields, name, repository.into());
                set(fields, tag_at, tag.into());
                set(fields, digest_at, digest.into());
            }
            [] => {}
        }
        whole
    }

    /// As it stands in messages.
    pub(super) fn words(&self) -> String {
        self.0.first().map(|path| words(path)).unwrap_or_default()
    }
}

fn words(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Field(name) if name.contains('.') => text.push_str(&format!("['{name}']")),
            Step::Field(name) => {
                text.push_str(if text.is_empty() { "" } else { "." });
                text.push_str(name);
            }
            Step::Entry(at) => text.push_str(&format!("[{at}]")),
            Step::Each => text.push_str("[*]"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("spec.image", Some("spec.image"))]
    #[case("$.spec.containers[*].image", Some("spec.containers[*].image"))]
    #[case(".a['b.c'][0].d", Some("a['b.c'][0].d"))]
    #[case("", None)]
    #[case("a..b", None)]
    #[case("a.", None)]
    #[case("a[x]", None)]
    #[case("a[0]b", None)]
    #[case("a[", None)]
    fn paths(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(steps(text).map(|steps| words(&steps)).as_deref(), expected);
    }

    #[rstest]
    #[case("Rollout.argoproj.io", "has no `=`")]
    #[case("=a", "names no kind")]
    #[case("A=a,,b", "has a path that is none")]
    #[case("A=a,b,c,d", "has more than")]
    fn refuses(#[case] text: &str, #[case] why: &str) {
        assert!(text.parse::<ImagePath>().unwrap_err().contains(why));
    }
}
