//! The fields of a header to values.

use tar::Header;

use super::BLOCK;

/// A header's dialect decides what its last fields mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Before POSIX: nothing behind the link name.
    V7,
    /// POSIX.1-1988, and the headers of PAX.
    Ustar,
    /// GNU: the prefix field has other things.
    Gnu,
    /// Schilling's: a shorter prefix.
    Star,
}

/// Whether a block has nothing but NUL, as at the end of an archive.
pub(super) fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Whether the checksum is right. Old implementations summed signed bytes.
pub(super) fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let Some(stated) = block.get(FIELD).and_then(number) else { return false };
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, &byte) in block.iter().enumerate() {
        let byte = if FIELD.contains(&at) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    stated == unsigned || stated == signed
}

pub(super) fn dialect(header: &Header) -> Dialect {
    let bytes = header.as_bytes();
    match (bytes.get(257..263), bytes.get(263..265), bytes.get(508..512)) {
        (Some(b"ustar\0"), _, Some(b"tar\0")) => Dialect::Star,
        (Some(b"ustar\0"), _, _) => Dialect::Ustar,
        (Some(b"ustar "), Some(b" \0"), _) => Dialect::Gnu,
        _ => Dialect::V7,
    }
}

/// The name, with the prefix that the dialect has.
pub(super) fn name(header: &Header, dialect: Dialect) -> Vec<u8> {
    let name = text(&header.as_old().name);
    let prefix = match dialect {
        Dialect::V7 | Dialect::Gnu => &[][..],
        Dialect::Ustar => text(header.as_bytes().get(345..500).unwrap_or_default()),
        Dialect::Star => text(header.as_bytes().get(345..476).unwrap_or_default()),
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// A text field up to its NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A numeric field: octal with spaces or NULs around it, nothing at all for 0, or base 256 (two's complement,
/// the top bit set) as GNU writes what is too large or negative. `None` if it is none of these.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return base_256(field, first);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte));
    let Some(start) = start else { return Some(0) };
    let end = field.iter().rposition(|byte| !is_blank(byte))? + 1;
    // As in Go, a NUL ends the number; some writers leave rubbish behind it.
    text(field.get(start..end)?).iter().try_fold(0_i64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit <= 7)?;
        number.checked_mul(8)?.checked_add(i64::from(digit))
    })
}

fn base_256(field: &[u8], first: u8) -> Option<i64> {
    // The second bit is the sign; the first only marks the encoding.
    let negative = first & 0x40 != 0;
    let start = if negative { i128::from(first) - 256 } else { i128::from(first & 0x7f) };
    let number = field
        .iter()
        .skip(1)
        .try_fold(start, |number, &byte| number.checked_mul(256)?.checked_add(i128::from(byte)))?;
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(b"0000644\0", Some(0o644))]
    #[case(b"   644 \0", Some(0o644))]
    #[case(b"644\0junk", Some(0o644))]
    #[case(b"\0\0\0\0", Some(0))]
    #[case(b"        ", Some(0))]
    #[case(b"77777777", Some(0o77_777_777))]
    #[case(b"0000648\0", None)]
    #[case(b"-1\0\0\0\0\0\0", None)]
    #[case(b"\x80\0\0\0\0\0\0\x05", Some(5))]
    #[case(b"\x80\0\0\0\xff\xff\xff\xff", Some(0xffff_ffff))]
    #[case(b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2))]
    #[case(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2))]
    #[case(b"\x80\0\0\0\0\0\0\0\0\0\0\x05", Some(5))]
    #[case(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX))]
    #[case(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None)]
    #[case(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None)]
    fn numbers(#[case] field: &[u8], #[case] expected: Option<i64>) {
        assert_eq!(number(field), expected);
    }

    #[rstest]
    #[case(b"ustar\x0000", b"", Dialect::Ustar)]
    #[case(b"ustar  \0", b"", Dialect::Gnu)]
    #[case(b"ustar\x0000", b"tar\0", Dialect::Star)]
    #[case(b"\0\0\0\0\0\0\0\0", b"", Dialect::V7)]
    fn dialects(#[case] magic: &[u8], #[case] trailer: &[u8], #[case] expected: Dialect) {
        let mut block = [0_u8; BLOCK];
        block[257..265].copy_from_slice(magic);
        block[508..508 + trailer.len()].copy_from_slice(trailer);
        assert_eq!(dialect(Header::from_byte_slice(&block)), expected);
    }
}
