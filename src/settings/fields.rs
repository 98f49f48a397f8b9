//! Comma-separated fields, by the rules of `docker` (one record of Go's `encoding/csv`): a field that begins with `"` ends
//! with the next `"` that is not doubled and may hold commas.

use super::error::Problem;

/// The fields of `text`.
pub(super) fn fields(text: &str) -> Result<Vec<String>, Problem> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(text, quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return Err(Problem::new(text, "has a quote in the middle of a field")
                        .hint("quote the whole field: `\"dest=a,b.tar\"`"));
                }
                (field.to_owned(), after)
            }
        };
        found.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(found),
            None => return Err(Problem::new(text, "has text between a quote's end and the next comma")),
        }
    }
}

/// The field behind its opening quote, and what follows its closing one.
fn quoted_field<'a>(text: &str, quoted: &'a str) -> Result<(String, &'a str), Problem> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            return Err(Problem::new(text, "has a quote that is not closed"));
        };
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(doubled) => {
                field.push('"');
                rest = doubled;
            }
            None => return Ok((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("type=oci,dest=x.tar", &["type=oci", "dest=x.tar"])]
    #[case("one", &["one"])]
    #[case("", &[""])]
    #[case("a,,b,", &["a", "", "b", ""])]
    #[case(r#"type=oci,"name=a,b",x"#, &["type=oci", "name=a,b", "x"])]
    #[case(r#""say ""hi""""#, &[r#"say "hi""#])]
    fn splits(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(fields(text).unwrap(), expected);
    }

    #[rstest]
    #[case(r#"name="a,b""#)]
    #[case(r#""open"#)]
    #[case(r#""a"b"#)]
    fn refuses(#[case] text: &str) {
        assert!(fields(text).is_err());
    }
}
