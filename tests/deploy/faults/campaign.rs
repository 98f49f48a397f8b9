//! Schedules of faults, drawn by a seed, over the life of a deployment: each command must bring the cluster where it would be
//! without faults, or fail and say so; never say "ready" or "created" of what is not, and leave nothing that the
//! deployment's own list does not know.
//!
//! `DEPLOY_FAULTS=50` runs it at full size; see `docs/campaigns.md`. `DEPLOY_FAULTS_FROM=17 DEPLOY_FAULTS=1` runs one seed. What
//! is drawn follows from the seed; what it meets does as far as two programs ask in the same order twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Ran, beside, is_ready, run, web};
use crate::differential::try_live;
use crate::support::{Call, Cluster, Fate, Front, Level, Namespace, Registry, eventually};

/// Seeds in every run of the tests.
const FEW: u64 = 4;
/// Seeds at a time.
const WORKERS: usize = 6;
/// Kinds in which nothing may be too much or too little.
const KINDS: &str = "configmap,secret,service,serviceaccount,deployment,statefulset,job";
/// What a failure under faults may say: unreachable, forbidden (a server that begins knows no roles yet), refused, not in
/// time.
const HONEST: [i32; 4] = [15, 16, 18, 20];
/// What a version that does not come to life says.
const BROKEN: i32 = 19;
/// How long the cluster is asked for what it is like, while it may be restarting.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is deployed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    One,
    Two,
    /// Its program ends.
    Broken,
}

impl Version {
    /// Its manifests. Those of `Two` lack some of `One`'s objects and have others.
    fn manifests(self, registry: &Registry) -> String {
        let text = format!("{self:?}").to_lowercase();
        let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": text}});
        let service = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
        };
        let mut workload = web(registry, &text, 2);
        if self == Self::Broken {
            workload["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["sh", "-c", "exit 3"]);
        }
        let mut objects = vec![
            map("conf"),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"text": text}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "runner"}}),
            service("web"),
            workload,
            stateful(registry, &text),
            job(registry, &text),
        ];
        let own = match self {
            Self::One | Self::Broken => ["old-a", "old-b", "old-c"],
            Self::Two => ["new-a", "new-b", "new-c"],
        };
        objects.extend(own.map(map));
        objects.push(service(own[0]));
        objects.iter().map(|object| format!("{object}\n---\n")).collect()
    }

    /// The names of its objects.
    fn names(self, registry: &Registry) -> BTreeSet<String> {
        let documents = self.manifests(registry);
        let objects = documents.split("---\n").filter(|text| !text.trim().is_empty());
        let name = |text: &str| {
            let object: Value = serde_json::from_str(text).unwrap();
            format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
        };
        objects.map(name).collect()
    }
}

fn stateful(registry: &Registry, text: &str) -> Value {
    let mut object = web(registry, text, 1);
    object["kind"] = json!("StatefulSet");
    object["metadata"]["name"] = json!("data");
    object["spec"]["serviceName"] = json!("web");
    object["spec"]["selector"]["matchLabels"]["app"] = json!("data");
    object["spec"]["template"]["metadata"]["labels"]["app"] = json!("data");
    object
}

/// A Job cannot be changed: each version has its own.
fn job(registry: &Registry, text: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("task-{text}")}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [
            {"name": "app", "image": registry.reference("library/busybox:1"), "command": ["true"]}]}}}})
}

/// The faults of one command.
#[derive(Debug, Clone)]
struct Weather {
    seed: u64,
    /// When it storms, and what of: then nothing goes through.
    storm: Option<(Duration, Duration, Fate)>,
    /// How many of a hundred requests meet something.
    often: u8,
    /// How many of a hundred watches do.
    watches: u8,
    delay: Duration,
    /// When the server is killed.
    restart: Option<Duration>,
}

impl Weather {
    fn draw(rng: &mut Rng) -> Self {
        let storm = rng.u8(..10) < 4;
        let moment = |rng: &mut Rng, most| Duration::from_millis(rng.u64(..most));
        let storm = storm.then(|| (moment(rng, 4000), moment(rng, 6000), mishap(rng)));
        Self {
            seed: rng.u64(..),
            storm,
            often: *rng.choice(&[0, 5, 15, 30]).unwrap(),
            watches: *rng.choice(&[0, 50, 90]).unwrap(),
            delay: Duration::from_millis(*rng.choice(&[0, 0, 20, 200]).unwrap()),
            restart: (rng.u8(..10) < 2).then(|| moment(rng, 4000)),
        }
    }

    fn fate(&self, asked: &Call) -> Fate {
        let mut rng = Rng::with_seed(self.seed ^ (asked.number << 32));
        if let Some((begin, length, fate)) = &self.storm
            && (*begin..*begin + *length).contains(&asked.at)
        {
            // A watch is no answer: what would spoil one spoils its beginning.
            return if asked.is_watch() { Fate::Unheard } else { fate.clone() };
        }
        if asked.is_watch() {
            return match rng.u8(..100) {
                number if number >= self.watches => Fate::Passed,
                number if number % 25 == 0 => Fate::Silent,
                number if number % 5 == 0 => Fate::Stale,
                _ => Fate::Cut(Duration::from_millis(rng.u64(20..1500))),
            };
        }
        if rng.u8(..100) < self.often { mishap(&mut rng) } else { Fate::Passed }
    }
}

/// What can become of a request.
fn mishap(rng: &mut Rng) -> Fate {
    match rng.u8(..10) {
        0 => Fate::Refused { status: 429, retry_after: Some(1) },
        1 => Fate::Refused { status: 429, retry_after: None },
        2 => Fate::Refused { status: 503, retry_after: Some(1) },
        3 => Fate::Refused { status: 502, retry_after: None },
        4 => Fate::Refused { status: 504, retry_after: None },
        5 => Fate::Disowned { status: 502 },
        6 => Fate::Disowned { status: 504 },
        7 => Fate::Unheard,
        8 => Fate::Unanswered,
        _ => Fate::Torn,
    }
}

/// What the seeds of one cluster share.
struct Scene<'a> {
    cluster: Cluster,
    /// What is right, by version.
    right: BTreeMap<Version, BTreeMap<String, Value>>,
    tally: &'a Tally,
}

/// What has happened.
#[derive(Default)]
struct Tally {
    restarts: AtomicU64,
    told: Mutex<BTreeMap<String, usize>>,
    failed: AtomicU64,
    commands: AtomicU64,
}

/// One seed's deployment.
struct Life<'a> {
    scene: &'a Scene<'a>,
    registry: &'a Registry,
    namespace: Namespace<'a>,
    seed: u64,
}

impl Life<'_> {
    fn deploy<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec![
            "deploy",
            "-n",
            self.namespace.name(),
            "--name",
            "app",
            "--prune",
            "--timeout",
            "100s",
            "-f",
            "-",
        ];
        args.extend(more);
        args
    }

    /// A command in bad weather.
    fn under(&self, weather: &Weather, args: &[&str], input: &str) -> Ran {
        let scene = self.scene;
        let judge = weather.clone();
        let front = Front::start(&scene.cluster, weather.delay, move |asked| judge.fate(asked));
        let ran = beside(&front.kubeconfig(), args, input, |running| {
            let began = Instant::now();
            while let Some(at) = weather.restart.filter(|_| running()) {
                if began.elapsed() >= at {
                    scene.cluster.restart_api_server();
                    scene.tally.restarts.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut told = scene.tally.told.lock().unwrap();
        for (_, fate) in front.asked().into_iter().filter(|(_, fate)| *fate != Fate::Passed) {
            let name = match fate {
                Fate::Cut(_) => "Cut".to_owned(),
                other => format!("{other:?}"),
            };
            *told.entry(name).or_default() += 1;
        }
        scene.tally.commands.fetch_add(1, Ordering::Relaxed);
        if ran.code != 0 {
            scene.tally.failed.fetch_add(1, Ordering::Relaxed);
        }
        ran
    }

    /// `kubectl`, which a restart must not disturb.
    fn ask(&self, args: &[&str]) -> String {
        eventually(&format!("seed {}: {args:?}", self.seed), PATIENCE, || self.namespace.kubectl(args))
    }

    /// What is in the namespace, by name, without what comes with it.
    fn there(&self) -> BTreeMap<String, Value> {
        let found: Value = serde_json::from_str(&self.ask(&["get", KINDS, "-o", "json"])).unwrap();
        let items = found["items"].as_array().unwrap().iter().cloned();
        let named = items.map(|item| {
            let name =
                format!("{}/{}", item["kind"].as_str().unwrap(), item["metadata"]["name"].as_str().unwrap());
            (name, item)
        });
        let own = ["ConfigMap/kube-root-ca.crt", "ServiceAccount/default"];
        named.filter(|(name, _)| !own.contains(&&**name)).collect()
    }

    /// Where the cluster must be after a command that has said that all is well.
    fn is_right(&self, version: Version, what: &str) {
        let seed = self.seed;
        let there = self.there();
        let mut expected = version.names(self.registry);
        expected.insert("ConfigMap/cofferdam-app".to_owned());
        let names: BTreeSet<String> = there.keys().cloned().collect();
        // What is removed may be on its way.
        let names = names.into_iter().filter(|name| there[name]["metadata"]["deletionTimestamp"].is_null());
        assert_eq!(names.collect::<BTreeSet<_>>(), expected, "seed {seed}, {what}");
        for name in ["Deployment/web", "StatefulSet/data"] {
            assert!(is_ready(&there[name]), "seed {seed}, {what}: {name} is not ready: {:#}", there[name]);
        }
        let job = &there[&format!("Job/task-{version:?}").to_lowercase().replace("job/", "Job/")];
        assert_eq!(job["status"]["succeeded"], 1, "seed {seed}, {what}: {job:#}");
        let (name, text) = (self.namespace.name(), version.manifests(self.registry));
        let live =
            eventually("the live objects", PATIENCE, || try_live(&self.scene.cluster, name, &text, name));
        assert_eq!(live, self.scene.right[&version], "seed {seed}, {what}");
    }

    /// What must be so after a failure: it says why, what it said to be there is, and the list knows all there is.
    fn is_honest(&self, ran: &Ran, expected: &[i32], what: &str) {
        let seed = self.seed;
        assert!(expected.contains(&ran.code), "seed {seed}, {what}: status {}: {}", ran.code, ran.err);
        assert!(ran.err.contains("error"), "seed {seed}, {what}: {}", ran.err);
        let there = self.there();
        for line in ran.out.lines().filter(|line| !line.ends_with(" deleted")) {
            let (object, _) = line.split_once(' ').unwrap();
            let (kind, name) = object.split_once('/').unwrap();
            let kind = kind.split('.').next().unwrap();
            let is_it = |known: &str| known.to_lowercase() == format!("{kind}/{name}");
            assert!(
                there.keys().any(|known| is_it(known)),
                "seed {seed}, {what}: {line}, and it is not there"
            );
        }
        if there.is_empty() {
            return;
        }
        let list = there.get("ConfigMap/cofferdam-app").map(|list| list["data"]["objects"].as_str().unwrap());
        let list: Vec<Value> = serde_json::from_str(list.unwrap_or("[]")).unwrap();
        for name in there.keys().filter(|name| *name != "ConfigMap/cofferdam-app") {
            let is_it =
                |one: &Value| format!("{}/{}", one["kind"].as_str().unwrap(), one["name"].as_str().unwrap());
            assert!(
                list.iter().any(|one| is_it(one) == *name),
                "seed {seed}, {what}: nothing knows of {name}"
            );
        }
    }

    /// Deploys a version in bad weather and, if that has failed, in good.
    fn step(&self, weather: &Weather, version: Version) {
        let what = format!("{version:?} in {weather:?}");
        let input = version.manifests(self.registry);
        let ran = self.under(weather, &self.deploy(&[]), &input);
        if version == Version::Broken {
            return self.is_honest(&ran, &[&HONEST[..], &[BROKEN]].concat(), &what);
        }
        if ran.code != 0 {
            self.is_honest(&ran, &HONEST, &what);
            let again = eventually(&what, PATIENCE, || {
                let ran = run(self.scene.cluster.kubeconfig(), &self.deploy(&[]), &input);
                // Another seed may have the server restart just now.
                if ran.code == 15 { Err(ran.err) } else { Ok(ran) }
            });
            assert_eq!(again.code, 0, "seed {}, after {what}: {}", self.seed, again.err);
        }
        self.is_right(version, &what);
    }

    fn end(&self, weather: &Weather) {
        let what = format!("undeploy in {weather:?}");
        let args = ["undeploy", "app", "-n", self.namespace.name()];
        let ran = self.under(weather, &args, "");
        if ran.code != 0 {
            self.is_honest(&ran, &HONEST, &what);
            let again = eventually(&what, PATIENCE, || {
                let ran = run(self.scene.cluster.kubeconfig(), &args, "");
                if ran.code == 15 { Err(ran.err) } else { Ok(ran) }
            });
            assert_eq!(again.code, 0, "seed {}, after {what}: {}", self.seed, again.err);
        }
        let left = self.there();
        assert!(left.is_empty(), "seed {}, {what}: {:?}", self.seed, left.keys());
        assert_eq!(self.ask(&["get", "pod", "-o", "name"]), "", "seed {}, {what}", self.seed);
    }
}

fn run_seed(scene: &Scene<'_>, registry: &Registry, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let namespace = scene.cluster.namespace(Level::Privileged);
    let life = Life { scene, registry, namespace, seed };
    life.step(&Weather::draw(&mut rng), Version::One);
    for version in rng.choose_multiple([Version::One, Version::Two, Version::Broken], 2) {
        life.step(&Weather::draw(&mut rng), version);
    }
    life.end(&Weather::draw(&mut rng));
    scene.cluster.run(&["delete", "namespace", life.namespace.name(), "--wait=false"], "").ok();
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Controllers that stand on an API server which is ended again and again do not always get up any more: that is not what is
/// looked into here, so every so many seeds have a cluster of their own.
const OF_ONE_CLUSTER: usize = 16;

// How far it has come is told to who runs it at full size.
#[allow(clippy::print_stderr)]
fn run_seeds(seeds: Range<u64>, tally: &Tally, began: Instant) {
    let cluster = Cluster::start();
    let registry = cluster.registry();
    let mut scene = Scene { cluster, right: BTreeMap::new(), tally };
    for version in [Version::One, Version::Two] {
        let namespace = scene.cluster.namespace(Level::Privileged);
        let text = version.manifests(&registry);
        let args = ["deploy", "-n", namespace.name(), "--name", "app", "--prune", "-f", "-"];
        let ran = run(scene.cluster.kubeconfig(), &args, &text);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let right = try_live(&scene.cluster, namespace.name(), &text, namespace.name()).unwrap();
        let name = namespace.name().to_owned();
        scene.cluster.run(&["delete", "namespace", &name, "--wait=false"], "").unwrap();
        scene.right.insert(version, right);
    }
    let (scene, next) = (&scene, &AtomicU64::new(seeds.start));
    std::thread::scope(|scope| {
        let worker = || loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return;
            }
            run_seed(scene, &registry, seed);
            eprintln!("seed {seed} after {:?}", began.elapsed());
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

#[test]
fn faults_leave_what_would_be_without_them_or_an_error() {
    let (first, count) = (number("DEPLOY_FAULTS_FROM", 0), number("DEPLOY_FAULTS", FEW));
    let (tally, began) = (Tally::default(), Instant::now());
    for start in (first..first + count).step_by(OF_ONE_CLUSTER) {
        run_seeds(start..(start + OF_ONE_CLUSTER as u64).min(first + count), &tally, began);
    }
    let told = tally.told.lock().unwrap();
    let faults: usize = told.values().sum();
    let (commands, failed) = (tally.commands.load(Ordering::Relaxed), tally.failed.load(Ordering::Relaxed));
    let restarts = tally.restarts.load(Ordering::Relaxed);
    eprintln!(
        "{count} seeds, {commands} commands, {faults} faults, {restarts} restarts, {failed} commands failed, {:?}: {told:?}",
        began.elapsed()
    );
    if count >= FEW {
        // Otherwise nothing was tried.
        assert!(faults as u64 > 10 * count && told.len() >= 8, "{faults} faults: {told:?}");
    }
}
