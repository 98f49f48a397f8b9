//! Secrets that let a cluster pull from a registry, as `kubectl create secret docker-registry` makes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use super::apply::MANAGER;
use super::cluster::{ApiError, Cluster};
use crate::registry::Secret;

/// Its type.
pub const TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Its one entry.
pub const ENTRY: &str = ".dockerconfigjson";
/// What kubelets look Docker Hub's credentials up by.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A Secret with a login to a registry.
#[derive(Debug, Clone)]
pub struct PullSecret {
    /// What it is called.
    pub name: String,
    /// Its namespace, if that was said.
    pub namespace: Option<String>,
    /// The registry, as it stands in the Secret; see [`server`].
    pub server: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// An address that nobody uses any more; left out if there is none.
    pub email: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was not there.
    Created,
    /// It was there, and may have changed.
    Configured,
    /// It was deleted and made anew, for it may not or cannot be changed.
    Replaced,
}

/// The key of a registry as kubelets look for it: the host as it stands in names of images, but for Docker Hub.
pub fn server(host: &str) -> String {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        host => host.to_owned(),
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    username: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    auth: String,
}

#[derive(Serialize)]
struct Manifest<'a> {
    kind: &'a str,
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    metadata: Metadata<'a>,
    data: Data,
    r#type: &'a str,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
}

#[derive(Serialize)]
struct Data {
    #[serde(rename = ".dockerconfigjson")]
    entry: String,
}

impl PullSecret {
    /// The content of its entry, byte for byte as kubectl writes it.
    fn content(&self) -> String {
        let Self { username, password, email, .. } = self;
        let password = password.expose();
        let auth = STANDARD.encode(format!("{username}:{password}"));
        let entry =
            Entry { username, password, email: email.as_deref().filter(|email| !email.is_empty()), auth };
        format!("{{\"auths\":{{{}:{}}}}}", go_json(&self.server), go_json(&entry))
    }

    /// The manifest, byte for byte as `kubectl create secret docker-registry --dry-run=client -o json` writes it.
    pub fn manifest(&self) -> String {
        let manifest = Manifest {
            kind: "Secret",
            api_version: "v1",
            metadata: Metadata { name: &self.name, namespace: self.namespace.as_deref() },
            data: Data { entry: STANDARD.encode(self.content()) },
            r#type: TYPE,
        };
        let mut bytes = Vec::new();
        let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, form);
        // Texts alone: there is nothing that JSON cannot say.
        let _ = manifest.serialize(&mut serializer);
        format!("{}\n", go_escaped(&String::from_utf8_lossy(&bytes)))
    }

    fn object(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.name, "namespace": namespace},
            "type": TYPE,
            "data": {ENTRY: STANDARD.encode(self.content())},
        })
    }

    /// Brings it into its namespace, or the cluster's default one. Conflicts are not asked about: whoever made the Secret
    /// before, by `kubectl apply` perhaps, wanted the same. Where it may be created and deleted but not changed, it is
    /// deleted and made anew.
    ///
    /// # Errors
    /// If the cluster refuses or cannot be reached.
    pub async fn send(&self, cluster: &Cluster) -> Result<Sent, ApiError> {
        let namespace = self.namespace.as_deref().unwrap_or(cluster.namespace());
        let list = format!("/api/v1/namespaces/{namespace}/secrets");
        let path = format!("{list}/{}", self.name);
        let object = self.object(namespace);
        let query = [("fieldManager", MANAGER), ("force", "true")];
        match cluster.apply(&path, &query, &object).await {
            Ok(applied) if applied.created => Ok(Sent::Created),
            Ok(_) => Ok(Sent::Configured),
            Err(refused) if refused.is_forbidden() || is_other_type(&refused) => {
                self.replace(cluster, (&list, &path), &object, refused).await
            }
            Err(error) => Err(error),
        }
    }

    /// Makes it without changing it. It is created first: nothing is deleted by somebody who may not create.
    async fn replace(
        &self,
        cluster: &Cluster,
        (list, path): (&str, &str),
        object: &Value,
        refused: ApiError,
    ) -> Result<Sent, ApiError> {
        let query = [("fieldManager", MANAGER)];
        match cluster.create(list, &query, object).await {
            Ok(_) => return Ok(Sent::Created),
            Err(error) if error.refusal().is_some_and(|refusal| refusal.code == 409) => {}
            // What was refused first is what there is to know.
            Err(error) if error.is_forbidden() => return Err(refused),
            Err(error) => return Err(error),
        }
        match cluster.delete(path, &json!({})).await {
            Err(error) if error.is_forbidden() => return Err(refused),
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        cluster.create(list, &query, object).await.map(|_| Sent::Replaced)
    }
}

/// Whether a Secret of the name has another type, which cannot be changed.
fn is_other_type(error: &ApiError) -> bool {
    error.refusal().is_some_and(super::cluster::Refusal::is_immutable)
}

fn go_json(value: &impl Serialize) -> String {
    // Texts alone: there is nothing that JSON cannot say.
    go_escaped(&serde_json::to_string(value).unwrap_or_default())
}

/// JSON as Go's `encoding/json` writes it: with `<`, `>`, `&` and two line breaks of Unicode escaped, which stand nowhere but in
/// texts.
fn go_escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(username: &str, password: &str) -> PullSecret {
        PullSecret {
            name: "pull".to_owned(),
            namespace: None,
            server: server("r.example"),
            username: username.to_owned(),
            password: Secret::new(password),
            email: None,
        }
    }

    #[test]
    fn the_bytes_are_kubectls() {
        assert_eq!(
            secret("u<", "p\u{2028}&\"é").content(),
            "{\"auths\":{\"r.example\":{\"username\":\"u\\u003c\",\"password\":\"p\\u2028\\u0026\\\"é\",\
             \"auth\":\"dTw6cOKAqCYiw6k=\"}}}"
        );
        let with_email = PullSecret { email: Some("e@x".to_owned()), ..secret("u", "p") };
        assert!(with_email.content().contains("\"password\":\"p\",\"email\":\"e@x\",\"auth\""));
    }

    #[test]
    fn docker_hub_is_called_as_kubelets_look_for_it() {
        assert_eq!(server("docker.io"), DOCKER_HUB);
        assert_eq!(server("r.example:5000"), "r.example:5000");
    }

    #[test]
    fn no_password_is_in_debug_output() {
        assert!(!format!("{:?}", secret("u", "sesame open")).contains("sesame"));
    }
}
