//! What a scalar of YAML means, by the rules of the library that kubectl reads it with.
//!
//! Those are go-yaml 2's (`resolve.go`), behind sigs.k8s.io/yaml: YAML 1.1 without base 60, with `0o` and `0b`. They are
//! told by the first character, and what no rule takes is a text.

use serde_json::Value;

use super::node;

/// The prefix of the tags that YAML itself has.
const OWN: &str = "tag:yaml.org,2002:";

/// What a scalar means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// An integer beyond [`i64::MAX`].
    Large(u64),
    Float(f64),
    Text(String),
}

/// Resolves a scalar. `implied` is whether its form leaves open what it is, as no quotes do; `tag` is its tag in full.
///
/// # Errors
/// What is wrong with it.
pub(super) fn resolve(text: &str, implied: bool, tag: Option<&str>) -> Result<Scalar, String> {
    let Some(tag) = tag else {
        return Ok(if implied { plain(text) } else { Scalar::Text(text.to_owned()) });
    };
    let found = || plain(text);
    let short = tag.strip_prefix(OWN);
    let fits = match short {
        Some("str") => return Ok(Scalar::Text(text.to_owned())),
        Some("binary") => return binary(text),
        Some("null") => matches!(found(), Scalar::Null),
        Some("bool") => matches!(found(), Scalar::Bool(_)),
        Some("int") => matches!(found(), Scalar::Int(_) | Scalar::Large(_)),
        Some("float") => match found() {
            Scalar::Int(value) => return Ok(Scalar::Float(value as f64)),
            other => matches!(other, Scalar::Float(_)),
        },
        // It stays a text, if it looks like a time.
        Some("timestamp") if is_date(text) => return Ok(Scalar::Text(text.to_owned())),
        Some("timestamp") => false,
        // Tags of others mean nothing, and what has one is a text.
        _ => return Ok(Scalar::Text(text.to_owned())),
    };
    if fits {
        Ok(found())
    } else {
        Err(format!("`{text}` is not what its tag says, `!!{}`", short.unwrap_or_default()))
    }
}

/// Bytes as base64. What is not UTF-8 cannot be said in JSON; kubectl would replace it without a word.
fn binary(text: &str) -> Result<Scalar, String> {
    use base64::Engine as _;
    let compact: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(compact)
        .map_err(|_| "the value of `!!binary` is not base64".to_owned())?;
    let text = String::from_utf8(bytes);
    text.map(Scalar::Text)
        .map_err(|_| "the value of `!!binary` is no text, which is all that JSON has: keep the base64 and leave out the tag".to_owned())
}

/// What a scalar without quotes and tag means.
fn plain(text: &str) -> Scalar {
    let text_itself = || Scalar::Text(text.to_owned());
    let float = |text: &str| match text.parse() {
        Ok(value) if f64::is_finite(value) => Scalar::Float(value),
        _ => text_itself(),
    };
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Scalar::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    match text.as_bytes().first() {
        Some(b'.') if is_decimal(text) => float(text),
        Some(b'0'..=b'9' | b'+' | b'-') if !is_date(text) => {
            let bare: String = text.chars().filter(|&c| c != '_').collect();
            match integer(&bare) {
                Some(found) => found,
                None if is_decimal(&bare) => float(&bare),
                None => late_binary(&bare).unwrap_or_else(text_itself),
            }
        }
        _ => text_itself(),
    }
}

/// An integer as Go's `strconv.ParseInt` and then `ParseUint` read it when they are to find the base out.
fn integer(text: &str) -> Option<Scalar> {
    let (sign, digits) = split_sign(text);
    let base_of = |digits: &str| match digits.as_bytes() {
        [b'0', b'b' | b'B', _, ..] => (2, 2),
        [b'0', b'o' | b'O', _, ..] => (8, 2),
        [b'0', b'x' | b'X', _, ..] => (16, 2),
        [b'0', _, ..] => (8, 1),
        _ => (10, 0),
    };
    let (base, prefix) = base_of(digits);
    signed(sign, digits.get(prefix..)?, base)
}

/// `0b` may be followed by a sign, since go-yaml looks for it once more by itself.
fn late_binary(text: &str) -> Option<Scalar> {
    let (negative, digits) = match text.strip_prefix("-0b") {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix("0b")?),
    };
    match split_sign(digits) {
        (None, _) => None,
        (Some(_), _) if negative => None,
        (sign, digits) => signed(sign, digits, 2),
    }
}

fn split_sign(text: &str) -> (Option<char>, &str) {
    match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.chars().next(), rest),
        None => (None, text),
    }
}

fn signed(sign: Option<char>, digits: &str, base: u32) -> Option<Scalar> {
    // The standard library would take a sign here.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let value = u64::from_str_radix(digits, base).ok()?;
    match (sign, i64::try_from(value)) {
        (Some('-'), Ok(value)) => Some(Scalar::Int(-value)),
        (Some('-'), Err(_)) => (value == i64::MIN.unsigned_abs()).then_some(Scalar::Int(i64::MIN)),
        (_, Ok(value)) => Some(Scalar::Int(value)),
        (None, Err(_)) => Some(Scalar::Large(value)),
        (Some(_), Err(_)) => None,
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (_, rest) = split_sign(text);
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(split_sign(exponent).1)),
        None => (rest, None),
    };
    let (whole, fraction) =
        mantissa.split_once('.').map_or((mantissa, None), |(whole, rest)| (whole, Some(rest)));
    let mantissa = match (whole, fraction) {
        ("", Some(fraction)) => !fraction.is_empty() && digits(fraction),
        ("", None) => false,
        (whole, fraction) => digits(whole) && fraction.is_none_or(digits),
    };
    mantissa && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

/// Whether a text begins as times do. None of those would be a number, so how it goes on does not matter.
fn is_date(text: &str) -> bool {
    matches!(text.as_bytes(), [a, b, c, d, b'-', ..] if [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()))
}

impl Scalar {
    /// As JSON has it.
    ///
    /// # Errors
    /// What JSON cannot say.
    pub fn into_value(self) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => value.into(),
            Self::Int(value) => value.into(),
            Self::Large(value) => node::unsigned(value),
            Self::Float(value) => node::number(value)
                .ok_or_else(|| "JSON has no infinite numbers, and none that is none".to_owned())?,
            Self::Text(text) => text.into(),
        })
    }

    /// As the name of a field: what is no text becomes one (sigs.k8s.io/yaml, `convertToJSONableObject`).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn into_key(self) -> Result<String, String> {
        match self {
            Self::Null => Err("the name of a field is nothing".to_owned()),
            Self::Bool(value) => Ok(value.to_string()),
            Self::Int(value) => Ok(value.to_string()),
            Self::Large(value) => {
                Err(format!("`{value}` is too large for the name of a field: put it in quotes"))
            }
            Self::Float(value) => Ok(float_key(value)),
            Self::Text(text) => Ok(text),
        }
    }
}

/// As Go's `strconv.FormatFloat(value, 'g', -1, 32)` writes it.
fn float_key(value: f64) -> String {
    let value = value as f32;
    if value.is_nan() {
        return ".nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0644", "420")]
    #[case("0o644", "420")]
    #[case("08", "8")]
    #[case("0x1F", "31")]
    #[case("0b101", "5")]
    #[case("0b-1", "-1")]
    #[case("-0b11", "-3")]
    #[case("1_000", "1000")]
    #[case("+12", "12")]
    #[case("1e3", "1000")]
    #[case("1.", "1")]
    #[case(".5", "0.5")]
    #[case("+.5", "0.5")]
    #[case("1e999", "\"1e999\"")]
    #[case("1:30", "\"1:30\"")]
    #[case("0x", "\"0x\"")]
    #[case("-", "\"-\"")]
    #[case("_1", "\"_1\"")]
    #[case("on", "true")]
    #[case("nO", "\"nO\"")]
    #[case("~", "null")]
    #[case("", "null")]
    #[case("2001-01-01", "\"2001-01-01\"")]
    #[case("18446744073709551616", "1.8446744073709552e+19")]
    #[case("-9223372036854775808", "-9223372036854775808")]
    fn without_quotes(#[case] text: &str, #[case] json: &str) {
        assert_eq!(resolve(text, true, None).unwrap().into_value().unwrap().to_string(), json);
    }

    #[rstest]
    #[case("5", "str", Ok(Scalar::Text("5".into())))]
    #[case("5", "int", Ok(Scalar::Int(5)))]
    #[case("5", "float", Ok(Scalar::Float(5.0)))]
    #[case("yes", "bool", Ok(Scalar::Bool(true)))]
    #[case("aGk=", "binary", Ok(Scalar::Text("hi".into())))]
    #[case("x", "int", Err("`x` is not what its tag says, `!!int`"))]
    #[case("x", "binary", Err("the value of `!!binary` is not base64"))]
    fn with_a_tag(#[case] text: &str, #[case] tag: &str, #[case] expected: Result<Scalar, &str>) {
        let tag = format!("{OWN}{tag}");
        assert_eq!(
            resolve(text, false, Some(&tag)).as_ref().map_err(String::as_str),
            expected.as_ref().map_err(|text| *text)
        );
    }

    #[rstest]
    #[case("1.5", "1.5")]
    #[case("1e6", "1e+06")]
    #[case("100000.0", "100000")]
    #[case("0.00001", "1e-05")]
    #[case("0644", "420")]
    #[case("y", "true")]
    fn names_of_fields(#[case] text: &str, #[case] key: &str) {
        assert_eq!(plain(text).into_key().unwrap(), key);
    }
}
