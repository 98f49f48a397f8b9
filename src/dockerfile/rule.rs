//! The rules that a Dockerfile is checked by: those of BuildKit 0.33.0, under its names, each with its page in the
//! documentation of Docker.

use std::fmt;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "what each is for is its description")]
pub enum Rule {
    ConsistentInstructionCasing,
    CopyIgnoredFile,
    DuplicateStageName,
    ExposeInvalidFormat,
    ExposeProtoCasing,
    FromAsCasing,
    FromPlatformFlagConstDisallowed,
    InvalidBaseImagePlatform,
    InvalidDefaultArgInFrom,
    InvalidDefinitionDescription,
    JSONArgsRecommended,
    LegacyKeyValueFormat,
    MaintainerDeprecated,
    MultipleInstructionsDisallowed,
    NoEmptyContinuation,
    RedundantTargetPlatform,
    ReservedStageName,
    SecretsUsedInArgOrEnv,
    StageNameCasing,
    UndefinedArgInFrom,
    UndefinedVar,
    WorkdirRelativePath,
}

/// Where the page of a rule is.
const PAGES: &str = "https://docs.docker.com/go/dockerfile/rule";

impl Rule {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::ConsistentInstructionCasing,
        Self::CopyIgnoredFile,
        Self::DuplicateStageName,
        Self::ExposeInvalidFormat,
        Self::ExposeProtoCasing,
        Self::FromAsCasing,
        Self::FromPlatformFlagConstDisallowed,
        Self::InvalidBaseImagePlatform,
        Self::InvalidDefaultArgInFrom,
        Self::InvalidDefinitionDescription,
        Self::JSONArgsRecommended,
        Self::LegacyKeyValueFormat,
        Self::MaintainerDeprecated,
        Self::MultipleInstructionsDisallowed,
        Self::NoEmptyContinuation,
        Self::RedundantTargetPlatform,
        Self::ReservedStageName,
        Self::SecretsUsedInArgOrEnv,
        Self::StageNameCasing,
        Self::UndefinedArgInFrom,
        Self::UndefinedVar,
        Self::WorkdirRelativePath,
    ];

    /// Its name, as `# check=skip=…` has it; the last part of its page's address; what it asks for, as a sentence
    /// without a full stop.
    const fn entry(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::ConsistentInstructionCasing => (
                "ConsistentInstructionCasing",
                "consistent-instruction-casing",
                "the names of all instructions are in one case, upper or lower",
            ),
            Self::CopyIgnoredFile => (
                "CopyIgnoredFile",
                "copy-ignored-file",
                "what COPY and ADD take from the context is not excluded by its ignore file",
            ),
            Self::DuplicateStageName => {
                ("DuplicateStageName", "duplicate-stage-name", "each stage has a name of its own")
            }
            Self::ExposeInvalidFormat => (
                "ExposeInvalidFormat",
                "expose-invalid-format",
                "EXPOSE names ports of the container, without addresses or ports of the host",
            ),
            Self::ExposeProtoCasing => {
                ("ExposeProtoCasing", "expose-proto-casing", "protocols in EXPOSE are in lower case")
            }
            Self::FromAsCasing => ("FromAsCasing", "from-as-casing", "AS is in the same case as its FROM"),
            Self::FromPlatformFlagConstDisallowed => (
                "FromPlatformFlagConstDisallowed",
                "from-platform-flag-const-disallowed",
                "the platform of a stage is not fixed, unless the name of the stage says so",
            ),
            Self::InvalidBaseImagePlatform => (
                "InvalidBaseImagePlatform",
                "",
                "base images are of the platform that the stage is built for",
            ),
            Self::InvalidDefaultArgInFrom => (
                "InvalidDefaultArgInFrom",
                "invalid-default-arg-in-from",
                "bases have valid names also if no build argument is given",
            ),
            Self::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "invalid-definition-description",
                "a comment right before ARG or a named stage describes it, and begins with its name",
            ),
            Self::JSONArgsRecommended => (
                "JSONArgsRecommended",
                "json-args-recommended",
                "CMD and ENTRYPOINT are in the JSON form, so that signals reach the program",
            ),
            Self::LegacyKeyValueFormat => (
                "LegacyKeyValueFormat",
                "legacy-key-value-format",
                "names and values are joined by `=`, not by a blank",
            ),
            Self::MaintainerDeprecated => (
                "MaintainerDeprecated",
                "maintainer-deprecated",
                "the author of an image is named by a label",
            ),
            Self::MultipleInstructionsDisallowed => (
                "MultipleInstructionsDisallowed",
                "multiple-instructions-disallowed",
                "a stage has one CMD, ENTRYPOINT and HEALTHCHECK at most: only the last one counts",
            ),
            Self::NoEmptyContinuation => (
                "NoEmptyContinuation",
                "no-empty-continuation",
                "an instruction that goes on has no blank lines in it",
            ),
            Self::RedundantTargetPlatform => (
                "RedundantTargetPlatform",
                "redundant-target-platform",
                "the target's platform, which is the default, is not given to FROM",
            ),
            Self::ReservedStageName => {
                ("ReservedStageName", "reserved-stage-name", "no stage is called `context` or `scratch`")
            }
            Self::SecretsUsedInArgOrEnv => (
                "SecretsUsedInArgOrEnv",
                "secrets-used-in-arg-or-env",
                "what is secret is not handed on by ARG or ENV, whose values anybody can read in the image",
            ),
            Self::StageNameCasing => {
                ("StageNameCasing", "stage-name-casing", "names of stages are in lower case")
            }
            Self::UndefinedArgInFrom => (
                "UndefinedArgInFrom",
                "undefined-arg-in-from",
                "variables in FROM are declared by an ARG before the first FROM",
            ),
            Self::UndefinedVar => ("UndefinedVar", "undefined-var", "variables are set before they are used"),
            Self::WorkdirRelativePath => (
                "WorkdirRelativePath",
                "workdir-relative-path",
                "the first WORKDIR is absolute, so that it does not depend on that of the base",
            ),
        }
    }

    /// Its name, as `# check=skip=…` has it.
    pub const fn name(self) -> &'static str {
        self.entry().0
    }

    /// What it asks for, as a sentence without a full stop.
    pub const fn description(self) -> &'static str {
        self.entry().2
    }

    /// The address of its page, if it has one.
    pub fn url(self) -> Option<String> {
        let page = self.entry().1;
        (!page.is_empty()).then(|| format!("{PAGES}/{page}/"))
    }

    /// Whether it counts only where `experimental=` asks for it.
    pub const fn is_experimental(self) -> bool {
        matches!(self, Self::InvalidDefinitionDescription)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
