//! What is worth knowing of a pod that gets a proxy.

use std::collections::BTreeSet;

use mesh_api::names;
use serde_json::Value;

use super::pod::{NamespaceFacts, containers, name};

/// Of a namespace: what its pods may ask for.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
const PREFIX: &str = "mesh.internal/";
const ANNOTATIONS: [&str; 12] = [
    names::ANNOTATION_PROXY,
    names::ANNOTATION_OPAQUE_PORTS,
    names::ANNOTATION_SKIP_INBOUND_PORTS,
    names::ANNOTATION_SKIP_OUTBOUND_PORTS,
    names::ANNOTATION_LOG_LEVEL,
    names::ANNOTATION_ACCESS_LOG,
    names::ANNOTATION_NATIVE_SIDECAR,
    names::ANNOTATION_CPU_REQUEST,
    names::ANNOTATION_CPU_LIMIT,
    names::ANNOTATION_MEMORY_REQUEST,
    names::ANNOTATION_MEMORY_LIMIT,
    names::LABEL_INJECT,
];

/// Something that may surprise; as text, a sentence about the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Remark {
    /// Not TCP.
    #[error("ports {0} are not TCP: their traffic is left alone, without mutual TLS")]
    NotTcp(String),
    /// `mesh-init` is not allowed.
    #[error(
        "its namespace enforces the Pod Security level {0}, which forbids mesh-init its NET_ADMIN: the pod will be refused; label the namespace {POD_SECURITY}=privileged, or leave the pod out"
    )]
    PodSecurity(String),
    /// CPU managers give whole CPUs to guaranteed pods only.
    #[error(
        "its quality of service is Guaranteed and becomes Burstable, as the proxy has no limits; set {} and {}, equal to its requests, to keep it",
        names::ANNOTATION_CPU_LIMIT,
        names::ANNOTATION_MEMORY_LIMIT
    )]
    Guaranteed,
    /// Misspelt, or of another version.
    #[error("the annotation {0} is not known")]
    UnknownAnnotation(String),
    /// A label is needed.
    #[error(
        "{} must be a label; as an annotation it says nothing",
        names::LABEL_INJECT
    )]
    LabelAsAnnotation,
}

/// What may surprise of a pod that is injected. `pod` is as it is without its proxy.
pub fn remarks(pod: &Value, namespace: &NamespaceFacts) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let other: Vec<String> = containers(pod).flat_map(not_tcp).collect();
    if !other.is_empty() {
        remarks.push(Remark::NotTcp(other.join(", ")));
    }
    if let Some(level) = namespace.labels.get(POD_SECURITY)
        && level != "privileged"
    {
        remarks.push(Remark::PodSecurity(level.clone()));
    }
    let annotations: BTreeSet<&str> = pod["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys().map(String::as_str))
        .collect();
    for annotation in annotations.iter().filter(|name| name.starts_with(PREFIX)) {
        if *annotation == names::LABEL_INJECT {
            remarks.push(Remark::LabelAsAnnotation);
        } else if !ANNOTATIONS.contains(annotation) {
            remarks.push(Remark::UnknownAnnotation((*annotation).to_owned()));
        }
    }
    let limited = [names::ANNOTATION_CPU_LIMIT, names::ANNOTATION_MEMORY_LIMIT];
    if is_guaranteed(pod) && !limited.iter().all(|name| annotations.contains(name)) {
        remarks.push(Remark::Guaranteed);
    }
    remarks
}

/// "53/UDP of dns".
fn not_tcp(container: &Value) -> Vec<String> {
    let ports = container["ports"].as_array().into_iter().flatten();
    let others = ports.filter_map(|port| {
        let protocol = port["protocol"]
            .as_str()
            .filter(|protocol| *protocol != "TCP")?;
        Some(format!(
            "{}/{protocol} of {}",
            port["containerPort"],
            name(container)
        ))
    });
    others.collect()
}

/// Every container has limits for CPU and memory, and requests that equal them (which they do where they are
/// absent).
fn is_guaranteed(pod: &Value) -> bool {
    containers(pod).all(|container| {
        let resources = &container["resources"];
        ["cpu", "memory"].iter().all(|resource| {
            let (limit, request) = (
                &resources["limits"][resource],
                &resources["requests"][resource],
            );
            !limit.is_null() && (request.is_null() || request == limit)
        })
    })
}
