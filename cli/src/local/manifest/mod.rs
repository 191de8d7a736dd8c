//! Manifests: files in, what to run out.
//!
//! Standard Kubernetes objects, as YAML (several documents per file) or JSON. What can't be honoured on one machine
//! becomes a warning that names its path; what can't be run at all is an error that says what to do.

mod honoured;
mod names;
mod probe;
mod volume;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::Ipv4Addr,
    path::Path,
};

use anyhow::{Context, anyhow, bail, ensure};
use k8s_openapi::{
    DeepMerge,
    api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use probe::{Check, Hook, Probe};
#[cfg(test)]
pub(crate) use volume::Item;
pub(crate) use volume::{Files, Volume};
pub(crate) use workload::{Container, EnvValue, Kind, MOST_REPLICAS, Restart, Template, Workload};

use super::config::Source;

/// The kinds that mean something on one machine.
const RUN: [&str; 10] = [
    "Namespace",
    "Service",
    "ServiceAccount",
    "ConfigMap",
    "Secret",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "Pod",
];

/// A namespace and a name.
pub(crate) type Key = (String, String);

/// Everything that manifests ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manifests {
    /// Every namespace that is named, declared or not.
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// What makes pods.
    pub(crate) workloads: BTreeMap<(Kind, String, String), Workload>,
    pub(crate) services: BTreeMap<Key, Service>,
    pub(crate) service_accounts: BTreeMap<Key, ServiceAccount>,
    /// Keys and values of config maps.
    pub(crate) config_maps: BTreeMap<Key, BTreeMap<String, Vec<u8>>>,
    /// Keys and values of secrets.
    pub(crate) secrets: BTreeMap<Key, BTreeMap<String, Vec<u8>>>,
    /// Sentences about what is not honoured.
    pub(crate) warnings: BTreeSet<String>,
}

impl Manifests {
    /// Reads all sources.
    ///
    /// # Errors
    /// A file that can't be read, is no manifest, or asks for what can't run.
    pub(crate) fn read(sources: &[Source], namespace: &str) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for source in sources {
            match source {
                Source::Text { name, text } => all.add_text(name, text, namespace)?,
                Source::Path(path) if path.is_dir() => all.add_dir(path, namespace)?,
                Source::Path(path) => all.add_file(path, namespace)?,
            }
        }
        if all.workloads.is_empty() {
            let names: Vec<_> = sources.iter().map(Source::name).collect();
            all.warnings.insert(format!(
                "nothing runs: there is no Deployment, StatefulSet, DaemonSet, Job or Pod in {}",
                names.join(" and ")
            ));
        }
        let unreachable = names::services_without_pods(&all);
        all.warnings.extend(unreachable);
        all.declare_defaults();
        all.check_addresses()?;
        Ok(all)
    }

    fn add_dir(&mut self, dir: &Path, namespace: &str) -> anyhow::Result<()> {
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.with_context(|| format!("cannot read {}", dir.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let suffix = path.extension().unwrap_or_default().to_string_lossy();
            if matches!(&*suffix, "yaml" | "yml" | "json") {
                self.add_file(&path, namespace)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, namespace: &str) -> anyhow::Result<()> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        self.add_text(&path.display().to_string(), &text, namespace)
    }

    fn add_text(&mut self, name: &str, text: &str, namespace: &str) -> anyhow::Result<()> {
        let documents: Vec<Value> = if text.trim_start().starts_with('{') {
            serde_json::Deserializer::from_str(text)
                .into_iter()
                .collect::<Result<_, _>>()
                .with_context(|| format!("{name} is not valid JSON"))?
        } else {
            // One line: the error's own words come with a picture of the place.
            serde_saphyr::from_multiple(text)
                .map_err(|error| anyhow!("{name} is not valid YAML: {}", error.without_snippet()))?
        };
        for document in documents {
            self.add(document, namespace)
                .with_context(|| format!("in {name}"))?;
        }
        Ok(())
    }

    fn add(&mut self, mut object: Value, namespace: &str) -> anyhow::Result<()> {
        if object.is_null() {
            return Ok(());
        }
        let kind = text(&object, "/kind")
            .context("an object has no kind: is it a Kubernetes manifest?")?;
        if kind == "List" || object.pointer("/items").is_some_and(Value::is_array) {
            if let Some(Value::Array(items)) = object.get_mut("items").map(Value::take) {
                for item in items {
                    self.add(item, namespace)?;
                }
            }
            return Ok(());
        }
        let name = text(&object, "/metadata/name")
            .with_context(|| format!("a {kind} has no metadata.name"))?;
        let namespace = text(&object, "/metadata/namespace").unwrap_or_else(|| namespace.into());
        let title = format!("{}/{name}", kind.to_lowercase());
        if kind != "Namespace" {
            object["metadata"]["namespace"] = namespace.clone().into();
            self.namespaces.entry(namespace.clone()).or_default();
        }
        let before = self.warnings.len();
        honoured::check(&kind, &title, &object, &mut self.warnings);
        let key = (namespace.clone(), name.clone());
        let twice = || {
            format!(
                "{title} is there twice in namespace {namespace}: give one of them another name"
            )
        };
        if RUN.contains(&kind.as_str()) {
            names::label(&namespace)
                .with_context(|| format!("{title}: namespace {namespace:?}"))?;
            names::subdomain(&name).with_context(|| format!("{kind} {name:?}"))?;
        }
        match kind.as_str() {
            "Namespace" => {
                let declared: Namespace = typed(object, &title)?;
                self.namespaces
                    .entry(name)
                    .or_default()
                    .merge_from(declared);
            }
            "Service" => {
                let service = typed(object, &title)?;
                names::service(&service).with_context(|| title.clone())?;
                ensure!(self.services.insert(key, service).is_none(), twice());
            }
            "ServiceAccount" => {
                let account = typed(object, &title)?;
                ensure!(
                    self.service_accounts.insert(key, account).is_none(),
                    twice()
                );
            }
            "ConfigMap" => {
                let map: ConfigMap = typed(object, &title)?;
                let text = map.data.unwrap_or_default().into_iter();
                let mut data: BTreeMap<_, _> = text.map(|(k, v)| (k, v.into_bytes())).collect();
                data.extend(
                    map.binary_data
                        .unwrap_or_default()
                        .into_iter()
                        .map(|(k, v)| (k, v.0)),
                );
                ensure!(self.config_maps.insert(key, data).is_none(), twice());
            }
            "Secret" => {
                let secret: Secret = typed(object, &title)?;
                let bytes = secret.data.unwrap_or_default().into_iter();
                let mut data: BTreeMap<_, _> = bytes.map(|(k, v)| (k, v.0)).collect();
                let text = secret.string_data.unwrap_or_default().into_iter();
                data.extend(text.map(|(k, v)| (k, v.into_bytes())));
                ensure!(self.secrets.insert(key, data).is_none(), twice());
            }
            _ => match Kind::of(&kind) {
                Some(kind) => {
                    let workload = Workload::parse(kind, &namespace, object)
                        .with_context(|| format!("{title} can't run"))?;
                    let key = (kind, namespace.clone(), name);
                    ensure!(self.workloads.insert(key, workload).is_none(), twice());
                }
                None if self.warnings.len() == before => {
                    self.warnings.insert(format!(
                        "{title} is ignored: its kind is not run on one machine"
                    ));
                }
                None => {}
            },
        }
        Ok(())
    }

    /// Service accounts and namespaces that are used exist, as on a cluster.
    fn declare_defaults(&mut self) {
        for (name, namespace) in &mut self.namespaces {
            namespace.metadata.name = Some(name.clone());
            self.service_accounts
                .entry((name.clone(), "default".into()))
                .or_default();
        }
        let used: Vec<Key> = self
            .workloads
            .values()
            .map(|w| (w.namespace.clone(), w.template.service_account.clone()))
            .collect();
        for key in used {
            if !self.service_accounts.contains_key(&key) {
                self.warnings.insert(format!(
                    "serviceaccount/{} in {} is used but not declared; a cluster would refuse its pods",
                    key.1, key.0
                ));
                self.service_accounts.insert(key, ServiceAccount::default());
            }
        }
        for ((namespace, name), account) in &mut self.service_accounts {
            account.metadata.name = Some(name.clone());
            account.metadata.namespace = Some(namespace.clone());
        }
    }

    /// ClusterIPs that manifests choose must be in the range, and chosen once.
    fn check_addresses(&self) -> anyhow::Result<()> {
        let mut taken = BTreeMap::new();
        for ((namespace, name), service) in &self.services {
            let Some(address) = service
                .spec
                .as_ref()
                .and_then(|spec| spec.cluster_ip.as_deref())
            else {
                continue;
            };
            if address.is_empty() || address == "None" {
                continue;
            }
            let parsed: Ipv4Addr = address.parse().with_context(|| {
                format!("service/{name}: spec.clusterIP {address:?} is not an IPv4 address")
            })?;
            if parsed.octets()[..2] != [10, 96] || parsed == super::network::DNS {
                bail!(
                    "service/{name}: spec.clusterIP {address} must be in 10.96.0.0/16 (and not the name server's 10.96.0.10); leave it out to have one chosen"
                );
            }
            if let Some(other) = taken.insert(parsed, (namespace, name)) {
                bail!(
                    "service/{name}: spec.clusterIP {address} is taken by service/{}",
                    other.1
                );
            }
        }
        Ok(())
    }
}

fn typed<T: DeserializeOwned>(object: Value, title: &str) -> anyhow::Result<T> {
    serde_json::from_value(object).with_context(|| format!("{title} is not valid"))
}

fn text(object: &Value, pointer: &str) -> Option<String> {
    object.pointer(pointer)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
