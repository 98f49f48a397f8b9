//! Durations and sizes as Go programs read them.

use std::time::Duration;

/// Reads a duration as Go's `time.ParseDuration`: `1h30m`, `1.5s`, `250ms`, `0`; a sign is allowed, and a negative
/// duration is none.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with the text.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    const SHAPE: &str = "is not a duration: a number and a unit, such as `30s` or `1m30s`";
    const LONG: &str = "is too long for a duration";
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(SHAPE);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(SHAPE);
        }
        let length = after.find(|letter: char| letter == '.' || letter.is_ascii_digit());
        let (unit, after) = after.split_at(length.unwrap_or(after.len()));
        let nanoseconds = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err("has no unit: write `30s`, `1m30s` or the like"),
            _ => return Err("has an unknown unit: `ns`, `us`, `ms`, `s`, `m` and `h` are known"),
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| LONG)? };
        total = whole
            .checked_mul(nanoseconds)
            .and_then(|part| part.checked_add(part_of(fraction, nanoseconds)))
            .and_then(|part| total.checked_add(part))
            .filter(|&total| total <= i64::MAX as u64)
            .ok_or(LONG)?;
        rest = after;
    }
    if negative && total != 0 {
        return Err("is negative");
    }
    Ok(Duration::from_nanos(total))
}

/// The nanoseconds of the fraction `.digits` of a unit: in floating point, to round as Go does.
fn part_of(digits: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0_u64, 1.0_f64);
    for digit in digits.bytes().map(|byte| u64::from(byte - b'0')) {
        // Digits that do not fit are far below a nanosecond.
        match value.checked_mul(10).and_then(|value| value.checked_add(digit)) {
            Some(next) if next <= 1 << 63 => (value, scale) = (next, scale * 10.0),
            _ => break,
        }
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()))
}

/// Reads a size in bytes as Docker does: `64m`, `1.5GiB`, `1024`; units are powers of 1024.
pub(super) fn size(text: &str) -> Option<u64> {
    let split = text.rfind(|letter: char| letter.is_ascii_digit() || letter == '.' || letter == ' ')? + 1;
    let (number, unit) = text.split_at_checked(split)?;
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let unit = match unit.as_str() {
        "" | "b" => 0,
        unit => {
            let (letter, rest) = unit.split_at_checked(1)?;
            if !matches!(rest, "" | "b" | "ib") {
                return None;
            }
            1 + "kmgtp".find(letter)? as i32
        }
    };
    let bytes = number * 1024_f64.powi(unit);
    // The largest size that Go's int64 holds, too.
    (bytes >= 0.0 && bytes < i64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("30s", 30_000_000_000)]
    #[case("1h30m", 5_400_000_000_000)]
    #[case("1.5s", 1_500_000_000)]
    #[case(".5s", 500_000_000)]
    #[case("1.s", 1_000_000_000)]
    #[case("0", 0)]
    #[case("+0", 0)]
    #[case("-0s", 0)]
    #[case("+5ms", 5_000_000)]
    #[case("3us", 3_000)]
    #[case("3µs", 3_000)]
    #[case("3μs", 3_000)]
    #[case("7ns", 7)]
    #[case("0.1h", 360_000_000_000)]
    #[case("0.3333333333333333333h", 1_200_000_000_000)]
    #[case("9223372036854775807ns", i64::MAX as u64)]
    #[case("0.000000000000000000000000000001s", 0)]
    fn reads_durations(#[case] text: &str, #[case] nanoseconds: u64) {
        let read = duration(text).unwrap();
        let difference = read.as_nanos().abs_diff(u128::from(nanoseconds));
        assert!(difference <= 1, "{read:?}");
    }

    #[rstest]
    #[case("")]
    #[case("30")]
    #[case("s")]
    #[case(".s")]
    #[case("1x")]
    #[case("1 s")]
    #[case("-1s")]
    #[case("+-1s")]
    #[case("1s 2m")]
    #[case("9223372036854775808ns")]
    #[case("99999999999999999999999h")]
    #[case("3000000h")]
    fn refuses_durations(#[case] text: &str) {
        assert!(duration(text).is_err(), "{:?}", duration(text));
    }

    #[rstest]
    #[case("1024", Some(1024))]
    #[case("1k", Some(1024))]
    #[case("64m", Some(64 << 20))]
    #[case("64MB", Some(64 << 20))]
    #[case("64MiB", Some(64 << 20))]
    #[case("1.5g", Some(3 << 29))]
    #[case("2 T", Some(2 << 40))]
    #[case("1p", Some(1 << 50))]
    #[case("10b", Some(10))]
    #[case("", None)]
    #[case("m", None)]
    #[case("1x", None)]
    #[case("1bb", None)]
    #[case("1mi", None)]
    #[case("1mibi", None)]
    #[case("-1", None)]
    #[case("1e30", None)]
    #[case("1 2 m", None)]
    fn reads_sizes(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(size(text), bytes);
    }
}
