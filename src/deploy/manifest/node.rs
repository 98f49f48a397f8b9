//! What a document says, with the line of each thing.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

/// A value of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Its line in the file, from 1; 0 where it is not known.
    pub line: u32,
    /// What it is.
    pub content: Content,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// A text, a number, a truth value or nothing.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of its keys' first appearance.
    Map(Entries),
}

/// The fields of a mapping.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Entries {
    list: Vec<Entry>,
    places: HashMap<String, usize>,
}

/// A field of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Its name.
    pub key: String,
    /// The line of its name.
    pub line: u32,
    /// Its value.
    pub value: Node,
    /// Whether it was brought by a merge key: what is written out may come after it.
    pub merged: bool,
}

impl Entries {
    /// Adds a field that is written out.
    ///
    /// # Errors
    /// The line of the field of the same name that is written out already.
    pub fn add(&mut self, key: String, line: u32, value: Node) -> Result<(), u32> {
        match self.place(&key) {
            Some(entry) if !entry.merged => return Err(entry.line),
            Some(entry) => *entry = Entry { key, line, value, merged: false },
            None => self.push(Entry { key, line, value, merged: false }),
        }
        Ok(())
    }

    /// Brings in a field of a merge key. As in the YAML library that kubectl is made with (go-yaml 2, `merge`), it
    /// replaces what stands before it, written out or not, and gives way to what follows.
    pub fn merge(&mut self, from: &Entry) {
        match self.place(&from.key) {
            Some(entry) => entry.value = from.value.clone(),
            None => self.push(Entry { merged: true, ..from.clone() }),
        }
    }

    /// The field `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.places.get(key).and_then(|&at| self.list.get(at))
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter()
    }

    /// All fields, to be taken.
    pub fn into_list(self) -> Vec<Entry> {
        self.list
    }

    fn place(&mut self, key: &str) -> Option<&mut Entry> {
        let at = *self.places.get(key)?;
        self.list.get_mut(at)
    }

    fn push(&mut self, entry: Entry) {
        self.places.insert(entry.key.clone(), self.list.len());
        self.list.push(entry);
    }
}

impl Node {
    /// The field `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.get(key),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether this is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }

    /// What this is, in words.
    pub fn what(&self) -> &'static str {
        match &self.content {
            Content::Scalar(Value::Null) => "nothing",
            Content::Scalar(Value::Bool(_)) => "a truth value",
            Content::Scalar(Value::Number(_)) => "a number",
            Content::Scalar(_) => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }

    /// The value, without lines.
    pub fn into_value(self) -> Value {
        match self.content {
            Content::Scalar(value) => value,
            Content::List(list) => list.into_iter().map(Self::into_value).collect(),
            Content::Map(entries) => Value::Object(fields(entries)),
        }
    }
}

/// The fields without lines.
pub(super) fn fields(entries: Entries) -> Map<String, Value> {
    entries.into_list().into_iter().map(|entry| (entry.key, entry.value.into_value())).collect()
}

/// A number as kubectl hands it on. Go writes the shortest digits that mean this double, without a point where there is no
/// fraction, and reads them again: `1.0` and `1e3` become integers, and large ones end in zeros. Nothing for what is infinite.
pub(super) fn number(value: f64) -> Option<Value> {
    /// From here on Go writes an exponent (`encoding/json`, `floatEncoder`).
    const EXPONENT: f64 = 1e21;
    if value.fract() == 0.0 && value.abs() < EXPONENT {
        let digits = value.to_string();
        if let Ok(integer) = digits.parse::<i64>() {
            return Some(integer.into());
        }
        if let Ok(integer) = digits.parse::<u64>() {
            return Some(integer.into());
        }
    }
    Number::from_f64(value).map(Value::Number)
}

/// An integer without sign, see [`number`].
pub(super) fn unsigned(value: u64) -> Value {
    match i64::try_from(value) {
        Ok(value) => value.into(),
        Err(_) => number(value as f64).unwrap_or(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1.0, "1")]
    #[case(-0.0, "0")]
    #[case(1.5, "1.5")]
    #[case(-3e2, "-300")]
    #[case(9223372036854775807.0, "9223372036854776000")]
    #[case(-9223372036854775808.0, "-9.223372036854776e+18")]
    #[case(44147259065759664.0, "44147259065759660")]
    #[case(1e19, "10000000000000000000")]
    #[case(1e22, "1e+22")]
    #[case(1e-7, "1e-7")]
    fn numbers(#[case] value: f64, #[case] written: &str) {
        assert_eq!(number(value).unwrap().to_string(), written);
    }

    #[test]
    fn what_json_cannot_say_is_no_number() {
        assert_eq!(number(f64::INFINITY), None);
        assert_eq!(number(f64::NAN), None);
    }
}
