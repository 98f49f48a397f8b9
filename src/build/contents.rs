//! The second key of a step: by what is there, not by how it came to be.
//!
//! The first key of a step says how everything was made that it depends on, and is known before anything runs. If it is not
//! found, and what the step depends on has been made, there is another question: was this step ever done to these very layers,
//! with these very files? A stage that was rebuilt and came out the same thus ends the rebuilding where its files are taken.

use std::sync::Arc;

use super::error::BuildError;
use super::executor::{Executor, layer_options};
use super::keys::StepKey;
use super::layers::Layer;
use super::mounts;
use super::steps::sources;
use crate::dockerfile::Mount;
use crate::image::Digest;
use crate::plan::{Base, Inputs, Key, Operation, Source, Stage, StageIndex, Step, layers_key, step_key};

impl Executor {
    /// The key of a step with the files that it takes from stages and images selected; nothing if it takes none.
    pub(super) async fn with_contents(
        self: &Arc<Self>,
        step: &Step,
        key: &StepKey,
    ) -> Result<Option<StepKey>, BuildError> {
        if !takes_from_elsewhere(step) {
            return Ok(None);
        }
        let mut key = key.clone();
        match &step.operation {
            Operation::Transfer(transfer) => {
                let selection = self.select_from_root(transfer).await?;
                key.sources = vec![selection.digest().to_string()];
                key.selection = Some(selection);
            }
            Operation::Run(run) => {
                let mounted = run.mounts.iter().enumerate().filter(|(_, mount)| mount.source.is_some());
                for ((number, mount), source) in mounted.zip(&mut key.sources) {
                    // Of a cache the directory itself is named after where its first content comes from, and only a new one
                    // needs that.
                    if key.mounts.contains_key(&number) || matches!(mount.mount, Mount::Cache { .. }) {
                        continue;
                    }
                    if let Some(transfer) = mounts::transfer(mount) {
                        let selection = self.select_from_root(&transfer).await?;
                        *source = mounts::identity(&selection);
                        key.mounts.insert(number, selection);
                    }
                }
            }
            Operation::MakeDirectory { .. } => {}
        }
        Ok(Some(key))
    }

    /// The second key of a step, given the layers below and a key that has its contents; nothing where the first says as much.
    pub(super) fn content_key(
        &self,
        stage: &Stage,
        number: usize,
        key: &StepKey,
        below: &[Layer],
    ) -> Option<Key> {
        let step = stage.steps.get(number)?;
        if self.request.source_date_epoch.is_none() && !self.depends_on_elsewhere(stage, number) {
            return None;
        }
        let diff_ids: Vec<Digest> = below.iter().map(|layer| layer.diff_id).collect();
        let layer = super::keys::layer_identity(&layer_options(&self.request));
        let inputs = Inputs { sources: key.sources.clone(), layer };
        Some(step_key(&layers_key(&diff_ids), &step.operation, &stage.platform, &inputs).0)
    }

    /// Whether a step, or one below it, takes files from a stage or an image.
    fn depends_on_elsewhere(&self, stage: &Stage, number: usize) -> bool {
        stage.steps.iter().take(number + 1).any(takes_from_elsewhere)
            || match stage.base {
                Base::Stage(base) => self
                    .plan
                    .stage(base)
                    .is_some_and(|base| self.depends_on_elsewhere(base, base.steps.len())),
                Base::Scratch | Base::Image(_) => false,
            }
    }

    /// Whether the result of a step by its second key may be in a cache beside the store: above a layer that was made just now
    /// it hardly is, because of the times of its files, unless these were fixed.
    pub(super) fn may_be_elsewhere(&self, stage: &Stage, number: usize) -> bool {
        let just_made = self.last_made(stage, number).is_some_and(|(stage, step)| {
            self.made.get(&(stage, step)).and_then(|made| made.get()).is_some_and(|made| made.executed)
        });
        !just_made || self.request.source_date_epoch.is_some()
    }

    /// The step right below another.
    fn last_made(&self, stage: &Stage, number: usize) -> Option<(StageIndex, usize)> {
        match (number.checked_sub(1), stage.base) {
            (Some(below), _) => Some((stage.index, below)),
            (None, Base::Stage(base)) => {
                let base = self.plan.stage(base)?;
                self.last_made(base, base.steps.len())
            }
            (None, Base::Scratch | Base::Image(_)) => None,
        }
    }
}

/// Whether a step takes files from a stage or an image.
fn takes_from_elsewhere(step: &Step) -> bool {
    let elsewhere = |source: &&Source| matches!(source, Source::Stage(_) | Source::Image(_));
    sources(step).iter().any(elsewhere)
}
