//! Deployments over a way that fails: the real API server restarts, connections are cut, and what lies between answers in its place.
//!
//! Each fault has a test of its own; [`campaign`] draws schedules of them.

mod campaign;

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rollouts;
use crate::support::{Call, Cluster, Cofferdam, Fate, Front, Level, Namespace, Registry, Wire, eventually};

/// What a command has come to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

/// `cofferdam ARGS`, while `beside` goes on.
pub fn beside(
    kubeconfig: &Path,
    args: &[&str],
    input: &str,
    beside: impl FnOnce(&mut dyn FnMut() -> bool),
) -> Ran {
    let home = Cofferdam::new();
    let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let [mut stdin, mut stdout, mut stderr] = files;
    std::io::Write::write_all(&mut stdin, input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut stdin).unwrap();
    let began = Instant::now();
    let mut command = home.process();
    command.env("KUBECONFIG", kubeconfig).args(args).stdin(stdin);
    command.stdout(Stdio::from(stdout.try_clone().unwrap())).stderr(Stdio::from(stderr.try_clone().unwrap()));
    let mut child = command.spawn().unwrap();
    beside(&mut || child.try_wait().unwrap().is_none());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if began.elapsed() > LONGEST {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{args:?} has not ended within {LONGEST:?}:\n{}", whole(&mut stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = began.elapsed();
    Ran { code: status.code().unwrap_or(-1), out: whole(&mut stdout), err: whole(&mut stderr), took }
}

/// Longest that a command may take, whatever happens.
const LONGEST: Duration = Duration::from_secs(240);

fn whole(file: &mut std::fs::File) -> String {
    let mut text = String::new();
    std::io::Seek::rewind(file).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// The same with nothing beside it.
pub fn run(kubeconfig: &Path, args: &[&str], input: &str) -> Ran {
    beside(kubeconfig, args, input, |_| {})
}

/// A Deployment whose pods are ready a moment after they have begun.
pub fn web(registry: &Registry, text: &str, replicas: u32) -> Value {
    let mut object = rollouts::web(registry, text, replicas);
    object["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["initialDelaySeconds"] = json!(1);
    object
}

/// Takes the line down when the first of [`maps`] is there.
fn down_when_begun(wire: &Wire, namespace: &Namespace<'_>, running: &mut dyn FnMut() -> bool) {
    let is_begun = || namespace.kubectl(&["get", "configmap", "map-000"]).is_ok();
    while running() && !is_begun() {}
    wire.down(true);
    wire.cut();
}

/// So many ConfigMaps.
fn maps(count: usize, text: &str) -> String {
    let map = |number| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("map-{number:03}")},
            "data": {"text": text}})
    };
    (0..count).map(|number| format!("{}\n---\n", map(number))).collect()
}

/// Every line of it, in order.
fn created(count: usize) -> String {
    (0..count).map(|number| format!("configmap/map-{number:03} created\n")).collect()
}

/// What a workload says of itself is that it is whole.
pub fn is_ready(workload: &Value) -> bool {
    let status = |name: &str| workload["status"][name].as_u64().unwrap_or(0);
    let wanted = workload["spec"]["replicas"].as_u64().unwrap_or(1);
    workload["status"]["observedGeneration"] == workload["metadata"]["generation"]
        && [status("updatedReplicas"), status("readyReplicas"), status("replicas")] == [wanted; 3]
}

fn assert_ready(namespace: &Namespace<'_>, text: &str) {
    let found = namespace.kubectl(&["get", "deployment", "web", "-o", "json"]).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    assert!(is_ready(&found), "{found:#}");
    assert_eq!(found["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"], text);
}

#[test]
fn an_api_server_that_restarts_is_waited_for() {
    // Its own, for others could not bear it.
    let cluster = &Cluster::start();
    let registry = &cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    let args = ["deploy", "-n", namespace.name(), "--timeout", "90s", "-f", "-"];
    for (text, moment) in [("one", "first"), ("two", "rollout")] {
        let input = format!("{}\n---\n{}", maps(60, text), web(registry, text, 2));
        let mut killed = false;
        let ran = beside(cluster.kubeconfig(), &args, &input, |running| {
            let applied = || match moment {
                // While objects are applied, and while pods come to life.
                "first" => namespace.kubectl(&["get", "configmap", "map-030", "-o", "name"]).is_ok(),
                _ => namespace
                    .kubectl(&["get", "deployment", "web", "-o", "jsonpath={..env[0].value}"])
                    .is_ok_and(|value| value == text),
            };
            while running() && !applied() {}
            killed = running();
            cluster.restart_api_server();
        });
        assert!(killed, "{moment}: it was over before the server was: {}", ran.err);
        assert_eq!(ran.code, 0, "{moment}: {}", ran.err);
        let done = if text == "one" { "created" } else { "configured" };
        assert_eq!(ran.out.matches(done).count(), 61, "{}", ran.out);
        assert_ready(&namespace, text);
    }
}

#[test]
fn a_watch_that_is_cut_again_and_again_goes_on() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    let wire = Wire::start(cluster, Duration::ZERO);
    let input = web(&registry, "one", 2).to_string();
    let mut cuts = 0;
    let args = ["deploy", "-n", namespace.name(), "--timeout", "90s", "-f", "-"];
    let ran = beside(&wire.kubeconfig(), &args, &input, |running| {
        while running() {
            std::thread::sleep(Duration::from_millis(150));
            cuts += wire.cut();
        }
    });
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(cuts > 5 && wire.opened() > 5, "{cuts} of {} connections were cut", wire.opened());
    assert_ready(&namespace, "one");
    // It is not asked in a circle: every cut costs a request or two.
    assert!(wire.opened() < 40 + 4 * cuts as u64, "{} connections for {cuts} cuts", wire.opened());
}

#[test]
fn a_line_that_is_down_for_seconds_is_waited_for() {
    let cluster = Cluster::up();
    let namespace = cluster.namespace(Level::Privileged);
    let wire = Wire::start(cluster, Duration::ZERO);
    let args = ["deploy", "-n", namespace.name(), "-f", "-"];
    let ran = beside(&wire.kubeconfig(), &args, &maps(40, "one"), |running| {
        down_when_begun(&wire, &namespace, running);
        std::thread::sleep(Duration::from_secs(3));
        wire.down(false);
    });
    assert_eq!((ran.code, ran.out), (0, created(40)), "{}", ran.err);
}

/// Requests that are no watch, each the first time it is made.
fn the_first_time(
    fate: impl Fn(&Call) -> Fate + Send + Sync + 'static,
) -> impl Fn(&Call) -> Fate + Send + Sync + 'static {
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    move |asked| {
        let is_new = seen.lock().unwrap().insert((asked.method.clone(), asked.path.clone()));
        if is_new && !asked.is_watch() { fate(asked) } else { Fate::Passed }
    }
}

#[test]
fn a_storm_of_429_is_waited_out() {
    let cluster = Cluster::up();
    let namespace = cluster.namespace(Level::Privileged);
    let args = ["deploy", "-n", namespace.name(), "-f", "-"];
    // For two seconds nobody gets anything; half of the answers say when to ask again.
    let front = Front::start(cluster, Duration::ZERO, |asked| match asked.at.as_secs() {
        0 | 1 => Fate::Refused { status: 429, retry_after: asked.number.is_multiple_of(2).then_some(1) },
        _ => Fate::Passed,
    });
    let ran = run(&front.kubeconfig(), &args, &maps(40, "one"));
    assert_eq!((ran.code, ran.out), (0, created(40)), "{}", ran.err);
    assert!(ran.took > Duration::from_secs(2), "{:?}", ran.took);
    // Each request meets it once. Who is told to wait does.
    let front = Front::start(
        cluster,
        Duration::ZERO,
        the_first_time(|_| Fate::Refused { status: 429, retry_after: Some(1) }),
    );
    let ran = run(&front.kubeconfig(), &args, &maps(40, "two"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out.matches("configured").count(), 40, "{}", ran.out);
    let asked = front.asked();
    for (first, _) in asked.iter().filter(|(_, fate)| *fate != Fate::Passed) {
        let again = asked.iter().find(|(later, _)| later.number > first.number && later.path == first.path);
        let waited = again.expect("it is asked again").0.at - first.at;
        assert!(waited >= Duration::from_secs(1), "{}: {waited:?}", first.path);
    }
}

#[test]
fn a_502_without_retry_after_is_asked_again_whether_or_not_it_was_done() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    let deploy = ["deploy", "-n", namespace.name(), "--name", "web", "--prune", "-f", "-"];
    type Judge = fn(&Call) -> Fate;
    let kinds: [(&str, Judge); 5] = [
        ("unheard 502", |_| Fate::Refused { status: 502, retry_after: None }),
        ("done 502", |_| Fate::Disowned { status: 502 }),
        ("done 504", |_| Fate::Disowned { status: 504 }),
        ("done and cut", |_| Fate::Unanswered),
        ("done and torn", |_| Fate::Torn),
    ];
    for (what, fate) in kinds {
        let front = Front::start(cluster, Duration::ZERO, the_first_time(fate));
        let input = format!("{}---\n{}", maps(10, what), web(&registry, what, 1));
        let ran = run(&front.kubeconfig(), &deploy, &input);
        assert_eq!(ran.code, 0, "{what}: {}", ran.err);
        // What was done unseen was done by us.
        let expected = format!("{}deployment.apps/web created\n", created(10));
        assert_eq!(ran.out, expected, "{what}: {}", ran.err);
        assert!(front.faults() > 20, "{what}: {} faults", front.faults());
        assert_ready(&namespace, what);
        let front = Front::start(cluster, Duration::ZERO, the_first_time(fate));
        let ran = run(&front.kubeconfig(), &["undeploy", "web", "-n", namespace.name()], "");
        assert_eq!(ran.code, 0, "{what}: {}", ran.err);
        let left = namespace.kubectl(&["get", "configmap,deployment,pod", "-o", "name"]).unwrap();
        assert_eq!(left.trim(), "configmap/kube-root-ca.crt", "{what}");
    }
}

/// A namespace that was made by a request whose answer was lost belongs to the deployment, and goes with it.
#[test]
fn a_namespace_whose_answer_was_lost_is_ours() {
    // While another test has an API service that does not answer, no namespace of the shared one comes to its end.
    let cluster = &Cluster::start();
    let front = || Front::start(cluster, Duration::ZERO, the_first_time(|_| Fate::Unanswered));
    let args = ["deploy", "-n", "lost-answer", "--create-namespace", "--name", "web", "-f", "-"];
    let ran = run(&front().kubeconfig(), &args, &maps(3, "one"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("namespace/lost-answer created\n"), "{}", ran.out);
    let ran = run(&front().kubeconfig(), &["undeploy", "web", "-n", "lost-answer"], "");
    assert_eq!(ran.code, 0, "{}", ran.err);
    eventually("the end of the namespace", Duration::from_secs(30), || {
        match cluster.run(&["get", "namespace", "lost-answer"], "") {
            Ok(found) => Err(found),
            Err(error) if error.contains("NotFound") => Ok(()),
            Err(error) => Err(error),
        }
    });
}

#[test]
fn requests_are_under_way_side_by_side_where_the_server_is_far() {
    let cluster = Cluster::up();
    let namespace = cluster.namespace(Level::Privileged);
    let far = Duration::from_millis(200);
    let front = Front::start(cluster, far, |_| Fate::Passed);
    let ran = run(&front.kubeconfig(), &["deploy", "-n", namespace.name(), "-f", "-"], &maps(60, "one"));
    assert_eq!((ran.code, ran.out), (0, created(60)), "{}", ran.err);
    let requests = front.asked().len();
    // One after the other they would take 25 s.
    assert!(requests >= 120 && ran.took < far * 40, "{requests} requests in {:?}", ran.took);
}

#[test]
fn a_version_that_the_server_has_forgotten_is_listed_anew() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    let watches = std::sync::atomic::AtomicU64::new(0);
    let front = Front::start(cluster, Duration::ZERO, move |asked| {
        let is_early = asked.is_watch() && watches.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3;
        if is_early { Fate::Stale } else { Fate::Passed }
    });
    let args = ["deploy", "-n", namespace.name(), "--timeout", "90s", "-f", "-"];
    let ran = run(&front.kubeconfig(), &args, &web(&registry, "one", 1).to_string());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_ready(&namespace, "one");
    let asked = front.asked();
    let lists = asked.iter().filter(|(asked, _)| asked.path.contains("/deployments?") && !asked.is_watch());
    assert!(front.faults() == 3 && lists.count() >= 4, "{asked:#?}");
}

/// As tunnels forget connections. Nothing can be seen but that nothing is seen.
#[test]
fn a_watch_that_is_forgotten_on_the_way_is_asked_for_anew() {
    let cluster = Cluster::up();
    let registry = cluster.registry();
    let namespace = cluster.namespace(Level::Privileged);
    let watches = std::sync::atomic::AtomicU64::new(0);
    let front = Front::start(cluster, Duration::ZERO, move |asked| {
        let is_first = asked.is_watch() && watches.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        if is_first { Fate::Silent } else { Fate::Passed }
    });
    let args = ["deploy", "-n", namespace.name(), "--timeout", "90s", "-f", "-"];
    let ran = run(&front.kubeconfig(), &args, &web(&registry, "one", 1).to_string());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(front.faults() == 1 && ran.took < Duration::from_secs(50), "{:?}", ran.took);
    assert_ready(&namespace, "one");
}

/// One that does not come back is told after a minute, however many objects there are, and nothing that is not so.
#[test]
fn a_server_that_does_not_come_back_is_told() {
    let cluster = Cluster::up();
    let namespace = cluster.namespace(Level::Privileged);
    let wire = Wire::start(cluster, Duration::ZERO);
    let args = ["deploy", "-n", namespace.name(), "-f", "-"];
    let ran = beside(&wire.kubeconfig(), &args, &maps(120, "one"), |running| {
        down_when_begun(&wire, &namespace, running);
    });
    assert_eq!(ran.code, 15, "{}", ran.err);
    assert!(ran.err.contains("cannot be reached"), "{}", ran.err);
    assert!((60..80).contains(&ran.took.as_secs()), "{:?}", ran.took);
    let there = namespace.kubectl(&["get", "configmap", "-o", "name"]).unwrap();
    assert!(ran.out.lines().count() < 120, "{}", ran.out);
    for line in ran.out.lines() {
        let name = line.strip_suffix(" created").expect(line);
        assert!(there.lines().any(|one| one == name), "{line}, and it is not there");
    }
}
