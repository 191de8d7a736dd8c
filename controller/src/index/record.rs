//! What the index keeps of each object: only what it answers from, so that an update that changes nothing
//! else (a status heartbeat, an annotation of somebody else) compares equal and costs nothing.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use mesh_api::{names, v1};

use super::{
    owner::{self, Owner},
    protocol::Ports,
};

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
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Addresses of its own: none once it has finished, none if it shares its node's.
    pub ips: Vec<IpAddr>,
    /// A proxy is beside it.
    pub meshed: bool,
    /// Name of its service account.
    pub service_account: String,
    /// What it is a part of.
    pub workload: v1::Workload,
    /// An owner that may itself be a part of something.
    pub(super) owner: Option<Owner>,
    /// What it is a part of by its own account, where its owner knows better.
    workload_by_itself: Option<v1::Workload>,
    /// Its containers have ended for good.
    pub finished: bool,
    /// Empty while it has none.
    pub(super) node: String,
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
    /// Clients may use the endpoints of their own node only.
    pub(super) same_node: bool,
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

impl Pod {
    /// What its owner says that the pod is a part of; `None`: no more than the pod itself.
    pub(super) fn set_owners_workload(&mut self, top: Option<v1::Workload>) {
        if let Some(own) = self.workload_by_itself.take() {
            self.workload = own;
        }
        if let Some(top) = top {
            self.workload_by_itself = Some(std::mem::replace(&mut self.workload, top));
        }
    }
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
            // Who answers at the node's address can't be told apart by it.
            meshed: annotation(meta, names::ANNOTATION_PROXY) == Some("true") && !on_host,
            service_account: spec
                .and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".into()),
            workload: owner::of_pod(meta),
            owner: Owner::of(meta),
            workload_by_itself: None,
            finished,
            node: spec
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default(),
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
        let policy = spec.and_then(|spec| spec.internal_traffic_policy.as_deref());
        Self {
            cluster_ips,
            same_node: policy == Some("Local"),
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

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    value(meta.annotations.as_ref(), name)
}

pub(super) fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    value(meta.labels.as_ref(), name)
}

fn value<'a>(map: Option<&'a BTreeMap<String, String>>, name: &str) -> Option<&'a str> {
    map?.get(name).map(String::as_str)
}

/// Absent means TCP.
pub(super) fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}
