//! Tests of the room as its callers see it.

mod hostile;
mod reading;
mod round_trip;
mod writing;

use std::io::Read;
use std::num::NonZeroUsize;

use super::*;
use crate::store::Store;

/// A store of its own.
struct Bench {
    _directory: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Self { _directory: directory, store }
    }

    fn writer(&self, options: LayerOptions) -> LayerWriter {
        LayerWriter::new(&self.store, &pool(2), options).unwrap()
    }

    fn write(&self, options: LayerOptions, changes: &[(Change, Vec<u8>)]) -> LayerBlob {
        let mut writer = self.writer(options);
        for (change, content) in changes {
            writer.change(change, &mut content.as_slice()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn blob(&self, layer: &LayerBlob) -> Vec<u8> {
        self.store.read(&layer.digest, u64::MAX).unwrap()
    }

    /// Whether nothing is left of layers that were given up. Their threads may need a moment.
    fn is_clean(&self) -> bool {
        let empty =
            |path: &str| std::fs::read_dir(self.store.directory().join(path)).unwrap().next().is_none();
        for _ in 0..200 {
            if empty("cofferdam/tmp") {
                return empty("blobs/sha256");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        false
    }
}

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).unwrap())
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn entry(at: &str, node: Node) -> Entry {
    Entry { path: path(at), node, metadata: Metadata { mode: 0o644, ..Metadata::default() } }
}

fn file(at: &str, content: &[u8]) -> (Change, Vec<u8>) {
    (Change::Entry(entry(at, Node::File { size: content.len() as u64 })), content.to_vec())
}

fn directory(at: &str) -> (Change, Vec<u8>) {
    (Change::Entry(entry(at, Node::Directory)), Vec::new())
}

/// Changes with their contents.
type Changes = Vec<(Change, Vec<u8>)>;

/// All changes of a layer with their contents, and what it was.
fn read_all(source: impl Read + Send + 'static) -> Result<(Changes, LayerEnd), LayerError> {
    let mut reader = LayerReader::new(source)?;
    let mut changes = Vec::new();
    while let Some((change, mut content)) = reader.next()? {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|error| LayerError::Source("layer", error))?;
        changes.push((change, bytes));
    }
    Ok((changes, reader.finish()?))
}

/// As [`read_all`], of bytes.
fn read_bytes(bytes: &[u8]) -> Result<Changes, LayerError> {
    Ok(read_all(std::io::Cursor::new(bytes.to_vec()))?.0)
}

/// A reader that gives a few bytes at a time.
struct Dribble<R>(R, usize);

impl<R: Read> Read for Dribble<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.1);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn handles_can_be_moved_between_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<LayerWriter>();
    send::<LayerReader>();
    send::<ArchiveReader>();
    send::<Walk>();
    send::<Tree>();
    sync::<Tree>();
    send::<Pool>();
    sync::<Pool>();
}

#[test]
fn a_layer_is_read_while_it_is_downloaded() {
    use crate::store::Claim;
    let bench = Bench::new();
    let noise = compression::tests::noise(1, 3_000_000);
    let layer =
        bench.write(LayerOptions::default(), &[file("a", &noise), file("b", &noise), file("c", b"end")]);
    let blob = bench.blob(&layer);
    let other = Bench::new();
    let Claim::Ours(mut download) = other.store.claim(&layer.digest, Some(layer.size)).unwrap() else {
        panic!()
    };
    let mut reader = LayerReader::new(download.follow().unwrap()).unwrap();
    let (first, rest) = blob.split_at(4_000_000);
    download.append(first).unwrap();
    let (change, mut content) = reader.next().unwrap().unwrap();
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).unwrap();
    assert!(change.path() == &path("a") && bytes == noise, "before the rest is there");
    let waiting = std::thread::spawn(move || reader.finish().unwrap());
    download.append(rest).unwrap();
    download.commit().unwrap();
    let end = waiting.join().unwrap();
    assert_eq!((end.digest, end.diff_id, end.changes), (layer.digest, layer.diff_id, 3));
    // A download that fails makes the reader fail, however far it is.
    let third = Bench::new();
    let Claim::Ours(mut download) = third.store.claim(&layer.digest, Some(layer.size)).unwrap() else {
        panic!()
    };
    let reader = LayerReader::new(download.follow().unwrap()).unwrap();
    download.append(first).unwrap();
    download.fail("the registry has gone away");
    let error = reader.finish().unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("the registry has gone away"));
}
