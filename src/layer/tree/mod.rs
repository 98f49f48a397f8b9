//! The tree of an image, merged from the indexes of its layers, without unpacking any.
//!
//! # How layers are merged
//! A layer above hides what is below: an entry hides the entry at its path; anything but a directory hides
//! all that is in the directory it replaces; a removal hides the path, an opaque marker what is in the
//! directory. So for each directory there is a lowest layer whose content in it still shows (its *floor*),
//! and it can only rise on the way down. A path is what the topmost layer above its directory's floor says.
//!
//! # Links in the way
//! A layer may have `lib/x` without saying what `lib` is, and below, `lib` is a link to `usr/lib`. Whoever
//! applies the layer follows the link, so the file is `usr/lib/x`. Such directories are listed in the indexes
//! (as *implicit*), and when a layer is put on a tree, each that is a link below becomes a [`Move`].

mod walk;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::entry::{Entry, Metadata, Node};
use super::index::{Index, Record};
use super::path::{PathError, TreePath};
use crate::image::Digest;
use crate::store::{Store, StoreError};

pub use walk::Walk;

/// How many links are followed on the way to a path: Linux's own limit (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// For how many directories it is remembered which layers show in them.
const REMEMBERED: usize = 1 << 14;
/// The mode of a directory that a layer goes through and says nothing of. Runtimes make it so.
const IMPLICIT_MODE: u32 = 0o755;

/// A failure to look at the tree of an image.
#[derive(Debug, Error)]
pub enum TreeError {
    /// There is no usable index of a layer: it has to be read once with [`super::LayerReader::indexed`].
    #[error("layer {0} has no index in the store")]
    NotIndexed(Digest),
    /// An index cannot be read.
    #[error("cannot read the index of layer {diff_id}")]
    Index {
        /// The layer.
        diff_id: Digest,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A path cannot be one in an image.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Links lead to links, more than a kernel would follow.
    #[error("`{0}` leads over more than {MAX_LINKS} links")]
    Loop(String),
    /// Something on the way is not a directory.
    #[error("`{0}` is not a directory")]
    NotADirectory(TreePath),
    /// A hard link's target is in no layer.
    #[error("`{path}` is a hard link to `{target}`, which does not exist")]
    BrokenHardlink {
        /// The link.
        path: TreePath,
        /// Its target.
        target: TreePath,
    },
    /// The content of a file is not in the indexes, which have only files named `passwd` and `group`.
    #[error("the content of `{0}` is not in the layers' indexes")]
    NotKept(TreePath),
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path without links in it (but perhaps with one as its last component, if that was not to be
    /// followed).
    pub path: TreePath,
    /// What is there. `None` if nothing is; then the path's last components, as far as they do not exist, are
    /// as they were given.
    pub entry: Option<Entry>,
}

/// The tree of an image. Cheap to clone; what it has found out is shared.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    layers: Vec<Layer>,
    showings: Arc<Mutex<HashMap<TreePath, Arc<Showing>>>>,
}

#[derive(Debug, Clone)]
struct Layer {
    diff_id: Digest,
    index: Arc<Index>,
    moves: Arc<[Move]>,
}

/// What a layer has in the directory `from` is in the directory `to` of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Move {
    from: TreePath,
    to: TreePath,
    /// Whether the layer makes the directory opaque.
    opaque: bool,
}

/// What shows of a directory.
#[derive(Debug)]
struct Showing {
    /// The lowest layer whose content in it shows.
    floor: usize,
    /// The layers from there on that may have content in it, the lowest first: a layer that has some has a
    /// record of the directory, or reaches it through a link.
    layers: Vec<usize>,
}

/// Something found in a layer.
struct Found {
    entry: Entry,
    layer: usize,
    /// Its path in that layer.
    own: TreePath,
}

/// How much of a tree is looked at.
#[derive(Debug, Clone, Copy)]
struct View {
    /// How many layers, from the lowest.
    top: usize,
    /// Whether links show under directories that a layer above goes through without saying that they are
    /// directories: while it is not known yet which of them are links.
    links_show: bool,
    /// How many hard links have led here.
    links: u32,
}

/// What the records of one path, from the top down, come to.
#[derive(Default)]
struct Verdict {
    links_show: bool,
    /// A layer goes through the path as a directory, but has no entry for it.
    implicit: Option<usize>,
    decided: bool,
    found: Option<(usize, Node, Metadata)>,
}

impl Verdict {
    /// Takes what the next layer down says.
    fn take(&mut self, layer: usize, record: Record) {
        if self.decided {
            return;
        }
        match record.entry {
            Some((Node::Directory, metadata)) => {
                self.found = Some((layer, Node::Directory, metadata));
                self.decided = true;
            }
            Some((node, metadata)) => {
                // A layer above may have made it a directory without saying so.
                if self.implicit.is_none() || (self.links_show && may_be_link(&node)) {
                    self.found = Some((layer, node, metadata));
                }
                self.decided = true;
            }
            None => {
                if record.implicit {
                    self.implicit.get_or_insert(layer);
                }
                self.decided = record.removes;
            }
        }
    }

    fn outcome(self) -> Option<(usize, Node, Metadata)> {
        self.found.or_else(|| self.implicit.map(|layer| (layer, Node::Directory, implicit_metadata())))
    }
}

/// Whether this can be a symbolic link: a hard link can be one to it.
fn may_be_link(node: &Node) -> bool {
    matches!(node, Node::Symlink { .. } | Node::Hardlink { .. })
}

fn implicit_metadata() -> Metadata {
    Metadata { mode: IMPLICIT_MODE, ..Metadata::default() }
}

/// The floor that a layer's record of a directory sets for what is in it.
fn floor_of(layer: usize, record: &Record) -> Option<usize> {
    match &record.entry {
        Some((node, _)) if *node != Node::Directory => Some(layer + 1),
        _ if record.removes || record.opaque => Some(layer),
        _ => None,
    }
}

impl Tree {
    /// The tree of the layers with these diff IDs, the lowest first.
    ///
    /// # Errors
    /// [`TreeError::NotIndexed`] for the first layer whose index is not in the store.
    pub fn open(store: &Store, layers: &[Digest]) -> Result<Self, TreeError> {
        let mut tree = Self::default();
        for diff_id in layers {
            tree.push(store, diff_id)?;
        }
        Ok(tree)
    }

    /// Puts another layer on top.
    ///
    /// # Errors
    /// [`TreeError::NotIndexed`] if its index is not in the store. The tree is as it was then.
    pub fn push(&mut self, store: &Store, diff_id: &Digest) -> Result<(), TreeError> {
        let index = Index::open(store, diff_id)?.ok_or(TreeError::NotIndexed(*diff_id))?;
        let layer = Layer { diff_id: *diff_id, index: Arc::new(index), moves: Arc::default() };
        let mut next = self.clone();
        next.layers.push(layer);
        // What shows of the layers below is not what shows of more.
        next.showings = Arc::default();
        next.find_moves()?;
        *self = next;
        Ok(())
    }

    /// How many layers it is made of.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// How many paths its layers speak of in all; an upper bound for the number of files.
    pub fn size_hint(&self) -> u64 {
        self.layers.iter().map(|layer| layer.index.records()).sum()
    }

    /// What is at a path. Links are not followed, neither on the way nor at the end: see [`Tree::resolve`]. A
    /// hard link is what it links to. The root is always there.
    ///
    /// # Errors
    /// If an index cannot be read.
    pub fn lookup(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        Ok(self.find(path, self.whole())?.map(|found| found.entry))
    }

    /// Which layer, counted from the lowest, a file's content is in, and under which path. Hard links are followed,
    /// other links not.
    ///
    /// # Errors
    /// If an index cannot be read.
    pub fn origin(&self, path: &TreePath) -> Result<Option<(usize, TreePath)>, TreeError> {
        Ok(self.find(path, self.whole())?.map(|found| (found.layer, found.own)))
    }

    /// Where a path leads that a user or a link wrote: links on the way are followed, as seen from the
    /// image's root, which `..` does not leave; a link at the end is if `follow_last` says so, or the path
    /// ends in `/`. What does not exist leads nowhere but where it says.
    ///
    /// # Errors
    /// [`TreeError::Loop`], [`TreeError::NotADirectory`], or if an index cannot be read.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Resolved, TreeError> {
        self.resolve_in(path, follow_last, self.whole())
    }

    /// What is directly in a directory, in order. The iterator can hold many.
    ///
    /// # Errors
    /// [`TreeError::NotADirectory`] if the path is something else or nothing; if an index cannot be read.
    pub fn list(&self, directory: &TreePath) -> Result<Walk, TreeError> {
        self.expect_directory(directory)?;
        Walk::new(self, directory, true)
    }

    /// Everything in a directory and below it, in order, the directory itself not.
    ///
    /// # Errors
    /// As [`Tree::list`].
    pub fn walk(&self, directory: &TreePath) -> Result<Walk, TreeError> {
        self.expect_directory(directory)?;
        Walk::new(self, directory, false)
    }

    /// The content of `/etc/passwd`, `/etc/group` or another file of that name. Links are followed. `None` if
    /// it does not exist.
    ///
    /// # Errors
    /// [`TreeError::NotKept`] if it is there and its content is not known here: then the layers have to be
    /// unpacked. [`TreeError::NotADirectory`], [`TreeError::Loop`], or if an index cannot be read.
    pub fn small_file(&self, path: &[u8]) -> Result<Option<Vec<u8>>, TreeError> {
        let Resolved { path, entry: Some(_) } = self.resolve(path, true)? else { return Ok(None) };
        let Some(found) = self.find(&path, self.whole())? else { return Ok(None) };
        let not_kept = || TreeError::NotKept(path.clone());
        let (Node::File { .. }, Some(layer)) = (&found.entry.node, self.layers.get(found.layer)) else {
            return Err(not_kept());
        };
        layer.read(|index| index.small(&found.own))?.map(Some).ok_or_else(not_kept)
    }

    fn expect_directory(&self, path: &TreePath) -> Result<(), TreeError> {
        match self.lookup(path)? {
            Some(Entry { node: Node::Directory, .. }) => Ok(()),
            _ => Err(TreeError::NotADirectory(path.clone())),
        }
    }

    fn whole(&self) -> View {
        View { top: self.layers.len(), links_show: false, links: 0 }
    }

    /// What is at a path.
    fn find(&self, path: &TreePath, view: View) -> Result<Option<Found>, TreeError> {
        let showing = match path.parent() {
            Some(parent) => self.showing(&parent, view.top)?,
            None => Arc::new(Showing { floor: 0, layers: (0..view.top).collect() }),
        };
        let mut verdict = Verdict { links_show: view.links_show, ..Verdict::default() };
        if path.is_root() {
            verdict.implicit = Some(0);
        }
        for (number, layer) in self.numbered(&showing.layers) {
            if let Some(record) = layer.get(path)? {
                verdict.take(number, record);
            }
            if verdict.decided {
                break;
            }
        }
        let Some((layer, node, metadata)) = verdict.outcome() else { return Ok(None) };
        self.found(path, layer, node, metadata, view).map(Some)
    }

    /// What was found in a view, with the target in place of a hard link.
    fn found(
        &self,
        path: &TreePath,
        layer: usize,
        node: Node,
        metadata: Metadata,
        view: View,
    ) -> Result<Found, TreeError> {
        let Node::Hardlink { target } = node else {
            let own = self.layers.get(layer).map_or_else(|| Ok(path.clone()), |layer| layer.own(path))?;
            return Ok(Found { entry: Entry { path: path.clone(), node, metadata }, layer, own });
        };
        if view.links >= MAX_LINKS {
            return Err(TreeError::Loop(path.to_string()));
        }
        // The target is in the layer itself or in one below; it may be gone above. If the layer removes it,
        // the link was made before.
        for top in [layer + 1, layer] {
            let view = View { top, links: view.links + 1, ..view };
            let parent = target.parent().unwrap_or_default();
            let Some(name) = target.file_name() else { break };
            let place = self.resolve_in(parent.as_bytes(), true, view)?.path.join(name)?;
            if let Some(found) = self.find(&place, view)? {
                return Ok(Found { entry: Entry { path: path.clone(), ..found.entry }, ..found });
            }
        }
        Err(TreeError::BrokenHardlink { path: path.clone(), target })
    }

    /// The layers of these numbers, from the top down.
    fn numbered<'a>(&'a self, numbers: &'a [usize]) -> impl Iterator<Item = (usize, &'a Layer)> {
        numbers.iter().rev().filter_map(|&number| Some((number, self.layers.get(number)?)))
    }

    /// What shows of a directory in the lowest `top` layers.
    fn showing(&self, directory: &TreePath, top: usize) -> Result<Arc<Showing>, TreeError> {
        let whole = top == self.layers.len();
        if let Some(known) = self.remembered(directory, whole) {
            return Ok(known);
        }
        let all = Showing { floor: 0, layers: (0..top).collect() };
        let mut path = TreePath::root();
        let mut showing = self.showing_in(&path, &all)?;
        for component in directory.components() {
            path = path.join(component)?;
            showing = match self.remembered(&path, whole) {
                Some(known) => known,
                None => self.showing_in(&path, &showing)?,
            };
            if whole {
                self.remember(&path, &showing);
            }
        }
        Ok(showing)
    }

    /// What shows of a directory where `parent` shows of the one that it is in.
    fn showing_in(&self, directory: &TreePath, parent: &Showing) -> Result<Arc<Showing>, TreeError> {
        let mut floor = parent.floor;
        let mut layers = Vec::new();
        for (number, layer) in self.numbered(&parent.layers) {
            let record = layer.get(directory)?;
            let risen = record.as_ref().and_then(|record| floor_of(number, record));
            let has_content = directory.is_root()
                || !layer.moves.is_empty()
                || record.as_ref().is_some_and(Record::is_directory);
            if has_content && risen.is_none_or(|risen| risen <= number) {
                layers.push(number);
            }
            if let Some(risen) = risen {
                floor = risen;
                break;
            }
        }
        layers.reverse();
        Ok(Arc::new(Showing { floor, layers }))
    }

    fn remembered(&self, directory: &TreePath, whole: bool) -> Option<Arc<Showing>> {
        let showings = self.showings.lock().unwrap_or_else(PoisonError::into_inner);
        whole.then(|| showings.get(directory).cloned()).flatten()
    }

    fn remember(&self, directory: &TreePath, showing: &Arc<Showing>) {
        let mut showings = self.showings.lock().unwrap_or_else(PoisonError::into_inner);
        if showings.len() >= REMEMBERED {
            showings.clear();
        }
        showings.insert(directory.clone(), Arc::clone(showing));
    }

    fn resolve_in(&self, path: &[u8], follow_last: bool, view: View) -> Result<Resolved, TreeError> {
        let shown = || {
            TreePath::clean(path)
                .map_or_else(|_| super::path::shown(path).into_owned(), |path| path.to_string())
        };
        // What is still to go, the next component last.
        let mut ahead: Vec<Vec<u8>> = path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut at = TreePath::root();
        let mut entry = self.find(&at, view)?.map(|found| found.entry);
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = at.parent().unwrap_or_default();
                    entry = self.find(&at, view)?.map(|found| found.entry);
                    continue;
                }
                name => at = at.join(name)?,
            }
            entry = self.find(&at, view)?.map(|found| found.entry);
            let is_last = ahead.is_empty();
            match entry.as_ref().map(|entry| &entry.node) {
                None | Some(Node::Directory) => {}
                Some(Node::Symlink { target }) if !is_last || follow_last => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(TreeError::Loop(shown()));
                    }
                    let parent = if target.starts_with(b"/") { None } else { at.parent() };
                    let target = target.clone();
                    at = parent.unwrap_or_default();
                    ahead.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                    entry = self.find(&at, view)?.map(|found| found.entry);
                }
                Some(_) if is_last => {}
                Some(_) => return Err(TreeError::NotADirectory(at)),
            }
        }
        Ok(Resolved { path: at, entry })
    }

    /// Finds out where the directories really are that the top layer goes through without saying what they
    /// are.
    fn find_moves(&mut self) -> Result<(), TreeError> {
        let Some(number) = self.layers.len().checked_sub(1) else { return Ok(()) };
        let Some(layer) = self.layers.last().cloned() else { return Ok(()) };
        let mut moves: Vec<Move> = Vec::new();
        // Outer ones come first, so that where an inner one is is known when its turn comes.
        for from in layer.read(Index::implicit)? {
            let place = self.layers.last().map_or_else(|| from.clone(), |layer| layer.place(&from));
            let Some(record) = layer.read(|index| index.get(&from))? else { continue };
            if record.removes && !record.through {
                // The link below is gone; this is a directory of the layer's.
                continue;
            }
            let view = View { top: number + 1, links_show: true, links: 0 };
            let Some(link) = self.find(&place, view)? else { continue };
            // The layer may have taken away the directory that the link is in.
            let floor = self.showing(&place.parent().unwrap_or_default(), number + 1)?.floor;
            if !matches!(link.entry.node, Node::Symlink { .. }) || link.layer < floor {
                continue;
            }
            let resolved = self.resolve_in(place.as_bytes(), true, view)?;
            // A link to nothing or to a file cannot be gone through: whoever applies the layer fails, or
            // replaces it.
            if matches!(&resolved.entry, Some(Entry { node: Node::Directory, .. })) {
                moves.push(Move { from, to: resolved.path, opaque: record.opaque });
                if let Some(layer) = self.layers.last_mut() {
                    layer.moves = moves.as_slice().into();
                }
                self.showings = Arc::default();
            }
        }
        Ok(())
    }
}

impl Layer {
    /// What the layer says of a path of the tree.
    fn get(&self, path: &TreePath) -> Result<Option<Record>, TreeError> {
        let mut said: Option<Record> = None;
        for own in self.names(path) {
            let Some(record) =
                self.read(|index| index.get(&own))?.filter(|record| !self.stands_for_link(&own, record))
            else {
                continue;
            };
            said = Some(match said {
                Some(said) => said.merge(record),
                None => record,
            });
        }
        if self.moves.iter().any(|moved| moved.opaque && moved.to == *path) {
            said.get_or_insert_default().opaque = true;
        }
        Ok(said)
    }

    /// Whether a record is of a directory that in the tree is a link of a lower layer.
    fn stands_for_link(&self, own: &TreePath, record: &Record) -> bool {
        record.entry.is_none() && self.moves.iter().any(|moved| moved.from == *own)
    }

    /// What a path of the tree may be called in the layer.
    fn names<'a>(&'a self, path: &'a TreePath) -> impl Iterator<Item = TreePath> + 'a {
        let moved = self.moves.iter().filter_map(move |moved| {
            let rest = path.strip_prefix(&moved.to).filter(|rest| !rest.is_root())?;
            Some(moved.from.join_path(&rest))
        });
        std::iter::once(path.clone()).chain(moved).filter(move |own| self.place(own) == *path)
    }

    /// What the file at a path of the tree is called in the layer.
    fn own(&self, path: &TreePath) -> Result<TreePath, TreeError> {
        for own in self.names(path) {
            if self.read(|index| index.get(&own))?.is_some_and(|record| record.entry.is_some()) {
                return Ok(own);
            }
        }
        Ok(path.clone())
    }

    /// Where in the tree a path of the layer is.
    fn place(&self, own: &TreePath) -> TreePath {
        match self.governing(own) {
            Some((moved, rest)) => moved.to.join_path(&rest),
            None => own.clone(),
        }
    }

    /// The innermost move that a path of the layer is in, and the rest of the path.
    fn governing(&self, own: &TreePath) -> Option<(&Move, TreePath)> {
        self.moves
            .iter()
            .filter_map(|moved| {
                let rest = own.strip_prefix(&moved.from).filter(|rest| !rest.is_root())?;
                Some((moved, rest))
            })
            .max_by_key(|(moved, _)| moved.from.as_bytes().len())
    }

    fn read<T>(&self, work: impl FnOnce(&Index) -> io::Result<T>) -> Result<T, TreeError> {
        work(&self.index).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> TreeError {
        TreeError::Index { diff_id: self.diff_id, source }
    }
}

#[cfg(test)]
mod tests;
