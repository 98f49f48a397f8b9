//! What is deployed: applications of five objects each.

use std::fmt::Write as _;

use serde_json::json;

/// How much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Hundred,
    Thousands,
}

/// Objects of an application.
const EACH: usize = 5;

impl Scale {
    pub fn objects(self) -> usize {
        match self {
            Self::Hundred => 100,
            Self::Thousands => 2000,
        }
    }
}

fn names(scale: Scale) -> impl Iterator<Item = String> {
    (0..scale.objects() / EACH).map(|number| format!("app-{number:03}"))
}

/// `deployment/app-000` and the others.
pub fn workloads(scale: Scale) -> Vec<String> {
    names(scale).map(|name| format!("deployment/{name}")).collect()
}

/// All objects, one document each.
pub fn manifests(scale: Scale, version: &str) -> String {
    let mut text = String::new();
    for name in names(scale) {
        let labels = json!({"app": name});
        let metadata = json!({"name": name, "labels": labels});
        let variables: serde_json::Map<_, _> =
            (0..10).map(|number| (format!("KEY_{number}"), json!("value ".repeat(8)))).collect();
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "nodeSelector": {"type": "kwok"}, "serviceAccountName": name,
                "containers": [{
                    "name": "app", "image": format!("registry.example.com/{name}:{version}"),
                    "envFrom": [{"configMapRef": {"name": name}}, {"secretRef": {"name": name}}],
                    "ports": [{"containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }],
            }},
        }});
        let objects: [_; EACH] = [
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": variables}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"PASSWORD": "x".repeat(40)}}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}}),
            deployment,
        ];
        for object in objects {
            let _ = writeln!(text, "{object}\n---");
        }
    }
    text
}
