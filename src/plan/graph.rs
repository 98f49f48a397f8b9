//! The stages of a Dockerfile, what each is made from, and which of them the target needs.
//!
//! A graph is made of the text alone. Then it asks for images ([`Graph::wanted`]); each that is found may bring triggers
//! (ONBUILD) along, which may need further stages and images. When nothing is wanted any more, it becomes a plan.

use std::collections::{BTreeMap, BTreeSet};

use super::operation::{Source, StageIndex};
use super::outline::Declared;
use super::scope::{BuildArgs, Environment, global_arguments, predefined_arguments};
use super::{BaseImage, ImageName, Named, Options};
use crate::dockerfile::{
    Checks, Diagnostic, Diagnostics, Dockerfile, Escape, FromInstruction, Instruction, InstructionKind, Span,
    nearest, parse_trigger, quote,
};
use crate::image::{Platform, Reference};

/// The name of the base with nothing in it.
const SCRATCH: &str = "scratch";

/// What a stage is built upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(StageIndex),
    /// An image, by its number in the graph.
    Image(usize),
}

/// An image that the build needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name.
    pub name: ImageName,
    /// The platform it is for.
    pub platform: Platform,
    /// Where it is first named.
    pub span: Span,
    /// The image, once it is found.
    pub found: Option<BaseImage>,
}

/// A stage.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub name: Option<String>,
    pub base: Base,
    /// The named context whose files the stage begins with, if its base is a directory.
    pub files: Option<String>,
    /// The platform: what `--platform` says, else the base stage's, else the target's.
    pub platform: Platform,
    pub from: &'a FromInstruction,
    /// Instructions of the stage itself; none if a named context stands in its place.
    pub instructions: &'a [Instruction],
    /// Instructions that the base brings along.
    pub triggers: Vec<Instruction>,
    triggers_known: bool,
}

/// The stages of a Dockerfile and the images they need.
#[derive(Debug)]
pub struct Graph<'a> {
    pub(super) options: &'a Options,
    pub(super) escape: Escape,
    pub(super) build_args: BuildArgs,
    pub(super) global: Environment,
    /// The ARG instructions before the first FROM.
    pub(super) declared: Vec<Declared>,
    /// What checks have found.
    pub(super) checks: Checks,
    /// Whether all stages are wanted, not only those that the target needs.
    everything: bool,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) target: StageIndex,
    pub(super) target_platform: Platform,
    images: Vec<Wanted>,
}

impl<'a> Graph<'a> {
    /// The graph of `dockerfile`.
    ///
    /// # Errors
    /// If a base or the target cannot be understood; what checks have found stands before it, here as in the other
    /// functions of a graph.
    pub fn new(dockerfile: &'a Dockerfile, options: &'a Options) -> Result<Self, Diagnostics> {
        let mut build_args = BuildArgs::new(options.build_args.clone());
        let target_platform = options.platform.clone().unwrap_or_else(|| options.build_platform.clone());
        let last_name = dockerfile.stages.last().and_then(|stage| stage.name()).unwrap_or_default();
        let target_stage = options.target.as_deref().unwrap_or(last_name);
        let build_platform = &options.build_platform;
        let predefined =
            predefined_arguments(&mut build_args, build_platform, &target_platform, target_stage);
        let mut graph = Self {
            options,
            escape: dockerfile.directives.escape,
            build_args,
            global: predefined,
            declared: Vec::new(),
            checks: Checks::new(dockerfile, options.checks().map_err(one)?),
            everything: false,
            nodes: Vec::new(),
            target: 0,
            target_platform,
            images: Vec::new(),
        };
        graph.checks.text(dockerfile);
        match graph.fill(dockerfile) {
            Ok(()) => Ok(graph),
            Err(error) => Err(graph.checks.with_error(error)),
        }
    }

    fn fill(&mut self, dockerfile: &'a Dockerfile) -> Result<(), Diagnostic> {
        self.check_defaults(dockerfile);
        let predefined = std::mem::take(&mut self.global);
        let (global, declared) =
            global_arguments(&dockerfile.global_args, &mut self.build_args, &predefined)?;
        (self.global, self.declared) = (global, declared);
        for stage in &dockerfile.stages {
            self.check_from(&stage.from);
            let node = self.node(&stage.from, stage.name(), &stage.instructions);
            self.nodes.push(node.map_err(|error| error.within(stage.from.span))?);
        }
        self.target = self.find_target()?;
        self.add_triggers()
    }

    /// Takes all stages in, not only those that the target needs.
    pub fn with_everything(mut self) -> Self {
        self.everything = true;
        self
    }

    /// What checks have found so far.
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// An error, and what checks have found before it.
    pub(super) fn failed(&self, error: Diagnostic) -> Diagnostics {
        self.checks.with_error(error)
    }

    /// Images that are needed and not found yet.
    ///
    /// # Errors
    /// If a stage needs itself, or one that comes later.
    pub fn wanted(&mut self) -> Result<Vec<(usize, Wanted)>, Diagnostics> {
        let needed = self.needed_images().map_err(|error| self.failed(error))?;
        let images = self.images.iter().enumerate();
        let wanted = images.filter(|(number, image)| needed.contains(number) && image.found.is_none());
        Ok(wanted.map(|(number, image)| (number, image.clone())).collect())
    }

    fn needed_images(&mut self) -> Result<BTreeSet<usize>, Diagnostic> {
        let mut needed = BTreeSet::new();
        for index in self.reachable()? {
            if let Some(Base::Image(image)) = self.nodes.get(index).map(|node| node.base) {
                needed.insert(image);
            }
            for source in self.sources(index)? {
                if let Source::Image(image) = source {
                    needed.insert(image);
                }
            }
        }
        Ok(needed)
    }

    /// Says what image `number` is.
    ///
    /// # Errors
    /// If it has triggers that cannot be understood.
    pub fn found(&mut self, number: usize, image: BaseImage) -> Result<(), Diagnostics> {
        if let Some(wanted) = self.images.get_mut(number) {
            wanted.found = Some(image);
        }
        self.add_triggers().map_err(|error| self.failed(error))
    }

    /// The platform that an image was asked for, and the image, if it has been found.
    pub(super) fn found_for(&self, number: usize) -> Option<(&Platform, &BaseImage)> {
        let wanted = self.images.get(number)?;
        Some((&wanted.platform, wanted.found.as_ref()?))
    }

    /// The image of a number, if it has been found.
    pub(super) fn image(&self, number: usize) -> Option<&BaseImage> {
        self.images.get(number)?.found.as_ref()
    }

    /// All images that were found; those that were never needed are none.
    pub(super) fn into_images(self) -> Vec<Option<BaseImage>> {
        self.images.into_iter().map(|wanted| wanted.found).collect()
    }

    fn node(
        &mut self,
        from: &'a FromInstruction,
        name: Option<&str>,
        instructions: &'a [Instruction],
    ) -> Result<Node<'a>, Diagnostic> {
        let base_name = self.global.expand(&from.image)?;
        if base_name.text.is_empty() {
            let finding = Diagnostic::error("the base of the stage is empty", from.image.span);
            let undefined = base_name.undefined.iter().next();
            return Err(finding.maybe_hint(undefined.map(|name| missing_argument(name))));
        }
        let platform = from.platform.as_ref().map(|word| self.platform(word)).transpose()?;
        let replaced = name.and_then(|name| self.options.named_contexts.get_key_value(name));
        let replaced = replaced.map(|(name, context)| (name.clone(), context.clone()));
        let span = from.image.span;
        let ((base, files), instructions) = match replaced {
            Some((name, context)) => (self.named_base(name, context, platform.as_ref(), span)?, &[][..]),
            None => (self.base(&base_name.text, platform.as_ref(), span)?, instructions),
        };
        let inherited = match base {
            Base::Stage(index) => self.nodes.get(index).map(|node| node.platform.clone()),
            Base::Scratch | Base::Image(_) => None,
        };
        let platform = inherited.or(platform).unwrap_or_else(|| self.target_platform.clone());
        let name = name.map(str::to_owned);
        Ok(Node {
            name,
            base,
            files,
            platform,
            from,
            instructions,
            triggers: Vec::new(),
            triggers_known: false,
        })
    }

    fn platform(&self, word: &crate::dockerfile::Word) -> Result<Platform, Diagnostic> {
        let expanded = self.global.expand(word)?;
        let hint = expanded.undefined.iter().next().map(|name| missing_argument(name));
        let parsed: Result<Platform, _> = expanded.text.parse();
        parsed.map_err(|error| Diagnostic::error(error.to_string(), word.span).maybe_hint(hint))
    }

    /// What a name behind FROM is, and the named context whose files it is if that is a directory.
    fn base(
        &mut self,
        name: &str,
        platform: Option<&Platform>,
        span: Span,
    ) -> Result<(Base, Option<String>), Diagnostic> {
        if let Some(index) = self.stage_named(name) {
            return Ok((Base::Stage(index), None));
        }
        if name == SCRATCH {
            return Ok((Base::Scratch, None));
        }
        if let Some((name, context)) = self.named_context(name) {
            return self.named_base(name, context, platform, span);
        }
        let reference = self.reference(name, span)?;
        Ok((Base::Image(self.want(ImageName::Registry(reference), platform, span)), None))
    }

    /// What a named context is as the base of a stage.
    fn named_base(
        &mut self,
        name: String,
        context: Named,
        platform: Option<&Platform>,
        span: Span,
    ) -> Result<(Base, Option<String>), Diagnostic> {
        match context {
            Named::Image(image) => Ok((Base::Image(self.want(image, platform, span)), None)),
            Named::Target(target) => match self.stage_named(&target) {
                Some(index) => Ok((Base::Stage(index), None)),
                None => Err(self.no_such_stage(&target, span)),
            },
            // Its files are the first step of the stage.
            Named::Directory => Ok((Base::Scratch, Some(name))),
        }
    }

    /// Where `--from=name` of COPY or of a mount takes files.
    pub(super) fn source(&mut self, name: &str, span: Span, at: StageIndex) -> Result<Source, Diagnostic> {
        let stage = match name.parse::<usize>() {
            Ok(index) if index < self.nodes.len() => Some(index),
            Ok(_) => {
                let message = format!("there is no stage {name}");
                let hint = format!("the stages are numbered from 0 to {}", self.nodes.len() - 1);
                return Err(Diagnostic::error(message, span).hint(hint));
            }
            Err(_) => self.stage_named(&name.to_ascii_lowercase()),
        };
        if let Some(index) = stage {
            if index >= at {
                let message = if index == at {
                    format!("the stage {} cannot take files from itself", quote(name))
                } else {
                    format!("the stage {} is defined later", quote(name))
                };
                let hint = "a stage takes files from stages before it";
                return Err(Diagnostic::error(message, span).hint(hint));
            }
            return Ok(Source::Stage(index));
        }
        match self.named_context(name) {
            Some((name, Named::Directory)) => return Ok(Source::NamedContext(name)),
            Some((_, Named::Target(target))) => {
                let index = self.stage_named(&target).ok_or_else(|| self.no_such_stage(&target, span))?;
                return Ok(Source::Stage(index));
            }
            Some((_, Named::Image(image))) => return Ok(Source::Image(self.want(image, None, span))),
            None => {}
        }
        if name == SCRATCH {
            let message = "there is nothing to take from `scratch`";
            return Err(Diagnostic::error(message, span));
        }
        let reference = self.reference(name, span)?;
        Ok(Source::Image(self.want(ImageName::Registry(reference), None, span)))
    }

    fn stage_named(&self, name: &str) -> Option<StageIndex> {
        // The last of two stages with one name counts, as in BuildKit.
        self.nodes.iter().rposition(|node| node.name.as_deref() == Some(name))
    }

    /// A named context, and what it is called, by what stands in the Dockerfile: `alpine`, `alpine:latest` and `docker.io/library/alpine` are
    /// one name.
    fn named_context(&self, name: &str) -> Option<(String, Named)> {
        let contexts = &self.options.named_contexts;
        let normal = |name: &str| name.parse::<Reference>().ok().map(Reference::or_latest);
        let wanted = normal(name);
        let found = contexts.get_key_value(name).or_else(|| {
            let same = |known: &str| wanted.is_some() && normal(known) == wanted;
            contexts.iter().find(|(known, _)| same(known))
        });
        found.map(|(known, context)| (known.clone(), context.clone()))
    }

    fn reference(&self, name: &str, span: Span) -> Result<Reference, Diagnostic> {
        let parsed: Result<Reference, _> = name.parse();
        parsed.map(Reference::or_latest).map_err(|error| {
            let names = self.nodes.iter().filter_map(|node| node.name.as_deref());
            let similar = nearest(name, names);
            let hint = similar.map(|similar| format!("did you mean the stage {}?", quote(similar)));
            Diagnostic::error(error.to_string(), span).maybe_hint(hint)
        })
    }

    fn want(&mut self, name: ImageName, platform: Option<&Platform>, span: Span) -> usize {
        let platform = platform.unwrap_or(&self.target_platform).clone();
        let known = self.images.iter().position(|image| image.name == name && image.platform == platform);
        known.unwrap_or_else(|| {
            self.images.push(Wanted { name, platform, span, found: None });
            self.images.len() - 1
        })
    }

    fn no_such_stage(&self, name: &str, span: Span) -> Diagnostic {
        let names: Vec<&str> = self.nodes.iter().filter_map(|node| node.name.as_deref()).collect();
        let hint = match nearest(name, names.iter().copied()) {
            Some(similar) => format!("did you mean {}?", quote(similar)),
            None if names.is_empty() => "no stage of the Dockerfile has a name".to_owned(),
            None => format!("the stages are {}", names.join(", ")),
        };
        Diagnostic::error(format!("there is no stage {}", quote(name)), span).hint(hint)
    }

    fn find_target(&self) -> Result<StageIndex, Diagnostic> {
        let Some(target) = self.options.target.as_deref() else {
            return Ok(self.nodes.len().saturating_sub(1));
        };
        let by_number = target.parse().ok().filter(|index| *index < self.nodes.len());
        self.stage_named(&target.to_ascii_lowercase())
            .or(by_number)
            .ok_or_else(|| self.no_such_stage(target, Span::at(0)).about(Span::at(0)))
    }

    /// The stages that the target needs, in the order of the Dockerfile.
    pub(super) fn reachable(&mut self) -> Result<Vec<StageIndex>, Diagnostic> {
        let mut reached = BTreeSet::new();
        let mut open = match self.everything {
            true => (0..self.nodes.len()).collect(),
            false => vec![self.target],
        };
        while let Some(index) = open.pop() {
            if !reached.insert(index) {
                continue;
            }
            if let Some(Base::Stage(base)) = self.nodes.get(index).map(|node| node.base) {
                open.push(base);
            }
            for source in self.sources(index)? {
                if let Source::Stage(stage) = source {
                    open.push(stage);
                }
            }
        }
        Ok(reached.into_iter().collect())
    }

    /// Where the instructions of a stage take files from, apart from the context.
    pub(super) fn sources(&mut self, index: StageIndex) -> Result<Vec<Source>, Diagnostic> {
        let Some(node) = self.nodes.get(index) else { return Ok(Vec::new()) };
        let span_of_triggers = node.from.span;
        let triggered = node.triggers.iter().flat_map(|trigger| {
            named_sources(trigger).into_iter().map(move |(name, _)| (name, span_of_triggers))
        });
        let own = node.instructions.iter().flat_map(named_sources);
        let names: BTreeMap<String, Span> = triggered.chain(own).collect();
        names.into_iter().map(|(name, span)| self.source(&name, span, index)).collect()
    }

    /// Takes over the triggers of bases that have become known.
    fn add_triggers(&mut self) -> Result<(), Diagnostic> {
        for index in 0..self.nodes.len() {
            let Some(node) = self.nodes.get(index).filter(|node| !node.triggers_known) else { continue };
            let texts: Vec<String> = match node.base {
                Base::Scratch => Vec::new(),
                Base::Image(image) => match self.image(image) {
                    Some(image) => image.config.config.on_build.clone(),
                    None => continue,
                },
                Base::Stage(base) => {
                    let instructions = self.nodes.get(base).map(|base| base.instructions).unwrap_or_default();
                    instructions.iter().filter_map(own_trigger).collect()
                }
            };
            let span = node.from.image.span;
            let mut triggers = Vec::new();
            for text in texts {
                triggers.push(parse_trigger(&text).map_err(|found| of_trigger(&text, &found, span))?);
            }
            if let Some(node) = self.nodes.get_mut(index) {
                node.triggers = triggers;
                node.triggers_known = true;
            }
        }
        Ok(())
    }
}

/// A finding alone.
pub(super) fn one(diagnostic: Diagnostic) -> Diagnostics {
    Diagnostics(vec![diagnostic])
}

fn missing_argument(name: &str) -> String {
    format!(
        "`{name}` is not set: give it with `--build-arg {name}=…`, or a default with `ARG {name}=…` before FROM"
    )
}

/// A finding in a trigger, at the FROM that brings it along.
pub(super) fn of_trigger(text: &str, found: &Diagnostics, span: Span) -> Diagnostic {
    let message = found.0.first().map(|first| first.message.clone()).unwrap_or_default();
    Diagnostic::error(format!("the base's trigger `ONBUILD {text}` is wrong: {message}"), span)
}

fn own_trigger(instruction: &Instruction) -> Option<String> {
    match &instruction.kind {
        InstructionKind::Onbuild(onbuild) => Some(onbuild.trigger.clone()),
        _ => None,
    }
}

/// The names after `--from=` and `from=` of an instruction.
fn named_sources(instruction: &Instruction) -> Vec<(String, Span)> {
    match &instruction.kind {
        InstructionKind::Copy(copy) => copy.from.iter().map(|from| (from.value.clone(), from.span)).collect(),
        InstructionKind::Run(run) => {
            let mounts = run.mounts.iter().filter_map(|mount| mount.from.as_ref());
            mounts.map(|from| (from.value.clone(), from.span)).collect()
        }
        _ => Vec::new(),
    }
}
