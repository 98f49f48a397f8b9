//! Variables in scope: the environment of a stage, and the global arguments that FROM sees.

use std::collections::{BTreeMap, BTreeSet};

use super::outline::Declared;
use crate::dockerfile::{
    Diagnostic, Expanded, ExpandedWords, Instruction, InstructionKind, Word, description,
};
use crate::image::Platform;

/// Names and values in order; a value that is set again moves to the end, as in BuildKit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets `name`.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// All of it, in order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Expands a word with these variables.
    ///
    /// # Errors
    /// What is wrong with the word, and where.
    pub fn expand(&self, word: &Word) -> Result<Expanded, Diagnostic> {
        word.expand(&|name| self.get(name).map(str::to_owned)).map_err(|error| word.explain(&error))
    }

    /// Expands a word that may become several.
    ///
    /// # Errors
    /// As [`Environment::expand`].
    pub fn expand_words(&self, word: &Word) -> Result<ExpandedWords, Diagnostic> {
        word.expand_words(&|name| self.get(name).map(str::to_owned)).map_err(|error| word.explain(&error))
    }

    /// The text of an expanded word.
    ///
    /// # Errors
    /// As [`Environment::expand`].
    pub fn text(&self, word: &Word) -> Result<String, Diagnostic> {
        self.expand(word).map(|expanded| expanded.text)
    }
}

/// Build arguments that every build takes without a declaration: they reach RUN, and neither keys nor history.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// The variables that the predefined proxy arguments among `build_args` give to every RUN, in both cases of letters.
pub fn proxy_environment(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut environment = BTreeMap::new();
    for (name, value) in build_args {
        let lower = name.to_ascii_lowercase();
        if PROXIES.contains(&lower.as_str()) {
            environment.insert(lower.to_ascii_uppercase(), value.clone());
            environment.insert(lower, value.clone());
        }
    }
    environment.into_iter().collect()
}

/// Whether a build argument has its meaning without being declared.
fn is_predefined(name: &str) -> bool {
    PROXIES.contains(&name.to_ascii_lowercase().as_str())
        || name.starts_with("BUILDKIT_")
        || name == "SOURCE_DATE_EPOCH"
}

/// The arguments given to a build, and which of them meant something.
#[derive(Debug, Clone, Default)]
pub struct BuildArgs {
    values: BTreeMap<String, String>,
    declared: BTreeSet<String>,
}

impl BuildArgs {
    /// Arguments as given.
    pub fn new(values: BTreeMap<String, String>) -> Self {
        Self { values, declared: BTreeSet::new() }
    }

    /// All of them.
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// The value given for the argument that an ARG declares.
    pub fn declare(&mut self, name: &str) -> Option<&str> {
        self.declared.insert(name.to_owned());
        self.values.get(name).map(String::as_str)
    }

    /// Arguments that no ARG has declared and that mean nothing by themselves.
    pub fn unused(&self) -> Vec<&str> {
        let names = self.values.keys().map(String::as_str);
        names.filter(|name| !self.declared.contains(*name) && !is_predefined(name)).collect()
    }
}

/// The arguments that are there without an ARG: platforms, and the target.
pub fn predefined_arguments(
    build_args: &mut BuildArgs,
    build: &Platform,
    target: &Platform,
    target_stage: &str,
) -> Environment {
    let mut global = Environment::default();
    let variant = |platform: &Platform| platform.variant.clone().unwrap_or_default();
    let predefined = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", variant(build)),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", variant(target)),
        ("TARGETSTAGE", if target_stage.is_empty() { "default".to_owned() } else { target_stage.to_owned() }),
    ];
    for (name, value) in predefined {
        let given = build_args.declare(name).map(str::to_owned);
        global.set(name, given.as_deref().unwrap_or(&value));
    }
    global
}

/// The global arguments: those that are predefined, and the ARG instructions before the first FROM.
///
/// # Errors
/// If a default cannot be expanded.
pub fn global_arguments(
    instructions: &[Instruction],
    build_args: &mut BuildArgs,
    predefined: &Environment,
) -> Result<(Environment, Vec<Declared>), Diagnostic> {
    let mut global = predefined.clone();
    let mut declared = Vec::new();
    for instruction in instructions {
        let InstructionKind::Arg(arguments) = &instruction.kind else { continue };
        for argument in arguments {
            let name = &argument.name.value;
            let given = build_args.declare(name).map(str::to_owned);
            let mut uses = BTreeSet::new();
            let value = match (given, &argument.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => {
                    let expanded = global.expand(default).map_err(|error| error.within(instruction.span))?;
                    uses = expanded.used;
                    Some(expanded.text)
                }
                (None, None) => None,
            };
            if let Some(value) = &value {
                global.set(name, value);
            }
            declared.push(Declared {
                name: name.clone(),
                value,
                description: description(&instruction.comments, name).map(str::to_owned),
                span: instruction.span,
                uses,
            });
        }
    }
    Ok((global, declared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_set_again_moves_to_the_end() {
        let mut environment = Environment::default();
        environment.set("A", "1");
        environment.set("B", "2");
        environment.set("A", "3");
        assert_eq!(environment.pairs(), [("B".into(), "2".into()), ("A".into(), "3".into())]);
    }

    #[test]
    fn proxies_are_given_in_both_cases() {
        let given = BTreeMap::from([("HTTP_PROXY".to_owned(), "x".to_owned()), ("other".into(), "y".into())]);
        let environment = proxy_environment(&given);
        assert_eq!(environment, [("HTTP_PROXY".into(), "x".into()), ("http_proxy".into(), "x".into())]);
    }

    #[test]
    fn an_argument_that_nothing_declares_is_unused() {
        let values =
            [("A", "1"), ("B", "2"), ("http_proxy", "p"), ("SOURCE_DATE_EPOCH", "0"), ("BUILDKIT_X", "1")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut arguments = BuildArgs::new(BTreeMap::from(values));
        assert_eq!(arguments.declare("A"), Some("1"));
        assert_eq!(arguments.unused(), ["B"]);
    }
}
