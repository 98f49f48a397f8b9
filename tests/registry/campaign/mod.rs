//! Registries that fail at random, under builds, pushes and copies: the result is right or there is an error, a name
//! never stands for anything wrong or incomplete, and it ends.
//!
//! `FAULTS=1000` runs the campaign at full size; see `docs/campaigns.md`. `FAULTS_FROM=417 FAULTS=1` runs one seed.

mod chaos;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cofferdam::build::request::{Cancellation, Services};
use cofferdam::build::transport::{self, CopyRequest, Place};
use cofferdam::build::{BuildError, build, push_named};
use cofferdam::image::{Descriptor, Digest, Manifest, Reference, media_type};
use cofferdam::registry::{Client, ClientOptions, Environment, Keychain, Timeouts, install_tls_provider};
use cofferdam::report::{Quiet, Report, Sink, Style, SystemClock};
use cofferdam::settings::{BuildFlags, GlobalFlags, Settings, Surroundings};
use cofferdam::store::Store;
use serde_json::json;

use self::chaos::{Chaos, Told, throw};
use crate::client::{bytes, client_with, login, options};
use crate::faulty::http::Answer;
use crate::faulty::registry::{Bearer, FakeRegistry, Running};
use crate::support::{Cofferdam, Scratch};

/// In an ordinary run of the tests.
const FEW: u64 = 60;
/// Every so many seeds the program itself is run, with pauses that take their time.
const PROCESS_EVERY: u64 = 40;
/// The seed of so many that is given to the program itself.
const PROCESS_LAST: u64 = PROCESS_EVERY - 1;
/// Runs side by side: they wait more than they compute.
const WORKERS: usize = 6;
/// Nothing that is asked of it takes longer, stalls and all.
const LONGEST: Duration = Duration::from_mins(2);
/// Names that are given.
const TAGS: [&str; 3] = ["app/one:v1", "app/two:v1", "app/two:v2"];

/// Limits that a registry which stands still runs into soon.
fn hasty() -> ClientOptions {
    let limit = Duration::from_millis(500);
    let timeouts = Timeouts { connect: Duration::from_secs(5), idle: limit, answer: limit, commit: limit };
    ClientOptions { timeouts, ..options() }
}

/// The layers of the base, as a registry has them.
struct Base {
    layers: Vec<(Vec<u8>, Digest)>,
}

impl Base {
    fn new() -> Self {
        let layer = |number: usize| {
            let mut archive = tar::Builder::new(Vec::new());
            for file in 0..4 {
                let content = bytes(90_000 + number * 20_000 + file);
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o644);
                header.set_size(content.len() as u64);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
                archive.append_data(&mut header, format!("base{number}/{file}"), &*content).unwrap();
            }
            let content = archive.into_inner().unwrap();
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gzip, &content).unwrap();
            (gzip.finish().unwrap(), Digest::of(&content))
        };
        Self { layers: (0..3).map(layer).collect() }
    }

    /// Puts the image where it is pulled from.
    fn put(&self, registry: &FakeRegistry) {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|(_, diff_id)| *diff_id).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
            "config": {"Env": ["A=b"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string();
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(layer, _)| {
                let digest = registry.put_blob("base", layer);
                json!({"mediaType": media_type::OCI_LAYER_GZIP, "digest": digest, "size": layer.len()})
            })
            .collect();
        let digest = registry.put_blob("base", config.as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": layers,
            "config": {"mediaType": media_type::OCI_CONFIG, "digest": digest, "size": config.len()}})
        .to_string();
        registry.put_manifest("base", "1", media_type::OCI_MANIFEST, manifest.as_bytes());
    }
}

/// One run: its registry, its store, its context.
struct Scene {
    seed: u64,
    registry: Running,
    /// Another one, that images are copied to.
    other: Running,
    place: Scratch,
    told: Told,
}

impl Scene {
    fn new(seed: u64, base: &Base) -> Self {
        let registry = || {
            let registry =
                FakeRegistry::bearer(Bearer { anonymous_pull: seed.is_multiple_of(5), ..Bearer::default() });
            // How the registry is, faults apart, is thrown as well.
            let of = |what: &str| throw(seed, what);
            registry.behave(|manners| {
                manners.relative_location = of("relative") % 2 == 0;
                manners.patched = [202, 201, 204][(of("patched") % 3) as usize];
                manners.mount = [Ok(()), Ok(()), Err(202), Err(401), Err(405)][(of("mount") % 5) as usize];
                manners.monolithic_only = of("monolithic") % 6 == 0;
                manners.largest_body = (of("largest") % 6 == 0).then_some(4_000_000);
                manners.keeps_broken = of("keeps") % 2 == 0;
                manners.status_range = (of("lies") % 8 == 0).then(|| "0-12345".to_owned());
                manners.ranges = of("ranges") % 3 != 0;
            });
            registry
        };
        let (registry, other) = (registry(), registry());
        base.put(&registry);
        let place = Scratch::new("faults-");
        let context = place.path().join("context");
        std::fs::create_dir(&context).unwrap();
        std::fs::write(context.join("file"), bytes(150_000)).unwrap();
        std::fs::write(
            context.join("Dockerfile"),
            format!(
                "FROM {host}/base:1 AS one\nCOPY file /one/\nFROM {host}/base:1\nCOPY --from=one /base1 /copied\n\
                 COPY file /two/\nWORKDIR /three\nLABEL a=b\n",
                host = registry.host()
            ),
        )
        .unwrap();
        Self { seed, registry, other, place, told: Told::default() }
    }

    /// From now on both fail.
    fn haunt(&self) {
        let rate = [0.02, 0.06, 0.15, 0.35][(throw(self.seed, "rate") % 4) as usize];
        for (number, registry) in [&self.registry, &self.other].into_iter().enumerate() {
            let chaos = Chaos::new(self.seed.wrapping_mul(2) + number as u64, rate, &self.told);
            registry.haunt(move |exchange, registry| chaos.act(exchange, registry));
        }
    }

    fn lay(&self) {
        self.registry.lay();
        self.other.lay();
    }

    fn keychain(&self) -> Keychain {
        [&self.registry, &self.other].into_iter().fold(Keychain::empty(), |keychain, registry| {
            keychain.with(&registry.host(), login("user", "user-password"))
        })
    }

    fn services(&self, options: ClientOptions) -> Services {
        let (client, _): (Client, _) = client_with(options, self.keychain());
        let quiet = Quiet::new(Sink::new(std::io::sink()), Arc::new(SystemClock::start()), Style::default());
        Services {
            store: Store::open(self.place.path().join("store")).unwrap(),
            client,
            report: Report::new(quiet),
            cancellation: Cancellation::default(),
            launcher: Cofferdam::binary().to_owned(),
            keep_roots: false,
            emulators: cofferdam::sandbox::EmulatorSearch::default(),
        }
    }

    fn name(&self, tag: &str) -> Reference {
        format!("{}/{tag}", self.registry.host()).parse().unwrap()
    }

    /// Builds and pushes under every name.
    async fn build(&self, options: ClientOptions, pushes: bool) -> Result<Digest, BuildError> {
        self.build_to(options, pushes, false).await
    }

    /// Where the files of what was built are written to.
    fn files(&self) -> std::path::PathBuf {
        self.place.path().join("files.tar")
    }

    /// The same, and perhaps writes its files, for which all layers are unpacked.
    async fn build_to(
        &self,
        options: ClientOptions,
        pushes: bool,
        unpacks: bool,
    ) -> Result<Digest, BuildError> {
        let surroundings = Surroundings {
            environment: Environment::new([("SOURCE_DATE_EPOCH", "0")]),
            uid: 0,
            umask: 0o022,
            threads: 2,
            stdin_is_terminal: false,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
        };
        let global = GlobalFlags { config: Some("/dev/null".into()), ..GlobalFlags::default() };
        let flags = BuildFlags {
            context: Some(self.place.path().join("context").display().to_string()),
            tags: TAGS.iter().map(|tag| self.name(tag).to_string()).collect(),
            platforms: vec!["linux/amd64".to_owned()],
            push: pushes,
            outputs: unpacks
                .then(|| format!("type=tar,dest={}", self.files().display()))
                .into_iter()
                .collect(),
            ..BuildFlags::default()
        };
        let request = Settings::load(global, surroundings).unwrap().build(&flags).unwrap().request;
        Ok(build(request, self.services(options)).await?.digest)
    }

    /// Copies what was built to another repository there and to another registry.
    async fn copy(&self, options: ClientOptions) -> Result<Digest, BuildError> {
        let there: Reference = format!("{}/copied:v1", self.other.host()).parse().unwrap();
        let mut targets = vec![Place::Registry(self.name("copied:v1")), Place::Registry(there)];
        if throw(self.seed, "alone").is_multiple_of(2) {
            targets.remove(0);
        }
        let request = CopyRequest {
            source: Place::Registry(self.name(TAGS[0])),
            targets,
            platform: None,
            umask: 0o022,
        };
        Ok(transport::copy(&request, &self.services(options)).await?.digest)
    }

    /// Pushes from the store.
    async fn push(&self, options: ClientOptions) -> Result<Digest, BuildError> {
        let services = self.services(options);
        let mut digest = None;
        for tag in TAGS {
            digest = Some(push_named(&self.name(tag), &services).await?);
        }
        Ok(digest.unwrap())
    }

    /// Every name that there is stands for `right`, with everything that it refers to. Gives how many there are.
    fn check(&self, right: Digest, when: &str) -> usize {
        let mut names = 0;
        for registry in [&self.registry, &self.other] {
            for (repository, tag) in registry.tags_given() {
                if repository == "base" {
                    continue;
                }
                names += 1;
                let place = format!("seed {}, {when}: {repository}:{tag}", self.seed);
                let bytes = registry.manifest(&repository, &tag).unwrap();
                assert_eq!(Digest::of(&bytes), right, "{place} is another image");
                let Manifest::Image(manifest) = Manifest::parse(&bytes, None).unwrap() else {
                    panic!("{place}")
                };
                for part in manifest.layers().iter().chain([manifest.config()]) {
                    let digest = Digest::try_from(part.digest()).unwrap();
                    let size = |part: &Descriptor| part.size();
                    let blob = registry.blob(&repository, digest);
                    let blob = blob.unwrap_or_else(|| panic!("{place} lacks {digest}"));
                    assert_eq!((Digest::of(&blob), blob.len() as u64), (digest, size(part)), "{place}");
                }
            }
            registry.assert_blobs_are_right();
        }
        names
    }
}

/// What one seed came to.
struct Outcome {
    failed: bool,
    told: BTreeMap<&'static str, usize>,
}

fn within<T>(seed: u64, what: &str, work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(LONGEST, work).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended.unwrap_or_else(|_| panic!("seed {seed}: {what} does not end"))
}

fn run_seed(seed: u64, base: &Base, right: Digest, right_files: Digest) -> Outcome {
    let scene = Scene::new(seed, base);
    let kind = seed % 4;
    // What is to be pushed or copied has to be there.
    match kind {
        1 => drop(within(seed, "a build", scene.build(options(), false)).unwrap()),
        2 => drop(within(seed, "a build", scene.build(options(), true)).unwrap()),
        _ => {}
    }
    scene.haunt();
    let work = |options: fn() -> ClientOptions| match kind {
        1 => within(seed, "a push", scene.push(options())),
        2 => within(seed, "a copy", scene.copy(options())),
        kind => within(seed, "a build", scene.build_to(options(), true, kind == 3)),
    };
    let outcome = work(hasty);
    scene.lay();
    let named = scene.check(right, "under faults");
    if let Ok(digest) = &outcome {
        assert_eq!(*digest, right, "seed {seed}: it succeeded with another image");
        if kind == 3 {
            let files = std::fs::read(scene.files()).unwrap();
            assert_eq!(Digest::of(&files), right_files, "seed {seed}: it succeeded with other files");
        }
        assert!(
            named >= if kind == 2 { 4 } else { 3 },
            "seed {seed}: it succeeded, and {named} names are there"
        );
    }
    // What the faults have left behind here is in nobody's way.
    let again = work(options).unwrap_or_else(|error| panic!("seed {seed}: without faults: {error:#?}"));
    assert_eq!(again, right, "seed {seed}: what was kept is wrong");
    scene.check(right, "afterwards");
    Outcome { failed: outcome.is_err(), told: scene.told.counts() }
}

/// The same with the program itself, as far as its end goes.
fn run_process(seed: u64, base: &Base, right: Digest) -> Outcome {
    let scene = Scene::new(seed, base);
    let cofferdam = Cofferdam::new();
    let docker = cofferdam.home().join(".docker");
    std::fs::create_dir(&docker).unwrap();
    let auth = json!({"auths": {scene.registry.host(): {"username": "user", "password": "user-password"}}});
    std::fs::write(docker.join("config.json"), auth.to_string()).unwrap();
    scene.haunt();
    let run = || {
        let mut command = cofferdam.command();
        command.env("SOURCE_DATE_EPOCH", "0").args(["build", "--push", "--progress=plain"]);
        command.args(["--platform", "linux/amd64"]).timeout(LONGEST);
        for tag in TAGS {
            command.arg("-t").arg(scene.name(tag).to_string());
        }
        command.arg(scene.place.path().join("context")).output().unwrap()
    };
    let output = run();
    scene.lay();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = output.status.code().unwrap_or_else(|| panic!("seed {seed}: it did not end:\n{told}"));
    assert!([0, 6, 7, 13].contains(&status), "seed {seed}: status {status}:\n{told}");
    scene.check(right, "under faults");
    let again = run();
    assert!(again.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim_end(), right.to_string(), "seed {seed}");
    assert_eq!(scene.check(right, "afterwards"), 3);
    Outcome { failed: status != 0, told: scene.told.counts() }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

#[test]
fn faults_never_give_a_wrong_name() {
    install_tls_provider();
    let (first, count) = (number("FAULTS_FROM", 0), number("FAULTS", FEW));
    let base = Base::new();
    // What is right is what comes of a registry without faults.
    let scene = Scene::new(u64::MAX, &base);
    let right = within(u64::MAX, "a build", scene.build_to(options(), true, true)).unwrap();
    assert_eq!(scene.check(right, "without faults"), 3);
    let right_files = Digest::of(&std::fs::read(scene.files()).unwrap());
    drop(scene);

    let (next, began) = (AtomicU64::new(first), Instant::now());
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let worker = || {
            let mut outcomes = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= first + count {
                    return outcomes;
                }
                outcomes.push(match seed % PROCESS_EVERY {
                    PROCESS_LAST => run_process(seed, &base, right),
                    _ => run_seed(seed, &base, right, right_files),
                });
            }
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, count) in outcomes.iter().flat_map(|outcome| &outcome.told) {
        *told.entry(kind).or_default() += count;
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failed).count();
    let faults: usize = told.values().sum();
    eprintln!("{count} runs, {faults} faults, {failed} runs failed, {:?}: {told:?}", began.elapsed());
    assert_eq!(outcomes.len() as u64, count);
    if count >= FEW {
        // Otherwise nothing was tried.
        assert!(faults as u64 > count, "there were {faults} faults only");
        assert!(failed > 0 && (failed as u64) < count, "{failed} of {count} runs failed");
        let kinds: HashSet<&str> = told.keys().copied().collect();
        assert!(kinds.len() > 10, "{kinds:?}");
    }
}

/// A build of the base's files, with some of the program's words.
fn build_program(cofferdam: &Cofferdam, context: &std::path::Path, more: &[&str]) -> std::process::Output {
    let mut command = cofferdam.command();
    command.args(["build", "--progress=plain", "--platform=linux/amd64"]).args(more).arg(context);
    command.timeout(LONGEST).output().unwrap()
}

/// Layers are read while they come in: those who have read wrong bytes begin anew when the right ones are here.
#[test]
fn layers_that_come_wrong_once_come_again() {
    for more in [&[][..], &["-o", "type=tar,dest=files.tar"]] {
        let (base, registry) = (Base::new(), FakeRegistry::open());
        base.put(&registry);
        let context = Scratch::new("faults-");
        let dockerfile = format!("FROM {0}/base:1\nCOPY --from={0}/base:1 /base2 /copied\n", registry.host());
        std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
        for (layer, _) in &base.layers {
            registry.alter("GET", &Digest::of(layer).to_string(), 1, |mut answer| {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 4;
                answer
            });
        }
        let output = build_program(&Cofferdam::new(), context.path(), more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(registry.count("GET", "/blobs/") > 2 * base.layers.len());
    }
}

/// Wrong bytes that a build which failed has left are found out by the next one, and brought again.
#[test]
fn what_a_broken_download_has_left_spoils_no_build() {
    let (base, registry) = (Base::new(), FakeRegistry::open());
    base.put(&registry);
    let (context, cofferdam) = (Scratch::new("faults-"), Cofferdam::new());
    let dockerfile = format!("FROM {0}/base:1\nCOPY --from={0}/base:1 /base2 /copied\n", registry.host());
    std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    let layer = Digest::of(&base.layers[0].0).to_string();
    registry.alter("GET", &layer, 1, |mut answer| {
        answer.body[1000] ^= 1;
        Answer { cut: Some(answer.body.len() / 2), ..answer }
    });
    registry.fail("GET", &layer, 99, Answer::error(404, "BLOB_UNKNOWN", "gone for now"));
    let output = build_program(&cofferdam, context.path(), &[]);
    assert_eq!(output.status.code(), Some(13), "{}", String::from_utf8_lossy(&output.stderr));
    registry.forgive();
    let output = build_program(&cofferdam, context.path(), &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ranges = registry.log().iter().filter(|one| one.head.header("range").is_some()).count();
    assert!(ranges > 0, "what was there was gone on from: {:?}", registry.lines());
}
