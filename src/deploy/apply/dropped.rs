//! What goes when an object is taken over from who has applied it on the client: fields that they have set, that the
//! manifest no longer has, and that nobody else owns.
//!
//! A dry run does not show it, for the object is taken over before the apply and not by it. Which fields go follows from
//! `managedFields` alone (KEP-555, "ownership"): those of the predecessors, less ours as the dry run has them, less
//! everybody else's.

use serde_json::{Map, Value, json};

use super::fields::{Step, pointer};
use super::migrate::is_predecessor;
use super::{ApplyOptions, MANAGER, Target};
use crate::deploy::cluster::{ApiError, Cluster, PatchKind};

/// `tried`, the answer of a dry run, as the object will be when it has been taken over; `live` is the object as it is.
///
/// What goes may come back as the server's default: it is asked, in a dry run too, what it would put in the places.
///
/// # Errors
/// If the server cannot be reached.
pub async fn taken_over(
    cluster: &Cluster,
    target: &Target,
    live: &Value,
    tried: &Value,
    options: &ApplyOptions,
) -> Result<Value, ApiError> {
    let mut wanted = tried.clone();
    let dropped = dropped(live, tried, &options.take_over);
    if dropped.is_empty() {
        return Ok(wanted);
    }
    // From the back, so that the places of elements before stay what they are.
    let mut places: Vec<String> = dropped.iter().filter_map(|path| pointer(live, path)).collect();
    places.sort_by(|one, other| depth_first(other, one));
    let removals: Vec<Value> = places.iter().map(|place| json!({"op": "remove", "path": place})).collect();
    let query = [("fieldManager", MANAGER), ("dryRun", "All")];
    let without = cluster.patch(&target.path, &query, PatchKind::Json, &Value::Array(removals)).await;
    let without = match without {
        Ok(without) => without,
        // Without these fields alone it would make no sense: what takes their place is in the manifest.
        Err(ApiError::Refused(_)) => Value::Null,
        Err(error) => return Err(error),
    };
    for path in &dropped {
        let default = pointer(&without, path).and_then(|place| without.pointer(&place));
        match (pointer(&wanted, path), default) {
            (Some(place), Some(default)) => {
                if let Some(field) = wanted.pointer_mut(&place) {
                    *field = default.clone();
                }
            }
            (Some(place), None) => remove(&mut wanted, &place),
            (None, _) => {}
        }
    }
    Ok(wanted)
}

/// The paths of the fields that go.
fn dropped(live: &Value, tried: &Value, also: &[String]) -> Vec<Vec<Step>> {
    let entries = |object: &Value| -> Vec<Value> {
        object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let (theirs, others): (Vec<Value>, Vec<Value>) =
        entries(live).into_iter().partition(|entry| is_predecessor(entry, MANAGER, also));
    let is_own = |entry: &Value| {
        entry["manager"] == MANAGER && entry["operation"] == "Apply" && entry.get("subresource").is_none()
    };
    let ours: Vec<Value> = entries(tried).into_iter().filter(is_own).collect();
    let version = |entry: &Value| entry["apiVersion"].clone();
    let kept: Vec<&Value> = others
        .iter()
        .filter(|entry| !is_own(entry))
        .chain(&ours)
        .filter_map(|entry| entry.get("fieldsV1"))
        .collect();
    let mut found = Vec::new();
    for entry in &theirs {
        // Names of fields differ from version to version; what another one says is not taken over.
        let is_same = ours.first().is_none_or(|ours| version(ours) == version(entry));
        if let Some(Value::Object(fields)) = entry.get("fieldsV1").filter(|_| is_same) {
            walk(fields, &kept, &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Looks through `fields`, beside which those of everybody who stays are `kept`.
fn walk(fields: &Map<String, Value>, kept: &[&Value], path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    for (key, below) in fields {
        let Some(step) = Step::of_key(key) else { continue };
        let kept_below: Vec<&Value> = kept.iter().filter_map(|kept| kept.get(key)).collect();
        let Value::Object(below) = below else { continue };
        path.push(step);
        // A leaf, or the thing itself that is owned and not only something in it.
        let is_whole = below.is_empty() || below.contains_key(".");
        if is_whole && kept_below.is_empty() {
            if !found.contains(path) {
                found.push(path.clone());
            }
        } else {
            walk(below, &kept_below, path, found);
        }
        path.pop();
    }
}

/// Later elements of a list come after earlier ones, and what is below something after it.
fn depth_first(one: &str, other: &str) -> std::cmp::Ordering {
    let parts = |place: &str| -> Vec<(usize, String)> {
        place.split('/').map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
    };
    parts(one).cmp(&parts(other))
}

/// Removes what is at `place`.
fn remove(object: &mut Value, place: &str) {
    let Some((parent, last)) = place.rsplit_once('/') else { return };
    match object.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(&last.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(elements)) => {
            if let Some(index) = last.parse().ok().filter(|index| *index < elements.len()) {
                elements.remove(index);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::migrate::LAST_APPLIED;
    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields})
    }

    fn shown(live: &[Value], tried: &[Value], object: &Value) -> Vec<String> {
        let with = |entries: &[Value]| json!({"metadata": {"managedFields": entries}});
        dropped(&with(live), &with(tried), &[]).iter().filter_map(|path| pointer(object, path)).collect()
    }

    #[test]
    fn what_nobody_else_has_goes() {
        let annotation = format!("f:{LAST_APPLIED}");
        let theirs = entry(
            "pipeline",
            "Update",
            json!({
                "f:metadata": {"f:annotations": {annotation: {}, "f:a/b": {}}, "f:labels": {".": {}, "f:x": {}}},
                "f:spec": {"f:replicas": {}, "f:containers": {
                    r#"k:{"name":"app"}"#: {".": {}, "f:image": {}, "f:env": {".": {}, r#"k:{"name":"A"}"#: {".": {}, "f:value": {}}}},
                    r#"k:{"name":"side"}"#: {".": {}, "f:image": {}},
                }},
            }),
        );
        let scaler = entry("scaler", "Update", json!({"f:spec": {"f:replicas": {}}}));
        let ours = entry(
            MANAGER,
            "Apply",
            json!({"f:spec": {"f:containers": {r#"k:{"name":"app"}"#: {".": {}, "f:image": {}}}}}),
        );
        let object = json!({
            "metadata": {"annotations": {"a/b": "1", LAST_APPLIED: "{}"}, "labels": {"x": "1"}},
            "spec": {"replicas": 1, "containers": [{"name": "app", "image": "i", "env": [{"name": "A"}]}, {"name": "side"}]},
        });
        let mut found = shown(&[theirs, scaler], &[ours], &object);
        found.sort();
        let annotation = LAST_APPLIED.replace('/', "~1");
        assert_eq!(
            found,
            [
                "/metadata/annotations/a~1b",
                &format!("/metadata/annotations/{annotation}"),
                "/metadata/labels",
                "/spec/containers/0/env",
                "/spec/containers/1",
            ]
        );
    }

    #[test]
    fn nothing_goes_where_nobody_is_taken_over() {
        let kubectl = entry("kubectl-edit", "Update", json!({"f:data": {"f:a": {}}}));
        assert_eq!(shown(&[kubectl], &[], &json!({"data": {"a": "1"}})), [""; 0]);
    }

    #[test]
    fn places_are_removed_from_the_back() {
        let mut places = ["/a/2", "/a/10", "/a", "/a/2/b"];
        places.sort_by(|one, other| depth_first(other, one));
        assert_eq!(places, ["/a/10", "/a/2/b", "/a/2", "/a"]);
        let mut object = json!({"a": [1, 2, 3], "b/c": 1});
        remove(&mut object, "/a/1");
        remove(&mut object, "/b~1c");
        assert_eq!(object, json!({"a": [1, 3]}));
    }
}
