//! PAX records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record (POSIX.1-2001, "pax Extended
//! Header").

/// In front of the name of an extended attribute whose value stands as it is.
pub(in crate::layer) const XATTR: &[u8] = b"SCHILY.xattr.";
/// In front of the URL-encoded name of an extended attribute whose value stands in base64.
pub(in crate::layer) const XATTR_LIBARCHIVE: &[u8] = b"LIBARCHIVE.xattr.";

/// Appends one record. Values are any bytes; keys have no `=`.
pub(super) fn append(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The records in some bytes, in order; `None` in place of one that is malformed, after which nothing
/// follows.
pub(super) fn records(bytes: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = record(rest);
        rest = parsed.map_or(&[][..], |(_, _, rest)| rest);
        Some(parsed.map(|(key, value, _)| (key, value)))
    })
}

/// The first record's key and value, and the bytes behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let record = bytes.get(space + 1..length)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=').filter(|&equals| equals > 0)?;
    Some((record.get(..equals)?, record.get(equals + 1..)?, bytes.get(length..)?))
}

/// A decimal number of digits alone.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The whole seconds, rounded down, of a time such as `1700000000.123` or `-1.5`.
pub(super) fn seconds(time: &[u8]) -> Option<i64> {
    let (negative, time) = match time.strip_prefix(b"-") {
        Some(time) => (true, time),
        None => (false, time),
    };
    let mut parts = time.splitn(2, |&byte| byte == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let has_fraction = fraction.iter().any(|&digit| digit != b'0');
    Some(if negative { -whole - i64::from(has_fraction) } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn all(bytes: &[u8]) -> Vec<Option<(&[u8], &[u8])>> {
        records(bytes).collect()
    }

    #[test]
    fn lengths_count_their_own_digits() {
        let mut bytes = Vec::new();
        append(&mut bytes, b"path", b"x");
        assert_eq!(bytes, b"9 path=x\n");
        for size in 0..1200 {
            let mut bytes = Vec::new();
            append(&mut bytes, b"k", &vec![b'v'; size]);
            let space = bytes.iter().position(|&byte| byte == b' ').unwrap();
            assert_eq!(decimal(&bytes[..space]), Some(bytes.len() as u64), "size {size}");
        }
    }

    #[rstest]
    #[case(b"9 path=x\n5 a=\n", vec![Some((&b"path"[..], &b"x"[..])), Some((b"a", b""))])]
    #[case(b"12 k=a\nb=c\0\n", vec![Some((&b"k"[..], &b"a\nb=c\0"[..]))])]
    #[case(b"", vec![])]
    #[case(b"9 path=x", vec![None])]
    #[case(b"8 path=x\n", vec![None])]
    #[case(b"11 path=x\n", vec![None])]
    #[case(b"5 =x\n", vec![None])]
    #[case(b"5 ab\n", vec![None])]
    #[case(b"-1 k=v\n", vec![None])]
    #[case(b"99999999999999999999 k=v\n", vec![None])]
    #[case(b"0 k=v\n", vec![None])]
    #[case(b"9 path=x\nrubbish", vec![Some((&b"path"[..], &b"x"[..])), None])]
    fn reads_records(#[case] bytes: &[u8], #[case] expected: Vec<Option<(&[u8], &[u8])>>) {
        assert_eq!(all(bytes), expected);
    }

    #[rstest]
    #[case("0", Some(0))]
    #[case("1700000000.9999", Some(1_700_000_000))]
    #[case("-1", Some(-1))]
    #[case("-1.5", Some(-2))]
    #[case("-1.000", Some(-1))]
    #[case("1.", Some(1))]
    #[case("", None)]
    #[case("-", None)]
    #[case("1e3", None)]
    #[case("1.2.3", None)]
    #[case("99999999999999999999", None)]
    fn reads_times(#[case] text: &str, #[case] expected: Option<i64>) {
        assert_eq!(seconds(text.as_bytes()), expected);
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(key in "[a-zA-Z.]{1,40}", value in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = Vec::new();
            append(&mut bytes, key.as_bytes(), &value);
            append(&mut bytes, b"end", b"1");
            prop_assert_eq!(all(&bytes), vec![Some((key.as_bytes(), &value[..])), Some((&b"end"[..], &b"1"[..]))]);
        }
    }
}
