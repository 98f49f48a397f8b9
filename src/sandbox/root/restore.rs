//! Brings a root back to the state before steps ran in it.
//!
//! What has to be brought back is what differs from the snapshot by inode and ctime, which no step can forge; what it has
//! to be is what the layers say, and the contents come out of their blobs. Nothing that lies in the root is believed. What
//! is hard to bring back exactly (files with several names) is not: then the root is given up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self as rfs, Mode, OFlags};

use super::apply::Applier;
use super::snapshot::{Difference, Snapshot, What};
use super::{Root, RootError};
use crate::context::fingerprint::user_attributes;
use crate::layer::{Change, Entry, LayerReader, Node, Tree, TreeError, TreePath};
use crate::sandbox::sys;

/// Has a reader of the layer of this number read by what is given.
pub type WithLayer<'a> =
    dyn FnMut(usize, &mut dyn FnMut(&mut LayerReader) -> Result<(), RootError>) -> Result<(), RootError> + 'a;

impl Root {
    /// Brings the root, which was taken up in the state that was written down, back to it after steps. `tree` is what is
    /// in the root in that state, and `with_layer` gives the layers that it is made of.
    ///
    /// # Errors
    /// [`RootError::NotRestorable`] if it cannot be done exactly; whatever else fails. The root is good for nothing then.
    pub fn restore(&self, tree: &Tree, with_layer: &mut WithLayer<'_>) -> Result<(), RootError> {
        let before = self.snapshot().take().unwrap_or_default();
        let (_, differences) = self.scan(Some(&before), &HashSet::new())?;
        let mut restorer = Restorer {
            root: self,
            before: &before,
            tree,
            applier: Applier::new(self, self.directory()),
            wanted: BTreeMap::new(),
            touched: BTreeSet::new(),
        };
        restorer.bring_all_back(&differences)?;
        restorer.bring_contents(with_layer)?;
        restorer.set_times()?;
        let touched = restorer.touched;
        let (now, differences) = self.scan(Some(&before), &HashSet::new())?;
        for Difference { path, what, matters } in differences {
            let wrong = match what {
                What::Gone | What::Directory { made: true, .. } => true,
                What::Directory { made: false, .. } => matters,
                What::File(_) => before.find(&path).is_none(),
            };
            if wrong || !touched.contains(&path) {
                return Err(RootError::NotRestorable(path));
            }
        }
        *self.snapshot() = Some(now);
        Ok(())
    }
}

struct Restorer<'a> {
    root: &'a Root,
    before: &'a Snapshot,
    tree: &'a Tree,
    applier: Applier<'a>,
    /// Files whose content is in a layer: by the layer's number and their path there, as they have to be.
    wanted: BTreeMap<usize, HashMap<TreePath, Entry>>,
    /// Everything that may be different afterwards, too.
    touched: BTreeSet<TreePath>,
}

impl Restorer<'_> {
    fn bring_all_back(&mut self, differences: &[Difference]) -> Result<(), RootError> {
        let _identity = self.root.identity()?;
        // First what is too much goes: it may stand where something else belongs.
        for difference in differences {
            self.clear(difference)?;
        }
        differences.iter().try_for_each(|difference| self.bring_back(difference))
    }

    fn clear(&mut self, difference: &Difference) -> Result<(), RootError> {
        self.touched.insert(difference.path.clone());
        match difference.what {
            What::Gone | What::Directory { made: false, .. } => Ok(()),
            What::File(_) | What::Directory { made: true, .. } => self.applier.remove(&difference.path),
        }
    }

    fn bring_back(&mut self, difference: &Difference) -> Result<(), RootError> {
        let path = &difference.path;
        let was = path.is_root() || self.before.find(path).is_some();
        match (was, self.look_up(path)?) {
            (false, None) => Ok(()),
            (true, Some(entry)) => {
                let stays = matches!(difference.what, What::Directory { made: false, .. });
                if stays && entry.node == Node::Directory {
                    self.clear_attributes(&entry)?;
                    return self.applier.entry(&entry, &mut io::empty());
                }
                self.make(entry)
            }
            _ => Err(RootError::NotRestorable(path.clone())),
        }
    }

    /// Makes what is missing, with all that is below it.
    fn make(&mut self, entry: Entry) -> Result<(), RootError> {
        let path = entry.path.clone();
        let is_directory = entry.node == Node::Directory;
        self.make_one(entry)?;
        if is_directory {
            let walk = self.tree.walk(&path).map_err(|error| unknown(&path, error))?;
            for entry in walk {
                self.make_one(entry.map_err(|error| unknown(&path, error))?)?;
            }
        }
        Ok(())
    }

    fn make_one(&mut self, entry: Entry) -> Result<(), RootError> {
        let path = entry.path.clone();
        let known = self.before.find(&path).ok_or_else(|| RootError::NotRestorable(path.clone()))?;
        if known.links > 1 && entry.node != Node::Directory {
            return Err(RootError::NotRestorable(path));
        }
        self.touched.insert(path.clone());
        if let Some(parent) = path.parent() {
            let times = self.look_up(&parent)?.map(|parent| parent.metadata.mtime);
            self.applier.note_time(parent.clone(), times.unwrap_or_default());
            self.touched.insert(parent);
        }
        if !matches!(entry.node, Node::File { size } if size > 0) {
            return self.applier.entry(&entry, &mut io::empty());
        }
        if let Some(content) = self.root.remembered.get(&path) {
            return self.applier.entry(&entry, &mut content.as_slice());
        }
        let origin = self.tree.origin(&path).map_err(|error| unknown(&path, error))?;
        let (layer, own) = origin.ok_or(RootError::NotRestorable(path))?;
        self.wanted.entry(layer).or_default().insert(own, entry);
        Ok(())
    }

    fn bring_contents(&mut self, with_layer: &mut WithLayer<'_>) -> Result<(), RootError> {
        for (layer, mut wanted) in std::mem::take(&mut self.wanted) {
            let mut brought = HashSet::new();
            let (root, applier) = (self.root, &mut self.applier);
            with_layer(layer, &mut |reader| {
                // The layer was opened as who the build is; its files are the root's owner's.
                let _identity = root.identity()?;
                while let Some((change, mut content)) = reader.next()? {
                    let Change::Entry(Entry { path, node: Node::File { .. }, .. }) = &change else {
                        continue;
                    };
                    // A path may come more than once, and the last counts.
                    if let Some(entry) = wanted.get(path) {
                        applier.entry(entry, &mut content)?;
                        brought.insert(path.clone());
                    }
                }
                Ok(())
            })?;
            wanted.retain(|path, _| !brought.contains(path));
            if let Some(entry) = wanted.into_values().next() {
                return Err(RootError::NotRestorable(entry.path));
            }
        }
        Ok(())
    }

    fn set_times(&mut self) -> Result<(), RootError> {
        let _identity = self.root.identity()?;
        self.applier.set_directory_times()
    }

    /// Takes attributes off a directory that it is not to have. What it is to have, it is given again.
    fn clear_attributes(&self, entry: &Entry) -> Result<(), RootError> {
        let path = &entry.path;
        let directory = if path.is_root() {
            rfs::openat(self.root.directory(), ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(RootError::at("open", path))?
        } else {
            self.root.open_directory(path)?
        };
        let attributes = user_attributes(directory.as_fd());
        for name in attributes.map_err(RootError::at("read the attributes of", path))?.keys() {
            if !entry.metadata.xattrs.contains_key(name) {
                rfs::removexattr(sys::fd_path(directory.as_fd()), OsStr::from_bytes(name))
                    .map_err(RootError::at("take attributes off", path))?;
            }
        }
        Ok(())
    }

    fn look_up(&self, path: &TreePath) -> Result<Option<Entry>, RootError> {
        self.tree.lookup(path).map_err(|error| unknown(path, error))
    }
}

fn unknown(path: &TreePath, error: TreeError) -> RootError {
    RootError::at("find out about", path)(io::Error::other(error))
}
