//! `cofferdam diff`

use clap::Args;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::Value;

use super::arguments::FormatArgs;
use super::cluster::{ClusterArgs, Connection};
use super::deploy::ApplyArgs;
use super::error::CliError;
use super::manifests::ManifestArgs;
use super::outcome::Outcome;
use super::session::Session;
use crate::deploy::DeployError;
use crate::deploy::apply::{self, Action, ApplyOptions, Done, Target};
use crate::deploy::cluster::{ApiError, Cluster};
use crate::deploy::diff::{self, FieldChange};
use crate::deploy::object::ObjectId;

/// Objects that are looked at at one time.
const AT_ONCE: usize = 16;

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
    let outcome = Outcome::new(&arguments.form);
    let result = session.or_cancelled(compare(arguments, session, &outcome)).await;
    outcome.end(result)
}

async fn compare(
    arguments: DiffArgs,
    session: &Session,
    outcome: &Outcome<Difference>,
) -> Result<(), CliError> {
    let DiffArgs { manifests, cluster, apply, form: _ } = arguments;
    let objects = manifests.read(session)?;
    let connection = cluster.connect(session).await?;
    let Connection { cluster, namespace, .. } = &connection;
    outcome.place(cluster.server(), None);
    let options = apply.lower();
    let targets = apply::resolve(cluster, objects, namespace.as_deref()).await?;
    let warn = |id: &ObjectId, warning: &str| session.report.warn(format!("{id}: {warning}"));
    let tried = apply::try_all(cluster, &targets, &options, warn).await?;
    let pairs = targets.iter().zip(&tried);
    let found = stream::iter(pairs.map(|(target, done)| difference(cluster, target, done, &options)));
    // Everything is found out before anything is told: what cannot be found out is no list of differences.
    let found: Vec<Option<Difference>> =
        found.buffered(AT_ONCE).try_collect().await.map_err(DeployError::from)?;
    let mut differs = false;
    for difference in found.into_iter().flatten() {
        differs = true;
        let words = in_words(&difference);
        outcome.object(difference, &words);
    }
    if differs { Err(CliError::Differs) } else { Ok(()) }
}

/// What would become of an object, if anything.
async fn difference(
    cluster: &Cluster,
    target: &Target,
    tried: &Done,
    options: &ApplyOptions,
) -> Result<Option<Difference>, ApiError> {
    let live = match tried.action {
        Action::Created => None,
        _ => cluster.find(&target.path).await?,
    };
    let wanted = match (&tried.object, &live) {
        // It could not be tried: it will be what the manifest says, and what the server adds.
        (Value::Null, None) => Value::Object(target.object.fields.clone()),
        (Value::Null, Some(live)) => with(live.clone(), &Value::Object(target.object.fields.clone())),
        (tried, Some(live)) => apply::taken_over(cluster, target, live, tried, options).await?,
        (tried, None) => tried.clone(),
    };
    let (action, object, changes) = match &live {
        None => ("created", Some(diff::shown(&wanted)), Vec::new()),
        Some(live) => ("configured", None, diff::changes(live, &wanted)),
    };
    if object.is_none() && changes.is_empty() {
        return Ok(None);
    }
    let ObjectId { kind, namespace, name } = target.id.clone();
    Ok(Some(Difference { kind: kind.to_string(), namespace, name, action, object, changes }))
}

/// An object with the fields of a manifest that could not be tried: lists are those of the manifest.
fn with(live: Value, manifest: &Value) -> Value {
    match (live, manifest) {
        (Value::Object(mut live), Value::Object(manifest)) => {
            for (key, value) in manifest {
                let before = live.remove(key).unwrap_or_default();
                live.insert(key.clone(), with(before, value));
            }
            Value::Object(live)
        }
        (_, manifest) => manifest.clone(),
    }
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
