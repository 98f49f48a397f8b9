//! Going through a tree in order: the sorted layers are merged, each path's verdict is taken from the top
//! down.

use super::super::entry::{Entry, Node};
use super::super::index::{Cursor, Record};
use super::super::path::TreePath;
use super::{Layer, Tree, TreeError, Verdict, floor_of};

/// Goes through (a part of) a tree in order. An error ends it.
#[derive(Debug)]
pub struct Walk {
    tree: Tree,
    sources: Vec<Source>,
    /// The directories on the way to where the walk is, outermost first, each with its floor.
    levels: Vec<(TreePath, usize)>,
    /// The last entry, to be able to pass over what is in it.
    last: Option<TreePath>,
    children_only: bool,
    failed: bool,
}

/// A part of a layer that is a part of the tree.
#[derive(Debug)]
struct Source {
    number: usize,
    layer: Layer,
    cursor: Cursor,
    /// The directory in the layer, and what it is in the tree.
    own: TreePath,
    place: TreePath,
    /// The next record, and its path in the tree.
    next: Option<(TreePath, Record)>,
}

impl Walk {
    pub(super) fn new(tree: &Tree, directory: &TreePath, children_only: bool) -> Result<Self, TreeError> {
        let floor = tree.showing(directory, tree.layers.len())?.floor;
        let mut sources = Vec::new();
        for (number, layer) in tree.layers.iter().enumerate().skip(floor) {
            let mut add = |own: TreePath, place: TreePath| -> Result<(), TreeError> {
                sources.extend(Source::new(number, layer, own, place)?);
                Ok(())
            };
            for moved in layer.moves.iter() {
                if let Some(rest) = directory.strip_prefix(&moved.to) {
                    add(moved.from.join_path(&rest), directory.clone())?;
                } else if moved.to.starts_with(directory) {
                    add(moved.from.clone(), moved.to.clone())?;
                }
            }
            // Last, and so first when it is looked through from the top down.
            add(directory.clone(), directory.clone())?;
        }
        let levels = vec![(directory.clone(), floor)];
        Ok(Self { tree: tree.clone(), sources, levels, last: None, children_only, failed: false })
    }

    /// Passes over everything in the entry that came last.
    ///
    /// # Errors
    /// If an index cannot be read.
    pub fn skip_content(&mut self) -> Result<(), TreeError> {
        if let Some(last) = &self.last {
            for source in &mut self.sources {
                source.leave(last)?;
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Entry>, TreeError> {
        loop {
            if self.children_only {
                self.skip_content()?;
            }
            let Some(path) = self.sources.iter().filter_map(Source::path).min().cloned() else {
                return Ok(None);
            };
            let parent_floor = self.enter(&path)?;
            let mut verdict = Verdict::default();
            let mut floor = None;
            for (number, record) in self.take(&path)? {
                if number >= parent_floor {
                    floor = floor.or_else(|| floor_of(number, &record));
                    verdict.take(number, record);
                }
            }
            let is_target = |layer: &Layer| layer.moves.iter().any(|moved| moved.to == path && moved.opaque);
            let floor = if self.tree.layers.iter().any(is_target) {
                self.tree.showing(&path, self.tree.layers.len())?.floor
            } else {
                floor.unwrap_or(parent_floor)
            };
            self.levels.push((path.clone(), floor));
            self.last = Some(path.clone());
            if let Some((layer, node, metadata)) = verdict.outcome() {
                return Ok(Some(match node {
                    Node::Hardlink { .. } => {
                        self.tree.found(&path, layer, node, metadata, self.tree.whole())?.entry
                    }
                    node => Entry { path, node, metadata },
                }));
            }
        }
    }

    /// What the layers say of the path that comes next, from the top down.
    fn take(&mut self, path: &TreePath) -> Result<Vec<(usize, Record)>, TreeError> {
        let mut said: Vec<(usize, Record)> = Vec::new();
        for source in self.sources.iter_mut().rev() {
            if source.path() != Some(path) {
                continue;
            }
            let Some((_, record)) = source.take()? else { continue };
            match said.pop_if(|(number, _)| *number == source.number) {
                Some((number, other)) => said.push((number, other.merge(record))),
                None => said.push((source.number, record)),
            }
        }
        Ok(said)
    }

    /// Leaves the directories that `path` is not in, and gives the floor of the one that it is in.
    fn enter(&mut self, path: &TreePath) -> Result<usize, TreeError> {
        let parent = path.parent().unwrap_or_default();
        while self.levels.last().is_some_and(|(level, _)| !parent.starts_with(level)) {
            self.levels.pop();
        }
        match self.levels.last() {
            Some((level, floor)) if *level == parent => Ok(*floor),
            // Every directory that something is in has a record, unless a part of a layer was moved into it.
            _ => {
                let floor = self.tree.showing(&parent, self.tree.layers.len())?.floor;
                self.levels.push((parent, floor));
                Ok(floor)
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Entry, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

impl Source {
    /// A source of what is in the directory `own` of a layer; `None` if that is nothing.
    fn new(number: usize, layer: &Layer, own: TreePath, place: TreePath) -> Result<Option<Self>, TreeError> {
        let start = own.to_key();
        // Behind the directory's own record.
        let mut key = start.clone();
        if !own.is_root() {
            key.push(0);
        }
        let cursor = Cursor::at(&layer.index, &key).map_err(|error| layer.failed(error))?;
        let mut source = Self { number, layer: layer.clone(), cursor, own, place, next: None };
        source.advance()?;
        Ok(source.next.is_some().then_some(source))
    }

    fn path(&self) -> Option<&TreePath> {
        self.next.as_ref().map(|(path, _)| path)
    }

    fn take(&mut self) -> Result<Option<(TreePath, Record)>, TreeError> {
        let taken = self.next.take();
        self.advance()?;
        Ok(taken)
    }

    fn advance(&mut self) -> Result<(), TreeError> {
        self.next = None;
        while let Some((key, record)) = self.cursor.next().map_err(|error| self.layer.failed(error))? {
            let own = TreePath::from_key(&key)?;
            let Some(rest) = own.strip_prefix(&self.own) else { break };
            if rest.is_root() {
                continue;
            }
            // What was moved elsewhere comes from another source, and what a move stands for is the link
            // below.
            let place = self.place.join_path(&rest);
            let is_moved = self.layer.stands_for_link(&own, &record);
            if is_moved || self.layer.place(&own) != place {
                continue;
            }
            self.next = Some((place, record));
            break;
        }
        Ok(())
    }

    /// Goes behind everything in `directory`.
    fn leave(&mut self, directory: &TreePath) -> Result<(), TreeError> {
        if !self.path().is_some_and(|path| path.starts_with(directory)) {
            return Ok(());
        }
        let Some(rest) = directory.strip_prefix(&self.place) else {
            // All of this source is in it.
            self.next = None;
            return Ok(());
        };
        let mut key = self.own.join_path(&rest).to_key();
        // The least byte that a name can have: nothing in the directory has a key this great.
        key.push(1);
        self.cursor.seek(&key).map_err(|error| self.layer.failed(error))?;
        self.advance()
    }
}
