//! Numbers as people read them.

use std::time::Duration;

use crate::image::Digest;

/// Hexadecimal digits of a digest that are enough to tell it from others.
const SHORT: usize = 12;

/// `0.3s`, `12.3s`, `2m 05s`, `1h 02m`
pub fn duration(duration: Duration) -> String {
    let tenths = (duration.as_millis() + 50) / 100;
    let seconds = tenths / 10;
    match seconds {
        0..60 => format!("{seconds}.{}s", tenths % 10),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// `512 B`, `1.5 kB`, `12 MB`: powers of 1000, as registries and `docker` show sizes.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut shown = "B";
    for unit in UNITS {
        value /= 1000.0;
        shown = unit;
        // 999.95 would be shown as 1000.0.
        if value < 999.95 {
            break;
        }
    }
    let digits = usize::from(value < 99.95);
    format!("{value:.digits$} {shown}")
}

/// `4.1 MB/s`; nothing before there is something to measure.
pub(super) fn rate(bytes_moved: u64, during: Duration) -> Option<String> {
    let seconds = during.as_secs_f64();
    (seconds >= 0.1 && bytes_moved > 0)
        .then(|| format!("{}/s", bytes((bytes_moved as f64 / seconds).round() as u64)))
}

/// `sha256:8a3f0c2b11de`
pub fn short(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("sha256:{}", hex.get(..SHORT).unwrap_or(&hex))
}

/// `1 step`, `2 steps`
pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, "0.0s")]
    #[case(249, "0.2s")]
    #[case(250, "0.3s")]
    #[case(59_949, "59.9s")]
    #[case(59_950, "1m 00s")]
    #[case(125_000, "2m 05s")]
    #[case(3_720_000, "1h 02m")]
    fn durations(#[case] millis: u64, #[case] shown: &str) {
        assert_eq!(duration(Duration::from_millis(millis)), shown);
    }

    #[rstest]
    #[case(0, "0 B")]
    #[case(999, "999 B")]
    #[case(1000, "1.0 kB")]
    #[case(12_345, "12.3 kB")]
    #[case(123_456, "123 kB")]
    #[case(999_960, "1.0 MB")]
    #[case(28_230_000, "28.2 MB")]
    #[case(u64::MAX, "18.4 EB")]
    fn sizes(#[case] size: u64, #[case] shown: &str) {
        assert_eq!(bytes(size), shown);
    }

    #[test]
    fn rates_need_time() {
        assert_eq!(rate(10_000_000, Duration::from_secs(2)).as_deref(), Some("5.0 MB/s"));
        assert_eq!(rate(10, Duration::ZERO), None);
    }
}
