//! One stage: its instructions, one after the other, become steps, configuration and history.

use std::collections::BTreeMap;

use super::checks::Survey;
use super::graph::{Base, Graph, of_trigger};
use super::history::{self, COMMENT};
use super::operation::{Operation, Run, RunMount, Script, Source, StageIndex, Transfer, Unpack};
use super::scope::{Environment, proxy_environment};
use super::{Stage, Step, configure, remote};
use crate::context::clean;
use crate::dockerfile::{
    self, CommandLine, CopyInstruction, Diagnostic, Diagnostics, Escape, Instruction, InstructionKind, Mount,
    RunInstruction, Security, Span, Word, display,
};
use crate::image::{History, ImageConfig};

/// The search path that an image gets whose base sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The shell of an image whose Dockerfile chooses none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Where a step finds its script, if that is a file of its own.
const SCRIPT_DIRECTORY: &str = "/dev/pipes";
/// ARGs that are settings of BuildKit and no variables.
pub(super) const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// A stage and what stages built upon it need to know.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub stage: Stage,
    pub environment: Environment,
    /// The ARGs declared so far, in order, with their values.
    pub arguments: Vec<(String, Option<String>)>,
    /// What checks and outlines need to know of it.
    pub survey: Survey,
}

/// Plans a stage. Stages it needs are in `drafts`.
pub(super) fn draft(
    graph: &mut Graph<'_>,
    index: StageIndex,
    drafts: &BTreeMap<StageIndex, Draft>,
    warnings: &mut Vec<Diagnostic>,
) -> Result<Draft, Diagnostic> {
    let Some(node) = graph.nodes.get(index).cloned() else {
        return Err(Diagnostic::error("the stage is missing", Span::at(0)));
    };
    let mut draft = Draft::begin(graph, &node, index, drafts);
    let mut survey = Survey::begin(graph, &node, drafts);
    let total = usize::from(matches!(node.base, Base::Image(_)))
        + usize::from(node.files.is_some())
        + node
            .triggers
            .iter()
            .chain(node.instructions)
            .filter(|instruction| makes_layer(instruction))
            .count();
    let mut writer = Writer {
        escape: graph.escape,
        graph,
        index,
        number: usize::from(matches!(node.base, Base::Image(_))),
        total,
        in_trigger: false,
        own_command: false,
        warnings,
    };
    let span = node.from.image.span;
    if let Some(context) = &node.files {
        let source = Source::NamedContext(context.clone());
        let files = Transfer::whole("FROM", source, "/".to_owned(), span);
        writer.step(&mut draft, &node.from.original, node.from.span, Operation::Transfer(files));
        // BuildKit has no entry for it, and in the end one too few, which it invents.
        draft.history(format!("FROM {context} # buildkit"), true);
    }
    for trigger in &node.triggers {
        writer.in_trigger = true;
        survey.look(writer.graph, &draft, trigger, Some(node.from.span));
        writer.instruction(&mut draft, trigger, span).map_err(|found| {
            of_trigger(&trigger.original, &Diagnostics(vec![found]), span).within(node.from.span)
        })?;
    }
    writer.in_trigger = false;
    for instruction in node.instructions {
        survey.look(writer.graph, &draft, instruction, None);
        let done = writer.instruction(&mut draft, instruction, instruction.span);
        done.map_err(|error| error.within(instruction.span))?;
    }
    draft.survey = survey;
    Ok(draft)
}

fn makes_layer(instruction: &Instruction) -> bool {
    use InstructionKind::{Add, Copy, Run, Workdir};
    matches!(instruction.kind, Add(_) | Copy(_) | Run(_) | Workdir(_))
}

impl Draft {
    /// The stage before its first instruction.
    fn begin(
        graph: &Graph<'_>,
        node: &super::graph::Node<'_>,
        index: StageIndex,
        drafts: &BTreeMap<StageIndex, Self>,
    ) -> Self {
        let (mut config, mut environment, mut arguments) = match node.base {
            Base::Scratch => {
                let mut config = ImageConfig::scratch(&graph.target_platform);
                config.config.working_dir = "/".to_owned();
                (config, Environment::default(), Vec::new())
            }
            Base::Image(number) => {
                let mut config = graph.image(number).map(|image| image.config.clone()).unwrap_or_default();
                config.created = None;
                (config, Environment::default(), Vec::new())
            }
            Base::Stage(base) => match drafts.get(&base) {
                Some(base) => (base.stage.config.clone(), base.environment.clone(), base.arguments.clone()),
                None => Default::default(),
            },
        };
        // Triggers have been taken over; they do not go on to the next image.
        config.config.on_build.clear();
        if config.config.env("PATH").is_none() {
            config.config.set_env("PATH", DEFAULT_PATH);
        }
        for entry in &config.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.set(name, value);
        }
        arguments.dedup();
        Self {
            stage: Stage {
                index,
                name: node.name.clone(),
                base: node.base,
                platform: node.platform.clone(),
                steps: Vec::new(),
                config,
                span: node.from.span,
                title: node.from.original.clone(),
            },
            environment,
            arguments,
            survey: Survey::default(),
        }
    }

    /// Adds an entry to the history.
    pub fn history(&mut self, created_by: String, makes_layer: bool) {
        self.stage.config.history.push(History {
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: !makes_layer,
            ..History::default()
        });
    }

    /// The program and arguments of a command line: the shell form is handed to the stage's shell.
    fn command(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
            CommandLine::Shell(line) => self.in_shell(&line.value),
        }
    }

    fn in_shell(&self, line: &str) -> Vec<String> {
        let shell = &self.stage.config.config.shell;
        let mut arguments =
            if shell.is_empty() { DEFAULT_SHELL.map(str::to_owned).to_vec() } else { shell.clone() };
        arguments.push(line.to_owned());
        arguments
    }

    /// The working directory: absolute.
    fn directory(&self) -> &str {
        match self.stage.config.config.working_dir.as_str() {
            "" => "/",
            directory => directory,
        }
    }

    /// `RUN`'s entry in the history: `|2 A=1 B=2 /bin/sh -c …`.
    fn run_history(&self, arguments: &[String]) -> String {
        let mut declared: Vec<(&str, String)> = Vec::new();
        for (name, value) in &self.arguments {
            let value =
                self.environment.get(name).map(str::to_owned).or_else(|| value.clone()).unwrap_or_default();
            match declared.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value,
                None => declared.push((name, value)),
            }
        }
        let mut words = Vec::new();
        if !declared.is_empty() {
            words.push(format!("|{}", declared.len()));
        }
        words.extend(declared.into_iter().map(|(name, value)| format!("{name}={value}")));
        words.extend(arguments.iter().cloned());
        format!("RUN {} # buildkit", words.join(" "))
    }
}

/// Carries instructions into a draft.
struct Writer<'g, 'd, 'w> {
    graph: &'g mut Graph<'d>,
    index: StageIndex,
    escape: Escape,
    number: usize,
    total: usize,
    in_trigger: bool,
    /// Whether the stage itself has set CMD: ENTRYPOINT resets one that is inherited.
    own_command: bool,
    warnings: &'w mut Vec<Diagnostic>,
}

impl Writer<'_, '_, '_> {
    fn instruction(
        &mut self,
        draft: &mut Draft,
        instruction: &Instruction,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let container = &mut draft.stage.config.config;
        match &instruction.kind {
            InstructionKind::Run(run) => return self.run(draft, instruction, run, span),
            InstructionKind::Copy(copy) => return self.copy(draft, instruction, copy, span),
            InstructionKind::Add(add) => return self.add(draft, instruction, add, span),
            InstructionKind::Workdir(path) => return self.workdir(draft, instruction, path, span),
            InstructionKind::Arg(arguments) => return self.arg(draft, arguments),
            InstructionKind::Env(pairs) => return configure::env(draft, pairs),
            InstructionKind::Label(pairs) => return configure::label(draft, pairs),
            InstructionKind::Expose(words) => return configure::expose(draft, words),
            InstructionKind::Volume(words) => return configure::volume(draft, words),
            InstructionKind::Healthcheck(check) => return configure::healthcheck(draft, check),
            InstructionKind::Stopsignal(word) => return configure::stopsignal(draft, word),
            InstructionKind::Cmd(command) => {
                let arguments = draft.command(command);
                self.own_command = true;
                let container = &mut draft.stage.config.config;
                container.cmd = arguments.clone();
                // A mark that old Windows images needed; BuildKit writes it and so do all who compare.
                container.extra.insert("ArgsEscaped".to_owned(), true.into());
                draft.history(format!("CMD {}", history::quoted_list(&arguments)), false);
            }
            InstructionKind::Entrypoint(command) => {
                let arguments = draft.command(command);
                let container = &mut draft.stage.config.config;
                container.entrypoint = arguments.clone();
                if !self.own_command {
                    container.cmd.clear();
                }
                draft.history(format!("ENTRYPOINT {}", history::quoted_list(&arguments)), false);
            }
            InstructionKind::User(word) => {
                let user = draft.environment.text(word)?;
                container.user = user.clone();
                draft.history(format!("USER {user}"), false);
            }
            InstructionKind::Shell(words) => {
                container.shell = words.iter().map(|word| word.value.clone()).collect();
                let entry = format!("SHELL {}", history::list(&container.shell));
                draft.history(entry, false);
            }
            InstructionKind::Maintainer(name) => {
                draft.stage.config.author = Some(name.value.clone());
                draft.history(format!("MAINTAINER {}", name.value), false);
            }
            InstructionKind::Onbuild(onbuild) => container.on_build.push(onbuild.trigger.clone()),
        }
        Ok(())
    }

    fn step(&mut self, draft: &mut Draft, title: &str, span: Span, operation: Operation) {
        self.number += 1;
        let trigger = if self.in_trigger { "ONBUILD " } else { "" };
        let lookup = |name: &str| draft.environment.get(name).map(str::to_owned);
        let shown = display(title, self.escape, &lookup);
        let shown = match shown.split_once(' ') {
            Some((keyword, rest)) => format!("{trigger}{} {rest}", keyword.to_ascii_uppercase()),
            None => format!("{trigger}{}", shown.to_ascii_uppercase()),
        };
        let number = (self.number, self.total);
        draft.stage.steps.push(Step { title: shown, number, span, operation });
    }

    fn run(
        &mut self,
        draft: &mut Draft,
        instruction: &Instruction,
        run: &RunInstruction,
        span: Span,
    ) -> Result<(), Diagnostic> {
        if run.security.value == Security::Insecure {
            let message = "`--security=insecure` is not allowed: no step is run with privileges";
            return Err(Diagnostic::error(message, run.security.span));
        }
        if let Some(device) = run.devices.first() {
            let message =
                format!("`--device={}` is not supported: steps have no devices of the machine", device.name);
            return Err(Diagnostic::error(message, device.span));
        }
        let mut script = None;
        let arguments = match run.script() {
            dockerfile::Script::Exec(words) if words.is_empty() => {
                return Err(Diagnostic::error("RUN has no command", span));
            }
            dockerfile::Script::Exec(words) => words,
            dockerfile::Script::Shell(line) => draft.in_shell(&line),
            dockerfile::Script::File { name, content } => {
                let path = format!("{SCRIPT_DIRECTORY}/{name}");
                let arguments = draft.in_shell(&path);
                script = Some(Script { path, content });
                arguments
            }
        };
        let mut mounts = Vec::new();
        for flag in &run.mounts {
            let environment = &draft.environment;
            let resolved = flag.resolve(&mut |word| environment.text(word))?;
            self.warnings.extend(resolved.warnings);
            let source = self.mount_source(&resolved.mount, flag.span)?;
            mounts.push(RunMount { mount: resolved.mount, source, span: flag.span });
        }
        let operation = Operation::Run(Run {
            script,
            environment: draft.environment.pairs().to_vec(),
            hidden_environment: proxy_environment(self.graph.build_args.values()),
            directory: draft.directory().to_owned(),
            user: draft.stage.config.config.user.clone(),
            network: run.network.value,
            mounts,
            arguments: arguments.clone(),
        });
        let title = match run.heredocs.first() {
            Some(heredoc) => format!("{} ({})", instruction.original, summary(&heredoc.body.value)),
            None => instruction.original.clone(),
        };
        self.step(draft, &title, span, operation);
        let entry = draft.run_history(&arguments);
        draft.history(entry, true);
        Ok(())
    }

    /// Where the files of a mount come from, if it has any.
    fn mount_source(&mut self, mount: &Mount, span: Span) -> Result<Option<Source>, Diagnostic> {
        let from = match mount {
            Mount::Bind { from: None, .. } => return Ok(Some(Source::Context)),
            Mount::Bind { from: Some(from), .. } | Mount::Cache { from: Some(from), .. } => from,
            _ => return Ok(None),
        };
        self.graph.source(from, span, self.index).map(Some)
    }

    fn copy(
        &mut self,
        draft: &mut Draft,
        instruction: &Instruction,
        copy: &CopyInstruction,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let source = match &copy.from {
            Some(from) => self.graph.source(&from.value, from.span, self.index)?,
            None => Source::Context,
        };
        let transfer = self.transfer(draft, "COPY", source, &copy.transfer, Unpack::Never)?;
        self.finish_transfer(
            draft,
            instruction,
            span,
            Transfer { parents: copy.parents, ..transfer },
            &copy.transfer,
        )
    }

    fn add(
        &mut self,
        draft: &mut Draft,
        instruction: &Instruction,
        add: &dockerfile::AddInstruction,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let unpack = match add.unpack {
            Some(flag) if !flag.value => Unpack::Never,
            _ => Unpack::Archives,
        };
        let mut transfer = self.transfer(draft, "ADD", Source::Context, &add.transfer, unpack)?;
        let checksum = add.checksum.as_ref().map(|word| Ok((draft.environment.text(word)?, word.span)));
        transfer.remotes = remote::sources(add, &transfer.paths, checksum.transpose()?)?;
        self.warnings.extend(remote::nothing_to_keep(add, &transfer.remotes));
        self.finish_transfer(draft, instruction, span, transfer, &add.transfer)
    }

    fn transfer(
        &mut self,
        draft: &Draft,
        name: &'static str,
        source: Source,
        written: &dockerfile::Transfer,
        unpack: Unpack,
    ) -> Result<Transfer, Diagnostic> {
        let environment = &draft.environment;
        let flag = |word: &Option<Word>| -> Result<Option<(String, Span)>, Diagnostic> {
            let text = word.as_ref().map(|word| Ok((environment.text(word)?, word.span))).transpose()?;
            Ok(text.filter(|(text, _)| !text.is_empty()))
        };
        let mut paths = Vec::new();
        for word in &written.paths {
            let path = environment.text(word)?;
            if name == "COPY" {
                remote::refuse(&path, word.span)?;
            }
            paths.push((path, word.span));
        }
        let mut inline = Vec::new();
        for file in &written.inline {
            inline.push((file.name.value.clone(), environment.text(&file.content)?));
        }
        let destination = environment.text(&written.destination)?;
        Ok(Transfer {
            name,
            source,
            paths,
            remotes: BTreeMap::new(),
            inline,
            destination: absolute(draft.directory(), &destination),
            destination_span: written.destination.span,
            chown: flag(&written.chown)?,
            chmod: flag(&written.chmod)?,
            exclude: written.exclude.iter().map(|pattern| pattern.value.clone()).collect(),
            parents: false,
            link: written.link,
            unpack,
        })
    }

    fn finish_transfer(
        &mut self,
        draft: &mut Draft,
        instruction: &Instruction,
        span: Span,
        transfer: Transfer,
        written: &dockerfile::Transfer,
    ) -> Result<(), Diagnostic> {
        let mut words = vec![transfer.name.to_owned()];
        if transfer.parents {
            words.push("--parents".to_owned());
        }
        words.extend(transfer.chown.iter().map(|(owner, _)| format!("--chown={owner}")));
        words.extend(transfer.chmod.iter().map(|(mode, _)| format!("--chmod={mode}")));
        words.extend(transfer.paths.iter().map(|(path, _)| path.clone()));
        words.extend(transfer.inline.iter().map(|(name, _)| format!("<<{name}")));
        words.push(draft.environment.text(&written.destination)?);
        self.step(draft, &instruction.original, span, Operation::Transfer(transfer));
        draft.history(format!("{} # buildkit", words.join(" ")), true);
        Ok(())
    }

    fn workdir(
        &mut self,
        draft: &mut Draft,
        instruction: &Instruction,
        path: &Word,
        span: Span,
    ) -> Result<(), Diagnostic> {
        let wanted = draft.environment.text(path)?;
        let directory = match wanted.as_str() {
            "" => draft.directory().to_owned(),
            wanted if wanted.starts_with('/') => wanted.to_owned(),
            wanted => clean(&format!("{}/{wanted}", draft.directory())),
        };
        draft.stage.config.config.working_dir = directory.clone();
        let makes_layer = directory != "/";
        if makes_layer {
            let user = draft.stage.config.config.user.clone();
            let operation = Operation::MakeDirectory { path: directory.clone(), user };
            self.step(draft, &instruction.original, span, operation);
        }
        draft.history(format!("WORKDIR {directory}"), makes_layer);
        Ok(())
    }

    fn arg(&mut self, draft: &mut Draft, arguments: &[dockerfile::Arg]) -> Result<(), Diagnostic> {
        let mut words = vec!["ARG".to_owned()];
        for argument in arguments {
            let name = &argument.name.value;
            let given = self.graph.build_args.declare(name).map(str::to_owned);
            let value = match (given, &argument.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(draft.environment.text(default)?),
                (None, None) => self.graph.global.get(name).map(str::to_owned),
            };
            if let Some(value) = &value
                && !NO_VARIABLES.contains(&name.as_str())
            {
                draft.environment.set(name, value);
            }
            words.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            draft.arguments.push((name.clone(), value));
        }
        draft.history(words.join(" "), false);
        Ok(())
    }
}

/// A destination from the working directory: absolute, with the `/` or `/.` that it ends with.
fn absolute(directory: &str, path: &str) -> String {
    let path = if matches!(path, "" | ".") { "./" } else { path };
    if path.starts_with('/') {
        return path.to_owned();
    }
    let joined = clean(&format!("{directory}/{path}"));
    let slash = if joined.ends_with('/') { "" } else { "/" };
    if path.ends_with('/') {
        format!("{joined}{slash}")
    } else if path.ends_with("/.") {
        format!("{joined}{slash}.")
    } else {
        joined
    }
}

/// The first line of a heredoc, for the step's title.
fn summary(body: &str) -> String {
    let body = body.trim();
    match body.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => body.to_owned(),
    }
}
