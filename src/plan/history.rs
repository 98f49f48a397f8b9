//! How instructions are written in an image's history: as BuildKit writes them, who is read by many tools.

use std::time::Duration;

use crate::image::Healthcheck;

/// The mark that tells tools how to read the entries.
pub const COMMENT: &str = "buildkit.dockerfile.v0";

/// Words as Go prints a list with `%v`: `[a b]`.
pub fn list<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    format!("[{}]", words.join(" "))
}

/// Words as Go prints a list with `%q`: `["a" "b"]`.
pub fn quoted_list<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word.as_ref())).collect();
    format!("[{}]", words.join(" "))
}

/// A text as Go prints it with `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            letter if letter.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// A health check as Go prints its structure with `%+v`.
pub fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        list(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// A duration in nanoseconds as Go prints it: `1m30s`, `1.5s`, `250ms`, `0s`.
fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let duration = Duration::from_nanos(nanoseconds.unsigned_abs());
    let fraction = |value: u128, unit: u128| {
        let (whole, rest) = (value / unit, value % unit);
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
    };
    let total = duration.as_nanos();
    let text = match total {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(total, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(total, 1_000_000)),
        _ => {
            let seconds = duration.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(total % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{rest}s"),
                (0, _) => format!("{minutes}m{rest}s"),
                _ => format!("{hours}h{minutes}m{rest}s"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, "0s")]
    #[case(5_000_000_000, "5s")]
    #[case(90_000_000_000, "1m30s")]
    #[case(3_600_000_000_000, "1h0m0s")]
    #[case(3_661_500_000_000, "1h1m1.5s")]
    #[case(1_500_000_000, "1.5s")]
    #[case(250_000_000, "250ms")]
    #[case(1_250_000, "1.25ms")]
    #[case(1_500, "1.5µs")]
    #[case(7, "7ns")]
    fn durations_are_as_go_prints_them(#[case] nanoseconds: i64, #[case] text: &str) {
        assert_eq!(duration(nanoseconds), text);
    }

    #[test]
    fn lists_are_as_go_prints_them() {
        assert_eq!(list(&["/vol", "/vol2"]), "[/vol /vol2]");
        assert_eq!(quoted_list(&["sh", "a \"b\"\n\u{1}é"]), r#"["sh" "a \"b\"\n\x01é"]"#);
    }

    #[test]
    fn a_health_check_is_as_go_prints_its_structure() {
        let check = Healthcheck {
            test: vec!["CMD-SHELL".into(), "wget -q x".into()],
            interval: 5_000_000_000,
            start_interval: 2_000_000_000,
            ..Healthcheck::default()
        };
        assert_eq!(
            healthcheck(&check),
            "{Test:[CMD-SHELL wget -q x] Interval:5s Timeout:0s StartPeriod:0s StartInterval:2s Retries:0}"
        );
    }
}
