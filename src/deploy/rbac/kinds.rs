//! How kinds are called in rules, as far as it is known without a cluster.

use serde_json::Value;

use super::Named;
use crate::deploy::object::{Gvk, Object};

/// Kinds of Kubernetes whose objects are in namespaces, by group.
#[rustfmt::skip]
const NAMESPACED: [(&str, &[&str]); 12] = [
    (
        "",
        &[
            "ConfigMap", "Endpoints", "Event", "LimitRange", "PersistentVolumeClaim", "Pod", "PodTemplate",
            "ReplicationController", "ResourceQuota", "Secret", "Service", "ServiceAccount",
        ],
    ),
    ("apps", &["ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"]),
    ("autoscaling", &["HorizontalPodAutoscaler"]),
    ("batch", &["CronJob", "Job"]),
    ("coordination.k8s.io", &["Lease"]),
    ("discovery.k8s.io", &["EndpointSlice"]),
    ("events.k8s.io", &["Event"]),
    ("networking.k8s.io", &["Ingress", "NetworkPolicy"]),
    ("policy", &["PodDisruptionBudget"]),
    ("rbac.authorization.k8s.io", &["Role", "RoleBinding"]),
    ("resource.k8s.io", &["ResourceClaim", "ResourceClaimTemplate"]),
    ("storage.k8s.io", &["CSIStorageCapacity"]),
];

/// Kinds of Kubernetes whose objects belong to the whole cluster, by group.
#[rustfmt::skip]
const OF_THE_CLUSTER: [(&str, &[&str]); 12] = [
    ("", &["Namespace", "Node", "PersistentVolume"]),
    (
        "admissionregistration.k8s.io",
        &[
            "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration",
        ],
    ),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", &["APIService"]),
    ("certificates.k8s.io", &["CertificateSigningRequest", "ClusterTrustBundle"]),
    ("flowcontrol.apiserver.k8s.io", &["FlowSchema", "PriorityLevelConfiguration"]),
    ("networking.k8s.io", &["IPAddress", "IngressClass", "ServiceCIDR"]),
    ("node.k8s.io", &["RuntimeClass"]),
    ("rbac.authorization.k8s.io", &["ClusterRole", "ClusterRoleBinding"]),
    ("resource.k8s.io", &["DeviceClass", "ResourceSlice"]),
    ("scheduling.k8s.io", &["PriorityClass"]),
    ("storage.k8s.io", &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"]),
];

/// A kind of Kubernetes itself, whatever its version.
pub fn built_in(gvk: &Gvk) -> Option<Named> {
    let is_in = |table: &[(&str, &[&str])]| {
        table.iter().any(|(group, kinds)| *group == gvk.group && kinds.contains(&gvk.kind.as_str()))
    };
    let namespaced = is_in(&NAMESPACED);
    (namespaced || is_in(&OF_THE_CLUSTER)).then(|| Named { plural: plural(&gvk.kind), namespaced })
}

/// As Kubernetes makes the names of its resources from those of its kinds.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.as_str() {
        "endpoints" => kind,
        _ if kind.ends_with('s') => format!("{kind}es"),
        _ => match kind.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{kind}s"),
        },
    }
}

/// A kind that a CustomResourceDefinition among `objects` defines.
pub fn defined_by(objects: &[Object], gvk: &Gvk) -> Option<Named> {
    objects
        .iter()
        .filter(|object| object.gvk().group_kind().is("apiextensions.k8s.io", "CustomResourceDefinition"))
        .find_map(|object| {
            let spec = object.fields.get("spec")?;
            let text = |path: &str| spec.pointer(path).and_then(Value::as_str);
            let fits = text("/group") == Some(&gvk.group) && text("/names/kind") == Some(&gvk.kind);
            fits.then_some(())?;
            Some(Named {
                plural: text("/names/plural")?.to_owned(),
                namespaced: text("/scope") == Some("Namespaced"),
            })
        })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("v1", "Endpoints", "endpoints", true)]
    #[case("v1", "Namespace", "namespaces", false)]
    #[case("networking.k8s.io/v1", "Ingress", "ingresses", true)]
    #[case("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true)]
    #[case("networking.k8s.io/v1", "IPAddress", "ipaddresses", false)]
    #[case("storage.k8s.io/v1", "StorageClass", "storageclasses", false)]
    #[case("storage.k8s.io/v1", "CSIStorageCapacity", "csistoragecapacities", true)]
    fn plurals(#[case] version: &str, #[case] kind: &str, #[case] plural: &str, #[case] namespaced: bool) {
        let found = built_in(&Gvk::new(version, kind)).unwrap();
        assert_eq!(found, Named { plural: plural.to_owned(), namespaced });
    }

    #[test]
    fn kinds_of_others_are_not_known() {
        assert_eq!(built_in(&Gvk::new("x.example/v1", "Deployment")), None);
    }
}
