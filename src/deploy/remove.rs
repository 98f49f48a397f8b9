//! Removing objects: what a deployment no longer has, or all of it.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::apply::MANAGER;
use super::apply::order::{WAVES, wave};
use super::cluster::{ApiError, Cluster};
use super::inventory::Member;
use super::object::GroupKind;
use super::status::{list, text};

/// Objects that are removed at one time.
const AT_ONCE: usize = 16;
/// How often is looked whether something is gone.
const PAUSE: Duration = Duration::from_millis(250);

/// What became of an object that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, or on its way.
    Removed,
    /// It was not there.
    Absent,
    /// Something else has its name now.
    Replaced,
    /// It was announced, and the run was cut off before it was applied.
    NotApplied,
}

impl Removal {
    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Removed => "deleted",
            Self::Absent => "was gone",
            Self::Replaced => "left, for it is another object of that name",
            Self::NotApplied => "left, for it was never applied",
        }
    }
}

/// Whether what is in objects of this kind is lost with them, or lives on without the deployment: these are removed only
/// if that was asked for.
pub fn is_precious(kind: &GroupKind) -> bool {
    kind.is("", "Namespace")
        || kind.is("", "PersistentVolumeClaim")
        || kind.is("", "PersistentVolume")
        || kind.is("apiextensions.k8s.io", "CustomResourceDefinition")
}

/// Removes objects, those first that were applied last; `tell` is told of each.
///
/// An object is removed if it is the very one that was applied: its UID goes along. What depends on it goes first, so
/// that an object which is gone has left nothing behind.
///
/// # Errors
/// If the cluster refuses or cannot be reached. What was removed before that is told.
pub async fn remove(
    cluster: &Cluster,
    members: &[Member],
    tell: impl Fn(&Member, Removal) + Sync,
) -> Result<(), ApiError> {
    for current in (0..WAVES).rev() {
        let of_wave = members.iter().filter(|member| wave(&member.id().kind) == current);
        let work = of_wave.map(|member| async {
            let removal = remove_one(cluster, member).await?;
            tell(member, removal);
            Ok(())
        });
        let outcomes: Vec<Result<(), ApiError>> = stream::iter(work).buffered(AT_ONCE).collect().await;
        outcomes.into_iter().collect::<Result<(), ApiError>>()?;
    }
    Ok(())
}

async fn remove_one(cluster: &Cluster, member: &Member) -> Result<Removal, ApiError> {
    let Some(path) = path(cluster, member).await? else { return Ok(Removal::Absent) };
    let uid = match &member.uid {
        Some(uid) => uid.clone(),
        None => match cluster.find(&path).await? {
            None => return Ok(Removal::Absent),
            Some(live) if !is_applied(&live) => return Ok(Removal::NotApplied),
            Some(live) => text(&live, "/metadata/uid").to_owned(),
        },
    };
    let options = json!({"propagationPolicy": "Foreground", "preconditions": {"uid": uid}});
    match cluster.delete(&path, &options).await {
        Ok(_) => Ok(Removal::Removed),
        Err(error) if error.is_not_found() => Ok(Removal::Absent),
        // The precondition on the UID.
        Err(ApiError::Refused(refusal)) if refusal.code == 409 && refusal.message.contains("UID") => {
            Ok(Removal::Replaced)
        }
        Err(error) => Err(error),
    }
}

/// Whether we have ever applied an object.
fn is_applied(live: &Value) -> bool {
    list(live, "/metadata/managedFields")
        .iter()
        .any(|entry| text(entry, "/manager") == MANAGER && text(entry, "/operation") == "Apply")
}

/// Its path; nothing if the cluster does not know the kind any more, and so none of its objects.
async fn path(cluster: &Cluster, member: &Member) -> Result<Option<String>, ApiError> {
    let kinds = cluster.kinds().await?;
    let gvk = member.gvk();
    // A version that was served then may be gone by now.
    let resource = kinds.get(&gvk).or_else(|| kinds.preferred(&gvk.group_kind()));
    Ok(resource.map(|resource| resource.path(member.namespace.as_deref(), &member.name)))
}

/// Waits until objects are gone; gives those that are not, in time.
///
/// # Errors
/// If the cluster cannot be asked.
pub async fn until_gone(
    cluster: &Cluster,
    members: &[Member],
    timeout: Duration,
) -> Result<Vec<(Member, Vec<String>)>, ApiError> {
    let begun = Instant::now();
    let mut left: Vec<Member> = members.to_vec();
    loop {
        let looks = left.iter().map(|member| async move {
            let Some(path) = path(cluster, member).await? else { return Ok(None) };
            let found = cluster.find(&path).await?;
            let same = found.filter(|found| {
                let uid = text(found, "/metadata/uid");
                member.uid.as_deref().map_or_else(|| is_applied(found), |known| uid == known)
            });
            Ok(same.map(|live| (member.clone(), kept_by(&live))))
        });
        let looked: Vec<Result<_, ApiError>> = stream::iter(looks).buffered(AT_ONCE).collect().await;
        let still: Vec<_> =
            looked.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        if still.is_empty() || begun.elapsed() > timeout {
            return Ok(still);
        }
        left = still.into_iter().map(|(member, _)| member).collect();
        tokio::time::sleep(PAUSE).await;
    }
}

/// The finalizers of an object that is being deleted, and what the controller of namespaces says of one that it cannot
/// empty: an API service that does not answer keeps every namespace of the cluster.
fn kept_by(live: &Value) -> Vec<String> {
    let names = list(live, "/metadata/finalizers")
        .iter()
        .filter_map(|name| Some(format!("finalizer {}", name.as_str()?)));
    let conditions = list(live, "/status/conditions").iter().filter(|one| {
        one["status"] == "True" && one["type"].as_str().is_some_and(|kind| kind.starts_with("Namespace"))
    });
    names.chain(conditions.filter_map(|one| Some(one["message"].as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_an_object_is_told() {
        let live = json!({
            "metadata": {"finalizers": ["example.com/backup"]},
            "status": {"conditions": [
                {"type": "NamespaceDeletionDiscoveryFailure", "status": "True", "message": "Discovery failed for some groups"},
                {"type": "NamespaceDeletionContentFailure", "status": "False", "message": "All content deleted"},
                {"type": "Ready", "status": "True", "message": "it was"},
            ]},
        });
        assert_eq!(kept_by(&live), ["finalizer example.com/backup", "Discovery failed for some groups"]);
        assert_eq!(kept_by(&json!({})), [""; 0]);
    }
}
