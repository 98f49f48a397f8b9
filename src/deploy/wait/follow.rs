//! The objects of a kind as they change.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use crate::deploy::cluster::{ApiError, Cluster, Resource, WatchEvent, forget_managers};
use crate::deploy::status::text;

/// How often it is asked where watching is not allowed.
const POLL: Duration = Duration::from_secs(2);
/// How long after a failure that is nobody's fault.
const AGAIN: Duration = Duration::from_secs(1);

/// What is told of a followed object.
#[derive(Debug)]
pub(super) enum Update {
    /// It is so now.
    Is { follow: usize, name: String, object: Value },
    /// It is gone.
    Gone { follow: usize, name: String },
    /// Something to be told once.
    Note(String),
    /// The cluster cannot be asked, at all.
    Lost(ApiError),
}

/// Objects of one kind in one place.
#[derive(Debug, Clone)]
pub(super) struct Follow {
    pub number: usize,
    pub resource: Resource,
    pub namespace: Option<String>,
    pub names: Vec<String>,
}

impl Follow {
    /// Follows until nobody listens, or nothing may be read.
    pub async fn run(self, cluster: Cluster, updates: UnboundedSender<Update>) {
        let path = self.resource.list_path(self.namespace.as_deref());
        let selector = match &*self.names {
            [name] => format!("metadata.name={name}"),
            _ => String::new(),
        };
        let query: Vec<(&str, &str)> =
            if selector.is_empty() { Vec::new() } else { vec![("fieldSelector", &*selector)] };
        let mut known = BTreeMap::new();
        loop {
            let listed = match cluster.list(&path, &query).await {
                Ok(listed) => listed,
                Err(error) if error.is_forbidden() => {
                    return self.poll_each(&cluster, &updates, &mut known).await;
                }
                Err(error) => {
                    if !self.failed(error, &updates).await {
                        return;
                    }
                    continue;
                }
            };
            let mut version = listed.resource_version;
            self.replace(listed.items, &mut known, &updates);
            match self.watch(&cluster, &path, &query, &mut version, &mut known, &updates).await {
                Some(error) if error.is_forbidden() => {
                    let _ = updates.send(Update::Note(format!(
                        "{} may not be watched here, and are asked for every {} s instead (the verb `watch` is missing)",
                        self.resource.plural,
                        POLL.as_secs()
                    )));
                    return self.poll_all(&cluster, &path, &query, &mut known, &updates).await;
                }
                Some(ApiError::Expired) => {}
                Some(error) => {
                    if !self.failed(error, &updates).await {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// Watches on and on; gives why it must be listed again, or nothing if nobody listens.
    async fn watch(
        &self,
        cluster: &Cluster,
        path: &str,
        query: &[(&str, &str)],
        version: &mut String,
        known: &mut BTreeMap<String, String>,
        updates: &UnboundedSender<Update>,
    ) -> Option<ApiError> {
        loop {
            if updates.is_closed() {
                return None;
            }
            let mut watch = match cluster.watch(path, query, version).await {
                Ok(watch) => watch,
                Err(error) => return Some(error),
            };
            let begun = tokio::time::Instant::now();
            loop {
                match watch.next().await {
                    Ok(Some(WatchEvent::Applied(object))) => {
                        text(&object, "/metadata/resourceVersion").clone_into(version);
                        self.tell(object, known, updates);
                    }
                    Ok(Some(WatchEvent::Deleted(object))) => {
                        text(&object, "/metadata/resourceVersion").clone_into(version);
                        self.gone(text(&object, "/metadata/name"), known, updates);
                    }
                    Ok(Some(WatchEvent::Bookmark(newer))) => *version = newer,
                    // It was ended or cut: on from where it was.
                    Ok(None) => break,
                    Err(error) => return Some(error),
                }
            }
            // One that is cut again and again is not asked for in a circle.
            tokio::time::sleep_until(begun + AGAIN).await;
        }
    }

    async fn poll_all(
        &self,
        cluster: &Cluster,
        path: &str,
        query: &[(&str, &str)],
        known: &mut BTreeMap<String, String>,
        updates: &UnboundedSender<Update>,
    ) {
        while !updates.is_closed() {
            tokio::time::sleep(POLL).await;
            match cluster.list(path, query).await {
                Ok(listed) => self.replace(listed.items, known, updates),
                Err(error) => {
                    if !self.failed(error, updates).await {
                        return;
                    }
                }
            }
        }
    }

    /// For those who may `get` and nothing else.
    async fn poll_each(
        &self,
        cluster: &Cluster,
        updates: &UnboundedSender<Update>,
        known: &mut BTreeMap<String, String>,
    ) {
        let _ = updates.send(Update::Note(format!(
            "{} may not be listed here, and are asked for one by one (the verbs `list` and `watch` are missing)",
            self.resource.plural
        )));
        loop {
            for name in &self.names {
                match cluster.find(&self.resource.path(self.namespace.as_deref(), name)).await {
                    Ok(Some(object)) => self.tell(object, known, updates),
                    Ok(None) => self.gone(name, known, updates),
                    Err(error) => {
                        if !self.failed(error, updates).await {
                            return;
                        }
                    }
                }
            }
            if updates.is_closed() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes a list for all there is.
    fn replace(
        &self,
        items: Vec<Value>,
        known: &mut BTreeMap<String, String>,
        updates: &UnboundedSender<Update>,
    ) {
        let there: Vec<String> = items.iter().map(|item| text(item, "/metadata/name").to_owned()).collect();
        for item in items {
            self.tell(item, known, updates);
        }
        for name in self.names.iter().filter(|name| !there.contains(name)) {
            self.gone(name, known, updates);
        }
    }

    fn tell(
        &self,
        mut object: Value,
        known: &mut BTreeMap<String, String>,
        updates: &UnboundedSender<Update>,
    ) {
        let name = text(&object, "/metadata/name").to_owned();
        let version = text(&object, "/metadata/resourceVersion").to_owned();
        if !self.names.contains(&name) || known.get(&name) == Some(&version) {
            return;
        }
        known.insert(name.clone(), version);
        forget_managers(&mut object);
        // In lists they do not say what they are.
        object["apiVersion"] = self.resource.gvk.api_version().into();
        object["kind"] = self.resource.gvk.kind.clone().into();
        let _ = updates.send(Update::Is { follow: self.number, name, object });
    }

    fn gone(&self, name: &str, known: &mut BTreeMap<String, String>, updates: &UnboundedSender<Update>) {
        if self.names.iter().any(|one| one == name) {
            known.remove(name);
            let _ = updates.send(Update::Gone { follow: self.number, name: name.to_owned() });
        }
    }

    /// Whether to go on after a failure.
    async fn failed(&self, error: ApiError, updates: &UnboundedSender<Update>) -> bool {
        let is_final = match &error {
            ApiError::Refused(refusal) => matches!(refusal.code, 401 | 403 | 404),
            ApiError::Credentials { .. } | ApiError::Cancelled => true,
            // The client has waited for it already, for as long as a server takes to restart.
            ApiError::Unreachable { .. } => true,
            ApiError::Garbled { .. } | ApiError::Expired => false,
        };
        if is_final {
            let _ = updates.send(Update::Lost(error));
            return false;
        }
        tokio::time::sleep(AGAIN).await;
        !updates.is_closed()
    }
}
