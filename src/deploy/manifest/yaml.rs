//! One document of YAML, from the parser's events to nodes.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::Value;

use super::node::{Content, Entries, Node};
use super::scalar;

/// What aliases may bring into one document, in nodes (a long text counts for several). go-yaml 2 allows about as much
/// before it says that there is too much of it.
const MOST_COPIED: usize = 400_000;
/// The bytes of a text that count as one node.
const TEXT_OF_A_NODE: usize = 64;
/// The tag of `<<`, written out.
const MERGE: &str = "tag:yaml.org,2002:merge";

/// What ends a line in YAML 1.1, and not in 1.2: kubectl reads the former.
const ONCE_BREAKS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong.
    pub what: String,
}

/// Reads one document, whose first line is the line `first` of its file. A document of comments alone is none.
///
/// # Errors
/// What is wrong with it. What can be said of it further on is said too.
pub(super) fn read(text: &str, first: u32) -> Result<Option<Node>, Vec<Mistake>> {
    if let Some(at) = text.find(ONCE_BREAKS) {
        let lines = text.get(..at).unwrap_or_default().matches('\n').count();
        let line = first.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        let what = "this line has a line break of Unicode, which kubectl takes for the end of the line: write it as an \
                    escape (`\"\\u2028\"`)";
        return Err(vec![Mistake { line, what: what.to_owned() }]);
    }
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    let mut builder = Builder { first, left: MOST_COPIED, ..Builder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let taken = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let line = builder.line(error.marker().line());
                Err(Mistake { line, what: format!("this is no YAML: {}", error.info()) })
            }
        };
        if let Err(mistake) = taken {
            builder.mistakes.push(mistake);
            break;
        }
    }
    if builder.mistakes.is_empty() { Ok(builder.root) } else { Err(builder.mistakes) }
}

#[derive(Debug, Default)]
struct Builder {
    first: u32,
    open: Vec<Open>,
    root: Option<Node>,
    documents: u32,
    anchors: HashMap<usize, Node>,
    /// What aliases may still bring.
    left: usize,
    mistakes: Vec<Mistake>,
}

/// A collection that has not ended.
#[derive(Debug)]
struct Open {
    line: u32,
    anchor: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    List(Vec<Node>),
    Map { entries: Entries, key: Option<Key> },
}

#[derive(Debug)]
enum Key {
    Field(String, u32),
    Merge(u32),
    /// One that is wrong, which has been said.
    Wrong,
}

impl Builder {
    fn line(&self, line: usize) -> u32 {
        self.first.saturating_add(u32::try_from(line.saturating_sub(1)).unwrap_or(u32::MAX))
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let line = self.line(span.start.line());
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let what = "there is more behind `...`: begin a document with `---`".to_owned();
                    return Err(Mistake { line, what });
                }
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag, line)?,
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open { line, anchor, kind: Kind::List(Vec::new()) });
            }
            Event::MappingStart(_, anchor, _) => {
                let kind = Kind::Map { entries: Entries::default(), key: None };
                self.open.push(Open { line, anchor, kind });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { line, anchor, kind }) = self.open.pop() else { return Ok(()) };
                let content = match kind {
                    Kind::List(list) => Content::List(list),
                    Kind::Map { entries, .. } => Content::Map(entries),
                };
                self.put(Node { line, content }, anchor)?;
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(Mistake {
                        line,
                        what: "an alias names what it is itself a part of".to_owned(),
                    });
                };
                self.charge(&node, line)?;
                self.put(Node { line, ..node }, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        line: u32,
    ) -> Result<(), Mistake> {
        let tag = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
        let implied = tag.is_none() && style == ScalarStyle::Plain;
        let is_key = matches!(self.open.last(), Some(Open { kind: Kind::Map { key: None, .. }, .. }));
        if is_key && text == "<<" && (implied || tag.as_deref() == Some(MERGE)) {
            self.set_key(Key::Merge(line));
            return Ok(());
        }
        let resolved = scalar::resolve(text, implied, tag.as_deref());
        if is_key {
            let node = resolved.clone().and_then(scalar::Scalar::into_value).map(Content::Scalar);
            if let (Ok(content), true) = (node, anchor != 0) {
                self.anchors.insert(anchor, Node { line, content });
            }
            let key = match resolved.and_then(scalar::Scalar::into_key) {
                Ok(key) => Key::Field(key, line),
                Err(what) => self.wrong(line, what),
            };
            self.set_key(key);
            return Ok(());
        }
        let value = resolved.and_then(scalar::Scalar::into_value).unwrap_or_else(|what| {
            self.mistakes.push(Mistake { line, what });
            Value::Null
        });
        self.put(Node { line, content: Content::Scalar(value) }, anchor)
    }

    /// Makes sure that a copy of `node` is not too much.
    fn charge(&mut self, node: &Node, line: u32) -> Result<(), Mistake> {
        let too_large = || Mistake { line, what: "aliases make this document too large".to_owned() };
        self.left = self.left.checked_sub(weight(node)).ok_or_else(too_large)?;
        Ok(())
    }

    fn wrong(&mut self, line: u32, what: String) -> Key {
        self.mistakes.push(Mistake { line, what });
        Key::Wrong
    }

    fn set_key(&mut self, new: Key) {
        if let Some(Open { kind: Kind::Map { key, .. }, .. }) = self.open.last_mut() {
            *key = Some(new);
        }
    }

    /// Puts a node that is whole where it belongs.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Mistake> {
        if anchor != 0 {
            self.charge(&node, node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(Open { kind, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let (entries, key) = match kind {
            Kind::List(list) => {
                list.push(node);
                return Ok(());
            }
            Kind::Map { entries, key } => (entries, key),
        };
        match key.take() {
            Some(Key::Field(name, line)) => {
                if let Err(earlier) = entries.add(name.clone(), line, node) {
                    let what = format!("the field `{name}` is there twice: it is in line {earlier} too");
                    self.mistakes.push(Mistake { line, what });
                }
            }
            Some(Key::Merge(line)) => merge(entries, node, line)?,
            Some(Key::Wrong) => {}
            // An alias, or a collection, as the name of a field.
            None => {
                let line = node.line;
                *key = Some(match node.content {
                    Content::Scalar(Value::String(text)) => Key::Field(text, line),
                    Content::Scalar(value @ (Value::Number(_) | Value::Bool(_))) => {
                        Key::Field(value.to_string(), line)
                    }
                    _ => {
                        let what = format!("the name of a field is {}", node.what());
                        self.mistakes.push(Mistake { line, what });
                        Key::Wrong
                    }
                });
            }
        }
        Ok(())
    }
}

/// `<<: mapping` or `<<: [mapping, …]`, of which the earlier count more.
fn merge(entries: &mut Entries, node: Node, line: u32) -> Result<(), Mistake> {
    let refused = || Mistake { line, what: "`<<` takes a mapping, or a list of mappings".to_owned() };
    let maps = match node.content {
        Content::Map(map) => vec![map],
        Content::List(list) => list
            .into_iter()
            .rev()
            .map(|node| match node.content {
                Content::Map(map) => Ok(map),
                _ => Err(refused()),
            })
            .collect::<Result<_, _>>()?,
        Content::Scalar(_) => return Err(refused()),
    };
    for map in &maps {
        map.iter().for_each(|entry| entries.merge(entry));
    }
    Ok(())
}

/// How much a copy of `node` is.
fn weight(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(Value::String(text)) => 1 + text.len() / TEXT_OF_A_NODE,
        Content::Scalar(_) => 1,
        Content::List(list) => 1 + list.iter().map(weight).sum::<usize>(),
        Content::Map(entries) => {
            let fields =
                entries.iter().map(|entry| 1 + entry.key.len() / TEXT_OF_A_NODE + weight(&entry.value));
            1 + fields.sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Result<Value, Vec<String>> {
        match read(text, 1) {
            Ok(node) => Ok(node.map_or(Value::Null, Node::into_value)),
            Err(mistakes) => Err(mistakes
                .into_iter()
                .map(|mistake| format!("{}: {}", mistake.line, mistake.what))
                .collect()),
        }
    }

    #[rstest]
    #[case("# nothing\n", json!(null))]
    #[case("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}}))]
    #[case("a: &x {b: 1, d: 2}\nc: {b: 9, <<: *x, d: 7}\n", json!({"a": {"b": 1, "d": 2}, "c": {"b": 1, "d": 7}}))]
    #[case("a: {<<: [{x: 1}, {x: 2, z: 3}]}", json!({"a": {"x": 1, "z": 3}}))]
    #[case("\"<<\": {a: 1}", json!({"<<": {"a": 1}}))]
    #[case("! \"5\": ! 5", json!({"5": "5"}))]
    #[case("!!str 5: !own 5", json!({"5": "5"}))]
    #[case("on: off\n2: x\n1.5: z\n", json!({"true": false, "2": "x", "1.5": "z"}))]
    #[case("a: |\n  x\r\n  y\nb: >-\n  x\n  y\n", json!({"a": "x\ny\n", "b": "x y"}))]
    #[case("&k a: *k\n", json!({"a": "a"}))]
    #[case("a:\n", json!({"a": null}))]
    fn means(#[case] text: &str, #[case] expected: Value) {
        assert_eq!(value(text), Ok(expected));
    }

    #[rstest]
    #[case("a: 1\nb: 2\na: 3\n", &["3: the field `a` is there twice: it is in line 1 too"])]
    #[case("1: 1\n\"1\": 2\n~: 1\n", &["2: the field `1` is there twice: it is in line 1 too", "3: the name of a field is nothing"])]
    #[case("a: .inf\n", &["1: JSON has no infinite numbers, and none that is none"])]
    #[case("a: !!int x\n", &["1: `x` is not what its tag says, `!!int`"])]
    #[case("\n? {a: 1}\n: 1\n", &["2: the name of a field is a mapping"])]
    #[case("a: &x [*x]\n", &["1: an alias names what it is itself a part of"])]
    #[case("a: 1\n...\nb: 1\n", &["3: there is more behind `...`: begin a document with `---`"])]
    #[case("a: 1\nb: x\u{2028}y\n", &["2: this line has a line break of Unicode, which kubectl takes for the end of the line: write it as an escape (`\"\\u2028\"`)"])]
    #[case("a: {<<: 1}\n", &["1: `<<` takes a mapping, or a list of mappings"])]
    fn refuses(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(value(text).unwrap_err(), expected);
    }

    #[test]
    fn aliases_cannot_fill_the_memory() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            text.push_str(&format!(
                "a{level}: &a{level} [*a{last},*a{last},*a{last},*a{last},*a{last},*a{last}]\n"
            ));
        }
        assert!(value(&text).unwrap_err()[0].ends_with("aliases make this document too large"));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(100));
        assert!(value(&long).unwrap_err()[0].ends_with("aliases make this document too large"));
    }
}
