//! What a build will do, before anything is done: stages, steps, the configuration of the image, and keys.
//!
//! A plan is made of the Dockerfile's AST, the options of the build and the configurations of the base images. It
//! holds every word expanded and every name resolved, so that what executes it asks no questions. The judge of what an
//! instruction means is BuildKit 0.33.0.
//!
//! Invariants: nothing here does I/O; the same inputs give the same plan; stages that the target does not need are not
//! in it, and whatever is wrong in them is not looked at.

mod checks;
mod configure;
mod graph;
mod history;
mod key;
mod operation;
mod outline;
mod ports;
mod remote;
mod scope;
mod stage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::dockerfile::{CheckOptions, Checks, Diagnostic, Diagnostics, Span, quote};
use crate::image::{Descriptor, Digest, ImageConfig, Platform, Reference};

pub use checks::sounds_secret;
pub use graph::{Base, Graph, Wanted};
pub use history::COMMENT as HISTORY_COMMENT;
pub use key::{Inputs, Key, KeyBuilder, KeyPart, base as base_key, layers as layers_key, step as step_key};
pub use operation::{Operation, Remote, Run, RunMount, Script, Source, StageIndex, Transfer, Unpack};
pub use outline::{Argument, CacheMount, Needed, Outline, Target, targets};

/// What a plan is made for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The stage to build; the last if none is named.
    pub target: Option<String>,
    /// Values of ARGs.
    pub build_args: BTreeMap<String, String>,
    /// Labels that override the Dockerfile's.
    pub labels: Vec<(String, String)>,
    /// The platform to build for; the machine's if none is named.
    pub platform: Option<Platform>,
    /// The machine's platform.
    pub build_platform: Platform,
    /// Named contexts, by name.
    pub named_contexts: BTreeMap<String, Named>,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Files of the machine.
    Directory,
    /// An image.
    Image(ImageName),
    /// A stage of the same Dockerfile.
    Target(String),
}

/// Where an image is to be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageName {
    /// On a registry.
    Registry(Reference),
    /// In a layout that a named context stands for: the context's name.
    Layout(String),
}

/// An image that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseImage {
    /// What it is called, for people.
    pub name: String,
    /// The digest of its manifest for the wanted platform.
    pub digest: Digest,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, lowest first; as many as the configuration has diff IDs.
    pub layers: Vec<Descriptor>,
}

/// A build, planned.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The stages that are needed, in the order of the Dockerfile.
    pub stages: Vec<Stage>,
    /// The number, in the Dockerfile, of the stage to build.
    pub target: StageIndex,
    /// The images that stages build upon or take files from; those that nothing needs are none.
    pub images: Vec<Option<BaseImage>>,
    /// What the author should know, apart from what checks have found.
    pub warnings: Vec<Diagnostic>,
    /// The checks, and what they have found.
    pub checks: Checks,
    /// What the target takes.
    pub outline: Outline,
    /// Build arguments that no ARG declares.
    pub unused_arguments: Vec<String>,
}

/// The build argument that says which checks are made, instead of what the Dockerfile says.
pub const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

impl Options {
    /// The options of checks that the build argument for them holds, if it is given.
    ///
    /// # Errors
    /// It does not hold such options.
    fn checks(&self) -> Result<Option<CheckOptions>, Diagnostic> {
        let given = self.build_args.get(CHECK_ARGUMENT).map(|text| CheckOptions::parse(text));
        given.transpose().map_err(|error| {
            Diagnostic::error(format!("the build argument {}: {error}", quote(CHECK_ARGUMENT)), Span::at(0))
        })
    }
}

impl Plan {
    /// The stage with a number of the Dockerfile.
    pub fn stage(&self, index: StageIndex) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.index == index)
    }

    /// An image by its number.
    pub fn image(&self, number: usize) -> Option<&BaseImage> {
        self.images.get(number)?.as_ref()
    }
}

/// A stage, planned.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its number in the Dockerfile.
    pub index: StageIndex,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// What it is built upon.
    pub base: Base,
    /// What it is built for.
    pub platform: Platform,
    /// What it does, in order.
    pub steps: Vec<Step>,
    /// The configuration it ends with. Its diff IDs are those of the base image; its history has an entry for each
    /// instruction, times left out.
    pub config: ImageConfig,
    /// Where FROM stands.
    pub span: Span,
    /// FROM as it is shown.
    pub title: String,
}

/// A step: something that makes a layer.
#[derive(Debug, Clone)]
pub struct Step {
    /// The instruction as it is shown.
    pub title: String,
    /// Its place among the steps of its stage, from 1, the base counted; and their number.
    pub number: (usize, usize),
    /// Where it stands.
    pub span: Span,
    /// What it does.
    pub operation: Operation,
}

impl Graph<'_> {
    /// The plan, when every image is found.
    ///
    /// # Errors
    /// What is wrong in the stages that are needed.
    pub fn plan(mut self) -> Result<Plan, Diagnostics> {
        let reachable = self.reachable().map_err(|error| self.failed(error))?;
        let mut stages = Vec::new();
        let mut drafts: BTreeMap<StageIndex, stage::Draft> = BTreeMap::new();
        let mut warnings = Vec::new();
        for index in reachable {
            let draft = stage::draft(&mut self, index, &drafts, &mut warnings);
            let draft = draft.map_err(|error| self.failed(error))?;
            stages.push(draft.stage.clone());
            drafts.insert(index, draft);
        }
        let outline = outline::of(&mut self, &drafts).map_err(|error| self.failed(error))?;
        let target = self.target;
        if let Some(stage) = stages.iter_mut().find(|stage| stage.index == target) {
            stage.config.config.labels.extend(self.options.labels.iter().cloned());
        }
        let unused_arguments = self.build_args.unused().into_iter().map(str::to_owned).collect();
        let checks = std::mem::take(&mut self.checks);
        let images = self.into_images();
        Ok(Plan { stages, target, images, warnings, checks, outline, unused_arguments })
    }
}
