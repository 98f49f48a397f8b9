//! Sorts any number of records in bounded memory: runs that fit are sorted and written to a nameless file,
//! then merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::store::{Store, StoreError};

/// How many bytes of records are held before they are written out. Some 80 000 entries: most layers never
/// are.
const MEMORY: usize = 8 << 20;
/// How many bytes all runs' read buffers have together, and each at least and at most.
const READ_MEMORY: usize = 8 << 20;
const READ_LEAST: usize = 4 << 10;
const READ_MOST: usize = 256 << 10;
/// Bytes in front of a record in a run: its length, its key's length, its number.
const HEAD: usize = 16;

/// A record with its place in the order: by key, then by number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sorted {
    pub key: Vec<u8>,
    /// Counts the records as they came.
    pub number: u64,
    pub value: Vec<u8>,
}

/// Collects records.
#[derive(Debug)]
pub(super) struct Sorter {
    store: Store,
    memory: usize,
    records: Vec<Sorted>,
    held: usize,
    count: u64,
    runs: Option<Runs>,
}

#[derive(Debug)]
struct Runs {
    file: BufWriter<File>,
    written: u64,
    /// Where each run begins and ends.
    bounds: Vec<(u64, u64)>,
}

impl Sorter {
    pub(super) fn new(store: &Store) -> Self {
        Self::with_memory(store, MEMORY)
    }

    fn with_memory(store: &Store, memory: usize) -> Self {
        Self { store: store.clone(), memory, records: Vec::new(), held: 0, count: 0, runs: None }
    }

    pub(super) fn add(&mut self, key: Vec<u8>, value: Vec<u8>) -> io::Result<()> {
        self.held += key.len() + value.len() + size_of::<Sorted>();
        self.records.push(Sorted { key, number: self.count, value });
        self.count += 1;
        if self.held >= self.memory { self.spill() } else { Ok(()) }
    }

    /// All records in order.
    pub(super) fn finish(mut self) -> io::Result<Merge> {
        let Some(_) = &self.runs else {
            self.records.sort_unstable();
            return Ok(Merge {
                sources: vec![Source::Memory(self.records.into_iter())],
                heap: BinaryHeap::new(),
                started: false,
            });
        };
        self.spill()?;
        let runs = self.runs.take().ok_or_else(|| io::Error::other("no runs"))?;
        let file = Arc::new(runs.file.into_inner().map_err(io::IntoInnerError::into_error)?);
        let buffer = (READ_MEMORY / runs.bounds.len().max(1)).clamp(READ_LEAST, READ_MOST);
        let run = |(start, end)| {
            Source::Run(Run {
                file: Arc::clone(&file),
                next: start,
                end,
                buffer: Vec::new(),
                at: 0,
                size: buffer,
            })
        };
        Ok(Merge {
            sources: runs.bounds.into_iter().map(run).collect(),
            heap: BinaryHeap::new(),
            started: false,
        })
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.records.sort_unstable();
        let runs = match &mut self.runs {
            Some(runs) => runs,
            none => {
                let file = self.store.scratch_file().map_err(StoreError::into_io)?;
                none.insert(Runs {
                    file: BufWriter::with_capacity(1 << 18, file),
                    written: 0,
                    bounds: Vec::new(),
                })
            }
        };
        let start = runs.written;
        for record in self.records.drain(..) {
            let too_long = |_| io::Error::new(ErrorKind::InvalidData, "a record is larger than 4 GiB");
            let length = u32::try_from(record.key.len() + record.value.len()).map_err(too_long)?;
            let key_length = u32::try_from(record.key.len()).map_err(too_long)?;
            runs.file.write_all(&length.to_le_bytes())?;
            runs.file.write_all(&key_length.to_le_bytes())?;
            runs.file.write_all(&record.number.to_le_bytes())?;
            runs.file.write_all(&record.key)?;
            runs.file.write_all(&record.value)?;
            runs.written += HEAD as u64 + u64::from(length);
        }
        runs.bounds.push((start, runs.written));
        self.held = 0;
        Ok(())
    }
}

/// The records of all runs in order.
#[derive(Debug)]
pub(super) struct Merge {
    sources: Vec<Source>,
    /// The next record of each source.
    heap: BinaryHeap<Reverse<(Sorted, usize)>>,
    started: bool,
}

#[derive(Debug)]
enum Source {
    Memory(std::vec::IntoIter<Sorted>),
    Run(Run),
}

impl Merge {
    pub(super) fn next(&mut self) -> io::Result<Option<Sorted>> {
        if let [Source::Memory(records)] = self.sources.as_mut_slice() {
            return Ok(records.next());
        }
        if !self.started {
            self.started = true;
            for number in 0..self.sources.len() {
                self.refill(number)?;
            }
        }
        let Some(Reverse((record, number))) = self.heap.pop() else { return Ok(None) };
        self.refill(number)?;
        Ok(Some(record))
    }

    fn refill(&mut self, number: usize) -> io::Result<()> {
        let next = match self.sources.get_mut(number) {
            Some(Source::Run(run)) => run.next()?,
            Some(Source::Memory(records)) => records.next(),
            None => None,
        };
        self.heap.extend(next.map(|record| Reverse((record, number))));
        Ok(())
    }
}

/// A run that is read back.
#[derive(Debug)]
struct Run {
    file: Arc<File>,
    /// Where in the file the bytes behind the buffer are.
    next: u64,
    end: u64,
    buffer: Vec<u8>,
    at: usize,
    size: usize,
}

impl Run {
    fn next(&mut self) -> io::Result<Option<Sorted>> {
        if self.at == self.buffer.len() && self.next == self.end {
            return Ok(None);
        }
        let head = self.take(HEAD)?;
        let (lengths, number) = head.split_at(8);
        let (length, key_length) = lengths.split_at(4);
        let number_of =
            |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        let (length, key_length, number) = (number_of(length), number_of(key_length), number_of(number));
        let size = |number| usize::try_from(number).map_err(io::Error::other);
        let mut key = self.take(size(length)?)?;
        let value = key.split_off(size(key_length)?.min(key.len()));
        Ok(Some(Sorted { key, number, value }))
    }

    fn take(&mut self, size: usize) -> io::Result<Vec<u8>> {
        if self.buffer.len() - self.at < size {
            self.buffer.drain(..self.at);
            self.at = 0;
            let have = self.buffer.len();
            let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
            let more = (self.size.max(size) - have).min(left);
            self.buffer.resize(have + more, 0);
            self.file.read_exact_at(self.buffer.get_mut(have..).unwrap_or_default(), self.next)?;
            self.next += more as u64;
        }
        let taken = self.buffer.get(self.at..self.at + size);
        let taken =
            taken.ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, "a run is cut off"))?.to_vec();
        self.at += size;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::compression::tests::noise;

    fn sorted(memory: usize, records: &[(Vec<u8>, Vec<u8>)]) -> Vec<Sorted> {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let mut sorter = Sorter::with_memory(&store, memory);
        for (key, value) in records {
            sorter.add(key.clone(), value.clone()).unwrap();
        }
        let mut merge = sorter.finish().unwrap();
        std::iter::from_fn(|| merge.next().unwrap()).collect()
    }

    #[test]
    fn the_order_does_not_depend_on_the_memory() {
        let records: Vec<_> = (0..5000)
            .map(|number| {
                let random = noise(number, 40);
                // Equal keys are common; some values are larger than any buffer.
                let value = if number % 1000 == 7 {
                    vec![1; 50_000]
                } else {
                    random[..usize::from(random[39] % 39)].to_vec()
                };
                (random[..usize::from(random[38] % 3)].to_vec(), value)
            })
            .collect();
        let mut expected: Vec<_> = records
            .iter()
            .zip(0..)
            .map(|((key, value), number)| Sorted { key: key.clone(), number, value: value.clone() })
            .collect();
        expected.sort();
        assert!(sorted(usize::MAX, &records) == expected);
        for memory in [1, 1000, 60_000] {
            assert!(sorted(memory, &records) == expected, "memory {memory}");
        }
        assert!(sorted(1, &[]).is_empty());
    }
}
