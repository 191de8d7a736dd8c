//! What the index keeps of each object: only what it answers from, so that an update that changes nothing
//! else (a status heartbeat, an annotation of somebody else) compares equal and costs nothing.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use mesh_api::{names, v1};

use super::protocol::Ports;

/// A namespaced object's name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in it.
    pub name: Arc<str>,
}

impl Name {
    /// A name of borrowed parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A namespace.
#[derive(Debug, PartialEq)]
pub(super) struct Namespace {
    /// `None`: it has no such annotation.
    pub(super) opaque: Option<Ports>,
}

/// A pod.
#[derive(Debug, PartialEq)]
pub struct Pod {
    /// Addresses of its own: none once it has finished, none if it shares its node's.
    pub ips: Vec<IpAddr>,
    /// A proxy is beside it.
    pub meshed: bool,
    /// Name of its service account.
    pub service_account: String,
    /// What it is a part of.
    pub workload: v1::Workload,
    /// Its containers have ended for good.
    pub finished: bool,
    pub(super) zone: String,
    pub(super) opaque: Option<Ports>,
    /// Ports that its proxy does not see: to be dialled in clear.
    pub(super) skipped: Ports,
    /// TCP ports that its containers declare.
    pub(super) ports: Vec<u16>,
    pub(super) terminating: bool,
    /// Seconds since the Unix epoch.
    pub(super) created: i64,
}

/// A Service.
#[derive(Debug, PartialEq)]
pub struct Service {
    pub(super) cluster_ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    pub(super) opaque: Option<Ports>,
}

/// A TCP port of a Service.
#[derive(Debug, PartialEq)]
pub struct ServicePort {
    /// Empty where the Service has one port without a name.
    pub(super) name: String,
    /// The port that clients dial.
    pub port: u16,
    pub(super) app_protocol: Option<String>,
}

/// A part of a Service's endpoints.
#[derive(Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) service: Name,
    /// Name of the service's port, and the port on the endpoints.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, PartialEq)]
pub(super) struct SliceEndpoint {
    pub(super) ip: IpAddr,
    /// The pod that it says it is.
    pub(super) pod: Option<Name>,
    /// May be sent new connections.
    pub(super) usable: bool,
    pub(super) zone: String,
}

impl From<&core::Namespace> for Namespace {
    fn from(namespace: &core::Namespace) -> Self {
        Self {
            opaque: ports(&namespace.metadata, names::ANNOTATION_OPAQUE_PORTS),
        }
    }
}

impl From<&core::Pod> for Pod {
    fn from(pod: &core::Pod) -> Self {
        let meta = &pod.metadata;
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let finished = status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
        let on_host = spec.is_some_and(|spec| spec.host_network == Some(true));
        let mut ips = Vec::new();
        if let Some(status) = status.filter(|_| !finished && !on_host) {
            let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            for ip in listed
                .chain(status.pod_ip.as_deref())
                .filter_map(|ip| ip.parse().ok())
            {
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
        }
        let containers = spec.iter().flat_map(|spec| {
            // A native sidecar is an init container that keeps running; the others serve nobody.
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(sidecars)
        });
        let ports_of = containers.flat_map(|container| container.ports.iter().flatten());
        let default_skips = || {
            let all = names::DEFAULT_SKIP_PORTS.map(|port| port.to_string());
            Ports::parse(&all.join(",")).0
        };
        Self {
            ips,
            meshed: annotation(meta, names::ANNOTATION_PROXY) == Some("true"),
            service_account: spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".into()),
            workload: workload(meta),
            finished,
            zone: label(meta, "topology.kubernetes.io/zone")
                .unwrap_or_default()
                .into(),
            opaque: ports(meta, names::ANNOTATION_OPAQUE_PORTS),
            skipped: ports(meta, names::ANNOTATION_SKIP_INBOUND_PORTS)
                .unwrap_or_else(default_skips),
            ports: ports_of
                .filter(|port| is_tcp(port.protocol.as_deref()))
                .filter_map(|port| u16::try_from(port.container_port).ok())
                .collect(),
            terminating: meta.deletion_timestamp.is_some(),
            created: meta
                .creation_timestamp
                .as_ref()
                .map_or(0, |at| at.0.as_second()),
        }
    }
}

impl From<&core::Service> for Service {
    fn from(service: &core::Service) -> Self {
        let spec = service.spec.as_ref();
        let mut cluster_ips = Vec::new();
        // Headless Services say "None", which is not an address.
        let listed = spec
            .iter()
            .flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
        for ip in listed.filter_map(|ip| ip.parse().ok()) {
            if !cluster_ips.contains(&ip) {
                cluster_ips.push(ip);
            }
        }
        let ports_of = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        Self {
            cluster_ips,
            ports: ports_of
                .filter(|port| is_tcp(port.protocol.as_deref()))
                .filter_map(|port| {
                    Some(ServicePort {
                        name: port.name.clone().unwrap_or_default(),
                        port: u16::try_from(port.port).ok()?,
                        app_protocol: port.app_protocol.clone(),
                    })
                })
                .collect(),
            opaque: ports(&service.metadata, names::ANNOTATION_OPAQUE_PORTS),
        }
    }
}

impl Slice {
    /// `None` if it belongs to no Service or has no IP addresses (address type FQDN).
    pub(super) fn of(slice: &discovery::EndpointSlice) -> Option<Self> {
        let meta = &slice.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let service = label(meta, "kubernetes.io/service-name")?;
        let ports_of = slice
            .ports
            .iter()
            .flatten()
            .filter(|port| is_tcp(port.protocol.as_deref()));
        let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let pod = endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"));
            Some(SliceEndpoint {
                // "Consumers should only use the first" (API reference of EndpointSlice).
                ip: endpoint.addresses.first()?.parse().ok()?,
                pod: pod.map(|target| {
                    let namespace = target.namespace.as_deref().unwrap_or(namespace);
                    Name::new(namespace, target.name.as_deref().unwrap_or_default())
                }),
                // Absent means ready. A terminating endpoint that still serves is left out even if it is the
                // last one (unlike KEP-1669): its proxy drains, and clients wait for a new endpoint instead.
                usable: conditions.ready != Some(false) && conditions.terminating != Some(true),
                zone: endpoint.zone.clone().unwrap_or_default(),
            })
        });
        (slice.address_type != "FQDN").then(|| Self {
            service: Name::new(namespace, service),
            ports: ports_of
                .filter_map(|port| {
                    let number = u16::try_from(port.port?).ok()?;
                    Some((port.name.clone().unwrap_or_default(), number))
                })
                .collect(),
            endpoints: endpoints.collect(),
        })
    }
}

/// The controller that owns the pod; a ReplicaSet stands for its Deployment.
fn workload(meta: &ObjectMeta) -> v1::Workload {
    let owner = meta
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    let owner = owner.or_else(|| meta.owner_references.iter().flatten().next());
    let (kind, name) = match owner {
        None => ("pod".into(), meta.name.clone().unwrap_or_default()),
        Some(owner) => {
            let hash = label(meta, "pod-template-hash");
            let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
            match deployment {
                Some(name) if owner.kind == "ReplicaSet" => ("deployment".into(), name.to_owned()),
                _ => (owner.kind.to_ascii_lowercase(), owner.name.clone()),
            }
        }
    };
    v1::Workload {
        namespace: meta.namespace.clone().unwrap_or_else(|| "default".into()),
        kind,
        name,
    }
}

fn ports(meta: &ObjectMeta, annotation_name: &str) -> Option<Ports> {
    let text = annotation(meta, annotation_name)?;
    let (ports, bad) = Ports::parse(text);
    if !bad.is_empty() {
        tracing::warn!(
            namespace = meta.namespace,
            name = meta.name,
            annotation = annotation_name,
            ?bad,
            "these are not ports (such as 25 or 9000-9010) and are ignored"
        );
    }
    Some(ports)
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    value(meta.annotations.as_ref(), name)
}

fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    value(meta.labels.as_ref(), name)
}

fn value<'a>(map: Option<&'a BTreeMap<String, String>>, name: &str) -> Option<&'a str> {
    map?.get(name).map(String::as_str)
}

/// Absent means TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}
