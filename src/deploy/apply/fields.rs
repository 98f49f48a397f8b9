//! Paths of fields as server-side apply writes them, and the values they lead to.
//!
//! `.spec.template.spec.containers[name="web"].image`: the form of
//! `sigs.k8s.io/structured-merge-diff/fieldpath`, which conflicts are told in. An element of a list is chosen by its
//! keys, by its value (`[="x"]`), or by its index.

use serde_json::Value;

/// A step of a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// A field.
    Field(String),
    /// The element whose fields have these values.
    Keys(Vec<(String, Value)>),
    /// The element that is this.
    Value(Value),
    /// The element at this place.
    Index(usize),
}

impl Step {
    /// From a key of `FieldsV1`: `f:name`, `k:{"name":"web"}`, `v:"x"`, `i:0`; nothing for `.`, which stands for the thing
    /// itself (`sigs.k8s.io/structured-merge-diff/fieldpath/serialize-pe.go`).
    pub(super) fn of_key(key: &str) -> Option<Self> {
        let (form, rest) = key.split_once(':')?;
        match form {
            "f" => Some(Self::Field(rest.to_owned())),
            "v" => Some(Self::Value(serde_json::from_str(rest).ok()?)),
            "i" => Some(Self::Index(rest.parse().ok()?)),
            "k" => {
                let keys: serde_json::Map<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::Keys(keys.into_iter().collect()))
            }
            _ => None,
        }
    }

    /// What it leads to in `value`, and how that is written in a JSON pointer (RFC 6901).
    fn follow<'a>(&self, value: &'a Value) -> Option<(String, &'a Value)> {
        let among = |fits: &dyn Fn(&Value) -> bool| {
            let (index, element) = value.as_array()?.iter().enumerate().find(|(_, element)| fits(element))?;
            Some((index.to_string(), element))
        };
        match self {
            Self::Field(name) => Some((name.replace('~', "~0").replace('/', "~1"), value.get(name)?)),
            Self::Index(index) => Some((index.to_string(), value.get(index)?)),
            Self::Value(wanted) => among(&|element| element == wanted),
            Self::Keys(keys) => among(&|element| keys.iter().all(|(key, wanted)| has(element, key, wanted))),
        }
    }
}

/// The JSON pointer to what `path` leads to in `object`; nothing if it is not there.
pub(super) fn pointer(object: &Value, path: &[Step]) -> Option<String> {
    let mut place = String::new();
    let mut value = object;
    for step in path {
        let (part, next) = step.follow(value)?;
        place.push('/');
        place.push_str(&part);
        value = next;
    }
    Some(place)
}

/// The value at `path` in `object`; nothing if it is not there, or the path is none.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    parse(path)?.iter().try_fold(object, |value, step| Some(step.follow(value)?.1))
}

/// Whether `element` has `wanted` at `key`. A protocol that is left out is TCP, the one key there is that has a default.
fn has(element: &Value, key: &str, wanted: &Value) -> bool {
    match element.get(key) {
        Some(value) => value == wanted,
        None => key == "protocol" && wanted == "TCP",
    }
}

/// Whether `path` is `prefix` or leads further below it.
pub fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_start_matches('.');
    match path.trim_start_matches('.').strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.is_empty() || rest.starts_with(['.', '[']),
        None => false,
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (step, after) = bracket(inside)?;
            steps.push(step);
            rest = after;
        } else {
            let from = rest.strip_prefix('.').unwrap_or(rest);
            let (name, after) = field(from);
            steps.push(Step::Field(name.to_owned()));
            rest = after;
        }
    }
    Some(steps)
}

/// A field's name, which may have dots in it: annotations and labels do, and nothing marks where one ends. Below
/// those two a name goes on to the end.
fn field(text: &str) -> (&str, &str) {
    let end = text.find(['.', '[']).unwrap_or(text.len());
    text.split_at(end)
}

fn bracket(text: &str) -> Option<(Step, &str)> {
    let end = closing(text)?;
    let (inside, after) = (text.get(..end)?, text.get(end + 1..)?);
    if let Ok(index) = inside.parse() {
        return Some((Step::Index(index), after));
    }
    if let Some(value) = inside.strip_prefix('=') {
        return Some((Step::Value(serde_json::from_str(value).ok()?), after));
    }
    let mut keys = Vec::new();
    let mut rest = inside;
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=')?;
        let mut values = serde_json::Deserializer::from_str(value).into_iter::<Value>();
        keys.push((key.to_owned(), values.next()?.ok()?));
        let after = value.get(values.byte_offset()..)?;
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some((Step::Keys(keys), after))
}

/// Where the bracket closes that was opened before `text`: not within a string.
fn closing(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ']' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The value at `path`, where labels and annotations, whose names have dots, are tried as a whole.
pub fn look_up<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    for map in [".metadata.annotations.", ".metadata.labels.", ".data."] {
        if let Some((before, name)) = path.split_once(map) {
            let map = at(object, &format!("{before}{}", map.trim_end_matches('.')))?;
            return map.get(name);
        }
    }
    at(object, path)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(".spec.replicas", Some(json!(3)))]
    #[case(r#".spec.containers[name="web"].image"#, Some(json!("a")))]
    #[case(r#".spec.containers[name="we]b"].image"#, Some(json!("b")))]
    #[case(r#".spec.ports[containerPort=80,protocol="TCP"].name"#, Some(json!("http")))]
    #[case(r#".metadata.finalizers[="x"]"#, Some(json!("x")))]
    #[case(".spec.args[1]", Some(json!("b")))]
    #[case(".metadata.labels.app.kubernetes.io/name", Some(json!("shop")))]
    #[case(".spec.absent.deep", None)]
    #[case(r#".spec.containers[name="#, None)]
    fn values_are_found(#[case] path: &str, #[case] expected: Option<Value>) {
        let object = json!({
            "metadata": {"finalizers": ["x"], "labels": {"app.kubernetes.io/name": "shop"}},
            "spec": {"replicas": 3, "args": ["a", "b"],
                "containers": [{"name": "web", "image": "a"}, {"name": "we]b", "image": "b"}],
                "ports": [{"containerPort": 80, "name": "http"}]},
        });
        assert_eq!(look_up(&object, path), expected.as_ref());
    }

    #[rstest]
    #[case(".spec.replicas", ".spec.replicas", true)]
    #[case(".spec.replicas", "spec", true)]
    #[case(".spec.containers[name=\"a\"].image", ".spec.containers", true)]
    #[case(".spec.replicasets", ".spec.replicas", false)]
    fn a_path_is_below_another(#[case] path: &str, #[case] prefix: &str, #[case] expected: bool) {
        assert_eq!(is_below(path, prefix), expected);
    }
}
