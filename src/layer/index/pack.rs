//! Indexes that travel: a layer of one file that has the index of another layer, so that a registry keeps it.

use std::fs::File;
use std::io::{self, Read};

use super::{Index, SIDE};
use crate::image::Digest;
use crate::layer::{
    Change, Entry, LayerBlob, LayerError, LayerReader, LayerWriter, Metadata, Node, TreePath,
};
use crate::store::Store;

/// What the file is called.
const NAME: &str = "tree";
/// The largest index that is taken in, in bytes: that of ten million files.
const LARGEST: u64 = 1 << 30;

/// Writes the index of the layer `diff_id` as a layer. `None` if the store has no such index.
///
/// # Errors
/// If it cannot be read or written.
pub fn pack_index(
    store: &Store,
    diff_id: &Digest,
    mut writer: LayerWriter,
) -> Result<Option<LayerBlob>, LayerError> {
    let Some(file) = store.side(SIDE, diff_id)? else { return Ok(None) };
    let entry = Entry { path: name()?, node: Node::File { size: size(&file)? }, metadata: metadata() };
    writer.file(&entry, &mut &file)?;
    writer.finish().map(Some)
}

/// Takes in what [`pack_index`] has written. Says whether there is a usable index of the layer `diff_id` then.
///
/// # Errors
/// If what is read is no layer, or the store cannot be written.
pub fn unpack_index(
    store: &Store,
    diff_id: &Digest,
    source: impl Read + Send + 'static,
) -> Result<bool, LayerError> {
    let mut reader = LayerReader::new(source)?;
    let wanted = name()?;
    while let Some((change, mut content)) = reader.next()? {
        let Change::Entry(entry) = change else { continue };
        if entry.path != wanted || entry.node.size() > LARGEST {
            continue;
        }
        write(store, diff_id, &mut content)?;
        return Ok(Index::open(store, diff_id)?.is_some());
    }
    Ok(false)
}

/// Copies the index of the layer `diff_id` from one store to another, if the one has it and the other has not.
///
/// # Errors
/// If a store cannot be read or written.
pub fn copy_index(from: &Store, to: &Store, diff_id: &Digest) -> Result<(), LayerError> {
    if has_index(to, diff_id)? {
        return Ok(());
    }
    let Some(mut file) = from.side(SIDE, diff_id)? else { return Ok(()) };
    write(to, diff_id, &mut file)
}

fn write(store: &Store, diff_id: &Digest, content: &mut dyn Read) -> Result<(), LayerError> {
    let mut writer = store.side_writer()?;
    // A call to the system for each write.
    let mut buffered = io::BufWriter::with_capacity(1 << 18, &mut writer);
    io::copy(content, &mut buffered)
        .and_then(|_| io::Write::flush(&mut buffered))
        .map_err(|error| LayerError::Source("index of a layer", error))?;
    drop(buffered);
    Ok(writer.commit(SIDE, diff_id)?)
}

/// Whether the store has an index of the layer `diff_id`.
///
/// # Errors
/// If the store cannot be read.
pub fn has_index(store: &Store, diff_id: &Digest) -> Result<bool, LayerError> {
    Ok(store.side(SIDE, diff_id)?.is_some())
}

fn name() -> Result<TreePath, LayerError> {
    Ok(TreePath::new(NAME.as_bytes())?)
}

fn metadata() -> Metadata {
    Metadata { mode: 0o644, ..Metadata::default() }
}

fn size(file: &File) -> Result<u64, LayerError> {
    let metadata = file.metadata().map_err(|error| LayerError::Source("index of a layer", error))?;
    Ok(metadata.len())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::layer::{LayerOptions, Pool, Tree};

    fn writer(store: &Store) -> LayerWriter {
        LayerWriter::new(store, &Pool::new(NonZeroUsize::MIN), LayerOptions::default()).unwrap()
    }

    #[test]
    fn an_index_travels_as_a_layer() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (Store::open(here.path()).unwrap(), Store::open(there.path()).unwrap());
        let mut layer = writer(&from);
        for path in ["etc", "etc/passwd"] {
            let node = if path == "etc" { Node::Directory } else { Node::File { size: 5 } };
            let entry = Entry { path: TreePath::new(path.as_bytes()).unwrap(), node, metadata: metadata() };
            layer.file(&entry, &mut if path == "etc" { &b""[..] } else { &b"root:"[..] }).unwrap();
        }
        let layer = layer.finish().unwrap();
        assert!(!has_index(&to, &layer.diff_id).unwrap());

        let packed = pack_index(&from, &layer.diff_id, writer(&from)).unwrap().unwrap();
        let blob = from.open_blob(&packed.digest).unwrap();
        assert!(unpack_index(&to, &layer.diff_id, blob).unwrap());
        let tree = Tree::open(&to, &[layer.diff_id]).unwrap();
        assert_eq!(tree.small_file(b"etc/passwd").unwrap().unwrap(), b"root:");
        // The same index, the same bytes.
        let again = pack_index(&from, &layer.diff_id, writer(&from)).unwrap().unwrap();
        assert_eq!(again.digest, packed.digest);
        // What is not there, and what is something else.
        let other = Digest::of(b"other");
        assert!(pack_index(&from, &other, writer(&from)).unwrap().is_none());
        let blob = from.open_blob(&layer.digest).unwrap();
        assert!(!unpack_index(&to, &other, blob).unwrap());
    }

    #[test]
    fn what_is_called_an_index_and_is_none_is_not_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut layer = writer(&store);
        let entry = Entry { path: name().unwrap(), node: Node::File { size: 7 }, metadata: metadata() };
        layer.file(&entry, &mut &b"nothing"[..]).unwrap();
        let blob = store.open_blob(&layer.finish().unwrap().digest).unwrap();
        let diff_id = Digest::of(b"layer");
        assert!(!unpack_index(&store, &diff_id, blob).unwrap());
        assert!(!has_index(&store, &diff_id).unwrap());
    }
}
