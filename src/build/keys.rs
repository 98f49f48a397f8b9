//! The keys of all steps of a plan, computed before anything runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::contexts::Contexts;
use super::error::BuildError;
use super::inputs::Text;
use super::transfer::Selection;
use crate::layer::LayerOptions;
use crate::plan::{
    Base, Inputs, Key, KeyPart, Operation, Plan, Source, StageIndex, Step, base_key, step_key,
};

/// The key of a step.
#[derive(Debug, Clone)]
pub(super) struct StepKey {
    pub key: Key,
    /// Its fields.
    pub parts: Vec<KeyPart>,
    /// The files that a transfer from a context selects.
    pub selection: Option<Arc<Selection>>,
}

/// The keys of a plan.
#[derive(Debug, Default)]
pub(super) struct Keys {
    steps: BTreeMap<(StageIndex, usize), StepKey>,
    /// The key of each stage: of its last step, or of its base.
    stages: BTreeMap<StageIndex, Key>,
}

impl Keys {
    /// Computes them. Reads the files of the contexts that steps select.
    pub fn compute(
        plan: &Plan,
        contexts: &Contexts,
        options: &LayerOptions,
        text: &Text,
    ) -> Result<Self, BuildError> {
        let epoch = options.clamp_mtime.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
        let layer = format!("{} epoch {epoch}", options.compression.identity());
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
                let (sources, selection) = keys.sources(plan, step, contexts, text)?;
                let inputs = Inputs { sources, layer: layer.clone() };
                let (key, parts) = step_key(&parent, &step.operation, &stage.platform, &inputs);
                keys.steps.insert((stage.index, number), StepKey { key, parts, selection });
                parent = key;
            }
            keys.stages.insert(stage.index, parent);
        }
        Ok(keys)
    }

    /// What identifies the files that a step takes.
    fn sources(
        &self,
        plan: &Plan,
        step: &Step,
        contexts: &Contexts,
        text: &Text,
    ) -> Result<(Vec<String>, Option<Arc<Selection>>), BuildError> {
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
                    Some(selection) => Ok((vec![selection.digest().to_string()], Some(Arc::new(selection)))),
                    None => Ok((vec![of(&transfer.source)], None)),
                }
            }
            Operation::Run(run) => {
                let sources = run.mounts.iter().filter_map(|mount| mount.source.as_ref());
                Ok((sources.map(of).collect(), None))
            }
            Operation::MakeDirectory { .. } => Ok((Vec::new(), None)),
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
