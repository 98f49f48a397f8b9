//! Reads an index, a block at a time.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use libdeflater::Crc;

use super::codec::{Record, take_bytes, take_number};
use super::write::{FOOTER, damaged, footer_number};
use super::{MAGIC, SIDE};
use crate::image::Digest;
use crate::layer::path::TreePath;
use crate::store::{Store, StoreError};

/// How many blocks of one index are held: a path and its neighbours are looked up many times in a row.
const CACHED_BLOCKS: usize = 32;
/// Size of the pieces in which the sections are summed.
const PIECE: usize = 64 * 1024;

/// The index of a layer.
#[derive(Debug)]
pub(in crate::layer) struct Index {
    file: File,
    table: Vec<BlockAt>,
    implicit: (u64, u64),
    small: (u64, u64),
    records: u64,
    /// The most recently used last.
    cache: Mutex<VecDeque<(usize, Arc<[u8]>)>>,
}

#[derive(Debug)]
struct BlockAt {
    first: Box<[u8]>,
    offset: u64,
    length: u32,
    crc: u32,
}

impl Index {
    /// The index of the layer `diff_id`. `None` if there is none, or it is damaged or of another version; it
    /// is removed then.
    pub(in crate::layer) fn open(store: &Store, diff_id: &Digest) -> Result<Option<Self>, StoreError> {
        let Some(file) = store.side(SIDE, diff_id)? else { return Ok(None) };
        match Self::read(file) {
            Ok(index) => Ok(Some(index)),
            Err(error) => {
                tracing::warn!(%diff_id, %error, "the index of a layer cannot be used");
                store.remove_side(SIDE, diff_id)?;
                Ok(None)
            }
        }
    }

    fn read(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let footer_at = length.checked_sub(FOOTER as u64).ok_or_else(|| damaged("it is too short"))?;
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, footer_at)?;
        let mut rest = footer.as_slice();
        let (implicit, small) = (footer_number(&mut rest)?, footer_number(&mut rest)?);
        let (table_at, records) = (footer_number(&mut rest)?, footer_number(&mut rest)?);
        let (sum, magic) = rest.split_at_checked(4).ok_or_else(|| damaged("it is too short"))?;
        let mut start = [0; MAGIC.len()];
        file.read_exact_at(&mut start, 0)?;
        if magic != MAGIC || start != *MAGIC {
            return Err(damaged("it is of another version"));
        }
        if !(implicit <= small && small <= table_at && table_at <= footer_at) {
            return Err(damaged("its sections are out of order"));
        }
        let mut crc = Crc::new();
        let mut at = implicit;
        let mut piece = vec![0; PIECE];
        // The numbers of the footer are summed as well.
        let end = footer_at + 32;
        while at < end {
            let count = PIECE.min(usize::try_from(end - at).unwrap_or(PIECE));
            let piece = piece.get_mut(..count).unwrap_or_default();
            file.read_exact_at(piece, at)?;
            crc.update(piece);
            at += count as u64;
        }
        if crc.sum().to_le_bytes() != sum {
            return Err(damaged("its checksum is wrong"));
        }
        let table = read_range(&file, table_at, footer_at)?;
        let table = parse_table(&table).ok_or_else(|| damaged("its table is damaged"))?;
        Ok(Self {
            file,
            table,
            implicit: (implicit, small),
            small: (small, table_at),
            records,
            cache: Mutex::default(),
        })
    }

    /// How many paths it has.
    pub(in crate::layer) fn records(&self) -> u64 {
        self.records
    }

    /// What the layer says of a path.
    pub(in crate::layer) fn get(&self, path: &TreePath) -> io::Result<Option<Record>> {
        let key = path.to_key();
        let Some(number) = self.block_of(&key) else { return Ok(None) };
        find(&self.block(number)?, &key)
    }

    /// The directories that the layer goes through without an entry for them, in order.
    pub(in crate::layer) fn implicit(&self) -> io::Result<Vec<TreePath>> {
        let bytes = read_range(&self.file, self.implicit.0, self.implicit.1)?;
        let mut rest = bytes.as_slice();
        let mut paths = Vec::new();
        while !rest.is_empty() {
            let key = take_bytes(&mut rest).ok_or_else(|| damaged("its list of directories is damaged"))?;
            paths.push(TreePath::from_key(key).map_err(|_| damaged("it has a path that is none"))?);
        }
        Ok(paths)
    }

    /// The content of a file, if it was kept.
    pub(in crate::layer) fn small(&self, path: &TreePath) -> io::Result<Option<Vec<u8>>> {
        let bytes = read_range(&self.file, self.small.0, self.small.1)?;
        let key = path.to_key();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (Some(found), Some(content)) = (take_bytes(&mut rest), take_bytes(&mut rest)) else {
                return Err(damaged("its files are damaged"));
            };
            if found == key {
                return Ok(Some(content.to_vec()));
            }
        }
        Ok(None)
    }

    /// The block that a key is in, if it is in any.
    fn block_of(&self, key: &[u8]) -> Option<usize> {
        self.table.partition_point(|block| *block.first <= *key).checked_sub(1)
    }

    fn block(&self, number: usize) -> io::Result<Arc<[u8]>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = cache.iter().rposition(|(cached, _)| *cached == number)
            && let Some(found) = cache.remove(at)
        {
            cache.push_back(found.clone());
            return Ok(found.1);
        }
        let block = self.load(number)?;
        if cache.len() >= CACHED_BLOCKS {
            cache.pop_front();
        }
        cache.push_back((number, Arc::clone(&block)));
        Ok(block)
    }

    fn load(&self, number: usize) -> io::Result<Arc<[u8]>> {
        let at = self.table.get(number).ok_or_else(|| damaged("it has no such block"))?;
        let bytes = read_range(&self.file, at.offset, at.offset + u64::from(at.length))?;
        if libdeflater::crc32(&bytes) != at.crc {
            return Err(damaged("a block's checksum is wrong"));
        }
        Ok(bytes.into())
    }
}

fn read_range(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = end.checked_sub(start).and_then(|length| usize::try_from(length).ok());
    let mut bytes = vec![0; length.ok_or_else(|| damaged("a section has no length"))?];
    file.read_exact_at(&mut bytes, start).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => error,
    })?;
    Ok(bytes)
}

fn parse_table(mut bytes: &[u8]) -> Option<Vec<BlockAt>> {
    let mut table = Vec::new();
    while !bytes.is_empty() {
        let first = take_bytes(&mut bytes)?.into();
        let offset = take_number(&mut bytes)?;
        let length = u32::try_from(take_number(&mut bytes)?).ok()?;
        let crc = u32::try_from(take_number(&mut bytes)?).ok()?;
        offset.checked_add(length.into())?;
        table.push(BlockAt { first, offset, length, crc });
    }
    Some(table)
}

/// A record in a block, its key not put together.
struct Stored<'a> {
    /// How many bytes of the key are those of the key before it.
    shared: usize,
    /// The rest of the key.
    suffix: &'a [u8],
    record: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Takes a record off the front of a block.
    fn take(block: &mut &'a [u8]) -> io::Result<Self> {
        let stored = (|| {
            let shared = usize::try_from(take_number(block)?).ok()?;
            Some(Self { shared, suffix: take_bytes(block)?, record: take_bytes(block)? })
        })();
        stored.ok_or_else(|| damaged("a record is damaged"))
    }

    fn parse(&self) -> io::Result<Record> {
        Record::parse(self.record).ok_or_else(|| damaged("a record is damaged"))
    }
}

/// Looks for a key in a block. Keys are compared as they are stored: while they are less than the one that is
/// looked for, `matched` is how many first bytes the last one has in common with it.
fn find(mut block: &[u8], key: &[u8]) -> io::Result<Option<Record>> {
    let mut matched = 0;
    while !block.is_empty() {
        let stored = Stored::take(&mut block)?;
        match stored.shared.cmp(&matched) {
            // Different from the last key before that was from ours: greater than both.
            Ordering::Less => return Ok(None),
            // Still different from ours where the last key was.
            Ordering::Greater => continue,
            Ordering::Equal => {}
        }
        let rest = key.get(matched..).unwrap_or_default();
        match stored.suffix.cmp(rest) {
            Ordering::Less => matched += stored.suffix.iter().zip(rest).take_while(|(a, b)| a == b).count(),
            Ordering::Equal => return stored.parse().map(Some),
            Ordering::Greater => return Ok(None),
        }
    }
    Ok(None)
}

/// Goes through an index in order.
#[derive(Debug)]
pub(in crate::layer) struct Cursor {
    index: Arc<Index>,
    /// The block that comes after the present one.
    next_block: usize,
    block: Option<Arc<[u8]>>,
    /// Where in the block the next record is.
    at: usize,
    /// The key of the last record.
    key: Vec<u8>,
    /// The last record, if a seek has found it and nobody has taken it.
    found: Option<Record>,
}

impl Cursor {
    /// A cursor before the first record whose key is `key` or greater.
    pub(in crate::layer) fn at(index: &Arc<Index>, key: &[u8]) -> io::Result<Self> {
        let index = Arc::clone(index);
        let mut cursor = Self { index, next_block: 0, block: None, at: 0, key: Vec::new(), found: None };
        cursor.seek(key)?;
        Ok(cursor)
    }

    /// Goes to the first record whose key is `key` or greater.
    pub(in crate::layer) fn seek(&mut self, key: &[u8]) -> io::Result<()> {
        let number = self.index.block_of(key).unwrap_or(0);
        // Going on within the block saves decoding it again.
        let in_block = self.block.is_some() && number + 1 == self.next_block && *self.key < *key;
        if !in_block {
            self.next_block = number;
            self.block = None;
        }
        self.found = None;
        while self.found.is_none() && self.advance(|found| *found >= *key)? {}
        Ok(())
    }

    /// The next record and its key.
    pub(in crate::layer) fn next(&mut self) -> io::Result<Option<(Vec<u8>, Record)>> {
        if self.found.is_none() {
            self.advance(|_| true)?;
        }
        Ok(self.found.take().map(|record| (self.key.clone(), record)))
    }

    /// Goes to the next record, and reads it if its key is wanted. `false` at the end.
    fn advance(&mut self, wanted: impl FnOnce(&[u8]) -> bool) -> io::Result<bool> {
        let block = loop {
            if let Some(block) = &self.block
                && self.at < block.len()
            {
                break Arc::clone(block);
            }
            if self.next_block >= self.index.table.len() {
                return Ok(false);
            }
            self.block = Some(self.index.block(self.next_block)?);
            self.next_block += 1;
            self.at = 0;
            self.key.clear();
        };
        let mut rest = block.get(self.at..).unwrap_or_default();
        let stored = Stored::take(&mut rest)?;
        self.key.truncate(stored.shared);
        self.key.extend_from_slice(stored.suffix);
        self.at = block.len() - rest.len();
        if wanted(&self.key) {
            self.found = Some(stored.parse()?);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Change;
    use crate::layer::compression::tests::noise;
    use crate::layer::index::IndexBuilder;

    /// An index of many blocks, and the paths that are in it.
    fn large() -> (tempfile::TempDir, Arc<Index>, Vec<TreePath>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut paths: Vec<TreePath> = noise(1, 90_000)
            .chunks(9)
            .map(|bytes| {
                // Few letters, so that keys have much in common.
                let name: Vec<u8> = bytes.iter().map(|byte| b"abc/"[usize::from(byte % 4)]).collect();
                TreePath::clean(&name).unwrap()
            })
            .collect();
        let mut builder = IndexBuilder::new(&store);
        for path in &paths {
            builder.add(&Change::Remove(path.clone())).unwrap();
        }
        builder.finish(&Digest::of(b"")).unwrap();
        let index = Index::open(&store, &Digest::of(b"")).unwrap().unwrap();
        assert!(index.table.len() > 3, "{} blocks", index.table.len());
        paths.extend(paths.clone().iter().flat_map(TreePath::ancestors).filter(|path| !path.is_root()));
        paths.sort();
        paths.dedup();
        (directory, Arc::new(index), paths)
    }

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let (_directory, index, paths) = large();
        assert_eq!(index.records(), paths.len() as u64);
        for path in &paths {
            assert!(index.get(path).unwrap().is_some(), "{path}");
        }
        for path in paths.iter().step_by(3) {
            for near in ["!", "a", "b", "c", "c!", "~"] {
                let near = TreePath::new([path.as_bytes(), near.as_bytes()].concat()).unwrap();
                assert_eq!(index.get(&near).unwrap().is_some(), paths.binary_search(&near).is_ok(), "{near}");
            }
        }
    }

    #[test]
    fn seeks_to_the_next_greater_key() {
        let (_directory, index, paths) = large();
        let keys: Vec<Vec<u8>> = paths.iter().map(TreePath::to_key).collect();
        let mut cursor = Cursor::at(&index, b"").unwrap();
        let all: Vec<Vec<u8>> = std::iter::from_fn(|| cursor.next().unwrap().map(|(key, _)| key)).collect();
        assert!(all == keys);
        // Forwards and backwards, near and far.
        for number in
            noise(2, 4000).chunks(2).map(|bytes| usize::from(bytes[0]) * 256 + usize::from(bytes[1]))
        {
            let mut key = keys[number % keys.len()].clone();
            key.extend_from_slice(&b"~"[..number % 2]);
            cursor.seek(&key).unwrap();
            let expected = keys.partition_point(|known| *known < key);
            for key in keys[expected..].iter().take(number % 3) {
                assert_eq!(cursor.next().unwrap().unwrap().0, *key);
            }
        }
    }
}
