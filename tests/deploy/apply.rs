//! Applying: who owns what, what may be done, what a deployment consists of.

use std::path::Path;

use crate::differential::cofferdam;
use crate::support::{Cluster, Cofferdam, Level, Namespace};

/// What the command has come to.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// `cofferdam ARGS` as the administrator, with `input` on its standard input.
fn run(cluster: &Cluster, args: &[&str], input: &str) -> Ran {
    let (code, out, err) = cofferdam(cluster, &Cofferdam::new(), args, input);
    Ran { code, out, err }
}

/// The same with another kubeconfig and further variables.
fn run_as(kubeconfig: &Path, variables: &[(&str, &str)], args: &[&str], input: &str) -> Ran {
    let home = Cofferdam::new();
    let mut command = home.command();
    command.env("KUBECONFIG", kubeconfig).envs(variables.iter().copied()).args(args).write_stdin(input);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

fn config_map(name: &str, data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n---\n")
}

fn deployment(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
         spec: {{schedulerName: nobody, containers: [{{name: a, image: example.com/a}}]}}\n---\n"
    )
}

fn namespace(cluster: &Cluster) -> Namespace<'_> {
    cluster.namespace(Level::Privileged)
}

#[test]
fn a_mistake_in_the_last_object_stops_the_first() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    let manifests = config_map("first", "{a: b}")
        + "apiVersion: v1\nkind: Service\nmetadata: {name: last}\nspec: {ports: []}\n";
    let ran = run(cluster, &["deploy", "-n", space.name(), "-f", "-"], &manifests);
    assert_eq!((ran.code, ran.out.as_str()), (18, ""), "{}", ran.err);
    assert!(ran.err.contains("standard input:6: service/last: "), "{}", ran.err);
    assert!(space.kubectl(&["get", "configmap", "first"]).is_err(), "nothing was applied");
}

#[test]
fn each_object_is_created_then_unchanged_then_configured() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    let args = ["deploy", "--no-wait", "-n", space.name(), "-f", "-"];
    let two = |data: &str| config_map("one", data) + &config_map("two", "{x: z}");
    assert_eq!(run(cluster, &args, &two("{a: b}")).out, "configmap/one created\nconfigmap/two created\n");
    assert_eq!(run(cluster, &args, &two("{a: b}")).out, "configmap/one unchanged\nconfigmap/two unchanged\n");
    assert_eq!(
        run(cluster, &args, &two("{a: c}")).out,
        "configmap/one configured\nconfigmap/two unchanged\n"
    );
}

#[test]
fn a_namespace_and_a_definition_come_before_what_stands_on_them() {
    let cluster = Cluster::up();
    let manifests = "
apiVersion: order.example.com/v1
kind: Thing
metadata: {name: it, namespace: order}
---
apiVersion: v1
kind: Namespace
metadata: {name: order}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.order.example.com}
spec:
  group: order.example.com
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
";
    let dry = run(cluster, &["deploy", "--dry-run", "-f", "-"], manifests);
    assert!(
        dry.out.contains("thing.order.example.com/it would be created (not tried"),
        "{}{}",
        dry.out,
        dry.err
    );
    assert!(cluster.run(&["get", "namespace", "order"], "").is_err(), "a dry run leaves nothing");
    let ran = run(cluster, &["deploy", "-f", "-"], manifests);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.ends_with("thing.order.example.com/it created\n"), "{}", ran.out);
    // The namespace has nothing of ours but its name: it is not changed and changed back.
    let again = run(cluster, &["deploy", "-f", "-"], manifests);
    let last = run(cluster, &["deploy", "-f", "-"], manifests);
    assert!(last.out.contains("namespace/order unchanged"), "{}\n{}", again.out, last.out);
}

/// The dry run refused what only the same run makes possible, and nothing was ever applied.
#[test]
fn what_the_same_run_makes_possible_is_not_refused_before() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: alone}\nspec: {serviceAccountName: own, priorityClassName: \
               early-example, schedulerName: nobody, containers: [{name: a, image: example.com/a}]}\n---\napiVersion: v1\nkind: \
               ServiceAccount\nmetadata: {name: own}\n---\napiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: \
               {name: early-example}\nvalue: 10\n---\n";
    let definition = |fields: &str| {
        format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: tools.early.example.com}}\n\
             spec:\n  group: early.example.com\n  names: {{kind: Tool, plural: tools}}\n  scope: Namespaced\n  versions:\n  \
             - {{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object, properties: {{spec: \
             {{type: object, properties: {{{fields}}}}}}}}}}}}}\n---\n"
        )
    };
    let tool = |spec: &str| {
        format!(
            "apiVersion: early.example.com/v1\nkind: Tool\nmetadata: {{name: it}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let args = ["deploy", "--no-wait", "-n", space.name(), "-f", "-"];
    let first = run(cluster, &args, &(definition("a: {type: string}") + &tool("a: x")));
    assert_eq!(first.code, 0, "{}", first.err);
    let manifests =
        pod.to_owned() + &definition("a: {type: string}, b: {type: string}") + &tool("a: x, b: late");
    let dry = run(cluster, &["deploy", "--dry-run", "-n", space.name(), "-f", "-"], &manifests);
    assert!(
        dry.code == 0 && dry.out.contains("tool.early.example.com/it would be applied (not tried"),
        "{}{}",
        dry.out,
        dry.err
    );
    let differs = run(cluster, &["diff", "-n", space.name(), "-f", "-"], &manifests);
    assert!(differs.code == 1 && differs.out.contains("+ late"), "{}{}", differs.out, differs.err);
    let ran = run(cluster, &args, &manifests);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(space.kubectl(&["get", "tool", "it", "-o", "jsonpath={.spec.b}"]).unwrap(), "late");
    // A field that nobody defines is refused all the same.
    let wrong =
        run(cluster, &args, &(definition("a: {type: string}, b: {type: string}") + &tool("a: x, c: z")));
    assert!(wrong.code == 18 && wrong.err.contains(".spec.c"), "{}", wrong.err);
    for object in ["crd/tools.early.example.com", "priorityclass/early-example"] {
        cluster.run(&["delete", object], "").unwrap();
    }
}

#[test]
fn a_field_of_somebody_else_is_told_with_both_values_and_the_ways_out() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    let args = |force: &'static str| {
        let mut args = vec!["deploy", "--no-wait", "-n", space.name(), "-f", "-"];
        args.extend((!force.is_empty()).then_some(force));
        args
    };
    assert_eq!(run(cluster, &args(""), &deployment("web", 0)).code, 0);
    space.kubectl(&["scale", "deployment", "web", "--replicas=1"]).unwrap();
    let ran = run(cluster, &args(""), &deployment("web", 0));
    assert_eq!(ran.code, 17, "{}", ran.err);
    let said = "a field belongs to somebody else: .spec.replicas: \"kubectl\" with subresource \"scale\"";
    for part in [said, "has set `1`, the manifest says `0`", "--force-conflicts=.spec.replicas", "autoscaler"]
    {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let other = run(cluster, &args("--force-conflicts=.spec.paused"), &deployment("web", 0));
    assert_eq!(other.code, 17, "another path does not help: {}", other.err);
    let forced = run(cluster, &args("--force-conflicts=.spec.replicas"), &deployment("web", 0));
    assert_eq!((forced.code, forced.out.as_str()), (0, "deployment.apps/web configured\n"), "{}", forced.err);
}

#[test]
fn what_a_gitops_controller_owns_is_left_alone() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    space.apply(&config_map("owned", "{a: b}").replace("---\n", "")).unwrap();
    space.kubectl(&["label", "configmap", "owned", "kustomize.toolkit.fluxcd.io/name=apps"]).unwrap();
    let args = ["deploy", "--no-wait", "-n", space.name(), "-f", "-"];
    let ran = run(cluster, &args, &config_map("owned", "{a: c}"));
    assert_eq!(ran.code, 17, "{}", ran.err);
    assert!(ran.err.contains("belongs to Flux's Kustomization `apps`"), "{}", ran.err);
    let taken = run(cluster, &[&args[..], &["--take-from-gitops"]].concat(), &config_map("owned", "{a: c}"));
    assert_eq!(taken.code, 0, "{}", taken.err);
}

#[test]
fn faults_are_told_all_at_once_with_their_lines() {
    let cluster = Cluster::up();
    let manifests = "apiVersion: apps/v2\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pot\nmetadata: {name: b}\n---\n\
                     apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: other}\n";
    let ran = run(cluster, &["deploy", "-n", "default", "-f", "-"], manifests);
    assert_eq!(ran.code, 14, "{}", ran.err);
    for part in [
        "standard input:1: the cluster has no kind `Deployment` in `apps/v2`",
        "it serves the kind as apps/v1",
        "standard input:5: the cluster has no kind `Pot` in `v1`",
        "standard input:9: `configmap/c` is for namespace `other`, and `default` was asked for",
    ] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
}

#[test]
fn differences_have_a_status_and_secrets_are_masked() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    let secret = |value: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{password: {value}}}\n")
    };
    let args = ["diff", "-n", space.name(), "-f", "-"];
    let new = run(cluster, &args, &secret("hunter2"));
    assert_eq!(new.code, 1, "{}", new.err);
    assert_eq!(run(cluster, &["deploy", "-n", space.name(), "-f", "-"], &secret("hunter2")).code, 0);
    let same = run(cluster, &args, &secret("hunter2"));
    assert_eq!((same.code, same.out.as_str()), (0, ""), "{}", same.err);
    let other = run(cluster, &args, &secret("hunter3"));
    assert_eq!(other.code, 1, "{}", other.err);
    assert!(other.out.contains(".data.password\n    - *** (before)\n    + *** (after)"), "{}", other.out);
    for ran in [&new, &other] {
        for word in ["hunter", "aHVudGVy"] {
            assert!(!ran.out.contains(word) && !ran.err.contains(word), "{}{}", ran.out, ran.err);
        }
    }
    assert_eq!(run(cluster, &args, "kind: Secret").code, 2, "what cannot be found out");
}

#[test]
fn what_is_no_longer_in_the_manifests_is_pruned_and_undeploy_needs_no_manifests() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], \
                 storageClassName: none, resources: {requests: {storage: 1Mi}}}\n---\n";
    let args = |more: &[&'static str]| {
        let mut args = vec!["deploy", "--no-wait", "-n", space.name(), "--name", "review-1", "-f", "-"];
        args.extend(more);
        args
    };
    let all = config_map("keep", "{a: b}")
        + &config_map("gone", "{a: b}")
        + &config_map("replaced", "{a: b}")
        + claim;
    assert_eq!(run(cluster, &args(&[]), &all).code, 0);
    let fewer = config_map("keep", "{a: b}");
    let told = run(cluster, &args(&[]), &fewer);
    assert!(told.err.contains("no longer in the manifests, and still there: "), "{}", told.err);
    // What has another UID now is not what was deployed.
    space.kubectl(&["delete", "configmap", "replaced"]).unwrap();
    space.kubectl(&["create", "configmap", "replaced"]).unwrap();
    let pruned = run(cluster, &args(&["--prune"]), &fewer);
    assert_eq!(pruned.code, 0, "{}", pruned.err);
    assert!(pruned.out.contains("configmap/gone deleted\n"), "{}", pruned.out);
    assert!(pruned.out.contains("configmap/replaced left"), "{}", pruned.out);
    assert!(space.kubectl(&["get", "configmap", "replaced"]).is_ok());
    assert!(
        space.kubectl(&["get", "persistentvolumeclaim", "data"]).is_ok(),
        "claims are never pruned by default"
    );
    let parent = space
        .kubectl(&["get", "configmap", "cofferdam-review-1", "-o", "jsonpath={.metadata.annotations}"])
        .unwrap();
    assert!(parent.contains("applyset.kubernetes.io/contains-group-kinds"), "{parent}");

    let home = Cofferdam::new();
    let gone = cofferdam(cluster, &home, &["undeploy", "review-1", "-n", space.name()], "");
    assert_eq!(gone.0, 0, "{}", gone.2);
    let left = space.kubectl(&["get", "configmap,persistentvolumeclaim", "-o", "name"]).unwrap();
    assert_eq!(left.trim(), "configmap/kube-root-ca.crt\nconfigmap/replaced");
    let again = cofferdam(cluster, &home, &["undeploy", "review-1", "-n", space.name()], "");
    assert_eq!(again.0, 0, "what is gone is gone: {}", again.2);
}

/// A manifest that has everything the role must speak of, and the role that `rbac generate` prints for it.
#[test]
fn an_agents_job_deploys_with_the_least_role_and_a_flawed_one_is_explained() {
    let cluster = Cluster::up();
    let space = namespace(cluster);
    let manifests = config_map("conf", "{a: b}")
        + "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n---\n"
        + &deployment("web", 0);
    let deploy = ["deploy", "-n", space.name(), "--name", "web", "--prune", "-f", "-"];
    let nothing = run_as(cluster.ci_kubeconfig(), &[], &deploy, &manifests);
    assert_eq!(nothing.code, 16, "{}", nothing.err);

    let generate = ["rbac", "generate", "-n", space.name(), "--deployment", "web", "--prune", "-f", "-"];
    let role = run(cluster, &generate, &manifests);
    assert_eq!(role.code, 0, "{}", role.err);
    cluster.run(&["apply", "-f", "-"], &role.out).unwrap();
    let ran = run_as(cluster.ci_kubeconfig(), &[], &deploy, &manifests);
    assert_eq!(ran.code, 0, "{}\n{}", ran.err, role.out);
    let doctor = ["deploy", "doctor", "-n", space.name(), "--name", "web", "--prune", "-f", "-"];
    let doctor = run_as(cluster.ci_kubeconfig(), &[], &doctor, &manifests);
    assert_eq!(doctor.code, 0, "{}{}", doctor.out, doctor.err);
    assert!(doctor.out.contains("identity   gitlab:ci_job:1074"), "{}", doctor.out);

    // A role for secrets that has only what `kubectl delete` and `kubectl create` need.
    let flawed = space.kubectl(&["create", "role", "flawed", "--verb=create,delete", "--resource=secrets"]);
    flawed.unwrap();
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: other}\nstringData: {a: b}\n";
    let ran = run_as(cluster.ci_kubeconfig(), &[], &["deploy", "-n", space.name(), "-f", "-"], secret);
    assert_eq!(ran.code, 16, "{}", ran.err);
    let rule =
        format!("a Role in namespace `{}` needs: apiGroups: [\"\"], resources: [\"secrets\"]", space.name());
    assert!(ran.err.contains(&rule), "{}", ran.err);
    assert!(ran.err.contains("verbs: [get, create, patch]"), "{}", ran.err);
}

#[test]
fn a_kubeconfig_comes_from_a_variable_in_three_forms() {
    use base64::Engine as _;
    let cluster = Cluster::up();
    let text = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&text);
    let path = cluster.kubeconfig().to_str().unwrap();
    for value in [text.as_str(), encoded.as_str(), path] {
        let ran = run_as(
            Path::new("/nowhere"),
            &[("CLUSTER", value)],
            &["deploy", "doctor", "--kubeconfig-env", "CLUSTER"],
            "",
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains("identity   admin"), "{}", ran.out);
    }
    // In KUBECONFIG itself too, as variables of type `Variable` have it.
    assert_eq!(run_as(Path::new(&encoded), &[], &["deploy", "doctor"], "").code, 0);
}

#[test]
fn contexts_are_chosen_as_for_gitlabs_agent() {
    let cluster = Cluster::up();
    let text = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    // Two agents, and the context of a cluster connected by certificate, which GitLab makes the current one.
    let with = |current: &str| {
        let renamed = text.replace("current-context: test", &format!("current-context: {current}"));
        let names = ["group/app:testing", "group/app:production", "gitlab-deploy"];
        let entry = |name: &&str| format!("{{name: '{name}', context: {{cluster: test, user: user}}}}");
        let entries: Vec<String> = names.iter().map(entry).collect();
        let own = "[{name: test, context: {cluster: test, user: user}}]";
        assert!(renamed.contains(own), "the fixture's kubeconfig");
        renamed.replace(own, &format!("[{}]", entries.join(", ")))
    };
    std::fs::write(&path, with("gitlab-deploy")).unwrap();
    let doctor = ["deploy", "doctor"];
    let none = run_as(&path, &[], &doctor, "");
    assert_eq!(none.code, 15, "{}", none.err);
    assert!(none.err.contains("`group/app:production`") && none.err.contains("--context"), "{}", none.err);
    for (variables, flags) in [
        (&[("AGENT_KUBECONTEXT", "group/app:testing")][..], &[][..]),
        (&[("KUBE_CONTEXT", "group/app:testing")], &[]),
        (&[("KUBE_CONTEXT", "absent")], &["--context", "group/app:testing"]),
    ] {
        let ran = run_as(&path, variables, &[&doctor[..], flags].concat(), "");
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains("context `group/app:testing`"), "{}", ran.out);
    }
    let absent = run_as(&path, &[("AGENT_KUBECONTEXT", "absent")], &doctor, "");
    assert!(absent.err.contains("has no context `absent`, which AGENT_KUBECONTEXT names"), "{}", absent.err);
    let gone = run_as(Path::new("/builds/none"), &[("GITLAB_CI", "true")], &doctor, "");
    assert_eq!(gone.code, 15);
    assert!(gone.err.contains("hides the one that GitLab's agent gives"), "{}", gone.err);
}

#[test]
fn a_cluster_that_is_not_there_is_told_soon_and_without_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let config = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n\
                  users: [{name: a, user: {token: very-secret-token}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n";
    std::fs::write(&path, config).unwrap();
    let ran = run_as(&path, &[], &["deploy", "--verbose", "-f", "-"], &config_map("a", "{}"));
    assert_eq!(ran.code, 15, "{}", ran.err);
    assert!(ran.err.contains("the API server http://127.0.0.1:9 cannot be reached"), "{}", ran.err);
    assert!(!ran.err.contains("very-secret"), "{}", ran.err);
}
