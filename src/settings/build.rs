//! What is to be built, from flags, environment and file.

use std::path::PathBuf;

use super::call::{self, Call};
use super::error::{Problem, SettingsError};
use super::file::ConfigFile;
use super::flags::BuildFlags;
use super::origin::{Given, Origin};
use super::output::{self, Typed};
use super::surroundings::Surroundings;
use super::values::{age, compression, first, first_switch, pair, parallel, set, size};
use super::{annotations, caches, contexts, secrets, variables};
use crate::build::inspect::CHECK_ARGUMENT;
use crate::build::request::{
    Annotation, AnnotationPlace, BuildRequest, DockerfileSource, MediaTypes, Output,
};
use crate::dockerfile::CheckOptions;
use crate::image::{Platform, Reference};
use crate::layer::Compression;
use crate::registry::Environment;

/// What `build` is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSettings {
    /// The build itself.
    pub request: BuildRequest,
    /// Where it is told what came of it.
    pub results: ResultFiles,
    /// What is asked of the Dockerfile instead, if anything is.
    pub call: Call,
    /// `--state-limit`: how many bytes the state directory has at most when the build has ended.
    pub state_limit: Option<u64>,
}

/// Files that the result of a build is written to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultFiles {
    /// `--iidfile`: the image's digest.
    pub iidfile: Option<PathBuf>,
    /// `--metadata-file`: JSON, as `docker buildx build` writes it.
    pub metadata_file: Option<PathBuf>,
    /// `--image-json`: the pushed image, for a deployment.
    pub image_json: Option<PathBuf>,
    /// `--image-env`: what its variables are called, and the file they are written to.
    pub image_env: Option<(String, PathBuf)>,
}

pub(super) fn resolve(
    flags: &BuildFlags,
    surroundings: &Surroundings,
    file: &ConfigFile,
) -> Result<BuildSettings, SettingsError> {
    let environment = &surroundings.environment;
    let variable = |name: &'static str| {
        environment.get(name).map(|value| Given::new(value.to_owned(), Origin::Variable(name)))
    };
    let flag = |value: &Option<String>, name: &'static str| {
        value.clone().map(|value| Given::new(value, Origin::Flag(name)))
    };
    let (tags, outputs, wanted) = names_and_outputs(flags, surroundings)?;
    let (build_args, source_date_epoch) = build_args(&flags.build_args, environment)?;
    let stages = first(
        [flag(&flags.parallel, "--parallel"), variable(variables::PARALLEL), file.parallel.clone()],
        parallel,
    )?;
    let typed = (!flags.platforms.is_empty()).then(|| flags.platforms.join(","));
    let platforms = first(
        [flag(&typed, "--platform"), variable(variables::PLATFORM), file.platform.clone()],
        annotations::platforms,
    )?;
    let platforms = platforms.map(|given| given.value).unwrap_or_default();
    one_platform_for(&outputs, &platforms)?;
    let annotations = annotations::annotations(&flags.annotations)?;
    index_for(&annotations, &platforms)?;
    let media_types = wanted.media_types.unwrap_or_default();
    annotations_for(&annotations, media_types)?;
    let typed = (!flags.no_cache_filter.is_empty()).then(|| flags.no_cache_filter.join(","));
    let no_cache_stages = first(
        [
            flag(&typed, "--no-cache-filter"),
            variable(variables::NO_CACHE_FILTER),
            file.no_cache_filter.clone(),
        ],
        stage_names,
    )?;
    let no_cache_stages = no_cache_stages.map(|given| given.value).unwrap_or_default();
    let asked = first(
        [
            flag(&flags.compression, "--compression"),
            variable(variables::COMPRESSION),
            file.compression.clone(),
        ],
        compression,
    )?;
    let repository = first(
        [flag(&flags.cache_repo, "--cache-repo"), variable(variables::CACHE_REPO), file.cache_repo.clone()],
        caches::repository,
    )?;
    let ttl = first(
        [flag(&flags.cache_ttl, "--cache-ttl"), variable(variables::CACHE_TTL), file.cache_ttl.clone()],
        age,
    )?;
    let limit = first(
        [
            flag(&flags.state_limit, "--state-limit"),
            variable(variables::STATE_LIMIT),
            file.state_limit.clone(),
        ],
        size,
    )?;
    let (cache_from, cache_to) = caches::resolve(repository, &flags.cache_from, &flags.cache_to)?;
    let request = BuildRequest {
        context: each("CONTEXT", flags.context.as_deref().unwrap_or("."), contexts::context)?,
        dockerfile: dockerfile(flags),
        target: flags.target.clone().filter(|target| !target.is_empty()),
        tags,
        build_args,
        labels: labels(&flags.labels)?,
        secrets: secrets::secrets(&flags.secrets, environment)?,
        agents: secrets::agents(&flags.agents, environment)?,
        platforms,
        annotations,
        named_contexts: named_contexts(&flags.build_contexts)?,
        outputs,
        no_cache: first_switch(
            (flags.no_cache, "--no-cache"),
            variable(variables::NO_CACHE),
            file.no_cache.clone(),
        )?
        .value,
        cache_from,
        cache_to,
        cache_ttl: ttl.map(|given| given.value),
        explain: flags.explain,
        no_cache_stages,
        source_date_epoch,
        compression: wanted.compression.or(asked.map(|given| given.value)).unwrap_or_default(),
        force_compression: wanted.force_compression,
        media_types,
        require_isolation: first_switch(
            (flags.require_isolation, "--require-isolation"),
            variable(variables::REQUIRE_ISOLATION),
            file.require_isolation.clone(),
        )?
        .value,
        parallel: stages.map_or(surroundings.threads.max(1), |given| given.value),
        umask: surroundings.umask,
    };
    let results = results(flags, &request)?;
    let call = call::resolve(flags.call.as_deref(), flags.check)?;
    let state_limit = limit.map(|given| given.value);
    Ok(BuildSettings { request, results, call, state_limit })
}

/// Where the result is written. An image that is not pushed cannot be deployed, so there would be nothing to hand over.
fn results(flags: &BuildFlags, request: &BuildRequest) -> Result<ResultFiles, SettingsError> {
    let is_pushed = request.outputs.iter().any(|output| !output.pushed_names().is_empty());
    for (flag, given) in
        [("--image-json", flags.image_json.is_some()), ("--image-env", flags.image_env.is_some())]
    {
        if given && !is_pushed {
            let problem = format!("`{flag}` is about an image that is pushed, and this one is not");
            return Err(conflict(problem, "give `--push` and `-t NAME`"));
        }
    }
    Ok(ResultFiles {
        iidfile: flags.iidfile.clone(),
        metadata_file: flags.metadata_file.clone(),
        image_json: flags.image_json.clone(),
        image_env: flags.image_env.as_deref().map(named_file),
    })
}

/// `NAME=FILE`, or `FILE` with the usual names. What stands before `=` is a name if a variable may be called that.
fn named_file(text: &str) -> (String, PathBuf) {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match text.split_once('=').filter(|(name, _)| is_name(name)) {
        Some((name, file)) => (name.to_owned(), file.into()),
        None => (crate::image::VARIABLE.to_owned(), text.into()),
    }
}

/// Reads the value of a flag.
pub(super) fn each<'a, T>(
    name: &'static str,
    text: &'a str,
    parse: impl FnOnce(&'a str) -> Result<T, Problem>,
) -> Result<T, SettingsError> {
    parse(text).map_err(|problem| problem.at(&Origin::Flag(name)))
}

fn conflict(problem: impl Into<String>, hint: impl Into<String>) -> SettingsError {
    SettingsError::Conflict { problem: problem.into(), hint: Some(hint.into()) }
}

fn dockerfile(flags: &BuildFlags) -> DockerfileSource {
    match flags.file.as_deref() {
        None => DockerfileSource::InContext,
        Some(path) if path.as_os_str() == "-" => DockerfileSource::Stdin,
        Some(path) => DockerfileSource::File(path.to_owned()),
    }
}

/// What outputs want of the image, which is made once for all of them.
#[derive(Default)]
struct Wanted {
    compression: Option<Compression>,
    force_compression: bool,
    media_types: Option<MediaTypes>,
}

type NamesAndOutputs = (Vec<Reference>, Vec<Output>, Wanted);

/// The names of the image, where it goes, and what outputs want of it.
fn names_and_outputs(
    flags: &BuildFlags,
    surroundings: &Surroundings,
) -> Result<NamesAndOutputs, SettingsError> {
    const OUTPUT: &str = "--output";
    let mut tags: Vec<Reference> = Vec::new();
    for text in &flags.tags {
        let name = each("--tag", text, output::tag)?;
        if !tags.contains(&name) {
            tags.push(name);
        }
    }
    let mut typed: Vec<Typed> =
        flags.outputs.iter().map(|text| each(OUTPUT, text, output::parse)).collect::<Result<_, _>>()?;
    if flags.push {
        typed.push(Typed::push());
    }
    // An image that has names only in its outputs has those in the store too, so that it is found there.
    if tags.is_empty() {
        for name in typed.iter().flat_map(|output| output.names()) {
            if !tags.contains(name) {
                tags.push(name.clone());
            }
        }
    }
    let mut outputs: Vec<Output> = Vec::new();
    for output in &typed {
        let flag = if *output == Typed::push() && flags.push { "--push" } else { OUTPUT };
        let resolved = output.resolve(&tags).map_err(|problem| problem.at(&Origin::Flag(flag)))?;
        // `--push` beside `type=registry` is the same said twice.
        outputs.extend(resolved.filter(|output| !outputs.contains(output)));
    }
    let to_stdout = outputs.iter().filter(|output| output.is_stdout()).count();
    if to_stdout > 1 {
        return Err(conflict("two outputs go to standard output", "write one of them to a file"));
    }
    if to_stdout == 1 && surroundings.stdout_is_terminal {
        let hint = "redirect standard output, or give `dest=FILE`";
        return Err(conflict("an archive is not written to a terminal", hint));
    }
    let wanted = Wanted {
        compression: agreed(
            typed.iter().filter_map(|output| output.compression),
            "two outputs want layers to be compressed in different ways, and they are made once",
        )?,
        force_compression: typed.iter().any(|output| output.force_compression),
        media_types: agreed(
            typed.iter().filter_map(|output| output.media_types),
            "two outputs want different media types, and the image is made once",
        )?,
    };
    Ok((tags, outputs, wanted))
}

/// What all of them want, if one of them wants something.
fn agreed<T: PartialEq>(mut all: impl Iterator<Item = T>, problem: &str) -> Result<Option<T>, SettingsError> {
    let first = all.next();
    match all.all(|other| first.as_ref() == Some(&other)) {
        true => Ok(first),
        false => Err(conflict(problem, "build twice; nothing is executed the second time")),
    }
}

/// Docker's media types have no annotations but those of a manifest, where BuildKit puts them all the same.
fn annotations_for(annotations: &[Annotation], types: MediaTypes) -> Result<(), SettingsError> {
    let elsewhere = |one: &&Annotation| one.place != AnnotationPlace::Manifest;
    match annotations.iter().find(elsewhere).filter(|_| types == MediaTypes::Docker) {
        None => Ok(()),
        Some(one) => Err(conflict(
            format!("the annotation `{}` has no place beside Docker's media types", one.name),
            "leave `oci-mediatypes=false` out, or annotate the manifest",
        )),
    }
}

type ArgumentsAndEpoch = (Vec<(String, String)>, Option<i64>);

fn build_args(typed: &[String], environment: &Environment) -> Result<ArgumentsAndEpoch, SettingsError> {
    const FLAG: &str = "--build-arg";
    let mut arguments: Vec<(String, String)> = Vec::new();
    for text in typed {
        match each(FLAG, text, pair)? {
            (name, Some(value)) => set(&mut arguments, name, value.to_owned()),
            // Without a value here or in the environment it is as if it were not there, as for `docker`.
            (name, None) => {
                if let Some(value) = environment.get(name) {
                    set(&mut arguments, name, value.to_owned());
                }
            }
        }
    }
    if let Some((name, options)) = arguments.iter().find(|(name, _)| name == CHECK_ARGUMENT) {
        let wrong = |problem| Problem::saying(format!("{name}: {problem}")).at(&Origin::Flag(FLAG));
        CheckOptions::parse(options).map_err(wrong)?;
    }
    let argument = arguments.iter().find(|(name, _)| name == variables::SOURCE_DATE_EPOCH);
    let (value, origin) = match (argument, environment.get(variables::SOURCE_DATE_EPOCH)) {
        (Some((_, value)), _) => (value.clone(), Origin::Flag(FLAG)),
        (None, Some(value)) => (value.to_owned(), Origin::Variable(variables::SOURCE_DATE_EPOCH)),
        (None, None) => return Ok((arguments, None)),
    };
    if value.is_empty() {
        return Ok((arguments, None));
    }
    let epoch = value.parse::<i64>().ok().filter(|epoch| *epoch >= 0);
    let epoch = epoch.ok_or_else(|| {
        Problem::new(&value, "is no time: SOURCE_DATE_EPOCH is a number of seconds since 1970").at(&origin)
    })?;
    set(&mut arguments, variables::SOURCE_DATE_EPOCH, value);
    Ok((arguments, Some(epoch)))
}

/// Reads the names of stages, parted by commas, each once.
fn stage_names(text: &str) -> Result<Vec<String>, Problem> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if name.is_empty() {
            return Err(Problem::new(text, "has an empty name; stages are parted by commas"));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn labels(typed: &[String]) -> Result<Vec<(String, String)>, SettingsError> {
    let mut labels = Vec::new();
    for text in typed {
        let (name, value) = each("--label", text, pair)?;
        // A label without a value is there and empty, as for `docker`.
        set(&mut labels, name, value.unwrap_or_default().to_owned());
    }
    Ok(labels)
}

fn named_contexts(
    typed: &[String],
) -> Result<Vec<(String, crate::build::request::NamedContext)>, SettingsError> {
    let mut contexts = Vec::new();
    for text in typed {
        let (name, context) = each("--build-context", text, contexts::named)?;
        set(&mut contexts, &name, context);
    }
    Ok(contexts)
}

/// Sees that there is an index where something is said of one.
fn index_for(annotations: &[Annotation], platforms: &[Platform]) -> Result<(), SettingsError> {
    match annotations.iter().find(|annotation| annotation.place.is_of_index()) {
        Some(annotation) if platforms.len() < 2 => Err(conflict(
            format!("the annotation `{}` is for an index, and one platform makes none", annotation.name),
            "name several with `--platform`",
        )),
        _ => Ok(()),
    }
}

/// Sees that no archive for `docker load` is asked to hold several platforms: nothing in its format says which image is for
/// which. BuildKit's exporter refuses it too.
fn one_platform_for(outputs: &[Output], platforms: &[Platform]) -> Result<(), SettingsError> {
    if platforms.len() > 1 && outputs.iter().any(|output| matches!(output, Output::Docker { .. })) {
        return Err(conflict(
            format!("an output of `type=docker` holds one platform, and there are {}", platforms.len()),
            "write `type=oci`, or build them one at a time",
        ));
    }
    Ok(())
}
