//! Documents of JSON, which may follow one another without anything between.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;

use super::node::{self, Content, Entries, Node};
use super::yaml::Mistake;

/// What was found at the beginning of a text.
#[derive(Debug)]
pub(super) struct Found {
    /// The documents that are whole.
    pub documents: Vec<Node>,
    /// What does not go on as JSON, and why not: perhaps the rest is YAML.
    pub rest: Option<Rest>,
}

/// What does not go on as JSON.
#[derive(Debug)]
pub(super) struct Rest {
    /// Where it begins, in bytes.
    pub at: usize,
    /// The line it begins in, from 1.
    pub line: u32,
    /// What is wrong with it.
    pub mistake: Mistake,
    /// Whether it cannot be anything else: its form is right, its content is not.
    pub is_json: bool,
}

/// Reads the documents at the beginning of `text`.
pub(super) fn read(text: &str) -> Found {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Node>();
    let mut found = Found { documents: Vec::new(), rest: None };
    let mut at = 0;
    let mut line = 1;
    loop {
        // The offset of a document is where the last has ended.
        let blank = text.get(at..).map_or(0, |rest| rest.len() - rest.trim_start().len());
        line += lines(text.get(at..at + blank).unwrap_or_default());
        at += blank;
        match stream.next() {
            None => return found,
            Some(Ok(node)) => {
                let end = stream.byte_offset();
                found.documents.push(Node { line, ..node });
                line += lines(text.get(at..end).unwrap_or_default());
                at = end;
            }
            Some(Err(error)) => {
                let is_json = error.classify() == Category::Data;
                // Lines are counted from the beginning of the text.
                let place = u32::try_from(error.line()).unwrap_or(u32::MAX);
                let what = error.to_string();
                let what = what.split(" at line ").next().unwrap_or_default();
                let what = if is_json { what.to_owned() } else { format!("this is no JSON: {what}") };
                found.rest = Some(Rest { at, line, mistake: Mistake { line: place, what }, is_json });
                return found;
            }
        }
    }
}

fn lines(text: &str) -> u32 {
    u32::try_from(text.bytes().filter(|&byte| byte == b'\n').count()).unwrap_or(u32::MAX)
}

/// Without lines, which the library does not tell.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

fn scalar<E>(value: impl Into<Value>) -> Result<Node, E> {
    Ok(Node { line: 0, content: Content::Scalar(value.into()) })
}

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        scalar(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        scalar(node::unsigned(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        scalar(node::number(value).unwrap_or_default())
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        scalar(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Node { line: 0, content: Content::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Entries::default();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value()?;
            if entries.add(key.clone(), 0, value).is_err() {
                return Err(A::Error::custom(format!("the field `{key}` is there twice")));
            }
        }
        Ok(Node { line: 0, content: Content::Map(entries) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_follow_one_another() {
        let found = read("{\"a\":1.0}{\"b\":\n[1e3]}\n\n  {\"c\":null}\n");
        let lines: Vec<u32> = found.documents.iter().map(|node| node.line).collect();
        assert_eq!(lines, [1, 1, 4]);
        let values: Vec<String> =
            found.documents.into_iter().map(|node| node.into_value().to_string()).collect();
        assert_eq!(values, ["{\"a\":1}", "{\"b\":[1000]}", "{\"c\":null}"]);
        assert!(found.rest.is_none());
    }

    #[test]
    fn what_is_no_json_is_left() {
        let found = read("{\"a\":1}\n---\nb: 1\n");
        let rest = found.rest.unwrap();
        assert_eq!((found.documents.len(), rest.at, rest.line, rest.is_json), (1, 8, 2, false));
        let rest = read("{\"a\":1,\n\"a\":2}").rest.unwrap();
        assert_eq!(rest.mistake, Mistake { line: 2, what: "the field `a` is there twice".to_owned() });
        assert!(rest.is_json);
    }
}
