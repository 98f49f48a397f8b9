//! `WWW-Authenticate`, RFC 9110 sections 11.2 to 11.6: challenges parted by commas, whose parameters are parted
//! by commas too.
//!
//! The parser never fails. What it cannot read it leaves out, for a challenge that is not understood is the same
//! as one that is not there; and it takes values without quotes that hold characters of an address
//! (`realm=https://…`), which the grammar forbids and registries send.

/// One challenge of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// The scheme in lower case: `bearer`, `basic`, …
    pub(crate) scheme: String,
    /// Names in lower case, values without their quotes.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter, if it is there and not empty.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

/// The challenges of one header, in its order.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut cursor = Cursor { rest: header };
    let mut challenges = Vec::new();
    loop {
        cursor.skip(|byte| byte == b',' || is_blank(byte));
        let scheme = cursor.take(is_token);
        if scheme.is_empty() {
            // Not the start of a challenge: go on behind it, or end.
            if cursor.rest.is_empty() {
                return challenges;
            }
            cursor.advance_char();
            continue;
        }
        let scheme = scheme.to_ascii_lowercase();
        let parameters = cursor.parameters();
        challenges.push(Challenge { scheme, parameters });
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let end = self.rest.bytes().position(|byte| !wanted(byte)).unwrap_or(self.rest.len());
        // A byte that is wanted is ASCII everywhere below, so `end` is a boundary of characters.
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn skip(&mut self, unwanted: impl Fn(u8) -> bool) {
        self.take(unwanted);
    }

    fn advance_char(&mut self) {
        let mut characters = self.rest.chars();
        characters.next();
        self.rest = characters.as_str();
    }

    /// The parameters up to the next challenge or the end. A `token68` (`Negotiate YII=`) is passed over.
    fn parameters(&mut self) -> Vec<(String, String)> {
        let mut parameters = Vec::new();
        let mut first = true;
        loop {
            let before = self.rest;
            self.skip(|byte| is_blank(byte) || byte == b',' && !first);
            let name = self.take(is_token);
            self.skip(is_blank);
            let is_parameter = !name.is_empty()
                && self.rest.strip_prefix('=').is_some_and(|behind| {
                    // `abc=` and `abc==` are the padding of a token68, not a parameter without a value.
                    !matches!(behind.trim_start().bytes().next(), None | Some(b',' | b'='))
                });
            if is_parameter {
                self.advance_char();
                self.skip(is_blank);
                let value = self.value();
                parameters.push((name.to_ascii_lowercase(), value));
                first = false;
                continue;
            }
            if first && !self.rest.starts_with(',') {
                self.rest = before;
                self.skip(is_blank);
                self.skip(|byte| byte != b',' && !is_blank(byte) && byte.is_ascii());
            } else {
                self.rest = before;
            }
            return parameters;
        }
    }

    fn value(&mut self) -> String {
        if !self.rest.starts_with('"') {
            return self.take(|byte| byte != b',' && !is_blank(byte) && byte.is_ascii()).to_owned();
        }
        self.advance_char();
        let mut value = String::new();
        loop {
            let mut characters = self.rest.chars();
            let character = characters.next();
            self.rest = characters.as_str();
            match character {
                None | Some('"') => return value,
                Some('\\') => {
                    value.extend(self.rest.chars().next());
                    self.advance_char();
                }
                Some(other) => value.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn shown(header: &str) -> String {
        let each = parse(header).into_iter().map(|challenge| {
            let parameters: Vec<String> =
                challenge.parameters.iter().map(|(name, value)| format!("{name}=<{value}>")).collect();
            format!("{} {}", challenge.scheme, parameters.join(" ")).trim_end().to_owned()
        });
        each.collect::<Vec<_>>().join(" | ")
    }

    #[rstest]
    #[case(
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
        "bearer realm=<https://auth.docker.io/token> service=<registry.docker.io> scope=<repository:a/b:pull,push>"
    )]
    #[case(r#"Basic realm="a, b""#, "basic realm=<a, b>")]
    #[case(r#"basic Realm="say \"hi\" \\""#, r#"basic realm=<say "hi" \>"#)]
    #[case(
        r#"Basic realm="x", Bearer realm="y",service=z"#,
        "basic realm=<x> | bearer realm=<y> service=<z>"
    )]
    #[case(r#"Negotiate, Basic realm="x""#, "negotiate | basic realm=<x>")]
    #[case(r#"Negotiate YII=, Basic realm="x""#, "negotiate | basic realm=<x>")]
    #[case(
        r#"Newauth realm="apps", type=1, title="Login", Basic realm="simple""#,
        "newauth realm=<apps> type=<1> title=<Login> | basic realm=<simple>"
    )]
    #[case(
        "Bearer realm=https://r.example/token,service=r",
        "bearer realm=<https://r.example/token> service=<r>"
    )]
    #[case(r#"Bearer  realm = "x" , service="y""#, "bearer realm=<x> service=<y>")]
    #[case(r#", ,Basic realm="x",,"#, "basic realm=<x>")]
    #[case(r#"Bearer realm="unterminated"#, "bearer realm=<unterminated>")]
    #[case("Basic", "basic")]
    #[case("", "")]
    #[case("\"\"", "")]
    fn reads(#[case] header: &str, #[case] expected: &str) {
        assert_eq!(shown(header), expected);
    }

    proptest! {
        #[test]
        fn ends_on_any_text(header in "\\PC*") {
            parse(&header);
        }

        #[test]
        fn ends_on_nearly_right_text(header in "[Bb ,=\"\\\\x:é]{0,40}") {
            parse(&header);
        }
    }
}
