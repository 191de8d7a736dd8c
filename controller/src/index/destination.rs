//! The answer about one destination, and the difference between two answers.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use mesh_api::v1::{self, destination, discovery_update};

use super::locality::{Locality, Place};

/// What a proxy needs to reach one `ip:port`. Endpoints are kept as they travel.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// What the proxy asked about.
    pub address: SocketAddr,
    /// What it is.
    pub kind: Kind,
    /// What is known of its bytes.
    pub protocol: v1::Protocol,
    /// Where to send them.
    pub endpoints: BTreeMap<SocketAddr, v1::Endpoint>,
    /// Which clients are told of which endpoint.
    pub locality: Locality,
}

/// What an address belongs to.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A Service's ClusterIP.
    Service(v1::ServicePort),
    /// A pod's own address.
    Pod(v1::Workload),
    /// Nothing that the mesh knows.
    Outside,
}

/// A watched destination is no longer what it was.
#[derive(Debug)]
pub struct Change {
    /// The last snapshot.
    pub before: Arc<Destination>,
    /// The new one.
    pub after: Arc<Destination>,
    /// How to get from one to the other; `None` when only the whole state will do.
    pub delta: Option<Arc<Delta>>,
}

/// Endpoints that changed.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Delta {
    /// Added or changed.
    pub upsert: Vec<v1::Endpoint>,
    /// Gone.
    pub remove: Vec<SocketAddr>,
}

impl Destination {
    /// What a client at `place` is told.
    pub fn within(self: &Arc<Self>, place: &Place) -> Arc<Self> {
        let Some(chosen) = self.locality.endpoints(place) else {
            return Arc::clone(self);
        };
        let endpoints = self.endpoints.iter();
        let endpoints = endpoints.filter(|(at, _)| chosen.contains(at));
        Arc::new(Self {
            address: self.address,
            kind: self.kind.clone(),
            protocol: self.protocol,
            endpoints: endpoints
                .map(|(at, endpoint)| (*at, endpoint.clone()))
                .collect(),
            locality: Locality::default(),
        })
    }

    /// The whole state, as it travels.
    pub fn update(&self) -> discovery_update::Kind {
        let kind = match &self.kind {
            Kind::Service(service) => destination::Kind::Service(service.clone()),
            Kind::Pod(workload) => destination::Kind::Pod(workload.clone()),
            Kind::Outside => destination::Kind::Outside(v1::Outside {}),
        };
        discovery_update::Kind::Destination(v1::Destination {
            address: Some(self.address.into()),
            protocol: self.protocol.into(),
            endpoints: self.endpoints.values().cloned().collect(),
            kind: Some(kind),
        })
    }

    /// What turns `self` into `after`; `None` if the destination is another kind of thing, or if the delta
    /// would say more than the whole state.
    pub fn delta_to(&self, after: &Self) -> Option<Delta> {
        if (&self.kind, self.protocol) != (&after.kind, after.protocol) {
            return None;
        }
        let changed = after
            .endpoints
            .iter()
            .filter(|(at, endpoint)| self.endpoints.get(at) != Some(endpoint));
        let gone = self
            .endpoints
            .keys()
            .filter(|at| !after.endpoints.contains_key(at));
        let delta = Delta {
            upsert: changed.map(|(_, endpoint)| endpoint.clone()).collect(),
            remove: gone.copied().collect(),
        };
        (delta.upsert.len() + delta.remove.len() <= after.endpoints.len().max(1)).then_some(delta)
    }
}

impl Change {
    pub(super) fn new(before: Arc<Destination>, after: Arc<Destination>) -> Self {
        let delta = before.delta_to(&after).map(Arc::new);
        Self {
            before,
            after,
            delta,
        }
    }
}

impl Delta {
    /// As it travels.
    pub fn update(&self, address: SocketAddr) -> discovery_update::Kind {
        discovery_update::Kind::Delta(v1::DestinationDelta {
            address: Some(address.into()),
            upsert: self.upsert.clone(),
            remove: self.remove.iter().map(|at| (*at).into()).collect(),
        })
    }
}
