//! The `index.json` of somebody's layout, with one more image in it. What is not known here stays as it is.

use std::io;

use serde_json::{Map, Value, json};

use super::super::layout::{CONTAINERD_NAME, REF_NAME};
use crate::image::{Descriptor, Reference, media_type};

/// The index `old` with the image of `descriptor` in it, under `name`. It takes the place of the image that had the name; one
/// without a name takes the place of the one that had none.
///
/// # Errors
/// If `old` is no index.
pub(super) fn with(old: Option<&[u8]>, descriptor: &Descriptor, name: Option<&str>) -> io::Result<Vec<u8>> {
    let mut index: Map<String, Value> = match old {
        Some(old) => serde_json::from_slice(old)?,
        None => Map::from_iter([
            ("schemaVersion".to_owned(), json!(2)),
            ("mediaType".to_owned(), json!(media_type::OCI_INDEX)),
        ]),
    };
    let manifests = index.entry("manifests").or_insert_with(|| json!([]));
    if manifests.is_null() {
        *manifests = json!([]);
    }
    let list =
        manifests.as_array_mut().ok_or_else(|| io::Error::other("its index has no list of manifests"))?;
    list.retain(|entry| name_of(entry) != name);
    let mut entry = serde_json::to_value(descriptor)?;
    if let (Some(name), Some(entry)) = (name, entry.as_object_mut()) {
        let mut annotations = Map::from_iter([(REF_NAME.to_owned(), json!(name))]);
        // A tag alone says nothing of the repository.
        if name.contains(['/', ':']) && name.parse::<Reference>().is_ok_and(|full| full.to_string() == name) {
            annotations.insert(CONTAINERD_NAME.to_owned(), json!(name));
        }
        entry.insert("annotations".to_owned(), Value::Object(annotations));
    }
    list.push(entry);
    Ok(serde_json::to_vec(&index)?)
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Digest, MediaType};

    fn descriptor(content: &[u8]) -> Descriptor {
        Descriptor::new(MediaType::from(media_type::OCI_MANIFEST), content.len() as u64, Digest::of(content))
    }

    fn add(old: Option<&[u8]>, content: &[u8], name: Option<&str>) -> Vec<u8> {
        with(old, &descriptor(content), name).unwrap()
    }

    fn entries(index: &[u8]) -> Vec<(String, Option<String>)> {
        let index: Value = serde_json::from_slice(index).unwrap();
        let list = index["manifests"].as_array().unwrap();
        let digest = |entry: &Value| entry["digest"].as_str().unwrap().to_owned();
        list.iter().map(|entry| (digest(entry), name_of(entry).map(str::to_owned))).collect()
    }

    #[test]
    fn an_image_takes_the_place_of_the_one_that_had_its_name() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|content| Digest::of(content).to_string());
        let one = add(None, b"a", Some("v1"));
        let two = add(Some(&one), b"b", Some("v2"));
        assert_eq!(entries(&two), [(a, Some("v1".into())), (b.clone(), Some("v2".into()))]);
        let again = add(Some(&two), b"c", Some("v1"));
        assert_eq!(entries(&again), [(b.clone(), Some("v2".into())), (c.clone(), Some("v1".into()))]);
        let nameless = add(Some(&add(Some(&again), b"b", None)), b"c", None);
        assert_eq!(entries(&nameless).last().unwrap(), &(c, None));
        assert_eq!(entries(&nameless).len(), 3, "there is one image without a name");
    }

    #[test]
    fn what_others_wrote_stays() {
        let old =
            br#"{"schemaVersion":2,"manifests":[{"digest":"x","com.example":1}],"annotations":{"k":"v"}}"#;
        let new: Value = serde_json::from_slice(&add(Some(old), b"a", Some("v1"))).unwrap();
        assert_eq!(new["annotations"]["k"], "v");
        assert_eq!(new["manifests"][0], json!({"digest": "x", "com.example": 1}));
        assert!(with(Some(b"[]"), &descriptor(b"a"), None).is_err());
    }

    #[test]
    fn a_full_name_is_one_for_containerd_too() {
        let annotations = |name| {
            let index: Value = serde_json::from_slice(&add(None, b"a", Some(name))).unwrap();
            index["manifests"][0]["annotations"].clone()
        };
        assert_eq!(annotations("v1"), json!({REF_NAME: "v1"}));
        let full = "registry.example.com/app:v1";
        assert_eq!(annotations(full), json!({REF_NAME: full, CONTAINERD_NAME: full}));
    }
}
