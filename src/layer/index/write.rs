//! Makes an index from a layer's statements, in whatever order they come.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Seek, Write};

use libdeflater::Crc;

use super::codec::{Record, put_bytes, put_entry, put_number};
use super::sort::{Sorted, Sorter};
use super::{BLOCK, MAGIC, MAX_SMALL_FILES, SIDE};
use crate::image::Digest;
use crate::layer::entry::{Change, Metadata, Node};
use crate::layer::error::LayerError;
use crate::layer::path::TreePath;
use crate::store::{SideWriter, Store, StoreError};

/// The statements of a layer as the sorter keeps them, by their first byte.
const ENTRY: u8 = b'e';
const REMOVE: u8 = b'r';
const OPAQUE: u8 = b'o';

/// Collects a layer's statements and writes its index.
#[derive(Debug)]
pub(in crate::layer) struct IndexBuilder {
    store: Store,
    sorter: Sorter,
    small: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl IndexBuilder {
    pub(in crate::layer) fn new(store: &Store) -> Self {
        Self { store: store.clone(), sorter: Sorter::new(store), small: BTreeMap::new() }
    }

    /// Notes a statement. The order of the calls is the order in which they hold.
    pub(in crate::layer) fn add(&mut self, change: &Change) -> Result<(), LayerError> {
        let mut value = Vec::new();
        match change {
            Change::Entry(entry) => {
                value.push(ENTRY);
                put_entry(&mut value, &entry.node, &entry.metadata);
            }
            Change::Remove(_) => value.push(REMOVE),
            Change::Opaque(_) => value.push(OPAQUE),
        }
        self.sorter.add(change.path().to_key(), value).map_err(failed)
    }

    /// Notes the content of a file that [`super::keeps_content`] names.
    pub(in crate::layer) fn add_small(&mut self, path: &TreePath, content: Vec<u8>) {
        // A program called `passwd` is not what is looked for.
        let is_text = !content.contains(&0);
        if is_text && (self.small.len() < MAX_SMALL_FILES || self.small.contains_key(&path.to_key())) {
            self.small.insert(path.to_key(), content);
        } else {
            self.small.remove(&path.to_key());
        }
    }

    /// Writes the index as that of the layer `diff_id`.
    pub(in crate::layer) fn finish(self, diff_id: &Digest) -> Result<(), LayerError> {
        let writer = self.store.side_writer()?;
        let mut fold = Fold {
            blocks: Blocks::new(writer)?,
            implicit: Implicit { store: self.store, file: None },
            path: Vec::new(),
            levels: vec![Level { length: 0, gone_before: 0 }],
            pending: None,
        };
        let mut merge = self.sorter.finish().map_err(failed)?;
        let mut group: Vec<Sorted> = Vec::new();
        while let Some(record) = merge.next().map_err(failed)? {
            if group.first().is_some_and(|first| first.key != record.key) {
                fold.group(&mut group)?;
            }
            group.push(record);
        }
        fold.group(&mut group)?;
        fold.flush().map_err(failed)?;
        let writer = fold.blocks.finish(fold.implicit, &self.small).map_err(failed)?;
        Ok(writer.commit(SIDE, diff_id)?)
    }
}

/// The store's errors come through `io::Error` and are had back.
fn failed(error: io::Error) -> LayerError {
    match error.downcast::<StoreError>() {
        Ok(error) => LayerError::Store(error),
        Err(error) => LayerError::Source("index of a layer", error),
    }
}

/// A path on the way from the root to where the fold is.
#[derive(Debug)]
struct Level {
    /// How much of [`Fold::path`] is its key.
    length: usize,
    /// Statements in it that came earlier than this are gone: something else was at its place later.
    gone_before: u64,
}

/// Folds statements into records and sees to their parents.
struct Fold {
    blocks: Blocks,
    implicit: Implicit,
    /// The key of the last path that is there.
    path: Vec<u8>,
    /// The last path and those it is in, outermost first. Never empty: the root is always there.
    levels: Vec<Level>,
    /// The record of the last path, until it is known whether anything is in it.
    pending: Option<(Vec<u8>, Record)>,
}

impl Fold {
    /// Takes all statements on one path.
    fn group(&mut self, group: &mut Vec<Sorted>) -> Result<(), LayerError> {
        let Some(first) = group.first() else { return Ok(()) };
        let key = first.key.clone();
        while self.levels.len() > 1 && !self.levels.last().is_some_and(|level| self.is_in(&key, level.length))
        {
            self.levels.pop();
        }
        let (parent, gone_before) =
            self.levels.last().map_or((0, 0), |level| (level.length, level.gone_before));
        group.retain(|statement| statement.number >= gone_before);
        if group.is_empty() {
            return Ok(());
        }
        if !key.is_empty() {
            self.enter_parents(&key, parent, gone_before)?;
        }
        let (record, gone) = fold(group);
        group.clear();
        self.flush().map_err(failed)?;
        self.path.clone_from(&key);
        let length = key.len();
        self.pending = Some((key, record));
        self.levels.push(Level { length, gone_before: gone_before.max(gone) });
        Ok(())
    }

    /// Whether `key` is in the directory whose key is the first `length` bytes of the path.
    fn is_in(&self, key: &[u8], length: usize) -> bool {
        let directory = self.path.get(..length).unwrap_or_default();
        length == 0 || key.strip_prefix(directory).is_some_and(|rest| rest.starts_with(&[0]))
    }

    /// Sees to it that every directory that `key` is in has a record. `parent` is the length of the innermost
    /// that has.
    fn enter_parents(&mut self, key: &[u8], parent: usize, gone_before: u64) -> Result<(), LayerError> {
        if let Some((pending, record)) = &mut self.pending
            && pending.len() == parent
            && !record.is_directory()
        {
            match &record.entry {
                None => record.implicit = true,
                // A hard link may be one to a symbolic link.
                Some((Node::Symlink { .. } | Node::Hardlink { .. }, _)) => record.through = true,
                Some((node, _)) => {
                    return Err(LayerError::Inside {
                        path: TreePath::from_key(key)?,
                        parent: TreePath::from_key(pending)?,
                        kind: node.kind(),
                    });
                }
            }
        }
        self.flush().map_err(failed)?;
        let start = if parent == 0 { 0 } else { parent + 1 };
        for (end, _) in key.iter().enumerate().skip(start).filter(|&(_, &byte)| byte == 0) {
            let record = Record { implicit: true, ..Record::default() };
            self.pending = Some((key.get(..end).unwrap_or_default().to_vec(), record));
            self.flush().map_err(failed)?;
            self.levels.push(Level { length: end, gone_before });
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some((key, record)) = self.pending.take() else { return Ok(()) };
        if record.implicit || record.through {
            self.implicit.add(&key)?;
        }
        self.blocks.add(&key, &record)
    }
}

/// One path's statements as one record, and the number before which what was in it is gone.
fn fold(statements: &[Sorted]) -> (Record, u64) {
    let mut record = Record::default();
    let mut gone_before = 0;
    for statement in statements {
        let (kind, mut rest) =
            statement.value.split_first().map_or((0, &[][..]), |(kind, rest)| (*kind, rest));
        match kind {
            REMOVE => record.removes = true,
            OPAQUE => record.opaque = true,
            _ => {
                let Some((node, metadata)) = super::codec::take_entry(&mut rest) else { continue };
                let is_directory = node == Node::Directory;
                let was_directory =
                    record.entry.as_ref().map(|(node, _): &(Node, Metadata)| *node == Node::Directory);
                if !is_directory {
                    gone_before = statement.number + 1;
                } else if was_directory == Some(false) {
                    // What replaced the lower directory is gone too, but the directory does not come back.
                    record.opaque = true;
                }
                record.entry = Some((node, metadata));
            }
        }
    }
    // The marker lies in the directory, so whoever unpacks the layer makes it.
    record.implicit = record.opaque && record.entry.is_none();
    (record, gone_before)
}

/// Keys of directories without an entry; there can be as many as files.
struct Implicit {
    store: Store,
    file: Option<BufWriter<File>>,
}

impl Implicit {
    fn add(&mut self, key: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(self.store.scratch_file().map_err(StoreError::into_io)?)),
        };
        let mut bytes = Vec::with_capacity(key.len() + 5);
        put_bytes(&mut bytes, key);
        file.write_all(&bytes)
    }

    fn copy_to(self, out: &mut impl Write) -> io::Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        io::copy(&mut file, out)?;
        Ok(())
    }
}

/// Writes records into blocks, and the sections behind them.
struct Blocks {
    out: BufWriter<SideWriter>,
    offset: u64,
    block: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
    /// The record that is being written, whose length comes first.
    record: Vec<u8>,
    table: Vec<u8>,
    records: u64,
}

impl Blocks {
    fn new(writer: SideWriter) -> Result<Self, LayerError> {
        let mut out = BufWriter::with_capacity(64 * 1024, writer);
        out.write_all(MAGIC).map_err(failed)?;
        Ok(Self {
            out,
            offset: MAGIC.len() as u64,
            block: Vec::with_capacity(2 * BLOCK),
            first: Vec::new(),
            last: Vec::new(),
            record: Vec::new(),
            table: Vec::new(),
            records: 0,
        })
    }

    fn add(&mut self, key: &[u8], record: &Record) -> io::Result<()> {
        let shared = if self.block.is_empty() {
            self.first = key.to_vec();
            0
        } else {
            self.last.iter().zip(key).take_while(|(a, b)| a == b).count()
        };
        put_number(&mut self.block, shared as u64);
        put_bytes(&mut self.block, key.get(shared..).unwrap_or_default());
        self.record.clear();
        record.put(&mut self.record);
        put_bytes(&mut self.block, &self.record);
        self.last = key.to_vec();
        self.records += 1;
        if self.block.len() >= BLOCK { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.out.write_all(&self.block)?;
        put_bytes(&mut self.table, &self.first);
        put_number(&mut self.table, self.offset);
        put_number(&mut self.table, self.block.len() as u64);
        put_number(&mut self.table, u64::from(libdeflater::crc32(&self.block)));
        self.offset += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self, implicit: Implicit, small: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<SideWriter> {
        self.close()?;
        let mut out = Checked { out: self.out, written: self.offset, crc: Crc::new() };
        let implicit_at = out.written;
        implicit.copy_to(&mut out)?;
        let small_at = out.written;
        for (key, content) in small {
            let mut bytes = Vec::with_capacity(key.len() + content.len() + 10);
            put_bytes(&mut bytes, key);
            put_bytes(&mut bytes, content);
            out.write_all(&bytes)?;
        }
        let table_at = out.written;
        out.write_all(&self.table)?;
        for number in [implicit_at, small_at, table_at, self.records] {
            out.write_all(&number.to_le_bytes())?;
        }
        let sum = out.crc.sum();
        out.write_all(&sum.to_le_bytes())?;
        out.write_all(MAGIC)?;
        out.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Counts and sums what is written through it.
struct Checked<W> {
    out: W,
    written: u64,
    crc: Crc,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.crc.update(bytes.get(..count).unwrap_or_default());
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads exactly, for the index's reader; here so that both sides of the format stand together.
pub(super) const FOOTER: usize = 4 * 8 + 4 + MAGIC.len();

/// A number of the footer.
pub(super) fn footer_number(source: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    source.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// What an index is that does not follow its format.
pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
