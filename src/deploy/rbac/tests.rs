use super::*;
use crate::deploy::manifest;

const APP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {spec: {containers: [{name: c, image: x}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: b, namespace: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: a, namespace: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web, namespace: shop}
";

fn options() -> RbacOptions {
    RbacOptions {
        name: "cofferdam-deploy".to_owned(),
        subject: Subject::Group("gitlab:ci_job".to_owned()),
        namespace: None,
        wait: true,
        prune: false,
        undeploy: false,
        deployment: None,
    }
}

fn generated(text: &str, options: &RbacOptions) -> String {
    let objects = manifest::read(&["-".to_owned()], text.as_bytes(), &manifest::Options::default()).unwrap();
    let known = |gvk: &Gvk| defined_by(&objects, gvk).or_else(|| built_in(gvk));
    let yaml = generate(&objects, known, options).unwrap();
    // What is printed can be read, and each object is there once.
    manifest::read(&["-".to_owned()], yaml.as_bytes(), &manifest::Options::default()).unwrap();
    yaml
}

#[test]
fn an_app_and_its_namespace() {
    insta::assert_snapshot!(generated(APP, &options()), @r##"
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata:
      name: cofferdam-deploy
      namespace: "shop"
    rules:
    - apiGroups: [""]
      resources: [configmaps, services]
      verbs: [get, create, patch]
    - apiGroups: [""]
      resources: [events, pods]
      verbs: [get, list, watch]
    - apiGroups: [""]
      resources: [pods/log]
      verbs: [get]
    - apiGroups: [""]
      resources: [secrets]
      verbs: [create]
    - apiGroups: [""]
      resources: [secrets]
      resourceNames: ["a", "b"]
      verbs: [get, patch]
    - apiGroups: [apps]
      resources: [deployments]
      verbs: [get, list, watch, create, patch]
    - apiGroups: [apps]
      resources: [replicasets]
      verbs: [get, list, watch]
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata:
      name: cofferdam-deploy
      namespace: "shop"
    roleRef:
      apiGroup: rbac.authorization.k8s.io
      kind: Role
      name: cofferdam-deploy
    subjects:
    - apiGroup: rbac.authorization.k8s.io
      kind: Group
      name: "gitlab:ci_job"
    "##);
}

#[test]
fn without_waiting_and_with_pruning() {
    let options = RbacOptions {
        wait: false,
        prune: true,
        deployment: Some("web".to_owned()),
        subject: Subject::ServiceAccount { namespace: "ci".to_owned(), name: "robot".to_owned() },
        ..options()
    };
    insta::assert_snapshot!(generated(APP, &options), @r##"
    # Secrets are named: one that is to be removed must have been in the manifests when this was generated.
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata:
      name: cofferdam-deploy
      namespace: "shop"
    rules:
    - apiGroups: [""]
      resources: [configmaps]
      verbs: [get, list, create, patch, delete]
    - apiGroups: [""]
      resources: [secrets]
      verbs: [create]
    - apiGroups: [""]
      resources: [secrets]
      resourceNames: ["a", "b"]
      verbs: [get, patch, delete]
    - apiGroups: [""]
      resources: [services]
      verbs: [get, create, patch, delete]
    - apiGroups: [apps]
      resources: [deployments]
      verbs: [get, create, patch, delete]
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata:
      name: cofferdam-deploy
      namespace: "shop"
    roleRef:
      apiGroup: rbac.authorization.k8s.io
      kind: Role
      name: cofferdam-deploy
    subjects:
    - kind: ServiceAccount
      name: robot
      namespace: "ci"
    "##);
}

#[test]
fn claims_are_kept_by_pruning_and_removed_at_the_end() {
    let text = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: a, namespace: shop}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: a, namespace: shop}
";
    let objects = manifest::read(&["-".to_owned()], text.as_bytes(), &manifest::Options::default()).unwrap();
    let may = |options: &RbacOptions, resource: &str, verb: &str| {
        let found = needs(&objects, built_in, options, "shop").unwrap();
        found.iter().any(|need| need.resource == resource && need.verb == verb)
    };
    let prune = RbacOptions { prune: true, deployment: Some("web".to_owned()), ..options() };
    let undeploy = RbacOptions { undeploy: true, ..prune.clone() };
    assert!(may(&prune, "statefulsets", "delete") && !may(&prune, "persistentvolumeclaims", "delete"));
    assert!(may(&undeploy, "persistentvolumeclaims", "delete"));
    // What there is to go back to.
    assert!(may(&options(), "controllerrevisions", "list"));
}

#[test]
fn definitions_and_what_they_define() {
    let text = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: apps.x.example}\nspec: {group: x.example, \
                scope: Namespaced, names: {kind: App, plural: appz}}\n---\napiVersion: x.example/v1\nkind: App\nmetadata: {name: a}\n";
    insta::assert_snapshot!(generated(text, &RbacOptions { subject: Subject::User("me".to_owned()), ..options() }), @r##"
    # Objects without a namespace: apply this in theirs (kubectl apply -n NAMESPACE).
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: ClusterRole
    metadata:
      name: cofferdam-deploy
    rules:
    - apiGroups: [apiextensions.k8s.io]
      resources: [customresourcedefinitions]
      verbs: [get, list, watch, create, patch]
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: ClusterRoleBinding
    metadata:
      name: cofferdam-deploy
    roleRef:
      apiGroup: rbac.authorization.k8s.io
      kind: ClusterRole
      name: cofferdam-deploy
    subjects:
    - apiGroup: rbac.authorization.k8s.io
      kind: User
      name: "me"
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata:
      name: cofferdam-deploy
    rules:
    - apiGroups: [x.example]
      resources: ["appz"]
      verbs: [get, list, watch, create, patch]
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata:
      name: cofferdam-deploy
    roleRef:
      apiGroup: rbac.authorization.k8s.io
      kind: Role
      name: cofferdam-deploy
    subjects:
    - apiGroup: rbac.authorization.k8s.io
      kind: User
      name: "me"
    "##);
}

#[test]
fn who_gives_rights_needs_them() {
    let text = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n---\n\
                apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b}\nroleRef: {kind: ClusterRole, name: view}\n";
    insta::assert_snapshot!(generated(text, &RbacOptions { wait: false, namespace: Some("n2".to_owned()), ..options() }), @r##"
    # Role `r` gives rights, and who applies it must have them: they are repeated here; the other way is the verb `escalate`, which allows everything.
    # RoleBinding `b` gives ClusterRole `view`: that is what the verb `bind` is for.
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata:
      name: cofferdam-deploy
      namespace: "n2"
    rules:
    - apiGroups: [rbac.authorization.k8s.io]
      resources: [clusterroles]
      resourceNames: ["view"]
      verbs: [bind]
    - apiGroups: [rbac.authorization.k8s.io]
      resources: [rolebindings, roles]
      verbs: [get, create, patch]
    # What the roles among the manifests give:
    - {"apiGroups":[""],"resources":["pods"],"verbs":["get"]}
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata:
      name: cofferdam-deploy
      namespace: "n2"
    roleRef:
      apiGroup: rbac.authorization.k8s.io
      kind: Role
      name: cofferdam-deploy
    subjects:
    - apiGroup: rbac.authorization.k8s.io
      kind: Group
      name: "gitlab:ci_job"
    "##);
}

#[test]
fn unknown_kinds_are_faults() {
    let text = "apiVersion: x.example/v1\nkind: App\nmetadata: {name: a}\n";
    let objects = manifest::read(&["-".to_owned()], text.as_bytes(), &manifest::Options::default()).unwrap();
    let faults = generate(&objects, built_in, &options()).unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        "standard input:1: what resource `x.example/v1 App` is only a cluster knows, or its definition"
    );
}
