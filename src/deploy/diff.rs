//! What would change: the object as it is beside what the server says it would be.

use std::fmt;

use serde_json::{Map, Value};

use super::apply::LAST_APPLIED;

/// What the server writes by itself, and what says nothing of what somebody wants.
const PASSED_OVER: [&str; 6] =
    ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"];
/// Fields by which an element of a list is told from the others, the best first (the list-map keys of the built-in
/// kinds).
const KEYS: [&[&str]; 8] = [
    &["name"],
    &["containerPort", "protocol"],
    &["port", "protocol"],
    &["mountPath"],
    &["devicePath"],
    &["ip"],
    &["type"],
    &["key", "effect"],
];
/// What stands for the content of a Secret. A digest of it would give short passwords away.
const BEFORE: &str = "*** (before)";
const AFTER: &str = "*** (after)";

/// A field that changes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FieldChange {
    /// Its path: `.spec.template.spec.containers[name="web"].image`.
    pub path: String,
    /// What it is; nothing if it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it will be; nothing if it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        for (sign, value) in [('-', &self.before), ('+', &self.after)] {
            for line in value.iter().flat_map(|value| value.lines()) {
                write!(f, "\n  {sign} {line}")?;
            }
        }
        Ok(())
    }
}

/// The fields that differ between `live` and `wanted`, in the order of their paths. The content of Secrets is not shown.
pub fn changes(live: &Value, wanted: &Value) -> Vec<FieldChange> {
    let secret = is_secret(wanted) || is_secret(live);
    let mut found = Vec::new();
    compare("", Some(&cleaned(live)), Some(&cleaned(wanted)), &mut found);
    if secret {
        found.iter_mut().filter(|change| is_content(&change.path)).for_each(hide);
    }
    found
}

/// An object that is not there yet, as it is shown: what the server adds is left out, and so is the content of Secrets.
pub fn shown(object: &Value) -> Value {
    let mut object = cleaned(object);
    if is_secret(&object) {
        for field in ["data", "stringData"] {
            if let Some(Value::Object(data)) = object.get_mut(field) {
                data.values_mut().for_each(|value| *value = AFTER.into());
            }
        }
    }
    object
}

fn is_secret(object: &Value) -> bool {
    object.get("kind").and_then(Value::as_str) == Some("Secret")
        && object.get("apiVersion").and_then(Value::as_str) == Some("v1")
}

/// Whether what is at this path of a Secret is nobody's to see.
pub(super) fn is_content(path: &str) -> bool {
    path.starts_with(".data") || path.starts_with(".stringData")
}

fn hide(change: &mut FieldChange) {
    change.before = change.before.take().map(|_| BEFORE.to_owned());
    change.after = change.after.take().map(|_| AFTER.to_owned());
}

fn cleaned(object: &Value) -> Value {
    let mut object = object.clone();
    let Some(fields) = object.as_object_mut() else { return object };
    fields.remove("status");
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        PASSED_OVER.iter().for_each(|field| drop(metadata.remove(*field)));
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove(LAST_APPLIED);
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    object
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<FieldChange>) {
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => compare_maps(path, before, after, found),
        (Some(Value::Array(before)), Some(Value::Array(after))) => compare_lists(path, before, after, found),
        (before, after) => {
            let text = |value: Option<&Value>| value.map(in_words);
            found.push(FieldChange { path: path.to_owned(), before: text(before), after: text(after) });
        }
    }
}

fn compare_maps(
    path: &str,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    found: &mut Vec<FieldChange>,
) {
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        compare(&format!("{path}.{key}"), before.get(key), after.get(key), found);
    }
}

fn compare_lists(path: &str, before: &[Value], after: &[Value], found: &mut Vec<FieldChange>) {
    if let Some(keys) = keys_of(before, after) {
        let of = |element: &Value| key(element, keys);
        for element in before {
            let same = after.iter().find(|other| of(other) == of(element));
            compare(&format!("{path}{}", of(element)), Some(element), same, found);
        }
        for element in after.iter().filter(|element| before.iter().all(|other| of(other) != of(element))) {
            compare(&format!("{path}{}", of(element)), None, Some(element), found);
        }
    } else if before.iter().chain(after).all(|element| !element.is_object() && !element.is_array()) {
        // Words of a command are read together.
        let text = |list: &[Value]| Some(Value::Array(list.to_vec()).to_string());
        found.push(FieldChange { path: path.to_owned(), before: text(before), after: text(after) });
    } else {
        for index in 0..before.len().max(after.len()) {
            compare(&format!("{path}[{index}]"), before.get(index), after.get(index), found);
        }
    }
}

/// The fields that tell all elements of both lists from each other.
fn keys_of(before: &[Value], after: &[Value]) -> Option<&'static [&'static str]> {
    let is_told = |list: &[Value], keys: &[&str]| {
        let all: Vec<String> = list.iter().map(|element| key(element, keys)).collect();
        let mut unique = all.clone();
        unique.sort();
        unique.dedup();
        unique.len() == all.len()
            && list.iter().all(|element| keys.first().is_some_and(|first| element.get(first).is_some()))
    };
    KEYS.into_iter().find(|keys| is_told(before, keys) && is_told(after, keys))
}

/// `[name="web"]`
fn key(element: &Value, keys: &[&str]) -> String {
    let parts = keys.iter().filter_map(|key| Some(format!("{key}={}", element.get(key)?)));
    format!("[{}]", parts.collect::<Vec<_>>().join(","))
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(_) | Value::Array(_) => {
            serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(live: Value, wanted: Value) -> Vec<String> {
        changes(&live, &wanted).iter().map(FieldChange::to_string).collect()
    }

    #[test]
    fn elements_are_found_again_by_their_names() {
        let pod = |image: &str, arguments: &[&str]| {
            json!({"spec": {"containers": [
                {"name": "web", "image": image, "args": arguments, "ports": [{"containerPort": 80, "protocol": "TCP"}]},
                {"name": "log", "image": "l"}]}})
        };
        let mut reordered = pod("b", &["x", "y"]);
        reordered["spec"]["containers"].as_array_mut().unwrap().reverse();
        assert_eq!(
            said(pod("a", &["x"]), reordered),
            [
                ".spec.containers[name=\"web\"].args\n  - [\"x\"]\n  + [\"x\",\"y\"]",
                ".spec.containers[name=\"web\"].image\n  - a\n  + b",
            ]
        );
    }

    #[test]
    fn secrets_are_masked() {
        let secret =
            |value: &str| json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": value, "b": "same"}});
        assert_eq!(said(secret("b25l"), secret("dHdv")), [".data.a\n  - *** (before)\n  + *** (after)"]);
        let gone = json!({"apiVersion": "v1", "kind": "Secret"});
        assert_eq!(said(secret("x"), gone), [".data\n  - *** (before)"]);
        assert!(!shown(&secret("b25l")).to_string().contains("b25l"));
    }

    #[test]
    fn what_the_server_writes_is_no_change() {
        let live = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "generation": 1,
            "managedFields": [1], "annotations": {LAST_APPLIED: "{}"}}, "status": {"a": 1}});
        let wanted = json!({"metadata": {"name": "a", "resourceVersion": "2", "generation": 2}});
        assert_eq!(said(live, wanted), [""; 0]);
    }

    #[test]
    fn elements_come_and_go() {
        let list = |names: &[&str]| json!({"env": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
        let found = said(list(&["a", "b"]), list(&["b", "c"]));
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with(".env[name=\"a\"]\n  - {")
                && found[1].starts_with(".env[name=\"c\"]\n  + {")
        );
    }
}
