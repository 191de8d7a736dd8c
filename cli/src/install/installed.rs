//! What a cluster has of the mesh.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use mesh_api::names;

use super::{
    object::{CONFIG_MAP, KINDS, Kind, LEASE, NAMESPACE, Reference, SECRET},
    options::Options,
};
use crate::cluster::Cluster;

const LABEL: &str = "app.kubernetes.io/part-of=mesh";
const OPTIONS_KEY: &str = "options.json";

/// How the mesh was installed; `None` where it is not.
///
/// # Errors
/// The API server can't be asked, or Helm is in charge.
pub(super) async fn options(cluster: &Cluster) -> Result<Option<Options>> {
    let api = CONFIG_MAP.api(cluster.client(), names::SYSTEM_NAMESPACE);
    let what = format!(
        "read the ConfigMap {} in {}",
        names::CONFIG_MAP,
        names::SYSTEM_NAMESPACE
    );
    let Some(config) = cluster.ask(&what, api.get_opt(names::CONFIG_MAP)).await? else {
        return Ok(None);
    };
    refuse_helm(&config)?;
    config.data["data"][OPTIONS_KEY]
        .as_str()
        .map(Options::from_kept)
        // Applied by something else than this program; its options are the chart's defaults, as far as we know.
        .or_else(|| Some(Ok(Options::default())))
        .transpose()
}

fn refuse_helm(config: &DynamicObject) -> Result<()> {
    if config
        .labels()
        .get("app.kubernetes.io/managed-by")
        .map(String::as_str)
        == Some("Helm")
    {
        let annotations = config.annotations();
        let release = annotations.get("meta.helm.sh/release-name");
        let namespace = annotations.get("meta.helm.sh/release-namespace");
        bail!(
            "The mesh in this cluster was installed by Helm, as the release {} in the namespace {}: upgrade or \
             uninstall it with helm",
            release.map_or("(unknown)", String::as_str),
            namespace.map_or("(unknown)", String::as_str),
        );
    }
    Ok(())
}

/// The objects that `mesh install` has made, in the order in which to remove them. The trust bundles of the
/// controller are none of them.
pub(super) async fn objects(cluster: &Cluster) -> Result<Vec<Reference>> {
    let mut found = Vec::new();
    for kind in KINDS {
        let api = kind.api(cluster.client(), names::SYSTEM_NAMESPACE);
        let params = ListParams::default().labels(LABEL);
        let what = format!("list objects of kind {}", kind.kind);
        let objects = cluster.ask(&what, api.list(&params)).await?;
        let references = objects
            .items
            .iter()
            .filter(|object| kind != CONFIG_MAP || object.name_any() != names::TRUST_CONFIG_MAP)
            // Other namespaces may carry the label as well, if people like it.
            .filter(|object| kind != NAMESPACE || object.name_any() == names::SYSTEM_NAMESPACE)
            .map(|object| reference(kind, object));
        found.extend(references);
    }
    Ok(found)
}

/// What the controller has made: its roots, its election, the trust bundle of each namespace.
pub(super) async fn made_by_controller(cluster: &Cluster) -> Result<Vec<Reference>> {
    let mut found = Vec::new();
    for own in [
        SECRET.named(names::SYSTEM_NAMESPACE, names::CA_SECRET),
        LEASE.named(names::SYSTEM_NAMESPACE, names::CONTROLLER),
    ] {
        let api = own.api(cluster.client());
        let what = format!("read {own}");
        if cluster.ask(&what, api.get_opt(&own.name)).await?.is_some() {
            found.push(own);
        }
    }
    let params =
        ListParams::default().fields(&format!("metadata.name={}", names::TRUST_CONFIG_MAP));
    let everywhere = CONFIG_MAP.everywhere(cluster.client());
    let bundles = cluster
        .ask(
            "list ConfigMaps in all namespaces",
            everywhere.list(&params),
        )
        .await?;
    found.extend(
        bundles
            .items
            .iter()
            .map(|object| reference(CONFIG_MAP, object)),
    );
    Ok(found)
}

fn reference(kind: Kind, object: &DynamicObject) -> Reference {
    kind.named(&object.namespace().unwrap_or_default(), &object.name_any())
}

/// Pods that have a proxy: "namespace/name".
pub(super) async fn injected_pods(cluster: &Cluster) -> Result<Vec<String>> {
    let api: Api<Pod> = Api::all(cluster.client());
    let mut params = ListParams::default().limit(500);
    let mut found = Vec::new();
    loop {
        let page = cluster
            .ask("list pods in all namespaces", api.list_metadata(&params))
            .await?;
        let injected = page.items.iter().filter(|pod| {
            let proxy = pod.annotations().get(names::ANNOTATION_PROXY);
            proxy.is_some_and(|value| value == "true")
        });
        found.extend(
            injected
                .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())),
        );
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}
