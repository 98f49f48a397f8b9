//! What is asked of a Dockerfile: `--call` and `--check`.

use super::error::{Problem, SettingsError};
use super::origin::Origin;

/// What is asked of a Dockerfile, and how the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// What is asked.
    pub method: Method,
    /// Whether the answer is JSON.
    pub json: bool,
    /// Whether findings are no failure.
    pub ignore_status: bool,
}

/// What can be asked of a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// To be built.
    #[default]
    Build,
    /// What is to be said against it.
    Check,
    /// What the target takes.
    Outline,
    /// Which targets there are.
    Targets,
}

/// Every method by its names; `lint` is what `check` was called first.
const METHODS: [(&str, Method); 5] = [
    ("build", Method::Build),
    ("check", Method::Check),
    ("lint", Method::Check),
    ("outline", Method::Outline),
    ("targets", Method::Targets),
];

/// `--call`, and `--check`, which is short for `--call=check`.
pub(super) fn resolve(call: Option<&str>, check: bool) -> Result<Call, SettingsError> {
    let call = match call {
        Some(text) => parse(text).map_err(|problem| problem.at(&Origin::Flag("--call")))?,
        None => Call::default(),
    };
    match (call.method, check) {
        (_, false) | (Method::Check, true) => Ok(call),
        (Method::Build, true) => Ok(Call { method: Method::Check, ..call }),
        (Method::Outline | Method::Targets, true) => Err(SettingsError::Conflict {
            problem: "`--check` and `--call` ask for different things".to_owned(),
            hint: Some("leave one of them out".to_owned()),
        }),
    }
}

/// Reads `METHOD[,format=text|json][,ignorestatus=true|false]`.
fn parse(text: &str) -> Result<Call, Problem> {
    let mut call = Call::default();
    let mut named = None;
    for field in text.split(',').filter(|_| !text.is_empty()) {
        match field.split_once('=') {
            Some(("format", "json")) => call.json = true,
            Some(("format", "text" | "")) => call.json = false,
            Some(("format", other)) => {
                return Err(
                    Problem::new(other, "is no format: `text` and `json` are").meant(other, ["text", "json"])
                );
            }
            Some(("ignorestatus", value)) => {
                call.ignore_status = match value.to_ascii_lowercase().as_str() {
                    "1" | "t" | "true" => true,
                    "0" | "f" | "false" => false,
                    _ => return Err(Problem::new(value, "is neither `true` nor `false`")),
                };
            }
            Some((key, _)) => {
                let problem = Problem::new(key, "is no field: `format` and `ignorestatus` are");
                return Err(problem.meant(key, ["format", "ignorestatus"]));
            }
            None if named.is_some() => {
                return Err(Problem::new(text, "names two things to be asked"));
            }
            None => {
                let method = METHODS.iter().find(|(name, _)| *name == field).map(|(_, method)| *method);
                let names = METHODS.map(|(name, _)| name);
                named = Some(method.ok_or_else(|| {
                    Problem::new(field, "cannot be asked: `build`, `check`, `outline` and `targets` can")
                        .meant(field, names)
                })?);
            }
        }
    }
    call.method = named.unwrap_or_default();
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn asked(method: Method) -> Call {
        Call { method, ..Call::default() }
    }

    #[rstest]
    #[case(None, false, Call::default())]
    #[case(None, true, asked(Method::Check))]
    #[case(Some("build"), false, asked(Method::Build))]
    #[case(Some(""), false, asked(Method::Build))]
    #[case(Some("build"), true, asked(Method::Check))]
    #[case(Some("lint"), false, asked(Method::Check))]
    #[case(Some("check,format=json"), true, Call { json: true, ..asked(Method::Check) })]
    #[case(Some("format=json,outline"), false, Call { json: true, ..asked(Method::Outline) })]
    #[case(Some("targets,format=text"), false, asked(Method::Targets))]
    #[case(Some("check,ignorestatus=true"), false, Call { ignore_status: true, ..asked(Method::Check) })]
    fn reads(#[case] call: Option<&str>, #[case] check: bool, #[case] expected: Call) {
        assert_eq!(resolve(call, check).unwrap(), expected);
    }

    #[rstest]
    #[case(
        "chek",
        "`chek` cannot be asked: `build`, `check`, `outline` and `targets` can; did you mean `check`?"
    )]
    #[case("check,outline", "`check,outline` names two things to be asked")]
    #[case("check,format=yaml", "`yaml` is no format: `text` and `json` are")]
    #[case(
        "check,fromat=json",
        "`fromat` is no field: `format` and `ignorestatus` are; did you mean `format`?"
    )]
    #[case("check,ignorestatus=maybe", "`maybe` is neither `true` nor `false`")]
    fn refuses(#[case] text: &str, #[case] words: &str) {
        assert_eq!(parse(text).unwrap_err().words(), words);
    }

    #[test]
    fn one_thing_is_asked_at_a_time() {
        assert!(resolve(Some("outline"), true).is_err());
    }
}
