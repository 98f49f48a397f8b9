//! What a build came to, as lines: those of an image, or of an error.
//!
//! Of an image: its configuration field by field, its history, and every path that differs from the base's tree, by the
//! layers read one upon the other. How it is cut into layers the history tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

use super::support::{Layer, Node, Registry, layer, layers};
use super::web;

/// Times before this one are kept by files: those of contexts, archives, base images, `touch -d`. Later ones are the clock's.
const CLOCK: u64 = 1_740_000_000;
/// What BuildKit writes into each entry of a history.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// The base images that cases stand on.
const BASES: [&str; 3] = ["library/busybox:1", "library/debian:bookworm-slim", "library/python:3.9-slim"];

/// The trees of the bases, which are read once.
static TREES: LazyLock<Mutex<BTreeMap<&'static str, Tree>>> = LazyLock::new(Mutex::default);

/// The lines of the image `name` of `registry`.
pub fn of_image(registry: &Registry, name: &str) -> Vec<String> {
    let digest = registry.digest(name).unwrap_or_else(|| panic!("no image {name} in the registry"));
    let product = registry.json(&digest);
    // BuildKit's attestations are no images, and where they stand beside one alone, it is no index that was asked for.
    let is_image = |descriptor: &&Value| descriptor["platform"]["os"] != "unknown";
    let all = product["manifests"].as_array();
    let images = all.map(|all| all.iter().filter(is_image).collect::<Vec<_>>());
    let lines = match images.as_deref() {
        None => of_manifest(registry, name, &product),
        Some([only]) if all.is_some_and(|all| all.len() > 1) => {
            of_manifest(registry, name, &registry.json(only["digest"].as_str().unwrap()))
        }
        Some(descriptors) => {
            let of_one = |descriptor: &Value| {
                let image = registry.json(descriptor["digest"].as_str().unwrap());
                of_fields("descriptor", descriptor)
                    .into_iter()
                    .chain(of_manifest(registry, name, &image))
                    .collect::<Vec<_>>()
            };
            // Lines are compared with those of the same image.
            let images = descriptors.iter().enumerate().flat_map(|(number, descriptor)| {
                of_one(descriptor).into_iter().map(move |line| format!("{number}: {line}"))
            });
            of_fields("index", &product).into_iter().chain(images).collect()
        }
    };
    lines.iter().map(|line| web::hide(line)).collect()
}

/// The fields of an index, a manifest or a descriptor, without what the content decides and what it refers to.
fn of_fields(what: &str, document: &Value) -> Vec<String> {
    let fields = document.as_object().expect("an object").iter();
    let told =
        fields.filter(|(name, _)| !["manifests", "layers", "config", "digest", "size"].contains(&&***name));
    told.map(|(name, value)| format!("{what} {name} {value}")).collect()
}

/// The lines of an image that is called `name` or stands in an index of that name.
fn of_manifest(registry: &Registry, name: &str, manifest: &Value) -> Vec<String> {
    let config = registry.json(manifest["config"]["digest"].as_str().expect("a configuration"));
    let diff_ids = |config: &Value| config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    let own = diff_ids(&config);
    let bases = BASES.into_iter().map(|base| (base, registry.config(base)));
    let base = bases.filter(|(_, config)| own.starts_with(&diff_ids(config)));
    let base = base.max_by_key(|(_, config)| diff_ids(config).len());
    let below = base.as_ref().map_or(0, |(_, config)| diff_ids(config).len());
    let mut lines = of_config(&config, base.as_ref().map(|(_, config)| config));
    for (key, value) in manifest["annotations"].as_object().into_iter().flatten() {
        lines.push(format!("annotation {key} {value}"));
    }
    let from = base.map_or_else(Tree::default, |(name, _)| Tree::of_base(registry, name));
    let mut tree = from.clone();
    // BuildKit writes `null` where there is none.
    for descriptor in manifest["layers"].as_array().into_iter().flatten().skip(below) {
        tree.apply(&layer(registry, descriptor));
    }
    let filled =
        config["history"].as_array().into_iter().flatten().filter(|entry| entry["empty_layer"] != true);
    assert_eq!(filled.count(), own.len(), "{name}: the history tells of other layers");
    lines.extend(tree.differences(&from));
    lines
}

/// The lines of a failure: `error`, with the lines of the Dockerfile that are pointed at.
pub fn of_error(place: Option<(usize, usize)>) -> String {
    match place {
        None => "error".to_owned(),
        Some((first, last)) if first == last => format!("error {first}"),
        Some((first, last)) => format!("error {first}-{last}"),
    }
}

/// Everything but times and digests of layers; of the history what the base has not.
fn of_config(config: &Value, base: Option<&Value>) -> Vec<String> {
    let text = |key: &str| config[key].as_str().unwrap_or("none").to_owned();
    let mut lines = vec![format!("image {}/{}", text("os"), text("architecture"))];
    for (key, value) in config.as_object().expect("a configuration") {
        if !["created", "rootfs", "history", "config", "os", "architecture"].contains(&&**key) {
            lines.push(format!("{key} {value}"));
        }
    }
    for (key, value) in config["config"].as_object().into_iter().flatten() {
        match value.as_array().filter(|_| key == "Env") {
            Some(list) => lines.extend(list.iter().map(|value| format!("Env {value}"))),
            None => lines.push(format!("{key} {value}")),
        }
    }
    let entries = |config: &Value| config["history"].as_array().cloned().unwrap_or_default();
    let (own, inherited) = (entries(config), base.map(entries).unwrap_or_default());
    let inherited = if own.starts_with(&inherited) { inherited.len() } else { 0 };
    for mut entry in own.into_iter().skip(inherited) {
        let object = entry.as_object_mut().expect("an entry");
        object.remove("created");
        let by = object.remove("created_by").unwrap_or_default();
        let empty = if object.remove("empty_layer") == Some(true.into()) { " (empty)" } else { "" };
        if object.get("comment").is_some_and(|comment| comment == COMMENT) {
            object.remove("comment");
        }
        let rest = if object.is_empty() { String::new() } else { format!(" {entry}") };
        lines.push(format!("history{empty} {by}{rest}"));
    }
    lines
}

/// The files of an image.
#[derive(Debug, Default, Clone)]
struct Tree {
    /// Names of one file have one number.
    names: BTreeMap<String, usize>,
    files: Vec<Node>,
}

impl Tree {
    fn of_base(registry: &Registry, name: &'static str) -> Self {
        let mut trees = TREES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let read = || {
            let mut tree = Self::default();
            layers(registry, name).iter().for_each(|layer| tree.apply(layer));
            tree
        };
        trees.entry(name).or_insert_with(read).clone()
    }

    /// Puts a layer on top.
    fn apply(&mut self, layer: &Layer) {
        for name in layer.keys() {
            let (directory, last) = name.rsplit_once('/').unwrap_or(("", name));
            let path = |last: &str| {
                if directory.is_empty() { last.to_owned() } else { format!("{directory}/{last}") }
            };
            match last.strip_prefix(".wh.") {
                Some(".wh..opq") if directory.is_empty() => self.names.clear(),
                Some(".wh..opq") => self.remove_below(directory),
                Some(gone) => {
                    self.names.remove(&path(gone));
                    self.remove_below(&path(gone));
                }
                None => {}
            }
        }
        let here = |name: &str| !name.rsplit('/').next().unwrap_or_default().starts_with(".wh.");
        // Other names of files come last: theirs may stand behind them in the alphabet.
        for links in [false, true] {
            for (name, node) in
                layer.iter().filter(|(name, node)| here(name) && (node.kind == "link") == links)
            {
                if node.kind != "directory" {
                    self.remove_below(name);
                }
                let number = if links {
                    self.names
                        .get(&node.content)
                        .copied()
                        .unwrap_or_else(|| panic!("{name}: no {}", node.content))
                } else {
                    self.files.push(node.clone());
                    self.files.len() - 1
                };
                self.names.insert(name.clone(), number);
            }
        }
    }

    fn remove_below(&mut self, directory: &str) {
        let below = format!("{directory}/");
        self.names.retain(|name, _| !name.starts_with(&below));
    }

    /// The other names of what `name` is.
    fn aliases(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut by_file: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
        for (name, number) in &self.names {
            by_file.entry(*number).or_default().insert(name);
        }
        let several = by_file.into_values().filter(|names| names.len() > 1);
        several.flat_map(|names| names.clone().into_iter().map(move |name| (name, names.clone()))).collect()
    }

    /// What is not as it was in `before`.
    fn differences(&self, before: &Self) -> Vec<String> {
        let (now, then) = (self.aliases(), before.aliases());
        let names: BTreeSet<&String> = self.names.keys().chain(before.names.keys()).collect();
        let line = |name: &String| {
            let Some(number) = self.names.get(name) else { return Some(format!("gone /{name}")) };
            let node = &self.files[*number];
            let described = describe(name, node, now.get(&**name));
            let old = before.names.get(name).map(|number| &before.files[*number]);
            let same = old.is_some_and(|old| described == describe(name, old, then.get(&**name)));
            (!same).then_some(described)
        };
        names.into_iter().filter_map(line).collect()
    }
}

fn describe(name: &str, node: &Node, names: Option<&BTreeSet<&str>>) -> String {
    let Node { kind, mode, uid, gid, content, xattrs, mtime } = node;
    let mut line = format!("{kind} /{} {mode:o} {uid}:{gid}", name.escape_debug());
    if !content.is_empty() {
        line.push_str(&format!(" {content}"));
    }
    for (name, value) in xattrs {
        line.push_str(&format!(" {name}={}", value.escape_ascii()));
    }
    // A directory's time is that of the last change in it, and so the clock's.
    if kind != "directory" && *mtime < CLOCK {
        line.push_str(&format!(" @{mtime}"));
    }
    if let Some(others) = names {
        let others: Vec<String> =
            others.iter().filter(|other| **other != name).map(|other| format!("/{other}")).collect();
        line.push_str(&format!(" is {}", others.join(" ")));
    }
    line
}
