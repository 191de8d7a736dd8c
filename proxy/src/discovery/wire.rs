//! The protobuf messages as types that cannot hold nonsense, and back again for the cache.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_api::{SpiffeId, SpiffeIdError, v1};
use v1::destination::Kind as WireKind;

use super::{Destination, Endpoint, Inbound, InboundPort, Kind};

/// A message that can't be understood.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum WireError {
    #[error("an address is missing")]
    NoAddress,
    #[error("an address is malformed: {0}")]
    Address(String),
    #[error("the kind of destination {0} is missing or unknown")]
    NoKind(SocketAddr),
    #[error("the identity of endpoint {address}: {source}")]
    Identity {
        address: SocketAddr,
        source: SpiffeIdError,
    },
    #[error("{0} is not a port")]
    Port(u32),
}

pub(super) fn address(address: Option<&v1::Address>) -> Result<SocketAddr, WireError> {
    SocketAddr::try_from(address.ok_or(WireError::NoAddress)?)
        .map_err(|error| WireError::Address(error.to_string()))
}

/// Endpoints come out ordered by address, one for each.
pub(super) fn destination(wire: v1::Destination) -> Result<Destination, WireError> {
    let address = address(wire.address.as_ref())?;
    let protocol = wire.protocol();
    let kind = match wire.kind {
        Some(WireKind::Service(service)) => Kind::Service(Arc::new(service)),
        Some(WireKind::Pod(workload)) => Kind::Pod(Arc::new(workload)),
        Some(WireKind::Outside(_)) => Kind::Outside,
        None => return Err(WireError::NoKind(address)),
    };
    let endpoints = wire.endpoints.into_iter().map(endpoint);
    let mut endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    Ok(Destination {
        address,
        kind,
        protocol,
        endpoints,
    })
}

pub(super) fn endpoint(wire: v1::Endpoint) -> Result<Arc<Endpoint>, WireError> {
    let address = address(wire.address.as_ref())?;
    let identity = match wire.identity.as_str() {
        "" => None,
        id => Some(
            id.parse::<SpiffeId>()
                .map_err(|source| WireError::Identity { address, source })?,
        ),
    };
    Ok(Arc::new(Endpoint {
        address,
        weight: wire.weight,
        identity,
        workload: Arc::new(wire.workload.unwrap_or_default()),
        pod: wire.pod.into(),
        zone: wire.zone.into(),
    }))
}

pub(super) fn inbound(wire: v1::Inbound) -> Result<Inbound, WireError> {
    let ports = wire.ports.into_iter().map(|port| {
        let number = u16::try_from(port.port).map_err(|_| WireError::Port(port.port))?;
        let protocol = port.protocol();
        Ok((
            number,
            InboundPort {
                protocol,
                service: port.service.map(Arc::new),
            },
        ))
    });
    Ok(Inbound {
        workload: wire.workload.unwrap_or_default(),
        zone: wire.zone,
        node: wire.node,
        ports: ports.collect::<Result<_, _>>()?,
    })
}

impl From<&Destination> for v1::Destination {
    fn from(destination: &Destination) -> Self {
        let kind = match &destination.kind {
            Kind::Service(service) => WireKind::Service(v1::ServicePort::clone(service)),
            Kind::Pod(workload) => WireKind::Pod(v1::Workload::clone(workload)),
            Kind::Outside => WireKind::Outside(v1::Outside {}),
        };
        Self {
            address: Some(destination.address.into()),
            kind: Some(kind),
            protocol: destination.protocol.into(),
            endpoints: destination
                .endpoints
                .iter()
                .map(|endpoint| (&**endpoint).into())
                .collect(),
        }
    }
}

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            address: Some(endpoint.address.into()),
            weight: endpoint.weight,
            identity: endpoint
                .identity
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            workload: Some(v1::Workload::clone(&endpoint.workload)),
            pod: endpoint.pod.to_string(),
            zone: endpoint.zone.to_string(),
        }
    }
}

impl From<&Inbound> for v1::Inbound {
    fn from(inbound: &Inbound) -> Self {
        let ports = inbound.ports.iter().map(|(number, port)| v1::InboundPort {
            port: u32::from(*number),
            protocol: port.protocol.into(),
            service: port.service.as_deref().cloned(),
        });
        Self {
            workload: Some(inbound.workload.clone()),
            ports: ports.collect(),
            zone: inbound.zone.clone(),
            node: inbound.node.clone(),
        }
    }
}
