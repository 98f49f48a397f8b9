//! `cofferdam build`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use serde_json::json;

use super::arguments::RegistryArgs;
use super::call;
use super::error::CliError;
use super::results::ResultFile;
use super::session::Session;
use super::stdout;
use crate::build::request::{BuildOutcome, BuildRequest, Output, Services};
use crate::build::transport::{self, Look, Place};
use crate::image::{Digest, HandedImage, HandedPlatform, Handoff, Reference};
use crate::settings::{BuildFlags, Method};

const SOURCE: &str = "Source";
const IMAGE: &str = "Image";
const RESULT: &str = "Result";
const CACHE: &str = "Cache";
const EXECUTION: &str = "Execution";

const AFTER_HELP: &str = "\
Standard output has the digest of the image's manifest (sha256:…), or the archive of an output that
goes there.

Examples:
  Build the directory's Dockerfile, and push the image as soon as its layers are there:
    cofferdam build -t registry.example.com/group/app:v1 --push .
  Know what was built, to pin it as registry.example.com/group/app@$digest:
    digest=$(cofferdam build -t registry.example.com/group/app:v1 --push .)
  Write an archive that `docker load` reads:
    cofferdam build -t app:v1 -o type=docker,dest=app.tar .
  Use an image and a directory under names of their own:
    cofferdam build --build-context base=docker-image://debian:12 --build-context shared=../shared .
  Check the Dockerfile, and have what is found as JSON:
    cofferdam build --call=check,format=json .
  Let a step know a token, which no layer has: RUN --mount=type=secret,id=token …
    cofferdam build --secret id=token,env=CI_JOB_TOKEN -t app:v1 .
  Get the same digest every time:
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) cofferdam build -t app:v1 .

Outputs are type=registry, image, oci, docker, local and tar, with fields as `docker buildx build`
has them; a path alone is type=local. Without any output the image is in the local store, where
`cofferdam push` finds it.";

/// Flags of `build`.
#[derive(Debug, Default, Args)]
#[command(after_help = AFTER_HELP)]
pub struct BuildArgs {
    /// Directory of the files that COPY and ADD find, a repository or archive elsewhere, or - for an archive on standard input [default: .]
    #[arg(value_hint = ValueHint::DirPath)]
    context: Option<String>,

    /// The Dockerfile; - is standard input [default: Dockerfile in CONTEXT]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = SOURCE)]
    file: Option<PathBuf>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE", help_heading = SOURCE)]
    target: Option<String>,
    /// Set an ARG; without a value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", help_heading = SOURCE)]
    build_args: Vec<String>,
    /// Use a directory, a URL, docker-image://IMAGE, oci-layout://DIR[:TAG] or target:STAGE where FROM or --from says NAME
    #[arg(long = "build-context", value_name = "NAME=VALUE", help_heading = SOURCE)]
    build_contexts: Vec<String>,
    /// Let steps that mount it know a secret: src=FILE, or env=VARIABLE
    #[arg(long = "secret", value_name = "id=NAME,KEY=VALUE", help_heading = SOURCE)]
    secrets: Vec<String>,
    /// Let steps that mount it use an SSH agent, or keys from files: default, or a name [default: $SSH_AUTH_SOCK]
    #[arg(long = "ssh", value_name = "NAME[=SOCKET|KEY,…]", help_heading = SOURCE)]
    agents: Vec<String>,

    /// Name the image; may be given several times
    #[arg(short, long = "tag", value_name = "NAME[:TAG]", help_heading = IMAGE)]
    tags: Vec<String>,
    /// Set a label
    #[arg(long = "label", value_name = "NAME=VALUE", help_heading = IMAGE)]
    labels: Vec<String>,
    /// The platforms to build for; several make an index [default: this machine's]
    #[arg(long = "platform", value_name = "OS/ARCH,…", help_heading = IMAGE)]
    platforms: Vec<String>,
    /// Annotate the manifest, or PLACE: index, manifest-descriptor, index-descriptor, manifest[OS/ARCH]
    #[arg(long = "annotation", value_name = "[PLACE:]NAME=VALUE", help_heading = IMAGE)]
    annotations: Vec<String>,
    /// Compress layers by gzip (0 to 12), zstd (1 to 22) or none [default: gzip]
    #[arg(long, value_name = "KIND[:LEVEL]", help_heading = IMAGE)]
    compression: Option<String>,

    /// Push the image under its names
    #[arg(long, help_heading = RESULT)]
    push: bool,
    /// Where else the image goes: a directory, or type=TYPE,KEY=VALUE,…
    #[arg(short, long = "output", value_name = "OUTPUT", help_heading = RESULT)]
    outputs: Vec<String>,
    /// Write the digest of the image's configuration to FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = RESULT)]
    iidfile: Option<PathBuf>,
    /// Write digests, descriptor and names of the image to FILE, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = RESULT)]
    metadata_file: Option<PathBuf>,
    /// Write the pushed image to FILE as JSON, for `cofferdam deploy --images`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = RESULT)]
    image_json: Option<PathBuf>,
    /// Write IMAGE (or NAME), IMAGE_TAG, IMAGE_DIGEST and IMAGE_REF to FILE, as GitLab's dotenv reports have it
    #[arg(long, value_name = "[NAME=]FILE", help_heading = RESULT)]
    image_env: Option<String>,

    /// Check the Dockerfile instead of building it: --call=check
    #[arg(long, help_heading = EXECUTION)]
    check: bool,
    /// What to do: build, check, outline (what the target takes) or targets; ,format=json for JSON [default: build]
    #[arg(long, value_name = "METHOD", help_heading = EXECUTION)]
    call: Option<String>,
    /// Use nothing of what earlier builds have left
    #[arg(long, help_heading = CACHE)]
    no_cache: bool,
    /// Ask registries what the tags of base images name now; every build does, and `docker build` has to be told
    #[arg(long, help_heading = CACHE)]
    pull: bool,
    /// Share the results of steps in a repository: the same as --cache-from and --cache-to with mode=max
    #[arg(long, value_name = "REPOSITORY", help_heading = CACHE)]
    cache_repo: Option<String>,
    /// Look for results of steps there too: an image, or type=registry,ref=… or type=local,src=DIR
    #[arg(long, value_name = "CACHE", help_heading = CACHE)]
    cache_from: Vec<String>,
    /// Put results of steps there too: type=registry,ref=…, type=local,dest=DIR or type=inline; mode=max for those of all stages
    #[arg(long, value_name = "CACHE", help_heading = CACHE)]
    cache_to: Vec<String>,
    /// Use no result of a step that is older: 36h, 14d
    #[arg(long, value_name = "AGE", help_heading = CACHE)]
    cache_ttl: Option<String>,
    /// Keep the state directory to so much, without what was not used for longest: 2GB
    #[arg(long, value_name = "SIZE", help_heading = CACHE)]
    state_limit: Option<String>,
    /// Say of each step what becomes of it, and why, before the first is carried out
    #[arg(long, help_heading = CACHE)]
    explain: bool,
    /// Carry out the steps of these stages anew, and those that take files from them
    #[arg(long, value_name = "STAGE,…", help_heading = CACHE)]
    no_cache_filter: Vec<String>,
    /// How many stages are worked on at one time, and how many threads read and compress [default: the number of processors]
    #[arg(long, value_name = "STAGES", help_heading = EXECUTION)]
    parallel: Option<String>,
    /// Refuse to run steps that the kernel does not confine (Landlock)
    #[arg(long, help_heading = EXECUTION)]
    require_isolation: bool,

    #[command(flatten)]
    registry: RegistryArgs,
}

impl BuildArgs {
    /// As `settings` takes them.
    pub(super) fn lower(self) -> (BuildFlags, RegistryArgs) {
        let Self { context, file, target, build_args, build_contexts, secrets, agents, .. } = self;
        let Self {
            tags,
            labels,
            platforms,
            annotations,
            compression,
            push,
            outputs,
            iidfile,
            metadata_file,
            image_json,
            image_env,
            ..
        } = self;
        let Self { explain, cache_repo, cache_from, cache_to, cache_ttl, state_limit, .. } = self;
        let Self { no_cache, no_cache_filter, parallel, require_isolation, registry, call, check, .. } = self;
        let flags = BuildFlags {
            context,
            file,
            tags,
            target,
            build_args,
            build_contexts,
            secrets,
            agents,
            labels,
            platforms,
            annotations,
            outputs,
            push,
            no_cache,
            cache_repo,
            cache_from,
            cache_to,
            cache_ttl,
            state_limit,
            explain,
            no_cache_filter,
            compression,
            parallel,
            require_isolation,
            iidfile,
            metadata_file,
            image_json,
            image_env,
            call,
            check,
        };
        (flags, registry)
    }
}

/// Builds.
pub(super) async fn run(arguments: BuildArgs, session: &Session) -> Result<(), CliError> {
    let (flags, registry) = arguments.lower();
    let settings = session.settings.build(&flags)?;
    if settings.call.method != Method::Build {
        return call::run(settings.call, &settings.request, registry, session).await;
    }
    let umask = settings.request.umask;
    let file = |path: Option<PathBuf>| path.map(|path| ResultFile::prepare(path, umask)).transpose();
    let iidfile = file(settings.results.iidfile)?;
    let metadata_file = file(settings.results.metadata_file)?;
    let handing =
        Handing::prepare(&settings.request, settings.results.image_json, settings.results.image_env)?;
    let silent = settings.request.outputs.iter().any(Output::is_stdout);
    let registry = registry.lower();
    let services = session.services(&registry)?;
    let begun = Instant::now();
    let built = crate::build::build(settings.request, services).await;
    if let Some(limit) = settings.state_limit {
        let names = built.as_ref().map(|outcome| outcome.names.clone()).unwrap_or_default();
        session.keep_within(limit, names).await;
    }
    let outcome = built?;
    if let Some(file) = iidfile {
        // Without a line break, as `docker` writes it.
        // Of several platforms there is no one configuration: the index stands for it, as in BuildKit.
        file.write(outcome.config.unwrap_or(outcome.digest).to_string().as_bytes())?;
    }
    if let Some(file) = metadata_file {
        file.write(metadata(&outcome).as_bytes())?;
    }
    handing.write(&outcome, begun.elapsed(), || session.services(&registry)).await?;
    if silent { Ok(()) } else { stdout::write(&format!("{}\n", outcome.digest)) }
}

/// What is handed to a deployment, and where it is written.
struct Handing {
    json: Option<ResultFile>,
    variables: Option<(String, ResultFile)>,
}

impl Handing {
    /// Makes sure before the build that it can be written, and that GitLab would take it: digests are all of one length.
    fn prepare(
        request: &BuildRequest,
        json: Option<PathBuf>,
        variables: Option<(String, PathBuf)>,
    ) -> Result<Self, CliError> {
        if let Some((name, _)) = &variables {
            let names: Vec<Reference> =
                request.outputs.iter().flat_map(Output::pushed_names).cloned().collect();
            HandedImage::new(&names, Digest::of(b""), Vec::new(), None)
                .and_then(|image| image.dotenv(name))
                .map_err(|error| {
                    CliError::usage(format!("`--image-env`: {error}"), "give NAME=FILE, with a short NAME")
                })?;
        }
        let file = |path| ResultFile::prepare(path, request.umask);
        Ok(Self {
            json: json.map(file).transpose()?,
            variables: variables.map(|(name, path)| Ok::<_, CliError>((name, file(path)?))).transpose()?,
        })
    }

    async fn write(
        self,
        outcome: &BuildOutcome,
        took: Duration,
        services: impl Fn() -> Result<Services, CliError>,
    ) -> Result<(), CliError> {
        let Self { json, variables } = self;
        if json.is_none() && variables.is_none() {
            return Ok(());
        }
        let platforms = platforms(outcome, &services()?).await?;
        let image = HandedImage::new(&outcome.pushed, outcome.digest, platforms, Some(took.as_secs()));
        let image =
            image.map_err(|error| CliError::usage(error.to_string(), "give `--push` and `-t NAME`"))?;
        if let Some((name, file)) = variables {
            let text = image.dotenv(&name);
            file.write(
                text.map_err(|error| CliError::usage(error.to_string(), "give a shorter NAME"))?.as_bytes(),
            )?;
        }
        match json {
            Some(file) => file.write(Handoff::of(vec![image]).to_json().as_bytes()),
            None => Ok(()),
        }
    }
}

/// The images of each platform, as the store has them.
async fn platforms(outcome: &BuildOutcome, services: &Services) -> Result<Vec<HandedPlatform>, CliError> {
    let Some(name) = outcome.names.first() else { return Ok(Vec::new()) };
    let described = transport::look(&Place::Store(name.clone()), None, Look::Whole, services).await?;
    let images = described.images.into_iter().filter_map(|image| {
        Some(HandedPlatform { platform: image.platform?, digest: image.digest, size: image.size })
    });
    Ok(images.collect())
}

/// What `docker buildx build --metadata-file` writes of an image.
fn metadata(outcome: &BuildOutcome) -> String {
    let mut object = json!({
        "containerimage.descriptor": outcome.descriptor,
        "containerimage.digest": outcome.digest,
    });
    let mut names: Vec<String> = Vec::new();
    for name in outcome.names.iter().chain(&outcome.pushed).map(ToString::to_string) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if let Some(object) = object.as_object_mut() {
        if let Some(config) = outcome.config {
            object.insert("containerimage.config.digest".to_owned(), json!(config));
        }
        if !names.is_empty() {
            object.insert("image.name".to_owned(), json!(names.join(",")));
        }
    }
    format!("{object:#}\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;
    use rstest::rstest;

    use super::*;
    use crate::build::request::{
        BuildRequest, ContextSource, Destination, DockerfileSource, MediaTypes, NamedContext,
    };
    use crate::cli::arguments::{Arguments, Command};
    use crate::image::{Descriptor, MediaType};
    use crate::layer::Compression;
    use crate::registry::Environment;
    use crate::settings::{BuildSettings, Settings, Surroundings};

    /// What a command line comes to, for a machine with three processors and nothing set but `COLOUR`.
    fn settle(line: &[&str]) -> BuildSettings {
        let mut typed = vec!["cofferdam", "build", "--config", "/dev/null"];
        typed.extend(line);
        let arguments = Arguments::try_parse_from(typed).unwrap();
        let surroundings = Surroundings {
            environment: Environment::new([("COLOUR", "teal")]),
            uid: 1000,
            umask: 0o027,
            threads: 3,
            stdin_is_terminal: false,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
        };
        let Command::Build(build) = arguments.command else { panic!("not build") };
        let settings = Settings::load(arguments.global.lower(), surroundings).unwrap();
        settings.build(&build.lower().0).unwrap()
    }

    fn plain() -> BuildRequest {
        BuildRequest {
            context: ContextSource::Directory(".".into()),
            dockerfile: DockerfileSource::InContext,
            target: None,
            tags: Vec::new(),
            build_args: Vec::new(),
            labels: Vec::new(),
            secrets: Vec::new(),
            agents: Vec::new(),
            platforms: Vec::new(),
            annotations: Vec::new(),
            named_contexts: Vec::new(),
            outputs: Vec::new(),
            no_cache: false,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            cache_ttl: None,
            explain: false,
            no_cache_stages: Vec::new(),
            source_date_epoch: None,
            compression: Compression::default(),
            force_compression: false,
            media_types: MediaTypes::default(),
            require_isolation: false,
            parallel: 3,
            umask: 0o027,
        }
    }

    fn names(names: &[&str]) -> Vec<Reference> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[rstest]
    #[case::nothing(&[], plain())]
    #[case::context(&["sub/dir"], BuildRequest { context: ContextSource::Directory("sub/dir".into()), ..plain() })]
    #[case::file(&["-f", "x.Dockerfile"], BuildRequest { dockerfile: DockerfileSource::File("x.Dockerfile".into()), ..plain() })]
    #[case::stdin(&["-f-", "."], BuildRequest { dockerfile: DockerfileSource::Stdin, ..plain() })]
    #[case::tags(&["-t", "a:1", "--tag=b.example/c"], BuildRequest { tags: names(&["a:1", "b.example/c:latest"]), ..plain() })]
    #[case::arguments(
        &["--build-arg", "A=1", "--build-arg", "COLOUR", "--build-arg", "ABSENT", "--build-arg", "A=x=y"],
        BuildRequest { build_args: pairs(&[("A", "x=y"), ("COLOUR", "teal")]), ..plain() }
    )]
    #[case::label(&["--label", "k=v", "--label=empty"], BuildRequest { labels: pairs(&[("k", "v"), ("empty", "")]), ..plain() })]
    #[case::target(&["--target", "test"], BuildRequest { target: Some("test".into()), ..plain() })]
    #[case::platform(&["--platform", "linux/arm64"], BuildRequest { platforms: vec!["linux/arm64".parse().unwrap()], ..plain() })]
    #[case::push(
        &["--push", "-t", "r.example/a:1"],
        BuildRequest {
            tags: names(&["r.example/a:1"]),
            outputs: vec![Output::Registry { names: names(&["r.example/a:1"]) }],
            ..plain()
        }
    )]
    #[case::outputs(
        &["-o", "out", "--output=type=tar,dest=-"],
        BuildRequest {
            outputs: vec![Output::Local { directory: "out".into() }, Output::Tar { destination: Destination::Stdout }],
            ..plain()
        }
    )]
    #[case::contexts(
        &["--build-context", "d=dir", "--build-context=s=target:base"],
        BuildRequest {
            named_contexts: vec![
                ("d".into(), NamedContext::Directory("dir".into())),
                ("s".into(), NamedContext::Target("base".into())),
            ],
            ..plain()
        }
    )]
    #[case::execution(
        &["--no-cache", "--no-cache-filter=a,b", "--no-cache-filter", "b", "--parallel", "7", "--require-isolation", "--compression", "zstd:5"],
        BuildRequest {
            no_cache: true,
            no_cache_stages: vec!["a".into(), "b".into()],
            parallel: 7,
            require_isolation: true,
            compression: Compression::Zstd(5),
            ..plain()
        }
    )]
    fn flags_come_to(#[case] line: &[&str], #[case] expected: BuildRequest) {
        assert_eq!(settle(line).request, expected);
    }

    #[test]
    fn files_of_the_result() {
        let results = settle(&["--iidfile", "id", "--metadata-file=meta.json"]).results;
        assert_eq!(results.iidfile.as_deref(), Some(Path::new("id")));
        assert_eq!(results.metadata_file.as_deref(), Some(Path::new("meta.json")));
    }

    #[test]
    fn registries_are_a_matter_of_their_own() {
        let typed = ["cofferdam", "build", "--registry-mirror=m.example", "--insecure-registry=i.example"];
        let Command::Build(build) = Arguments::try_parse_from(typed).unwrap().command else { panic!() };
        let flags = build.lower().1.lower();
        assert_eq!(
            (flags.mirrors, flags.insecure),
            (vec!["m.example".to_owned()], vec!["i.example".to_owned()])
        );
        assert!(flags.ca.is_empty());
    }

    fn outcome(names: Vec<Reference>, pushed: Vec<Reference>) -> BuildOutcome {
        let digest = Digest::of(b"manifest");
        BuildOutcome {
            descriptor: Descriptor::new(MediaType::ImageManifest, 8, oci_spec::image::Digest::from(digest)),
            digest,
            config: Some(Digest::of(b"config")),
            names,
            pushed,
            written: Vec::new(),
        }
    }

    /// The keys are those of moby's `client/build.go` and buildx's `--metadata-file`.
    #[test]
    fn metadata_are_those_of_buildx() {
        let both = names(&["app:1", "r.example/app:1"]);
        let text = metadata(&outcome(both.clone(), both[1..].to_vec()));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            json!({
                "containerimage.config.digest": Digest::of(b"config").to_string(),
                "containerimage.digest": Digest::of(b"manifest").to_string(),
                "containerimage.descriptor": {
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": Digest::of(b"manifest").to_string(),
                    "size": 8
                },
                "image.name": "docker.io/library/app:1,r.example/app:1"
            })
        );
        assert!(!metadata(&outcome(Vec::new(), Vec::new())).contains("image.name"));
    }
}
