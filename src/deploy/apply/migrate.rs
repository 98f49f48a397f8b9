//! Taking objects over from who has applied them before.
//!
//! Server-side apply removes a field that a manifest no longer has if nobody else owns it. What `kubectl apply` has set
//! is owned by it as *updates*, so without this it would stay for good. As kubectl does when it changes from the one way
//! to the other (KEP-555, `csaupgrade`): the fields of every entry of updates that owns the annotation of the last applied
//! configuration become ours as *applied*. Who that was called itself does not matter: pipelines give it names.

use serde_json::{Map, Value, json};

/// The annotation in which `kubectl apply` keeps what it was given.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The server's name for whoever set the fields of an object of which it keeps no track. It is nobody who could object;
/// but as it comes and goes with the track, its fields are not taken over: they would be set and dropped in turns.
pub const NOBODY: &str = "before-first-apply";

/// The managed fields of `live` as they are to be, or nothing if there is nobody to take over from.
///
/// `manager` is ours; `also` are managers that the user has named, whichever way they wrote.
pub fn migrated(live: &Value, manager: &str, also: &[String]) -> Option<Vec<Value>> {
    let entries = live.pointer("/metadata/managedFields")?.as_array()?;
    let (taken, mut kept): (Vec<&Value>, Vec<&Value>) =
        entries.iter().partition(|entry| is_predecessor(entry, manager, also));
    let newest = taken.iter().max_by_key(|entry| text(entry, "time"))?;
    let own = kept.iter().position(|entry| is_own(entry, manager)).map(|at| kept.remove(at));
    let version = text(own.unwrap_or(newest), "apiVersion").to_owned();
    let mut fields = own.and_then(|entry| entry.get("fieldsV1")).cloned().unwrap_or_else(|| json!({}));
    for entry in &taken {
        // The names of fields differ from version to version: what another one says cannot be added. The server itself
        // would call it undeclared.
        if text(entry, "apiVersion") == version
            && let Some(others) = entry.get("fieldsV1")
        {
            unite(&mut fields, others);
        }
    }
    let mut entries: Vec<Value> = kept.into_iter().cloned().collect();
    entries.push(json!({
        "manager": manager,
        "operation": "Apply",
        "apiVersion": version,
        "time": text(own.unwrap_or(newest), "time"),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }));
    Some(entries)
}

/// The patch that gives an object these managed fields, as long as it is still the one they were made from. To *replace*
/// the version is answered with a conflict if it has moved; to test it would be answered as invalid.
pub fn patch(live: &Value, entries: Vec<Value>) -> Value {
    let version = live.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
    ])
}

/// Who is taken over from, by name.
pub fn predecessors<'a>(object: &'a Value, manager: &str, also: &[String]) -> Vec<&'a str> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let entries = entries.into_iter().flatten().filter(|entry| is_predecessor(entry, manager, also));
    entries.map(|entry| text(entry, "manager")).collect()
}

pub(super) fn is_predecessor(entry: &Value, manager: &str, also: &[String]) -> bool {
    let name = text(entry, "manager");
    if name == manager && text(entry, "operation") == "Apply" || !text(entry, "subresource").is_empty() {
        return false;
    }
    if also.iter().any(|known| known == name) {
        return true;
    }
    let annotation = format!("f:{LAST_APPLIED}");
    let owns = || {
        let path = ["fieldsV1", "f:metadata", "f:annotations", &annotation];
        path.iter().try_fold(entry, |value, key| value.get(key)).is_some()
    };
    text(entry, "operation") == "Update" && owns()
}

fn is_own(entry: &Value, manager: &str) -> bool {
    text(entry, "manager") == manager
        && text(entry, "operation") == "Apply"
        && text(entry, "subresource").is_empty()
}

/// Adds the fields of `others` (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>, `FieldsV1`: a
/// field is a key, what is below it an object).
fn unite(fields: &mut Value, others: &Value) {
    let (Value::Object(fields), Value::Object(others)) = (fields, others) else { return };
    for (key, below) in others {
        unite(fields.entry(key.clone()).or_insert_with(|| Value::Object(Map::new())), below);
    }
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    fn live(entries: &[Value]) -> Value {
        json!({"metadata": {"resourceVersion": "7", "managedFields": entries}})
    }

    fn applied(data: Value) -> Value {
        let annotation = format!("f:{LAST_APPLIED}");
        json!({"f:metadata": {"f:annotations": {annotation: {}}}, "f:data": data})
    }

    #[test]
    fn whoever_applied_on_the_client_is_taken_over_by_whatever_name() {
        let pipeline = entry("pipeline", "Update", applied(json!({"f:a": {}})));
        let edited = entry("kubectl-edit", "Update", json!({"f:data": {"f:b": {}}}));
        let live = live(&[pipeline, edited.clone()]);
        assert_eq!(predecessors(&live, "cofferdam", &[]), ["pipeline"]);
        let entries = migrated(&live, "cofferdam", &[]).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0], edited);
        assert_eq!(entries[1], entry("cofferdam", "Apply", applied(json!({"f:a": {}}))));
        assert_eq!(patch(&live, entries)[1]["value"], "7");
    }

    #[test]
    fn fields_come_together_with_ours() {
        let ours = entry("cofferdam", "Apply", json!({"f:data": {"f:b": {}}}));
        let theirs = entry("pipeline", "Update", applied(json!({"f:a": {}})));
        let entries = migrated(&live(&[ours, theirs]), "cofferdam", &[]).unwrap();
        assert_eq!(entries, [entry("cofferdam", "Apply", applied(json!({"f:a": {}, "f:b": {}})))]);
    }

    #[test]
    fn nobody_else_is_taken_over() {
        let mut status = entry("pipeline", "Update", applied(json!({})));
        status["subresource"] = "status".into();
        let scaler = entry("kube-controller-manager", "Update", json!({"f:spec": {"f:replicas": {}}}));
        let kubectl = entry("kubectl", "Apply", json!({"f:data": {}}));
        let nobody = entry(NOBODY, "Update", json!({"f:metadata": {"f:labels": {}}}));
        let live = live(&[status, scaler, kubectl, nobody]);
        assert_eq!(migrated(&live, "cofferdam", &[]), None);
        assert!(migrated(&live, "cofferdam", &["kubectl".to_owned()]).is_some());
    }
}
