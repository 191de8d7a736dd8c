//! The kinds of objects that the mesh has in a cluster, and references to single ones.

use std::fmt;

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use mesh_api::names;
use serde_json::Value;

/// A kind, and whether its objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    api_version: &'static str,
    pub(super) kind: &'static str,
    namespaced: bool,
}

/// What the chart can have, in the order in which it is removed: first what calls the controller, then the controller, at
/// last what it lives on.
pub(super) const KINDS: [Kind; 11] = [
    cluster_wide(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
    ),
    namespaced("policy/v1", "PodDisruptionBudget"),
    namespaced("apps/v1", "Deployment"),
    namespaced("v1", "Service"),
    namespaced("v1", "ConfigMap"),
    namespaced("rbac.authorization.k8s.io/v1", "RoleBinding"),
    namespaced("rbac.authorization.k8s.io/v1", "Role"),
    cluster_wide("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    cluster_wide("rbac.authorization.k8s.io/v1", "ClusterRole"),
    namespaced("v1", "ServiceAccount"),
    NAMESPACE,
];

pub(super) const NAMESPACE: Kind = cluster_wide("v1", "Namespace");
pub(super) const CONFIG_MAP: Kind = namespaced("v1", "ConfigMap");
/// What the controller makes for itself.
pub(super) const SECRET: Kind = namespaced("v1", "Secret");
pub(super) const LEASE: Kind = namespaced("coordination.k8s.io/v1", "Lease");

const fn namespaced(api_version: &'static str, kind: &'static str) -> Kind {
    Kind {
        api_version,
        kind,
        namespaced: true,
    }
}

const fn cluster_wide(api_version: &'static str, kind: &'static str) -> Kind {
    Kind {
        api_version,
        kind,
        namespaced: false,
    }
}

impl Kind {
    /// The kind of an object; `None` if it is none of [`KINDS`].
    pub(super) fn of(object: &Value) -> Option<Self> {
        KINDS
            .into_iter()
            .find(|known| object["apiVersion"] == known.api_version && object["kind"] == known.kind)
    }

    /// All objects of this kind in one namespace, or of the cluster.
    pub(super) fn api(self, client: Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client, namespace, &self.resource())
        } else {
            Api::all_with(client, &self.resource())
        }
    }

    /// All objects of this kind everywhere.
    pub(super) fn everywhere(self, client: Client) -> Api<DynamicObject> {
        Api::all_with(client, &self.resource())
    }

    fn resource(self) -> ApiResource {
        let (group, version) = self
            .api_version
            .split_once('/')
            .unwrap_or(("", self.api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, self.kind))
    }

    /// The object of this kind with this name; `namespace` counts where the kind has one.
    pub(super) fn named(self, namespace: &str, name: &str) -> Reference {
        Reference {
            kind: self,
            namespace: self.namespaced.then(|| namespace.to_owned()),
            name: name.to_owned(),
        }
    }
}

/// One object. Displayed as kubectl takes it: `configmap/mesh-trust -n shop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) kind: Kind,
    /// None for objects of the cluster.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl Reference {
    /// What a manifest describes.
    ///
    /// # Errors
    /// The chart has a kind that [`KINDS`] has not, or an object without a name.
    pub(super) fn of(object: &Value) -> Result<Self> {
        let kind = Kind::of(object).with_context(|| {
            format!(
                "A manifest is of an unknown kind: {} {}",
                object["apiVersion"], object["kind"]
            )
        })?;
        let name = object["metadata"]["name"].as_str();
        let name = name.with_context(|| format!("A manifest of kind {} has no name", kind.kind))?;
        let namespace = object["metadata"]["namespace"].as_str();
        Ok(kind.named(namespace.unwrap_or(names::SYSTEM_NAMESPACE), name))
    }

    /// The API in which this object is found.
    pub(super) fn api(&self, client: Client) -> Api<DynamicObject> {
        self.kind
            .api(client, self.namespace.as_deref().unwrap_or_default())
    }

    /// A manifest that says no more than which object it is: what `kubectl delete -f` needs.
    pub(super) fn manifest(&self) -> String {
        let Kind {
            api_version, kind, ..
        } = self.kind;
        let mut text = format!(
            "---\napiVersion: {api_version}\nkind: {kind}\nmetadata:\n  name: {}\n",
            self.name
        );
        if let Some(namespace) = &self.namespace {
            text.push_str(&format!("  namespace: {namespace}\n"));
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.kind.to_ascii_lowercase(), self.name)?;
        match &self.namespace {
            None => Ok(()),
            Some(namespace) => write!(f, " -n {namespace}"),
        }
    }
}
