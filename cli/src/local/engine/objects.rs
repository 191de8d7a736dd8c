//! Kubernetes objects as files, for the controller: what the API server is on a cluster.
//!
//! One file each, replaced by renaming, so that a reader never sees half of one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::{
    api::{
        core::v1 as k8s,
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::services::ServiceView;

/// The files that are there.
#[derive(Debug)]
pub(super) struct Objects {
    dir: PathBuf,
    written: BTreeMap<String, Vec<u8>>,
}

/// The files that shall be there, by path below the folder.
#[derive(Debug, Default)]
pub(super) struct Wanted(BTreeMap<String, Vec<u8>>);

impl Wanted {
    /// Adds an object; `key` is "namespace.name", or "name" where there is no namespace.
    pub(super) fn add(&mut self, plural: &str, key: &str, object: &impl Serialize) {
        // Objects that came from JSON, or that are made here, can be JSON.
        let json = serde_json::to_vec_pretty(object).unwrap_or_default();
        self.0.insert(format!("{plural}/{key}.json"), json);
    }

    /// Adds a pod's token, by its hash.
    pub(super) fn token(&mut self, token: &str, namespace: &str, account: &str, pod: &str) {
        let digest = Sha256::digest(token);
        let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let claims =
            serde_json::json!({"namespace": namespace, "serviceAccount": account, "pod": pod});
        self.add("tokens", &hash, &claims);
    }
}

impl Objects {
    /// An empty folder.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn new(dir: PathBuf) -> io::Result<Self> {
        for plural in [
            "namespaces",
            "pods",
            "services",
            "endpointslices",
            "serviceaccounts",
            "tokens",
        ] {
            fs::create_dir_all(dir.join(plural))?;
        }
        Ok(Self {
            dir,
            written: BTreeMap::new(),
        })
    }

    /// Writes what differs, and removes what is no longer wanted.
    ///
    /// # Errors
    /// A file can't be written.
    pub(super) fn write(&mut self, wanted: Wanted) -> io::Result<()> {
        for (path, content) in &wanted.0 {
            if self.written.get(path) != Some(content) {
                replace(&self.dir.join(path), content)?;
            }
        }
        for path in self
            .written
            .keys()
            .filter(|path| !wanted.0.contains_key(*path))
        {
            match fs::remove_file(self.dir.join(path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.written = wanted.0;
        Ok(())
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // Hidden and without the suffix: whoever reads the folder skips it.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    fs::write(&temporary, content)?;
    fs::rename(temporary, path)
}

/// The Service with its address, as the API server would fill it in.
pub(super) fn service(service: &k8s::Service, view: &ServiceView) -> k8s::Service {
    let mut service = service.clone();
    service.metadata.namespace = Some(view.namespace.clone());
    let spec = service.spec.get_or_insert_default();
    let address = view
        .cluster_ip
        .map_or_else(|| "None".to_owned(), |ip| ip.to_string());
    spec.cluster_ips = Some(vec![address.clone()]);
    spec.cluster_ip = Some(address);
    spec.type_ = Some("ClusterIP".into());
    for port in spec.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
    }
    service
}

/// The slices of a Service: one for each set of target ports that its pods have.
pub(super) fn slices(view: &ServiceView) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<Vec<Option<u16>>, Vec<Endpoint>> = BTreeMap::new();
    for endpoint in &view.endpoints {
        groups
            .entry(endpoint.ports.clone())
            .or_default()
            .push(Endpoint {
                addresses: vec![endpoint.ip.to_string()],
                conditions: Some(EndpointConditions {
                    ready: Some(endpoint.ready),
                    serving: Some(endpoint.serving),
                    terminating: Some(endpoint.terminating),
                }),
                hostname: endpoint.hostname.clone(),
                node_name: Some(super::NODE_NAME.into()),
                target_ref: Some(k8s::ObjectReference {
                    kind: Some("Pod".into()),
                    namespace: Some(view.namespace.clone()),
                    name: Some(endpoint.pod.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            });
    }
    let slices = groups
        .into_iter()
        .enumerate()
        .map(|(index, (targets, endpoints))| {
            let ports = view.ports.iter().zip(targets).filter_map(|(port, target)| {
                Some(EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some(target?.into()),
                    protocol: Some(port.protocol.clone()),
                    app_protocol: port.app_protocol.clone(),
                })
            });
            EndpointSlice {
                address_type: "IPv4".into(),
                ports: Some(ports.collect()),
                endpoints: Some(endpoints),
                metadata: ObjectMeta {
                    name: Some(format!("{}-{index}", view.name)),
                    namespace: Some(view.namespace.clone()),
                    labels: Some(BTreeMap::from([
                        ("kubernetes.io/service-name".into(), view.name.clone()),
                        (
                            "endpointslice.kubernetes.io/managed-by".into(),
                            "mesh".into(),
                        ),
                    ])),
                    ..Default::default()
                },
            }
        });
    slices.collect()
}

/// A pod with its status.
pub(super) fn pod(pod: &super::PodRecord) -> k8s::Pod {
    let template = &pod.template;
    let owner = (pod.workload.kind != crate::local::manifest::Kind::Pod).then(|| OwnerReference {
        api_version: if pod.workload.kind == crate::local::manifest::Kind::Job {
            "batch/v1".into()
        } else {
            "apps/v1".into()
        },
        kind: pod.workload.kind.name().into(),
        name: pod.workload.name.clone(),
        uid: format!("{}-{}", pod.workload.namespace, pod.workload.name),
        controller: Some(true),
        ..Default::default()
    });
    let mut annotations = template.annotations.clone();
    annotations.remove(mesh_api::names::ANNOTATION_PROXY);
    if pod.meshed {
        annotations.insert(mesh_api::names::ANNOTATION_PROXY.into(), "true".into());
    }
    let ips = [pod.network.ip.to_string(), pod.network.ip6.to_string()];
    let ready = if pod.state.ready { "True" } else { "False" };
    let mut spec = template.spec.clone();
    spec.node_name = Some(super::NODE_NAME.into());
    spec.service_account_name = Some(template.service_account.clone());
    k8s::Pod {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.workload.namespace.clone()),
            uid: Some(pod.handle.uid.clone()),
            labels: Some(pod.labels.clone()),
            annotations: Some(annotations),
            owner_references: owner.map(|owner| vec![owner]),
            creation_timestamp: Some(Time(pod.created)),
            deletion_timestamp: pod.deleted.map(Time),
            ..Default::default()
        },
        spec: Some(spec),
        status: Some(k8s::PodStatus {
            phase: Some(pod.state.phase.name().into()),
            pod_ip: Some(ips[0].clone()),
            pod_ips: Some(ips.into_iter().map(|ip| k8s::PodIP { ip }).collect()),
            host_ip: Some(crate::local::network::NODE.to_string()),
            conditions: Some(vec![k8s::PodCondition {
                type_: "Ready".into(),
                status: ready.into(),
                ..Default::default()
            }]),
            ..Default::default()
        }),
    }
}
