//! The keys of all steps of a plan, computed before anything runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::contexts::Contexts;
use super::error::BuildError;
use super::inputs::Text;
use super::mounts;
use super::transfer::Selection;
use crate::cache::BASE_IMAGE;
use crate::layer::LayerOptions;
use crate::plan::{
    Base, Inputs, Key, KeyPart, Operation, Plan, Source, StageIndex, Step, base_key, step_key,
};

/// The key of a step.
#[derive(Debug, Clone)]
pub(super) struct StepKey {
    pub key: Key,
    /// Its fields, and what is kept beside them for people.
    pub parts: Vec<KeyPart>,
    /// The files that a transfer from a context selects.
    pub selection: Option<Arc<Selection>>,
    /// The files that mounts of a RUN take from contexts, by the number of the mount.
    pub mounts: BTreeMap<usize, Arc<Selection>>,
    /// What identifies the files that the step takes, in the order of its sources.
    pub sources: Vec<String>,
}

/// The files that a step takes.
#[derive(Debug, Default)]
struct Taken {
    sources: Vec<String>,
    selection: Option<Arc<Selection>>,
    mounts: BTreeMap<usize, Arc<Selection>>,
}

/// The keys of a plan.
#[derive(Debug, Default)]
pub(super) struct Keys {
    steps: BTreeMap<(StageIndex, usize), StepKey>,
    /// The key of each stage: of its last step, or of its base.
    stages: BTreeMap<StageIndex, Key>,
}

/// How layers are written.
pub(super) fn layer_identity(options: &LayerOptions) -> String {
    let epoch = options.clamp_mtime.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
    format!("{} epoch {epoch}", options.compression.identity())
}

impl Keys {
    /// Computes them. Reads the files of the contexts that steps select.
    pub fn compute(
        plan: &Plan,
        contexts: &Contexts,
        options: &LayerOptions,
        text: &Text,
    ) -> Result<Self, BuildError> {
        let layer = layer_identity(options);
        let mut keys = Self::default();
        for stage in &plan.stages {
            let mut parent = match stage.base {
                Base::Scratch => base_key(None, &stage.platform),
                Base::Image(number) => {
                    base_key(plan.image(number).map(|image| &image.digest), &stage.platform)
                }
                Base::Stage(base) => match keys.stages.get(&base) {
                    Some(key) => *key,
                    None => base_key(None, &stage.platform),
                },
            };
            for (number, step) in stage.steps.iter().enumerate() {
                let Taken { sources, selection, mounts } = keys.taken(plan, step, contexts, text)?;
                let inputs = Inputs { sources, layer: layer.clone() };
                let (key, mut parts) = step_key(&parent, &step.operation, &stage.platform, &inputs);
                // Of the first step the key before it says no more than that the base is another. What that is, is for people.
                if let (0, Base::Image(image)) = (number, stage.base) {
                    parts.extend(plan.image(image).map(|image| KeyPart {
                        name: BASE_IMAGE.to_owned(),
                        value: format!("{}@{}", image.name, image.digest),
                    }));
                }
                let sources = inputs.sources;
                keys.steps.insert((stage.index, number), StepKey { key, parts, selection, mounts, sources });
                parent = key;
            }
            keys.stages.insert(stage.index, parent);
        }
        Ok(keys)
    }

    /// The files that a step takes, and what identifies them.
    fn taken(&self, plan: &Plan, step: &Step, contexts: &Contexts, text: &Text) -> Result<Taken, BuildError> {
        let of = |source: &Source| match source {
            Source::Stage(index) => self.stages.get(index).map(ToString::to_string).unwrap_or_default(),
            Source::Image(number) => {
                plan.image(*number).map(|image| image.digest.to_string()).unwrap_or_default()
            }
            Source::Context | Source::NamedContext(_) => String::new(),
        };
        match &step.operation {
            Operation::Transfer(transfer) => {
                match contexts.select(transfer).map_err(|error| text.transfer_error(error))? {
                    Some(selection) => Ok(Taken {
                        sources: vec![selection.digest().to_string()],
                        selection: Some(Arc::new(selection)),
                        ..Taken::default()
                    }),
                    None => Ok(Taken { sources: vec![of(&transfer.source)], ..Taken::default() }),
                }
            }
            Operation::Run(run) => {
                let mut taken = Taken::default();
                for (number, mount) in run.mounts.iter().enumerate() {
                    let Some(source) = &mount.source else { continue };
                    if mounts::is_of_context(mount)
                        && let Some(transfer) = mounts::transfer(mount)
                        && let Some(selection) =
                            contexts.select(&transfer).map_err(|error| text.transfer_error(error))?
                    {
                        taken.sources.push(mounts::identity(&selection));
                        taken.mounts.insert(number, Arc::new(selection));
                    } else {
                        taken.sources.push(of(source));
                    }
                }
                Ok(taken)
            }
            Operation::MakeDirectory { .. } => Ok(Taken::default()),
        }
    }

    /// The key of a step.
    pub fn get(&self, stage: StageIndex, step: usize) -> Option<&StepKey> {
        self.steps.get(&(stage, step))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&(StageIndex, usize), &StepKey)> {
        self.steps.iter()
    }
}
