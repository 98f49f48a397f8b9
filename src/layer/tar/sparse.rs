//! Sparse files: GNU's old headers, and versions 0.0, 0.1 and 1.0 in PAX records (GNU tar manual, "Sparse
//! Formats").

use tar::{GnuExtSparseHeader, GnuSparseHeader};

use super::{decode, pax};

/// The most pieces a sparse file may have; a map of them is 2 MiB.
const MAX_PIECES: usize = 1 << 17;

/// A piece of a file that is in the archive; between pieces are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where in the file.
    pub offset: u64,
    /// How long, in bytes.
    pub length: u64,
}

/// Where the pieces of a sparse file lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Map {
    /// In ascending order, without overlap.
    pub pieces: Vec<Piece>,
    /// The file's size, holes included.
    pub size: u64,
}

/// Why a map cannot be used.
pub(super) type MapError = &'static str;

impl Map {
    /// Appends a piece.
    pub(super) fn push(&mut self, offset: u64, length: u64) -> Result<(), MapError> {
        if self.pieces.len() >= MAX_PIECES {
            return Err("a sparse file has too many pieces");
        }
        self.pieces.push(Piece { offset, length });
        Ok(())
    }

    /// Checks the whole: `stored` is how many bytes the archive has of the file.
    pub(super) fn check(mut self, size: u64, stored: u64) -> Result<Self, MapError> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for piece in &self.pieces {
            if piece.offset < end {
                return Err("the pieces of a sparse file overlap");
            }
            end = piece.offset.checked_add(piece.length).ok_or("a piece of a sparse file has no end")?;
            sum += piece.length;
        }
        if end > size {
            return Err("a piece of a sparse file lies behind its end");
        }
        if sum != stored {
            return Err("the pieces of a sparse file are not what is stored of it");
        }
        self.size = size;
        Ok(self)
    }

    /// Appends the pieces of an old GNU header or of its extension. Says whether the list ended in it.
    pub(super) fn push_headers(&mut self, headers: &[GnuSparseHeader]) -> Result<bool, MapError> {
        for header in headers {
            // An unused place is all NUL; a length of 0 with an offset is a piece that marks the end of the
            // file.
            if header.offset.first() == Some(&0) || header.numbytes.first() == Some(&0) {
                return Ok(true);
            }
            self.push(field(&header.offset)?, field(&header.numbytes)?)?;
        }
        Ok(false)
    }

    /// Appends the pieces of an extension block. Says whether another follows.
    pub(super) fn push_extension(&mut self, block: &[u8]) -> Result<bool, MapError> {
        let mut extension = GnuExtSparseHeader::new();
        extension
            .as_mut_bytes()
            .copy_from_slice(block.get(..super::BLOCK).ok_or("a sparse header is cut off")?);
        self.push_headers(extension.sparse())?;
        Ok(extension.is_extended())
    }
}

fn field(field: &[u8]) -> Result<u64, MapError> {
    decode::number(field).and_then(|number| u64::try_from(number).ok()).ok_or("a sparse header has no number")
}

/// What PAX records say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    major: Option<u64>,
    minor: Option<u64>,
    /// The file's name; the entry's own is that of a directory for tars that do not know.
    pub name: Option<Vec<u8>>,
    /// The file's size, holes included.
    pub size: Option<u64>,
    /// Versions 0.0 and 0.1.
    pieces: Vec<u64>,
    has_map: bool,
    is_sparse: bool,
}

/// How the map of a sparse file is found.
pub(super) enum Found {
    /// The file is not sparse.
    None,
    /// The records have it.
    Map(Map),
    /// It is the beginning of the content.
    InContent,
}

impl SparseRecords {
    /// Takes a record whose key begins with `GNU.sparse.`, without that.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), MapError> {
        let number = || pax::decimal(value).ok_or("a record of a sparse file has no number");
        self.is_sparse = true;
        match key {
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"offset" | b"numbytes" => {
                // Pairs, offset first.
                let is_length = key == b"numbytes";
                if (self.pieces.len() % 2 == 1) != is_length || self.has_map {
                    return Err("the records of a sparse file are out of order");
                }
                self.push(number()?)?;
                return Ok(());
            }
            b"map" => {
                self.has_map = true;
                self.pieces.clear();
                for number in value.split(|&byte| byte == b',') {
                    self.push(pax::decimal(number).ok_or("the map of a sparse file has no number")?)?;
                }
            }
            // How many pieces follow; that they do is seen.
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: u64) -> Result<(), MapError> {
        if self.pieces.len() >= 2 * MAX_PIECES {
            return Err("a sparse file has too many pieces");
        }
        self.pieces.push(number);
        Ok(())
    }

    pub(super) fn find(&self) -> Result<Found, MapError> {
        match (self.major, self.minor) {
            (Some(1), Some(0) | None) => Ok(Found::InContent),
            (None | Some(0), _) if self.is_sparse => {
                let mut map = Map::default();
                for pair in self.pieces.chunks(2) {
                    let [offset, length] = pair else {
                        return Err("the map of a sparse file ends in an offset");
                    };
                    map.push(*offset, *length)?;
                }
                Ok(Found::Map(map))
            }
            (None, None) => Ok(Found::None),
            _ => Err("a sparse file is of an unknown version"),
        }
    }
}

/// The map at the beginning of a version 1.0 file's content, which comes in blocks: the number of pieces,
/// then offsets and lengths, each on a line.
#[derive(Debug, Default)]
pub(super) struct ContentMap {
    numbers: Vec<u64>,
    /// The digits of a number that goes on in the next block.
    digits: Vec<u8>,
    expected: Option<usize>,
}

impl ContentMap {
    /// Takes a block. Says whether the map is complete; the rest of that block is padding.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<bool, MapError> {
        for &byte in block {
            if self.is_complete() {
                return Ok(true);
            }
            match byte {
                b'\n' => {
                    let number =
                        pax::decimal(&self.digits).ok_or("the map of a sparse file has no number")?;
                    self.digits.clear();
                    if self.expected.is_some() {
                        self.numbers.push(number);
                    } else {
                        let pieces = usize::try_from(number).ok().filter(|&pieces| pieces <= MAX_PIECES);
                        self.expected = Some(2 * pieces.ok_or("a sparse file has too many pieces")?);
                    }
                }
                _ if self.digits.len() >= 20 => return Err("the map of a sparse file has no number"),
                digit => self.digits.push(digit),
            }
        }
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.expected.is_some_and(|expected| self.numbers.len() >= expected)
    }

    pub(super) fn map(self) -> Result<Map, MapError> {
        let mut map = Map::default();
        for pair in self.numbers.chunks_exact(2) {
            if let [offset, length] = pair {
                map.push(*offset, *length)?;
            }
        }
        Ok(map)
    }
}
