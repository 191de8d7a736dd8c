//! `-l`: which resources have these labels. The API server knows; the controller need not.

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use mesh_api::v1::Selector;

use super::Cluster;

/// Kinds of resources that can be selected: the mesh's name, and the API's group, version and kind.
const KINDS: [(&str, &str, &str, &str); 7] = [
    ("deployment", "apps", "v1", "Deployment"),
    ("statefulset", "apps", "v1", "StatefulSet"),
    ("daemonset", "apps", "v1", "DaemonSet"),
    ("job", "batch", "v1", "Job"),
    ("service", "", "v1", "Service"),
    ("pod", "", "v1", "Pod"),
    ("namespace", "", "v1", "Namespace"),
];
/// What a selector without a kind means.
const WORKLOADS_AND_SERVICES: usize = 5;

impl Cluster {
    /// Everything with these labels that `selector` (which has no name) means, by name.
    ///
    /// # Errors
    /// The labels are malformed, nothing has them, or they may not be looked for.
    pub async fn with_labels(&self, selector: &Selector, labels: &str) -> Result<Vec<Selector>> {
        let kinds: Vec<_> = match selector.kind.as_str() {
            "" => KINDS[..WORKLOADS_AND_SERVICES].to_vec(),
            kind => KINDS
                .into_iter()
                .filter(|(name, ..)| *name == kind)
                .collect(),
        };
        let lists = kinds
            .into_iter()
            .map(|kind| self.list(kind, &selector.namespace, labels));
        let mut found: Vec<Selector> = try_join_all(lists).await?.into_iter().flatten().collect();
        if found.is_empty() {
            let what = match selector.kind.as_str() {
                "" => "workload or service",
                kind => kind,
            };
            let place = match selector.namespace.as_str() {
                "" => String::new(),
                namespace => format!(" in the namespace {namespace}"),
            };
            bail!("No {what}{place} has the labels {labels}.");
        }
        found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(found)
    }

    async fn list(
        &self,
        (kind, group, version, api_kind): (&str, &str, &str, &str),
        namespace: &str,
        labels: &str,
    ) -> Result<Vec<Selector>> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, api_kind));
        let api: Api<DynamicObject> = match (kind, namespace) {
            ("namespace", _) | (_, "") => Api::all_with(self.client(), &resource),
            (_, namespace) => Api::namespaced_with(self.client(), namespace, &resource),
        };
        let params = ListParams::default().labels(labels);
        let what = format!("list {}", resource.plural);
        let list = self.ask(&what, api.list_metadata(&params)).await?;
        Ok(list
            .items
            .iter()
            .map(|object| Selector {
                namespace: object.namespace().unwrap_or_default(),
                kind: kind.into(),
                name: object.name_any(),
            })
            .filter(|found| kind != "namespace" || namespace.is_empty() || found.name == namespace)
            .collect())
    }
}
