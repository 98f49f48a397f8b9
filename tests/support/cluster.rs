//! A real Kubernetes with one real node.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::{Fixture, Registry, TestImage, eventually, script};

/// How long a pod may take: images come from this machine.
const POD: Duration = Duration::from_secs(60);

/// Kubernetes' Pod Security Standards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Restricted,
    Baseline,
    Privileged,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Baseline => "baseline",
            Self::Privileged => "privileged",
        }
    }
}

/// A cluster: API server, scheduler, controllers and one node, whose pods are reached from here by their address.
pub struct Cluster {
    fixture: Fixture,
}

impl Cluster {
    /// The cluster that the tests of one program share. It starts with the first that asks, in a few seconds, and
    /// ends with the program.
    pub fn up() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(Self::start)
    }

    /// A cluster of one's own, which ends when this is dropped.
    pub fn start() -> Self {
        Self { fixture: Fixture::start::<&str>("cluster", []) }
    }

    /// The same with `count` more nodes, which are there by name alone: pods that ask for `type: kwok` are ready at once.
    pub fn with_named_nodes(count: usize) -> Self {
        Self { fixture: Fixture::start("cluster", ["--nodes", &count.to_string()]) }
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.fixture.path("DIR")
    }

    /// Kills the API server, which begins anew at once. What it was asked is not answered; it takes requests again about a
    /// second later.
    pub fn restart_api_server(&self) {
        // Whoever comes second ends another than the first.
        static RESTART: Mutex<()> = Mutex::new(());
        let _one_at_a_time = RESTART.lock().unwrap_or_else(PoisonError::into_inner);
        std::fs::write(self.directory().join("restarts"), "").expect("a file");
        let old = self.api_server().expect("an API server");
        let pid = rustix::process::Pid::from_raw(old).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("root may end it");
        eventually("a new API server", Duration::from_secs(10), || {
            self.api_server().filter(|new| *new != old).ok_or("it has not begun".to_owned())
        });
    }

    /// Its process.
    fn api_server(&self) -> Option<i32> {
        let mark = format!("--cert-dir={}", self.directory().join("pki").display());
        let is_it = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.next().is_some_and(|program| program.ends_with(b"/kube-apiserver"))
                && words.any(|word| word == mark.as_bytes())
        };
        let entries = std::fs::read_dir("/proc").expect("processes").flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        pids.find(is_it)
    }

    /// What keeps it up.
    pub fn fixture(&self) -> &Fixture {
        &self.fixture
    }

    /// The configuration of its administrator.
    pub fn kubeconfig(&self) -> &Path {
        self.fixture.path("KUBECONFIG")
    }

    /// The configuration of a CI job that comes through GitLab's agent: user `gitlab:ci_job:1074`, groups `gitlab:ci_job`,
    /// `gitlab:project:150`. It may do what a test's role bindings let it.
    pub fn ci_kubeconfig(&self) -> &Path {
        self.fixture.path("CI_KUBECONFIG")
    }

    /// Where NodePorts answer.
    pub fn node_ip(&self) -> IpAddr {
        self.fixture.value("NODE_IP").parse().expect("an address")
    }

    /// A registry that this machine, the node and the pods reach under one name, with every base image. The node
    /// trusts it. It must not outlive the cluster, on whose network it listens.
    pub fn registry(&self) -> Registry {
        self.registry_with(Registry::options())
    }

    /// The same with options.
    pub fn registry_with(&self, options: super::RegistryOptions) -> Registry {
        let registry = options.listen(self.fixture.value("HOST_IP")).start();
        self.trust(&registry);
        registry
    }

    /// Lets the node pull from a registry.
    pub fn trust(&self, registry: &Registry) {
        let mut command = Command::new(script("cluster"));
        command.args(["trust", self.fixture.value("REGISTRIES"), registry.address()]).args(registry.ca());
        assert!(
            command.status().expect("fixtures/cluster runs").success(),
            "the node cannot be told of a registry"
        );
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.fixture.path("KUBECTL"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command
    }

    /// `kubectl ARGS` with `input`; what it printed.
    ///
    /// # Errors
    /// What it said, if it failed.
    pub fn run(&self, args: &[&str], input: impl AsRef<[u8]>) -> Result<String, String> {
        let mut child = self
            .kubectl()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        // It may end without reading: what it says then tells more than a broken pipe.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_ref());
        let output = child.wait_with_output().expect("kubectl ends");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// A new namespace in which a Pod Security Standard is enforced.
    pub fn namespace(&self, level: Level) -> Namespace<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{}-{}", level.name(), NEXT.fetch_add(1, Ordering::Relaxed));
        let manifest = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
             pod-security.kubernetes.io/enforce: {}\n",
            level.name()
        );
        self.run(&["apply", "-f", "-"], &manifest).unwrap_or_else(|e| panic!("namespace {name}: {e}"));
        eventually("the namespace's service account", Duration::from_secs(20), || {
            self.run(&["-n", &name, "get", "serviceaccount", "default"], "")
        });
        Namespace { cluster: self, name, level }
    }

    /// Puts a program into an image (on `busybox`), so that pods can run it where no directory of the node may be
    /// mounted; gives the reference. It lies in `/usr/local/bin`, runs as uid 1000 and is the entrypoint.
    pub fn program_image(registry: &Registry, program: &Path) -> String {
        let name = program.file_name().expect("a file").to_string_lossy().into_owned();
        let path = format!("/usr/local/bin/{name}");
        TestImage::from("library/busybox:1")
            .file(&path, 0o755, program)
            .set("Entrypoint", serde_json::json!([path]))
            .set("Cmd", serde_json::Value::Null)
            .set("User", serde_json::json!("1000:1000"))
            .push(registry, &format!("programs/{name}:test"))
    }
}

/// A namespace of a test's own.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
    level: Level,
}

impl<'a> Namespace<'a> {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kubectl -n NAMESPACE ARGS`.
    ///
    /// # Errors
    /// What it said, if it failed.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.cluster.run(&[&["-n", &self.name], args].concat(), "")
    }

    /// `kubectl apply` of a manifest.
    ///
    /// # Errors
    /// What the API server refused.
    pub fn apply(&self, manifest: &str) -> Result<String, String> {
        self.cluster.run(&["-n", &self.name, "apply", "-f", "-"], manifest)
    }

    /// Starts a pod as this namespace's level has it: under *restricted*, uid 1000, no capability, `RuntimeDefault`.
    /// It has an `emptyDir` at `/work`, its working directory and `HOME`, and is not restarted. An empty `command` is
    /// the image's own.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub fn pod(&self, name: &str, image: &str, command: &[&str]) -> Pod<'_> {
        let security = match self.level {
            Level::Restricted => serde_json::json!({
                "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            }),
            Level::Baseline | Level::Privileged => serde_json::json!({}),
        };
        let mut container = serde_json::json!({
            "name": "main", "image": image, "workingDir": "/work", "securityContext": security,
            "env": [{"name": "HOME", "value": "/work"}],
            "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        });
        if !command.is_empty() {
            container["command"] = serde_json::json!(command);
        }
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.name},
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "securityContext": {"fsGroup": 1000},
                "containers": [container], "volumes": [{"name": "work", "emptyDir": {}}],
            },
        });
        self.apply(&pod.to_string()).unwrap_or_else(|e| panic!("pod {name}: {e}"));
        self.existing(name)
    }

    /// A pod that something else makes.
    pub fn existing(&self, name: &str) -> Pod<'_> {
        Pod { namespace: self, name: name.to_owned() }
    }
}

/// A pod.
pub struct Pod<'a> {
    namespace: &'a Namespace<'a>,
    name: String,
}

impl Pod<'_> {
    fn get(&self, jsonpath: &str) -> Result<String, String> {
        self.namespace.kubectl(&["get", "pod", &self.name, "-o", &format!("jsonpath={jsonpath}")])
    }

    /// Waits until it has ended; gives its exit code and its log.
    ///
    /// # Panics
    /// If it has not ended within a minute; with its description.
    pub fn wait(&self) -> (i32, String) {
        self.wait_for(POD)
    }

    /// The same with another limit, for pods that do work.
    pub fn wait_for(&self, limit: Duration) -> (i32, String) {
        let code = eventually(&format!("the end of pod {}", self.name), limit, || {
            let code = self.get("{.status.containerStatuses[0].state.terminated.exitCode}")?;
            code.parse::<i32>().map_err(|_| self.describe())
        });
        (code, self.logs())
    }

    /// Waits until it is ready; gives its address, which is reached from here.
    ///
    /// # Panics
    /// If it is not ready within a minute; with its description.
    pub fn ready(&self) -> IpAddr {
        eventually(&format!("readiness of pod {}", self.name), POD, || {
            let state = self.get("{.status.conditions[?(@.type==\"Ready\")].status} {.status.podIP}")?;
            let address = state.strip_prefix("True ").and_then(|ip| ip.parse().ok());
            address.ok_or_else(|| self.describe())
        })
    }

    pub fn logs(&self) -> String {
        self.namespace
            .kubectl(&["logs", &self.name])
            .unwrap_or_else(|e| panic!("logs of pod {}: {e}", self.name))
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// What it printed, if it failed.
    pub fn exec(&self, command: &[&str]) -> Result<String, String> {
        self.namespace.kubectl(&[&["exec", &self.name, "--"], command].concat())
    }

    /// The same with something on its standard input.
    ///
    /// # Errors
    /// What it printed, if it failed.
    pub fn exec_with(&self, command: &[&str], input: &[u8]) -> Result<String, String> {
        let Namespace { cluster, name, .. } = self.namespace;
        cluster.run(&[&["-n", name, "exec", "-i", &self.name, "--"], command].concat(), input)
    }

    /// For people: state, events, and the log if there is one.
    pub fn describe(&self) -> String {
        let about = self.namespace.kubectl(&["describe", "pod", &self.name]).unwrap_or_else(|e| e);
        let log = self.namespace.kubectl(&["logs", &self.name]).unwrap_or_else(|e| e);
        format!("{about}\n--- log\n{log}")
    }
}
