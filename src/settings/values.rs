//! Small values as users type them.

use std::time::Duration;

use super::error::{Problem, SettingsError};
use super::origin::{Given, Origin};
use crate::layer::Compression;

/// Units of time, in seconds.
const TIMES: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];
/// Units of size, in bytes; letter case does not matter. A bare letter is the decimal unit, as for `docker`'s sizes.
const SIZES: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// Reads an age: `36h`, `7d`, `1d12h`.
///
/// # Errors
/// If it is none.
pub fn parse_age(given: &Given<String>) -> Result<Duration, SettingsError> {
    age(&given.value).map_err(|problem| problem.at(&given.origin))
}

/// Reads a size: `500MB`, `10GiB`, `1.5g`.
///
/// # Errors
/// If it is none.
pub fn parse_size(given: &Given<String>) -> Result<u64, SettingsError> {
    size(&given.value).map_err(|problem| problem.at(&given.origin))
}

pub(super) fn age(text: &str) -> Result<Duration, Problem> {
    let wrong = || {
        Problem::new(text, "is no age: give numbers with `s`, `m`, `h`, `d` or `w`, such as `36h` or `7d`")
    };
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, seconds) = TIMES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*seconds));
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(Duration::from_secs(total))
}

pub(super) fn size(text: &str) -> Result<u64, Problem> {
    let wrong = || {
        Problem::new(
            text,
            "is no size: give a number with `kB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`, such as `10GB`",
        )
    };
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let whole = whole.checked_mul(*bytes).ok_or_else(wrong)?;
    // Nine digits are a billionth of a unit.
    let parts = match fraction {
        "" => 0,
        digits if digits.len() <= 9 => digits.parse::<u64>().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    let scale = 10_u128.pow(fraction.len() as u32);
    let rest = u64::try_from(u128::from(parts) * u128::from(*bytes) / scale).map_err(|_| wrong())?;
    whole.checked_add(rest).ok_or_else(wrong)
}

/// Reads a switch in a variable or in a field.
pub(super) fn switch(text: &str) -> Result<bool, Problem> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Problem::new(text, "is neither `true` nor `false`")),
    }
}

/// Reads a number of stages that are worked on at one time.
pub(super) fn parallel(text: &str) -> Result<usize, Problem> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Problem::new(text, "is no number of stages, 1 or more")),
    }
}

/// Reads `none`, `gzip`, `gzip:9`, `zstd`, `zstd:19`.
pub(super) fn compression(text: &str) -> Result<Compression, Problem> {
    match text.split_once(':') {
        Some((kind, level)) => compression_of(kind, Some(level)),
        None => compression_of(text, None),
    }
}

/// The compression of a kind and a level.
pub(super) fn compression_of(kind: &str, level: Option<&str>) -> Result<Compression, Problem> {
    const KINDS: [&str; 4] = ["none", "uncompressed", "gzip", "zstd"];
    let level_in = |range: std::ops::RangeInclusive<u8>| match level {
        None => Ok(None),
        Some(level) => match level.parse::<u8>() {
            Ok(level) if range.contains(&level) => Ok(Some(level)),
            _ => {
                let (first, last) = (range.start(), range.end());
                Err(Problem::new(level, format!("is no level of {kind}: give {first} to {last}")))
            }
        },
    };
    match kind {
        "none" | "uncompressed" if level.is_none() => Ok(Compression::None),
        "none" | "uncompressed" => Err(Problem::new(kind, "has no levels")),
        "gzip" => Ok(level_in(0..=12)?.map_or_else(Compression::default, Compression::Gzip)),
        "zstd" => Ok(level_in(1..=22)?.map_or(Compression::ZSTD, Compression::Zstd)),
        "estargz" => Err(Problem::new(kind, "is not supported").hint("give `gzip`, `zstd` or `none`")),
        _ => Err(Problem::new(kind, "is no compression: give `gzip`, `zstd` or `none`").meant(kind, KINDS)),
    }
}

/// Reads `NAME=VALUE`, or `NAME` alone.
pub(super) fn pair(text: &str) -> Result<(&str, Option<&str>), Problem> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.trim().is_empty() {
        return Err(Problem::new(text, "has no name before the `=`"));
    }
    Ok((name, value))
}

/// Keeps of several values of one name the last, in the place of the first.
pub(super) fn set<T>(list: &mut Vec<(String, T)>, name: &str, value: T) {
    match list.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => *known = value,
        None => list.push((name.to_owned(), value)),
    }
}

/// The first of several places that has a value, read by `parse`; errors name the place.
pub(super) fn first<T>(
    places: impl IntoIterator<Item = Option<Given<String>>>,
    parse: impl Fn(&str) -> Result<T, Problem>,
) -> Result<Option<Given<T>>, SettingsError> {
    let Some(given) = places.into_iter().flatten().next() else { return Ok(None) };
    match parse(&given.value) {
        Ok(value) => Ok(Some(Given::new(value, given.origin))),
        Err(problem) => Err(problem.at(&given.origin)),
    }
}

/// A switch that is on where its flag is given, and else what its variable or key says.
pub(super) fn first_switch(
    flag: (bool, &'static str),
    variable: Option<Given<String>>,
    file: Option<Given<bool>>,
) -> Result<Given<bool>, SettingsError> {
    let (on, name) = flag;
    if on {
        return Ok(Given::new(true, Origin::Flag(name)));
    }
    match first([variable], switch)? {
        Some(given) => Ok(given),
        None => Ok(file.unwrap_or(Given::default(false))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("36h", Some(129_600))]
    #[case("7d", Some(604_800))]
    #[case("1d12h30m5s", Some(131_405))]
    #[case("2w", Some(1_209_600))]
    #[case("0s", Some(0))]
    #[case("", None)]
    #[case("7", None)]
    #[case("d", None)]
    #[case("-1d", None)]
    #[case("1y", None)]
    #[case("99999999999999999999d", None)]
    #[case("9999999999999999d", None)]
    fn ages(#[case] text: &str, #[case] seconds: Option<u64>) {
        assert_eq!(age(text).ok().map(|age| age.as_secs()), seconds);
    }

    #[rstest]
    #[case("0", Some(0))]
    #[case("512", Some(512))]
    #[case("10GB", Some(10_000_000_000))]
    #[case("10GiB", Some(10 << 30))]
    #[case("1.5g", Some(1_500_000_000))]
    #[case("0.25 MiB", Some(262_144))]
    #[case("500Mb", Some(500_000_000))]
    #[case("", None)]
    #[case("GB", None)]
    #[case("1.2.3k", None)]
    #[case("10 parsecs", None)]
    #[case("99999999999TiB", None)]
    fn sizes(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(size(text).ok(), bytes);
    }

    #[rstest]
    #[case("gzip", Ok(Compression::default()))]
    #[case("gzip:9", Ok(Compression::Gzip(9)))]
    #[case("zstd", Ok(Compression::ZSTD))]
    #[case("zstd:19", Ok(Compression::Zstd(19)))]
    #[case("none", Ok(Compression::None))]
    #[case("uncompressed", Ok(Compression::None))]
    #[case("gzip:13", Err("`13` is no level of gzip: give 0 to 12"))]
    #[case("zstd:0", Err("`0` is no level of zstd: give 1 to 22"))]
    #[case("none:1", Err("`none` has no levels"))]
    #[case("zst", Err("`zst` is no compression: give `gzip`, `zstd` or `none`; did you mean `zstd`?"))]
    #[case("estargz", Err("`estargz` is not supported; give `gzip`, `zstd` or `none`"))]
    fn compressions(#[case] text: &str, #[case] expected: Result<Compression, &str>) {
        let found = compression(text).map_err(|problem| problem.words());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let mut list = Vec::new();
        for (name, value) in [("a", 1), ("b", 2), ("a", 3)] {
            set(&mut list, name, value);
        }
        assert_eq!(list, [("a".to_owned(), 3), ("b".to_owned(), 2)]);
    }
}
