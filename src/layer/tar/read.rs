//! A tar archive as a stream of raw entries with their content.

use std::io::{self, BufRead, ErrorKind};

use base64::Engine as _;
use tar::Header;

use super::sparse::{ContentMap, Found, Map, Piece, SparseRecords};
use super::{BLOCK, MAX_EXTENSION, decode, kind, padding, pax};
use crate::layer::entry::{MODE_BITS, Xattrs};
use crate::layer::error::LayerError;

/// What holes of sparse files are read from.
static HOLE: [u8; 32 * 1024] = [0; 32 * 1024];

/// An entry as the archive has it: names are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::layer) struct RawEntry {
    /// The byte of the archive at which its header is.
    pub offset: u64,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub typeflag: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    /// Size of the content in bytes, holes included.
    pub size: u64,
    pub device: (u32, u32),
    pub xattrs: Xattrs,
}

/// Reads an archive from a buffered source. Memory is bounded: by an extension's 1 MiB and a sparse file's
/// map.
#[derive(Debug)]
pub(in crate::layer) struct TarReader<R> {
    source: R,
    /// What the source is called in messages.
    what: &'static str,
    /// Bytes taken from the source.
    offset: u64,
    body: Body,
    ended: bool,
}

/// What is left of the present entry's content.
#[derive(Debug, Default)]
struct Body {
    /// Where in the file the next byte is.
    position: u64,
    size: u64,
    /// The pieces that are stored, the next one first to come.
    pieces: std::vec::IntoIter<Piece>,
    /// The piece that is being read, without what was read of it.
    piece: Option<Piece>,
    /// Bytes of padding behind the content.
    padding: usize,
}

impl Body {
    fn new(pieces: Vec<Piece>, size: u64, padding: usize) -> Self {
        let mut body = Self { position: 0, size, pieces: pieces.into_iter(), piece: None, padding };
        body.next_piece();
        body
    }

    fn next_piece(&mut self) {
        self.piece = self.pieces.by_ref().find(|piece| piece.length > 0);
    }

    /// Bytes of the archive that the rest of the content takes.
    fn stored(&self) -> u64 {
        self.piece.iter().chain(self.pieces.as_slice()).map(|piece| piece.length).sum()
    }
}

/// What extension headers say of the entry behind them.
#[derive(Debug, Default)]
struct Pending {
    gnu_name: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    pax: Option<PaxRecords>,
}

/// The records that mean something here.
#[derive(Debug, Default)]
struct PaxRecords {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<i64>,
    xattrs: Xattrs,
    sparse: SparseRecords,
}

impl<R: BufRead> TarReader<R> {
    /// Reads an archive from `source`, which is called `what` in messages.
    pub(in crate::layer) fn new(source: R, what: &'static str) -> Self {
        Self { source, what, offset: 0, body: Body::default(), ended: false }
    }

    /// The source, for what lies behind the archive's end.
    pub(in crate::layer) fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// How many bytes of the present entry's content were not read yet.
    pub(in crate::layer) fn remaining(&self) -> u64 {
        self.body.size - self.body.position
    }

    /// Goes to the next entry, over what was not read of the present one.
    pub(in crate::layer) fn next_entry(&mut self) -> Result<Option<RawEntry>, LayerError> {
        let mut pending = Pending::default();
        while !self.ended {
            self.skip_body()?;
            let offset = self.offset;
            let Some(block) = self.header_block()? else {
                self.ended = true;
                break;
            };
            if !decode::checksum_fits(&block) {
                return Err(LayerError::malformed(offset, "a header's checksum is wrong"));
            }
            let header = Header::from_byte_slice(&block);
            let typeflag = header.as_old().linkflag[0];
            match typeflag {
                kind::PAX => pending.pax = Some(self.pax_records(header)?),
                // Nothing in a layer is meant to hold for the entries behind it.
                kind::PAX_GLOBAL => self.skip_extension(header)?,
                kind::GNU_LONG_NAME => pending.gnu_name = Some(self.long_name(header)?),
                kind::GNU_LONG_LINK => pending.gnu_link = Some(self.long_name(header)?),
                _ => return self.entry(offset, header, pending).map(Some),
            }
        }
        if pending.pax.is_some() || pending.gnu_name.is_some() || pending.gnu_link.is_some() {
            return Err(LayerError::malformed(self.offset, "it ends where an entry was announced"));
        }
        Ok(None)
    }

    /// The next header, or `None` at the end: two blocks of NUL, or one or none before the source's end.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if !decode::is_zero(&block) {
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if !decode::is_zero(&second) => {
                Err(LayerError::malformed(self.offset - BLOCK as u64, "a header follows a block of NUL"))
            }
            _ => Ok(None),
        }
    }

    fn entry(&mut self, offset: u64, header: &Header, pending: Pending) -> Result<RawEntry, LayerError> {
        let malformed = |reason: &str| LayerError::malformed(offset, reason);
        let dialect = decode::dialect(header);
        let fields = header.as_old();
        let pax = pending.pax.unwrap_or_default();
        let mut name = pending.gnu_name.or(pax.path).unwrap_or_else(|| decode::name(header, dialect));
        let link = pending.gnu_link.or(pax.link).unwrap_or_else(|| decode::text(&fields.linkname).to_vec());
        let number = |field: &[u8], what: &str| {
            decode::number(field)
                .ok_or_else(|| LayerError::malformed(offset, format!("a header's {what} is no number")))
        };
        let id = |record: Option<u32>, field: &[u8], what: &str| match record {
            Some(id) => Ok(id),
            None => u32::try_from(number(field, what)?)
                .map_err(|_| LayerError::malformed(offset, format!("a header's {what} is out of range"))),
        };
        let typeflag = match fields.linkflag[0] {
            kind::OLD_FILE if name.ends_with(b"/") => kind::DIRECTORY,
            kind::OLD_FILE | kind::CONTIGUOUS => kind::FILE,
            other => other,
        };
        let has_content = !matches!(
            typeflag,
            kind::HARDLINK | kind::SYMLINK | kind::CHAR | kind::BLOCK | kind::DIRECTORY | kind::FIFO
        );
        let stored = match pax.size {
            _ if !has_content => 0,
            Some(size) => size,
            None => u64::try_from(number(&fields.size, "size")?)
                .map_err(|_| malformed("a header's size is negative"))?,
        };
        let device = match decode::number(header.as_bytes().get(329..337).unwrap_or_default())
            .zip(decode::number(header.as_bytes().get(337..345).unwrap_or_default()))
        {
            Some((major, minor)) if matches!(typeflag, kind::CHAR | kind::BLOCK) => {
                let part =
                    |number| u32::try_from(number).map_err(|_| malformed("a device number is out of range"));
                (part(major)?, part(minor)?)
            }
            None if matches!(typeflag, kind::CHAR | kind::BLOCK) => {
                return Err(malformed("a device number is no number"));
            }
            _ => (0, 0),
        };
        let sparse_size = pax.sparse.size;
        let sparse = pax.sparse.find().map_err(malformed)?;
        let size = match (typeflag, sparse) {
            (kind::GNU_SPARSE, _) => self.gnu_sparse_body(offset, header, stored)?,
            (_, Found::None) => {
                self.body = Body::new(vec![Piece { offset: 0, length: stored }], stored, padding(stored));
                stored
            }
            (kind::FILE, found) => {
                name = pax.sparse.name.unwrap_or(name);
                let size = sparse_size.ok_or_else(|| malformed("a sparse file has no size"))?;
                self.pax_sparse_body(offset, found, size, stored)?
            }
            _ => return Err(malformed("an entry without content is a sparse file")),
        };
        Ok(RawEntry {
            offset,
            name,
            link,
            typeflag: if typeflag == kind::GNU_SPARSE { kind::FILE } else { typeflag },
            mode: u32::try_from(number(&fields.mode, "mode")? & i64::from(MODE_BITS)).unwrap_or(0),
            uid: id(pax.uid, &fields.uid, "uid")?,
            gid: id(pax.gid, &fields.gid, "gid")?,
            mtime: pax.mtime.map_or_else(|| number(&fields.mtime, "time"), Ok)?,
            size,
            device,
            xattrs: pax.xattrs,
        })
    }

    /// An old GNU sparse file: the map begins in the header and goes on in blocks before the content.
    fn gnu_sparse_body(&mut self, offset: u64, header: &Header, stored: u64) -> Result<u64, LayerError> {
        let malformed = |reason: &str| LayerError::malformed(offset, reason);
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file has no GNU header"))?;
        let size = decode::number(&gnu.realsize).and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| malformed("a sparse file has no size"))?;
        let mut map = Map::default();
        map.push_headers(&gnu.sparse).map_err(malformed)?;
        let mut extended = gnu.isextended[0] != 0;
        while extended {
            let block = self.block()?.ok_or_else(|| self.cut_off())?;
            extended = map.push_extension(&block).map_err(malformed)?;
        }
        self.sparse_body(offset, map, size, stored, padding(stored))
    }

    fn pax_sparse_body(
        &mut self,
        offset: u64,
        found: Found,
        size: u64,
        stored: u64,
    ) -> Result<u64, LayerError> {
        let malformed = |reason: &str| LayerError::malformed(offset, reason);
        let (map, in_map) = match found {
            Found::Map(map) => (map, 0),
            Found::None | Found::InContent => {
                let mut map = ContentMap::default();
                let mut read = 0_u64;
                let mut complete = false;
                while !complete {
                    if read + BLOCK as u64 > stored {
                        return Err(malformed("the map of a sparse file is longer than its content"));
                    }
                    let block = self.block()?.ok_or_else(|| self.cut_off())?;
                    read += BLOCK as u64;
                    complete = map.take(&block).map_err(malformed)?;
                }
                (map.map().map_err(malformed)?, read)
            }
        };
        self.sparse_body(offset, map, size, stored - in_map, padding(stored))
    }

    fn sparse_body(
        &mut self,
        offset: u64,
        map: Map,
        size: u64,
        stored: u64,
        padding: usize,
    ) -> Result<u64, LayerError> {
        let map = map.check(size, stored).map_err(|reason| LayerError::malformed(offset, reason))?;
        self.body = Body::new(map.pieces, map.size, padding);
        Ok(map.size)
    }

    fn pax_records(&mut self, header: &Header) -> Result<PaxRecords, LayerError> {
        let offset = self.offset;
        let bytes = self.extension(header)?;
        let mut records = PaxRecords::default();
        for record in pax::records(&bytes) {
            let (key, value) = record
                .ok_or_else(|| LayerError::malformed(offset, "a PAX record is not `LENGTH KEY=VALUE`"))?;
            records.take(key, value).map_err(|reason| {
                let key = String::from_utf8_lossy(key);
                LayerError::malformed(offset, format!("PAX record `{key}` {reason}"))
            })?;
        }
        Ok(records)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        Ok(decode::text(&self.extension(header)?).to_vec())
    }

    /// The content of an extension header, whole.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let size = self.extension_size(header)?;
        let size = usize::try_from(size).ok().filter(|&size| size <= MAX_EXTENSION).ok_or_else(|| {
            LayerError::malformed(
                self.offset,
                format!("an extension header has {size} bytes, at most 1 MiB is read"),
            )
        })?;
        let mut bytes = vec![0; size];
        self.read_exact(&mut bytes)?;
        let mut rest = [0; BLOCK];
        self.read_exact(rest.get_mut(..padding(size as u64)).unwrap_or_default())?;
        Ok(bytes)
    }

    fn skip_extension(&mut self, header: &Header) -> Result<(), LayerError> {
        let size = self.extension_size(header)?;
        self.body = Body::new(vec![Piece { offset: 0, length: size }], size, padding(size));
        Ok(())
    }

    fn extension_size(&self, header: &Header) -> Result<u64, LayerError> {
        decode::number(&header.as_old().size)
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| LayerError::malformed(self.offset, "an extension header's size is no number"))
    }

    /// The next block; `None` at the source's end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(space) = block.get_mut(filled..).filter(|space| !space.is_empty()) {
            match self.source.read(space) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.cut_off()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Source(self.what, error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), LayerError> {
        match self.source.read_exact(bytes) {
            Ok(()) => {
                self.offset += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.cut_off()),
            Err(error) => Err(LayerError::Source(self.what, error)),
        }
    }

    fn cut_off(&self) -> LayerError {
        LayerError::malformed(self.offset, "it is cut off")
    }

    /// Goes over the rest of the content, and its padding.
    fn skip_body(&mut self) -> Result<(), LayerError> {
        let body = std::mem::take(&mut self.body);
        let mut left = body.stored().saturating_add(body.padding as u64);
        while left > 0 {
            let available = match self.source.fill_buf() {
                Ok([]) => return Err(self.cut_off()),
                Ok(bytes) => bytes.len(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(LayerError::Source(self.what, error)),
            };
            let count = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.source.consume(count);
            self.offset += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    /// The next bytes of the present entry's content; none at its end.
    pub(in crate::layer) fn fill_content(&mut self) -> io::Result<&[u8]> {
        let left = self.remaining();
        if left == 0 {
            return Ok(&[]);
        }
        let (limit, in_hole) = match self.body.piece {
            Some(piece) if piece.offset <= self.body.position => (piece.length, false),
            Some(piece) => (piece.offset - self.body.position, true),
            None => (left, true),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if in_hole {
            return Ok(HOLE.get(..limit).unwrap_or(&HOLE));
        }
        let bytes = self.source.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the archive is cut off"));
        }
        Ok(bytes.get(..limit).unwrap_or(bytes))
    }

    /// Goes over `count` bytes that [`TarReader::fill_content`] gave.
    pub(in crate::layer) fn consume_content(&mut self, count: usize) {
        let count_64 = count as u64;
        if let Some(piece) = &mut self.body.piece
            && piece.offset <= self.body.position
        {
            self.source.consume(count);
            self.offset += count_64;
            piece.offset += count_64;
            piece.length = piece.length.saturating_sub(count_64);
            if piece.length == 0 {
                self.body.next_piece();
            }
        }
        self.body.position = self.body.position.saturating_add(count_64).min(self.body.size);
    }
}

impl PaxRecords {
    /// Takes a record. One without a value means what the header says, so it takes back one before it.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let value = Some(value).filter(|value| !value.is_empty());
        let text = |value: Option<&[u8]>| match value {
            Some(value) if value.contains(&0) => Err("has a NUL"),
            value => Ok(value.map(<[u8]>::to_vec)),
        };
        let id = |value: Option<&[u8]>| {
            value
                .map(|value| {
                    pax::decimal(value).and_then(|id| u32::try_from(id).ok()).ok_or("is out of range")
                })
                .transpose()
        };
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => {
                let size = value.map(|value| pax::decimal(value).filter(|&size| i64::try_from(size).is_ok()));
                self.size = size.map(|size| size.ok_or("is out of range")).transpose()?;
            }
            b"uid" => self.uid = id(value)?,
            b"gid" => self.gid = id(value)?,
            b"mtime" => {
                self.mtime = value.map(|value| pax::seconds(value).ok_or("is no time")).transpose()?
            }
            _ => {
                // An attribute may be empty.
                let value = value.unwrap_or_default();
                if let Some(name) = key.strip_prefix(pax::XATTR) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(pax::XATTR_LIBARCHIVE) {
                    let name: Vec<u8> = percent_encoding::percent_decode(name).collect();
                    let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
                    let trimmed = value.strip_suffix(b"==").or(value.strip_suffix(b"=")).unwrap_or(value);
                    let value = engine.decode(trimmed).map_err(|_| "is not base64")?;
                    // libarchive writes both forms; they say the same.
                    self.xattrs.entry(name).or_insert(value);
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value)?;
                }
            }
        }
        Ok(())
    }
}
