//! `cofferdam deploy doctor`

use clap::Args;
use serde::Serialize;

use super::arguments::{Format, FormatArgs};
use super::cluster::{ClusterArgs, Connection};
use super::deploy::{ENVIRONMENT, name_of};
use super::error::CliError;
use super::manifests::ManifestArgs;
use super::session::Session;
use super::stdout;
use crate::deploy::DeployError;
use crate::deploy::object::{Gvk, Object};
use crate::deploy::rbac::{self, Named, Need, RbacOptions, Subject};
use crate::deploy::review::{self, Identity};

/// What only makes a diagnosis better, or a way back possible: a deployment works without.
const HELPFUL: [&str; 5] = ["pods", "pods/log", "events", "replicasets", "controllerrevisions"];

const AFTER_HELP: &str = "\
With manifests, each thing that their deployment does is asked for: get, create and patch of each kind
of object, and what waiting, diagnosis and pruning need. The command ends with 16 if something is missing that
a deployment cannot do without.

Examples:
  cofferdam deploy doctor
  cofferdam deploy doctor -f k8s/ --prune --name web";

/// Flags of `deploy doctor`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {
    #[command(flatten)]
    manifests: ManifestArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The deployment is kept under this name [default: $CI_ENVIRONMENT_SLUG]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Ask for what --prune needs too
    #[arg(long)]
    prune: bool,
    /// Ask for what `cofferdam undeploy` needs too
    #[arg(long)]
    undeploy: bool,
    #[command(flatten)]
    form: FormatArgs,
}

#[derive(Debug, Serialize)]
struct Told {
    server: String,
    version: String,
    found: String,
    namespace: String,
    /// Where the namespace was found; nothing if nobody names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace_from: Option<String>,
    /// The deployment's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Where the name was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_from: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rights: Vec<Right>,
}

/// What may be done with a resource, or an object of it.
#[derive(Debug, Serialize)]
struct Right {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    allowed: Vec<String>,
    missing: Vec<String>,
    /// Whether a deployment cannot do without.
    needed: bool,
}

/// Finds out.
pub(super) async fn run(arguments: DoctorArgs, session: &Session) -> Result<(), CliError> {
    let DoctorArgs { manifests, cluster, name, prune, undeploy, form } = arguments;
    let named = named(name, session)?;
    let name = named.as_ref().map(|(name, _)| name.clone());
    let objects = if manifests.are_given() { manifests.read(session)? } else { Vec::new() };
    let work = async {
        let Connection { cluster, namespace, origin, namespace_origin } = cluster.connect(session).await?;
        let version = review::version(&cluster).await.map_err(DeployError::from)?;
        let identity = review::identity(&cluster).await.map_err(DeployError::from)?;
        let home = namespace.unwrap_or_else(|| cluster.namespace().to_owned());
        let mut rights = Vec::new();
        if !objects.is_empty() {
            let kinds = cluster.kinds().await.map_err(DeployError::from)?;
            let served = |gvk: &Gvk| {
                let resource = kinds.get(gvk)?;
                Some(Named { plural: resource.plural.clone(), namespaced: resource.namespaced })
            };
            let removal = Removes { prune, undeploy };
            let needs = needs(&objects, served, &home, name, &removal)?;
            let allowed = review::allowed(&cluster, &needs).await.map_err(DeployError::from)?;
            rights = grouped(&needs, &allowed);
        }
        Ok(Told {
            server: cluster.server().to_owned(),
            version,
            found: origin,
            namespace: home,
            namespace_from: namespace_origin,
            name: named.as_ref().map(|(name, _)| name.clone()),
            name_from: named.map(|(_, origin)| origin),
            identity,
            rights,
        })
    };
    let told = session.or_cancelled(work).await?;
    match form.format {
        Format::Json => stdout::write_json(&told)?,
        Format::Text => stdout::write(&in_words(&told))?,
    }
    let missing: Vec<String> = told
        .rights
        .iter()
        .filter(|right| right.needed && !right.missing.is_empty())
        .map(|right| format!("{} {}", right.missing.join(", "), place(right)))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(DeployError::NotAllowed(missing).into()) }
}

/// The deployment's name, and who says so.
fn named(given: Option<String>, session: &Session) -> Result<Option<(String, &'static str)>, CliError> {
    let origin = if given.is_some() { "--name" } else { ENVIRONMENT };
    Ok(name_of(given, session)?.map(|name| (name, origin)))
}

/// What is to be removed some day.
struct Removes {
    prune: bool,
    undeploy: bool,
}

fn needs(
    objects: &[Object],
    served: impl Fn(&Gvk) -> Option<Named>,
    home: &str,
    name: Option<String>,
    removal: &Removes,
) -> Result<Vec<Need>, CliError> {
    let options = RbacOptions {
        name: "cofferdam".to_owned(),
        subject: Subject::User(String::new()),
        namespace: Some(home.to_owned()),
        wait: true,
        prune: removal.prune,
        undeploy: removal.undeploy,
        deployment: name,
    };
    let lookup = |gvk: &Gvk| served(gvk).or_else(|| rbac::defined_by(objects, gvk));
    Ok(rbac::needs(objects, lookup, &options, home).map_err(DeployError::Manifests)?)
}

/// The verbs of each resource together.
fn grouped(needs: &[Need], allowed: &[bool]) -> Vec<Right> {
    let mut rights: Vec<(&Need, Right)> = Vec::new();
    for (need, allowed) in needs.iter().zip(allowed) {
        let is_same = |other: &Need| {
            (&other.namespace, &other.group, &other.resource, &other.name)
                == (&need.namespace, &need.group, &need.resource, &need.name)
        };
        let at = rights.iter().position(|(other, _)| is_same(other)).unwrap_or_else(|| {
            let group = if need.group.is_empty() { String::new() } else { format!(".{}", need.group) };
            let right = Right {
                namespace: need.namespace.clone(),
                resource: format!("{}{group}", need.resource),
                name: need.name.clone(),
                allowed: Vec::new(),
                missing: Vec::new(),
                needed: !HELPFUL.contains(&need.resource.as_str()),
            };
            rights.push((need, right));
            rights.len() - 1
        });
        if let Some((_, right)) = rights.get_mut(at) {
            let list = if *allowed { &mut right.allowed } else { &mut right.missing };
            list.push(need.verb.clone());
        }
    }
    for (_, right) in &mut rights {
        // What is not seen of other deployments' lists is said when something is removed.
        right.needed &= !(right.resource == "configmaps" && right.missing == ["list"]);
    }
    rights.into_iter().map(|(_, right)| right).collect()
}

/// `deployments.apps in shop`
fn place(right: &Right) -> String {
    let name = right.name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
    let namespace = right.namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    format!("{}{name}{namespace}", right.resource)
}

fn in_words(told: &Told) -> String {
    let Told { server, version, found, namespace, namespace_from, name, name_from, identity, rights } = told;
    let namespace_from = match namespace_from {
        Some(origin) => format!("by {origin}"),
        None => "nobody names another".to_owned(),
    };
    let mut text = format!(
        "server     {server}\nversion    {version}\nfound by   {found}\nnamespace  {namespace} ({namespace_from})\n"
    );
    match (name, name_from) {
        (Some(name), Some(origin)) => text.push_str(&format!("name       {name} (by {origin})\n")),
        _ => text.push_str("name       none: no list is kept (--name, or $CI_ENVIRONMENT_SLUG)\n"),
    }
    match identity {
        Some(Identity { user, groups }) => {
            text.push_str(&format!("identity   {user}\ngroups     {}\n", groups.join(", ")));
        }
        None => text.push_str("identity   (this cluster cannot say)\n"),
    }
    if rights.is_empty() {
        return text;
    }
    let mut rows = vec![["RESOURCE", "ALLOWED", "MISSING"].map(str::to_owned)];
    rows.extend(rights.iter().map(|right| {
        let missing = match (right.missing.is_empty(), right.needed) {
            (true, _) => "-".to_owned(),
            (false, true) => right.missing.join(" "),
            (false, false) => format!("{} (not needed, and of use)", right.missing.join(" ")),
        };
        let allowed = if right.allowed.is_empty() { "-".to_owned() } else { right.allowed.join(" ") };
        [place(right), allowed, missing]
    }));
    text.push('\n');
    text.push_str(&stdout::table(&rows, &[]));
    text
}
