//! What injection needs to know besides a pod: the cluster's settings, and namespaces.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use mesh_api::names;
use mesh_controller::inject::{NamespaceFacts, Settings};
use serde_json::Value;

use super::{document::Document, workload};
use crate::{
    client::block_on,
    cluster::{Cluster, ClusterArgs},
};

/// Where settings come from.
#[derive(Debug, clap::Args)]
pub(super) struct FactsArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// With --manual: take the defaults and these flags instead of the cluster's settings
    #[arg(long, requires = "manual", conflicts_with_all = ["context", "kubeconfig"])]
    ignore_cluster: bool,
    /// Where images are pulled from
    #[arg(long, requires = "ignore_cluster", default_value = names::IMAGE_REGISTRY)]
    registry: String,
    /// Of the proxy
    #[arg(long, requires = "ignore_cluster", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Trust domain of all identities
    #[arg(long, requires = "ignore_cluster", default_value = names::TRUST_DOMAIN)]
    trust_domain: String,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) settings: Settings,
    namespaces: BTreeMap<String, NamespaceFacts>,
    /// Of objects that name none.
    default_namespace: Option<String>,
}

impl Facts {
    /// The cluster is only asked when whole pods are rendered: to set a label, what the manifests say of their own
    /// namespaces has to do.
    ///
    /// # Errors
    /// The cluster can't be asked, or has no mesh.
    pub(super) fn find(
        args: FactsArgs,
        render: bool,
        streams: &[Vec<Document<'_>>],
    ) -> anyhow::Result<Self> {
        let mut facts = Self {
            settings: Settings::of_images(&args.registry, &args.version),
            namespaces: BTreeMap::new(),
            default_namespace: None,
        };
        facts.settings.trust_domain = args.trust_domain;
        let documents = || streams.iter().flatten().map(|document| &document.value);
        if render && !args.ignore_cluster {
            block_on(facts.ask(&args.cluster, named_namespaces(documents())))?;
        }
        // After those of the cluster: what is applied next is what holds.
        for document in documents() {
            workload::each_object(document, &mut |object| facts.declare(object));
        }
        Ok(facts)
    }

    /// Of an object in this namespace.
    pub(super) fn namespace(&self, name: Option<&str>) -> NamespaceFacts {
        let name = name
            .or(self.default_namespace.as_deref())
            .unwrap_or("default");
        let known = self.namespaces.get(name).cloned();
        known.unwrap_or_else(|| NamespaceFacts {
            name: name.to_owned(),
            ..NamespaceFacts::default()
        })
    }

    /// Namespaces that are not there yet have nothing to say.
    async fn ask(&mut self, args: &ClusterArgs, named: Vec<String>) -> anyhow::Result<()> {
        let cluster = Cluster::connect(args).await.context(
            "--manual renders what the cluster's webhook would (--ignore-cluster: the defaults)",
        )?;
        self.settings = settings(&cluster).await?;
        self.default_namespace = Some(cluster.namespace().to_owned());
        let namespaces = Api::<Namespace>::all(cluster.client());
        for name in named.into_iter().chain([cluster.namespace().to_owned()]) {
            let what = format!("read the namespace {name}");
            let found = cluster.ask(&what, namespaces.get_opt(&name)).await?;
            let Some(found) = found else { continue };
            let facts = NamespaceFacts {
                name: name.clone(),
                labels: found.metadata.labels.unwrap_or_default(),
                annotations: found.metadata.annotations.unwrap_or_default(),
            };
            self.namespaces.insert(name, facts);
        }
        Ok(())
    }

    fn declare(&mut self, object: &Value) {
        if object["kind"] != "Namespace" || object["apiVersion"] != "v1" {
            return;
        }
        let metadata = &object["metadata"];
        let map = |field: &str| {
            let entries = metadata[field].as_object().into_iter().flatten();
            let texts =
                entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.into())));
            texts.collect::<BTreeMap<String, String>>()
        };
        let Some(name) = metadata["name"].as_str() else {
            return;
        };
        let facts = self.namespaces.entry(name.to_owned()).or_default();
        facts.name = name.to_owned();
        facts.labels.extend(map("labels"));
        facts.annotations.extend(map("annotations"));
    }
}

async fn settings(cluster: &Cluster) -> anyhow::Result<Settings> {
    let (name, key) = (names::CONFIG_MAP, names::CONFIG_KEY);
    let maps = Api::<ConfigMap>::namespaced(cluster.client(), names::SYSTEM_NAMESPACE);
    let what = format!("read the ConfigMap {name} in {}", names::SYSTEM_NAMESPACE);
    let Some(map) = cluster.ask(&what, maps.get_opt(name)).await? else {
        bail!(
            "there is no mesh in the cluster of context {:?}: the ConfigMap {name} is not in {}. Install it (mesh install), or render the defaults (--ignore-cluster)",
            cluster.context(),
            names::SYSTEM_NAMESPACE
        );
    };
    let json = map.data.as_ref().and_then(|data| data.get(key));
    let json = json
        .with_context(|| format!("the ConfigMap {name} has no {key}: apply mesh install again"))?;
    serde_json::from_str(json).with_context(|| {
        format!("the cluster's settings ({key} of the ConfigMap {name}) are not those of this version ({}): mesh upgrade", env!("CARGO_PKG_VERSION"))
    })
}

/// Of all objects, each once.
fn named_namespaces<'a>(documents: impl Iterator<Item = &'a Value>) -> Vec<String> {
    let mut names = Vec::new();
    for document in documents {
        workload::each_object(document, &mut |object| {
            if let Some(name) = object["metadata"]["namespace"].as_str() {
                names.push(name.to_owned());
            }
        });
    }
    names.sort();
    names.dedup();
    names
}
