//! Checks that need the values of variables or the configuration of base images: of FROM, and of the instructions of
//! a stage, each looked at right before it is carried out.
//!
//! What is found, and about which instruction, is what BuildKit 0.33.0 finds; the sentences are our own.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Base, Graph, Node};
use super::operation::{Source, StageIndex};
use super::outline::Declared;
use super::ports;
use super::scope::{BuildArgs, Environment, global_arguments};
use super::stage::{Draft, NO_VARIABLES};
use crate::dockerfile::{
    CommandLine, Diagnostic, Dockerfile, FromInstruction, Instruction, InstructionKind, Rule, Span, Spanned,
    Transfer, Word, description, nearest, quote,
};
use crate::image::{Platform, Reference};

/// Names with one of these in them hold secrets, as far as their names tell: parts between `_`, in lower case.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "passwd", "password", "pword", "secret", "token"];
/// Names with one of these in them do not, whatever else is in them.
const NO_SECRET: [&str; 3] = ["file", "public", "version"];

/// Whether a variable holds a secret, as far as its name tells.
pub fn sounds_secret(name: &str) -> bool {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&NO_SECRET)
}

/// The variable that holds the platform that is built for.
const TARGET_PLATFORM: &str = "TARGETPLATFORM";

impl Graph<'_> {
    /// Checks that the bases have valid names if no build argument is given.
    pub(super) fn check_defaults(&mut self, file: &Dockerfile) {
        let mut none = BuildArgs::default();
        // A default that cannot be expanded is an error, which is told as such.
        let Ok((defaults, _)) = global_arguments(&file.global_args, &mut none, &self.global) else { return };
        for stage in &file.stages {
            let image = &stage.from.image;
            let Ok(name) = defaults.expand(image) else { return };
            if name.text.parse::<Reference>().is_ok() {
                continue;
            }
            let message = match name.text.as_str() {
                "" => format!("the base {} is empty if no build argument is given", quote(&image.text)),
                text => format!(
                    "the base {} is {} if no build argument is given, which is no image",
                    quote(&image.text),
                    quote(text)
                ),
            };
            let finding = Diagnostic::warning(message, image.span)
                .hint("give the ARG before FROM a default that makes it a name");
            self.checks.add(Rule::InvalidDefaultArgInFrom, stage.from.span, &[], finding);
        }
    }

    /// Checks the words of a FROM.
    pub(super) fn check_from(&mut self, from: &FromInstruction) {
        self.check_declared(from, &from.image);
        let Some(word) = &from.platform else { return };
        self.check_declared(from, word);
        let Ok(platform) = self.global.expand(word) else { return };
        let add =
            |graph: &mut Self, rule, finding| graph.checks.add(rule, from.span, &from.comments, finding);
        if platform.used.iter().eq([TARGET_PLATFORM])
            && platform.undefined.is_empty()
            && self.global.get(TARGET_PLATFORM) == Some(&platform.text)
        {
            let message = format!("{} is the platform that stages are built for anyway", quote(&word.text));
            let finding = Diagnostic::warning(message, word.span).hint("leave `--platform` out");
            add(self, Rule::RedundantTargetPlatform, finding);
        }
        let name = from.name.as_ref().map_or("", |name| name.name.as_str());
        if platform.used.is_empty()
            && platform.undefined.is_empty()
            && let Ok(fixed) = platform.text.parse::<Platform>()
            && !name.contains(&fixed.os)
            && !name.contains(&fixed.architecture)
        {
            let message = format!("the platform is fixed to {}", quote(&platform.text));
            let finding = Diagnostic::warning(message, word.span).hint(
                "leave it to `--platform` of the build, use `$BUILDPLATFORM` for tools, or name the stage after it",
            );
            add(self, Rule::FromPlatformFlagConstDisallowed, finding);
        }
    }

    /// Checks that the variables of a word of FROM are declared.
    fn check_declared(&mut self, from: &FromInstruction, word: &Word) {
        let Ok(expanded) = self.global.expand(word) else { return };
        let declared = self.declared.iter().map(|argument| argument.name.as_str());
        let known: BTreeSet<&str> =
            declared.chain(self.global.pairs().iter().map(|(name, _)| name.as_str())).collect();
        let unknown: Vec<&String> =
            expanded.undefined.iter().filter(|name| !known.contains(name.as_str())).collect();
        let mut findings = Vec::new();
        for name in unknown {
            let message = format!("FROM uses `${name}`, which no ARG before the first FROM declares");
            let hint = match nearest(name, known.iter().copied()) {
                Some(meant) => format!("did you mean `${meant}`?"),
                None => format!("write `ARG {name}=…` before the first FROM"),
            };
            findings.push(Diagnostic::warning(message, word.span).hint(hint));
        }
        for finding in findings {
            self.checks.add(Rule::UndefinedArgInFrom, from.span, &from.comments, finding);
        }
    }

    /// Checks that an image is of the platform it was asked for.
    fn check_platform(&mut self, number: usize, place: Span, subject: Span) {
        let Some((expected, image)) = self.found_for(number) else { return };
        let actual = Platform::new(&image.config.os, &image.config.architecture, None);
        let fits = (&expected.os, &expected.architecture) == (&actual.os, &actual.architecture);
        if fits || image.layers.is_empty() {
            return;
        }
        let message = format!("{} is of the platform {actual}, not {expected}", quote(&image.name));
        let finding = Diagnostic::warning(message, place)
            .hint("name an image that is there for the platform, or build for the image's");
        self.checks.add(Rule::InvalidBaseImagePlatform, subject, &[], finding);
    }
}

/// What is noted of a stage while its instructions are looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Survey {
    /// Whether there was a WORKDIR, here or in a stage that this one is built upon.
    directory_set: bool,
    /// Where CMD, ENTRYPOINT and HEALTHCHECK stood last, by their names.
    last: BTreeMap<&'static str, (Span, Span)>,
    /// The ARG instructions that do more than to take a global one over.
    pub declared: Vec<Declared>,
    /// The names that its ARG instructions declare.
    pub used: BTreeSet<String>,
    /// The names of the variables in its FROM.
    pub used_by_from: BTreeSet<String>,
}

/// An instruction that is looked at.
struct Look<'a> {
    instruction: &'a Instruction,
    /// FROM, if its base has brought the instruction along.
    from: Option<Span>,
}

impl Look<'_> {
    /// What a finding is about: BuildKit has what triggers do in the place of FROM.
    fn subject(&self) -> Span {
        self.from.unwrap_or(self.instruction.span)
    }

    fn finding(&self, message: String, place: Span) -> Diagnostic {
        match self.from {
            None => Diagnostic::warning(message, place),
            Some(from) => Diagnostic::warning(message, from)
                .label(format!("in the base's trigger `{}`", self.instruction.original)),
        }
    }

    fn add(&self, graph: &mut Graph<'_>, rule: Rule, finding: Diagnostic) {
        graph.checks.add(rule, self.subject(), &self.instruction.comments, finding);
    }
}

impl Survey {
    /// Before the first instruction of a stage.
    pub(super) fn begin(
        graph: &mut Graph<'_>,
        node: &Node<'_>,
        drafts: &BTreeMap<StageIndex, Draft>,
    ) -> Self {
        let mut survey = Self::default();
        match node.base {
            Base::Stage(base) => {
                if let Some(base) = drafts.get(&base) {
                    survey.directory_set = base.survey.directory_set;
                }
            }
            Base::Image(number) => graph.check_platform(number, node.from.image.span, node.from.span),
            Base::Scratch => {}
        }
        for word in std::iter::once(&node.from.image).chain(&node.from.platform) {
            let used = graph.global.expand(word).map(|expanded| expanded.used);
            survey.used_by_from.extend(used.unwrap_or_default());
        }
        survey
    }

    /// Looks at an instruction that is about to be carried out in `draft`. `from` is where FROM stands, if the base has
    /// brought the instruction along.
    pub(super) fn look(
        &mut self,
        graph: &mut Graph<'_>,
        draft: &Draft,
        instruction: &Instruction,
        from: Option<Span>,
    ) {
        let look = Look { instruction, from };
        for word in words(instruction) {
            look.variables(graph, draft, &draft.environment, word, &[]);
        }
        match &instruction.kind {
            InstructionKind::Arg(_) => self.arguments(graph, draft, &look),
            InstructionKind::Env(pairs) => {
                look.legacy(graph, pairs.iter().filter(|pair| pair.legacy).count());
                for pair in pairs {
                    let name = draft.environment.text(&pair.key).unwrap_or_default();
                    look.secret(graph, "ENV", &name, pair.key.span);
                }
            }
            InstructionKind::Label(pairs) => {
                look.legacy(graph, pairs.iter().filter(|pair| pair.legacy).count());
            }
            InstructionKind::Workdir(path) => self.directory(graph, draft, &look, path),
            InstructionKind::Cmd(command) => {
                self.once(graph, &look, "CMD");
                look.form(graph, draft, "CMD", command);
            }
            InstructionKind::Entrypoint(command) => {
                self.once(graph, &look, "ENTRYPOINT");
                look.form(graph, draft, "ENTRYPOINT", command);
            }
            InstructionKind::Healthcheck(_) => self.once(graph, &look, "HEALTHCHECK"),
            InstructionKind::Expose(ports) => look.ports(graph, draft, ports),
            InstructionKind::Copy(copy) => {
                let index = draft.stage.index;
                let source = copy.from.as_ref().map(|from| graph.source(&from.value, from.span, index));
                if let (Some(Ok(Source::Image(number))), Some(from)) = (source, &copy.from) {
                    graph.check_platform(number, look.from.unwrap_or(from.span), look.subject());
                }
            }
            _ => {}
        }
    }

    fn arguments(&mut self, graph: &mut Graph<'_>, draft: &Draft, look: &Look<'_>) {
        let InstructionKind::Arg(arguments) = &look.instruction.kind else { return };
        // The arguments of one instruction see each other.
        let mut environment = draft.environment.clone();
        for (at, argument) in arguments.iter().enumerate() {
            let name = &argument.name.value;
            look.secret(graph, "ARG", name, argument.name.span);
            let given = graph.build_args.values().get(name).cloned();
            let global = graph.global.get(name).map(str::to_owned);
            let inherits = given.is_none() && argument.default.is_none() && global.is_some();
            let value = match (given, &argument.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => {
                    let earlier = arguments.get(..at).unwrap_or_default();
                    let earlier: Vec<&str> = earlier.iter().map(|it| it.name.value.as_str()).collect();
                    look.variables(graph, draft, &environment, default, &earlier);
                    environment.text(default).ok()
                }
                (None, None) => global,
            };
            if let Some(value) = &value
                && !NO_VARIABLES.contains(&name.as_str())
            {
                environment.set(name, value);
            }
            self.used.insert(name.clone());
            if !inherits {
                self.declared.push(Declared {
                    name: name.clone(),
                    value,
                    description: description(&look.instruction.comments, name).map(str::to_owned),
                    span: look.subject(),
                    uses: BTreeSet::new(),
                });
            }
        }
    }

    /// Whether the first WORKDIR is absolute.
    fn directory(&mut self, graph: &mut Graph<'_>, draft: &Draft, look: &Look<'_>, path: &Word) {
        let Ok(written) = draft.environment.text(path) else { return };
        let drive = || written.get(1..3).is_some_and(|rest| rest == ":\\" || rest == ":/");
        let absolute = match draft.stage.platform.os.as_str() {
            "windows" => written.starts_with(['/', '\\']) || drive(),
            _ => written.starts_with('/'),
        };
        if !self.directory_set && !absolute {
            let message = format!("{} is relative to whatever directory the base has set", quote(&written));
            let finding = look.finding(message, path.span).hint("write an absolute path");
            look.add(graph, Rule::WorkdirRelativePath, finding);
        }
        self.directory_set = true;
    }

    /// Whether an instruction of which only the last counts stands there for the first time.
    fn once(&mut self, graph: &mut Graph<'_>, look: &Look<'_>, name: &'static str) {
        let here = (look.instruction.keyword.span, look.subject());
        if let Some((place, subject)) = self.last.insert(name, here) {
            let finding = Diagnostic::warning(format!("this {name} does not count"), place);
            let finding = match look.from {
                None => finding.context(here.0, "the last one does"),
                Some(_) => finding,
            };
            let finding = finding.hint("remove it, or move it to another stage");
            let comments = &look.instruction.comments;
            graph.checks.add(Rule::MultipleInstructionsDisallowed, subject, comments, finding);
        }
    }
}

impl Look<'_> {
    /// Whether the variables of a word are set. `declared` are names that the draft does not know yet.
    fn variables(
        &self,
        graph: &mut Graph<'_>,
        draft: &Draft,
        environment: &Environment,
        word: &Word,
        declared: &[&str],
    ) {
        let Ok(expanded) = environment.expand(word) else { return };
        for name in &expanded.undefined {
            // One that is declared may be given or not.
            let known = draft.arguments.iter().any(|(known, _)| known == name)
                || declared.contains(&name.as_str())
                || NO_VARIABLES.contains(&name.as_str());
            if known {
                continue;
            }
            let names = environment.pairs().iter().map(|(name, _)| name.as_str());
            let hint = match nearest(name, names) {
                Some(meant) => format!("did you mean `${meant}`?"),
                None if graph.global.get(name).is_some() => {
                    format!("a stage sees a global ARG only behind an `ARG {name}` of its own")
                }
                None => "set it by ENV or ARG before it is used".to_owned(),
            };
            let finding = self.finding(format!("`${name}` is not set"), word.span).hint(hint);
            self.add(graph, Rule::UndefinedVar, finding);
        }
    }

    fn secret(&self, graph: &mut Graph<'_>, keyword: &str, name: &str, place: Span) {
        if sounds_secret(name) {
            let message =
                format!("{keyword} {} sounds like a secret, and everybody can read it", quote(name));
            let finding = self.finding(message, place).hint("use `RUN --mount=type=secret`");
            self.add(graph, Rule::SecretsUsedInArgOrEnv, finding);
        }
    }

    fn legacy(&self, graph: &mut Graph<'_>, count: usize) {
        for _ in 0..count {
            let keyword = &self.instruction.written;
            let finding = self
                .finding(format!("{keyword} has a blank between name and value"), self.instruction.span)
                .hint(format!("write `{keyword} NAME=VALUE`"));
            self.add(graph, Rule::LegacyKeyValueFormat, finding);
        }
    }

    /// Whether a command is in the JSON form, unless a shell was chosen on purpose.
    fn form(&self, graph: &mut Graph<'_>, draft: &Draft, keyword: &str, command: &CommandLine) {
        let CommandLine::Shell(Spanned { span, .. }) = command else { return };
        if draft.stage.config.config.shell.is_empty() {
            let message = format!("{keyword} in the shell form: signals reach the shell, not the program");
            let finding = self
                .finding(message, if span.is_empty() { self.instruction.keyword.span } else { *span })
                .hint(format!("write `{keyword} [\"PROGRAM\", \"ARGUMENT\"]`, or choose a shell with SHELL"));
            self.add(graph, Rule::JSONArgsRecommended, finding);
        }
    }

    fn ports(&self, graph: &mut Graph<'_>, draft: &Draft, words: &[Word]) {
        for word in words {
            let Ok(expanded) = draft.environment.expand_words(word) else { return };
            for port in expanded.words {
                let (host, container) = port.rsplit_once(':').unwrap_or(("", &port));
                let (number, protocol) = container.split_once('/').unwrap_or((container, ""));
                // What is no port is an error, which is told as such; what stands behind it is not looked at.
                let known = ["", "tcp", "udp", "sctp"].contains(&protocol.to_lowercase().as_str());
                if number.is_empty() || !known {
                    return;
                }
                if protocol != protocol.to_lowercase() {
                    let message = format!("the protocol of {} is not in lower case", quote(&port));
                    let finding =
                        self.finding(message, word.span).hint(format!("write `{}`", port.to_lowercase()));
                    self.add(graph, Rule::ExposeProtoCasing, finding);
                }
                if host.chars().any(|letter| letter != ':') {
                    let message = format!("{} has more than a port of the container", quote(&port));
                    let finding = self.finding(message, word.span).hint(format!(
                        "write `{container}`: addresses and ports of the host are given when the container is run"
                    ));
                    self.add(graph, Rule::ExposeInvalidFormat, finding);
                }
                if ports::parse(&port).is_err() {
                    return;
                }
            }
        }
    }
}

/// The words of an instruction whose variables have to be set.
fn words(instruction: &Instruction) -> Vec<&Word> {
    match &instruction.kind {
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).collect()
        }
        InstructionKind::Copy(copy) => transferred(&copy.transfer).collect(),
        InstructionKind::Add(add) => add.checksum.iter().chain(transferred(&add.transfer)).collect(),
        InstructionKind::Workdir(word) | InstructionKind::User(word) | InstructionKind::Stopsignal(word) => {
            vec![word]
        }
        InstructionKind::Volume(words) => words.iter().collect(),
        InstructionKind::Run(run) => {
            let fields = run.mounts.iter().flat_map(|mount| &mount.fields);
            fields
                .filter(|field| field.key.value != "from")
                .filter_map(|field| field.value.as_ref())
                .collect()
        }
        // What stands in EXPOSE is not asked for by BuildKit; ARG is looked at by itself.
        _ => Vec::new(),
    }
}

fn transferred(transfer: &Transfer) -> impl Iterator<Item = &Word> {
    let flags = transfer.chown.iter().chain(&transfer.chmod);
    let paths = transfer.paths.iter().chain([&transfer.destination]);
    flags.chain(paths).chain(transfer.inline.iter().map(|file| &file.content))
}
