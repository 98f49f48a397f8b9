//! Who a cluster takes us for, and what it lets us do.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::cluster::{ApiError, Cluster};
use super::rbac::Need;

/// Questions that are asked at one time.
const AT_ONCE: usize = 16;

/// Who asks, as the cluster sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Identity {
    /// The user: `system:serviceaccount:ci:default`, `gitlab:ci_job:1074`.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
}

/// The version of the cluster: `v1.36.3`.
///
/// # Errors
/// If the cluster cannot be reached, or does not tell.
pub async fn version(cluster: &Cluster) -> Result<String, ApiError> {
    let version = cluster.get("/version").await?;
    Ok(version.get("gitVersion").and_then(Value::as_str).unwrap_or("unknown").to_owned())
}

/// Who asks; nothing of a cluster that cannot say (before Kubernetes 1.28).
///
/// # Errors
/// If the cluster cannot be reached, or does not know who asks.
pub async fn identity(cluster: &Cluster) -> Result<Option<Identity>, ApiError> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = match cluster.create(path, &[], &review).await {
        Ok(answer) => answer.object,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let user = answer.pointer("/status/userInfo/username").and_then(Value::as_str);
    let groups = answer.pointer("/status/userInfo/groups").and_then(Value::as_array);
    let groups = groups.into_iter().flatten().filter_map(|group| Some(group.as_str()?.to_owned()));
    Ok(user.map(|user| Identity { user: user.to_owned(), groups: groups.collect() }))
}

/// Whether each of `needs` is allowed.
///
/// # Errors
/// If the cluster cannot be asked.
pub async fn allowed(cluster: &Cluster, needs: &[Need]) -> Result<Vec<bool>, ApiError> {
    let answers = needs.iter().map(|need| is_allowed(cluster, need));
    stream::iter(answers).buffered(AT_ONCE).try_collect().await
}

async fn is_allowed(cluster: &Cluster, need: &Need) -> Result<bool, ApiError> {
    let (resource, subresource) = need.resource.split_once('/').unwrap_or((&need.resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": need.namespace.as_deref().unwrap_or_default(),
            "group": need.group,
            "resource": resource,
            "subresource": subresource,
            "name": need.name.as_deref().unwrap_or_default(),
            "verb": need.verb,
        }},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = cluster.create(path, &[], &review).await?;
    Ok(answer.object.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
}
