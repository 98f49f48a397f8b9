//! The compressors of layers, one block at a time.
//!
//! A layer is cut into blocks of a fixed size, and each block becomes a stream of its own: a gzip member (RFC
//! 1952, 2.2: "a gzip file consists of a series of members") or a Zstandard frame (RFC 8878, 3). Every reader
//! takes them as one stream. So blocks can be compressed in parallel, in any order, by any number of threads,
//! and the bytes are the same.

use std::io;

use libdeflater::{CompressionLvl, Compressor, crc32};

use super::error::LayerError;
use crate::image::media_type;

/// The version of the library that `libdeflate-sys` brings; a test compares it with `Cargo.lock`.
const LIBDEFLATE: &str = "1.26.1";
/// Changes when the same library at the same level would be used differently: block size, what is stored.
const SCHEME: u32 = 1;
/// The default levels: the best ratio that does not make compression the longest part of a build.
const GZIP_LEVEL: u8 = 4;
const ZSTD_LEVEL: u8 = 3;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, level 0 to 12 of libdeflate (0 stores).
    Gzip(u8),
    /// Zstandard, level 1 to 22.
    Zstd(u8),
}

impl Default for Compression {
    /// gzip, which every registry and runtime takes.
    fn default() -> Self {
        Self::Gzip(GZIP_LEVEL)
    }
}

impl Compression {
    /// Zstandard at its default level.
    pub const ZSTD: Self = Self::Zstd(ZSTD_LEVEL);

    /// The media type of a layer compressed so, in the OCI's terms.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::OCI_LAYER,
            Self::Gzip(_) => media_type::OCI_LAYER_GZIP,
            Self::Zstd(_) => media_type::OCI_LAYER_ZSTD,
        }
    }

    /// What the bytes of a layer depend on besides its content: two layers of one content and one identity
    /// are one blob.
    pub fn identity(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Gzip(level) => format!("gzip/libdeflate-{LIBDEFLATE}/level-{level}/scheme-{SCHEME}"),
            Self::Zstd(level) => {
                format!("zstd/libzstd-{}/level-{level}/scheme-{SCHEME}", zstd::zstd_safe::version_string())
            }
        }
    }

    /// Size in bytes of the blocks that are compressed on their own. Measured: gzip, whose window is 32 KiB,
    /// loses nothing at 1 MiB; Zstandard loses 2 % there and 0.5 % at 4 MiB.
    pub(super) fn block_size(self) -> usize {
        match self {
            Self::None | Self::Gzip(_) => 1 << 20,
            Self::Zstd(_) => 4 << 20,
        }
    }

    pub(super) fn check(self) -> Result<(), LayerError> {
        match self {
            Self::Gzip(level) if level > 12 => Err(LayerError::Level(level.into(), "gzip (0 to 12)")),
            Self::Zstd(level) if !(1..=22).contains(&level) => {
                Err(LayerError::Level(level.into(), "zstd (1 to 22)"))
            }
            _ => Ok(()),
        }
    }
}

/// Compresses blocks. Each thread has its own; what it holds depends on no block before.
#[derive(Default)]
pub(super) struct Encoder {
    gzip: Option<(u8, Compressor)>,
    zstd: Option<(u8, zstd::bulk::Compressor<'static>)>,
    /// The compressed form of a whole block of NUL, which sparse files are made of.
    zeros: Option<(Compression, Vec<u8>)>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// Compresses one block.
    pub(super) fn encode(&mut self, compression: Compression, block: &[u8]) -> io::Result<Vec<u8>> {
        let is_zero = block.len() == compression.block_size() && is_zero(block);
        if let (true, Some((known, zeros))) = (is_zero, &self.zeros)
            && *known == compression
        {
            return Ok(zeros.clone());
        }
        let encoded = match compression {
            Compression::None => block.to_vec(),
            Compression::Gzip(_) if looks_random(block) => stored_member(block),
            Compression::Gzip(level) => self.gzip_member(level, block)?,
            Compression::Zstd(level) => self.zstd_frame(level, block)?,
        };
        if is_zero {
            self.zeros = Some((compression, encoded.clone()));
        }
        Ok(encoded)
    }

    fn gzip_member(&mut self, level: u8, block: &[u8]) -> io::Result<Vec<u8>> {
        if self.gzip.as_ref().is_none_or(|(known, _)| *known != level) {
            let level_of =
                CompressionLvl::new(level.into()).map_err(|_| io::Error::other("no such level"))?;
            self.gzip = Some((level, Compressor::new(level_of)));
        }
        let Some((_, compressor)) = &mut self.gzip else { return Err(io::Error::other("no compressor")) };
        let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
        let size = compressor.gzip_compress(block, &mut out).map_err(io::Error::other)?;
        out.truncate(size);
        Ok(out)
    }

    fn zstd_frame(&mut self, level: u8, block: &[u8]) -> io::Result<Vec<u8>> {
        if self.zstd.as_ref().is_none_or(|(known, _)| *known != level) {
            self.zstd = Some((level, zstd::bulk::Compressor::new(level.into())?));
        }
        let Some((_, compressor)) = &mut self.zstd else { return Err(io::Error::other("no compressor")) };
        compressor.compress(block)
    }
}

/// Whether a block is all NUL. In pieces, so that the compiler takes many bytes at once and most blocks end
/// in the first.
fn is_zero(block: &[u8]) -> bool {
    block.chunks(64).all(|piece| piece.iter().fold(0, |or, &byte| or | byte) == 0)
}

/// A gzip member that holds a block as it is.
fn stored_member(block: &[u8]) -> Vec<u8> {
    /// The most bytes that a stored block of deflate holds (RFC 1951, 3.2.4).
    const STORED: usize = 0xffff;
    let pieces = block.len().div_ceil(STORED).max(1);
    let mut out = Vec::with_capacity(block.len() + 5 * pieces + 18);
    // No flags, no time, no operating system: what libdeflate writes.
    out.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    for (number, piece) in block.chunks(STORED).enumerate() {
        let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        out.push(u8::from(number + 1 == pieces));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&crc32(block).to_le_bytes());
    out.extend_from_slice(&u32::try_from(block.len() as u64 & 0xffff_ffff).unwrap_or(0).to_le_bytes());
    out
}

/// Whether deflate would not make a block smaller by a hundredth: archives, pictures, encrypted and random
/// data. Seen from samples, by integers alone, so that the answer is the same everywhere.
fn looks_random(block: &[u8]) -> bool {
    /// Blocks smaller than this are compressed in no time.
    const SMALLEST: usize = 64 * 1024;
    if block.len() < SMALLEST {
        return false;
    }
    bytes_are_even(block) && !repeats(block)
}

/// Whether no byte is much more common than another. Coding bytes by their frequency alone would save about
/// `χ² / (2 n ln 2)` bits a byte; the limit is 0.08, a hundredth.
fn bytes_are_even(block: &[u8]) -> bool {
    const WINDOWS: usize = 16;
    const WINDOW: usize = 2048;
    const EXPECTED: u32 = (WINDOWS * WINDOW / 256) as u32;
    const LIMIT: u32 = 3600 * EXPECTED;
    let mut counts = [0_u32; 256];
    let stride = (block.len() - WINDOW) / (WINDOWS - 1);
    for window in 0..WINDOWS {
        let start = window * stride;
        for &byte in block.get(start..start + WINDOW).unwrap_or_default() {
            if let Some(count) = counts.get_mut(usize::from(byte)) {
                *count += 1;
            }
        }
    }
    let deviation: u32 =
        counts.iter().map(|&count| count.abs_diff(EXPECTED).pow(2)).fold(0, u32::saturating_add);
    deviation < LIMIT
}

/// Whether sequences of bytes come again within deflate's window: more than one place in 128 has the same
/// four bytes as an earlier one. In random data none has.
fn repeats(block: &[u8]) -> bool {
    const WINDOW: usize = 40 * 1024;
    const HASH_BITS: u32 = 14;
    let mut seen = 0_usize;
    let mut looked_at = 0_usize;
    for start in [0, (block.len() - WINDOW) / 2, block.len() - WINDOW] {
        let window = block.get(start..start + WINDOW).unwrap_or_default();
        let mut last = vec![u16::MAX; 1 << HASH_BITS];
        for (at, word) in window.windows(4).enumerate() {
            let Ok(word) = <[u8; 4]>::try_from(word) else { continue };
            let hash = u32::from_le_bytes(word).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
            let Some(last) = usize::try_from(hash).ok().and_then(|hash| last.get_mut(hash)) else { continue };
            if window.get(usize::from(*last)..usize::from(*last) + 4) == Some(&word) {
                seen += 1;
            }
            *last = u16::try_from(at).unwrap_or(u16::MAX);
            looked_at += 1;
        }
    }
    seen * 128 > looked_at
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rstest::rstest;
    use std::io::Read;

    /// Random bytes, the same every time.
    pub(in crate::layer) fn noise(seed: u64, size: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }

    /// Words, which compress well.
    pub(in crate::layer) fn prose(seed: u64, size: usize) -> Vec<u8> {
        let words = ["layer ", "image ", "build ", "the ", "of ", "container\n", "register ", "a "];
        let mut text = Vec::with_capacity(size + 16);
        for byte in noise(seed, size) {
            text.extend_from_slice(words[usize::from(byte % 8)].as_bytes());
            if text.len() >= size {
                break;
            }
        }
        text.truncate(size);
        text
    }

    fn gunzip(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[rstest]
    #[case::empty(Vec::new())]
    #[case::small(b"x".to_vec())]
    #[case::prose(prose(1, 1 << 20))]
    #[case::noise(noise(1, 1 << 20))]
    #[case::noise_of_odd_size(noise(2, 1_000_003))]
    #[case::zeros(vec![0; 1 << 20])]
    #[case::some_zeros(vec![0; 1000])]
    fn every_block_comes_back(#[case] block: Vec<u8>) {
        let mut encoder = Encoder::default();
        for _ in 0..2 {
            for level in [0, 1, 4, 12] {
                let gzip = encoder.encode(Compression::Gzip(level), &block).unwrap();
                assert!(gunzip(&gzip) == block, "level {level}");
            }
            let zstd = encoder.encode(Compression::ZSTD, &block).unwrap();
            assert!(zstd::decode_all(&zstd[..]).unwrap() == block);
            assert!(encoder.encode(Compression::None, &block).unwrap() == block);
        }
    }

    #[test]
    fn an_encoder_does_not_depend_on_what_it_did_before() {
        let blocks = [prose(1, 1 << 20), noise(1, 1 << 20), vec![0; 1 << 20], prose(2, 70_000)];
        for compression in [Compression::default(), Compression::Gzip(1), Compression::ZSTD] {
            let mut used = Encoder::default();
            for block in blocks.iter().chain(blocks.iter().rev()) {
                let fresh = Encoder::default().encode(compression, block).unwrap();
                assert!(used.encode(compression, block).unwrap() == fresh);
            }
        }
    }

    #[test]
    fn only_what_cannot_be_compressed_is_stored() {
        let stored = |block: &[u8]| looks_random(block);
        assert!(stored(&noise(1, 1 << 20)) && stored(&noise(2, 64 * 1024)));
        let mut gzip = Encoder::default();
        let squeezed: Vec<u8> = (0..12)
            .flat_map(|seed| gzip.encode(Compression::Gzip(6), &prose(seed, 1 << 20)).unwrap())
            .collect();
        assert!(squeezed.len() > 1 << 20 && stored(&squeezed[..1 << 20]), "what is compressed already");
        assert!(!stored(&prose(1, 1 << 20)) && !stored(&vec![0; 1 << 20]) && !stored(&noise(1, 1000)));
        // Random bytes that come again within the window compress, and so does base64.
        assert!(!stored(&noise(1, 20_000).repeat(53)));
        let base64: Vec<u8> = noise(1, 1 << 20).iter().map(|byte| b'A' + byte % 32).collect();
        assert!(!stored(&base64));
        // Small random files in a tar: headers in between.
        let files: Vec<u8> = (0..200).flat_map(|seed| [vec![0; 512], noise(seed, 4608)].concat()).collect();
        assert!(!stored(&files));
    }

    #[test]
    fn what_is_stored_costs_next_to_nothing() {
        let block = noise(1, 1 << 20);
        let out = Encoder::default().encode(Compression::default(), &block).unwrap();
        assert_eq!(out.len(), block.len() + 18 + 5 * block.len().div_ceil(65_535));
    }

    #[test]
    fn the_versions_in_identities_are_those_that_are_linked() {
        let lock = include_str!("../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"libdeflate-sys\"\nversion = \"{LIBDEFLATE}\"")));
        assert_eq!(Compression::Gzip(4).identity(), "gzip/libdeflate-1.26.1/level-4/scheme-1");
        assert_eq!(Compression::Zstd(3).identity(), "zstd/libzstd-1.5.7/level-3/scheme-1");
        assert_eq!(Compression::None.identity(), "none");
    }

    #[rstest]
    #[case(Compression::Gzip(13), "13 is not a compression level of gzip (0 to 12)")]
    #[case(Compression::Zstd(0), "0 is not a compression level of zstd (1 to 22)")]
    #[case(Compression::Zstd(23), "23 is not a compression level of zstd (1 to 22)")]
    fn levels_are_checked(#[case] compression: Compression, #[case] message: &str) {
        assert_eq!(compression.check().unwrap_err().to_string(), message);
    }

    /// If this changes, `SCHEME` or a version has to change with it: the cache takes equal identities for
    /// equal bytes.
    #[test]
    fn the_bytes_of_an_identity_are_fixed() {
        let input = [prose(7, 700_000), noise(7, 700_000), vec![0; 100_000]].concat();
        let digest = |compression| {
            let mut encoder = Encoder::default();
            let bytes: Vec<u8> =
                input.chunks(300_000).flat_map(|block| encoder.encode(compression, block).unwrap()).collect();
            crate::image::Digest::of(&bytes).hex()[..16].to_owned()
        };
        assert_eq!(digest(Compression::Gzip(4)), "026d25013934b47d");
        assert_eq!(digest(Compression::Zstd(3)), "51249e67ff23eda6");
    }
}
