//! The least Role with which manifests can be deployed.
//!
//! What server-side apply needs of each resource is `get` (to compare), `patch` (every apply is one) and `create` (an apply of
//! what is not there is asked for that too, and cannot be allowed by name); to wait takes `list` and `watch`, and to say why
//! something does not start takes pods, their events and logs; to prune or undeploy takes `delete`.

mod kinds;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use kinds::{built_in, defined_by};

use super::error::Fault;
use super::manifest::pod;
use super::object::{Gvk, Object};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The name that stands for every name of a deployment.
const ANY: &str = "*";

/// Who is to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A group: `gitlab:ci_job` is every CI job that comes through GitLab's agent.
    Group(String),
    /// A user.
    User(String),
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// What the Role is for.
#[derive(Debug, Clone)]
pub struct RbacOptions {
    /// What Role and binding are called.
    pub name: String,
    /// Who is to deploy.
    pub subject: Subject,
    /// The namespace of objects that name none.
    pub namespace: Option<String>,
    /// Whether the deployment is waited for.
    pub wait: bool,
    /// Whether what is no longer in the manifests is removed.
    pub prune: bool,
    /// Whether all of it is removed at the end, claims and namespaces that it has made as well.
    pub undeploy: bool,
    /// The name that the deployment is kept under, if it is: the list of its objects is a ConfigMap. `*` is any, as review
    /// apps have names that nobody knows before.
    pub deployment: Option<String>,
}

/// How a kind is called in rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// `deployments`
    pub plural: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// Roles and bindings as YAML, with comments that say what each part is for.
///
/// # Errors
/// A fault for each object whose kind `lookup` does not know.
pub fn generate(
    objects: &[Object],
    lookup: impl Fn(&Gvk) -> Option<Named>,
    options: &RbacOptions,
) -> Result<String, Vec<Fault>> {
    Ok(Work::of(objects, lookup, options)?.finish())
}

/// Something that a deployment does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The namespace; nothing for what belongs to the whole cluster.
    pub namespace: Option<String>,
    /// The API group; empty for the core group.
    pub group: String,
    /// `deployments`, `pods/log`
    pub resource: String,
    /// The object, where not all of them are meant.
    pub name: Option<String>,
    /// `get`
    pub verb: String,
}

/// Everything that deploying `objects` does, each once: what [`generate`] writes as roles. `namespace` is that of objects
/// which name none.
///
/// # Errors
/// As [`generate`].
pub fn needs(
    objects: &[Object],
    lookup: impl Fn(&Gvk) -> Option<Named>,
    options: &RbacOptions,
    namespace: &str,
) -> Result<Vec<Need>, Vec<Fault>> {
    let work = Work::of(objects, lookup, options)?;
    let mut needs = BTreeSet::new();
    for (scope, rules) in work.scopes {
        let namespace = match scope {
            Scope::Cluster => None,
            Scope::Unnamed => Some(namespace.to_owned()),
            Scope::Namespace(name) => Some(name),
        };
        for (Target { group, resource, names }, verbs) in rules.verbs {
            for verb in verbs {
                let need = |name: Option<&String>| Need {
                    namespace: namespace.clone(),
                    group: group.clone(),
                    resource: resource.clone(),
                    name: name.cloned(),
                    verb: verb.clone(),
                };
                if names.is_empty() {
                    needs.insert(need(None));
                }
                needs.extend(names.iter().map(|name| need(Some(name))));
            }
        }
    }
    Ok(needs.into_iter().collect())
}

impl<'a> Work<'a> {
    fn of(
        objects: &[Object],
        lookup: impl Fn(&Gvk) -> Option<Named>,
        options: &'a RbacOptions,
    ) -> Result<Self, Vec<Fault>> {
        let mut work = Work { options, scopes: BTreeMap::new(), remarks: BTreeSet::new() };
        let mut faults = Vec::new();
        for object in objects {
            let gvk = object.gvk();
            match lookup(&gvk) {
            Some(named) => work.object(object, &gvk, &named),
            None => faults.push(Fault {
                source: Some(object.source.clone()),
                what: format!("what resource `{gvk}` is only a cluster knows, or its definition"),
                hint: Some(
                    "add the manifest of its CustomResourceDefinition, or have a kubeconfig of the cluster"
                        .to_owned(),
                ),
            }),
        }
        }
        if faults.is_empty() { Ok(work) } else { Err(faults) }
    }
}

/// A namespace, the namespace that nobody has named, or the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Cluster,
    Unnamed,
    Namespace(String),
}

/// Of which group and resource, and of which names; no names are all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    group: String,
    resource: String,
    names: BTreeSet<String>,
}

/// The order in which verbs are written.
const VERBS: [&str; 9] = ["get", "list", "watch", "create", "patch", "update", "delete", "bind", "escalate"];

#[derive(Debug, Default)]
struct Rules {
    verbs: BTreeMap<Target, BTreeSet<String>>,
    /// Rules that are handed on, as they stand in Roles.
    handed_on: Vec<Value>,
}

struct Work<'a> {
    options: &'a RbacOptions,
    scopes: BTreeMap<Scope, Rules>,
    remarks: BTreeSet<String>,
}

impl Work<'_> {
    fn object(&mut self, object: &Object, gvk: &Gvk, named: &Named) {
        let options = self.options;
        let kind = gvk.group_kind();
        let scope = if named.namespaced { self.namespace_of(object) } else { Scope::Cluster };
        if kind.is("", "Secret") {
            // A Role for secrets as such could read those of everybody.
            self.allow(&scope, "", "secrets", Some(object.name()), &["get", "patch"]);
            self.allow(&scope, "", "secrets", None, &["create"]);
            if options.prune || options.undeploy {
                let what = "Secrets are named: one that is to be removed must have been in the manifests when this was generated";
                self.remarks.insert(what.to_owned());
                self.allow(&scope, "", "secrets", Some(object.name()), &["delete"]);
            }
        } else {
            self.allow(&scope, &gvk.group, &named.plural, None, &["get", "create", "patch"]);
            if options.wait && is_waited_for(gvk) {
                self.allow(&scope, &gvk.group, &named.plural, None, &["list", "watch"]);
            }
            if options.undeploy || options.prune && !is_kept(gvk) {
                self.allow(&scope, &gvk.group, &named.plural, None, &["delete"]);
            }
        }
        if options.wait && pod::spec_path(&kind).is_some() {
            self.allow(&scope, "", "pods", None, &["get", "list", "watch"]);
            self.allow(&scope, "", "pods/log", None, &["get"]);
            self.allow(&scope, "", "events", None, &["get", "list", "watch"]);
            match kind.kind.as_str() {
                "Deployment" => self.allow(&scope, "apps", "replicasets", None, &["get", "list", "watch"]),
                // What there is to go back to.
                "StatefulSet" | "DaemonSet" => {
                    self.allow(&scope, "apps", "controllerrevisions", None, &["get", "list"])
                }
                _ => {}
            }
        }
        if let (Some(deployment), Scope::Namespace(_) | Scope::Unnamed) = (&options.deployment, &scope) {
            let name = format!("cofferdam-{deployment}");
            let name = (deployment != ANY).then_some(&*name);
            self.allow(&scope, "", "configmaps", name, &["get", "patch", "delete"]);
            // Whether another deployment has an object in its list is seen in all of them.
            self.allow(&scope, "", "configmaps", None, &["create", "list"]);
        }
        if kind.group == GROUP {
            self.escalation(object, &kind.kind, &scope);
        }
    }

    /// Nobody may give what they have not themselves
    /// (<https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>).
    fn escalation(&mut self, object: &Object, kind: &str, scope: &Scope) {
        match kind {
            "Role" | "ClusterRole" => {
                let rules = object.fields.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
                if !rules.is_empty() {
                    let what = format!(
                        "{kind} `{}` gives rights, and who applies it must have them: they are repeated here; the other way \
                         is the verb `escalate`, which allows everything",
                        object.name()
                    );
                    self.remarks.insert(what);
                    self.scopes.entry(scope.clone()).or_default().handed_on.extend(rules);
                }
                if object.fields.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
                    let what = format!(
                        "{kind} `{}` collects the rights of others: who applies it needs `escalate`, or every right",
                        object.name()
                    );
                    self.remarks.insert(what);
                }
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                let reference = |field: &str| {
                    let reference = object.fields.get("roleRef")?;
                    reference.get(field)?.as_str().map(str::to_owned)
                };
                let (Some(role), Some(name)) = (reference("kind"), reference("name")) else { return };
                let resource = if role == "ClusterRole" { "clusterroles" } else { "roles" };
                self.remarks.insert(format!(
                    "{kind} `{}` gives {role} `{name}`: that is what the verb `bind` is for",
                    object.name()
                ));
                self.allow(scope, GROUP, resource, Some(&name), &["bind"]);
            }
            _ => {}
        }
    }

    fn namespace_of(&self, object: &Object) -> Scope {
        match object.namespace().or(self.options.namespace.as_deref()) {
            Some(name) => Scope::Namespace(name.to_owned()),
            None => Scope::Unnamed,
        }
    }

    fn allow(&mut self, scope: &Scope, group: &str, resource: &str, name: Option<&str>, verbs: &[&str]) {
        let target = Target {
            group: group.to_owned(),
            resource: resource.to_owned(),
            names: name.map(str::to_owned).into_iter().collect(),
        };
        let rules = self.scopes.entry(scope.clone()).or_default();
        rules.verbs.entry(target).or_default().extend(verbs.iter().map(|&verb| verb.to_owned()));
    }

    fn finish(self) -> String {
        let mut text = String::new();
        for remark in &self.remarks {
            text.push_str(&format!("# {remark}.\n"));
        }
        if self.scopes.contains_key(&Scope::Unnamed) {
            text.push_str(
                "# Objects without a namespace: apply this in theirs (kubectl apply -n NAMESPACE).\n",
            );
        }
        for (scope, rules) in self.scopes {
            if !text.is_empty() {
                text.push_str("---\n");
            }
            let (role, namespace) = match &scope {
                Scope::Cluster => ("ClusterRole", None),
                Scope::Unnamed => ("Role", None),
                Scope::Namespace(name) => ("Role", Some(name.as_str())),
            };
            yaml::role(&mut text, role, &self.options.name, namespace, &rules.grouped(), &rules.handed_on);
            text.push_str("---\n");
            yaml::binding(&mut text, role, &self.options.name, namespace, &self.options.subject);
        }
        text
    }
}

/// A rule as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
    verbs: Vec<String>,
}

impl Rules {
    /// Resources of one group with the same verbs together, names of one resource with the same verbs together.
    fn grouped(&self) -> Vec<Rule> {
        let everywhere = |target: &Target| Target { names: BTreeSet::new(), ..target.clone() };
        let mut named: BTreeMap<(&str, &str, Vec<String>), Vec<String>> = BTreeMap::new();
        let mut all: BTreeMap<(&str, Vec<String>), Vec<String>> = BTreeMap::new();
        for (target, verbs) in &self.verbs {
            // What is allowed of all need not be allowed by name.
            let known = self.verbs.get(&everywhere(target)).filter(|_| !target.names.is_empty());
            let verbs: Vec<String> = VERBS
                .iter()
                .filter(|&&verb| verbs.contains(verb) && !known.is_some_and(|known| known.contains(verb)))
                .map(|&verb| verb.to_owned())
                .collect();
            if verbs.is_empty() {
                continue;
            }
            match target.names.first() {
                Some(name) => {
                    let names = named.entry((&target.group, &target.resource, verbs)).or_default();
                    names.push(name.clone());
                }
                None => all.entry((&target.group, verbs)).or_default().push(target.resource.clone()),
            }
        }
        let all = all.into_iter().map(|((group, verbs), resources)| Rule {
            group: group.to_owned(),
            resources,
            names: Vec::new(),
            verbs,
        });
        let named = named.into_iter().map(|((group, resource, verbs), names)| Rule {
            group: group.to_owned(),
            resources: vec![resource.to_owned()],
            names,
            verbs,
        });
        let mut rules: Vec<Rule> = all.chain(named).collect();
        rules.sort();
        rules
    }
}

/// Kinds whose state is watched until they are ready: those that say something of it, and all of others.
fn is_waited_for(gvk: &Gvk) -> bool {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", kind) => matches!(kind, "Pod" | "PersistentVolumeClaim" | "ReplicationController" | "Namespace"),
        ("apps" | "batch" | "extensions" | "apiextensions.k8s.io" | "apiregistration.k8s.io", kind) => {
            kind != "CronJob"
        }
        _ => built_in(gvk).is_none(),
    }
}

/// Kinds that are not pruned unless everything is.
fn is_kept(gvk: &Gvk) -> bool {
    matches!(
        (gvk.group.as_str(), gvk.kind.as_str()),
        ("", "Namespace" | "PersistentVolume" | "PersistentVolumeClaim")
            | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

#[cfg(test)]
mod tests;
