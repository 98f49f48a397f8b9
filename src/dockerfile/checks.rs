//! Checks: what is not wrong with a Dockerfile and yet not as it should be.
//!
//! Each finding belongs to a [`Rule`]. Which rules count is said by `# check=` at the head of the file (or the build
//! argument `BUILDKIT_DOCKERFILE_CHECK` instead of it), and for one instruction by `# check=skip=…` in the comments
//! before it. What needs no more than the text is found here; what depends on the values of variables, on base images
//! or on the ignore file is found by those who know them.
//!
//! Invariant: a finding has a rule and a subject, the instruction whose lines BuildKit names for it.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Diagnostics, quote};
use super::directives::CheckOptions;
use super::instruction::{Instruction, InstructionKind};
use super::rule::Rule;
use super::span::{Span, Spanned};
use super::stage::{Dockerfile, FromInstruction};

/// Names that mean something else where a stage could be named.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// Which checks are made, and what they have found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checks {
    options: CheckOptions,
    /// Where the options stand, if they stand in the file.
    place: Option<Span>,
    found: Vec<Diagnostic>,
}

impl Checks {
    /// The checks that a file asks for by `# check=`, unless others are asked for instead.
    pub fn new(file: &Dockerfile, instead: Option<CheckOptions>) -> Self {
        let written = file.directives.check.as_ref();
        match (instead, written) {
            (Some(options), _) => Self { options, ..Self::default() },
            (None, Some(written)) => {
                Self { options: written.value.clone(), place: Some(written.span), found: Vec::new() }
            }
            (None, None) => Self::default(),
        }
    }

    /// Keeps a finding about the instruction at `subject`, unless its rule does not count. `comments` are those before
    /// the instruction that is looked at; none where BuildKit does not ask them.
    pub fn add(&mut self, rule: Rule, subject: Span, comments: &[Spanned<String>], finding: Diagnostic) {
        let own = comments.iter().find_map(|comment| CheckOptions::in_comment(&comment.value));
        let chosen = |choice: fn(&CheckOptions) -> &super::directives::Rules| {
            let all = std::iter::once(&self.options).chain(&own);
            all.into_iter().any(|options| choice(options).contains(rule.name()))
        };
        let counts = match rule.is_experimental() {
            true => chosen(|options| &options.experimental),
            false => !chosen(|options| &options.skip),
        };
        if counts {
            self.found.push(finding.rule(rule).about(subject));
        }
    }

    /// What was found so far.
    pub fn found(&self) -> &[Diagnostic] {
        &self.found
    }

    /// What was found, in the order of the lines.
    pub fn into_found(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|finding| finding.subject().start);
        self.found
    }

    /// What was found so far, and the error that ends it.
    pub fn with_error(&self, error: Diagnostic) -> Diagnostics {
        let mut list = self.found.clone();
        list.push(error);
        Diagnostics(list)
    }

    /// Whether what was found is an error, because `error=true` says so.
    ///
    /// # Errors
    /// Then that.
    pub fn verdict(&self) -> Result<(), Diagnostic> {
        if !self.options.error || self.found.is_empty() {
            return Ok(());
        }
        let mut rules: Vec<&str> =
            self.found.iter().filter_map(|finding| finding.rule).map(Rule::name).collect();
        rules.sort_unstable();
        rules.dedup();
        let message = format!("checks have found something, which is an error here: {}", rules.join(", "));
        let error = Diagnostic::error(message, self.place.unwrap_or_default());
        Err(error.hint("`error=true` of `check` makes it one; `skip=RULE` takes a rule out"))
    }

    /// Checks everything that the text alone tells.
    pub fn text(&mut self, file: &Dockerfile) {
        for finding in &file.warnings.0 {
            if finding.rule == Some(Rule::NoEmptyContinuation) {
                self.add(Rule::NoEmptyContinuation, finding.subject(), &[], finding.clone());
            }
        }
        self.lines(file, usize::MAX);
        self.stage_names(file);
        self.casing(file);
    }

    /// Checks the instructions before `end` one by one.
    pub(super) fn lines(&mut self, file: &Dockerfile, end: usize) {
        let global = file.global_args.iter().filter(|instruction| instruction.span.start < end);
        global.for_each(|instruction| self.instruction(instruction));
        for stage in file.stages.iter().filter(|stage| stage.from.span.start < end) {
            self.from(&stage.from);
            let own = stage.instructions.iter().filter(|instruction| instruction.span.start < end);
            own.for_each(|instruction| self.instruction(instruction));
        }
    }

    fn instruction(&mut self, instruction: &Instruction) {
        match &instruction.kind {
            InstructionKind::Maintainer(_) => {
                let finding = Diagnostic::warning("MAINTAINER is deprecated", instruction.keyword.span)
                    .hint("write `LABEL org.opencontainers.image.authors=…`");
                self.add(Rule::MaintainerDeprecated, instruction.span, &instruction.comments, finding);
            }
            InstructionKind::Arg(args) => {
                let names: Vec<&str> = args.iter().map(|arg| arg.name.value.as_str()).collect();
                self.description("ARG", &names, instruction.span, &instruction.comments);
            }
            _ => {}
        }
    }

    fn from(&mut self, from: &FromInstruction) {
        let Some(name) = &from.name else { return };
        if name.written != name.written.to_lowercase() {
            let message = format!("the name of the stage, {}, is not in lower case", quote(&name.written));
            let finding = Diagnostic::warning(message, name.span)
                .hint(format!("it is compared as {}: write it like that", quote(&name.name)));
            self.add(Rule::StageNameCasing, from.span, &from.comments, finding);
        }
        let written = &name.keyword.value;
        let wanted = match from.written.as_str() {
            keyword if keyword == keyword.to_lowercase() => Some(written.to_lowercase()),
            keyword if keyword == keyword.to_uppercase() => Some(written.to_uppercase()),
            // That is for another rule to say.
            _ => None,
        };
        if let Some(wanted) = wanted.filter(|wanted| wanted != written) {
            let message = format!("`{written}` is not in the case of its `{}`", from.written);
            let finding = Diagnostic::warning(message, name.keyword.span)
                .context(from.keyword, "written like this")
                .hint(format!("write `{wanted}`"));
            self.add(Rule::FromAsCasing, from.span, &from.comments, finding);
        }
        self.description("FROM", &[&name.name], from.span, &from.comments);
    }

    /// Whether the comment before a definition describes it.
    fn description(&mut self, keyword: &str, names: &[&str], subject: Span, comments: &[Spanned<String>]) {
        let Some(last) = comments.last() else { return };
        let first = last.value.split(' ').next().unwrap_or_default();
        if names.contains(&first) {
            return;
        }
        let name = match names {
            [name] => (*name).to_owned(),
            _ => "NAME".to_owned(),
        };
        let message = format!("the comment right before {keyword} does not begin with the name it describes");
        let finding = Diagnostic::warning(message, last.span).hint(format!(
            "write {}, or part the comment from the instruction by a line that holds `#` alone",
            quote(&format!("# {name} DESCRIPTION"))
        ));
        self.add(Rule::InvalidDefinitionDescription, subject, comments, finding);
    }

    fn stage_names(&mut self, file: &Dockerfile) {
        let mut known: BTreeMap<&str, Span> = BTreeMap::new();
        for stage in &file.stages {
            let Some(name) = &stage.from.name else { continue };
            if RESERVED.contains(&name.name.as_str()) {
                let message = format!("a stage should not be called {}", quote(&name.name));
                let finding = Diagnostic::warning(message, name.span)
                    .hint("the name means something else wherever a stage can be named");
                self.add(Rule::ReservedStageName, stage.from.span, &[], finding);
            }
            match known.get(name.name.as_str()) {
                Some(first) => {
                    let message = format!("there is a stage {} before this one", quote(&name.name));
                    let finding = Diagnostic::warning(message, name.span).context(*first, "here").hint(
                        "whoever names it from here on gets the later one: give one of them another name",
                    );
                    self.add(Rule::DuplicateStageName, stage.from.span, &[], finding);
                }
                None => drop(known.insert(&name.name, name.span)),
            }
        }
    }

    /// Whether all instructions are in the case that most of them are in.
    fn casing(&mut self, file: &Dockerfile) {
        let names = file.stages.iter().flat_map(|stage| {
            let from = (stage.from.written.as_str(), stage.from.keyword, stage.from.span);
            let own = stage.instructions.iter();
            std::iter::once(from).chain(own.map(|it| (it.written.as_str(), it.keyword.span, it.span)))
        });
        let names: Vec<(&str, Span, Span)> = names.collect();
        let count = |is: fn(&str) -> bool| names.iter().filter(|(name, ..)| is(name)).count();
        let lower = count(|name| name == name.to_lowercase());
        let upper = count(|name| name == name.to_uppercase());
        for (name, place, subject) in names {
            let (wanted, case) = match lower > upper {
                true => (name.to_lowercase(), "lower"),
                false => (name.to_uppercase(), "upper"),
            };
            if name != wanted {
                let message = format!("`{name}` is not in {case} case, as most instructions are");
                let finding = Diagnostic::warning(message, place).hint(format!("write `{wanted}`"));
                self.add(Rule::ConsistentInstructionCasing, subject, &[], finding);
            }
        }
    }
}

/// What checks find in a file that cannot be understood as a whole, up to the first thing that is wrong with it: one
/// instruction after the other. `findings` is what is wrong, `file` what could be understood nevertheless.
pub(super) fn before_error(
    file: &Dockerfile,
    findings: &Diagnostics,
    instead: Option<CheckOptions>,
) -> Vec<Diagnostic> {
    let mut checks = Checks::new(file, instead);
    let first = findings.0.iter().find(|finding| finding.is_error()).map(Diagnostic::subject);
    for finding in findings.0.iter().filter(|finding| finding.rule == Some(Rule::NoEmptyContinuation)) {
        checks.add(Rule::NoEmptyContinuation, finding.subject(), &[], finding.clone());
    }
    checks.lines(file, first.map_or(usize::MAX, |span| span.start));
    checks.into_found()
}

#[cfg(test)]
mod tests {
    use super::super::{LineIndex, parse};
    use super::*;
    use rstest::rstest;

    /// `line:rule` of what is found in `text`.
    fn found(text: &str) -> Vec<String> {
        let file = parse(text).unwrap();
        let mut checks = Checks::new(&file, None);
        checks.text(&file);
        let lines = LineIndex::new(text);
        let shown = |finding: &Diagnostic| {
            format!("{}:{}", lines.line(finding.subject().start), finding.rule.unwrap())
        };
        checks.into_found().iter().map(shown).collect()
    }

    #[rstest]
    #[case("FROM a AS B\n", &["1:StageNameCasing"])]
    #[case("# check=skip=StageNameCasing\nFROM a AS B\n", &[])]
    #[case("# check=skip=all\nFROM a AS B\nMAINTAINER b\n", &[])]
    #[case("# check=skip=Other\nFROM a AS B\n", &["2:StageNameCasing"])]
    #[case::a_comment_is_for_its_instruction(
        "#\n# check=skip=MaintainerDeprecated because\nFROM a\nMAINTAINER b\n", &["4:MaintainerDeprecated"]
    )]
    #[case("FROM a\n# check=skip=MaintainerDeprecated because\nMAINTAINER b\n", &[])]
    #[case::some_rules_are_for_the_file("FROM a AS b\n# check=skip=all\nFROM c AS b\n", &["3:DuplicateStageName"])]
    #[case::experimental_rules_are_asked_for("# note\nARG A\nFROM a\n", &[])]
    #[case(
        "# check=experimental=InvalidDefinitionDescription;skip=all\n# note\nARG A\nFROM a\n",
        &["3:InvalidDefinitionDescription"]
    )]
    fn finds(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(found(text), expected);
    }

    #[test]
    fn other_options_take_the_place_of_the_files() {
        let file = parse("# check=skip=all;error=true\nFROM a AS B\n").unwrap();
        let mut checks = Checks::new(&file, Some(CheckOptions::default()));
        checks.text(&file);
        assert_eq!(checks.found().len(), 1);
        assert_eq!(checks.verdict(), Ok(()));
    }

    #[test]
    fn findings_are_errors_where_the_file_says_so() {
        let text = "# check=error=true\nFROM a AS B\nMAINTAINER c\n";
        let file = parse(text).unwrap();
        let mut checks = Checks::new(&file, None);
        assert_eq!(checks.verdict(), Ok(()));
        checks.text(&file);
        let error = checks.verdict().unwrap_err();
        assert!(error.message.ends_with("MaintainerDeprecated, StageNameCasing"), "{error}");
        assert_eq!(error.span().text(text), Some("error=true"));
    }

    #[test]
    fn rules_have_names_and_pages() {
        for rule in Rule::ALL {
            assert!(!rule.description().is_empty() && !rule.description().ends_with('.'), "{rule}");
            let Some(url) = rule.url() else { continue };
            let page = url.trim_end_matches('/').rsplit('/').next().unwrap();
            assert_eq!(page.replace('-', ""), rule.name().to_lowercase(), "{url}");
        }
    }
}
