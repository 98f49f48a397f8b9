//! What an object loses before it is sent, and what is looked at before it is.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::super::error::Fault;
use super::super::object::Object;
use super::pod;

/// What belongs to the server. An object that was fetched has it, and an applied one may not.
const OF_THE_SERVER: [&str; 6] =
    ["managedFields", "resourceVersion", "uid", "creationTimestamp", "selfLink", "generation"];
/// What `kubectl apply` keeps in an object for itself. Who applies it owns it, and kubectl would not touch it again.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Makes of an object what can be applied: without what belongs to the server, and with the `stringData` of a Secret in
/// `data` (as `stringData` they would be owned apart from what they become: kubernetes issue 108008). Says what server-side
/// apply cannot take: entries of a list that are told apart by a key, and have the same one.
pub fn normalise(object: &mut Object) -> Vec<Fault> {
    let kind = object.gvk().group_kind();
    object.fields.remove("status");
    if let Some(Value::Object(metadata)) = object.fields.get_mut("metadata") {
        for field in OF_THE_SERVER {
            metadata.remove(field);
        }
        let emptied = match metadata.get_mut("annotations") {
            Some(Value::Object(annotations)) => {
                annotations.remove(LAST_APPLIED).is_some() && annotations.is_empty()
            }
            _ => false,
        };
        if emptied {
            metadata.remove("annotations");
        }
    }
    let mut findings = Findings::default();
    if kind.is("", "Secret") {
        join_string_data(&mut object.fields, &mut findings);
    }
    if kind.is("", "Service")
        && let Some(Value::Object(spec)) = object.fields.get("spec")
    {
        findings.list(spec, "spec", "ports", &["port", "protocol"]);
    }
    if kind.is("", "ServiceAccount") {
        findings.list(&object.fields, "", "imagePullSecrets", &["name"]);
        findings.list(&object.fields, "", "secrets", &["name"]);
    }
    if let Some(path) = pod::spec_path(&kind)
        && let Some(spec) = pod::follow(&object.fields, path)
    {
        findings.pod(spec, &path.join("."));
    }
    let fault = |what| Fault { source: Some(object.source.clone()), what, hint: None };
    findings.0.into_iter().map(fault).collect()
}

/// `stringData` is plain text and outweighs `data`.
fn join_string_data(fields: &mut Map<String, Value>, findings: &mut Findings) {
    let Some(plain) = fields.remove("stringData") else { return };
    let Value::Object(plain) = plain else {
        if !plain.is_null() {
            findings.0.push("stringData: it is no mapping".to_owned());
        }
        return;
    };
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    let Value::Object(data) = data else {
        findings.0.push("data: it is no mapping".to_owned());
        return;
    };
    for (key, value) in plain {
        let text = match value {
            Value::String(text) => text,
            Value::Null => String::new(),
            // Never the value: it is a secret.
            _ => {
                findings.0.push(format!("stringData.{key}: it is no text; put it in quotes"));
                continue;
            }
        };
        data.insert(key, base64::engine::general_purpose::STANDARD.encode(text).into());
    }
}

#[derive(Debug, Default)]
struct Findings(Vec<String>);

impl Findings {
    /// The lists of a pod, with the keys that the API has them by (`x-kubernetes-list-map-keys`).
    fn pod(&mut self, spec: &Map<String, Value>, at: &str) {
        for (list, key) in [("volumes", "name"), ("imagePullSecrets", "name"), ("hostAliases", "ip")] {
            self.list(spec, at, list, &[key]);
        }
        for containers in pod::CONTAINERS {
            self.list(spec, at, containers, &["name"]);
            let Some(Value::Array(list)) = spec.get(containers) else { continue };
            for (index, container) in list.iter().enumerate() {
                let Value::Object(container) = container else { continue };
                let at = format!("{at}.{containers}[{index}]");
                self.list(container, &at, "ports", &["containerPort", "protocol"]);
                self.list(container, &at, "env", &["name"]);
                self.list(container, &at, "volumeMounts", &["mountPath"]);
                self.list(container, &at, "volumeDevices", &["devicePath"]);
            }
        }
    }

    /// Looks for entries of `fields[list]` that are the same by `keys`.
    fn list(&mut self, fields: &Map<String, Value>, at: &str, list: &str, keys: &[&str]) {
        let Some(Value::Array(entries)) = fields.get(list) else { return };
        let mut seen = Vec::new();
        for entry in entries {
            let Value::Object(entry) = entry else { continue };
            let words: Vec<String> = keys.iter().filter_map(|key| word(entry, key)).collect();
            if words.len() < keys.len() {
                continue;
            }
            let name = words.join("/");
            if seen.contains(&name) {
                let dot = if at.is_empty() { "" } else { "." };
                let what = format!("{at}{dot}{list}: `{name}` is there twice");
                if !self.0.contains(&what) {
                    self.0.push(what);
                }
            }
            seen.push(name);
        }
    }
}

/// The value of a key; ports are of TCP unless they say otherwise.
fn word(entry: &Map<String, Value>, key: &str) -> Option<String> {
    match entry.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        None | Some(Value::Null) if key == "protocol" => Some("TCP".to_owned()),
        _ => None,
    }
}
