//! `cofferdam diff`

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::arguments::{Format, FormatArgs};
use super::cluster::{ClusterArgs, Connection};
use super::deploy::ApplyArgs;
use super::error::CliError;
use super::manifests::ManifestArgs;
use super::session::Session;
use super::stdout;
use crate::deploy::DeployError;
use crate::deploy::apply;
use crate::deploy::diff::{self, FieldChange};

const AFTER_HELP: &str = "\
The cluster is asked what the objects would be; nothing is changed. What others have set stays as it
is, and is no difference. The content of Secrets is not shown. The exit status is 0 if nothing would
change, 1 if something would, and 2 if that cannot be found out.

Examples:
  cofferdam diff -f k8s/ --images image.json
  cofferdam diff -f app.yaml --format json";

/// Flags of `diff`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DiffArgs {
    #[command(flatten)]
    manifests: ManifestArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    apply: ApplyArgs,
    #[command(flatten)]
    form: FormatArgs,
}

/// What would become of an object.
#[derive(Debug, Serialize)]
struct Difference {
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    /// `created` or `configured`
    action: &'static str,
    /// The object, if it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<FieldChange>,
}

/// Compares.
///
/// # Errors
/// [`CliError::Differs`] if there are differences, which then are told.
pub(super) async fn run(arguments: DiffArgs, session: &Session) -> Result<(), CliError> {
    let DiffArgs { manifests, cluster, apply, form } = arguments;
    let objects = manifests.read(session)?;
    let work = async {
        let connection = cluster.connect(session).await?;
        differences(&connection, objects, &apply.lower()).await
    };
    let differences = session.or_cancelled(work).await?;
    match form.format {
        Format::Json => stdout::write_json(&differences)?,
        Format::Text => stdout::write(&differences.iter().map(in_words).collect::<String>())?,
    }
    if differences.is_empty() { Ok(()) } else { Err(CliError::Differs) }
}

async fn differences(
    connection: &Connection,
    objects: Vec<crate::deploy::object::Object>,
    options: &apply::ApplyOptions,
) -> Result<Vec<Difference>, CliError> {
    let Connection { cluster, namespace, .. } = connection;
    let targets = apply::resolve(cluster, objects, namespace.as_deref()).await?;
    let tried = apply::try_all(cluster, &targets, options).await?;
    let mut found = Vec::new();
    for (target, done) in targets.iter().zip(&tried) {
        let live = match done.action {
            apply::Action::Created => None,
            _ => cluster.find(&target.path).await.map_err(DeployError::from)?,
        };
        let wanted = match &done.object {
            // It could not be tried: it will be what the manifest says, and what the server adds.
            Value::Null => Value::Object(target.object.fields.clone()),
            object => object.clone(),
        };
        let (action, object, changes) = match &live {
            None => ("created", Some(diff::shown(&wanted)), Vec::new()),
            Some(live) => ("configured", None, diff::changes(live, &wanted)),
        };
        if object.is_some() || !changes.is_empty() {
            let id = &target.id;
            found.push(Difference {
                kind: id.kind.to_string(),
                namespace: id.namespace.clone(),
                name: id.name.clone(),
                action,
                object,
                changes,
            });
        }
    }
    Ok(found)
}

fn in_words(difference: &Difference) -> String {
    let Difference { kind, namespace, name, action, object, changes } = difference;
    let place = namespace.as_ref().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    let mut text = format!("{kind}/{name}{place} would be {action}\n");
    if let Some(object) = object {
        let object = serde_json::to_string_pretty(object).unwrap_or_default();
        object.lines().for_each(|line| text.push_str(&format!("  + {line}\n")));
    }
    for change in changes {
        change.to_string().lines().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}
