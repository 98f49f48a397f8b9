//! Root filesystems of stages and images, unpacked where a step must run or files are taken from.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;

use super::error::BuildError;
use super::fetch::{Bytes, Fetcher, blocking, lock};
use super::layers::Layer;
use crate::image::Digest;
use crate::layer::{LayerReader, Tree, TreeError};
use crate::plan::StageIndex;
use crate::sandbox::{Protection, Root, Sandbox};
use crate::store::{Store, Workspace};

/// Whose root it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    /// A stage's.
    Stage(StageIndex),
    /// That of an image which files are taken from.
    Image(usize),
}

/// A root and the layers that are in it.
#[derive(Debug, Clone)]
pub(super) struct Rooted {
    pub root: Arc<Root>,
    /// The layers in it, by their diff IDs, lowest first.
    layers: Vec<Digest>,
    /// Whether its state before the first step was written down, so that it can be brought back to it.
    noted: bool,
}

impl Rooted {
    /// A step has run in it, and made a layer of what it changed.
    pub fn ran(&mut self, diff_id: Digest) {
        self.layers.push(diff_id);
    }

    /// Whether the layers in it are what `layers` begin with.
    fn fits(&self, layers: &[Layer]) -> bool {
        begins_with(layers, self.layers.iter())
    }
}

fn begins_with<'a>(layers: &[Layer], diff_ids: impl ExactSizeIterator<Item = &'a Digest>) -> bool {
    diff_ids.len() <= layers.len() && diff_ids.zip(layers).all(|(diff_id, layer)| *diff_id == layer.diff_id)
}

/// The layers of a root that is kept between builds: what it is labelled with.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layers(Vec<Kept>);

/// A layer in a root that is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub digest: Digest,
    pub diff_id: Digest,
}

impl Layers {
    fn of(layers: &[Layer]) -> Self {
        Self(layers.iter().map(|layer| Kept { digest: layer.digest, diff_id: layer.diff_id }).collect())
    }

    fn label(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// What the label says; `None` if it is none of ours.
    pub fn of_label(label: &str) -> Option<Self> {
        serde_json::from_str(label).ok()
    }

    pub fn get(&self, number: usize) -> Option<&Kept> {
        self.0.get(number)
    }

    pub fn diff_ids(&self) -> Vec<Digest> {
        self.0.iter().map(|layer| layer.diff_id).collect()
    }
}

type Place = Arc<AsyncMutex<Option<Rooted>>>;

/// All roots of a build.
///
/// Where a root is kept between builds, it is kept in the state that it had when it was first filled: before the first
/// step that was not in the cache, which is most often where the next build has to begin too.
#[derive(Debug)]
pub(super) struct Roots {
    workspace: Arc<Workspace>,
    /// This program, which takes over the workspace when the build has ended, if there was a root in it.
    program: PathBuf,
    /// Whether roots are kept between builds.
    keep: bool,
    places: Mutex<HashMap<Whose, Place>>,
    made: Mutex<u32>,
}

impl Roots {
    pub fn new(workspace: Arc<Workspace>, program: PathBuf, keep: bool) -> Self {
        Self { workspace, program, keep, places: Mutex::default(), made: Mutex::new(0) }
    }

    /// Where a root is, or will be. Whoever holds it has the root alone.
    pub fn place(&self, whose: Whose) -> Place {
        let mut places = lock(&self.places);
        Arc::clone(places.entry(whose).or_default())
    }

    /// Sees to it that `rooted` has just these layers. What it has already stays if it is what they begin with.
    ///
    /// # Errors
    /// If a layer cannot be brought, read or applied.
    pub async fn fill(
        &self,
        rooted: &mut Option<Rooted>,
        layers: &[Layer],
        sandbox: &Arc<Sandbox>,
        fetcher: &Fetcher,
    ) -> Result<Arc<Root>, BuildError> {
        let keep = self.keep && sandbox.findings().protection() != Protection::None;
        let mut current = rooted.take().filter(|known| known.fits(layers));
        if current.is_none() && keep {
            current = self.take_up(layers, sandbox, fetcher.store()).await;
        }
        let mut current = match current {
            Some(current) => current,
            None => Rooted { root: Arc::new(self.create(sandbox)?), layers: Vec::new(), noted: false },
        };
        let missing = layers.get(current.layers.len()..).unwrap_or_default();
        // All of them set out at once; each is unpacked while those behind it still come in.
        for layer in missing {
            let (fetcher, layer) = (fetcher.clone(), layer.clone());
            tokio::spawn(async move { fetcher.fetch(&layer).await });
        }
        while let Some(layer) = layers.get(current.layers.len()) {
            if apply(&current.root, layer, fetcher).await? {
                current.layers.push(layer.diff_id);
            } else {
                // By now the layer is here as it should be: that ends.
                tracing::info!("a root begins anew: layer {} came wrong, and then right", layer.digest);
                current = Rooted { root: Arc::new(self.create(sandbox)?), layers: Vec::new(), noted: false };
            }
        }
        let root = Arc::clone(&current.root);
        if keep && !current.noted {
            note(&root, layers).await?;
            current.noted = true;
        }
        *rooted = Some(current);
        Ok(root)
    }

    /// A root that an earlier build has left: the one that has most of `layers`, and nothing else.
    async fn take_up(&self, layers: &[Layer], sandbox: &Arc<Sandbox>, store: &Store) -> Option<Rooted> {
        let mut fitting: Vec<(usize, PathBuf)> = Vec::new();
        for path in store.kept().unwrap_or_default() {
            let label = Root::label(&path, sandbox.findings().owner()).ok();
            let Some(has) = label.as_deref().and_then(Layers::of_label) else { continue };
            if begins_with(layers, has.diff_ids().iter()) && !has.0.is_empty() {
                fitting.push((has.0.len(), path));
            }
        }
        // The first of equals was used last.
        fitting.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        for (count, path) in fitting {
            let place = self.next_place();
            if !store.take_kept(&path, &place).ok()? {
                continue;
            }
            let sandbox = Arc::clone(sandbox);
            let whole = count == layers.len();
            let taken = blocking(move || {
                let root = sandbox.take_up_root(&place)?;
                if !whole {
                    root.expect_as_kept()?;
                }
                Ok(root)
            });
            match taken.await {
                Ok(root) => {
                    let layers = layers.iter().take(count).map(|layer| layer.diff_id).collect();
                    return Some(Rooted { root: Arc::new(root), layers, noted: whole });
                }
                Err(error) => tracing::debug!(%error, "a root that was kept is of no use"),
            }
        }
        None
    }

    fn create(&self, sandbox: &Sandbox) -> Result<Root, BuildError> {
        Ok(sandbox.create_root(&self.next_place())?)
    }

    /// A place for another root.
    fn next_place(&self) -> PathBuf {
        let mut made = lock(&self.made);
        self.workspace.leave_to(&self.program);
        loop {
            *made += 1;
            let place = self.workspace.path().join(format!("root-{made}"));
            // The workspace may have roots of another platform.
            if place.symlink_metadata().is_err() {
                return place;
            }
        }
    }
}

/// Writes down the state of a root that has just these layers, for it to be kept. That it cannot be is no reason to fail.
async fn note(root: &Arc<Root>, layers: &[Layer]) -> Result<(), BuildError> {
    let Some(label) = Layers::of(layers).label().filter(|_| !layers.is_empty()) else { return Ok(()) };
    let root = Arc::clone(root);
    blocking(move || {
        if let Err(error) = root.write_state(&label) {
            tracing::debug!(%error, "a root will not be kept");
        }
        Ok(())
    })
    .await
}

/// Applies one layer, making its index on the way if there is none. Says whether the root has it now: what was read while it
/// came in may have been wrong, though it came again and was right. Then the root is spoilt.
async fn apply(root: &Arc<Root>, layer: &Layer, fetcher: &Fetcher) -> Result<bool, BuildError> {
    let bytes = fetcher.open(layer).await?;
    let came_in = matches!(bytes, Bytes::Coming(_));
    let (root, store, diff_id) = (Arc::clone(root), fetcher.store().clone(), layer.diff_id);
    let applied = blocking(move || {
        let mut reader = LayerReader::new(bytes)?;
        if matches!(Tree::open(&store, &[diff_id]), Err(TreeError::NotIndexed(_))) {
            reader = reader.indexed(&store);
        }
        root.apply(&mut reader)?;
        Ok(reader.finish()?.expect_diff_id(&diff_id)?)
    })
    .await;
    // What broke the download says more than what the reader saw of it; and only a blob that came whole counts.
    fetcher.fetch(layer).await?;
    match applied {
        Ok(()) => Ok(true),
        Err(_) if came_in => Ok(false),
        Err(error) => Err(error),
    }
}
