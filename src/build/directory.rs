//! WORKDIR: a layer with the directories that are missing.

use super::error::BuildError;
use crate::layer::{Entry, LayerWriter, Metadata, Node, Tree, TreePath};

/// Mode of directories that are made.
const MODE: u32 = 0o755;

/// Writes the layer in which `path` (absolute, as written) is a directory, with those above it. What is missing is made
/// for `uid` and `gid`; if nothing is, the layer stays empty, as BuildKit's does.
///
/// # Errors
/// If something on the way is no directory.
pub(super) fn write(
    writer: &mut LayerWriter,
    tree: &Tree,
    path: &str,
    (uid, gid): (u32, u32),
    now: i64,
) -> Result<(), BuildError> {
    let resolved = tree.resolve(path.as_bytes(), true)?;
    match resolved.entry {
        Some(Entry { node: Node::Directory, .. }) => return Ok(()),
        Some(entry) => {
            let message = format!("`{path}` is a {} in the image, not a directory", entry.node.kind());
            return Err(BuildError::refused(message));
        }
        None => {}
    }
    let directories: Vec<TreePath> = resolved.path.ancestors().chain([resolved.path.clone()]).collect();
    for directory in directories.into_iter().filter(|directory| !directory.is_root()) {
        let entry = match tree.lookup(&directory)? {
            Some(entry) if entry.node == Node::Directory => entry,
            Some(entry) => {
                let shown = String::from_utf8_lossy(directory.as_bytes()).into_owned();
                let message = format!("`/{shown}` is a {} in the image, not a directory", entry.node.kind());
                return Err(BuildError::refused(message));
            }
            None => {
                let metadata = Metadata { mode: MODE, uid, gid, mtime: now, ..Metadata::default() };
                Entry { path: directory, node: Node::Directory, metadata }
            }
        };
        writer.entry(&entry)?;
    }
    Ok(())
}
