//! What a Dockerfile offers: its targets, and what a target takes.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Base, Graph};
use super::operation::{Operation, Source, StageIndex};
use super::stage::Draft;
use crate::context::clean;
use crate::dockerfile::{Diagnostic, Dockerfile, Mount, Span, description};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name; none if it has only a number.
    pub name: Option<String>,
    /// Whether it is built if none is named.
    pub default: bool,
    /// What the comment before it says.
    pub description: Option<String>,
    /// Its base, as it was written.
    pub base: String,
    /// Its platform, as it was written.
    pub platform: Option<String>,
    /// Where it begins.
    pub span: Span,
}

/// The stages of a Dockerfile, in order.
pub fn targets(file: &Dockerfile) -> Vec<Target> {
    let last = file.stages.len().saturating_sub(1);
    let target = |stage: &crate::dockerfile::Stage| {
        let from = &stage.from;
        let name = stage.name();
        Target {
            name: name.map(str::to_owned),
            default: stage.index == last,
            description: name.and_then(|name| description(&from.comments, name)).map(str::to_owned),
            base: from.image.text.clone(),
            platform: from.platform.as_ref().map(|word| word.text.clone()),
            span: from.span,
        }
    };
    file.stages.iter().map(target).collect()
}

/// What a target takes: of itself, of the stages it is built upon, and of those it takes files from. Each list is in the
/// order of the lines, each name in it once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// The name of the target, if it has one.
    pub name: Option<String>,
    /// What the comment before it says.
    pub description: Option<String>,
    /// Build arguments.
    pub arguments: Vec<Argument>,
    /// Secrets.
    pub secrets: Vec<Needed>,
    /// SSH agents.
    pub ssh: Vec<Needed>,
    /// Directories that outlive the build.
    pub caches: Vec<CacheMount>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What the comment before it says.
    pub description: Option<String>,
    /// The value that it has in this build; none if it has none.
    pub value: Option<String>,
    /// The instruction that declares it.
    pub span: Span,
}

/// Something that the build has to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Its name.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The instruction that asks for it first.
    pub span: Span,
}

/// A cache mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// Its name.
    pub id: String,
    /// The instruction that asks for it first.
    pub span: Span,
}

/// An ARG, with the value it has in the build.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub name: String,
    pub value: Option<String>,
    pub description: Option<String>,
    /// The instruction.
    pub span: Span,
    /// The variables that its default uses, where that is worth knowing: in global ones.
    pub uses: BTreeSet<String>,
}

/// The outline of the graph's target.
pub(super) fn of(graph: &mut Graph<'_>, drafts: &BTreeMap<StageIndex, Draft>) -> Result<Outline, Diagnostic> {
    let mut outline = Outline::default();
    if let Some(node) = graph.nodes.get(graph.target) {
        outline.name.clone_from(&node.name);
        let name = node.name.as_deref().unwrap_or_default();
        outline.description = description(&node.from.comments, name).map(str::to_owned);
    }
    let (mut seen, mut known) = (BTreeSet::new(), BTreeSet::new());
    // The next to look at is the last: a stage's base comes before the stages it takes files from.
    let mut open = vec![graph.target];
    while let Some(index) = open.pop() {
        if !seen.insert(index) {
            continue;
        }
        let Some(draft) = drafts.get(&index) else { continue };
        arguments(graph, drafts, draft, &mut known, &mut outline.arguments);
        mounts(draft, &mut outline);
        let sources = graph.sources(index)?.into_iter().filter_map(|source| match source {
            Source::Stage(stage) => Some(stage),
            _ => None,
        });
        let mut sources: Vec<StageIndex> = sources.collect();
        sources.sort_unstable_by(|a, b| b.cmp(a));
        open.extend(sources);
        if let Base::Stage(base) = draft.stage.base {
            open.push(base);
        }
    }
    outline.arguments.sort_by_key(|it| it.span.start);
    outline.secrets.sort_by_key(|it| it.span.start);
    outline.ssh.sort_by_key(|it| it.span.start);
    outline.caches.sort_by_key(|it| it.span.start);
    Ok(outline)
}

/// Adds the arguments of a stage, where their names are not known yet.
fn arguments(
    graph: &Graph<'_>,
    drafts: &BTreeMap<StageIndex, Draft>,
    draft: &Draft,
    known: &mut BTreeSet<String>,
    list: &mut Vec<Argument>,
) {
    let survey = &draft.survey;
    // The last declaration counts, that of the stage before a global one.
    let all = graph.declared.iter().chain(&survey.declared);
    let declared: BTreeMap<&str, &Declared> = all.map(|one| (one.name.as_str(), one)).collect();
    let mut open: Vec<&str> = survey.used.iter().chain(&survey.used_by_from).map(String::as_str).collect();
    let mut base = draft.stage.base;
    while let Base::Stage(index) = base
        && let Some(below) = drafts.get(&index)
    {
        // What its FROM uses counts for those built upon it, too.
        open.extend(below.survey.used_by_from.iter().map(String::as_str));
        base = below.stage.base;
    }
    let mut used: BTreeSet<&str> = BTreeSet::new();
    while let Some(name) = open.pop() {
        if used.insert(name)
            && let Some(declared) = declared.get(name)
        {
            open.extend(declared.uses.iter().map(String::as_str));
        }
    }
    for declared in used.into_iter().filter_map(|name| declared.get(name)) {
        if known.insert(declared.name.clone()) {
            list.push(Argument {
                name: declared.name.clone(),
                description: declared.description.clone(),
                value: declared.value.clone(),
                span: declared.span,
            });
        }
    }
}

/// Adds what the steps of a stage mount, where it is not known yet.
fn mounts(draft: &Draft, outline: &mut Outline) {
    fn add(list: &mut Vec<Needed>, name: &str, required: bool, span: Span) {
        if list.iter().all(|known| known.name != name) {
            list.push(Needed { name: name.to_owned(), required, span });
        }
    }
    for step in &draft.stage.steps {
        let Operation::Run(run) = &step.operation else { continue };
        for mount in &run.mounts {
            match &mount.mount {
                Mount::Secret { id, required, .. } => add(&mut outline.secrets, id, *required, step.span),
                Mount::Ssh { id, required, .. } => add(&mut outline.ssh, id, *required, step.span),
                Mount::Cache { id, target, .. } => {
                    let id = id.clone().unwrap_or_else(|| clean(target));
                    if outline.caches.iter().all(|known| known.id != id) {
                        outline.caches.push(CacheMount { id, span: step.span });
                    }
                }
                Mount::Bind { .. } | Mount::Tmpfs { .. } => {}
            }
        }
    }
}
