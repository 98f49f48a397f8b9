//! Forms on the wire: addresses with queries, bodies that are read as YAML, warnings in headers.

use http::HeaderMap;
use http::header::WARNING;

/// `json` as it means the same where it is read as YAML, which is how a server reads what is to be applied: there,
/// breaks of Unicode within a string are folded, and control characters refused (YAML 1.1, 4.1 and 5.4). kubectl has
/// U+0085 lost this way.
pub(super) fn safe_as_yaml(json: &str) -> String {
    let is_special = |letter: char| {
        matches!(letter, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_special(letter) {
            text.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            text.push(letter);
        }
    }
    text
}

/// `path?query`
pub(super) fn target(path: &str, query: &[(&str, &str)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(query);
    format!("{path}?{}", text.finish())
}

/// The texts of `Warning: 299 - "…"` (RFC 7234, 5.5; KEP-1693).
pub(super) fn warnings(headers: &HeaderMap) -> Vec<String> {
    let texts = headers.get_all(WARNING).iter().filter_map(|value| {
        let value = std::str::from_utf8(value.as_bytes()).ok()?;
        let (_, quoted) = value.split_once('"')?;
        let (text, _) = quoted.rsplit_once('"')?;
        Some(text.replace("\\\"", "\"").replace("\\\\", "\\"))
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn warnings_are_unquoted() {
        let mut headers = HeaderMap::new();
        headers.append(WARNING, r#"299 - "would violate \"restricted\": a""#.parse().unwrap());
        headers.append(WARNING, r#"299 - "second""#.parse().unwrap());
        assert_eq!(warnings(&headers), [r#"would violate "restricted": a"#, "second"]);
    }

    #[test]
    fn what_a_server_reads_as_yaml_keeps_its_breaks() {
        let value = serde_json::json!("a\u{85}b\u{2028}\u{7f}ü😀");
        let text = safe_as_yaml(&value.to_string());
        assert_eq!(text, "\"a\\u0085b\\u2028\\u007fü😀\"");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(target("/api", &[]), "/api");
        assert_eq!(
            target("/api", &[("labelSelector", "a=b,c!=d e")]),
            "/api?labelSelector=a%3Db%2Cc%21%3Dd+e"
        );
    }
}
