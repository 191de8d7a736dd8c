//! What a pod is a part of: the workload at the top of its owners.
//!
//! A pod names its controller, which may have one itself: the ReplicaSet of a Deployment, the Job of a CronJob. A
//! ReplicaSet that a Deployment made is named after it and its template's hash, which the pod has as a label, so
//! that the pod alone tells. For all others (Jobs; ReplicaSets of other controllers, or of nobody) the owner has
//! to be known: only these are kept.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use mesh_api::v1;

use super::record::{Name, label};
use crate::source::Kind;

/// A ReplicaSet or a Job that owns pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) kind: Kind,
    pub(super) name: Name,
}

impl Owner {
    /// The pod's owner, if it is of a kind that may have an owner itself.
    pub(super) fn of(pod: &ObjectMeta) -> Option<Self> {
        let owner = controller(pod)?;
        let kind = match &*owner.kind {
            "ReplicaSet" => Kind::ReplicaSet,
            "Job" => Kind::Job,
            _ => return None,
        };
        let name = Name::new(namespace(pod), &owner.name);
        Some(Self { kind, name })
    }
}

/// What the pod is a part of as far as the pod itself tells.
pub(super) fn of_pod(pod: &ObjectMeta) -> v1::Workload {
    match controller(pod) {
        None => workload(pod, "pod", pod.name.as_deref().unwrap_or_default()),
        Some(owner) if owner.kind == "ReplicaSet" => match deployment(&owner.name, pod) {
            Some(name) => workload(pod, "deployment", name),
            None => workload(pod, "replicaset", &owner.name),
        },
        Some(owner) => workload(pod, &owner.kind, &owner.name),
    }
}

/// What the pods of this ReplicaSet or Job are a part of; `None` where they can tell by themselves.
pub(super) fn above(kind: Kind, meta: &ObjectMeta) -> Option<v1::Workload> {
    let own = meta.name.as_deref().unwrap_or_default();
    let told_by_pods = match (kind, deployment(own, meta)) {
        (Kind::ReplicaSet, Some(name)) => workload(meta, "deployment", name),
        (Kind::ReplicaSet, None) => workload(meta, "replicaset", own),
        _ => workload(meta, "job", own),
    };
    let top = match controller(meta) {
        Some(owner) => workload(meta, &owner.kind, &owner.name),
        None if kind == Kind::ReplicaSet => workload(meta, "replicaset", own),
        None => workload(meta, "job", own),
    };
    (top != told_by_pods).then_some(top)
}

/// The Deployment after which a ReplicaSet is named.
fn deployment<'a>(replica_set: &'a str, labelled: &ObjectMeta) -> Option<&'a str> {
    let hash = label(labelled, "pod-template-hash")?;
    replica_set.strip_suffix(hash)?.strip_suffix('-')
}

fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    // A static pod belongs to its node, which says nothing about what it is.
    controller
        .or(owners.first())
        .filter(|owner| owner.kind != "Node")
}

fn workload(of: &ObjectMeta, kind: &str, name: &str) -> v1::Workload {
    v1::Workload {
        namespace: namespace(of).into(),
        kind: kind.to_ascii_lowercase(),
        name: name.into(),
    }
}

fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("default")
}
