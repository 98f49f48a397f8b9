//! Root filesystems of stages and images, unpacked where a step must run or files are taken from.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::error::BuildError;
use super::fetch::{Fetcher, blocking};
use super::layers::Layer;
use crate::image::Digest;
use crate::layer::{LayerReader, Tree, TreeError};
use crate::plan::StageIndex;
use crate::sandbox::{Root, Sandbox};
use crate::store::Workspace;

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
}

impl Rooted {
    /// A step has run in it, and made a layer of what it changed.
    pub fn ran(&mut self, diff_id: Digest) {
        self.layers.push(diff_id);
    }
}

type Place = Arc<AsyncMutex<Option<Rooted>>>;

/// All roots of a build.
#[derive(Debug)]
pub(super) struct Roots {
    workspace: Arc<Workspace>,
    /// This program, which removes the workspace when the build has ended, if there was a root in it.
    program: PathBuf,
    places: Mutex<HashMap<Whose, Place>>,
    made: Mutex<u32>,
}

impl Roots {
    pub fn new(workspace: Arc<Workspace>, program: PathBuf) -> Self {
        Self { workspace, program, places: Mutex::default(), made: Mutex::new(0) }
    }

    /// Where a root is, or will be. Whoever holds it has the root alone.
    pub fn place(&self, whose: Whose) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
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
        sandbox: &Sandbox,
        fetcher: &Fetcher,
    ) -> Result<Arc<Root>, BuildError> {
        let fits = |known: &Rooted| {
            known.layers.len() <= layers.len()
                && known.layers.iter().zip(layers).all(|(known, layer)| *known == layer.diff_id)
        };
        let mut current = match rooted.take().filter(fits) {
            Some(known) => known,
            None => Rooted { root: Arc::new(self.create(sandbox)?), layers: Vec::new() },
        };
        let missing = layers.get(current.layers.len()..).unwrap_or_default();
        // All of them set out at once; each is unpacked while those behind it still come in.
        for layer in missing {
            let (fetcher, layer) = (fetcher.clone(), layer.clone());
            tokio::spawn(async move { fetcher.fetch(&layer).await });
        }
        for layer in missing {
            apply(&current.root, layer, fetcher).await?;
            current.layers.push(layer.diff_id);
        }
        let root = Arc::clone(&current.root);
        *rooted = Some(current);
        Ok(root)
    }

    fn create(&self, sandbox: &Sandbox) -> Result<Root, BuildError> {
        let number = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            *made += 1;
            *made
        };
        self.workspace.remove_later(&self.program);
        Ok(sandbox.create_root(&self.workspace.path().join(format!("root-{number}")))?)
    }
}

/// Applies one layer, making its index on the way if there is none.
async fn apply(root: &Arc<Root>, layer: &Layer, fetcher: &Fetcher) -> Result<(), BuildError> {
    let bytes = fetcher.open(layer).await?;
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
    applied
}
