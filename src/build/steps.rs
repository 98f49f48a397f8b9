//! Carrying out one step: from the layers below to a layer.

use std::sync::Arc;

use super::error::BuildError;
use super::executor::Executor;
use super::fetch::blocking;
use super::keys::StepKey;
use super::layers::Layer;
use super::mounts;
use super::roots::{Rooted, Whose};
use super::run::{self, Beside, Ended};
use super::transfer::{Origin, Reading, Selection, Target};
use super::{directory, users};
use crate::layer::{LayerBlob, Tree};
use crate::plan::{Base, Operation, Run, Source, Stage, StageIndex, Step, Transfer};
use crate::report::LiveStep;

impl Executor {
    /// Makes the layer of a step.
    ///
    /// # Errors
    /// If it fails or cannot be carried out.
    pub(super) async fn execute(
        self: &Arc<Self>,
        stage: &Stage,
        number: usize,
        key: &StepKey,
        below: &[Layer],
        live: &Arc<LiveStep>,
    ) -> Result<LayerBlob, BuildError> {
        let Some(step) = stage.steps.get(number) else {
            return Err(BuildError::refused("the plan has no such step"));
        };
        match &step.operation {
            Operation::Run(run) => self.execute_run(stage, step, run, key, below, live).await,
            Operation::MakeDirectory { path, user } => {
                self.fill_root_if_a_run_follows(stage, number, below).await?;
                let tree = self.fetcher.tree(below).await?;
                let (executor, path, user) = (Arc::clone(self), path.clone(), user.clone());
                blocking(move || {
                    let user = look_up(&tree, &user)?;
                    let mut writer = executor.layer_writer()?;
                    let now = executor.now_seconds();
                    directory::write(&mut writer, &tree, &path, (user.uid, user.gid), now)?;
                    Ok(writer.finish()?)
                })
                .await
            }
            Operation::Transfer(transfer) => {
                self.fill_root_if_a_run_follows(stage, number, below).await?;
                let tree = self.fetcher.tree(below).await?;
                match &key.selection {
                    Some(selection) => self.write_selection(Arc::clone(selection), tree).await,
                    None => {
                        let selection = self.select_from_root(transfer).await?;
                        self.write_selection(selection, tree).await
                    }
                }
            }
        }
    }

    async fn write_selection(
        self: &Arc<Self>,
        selection: Arc<Selection>,
        tree: Tree,
    ) -> Result<LayerBlob, BuildError> {
        let executor = Arc::clone(self);
        blocking(move || {
            let mut writer = executor.layer_writer()?;
            let time = executor.request.source_date_epoch.unwrap_or(Target::TIME);
            let target = Target { image: &tree, store: &executor.services.store, time };
            selection.write(target, &mut writer).map_err(|error| executor.text.transfer_error(error))?;
            Ok(writer.finish()?)
        })
        .await
    }

    /// Selects the files of a transfer in a stage or an image.
    pub(super) async fn select_from_root(
        self: &Arc<Self>,
        transfer: &Transfer,
    ) -> Result<Arc<Selection>, BuildError> {
        let (whose, layers, name) = match &transfer.source {
            Source::Stage(index) => {
                let name = self.plan.stage(*index).and_then(|stage| stage.name.clone());
                let name =
                    name.map_or_else(|| format!("stage {index}"), |name| format!("the stage `{name}`"));
                (Whose::Stage(*index), self.stage_layers(*index).await?, name)
            }
            Source::Image(number) => {
                let name = self.plan.image(*number).map(|image| format!("the image `{}`", image.name));
                (Whose::Image(*number), self.image_layers(*number), name.unwrap_or_default())
            }
            Source::Context | Source::NamedContext(_) => {
                return Err(BuildError::refused("the files of a context were not selected"));
            }
        };
        let place = self.roots.place(whose);
        let mut rooted = place.lock().await;
        let root = self.roots.fill(&mut rooted, &layers, &self.sandbox().await?, &self.fetcher).await?;
        let (executor, transfer) = (Arc::clone(self), Arc::new(transfer.clone()));
        blocking(move || {
            let reading = Reading { digests: None, threads: executor.pool.threads() };
            Selection::new(transfer, Origin::root(root, name), reading)
                .map(Arc::new)
                .map_err(|error| executor.text.transfer_error(error))
        })
        .await
    }

    /// If a root is going to be needed for this stage, it is unpacked now: the layers below are read once, not twice.
    async fn fill_root_if_a_run_follows(
        &self,
        stage: &Stage,
        number: usize,
        below: &[Layer],
    ) -> Result<(), BuildError> {
        let run_follows = stage.steps.iter().enumerate().skip(number).any(|(later, step)| {
            matches!(step.operation, Operation::Run(_)) && !self.is_known(stage.index, later)
        });
        if run_follows {
            let place = self.roots.place(Whose::Stage(stage.index));
            let mut rooted = place.lock().await;
            self.take_over_base(stage, &mut rooted).await;
            self.roots.fill(&mut rooted, below, &self.sandbox().await?, &self.fetcher).await?;
        }
        Ok(())
    }

    /// Takes the root of the stage that this one is built upon, if nobody else will need it.
    async fn take_over_base(&self, stage: &Stage, rooted: &mut Option<Rooted>) {
        let Base::Stage(base) = stage.base else { return };
        if rooted.is_none() && self.users_of(base) == 1 {
            *rooted = self.roots.place(Whose::Stage(base)).lock().await.take();
        }
    }

    /// How many need the files of a stage: stages built upon it, steps that take files from it, the result.
    fn users_of(&self, index: StageIndex) -> usize {
        let from_it = |step: &&Step| sources(step).into_iter().any(|source| *source == Source::Stage(index));
        let of_stage = |stage: &Stage| {
            usize::from(stage.base == Base::Stage(index)) + stage.steps.iter().filter(from_it).count()
        };
        self.plan.stages.iter().map(of_stage).sum::<usize>() + usize::from(self.plan.target == index)
    }

    async fn execute_run(
        self: &Arc<Self>,
        stage: &Stage,
        step: &Step,
        run: &Run,
        key: &StepKey,
        below: &[Layer],
        live: &Arc<LiveStep>,
    ) -> Result<LayerBlob, BuildError> {
        let place = self.roots.place(Whose::Stage(stage.index));
        let mut rooted = place.lock().await;
        self.take_over_base(stage, &mut rooted).await;
        let sandbox = self.sandbox().await?;
        let root = self.roots.fill(&mut rooted, below, &sandbox, &self.fetcher).await?;
        let tree = self.fetcher.tree(below).await?;
        let mounts = self.mounts(run, key, &root).await?;
        let ended = {
            let (root, live, run) = (Arc::clone(&root), Arc::clone(live), run.clone());
            let executor = Arc::clone(self);
            let architectures =
                vec![stage.platform.architecture.clone(), stage.config.platform().architecture];
            let cancellation = self.services.cancellation.clone();
            blocking(move || {
                let user = look_up(&tree, &run.user)?;
                let beside = Beside { mounts: &mounts, user: &user, architectures };
                run::run(&sandbox, &root, &run, &beside, &live, &cancellation)
                    .map_err(|error| mounts::located(&run, error, &executor.text))
            })
            .await?
        };
        if let Ended::Failed { failure, output, hint } = ended {
            return Err(self.step_failed(step, failure, &output, hint));
        }
        let executor = Arc::clone(self);
        let blob = blocking(move || {
            let mut writer = executor.layer_writer()?;
            root.write_changes(&mut writer)?;
            Ok(writer.finish()?)
        })
        .await?;
        if let Some(rooted) = &mut *rooted {
            rooted.ran(blob.diff_id);
        }
        Ok(blob)
    }
}

/// What a step takes files from.
pub(super) fn sources(step: &Step) -> Vec<&Source> {
    match &step.operation {
        Operation::Transfer(transfer) => vec![&transfer.source],
        Operation::Run(run) => run.mounts.iter().filter_map(|mount| mount.source.as_ref()).collect(),
        Operation::MakeDirectory { .. } => Vec::new(),
    }
}

/// A user of an image.
fn look_up(tree: &Tree, user: &str) -> Result<users::User, BuildError> {
    let text = |path: &[u8]| -> Result<String, BuildError> {
        Ok(String::from_utf8_lossy(&tree.small_file(path)?.unwrap_or_default()).into_owned())
    };
    users::look_up(user, &text(b"etc/passwd")?, &text(b"etc/group")?).map_err(BuildError::refused)
}
