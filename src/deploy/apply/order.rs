//! In which order objects are applied.
//!
//! Objects of a wave go out side by side; a wave begins when the one before it is through. So what others need to be
//! admitted is there before them, and what judges others (webhooks, policies) comes when they are through.

use crate::deploy::object::GroupKind;

/// How many waves there are.
pub const WAVES: usize = 6;

/// The wave of custom resource definitions and namespaces. What they make possible can be sent only after it.
pub const DEFINITIONS: usize = 0;

/// The wave of a kind, from 0.
pub fn wave(kind: &GroupKind) -> usize {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") | ("apiextensions.k8s.io", "CustomResourceDefinition") => DEFINITIONS,
        // Admission looks these up for what comes later. A binding can be made by somebody without all rights only
        // once the role is there, so roles are before bindings.
        ("", "ServiceAccount" | "ResourceQuota" | "LimitRange" | "PersistentVolume")
        | ("rbac.authorization.k8s.io", "Role" | "ClusterRole")
        | ("networking.k8s.io", "NetworkPolicy")
        | ("policy", "PodDisruptionBudget") => 1,
        (group, kind) if group.ends_with(".k8s.io") && kind.ends_with("Class") => 1,
        ("", "Secret" | "ConfigMap" | "PersistentVolumeClaim" | "Service" | "Endpoints")
        | ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding")
        | ("discovery.k8s.io", "EndpointSlice") => 2,
        // A scaler or a route finds what it is for.
        ("autoscaling", _) | ("networking.k8s.io", "Ingress") | ("gateway.networking.k8s.io", _) => 4,
        ("admissionregistration.k8s.io", _) | ("apiregistration.k8s.io", "APIService") => 5,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("apiextensions.k8s.io", "CustomResourceDefinition", 0)]
    #[case("", "Namespace", 0)]
    #[case("storage.k8s.io", "StorageClass", 1)]
    #[case("rbac.authorization.k8s.io", "Role", 1)]
    #[case("rbac.authorization.k8s.io", "RoleBinding", 2)]
    #[case("", "Secret", 2)]
    #[case("apps", "Deployment", 3)]
    #[case("example.com", "Class", 3)]
    #[case("autoscaling", "HorizontalPodAutoscaler", 4)]
    #[case("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", 5)]
    fn waves(#[case] group: &str, #[case] kind: &str, #[case] expected: usize) {
        assert_eq!(wave(&GroupKind::new(group, kind)), expected);
        assert!(expected < WAVES);
    }
}
