//! A model of an image's file system in memory, which layers are applied to one statement at a time, and
//! random layers to compare it with the tree.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Thing {
    node: Node,
    metadata: Metadata,
    /// The layer that made it, or last said something of it.
    layer: usize,
}

#[derive(Debug, Default)]
struct Model {
    things: BTreeMap<TreePath, Thing>,
    /// Where the present layer went through links to.
    through: BTreeSet<(TreePath, TreePath)>,
    /// What the present layer removed, made opaque or replaced.
    cleared: BTreeSet<TreePath>,
    /// What the present layer's paths are in the tree.
    places: BTreeMap<TreePath, TreePath>,
}

/// A layer that a runtime would refuse, or on which runtimes differ by the order of its statements.
#[derive(Debug)]
struct Odd;

impl Model {
    fn node(&self, at: &TreePath) -> Option<Node> {
        if at.is_root() { Some(Node::Directory) } else { self.things.get(at).map(|thing| thing.node.clone()) }
    }

    fn children(&self, at: &TreePath) -> Vec<TreePath> {
        self.things.keys().filter(|path| *path != at && path.starts_with(at)).cloned().collect()
    }

    /// Where a directory is, with links followed.
    fn directory(&self, at: &TreePath) -> Result<TreePath, Odd> {
        let mut ahead: Vec<Vec<u8>> = at.components().rev().map(<[u8]>::to_vec).collect();
        let mut real = TreePath::root();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            match component.as_slice() {
                b"" | b"." => {}
                b".." => real = real.parent().unwrap_or_default(),
                name => {
                    let next = real.join(name).unwrap();
                    match self.node(&next) {
                        Some(Node::Symlink { target }) => {
                            links += 1;
                            if links > 40 {
                                return Err(Odd);
                            }
                            if target.starts_with(b"/") {
                                real = TreePath::root();
                            }
                            ahead.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                        }
                        Some(Node::Directory) => real = next,
                        None if links == 0 => real = next,
                        // Through a dangling link, or a file.
                        _ => return Err(Odd),
                    }
                }
            }
        }
        Ok(real)
    }

    fn place(&mut self, at: &TreePath, layer: usize) -> Result<TreePath, Odd> {
        let Some(parent) = at.parent() else { return Ok(TreePath::root()) };
        let real = self.directory(&parent)?;
        if real != parent {
            self.through.insert((parent, real.clone()));
        }
        for missing in real.ancestors().chain([real.clone()]).filter(|path| !path.is_root()) {
            self.things.entry(missing).or_insert(Thing {
                node: Node::Directory,
                metadata: implicit_metadata(),
                layer,
            });
        }
        Ok(real.join(at.file_name().unwrap()).unwrap())
    }

    /// Removes what lower layers have; directories with something of this layer stay, as if they had been
    /// made for it.
    fn clear(&mut self, paths: Vec<TreePath>, layer: usize) {
        for path in paths.into_iter().rev() {
            if self.things[&path].layer == layer {
                continue;
            }
            if self.children(&path).is_empty() {
                self.things.remove(&path);
            } else {
                self.things
                    .insert(path, Thing { node: Node::Directory, metadata: implicit_metadata(), layer });
            }
        }
    }

    fn apply(&mut self, layer: usize, changes: &[Change]) -> Result<(), Odd> {
        self.through.clear();
        self.cleared.clear();
        self.places.clear();
        let mut hard_links = Vec::new();
        for change in changes {
            let at = match change {
                Change::Opaque(path) if path.is_root() => TreePath::root(),
                Change::Opaque(path) => {
                    // The marker lies in the directory.
                    let marker = self.place(&path.join(b"marker").unwrap(), layer)?;
                    marker.parent().unwrap()
                }
                _ => self.place(change.path(), layer)?,
            };
            // Two names for one file in one layer: which statement holds, only their order says.
            let own = self.places.entry(at.clone()).or_insert_with(|| change.path().clone());
            if own != change.path() {
                return Err(Odd);
            }
            // A marker makes its directory, and a later marker takes it away, or not.
            let is_marker = !matches!(change, Change::Entry(_));
            if is_marker && self.cleared.iter().any(|cleared| cleared.starts_with(&at)) {
                return Err(Odd);
            }
            match change {
                Change::Opaque(_) => {
                    self.cleared.insert(at.clone());
                    self.clear(self.children(&at), layer);
                }
                Change::Remove(_) => {
                    self.cleared.insert(at.clone());
                    let mut paths = self.children(&at);
                    if self.things.contains_key(&at) {
                        paths.insert(0, at);
                    }
                    self.clear(paths, layer);
                }
                Change::Entry(entry) => {
                    let mut thing =
                        Thing { node: entry.node.clone(), metadata: entry.metadata.clone(), layer };
                    if let Node::Hardlink { target } = &entry.node {
                        let parent = self.directory(&target.parent().unwrap())?;
                        let target = parent.join(target.file_name().unwrap()).unwrap();
                        let original = self.things.get(&target).ok_or(Odd)?;
                        if original.node == Node::Directory || target.starts_with(&at) {
                            return Err(Odd);
                        }
                        thing = Thing { layer, ..original.clone() };
                        hard_links.push((at.clone(), target));
                    }
                    if !(thing.node == Node::Directory && self.node(&at) == Some(Node::Directory)) {
                        if self
                            .things
                            .get(&at)
                            .is_some_and(|old| old.node == Node::Directory || thing.node != Node::Directory)
                            || thing.node != Node::Directory
                        {
                            self.cleared.insert(at.clone());
                        }
                        for path in self.children(&at) {
                            self.things.remove(&path);
                        }
                    }
                    self.things.insert(at, thing);
                }
            }
        }
        // A link to what the layer replaces afterwards.
        if hard_links.iter().any(|(link, target)| {
            self.things.get(link).is_some_and(|link| {
                self.things
                    .get(target)
                    .is_none_or(|target| (&target.node, &target.metadata) != (&link.node, &link.metadata))
            })
        }) {
            return Err(Odd);
        }
        // The index follows links as they are when the layer is complete. If that is not how they were, or
        // the layer takes away what it went through, no two runtimes agree.
        for (parent, real) in self.through.clone() {
            if self.directory(&parent)? != real
                || self.cleared.iter().any(|cleared| real.starts_with(cleared) && !cleared.is_root())
            {
                return Err(Odd);
            }
        }
        Ok(())
    }

    fn of(layers: &[Vec<Change>]) -> Result<Self, Odd> {
        let mut model = Self::default();
        for (number, changes) in layers.iter().enumerate() {
            model.apply(number, changes)?;
        }
        Ok(model)
    }

    fn entries(&self) -> Vec<Entry> {
        self.things
            .iter()
            .map(|(path, thing)| Entry {
                path: path.clone(),
                node: thing.node.clone(),
                metadata: thing.metadata.clone(),
            })
            .collect()
    }
}

/// Layers in a form that fits a screen.
fn brief(layers: &[Vec<Change>]) -> String {
    let one = |change: &Change| match change {
        Change::Remove(path) => format!("-{path}"),
        Change::Opaque(path) => format!("opaque {path}"),
        Change::Entry(entry) => match &entry.node {
            Node::Symlink { target } => format!("{}->{}", entry.path, target.escape_ascii()),
            Node::Hardlink { target } => format!("{}=>{target}", entry.path),
            node => format!("{} {}", node.kind(), shown(&Entry { node: Node::Fifo, ..entry.clone() })),
        },
    };
    layers
        .iter()
        .map(|layer| format!("\n[{}]", layer.iter().map(one).collect::<Vec<_>>().join(", ")))
        .collect()
}

/// Compares the tree with the model. Says whether there was something to compare.
pub(super) fn agrees_with_model(tree: &Tree, layers: &[Vec<Change>]) -> bool {
    let Ok(model) = Model::of(layers) else { return false };
    let walked = match tree.walk(&TreePath::root()).unwrap().collect::<Result<Vec<Entry>, _>>() {
        // A layer that makes a hard link in the place of a link which its own target goes through is refused: nobody writes one.
        Err(TreeError::Loop(_)) => return false,
        walked => walked.unwrap(),
    };
    assert_eq!(walked, model.entries(), "{}", brief(layers));
    let mut paths: BTreeSet<TreePath> = layers.iter().flatten().map(|change| change.path().clone()).collect();
    paths.extend(model.things.keys().cloned());
    for at in paths.into_iter().filter(|path| !path.is_root()) {
        let expected = walked.iter().find(|entry| entry.path == at);
        assert_eq!(tree.lookup(&at).unwrap().as_ref(), expected, "{at} in {}", brief(layers));
        if expected.is_some_and(|entry| entry.node == Node::Directory) {
            let below = |entry: &&Entry| entry.path != at && entry.path.starts_with(&at);
            let all: Vec<_> = walked.iter().filter(below).cloned().collect();
            let children: Vec<_> =
                all.iter().filter(|entry| entry.path.parent().as_ref() == Some(&at)).cloned().collect();
            assert_eq!(
                tree.walk(&at).unwrap().map(|entry| entry.unwrap()).collect::<Vec<_>>(),
                all,
                "{at} in {}",
                brief(layers)
            );
            assert_eq!(tree.list(&at).unwrap().map(|entry| entry.unwrap()).collect::<Vec<_>>(), children);
        }
        if let Ok(real) = model.directory(&at) {
            assert_eq!(tree.resolve(at.as_bytes(), true).unwrap().path, real, "{at} in {}", brief(layers));
        }
    }
    true
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn any_change() -> impl Strategy<Value = Change> {
    let target = prop::sample::select(vec!["/a", "/b", "b", "../c", "/a/b", "c/a", ".."]);
    prop_oneof![
        4 => (any_path(), 1..9_u32).prop_map(|(at, mark)| dir(&at, mark)),
        4 => (any_path(), 1..9_u32).prop_map(|(at, mark)| file(&at, mark)),
        2 => (any_path(), target, 1..9_u32).prop_map(|(at, target, mark)| link(&at, target, mark)),
        1 => (any_path(), any_path(), 1..9_u32).prop_map(|(at, target, mark)| hard(&at, &target, mark)),
        3 => any_path().prop_map(|at| gone(&at)),
        1 => any_path().prop_map(|at| opaque(&at)),
    ]
}

fn any_plain_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any_path(), 1..9_u32).prop_map(|(at, mark)| dir(&at, mark)),
        4 => (any_path(), 1..9_u32).prop_map(|(at, mark)| file(&at, mark)),
        2 => any_path().prop_map(|at| gone(&at)),
        1 => any_path().prop_map(|at| opaque(&at)),
    ]
}

fn sorted_layer() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(any_change(), 0..9).prop_map(|mut changes| {
        changes.sort_by(|a, b| a.path().cmp(b.path()));
        changes.dedup_by(|a, b| a.path() == b.path());
        changes
    })
}

/// While it was not known yet that `c` is a link, it was taken for a directory, and what is below its other name was lost.
#[test]
fn a_hard_link_to_a_link_of_a_lower_layer_is_gone_through() {
    let upper =
        vec![link("a/a", "b", 1), hard("b/b", "c", 1), file("b/b/b", 6), dir("c/c", 3), gone("c/c/b")];
    let layers = [vec![link("c", "/a", 1)], upper];
    assert!(agrees_with_model(&Bench::new().tree(&layers), &layers));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Sorted layers, as this program and most others write them, with links on the way.
    #[test]
    fn sorted_layers_merge_as_if_they_were_applied(layers in prop::collection::vec(sorted_layer(), 1..5)) {
        // What a runtime refuses, the index may refuse.
        prop_assume!(Model::of(&layers).is_ok());
        let bench = Bench::new();
        agrees_with_model(&bench.tree(&layers), &layers);
    }

    /// Layers in any order, with paths that come again.
    #[test]
    fn unsorted_layers_merge_as_if_they_were_applied(
        layers in prop::collection::vec(prop::collection::vec(any_plain_change(), 0..9), 1..4)
    ) {
        prop_assume!(Model::of(&layers).is_ok());
        let bench = Bench::new();
        agrees_with_model(&bench.tree(&layers), &layers);
    }
}
