//! Roles and bindings as text that people read.

use serde_json::Value;

use super::{GROUP, Rule, Subject};

/// Adds a Role.
pub(super) fn role(
    text: &mut String,
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    rules: &[Rule],
    handed_on: &[Value],
) {
    head(text, kind, name, namespace);
    text.push_str("rules:\n");
    for rule in rules {
        text.push_str(&format!("- apiGroups: {}\n", list(std::slice::from_ref(&rule.group))));
        text.push_str(&format!("  resources: {}\n", list(&rule.resources)));
        if !rule.names.is_empty() {
            text.push_str(&format!("  resourceNames: {}\n", list(&rule.names)));
        }
        text.push_str(&format!("  verbs: {}\n", list(&rule.verbs)));
    }
    if !handed_on.is_empty() {
        text.push_str("# What the roles among the manifests give:\n");
        // JSON is YAML.
        handed_on.iter().for_each(|rule| text.push_str(&format!("- {rule}\n")));
    }
}

/// Adds the binding of a Role of the same name.
pub(super) fn binding(text: &mut String, role: &str, name: &str, namespace: Option<&str>, subject: &Subject) {
    head(text, &format!("{role}Binding"), name, namespace);
    text.push_str(&format!("roleRef:\n  apiGroup: {GROUP}\n  kind: {role}\n  name: {}\n", scalar(name)));
    text.push_str("subjects:\n");
    match subject {
        Subject::Group(name) => {
            text.push_str(&format!("- apiGroup: {GROUP}\n  kind: Group\n  name: {}\n", scalar(name)));
        }
        Subject::User(name) => {
            text.push_str(&format!("- apiGroup: {GROUP}\n  kind: User\n  name: {}\n", scalar(name)));
        }
        Subject::ServiceAccount { namespace, name } => {
            let (namespace, name) = (scalar(namespace), scalar(name));
            text.push_str(&format!("- kind: ServiceAccount\n  name: {name}\n  namespace: {namespace}\n"));
        }
    }
}

fn head(text: &mut String, kind: &str, name: &str, namespace: Option<&str>) {
    text.push_str(&format!("apiVersion: {GROUP}/v1\nkind: {kind}\nmetadata:\n  name: {}\n", scalar(name)));
    if let Some(namespace) = namespace {
        text.push_str(&format!("  namespace: {}\n", scalar(namespace)));
    }
}

fn list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| scalar(word)).collect();
    format!("[{}]", words.join(", "))
}

/// Plain where nobody could take it for something else.
fn scalar(text: &str) -> String {
    let plain = text.len() > 4
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '/'))
        && !text.starts_with("false");
    let verb = matches!(text, "get" | "list" | "bind" | "apps" | "pods" | "jobs");
    if plain || verb { text.to_owned() } else { Value::from(text).to_string() }
}
