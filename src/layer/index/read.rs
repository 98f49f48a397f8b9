//! Reads an index, a block at a time.

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
        let block = self.block(number)?;
        let mut at = Position::default();
        while at.next_key(&block)? {
            match at.key.as_slice().cmp(&key) {
                std::cmp::Ordering::Less => at.skip(&block)?,
                std::cmp::Ordering::Equal => return at.record(&block).map(Some),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
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

/// A place in a block.
#[derive(Debug, Default)]
struct Position {
    at: usize,
    /// The key of the record before it.
    key: Vec<u8>,
}

impl Position {
    /// Reads the key of the record here. Its record comes next. `false` at the block's end.
    fn next_key(&mut self, block: &[u8]) -> io::Result<bool> {
        let mut rest = block.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(false);
        }
        let key =
            take_number(&mut rest).and_then(|shared| usize::try_from(shared).ok()).zip(take_bytes(&mut rest));
        let (shared, suffix) = key.ok_or_else(|| damaged("a key is damaged"))?;
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        self.at = block.len() - rest.len();
        Ok(true)
    }

    /// The record whose key was read.
    fn record(&mut self, block: &[u8]) -> io::Result<Record> {
        let mut rest = block.get(self.at..).unwrap_or_default();
        let record = Record::take(&mut rest).ok_or_else(|| damaged("a record is damaged"))?;
        self.at = block.len() - rest.len();
        Ok(record)
    }

    /// Passes over the record whose key was read.
    fn skip(&mut self, block: &[u8]) -> io::Result<()> {
        let mut rest = block.get(self.at..).unwrap_or_default();
        Record::skip(&mut rest).ok_or_else(|| damaged("a record is damaged"))?;
        self.at = block.len() - rest.len();
        Ok(())
    }
}

/// Goes through an index in order.
#[derive(Debug)]
pub(in crate::layer) struct Cursor {
    index: Arc<Index>,
    /// The block that comes after the present one.
    next_block: usize,
    block: Option<Arc<[u8]>>,
    position: Position,
    /// A record that a seek has found and nobody has taken.
    found: Option<Record>,
}

impl Cursor {
    /// A cursor before the first record whose key is `key` or greater.
    pub(in crate::layer) fn at(index: &Arc<Index>, key: &[u8]) -> io::Result<Self> {
        let mut cursor = Self {
            index: Arc::clone(index),
            next_block: 0,
            block: None,
            position: Position::default(),
            found: None,
        };
        cursor.seek(key)?;
        Ok(cursor)
    }

    /// Goes to the first record whose key is `key` or greater.
    pub(in crate::layer) fn seek(&mut self, key: &[u8]) -> io::Result<()> {
        let number = self.index.block_of(key).unwrap_or(0);
        // Going on within the block saves decoding it again.
        let in_block = self.block.is_some() && number + 1 == self.next_block && *self.position.key < *key;
        if !in_block {
            self.next_block = number;
            self.block = None;
            self.position = Position::default();
        }
        self.found = None;
        while let Some(block) = self.next_key()? {
            if *self.position.key >= *key {
                self.found = Some(self.position.record(&block)?);
                break;
            }
            self.position.skip(&block)?;
        }
        Ok(())
    }

    /// The next record and its key.
    pub(in crate::layer) fn next(&mut self) -> io::Result<Option<(Vec<u8>, Record)>> {
        let record = match self.found.take() {
            Some(record) => Some(record),
            None => match self.next_key()? {
                Some(block) => Some(self.position.record(&block)?),
                None => None,
            },
        };
        Ok(record.map(|record| (self.position.key.clone(), record)))
    }

    /// Reads the next key, and gives the block that its record is in.
    fn next_key(&mut self) -> io::Result<Option<Arc<[u8]>>> {
        loop {
            if let Some(block) = &self.block
                && self.position.next_key(block)?
            {
                return Ok(Some(Arc::clone(block)));
            }
            if self.next_block >= self.index.table.len() {
                return Ok(None);
            }
            self.block = Some(self.index.block(self.next_block)?);
            self.next_block += 1;
            self.position = Position::default();
        }
    }
}
