//! What the index keeps of EndpointSlices.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as discovery;

use super::record::{Name, is_tcp, label};

/// A part of a Service's endpoints.
#[derive(Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) service: Name,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, PartialEq)]
pub(super) struct SlicePort {
    /// Name of the Service's port.
    pub(super) name: String,
    /// The port on the endpoints.
    pub(super) port: u16,
    pub(super) app_protocol: Option<String>,
}

#[derive(Debug, PartialEq)]
pub(super) struct SliceEndpoint {
    pub(super) ip: IpAddr,
    /// The pod that it says it is.
    pub(super) pod: Option<Name>,
    pub(super) state: State,
    pub(super) node: String,
    pub(super) zone: String,
    /// The nodes whose clients it is for.
    pub(super) for_nodes: Vec<String>,
    /// The zones whose clients it is for.
    pub(super) for_zones: Vec<String>,
}

/// Whether an endpoint may be sent new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// On its way out but still serving: better than nothing, where no endpoint is ready (KEP-1669).
    Terminating,
    Unusable,
}

impl Slice {
    /// `None` if it belongs to no Service or has no IP addresses (address type FQDN).
    pub(super) fn of(slice: &discovery::EndpointSlice) -> Option<Self> {
        let meta = &slice.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let service = label(meta, "kubernetes.io/service-name")?;
        let ports = slice.ports.iter().flatten();
        let endpoints = slice.endpoints.iter().flatten();
        (slice.address_type != "FQDN").then(|| Self {
            service: Name::new(namespace, service),
            ports: ports.filter_map(SlicePort::of).collect(),
            endpoints: endpoints
                .filter_map(|endpoint| SliceEndpoint::of(endpoint, namespace))
                .collect(),
        })
    }
}

impl SlicePort {
    fn of(port: &discovery::EndpointPort) -> Option<Self> {
        if !is_tcp(port.protocol.as_deref()) {
            return None;
        }
        Some(Self {
            name: port.name.clone().unwrap_or_default(),
            port: u16::try_from(port.port?).ok()?,
            app_protocol: port.app_protocol.clone(),
        })
    }
}

impl SliceEndpoint {
    fn of(endpoint: &discovery::Endpoint, namespace: &str) -> Option<Self> {
        let pod = endpoint.target_ref.as_ref();
        let pod = pod.filter(|target| target.kind.as_deref() == Some("Pod"));
        let hints = endpoint.hints.as_ref();
        let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
        let zones = hints.and_then(|hints| hints.for_zones.as_ref());
        Some(Self {
            // "Consumers should only use the first" (API reference of EndpointSlice).
            ip: endpoint.addresses.first()?.parse().ok()?,
            pod: pod.map(|target| {
                let namespace = target.namespace.as_deref().unwrap_or(namespace);
                Name::new(namespace, target.name.as_deref().unwrap_or_default())
            }),
            state: State::of(endpoint.conditions.as_ref()),
            node: endpoint.node_name.clone().unwrap_or_default(),
            zone: endpoint.zone.clone().unwrap_or_default(),
            for_nodes: nodes
                .into_iter()
                .flatten()
                .map(|node| node.name.clone())
                .collect(),
            for_zones: zones
                .into_iter()
                .flatten()
                .map(|zone| zone.name.clone())
                .collect(),
        })
    }
}

impl State {
    /// As the API reference of EndpointConditions says: absent `ready` means ready, absent `serving` means as ready.
    /// An endpoint that terminates and is ready all the same is of a Service that publishes addresses that are not
    /// ready.
    fn of(conditions: Option<&discovery::EndpointConditions>) -> Self {
        let ready = conditions.and_then(|it| it.ready).unwrap_or(true);
        let serving = conditions.and_then(|it| it.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|it| it.terminating).unwrap_or_default();
        match (ready, serving && terminating) {
            (true, _) => Self::Ready,
            (false, true) => Self::Terminating,
            (false, false) => Self::Unusable,
        }
    }
}
