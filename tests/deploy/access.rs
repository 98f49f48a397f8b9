//! What has to be there before a deployment: a login for the nodes, and rights.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Cluster, Cofferdam, Level};

/// A run of cofferdam: its status, standard output and standard error.
fn run(kubeconfig: &Path, args: &[&str], input: &str) -> (i32, String, String) {
    let home = Cofferdam::new();
    let mut command = home.command();
    let output = command.env("KUBECONFIG", kubeconfig).args(args).write_stdin(input).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A Role for CI jobs with these verbs on secrets, in place of the one before.
fn allow_secrets(cluster: &Cluster, namespace: &str, verbs: &[&str]) {
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
         "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "gitlab:ci_job"}]},
    ]});
    cluster.run(&["-n", namespace, "apply", "-f", "-"], objects.to_string()).unwrap();
}

/// Rights come into force a moment after they were given: runs until it ends with `status`.
fn until(status: i32, attempt: impl Fn() -> (i32, String, String)) -> (i32, String, String) {
    let start = std::time::Instant::now();
    loop {
        let ran = attempt();
        if ran.0 == status || start.elapsed() > std::time::Duration::from_secs(10) {
            return ran;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
fn pull_secrets_may_be_sent_again_and_again() {
    let cluster = Cluster::up();
    let namespace = cluster.namespace(Level::Privileged);
    let line = |name: &'static str, more: &'static str| {
        let mut line = vec![
            "pull-secret",
            name,
            "-n",
            namespace.name(),
            "--server=r.example",
            "-u",
            "robot",
            "--password-stdin",
        ];
        line.extend((!more.is_empty()).then_some(more));
        line
    };
    let admin = |name, password: &str| run(cluster.kubeconfig(), &line(name, ""), password);
    let secret = |name: &str| -> Value {
        serde_json::from_str(&namespace.kubectl(&["get", "secret", name, "-o", "json"]).unwrap()).unwrap()
    };

    let (status, said, told) = admin("pull", "one");
    assert_eq!((status, &*said), (0, "secret/pull created\n"), "{told}");
    assert!(told.contains("imagePullSecrets: [{name: pull}]"), "{told}");
    let (status, said, told) = admin("pull", "two");
    assert_eq!((status, &*said), (0, "secret/pull configured\n"), "{told}");
    let (_, printed, _) = run(cluster.kubeconfig(), &line("pull", "--print"), "two");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&secret("pull")["data"], &secret("pull")["type"]), (&printed["data"], &printed["type"]));

    // What kubectl has made is taken over; what has another type is made anew.
    let made = [
        "create",
        "secret",
        "docker-registry",
        "old",
        "--docker-server=x",
        "--docker-username=u",
        "--docker-password=p",
    ];
    namespace.kubectl(&made).unwrap();
    assert_eq!(admin("old", "three").1, "secret/old configured\n");
    assert_eq!(secret("old")["data"], {
        let (_, printed, _) = run(cluster.kubeconfig(), &line("old", "--print"), "three");
        serde_json::from_str::<Value>(&printed).unwrap()["data"].clone()
    });
    namespace.kubectl(&["create", "secret", "generic", "other", "--from-literal=a=b"]).unwrap();
    let (status, said, told) = admin("other", "four");
    assert_eq!((status, &*said), (0, "secret/other replaced\n"), "{told}");

    // A job that may create and delete, and not change.
    let job = |name, password: &str| run(cluster.ci_kubeconfig(), &line(name, ""), password);
    let (status, _, told) = job("pull", "five");
    assert_eq!(status, 16, "{told}");
    assert!(told.contains("gitlab:ci_job") && !told.contains("five"), "{told}");
    allow_secrets(cluster, namespace.name(), &["delete"]);
    let before = secret("pull")["metadata"]["uid"].clone();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(job("pull", "five").0, 16);
    assert_eq!(
        secret("pull")["metadata"]["uid"],
        before,
        "nothing is deleted that could not be created again"
    );
    allow_secrets(cluster, namespace.name(), &["create", "delete"]);
    let (status, said, told) = until(0, || job("pull", "five"));
    assert_eq!((status, &*said), (0, "secret/pull replaced\n"), "{told}");
    assert!(told.contains("deleted and created anew"), "{told}");
    assert_ne!(secret("pull")["metadata"]["uid"], before);
    assert_eq!(job("fresh", "six").1, "secret/fresh created\n");
}

const APP: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {a: b}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: web}
rules: [{apiGroups: [''], resources: [endpoints], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: web}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: web}
subjects: [{kind: ServiceAccount, name: web}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: 'cofferdam.invalid/pause:1', imagePullPolicy: Never}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

#[test]
fn the_least_role_is_enough_for_a_whole_deployment() {
    let cluster = Cluster::up();
    let namespace = cluster.namespace(Level::Privileged);
    let place = namespace.name();
    // In its own file, as the binding of a service account needs its namespace.
    let app = APP.replace("name: web}]", &format!("name: web, namespace: {place}}}]"));
    let generate = ["rbac", "generate", "-f", "-", "-n", place, "--deployment", "web", "--prune"];
    // Without any cluster: nothing is asked for kinds that are known.
    let (status, role, told) = run(Path::new("/dev/null"), &generate, &app);
    assert_eq!(status, 0, "{told}");
    let deploy = |text: &str| {
        run(
            cluster.ci_kubeconfig(),
            &["deploy", "-f", "-", "-n", place, "--name=web", "--prune", "--timeout=60s"],
            text,
        )
    };
    let (status, _, told) = deploy(&app);
    assert_eq!(status, 16, "{told}");
    // The administrator may give what the Role gives.
    cluster.run(&["apply", "-f", "-"], &role).unwrap();
    let (status, said, told) = until(0, || deploy(&app));
    assert_eq!(status, 0, "{said}{told}");
    assert!(said.contains("deployment.apps/web created\n"), "{said}");
    // Everything but the workload is pruned, by the same rights.
    let rest = app
        .split("---\n")
        .filter(|text| text.contains("kind: Deployment") || text.contains("kind: ServiceAccount\n"));
    let rest = rest.collect::<Vec<_>>().join("---\n");
    let (status, said, told) = deploy(&rest);
    assert_eq!(status, 0, "{said}{told}");
    for gone in ["configmap", "secret", "service", "role", "rolebinding"] {
        let found = namespace.kubectl(&["get", gone, "web"]).unwrap_err();
        assert!(found.contains("NotFound"), "{gone}: {found}");
    }

    // One verb less, and what is missing is named.
    let (_, _, told) = {
        let poor =
            role.replace("[get, list, watch, create, patch, delete]", "[get, list, watch, create, delete]");
        assert_ne!(poor, role);
        cluster.run(&["apply", "-f", "-"], &poor).unwrap();
        until(16, || deploy(&rest.replace("app: web}}", "app: web, more: x}}")))
    };
    assert!(told.contains("cannot patch resource \"deployments\""), "{told}");
}
