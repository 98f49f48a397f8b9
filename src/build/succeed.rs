//! What a build leaves to the process that takes over its workspace: roots that the next build may go on from.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::roots::Layers;
use crate::layer::{LayerError, LayerReader, Tree, TreePath};
use crate::sandbox::{Owner, Root, RootError};
use crate::store::{Store, Workspace, succession};

/// The lowest priority: whoever builds meanwhile goes before what is only to be removed.
const LAST: i32 = 19;

/// Whether this process was started to take over a workspace; if so it does, and gives its exit status. Roots of which the
/// state before the first step was written down are brought back to it and kept; everything else is removed, and
/// what killed builds have left.
pub fn run_if_asked() -> Option<i32> {
    let lock = succession::asked()?;
    let (store, workspace, keeping) = match succession::take_over(&lock) {
        Ok(Some(taken)) => taken,
        Ok(None) => return Some(0),
        Err(_) => return Some(1),
    };
    for entry in std::fs::read_dir(workspace.path()).into_iter().flatten().flatten() {
        // What cannot be kept is removed with the rest. Nobody is there to be told.
        let _ = keep(&store, &workspace, &entry.path());
    }
    drop(keeping);
    let _ = rustix::process::nice(LAST);
    // What builds have left that were killed, too: the build had no time for it, or it was still held.
    let removed = workspace.close().and_then(|()| store.sweep().map(drop));
    Some(i32::from(removed.is_err()))
}

fn keep(store: &Store, workspace: &Workspace, place: &Path) -> Result<(), Box<dyn Error>> {
    let metadata = std::fs::metadata(place)?;
    let owner = Owner { uid: metadata.uid(), gid: metadata.gid() };
    let label = Root::label(place, owner)?;
    let layers = Layers::of_label(&label).ok_or("the label names no layers")?;
    let root = Root::take_up(place, owner)?;
    root.tidy()?;
    let tree = Tree::open(store, &layers.diff_ids())?;
    root.restore(&tree, &mut |number, read| {
        let layer = layers.get(number).ok_or(RootError::NotRestorable(TreePath::root()))?;
        let blob = store.open_blob(&layer.digest).map_err(LayerError::from)?;
        let mut reader = LayerReader::new(blob)?;
        read(&mut reader)?;
        Ok(reader.finish()?.expect_diff_id(&layer.diff_id)?)
    })?;
    root.write_state(&label)?;
    Ok(store.keep(place, workspace)?)
}
