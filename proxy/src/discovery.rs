//! What the controller says of the world: destinations and their endpoints, and this pod's own ports.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_api::SpiffeId;
use mesh_api::v1::{Protocol, ServicePort, Workload};
use tokio::sync::watch;

/// What is known of one address that an app dialled.
#[derive(Clone, Debug)]
pub struct Destination {
    /// What was dialled.
    pub address: SocketAddr,
    /// What it is.
    pub kind: Kind,
    /// What is known of its bytes.
    pub protocol: Protocol,
    /// Where its traffic may go; empty for [`Kind::Outside`].
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What a destination is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A ClusterIP and port: balanced over the endpoints.
    Service(Arc<ServicePort>),
    /// A pod's own address: exactly one endpoint.
    Pod(Arc<Workload>),
    /// Neither: passed through unchanged.
    Outside,
}

/// One place where a destination's traffic may go.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Pod address and app port.
    pub address: SocketAddr,
    /// Relative share of the load; 0: nothing new.
    pub weight: u32,
    /// Who its certificate must name; None: not meshed, dialled in clear.
    pub identity: Option<SpiffeId>,
    /// What it is part of.
    pub workload: Arc<Workload>,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Topology zone, empty if unknown.
    pub zone: Arc<str>,
}

/// What is known of this pod.
#[derive(Clone, Debug, Default)]
pub struct Inbound {
    /// What this pod is part of.
    pub workload: Workload,
    /// Topology zone, empty if unknown.
    pub zone: String,
    /// Ports of which something is known.
    pub ports: HashMap<u16, InboundPort>,
}

/// What is known of one port of this pod.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPort {
    /// What is known of its bytes.
    pub protocol: Protocol,
    /// The Service in front of it.
    pub service: Option<Arc<ServicePort>>,
}

/// The proxy's view of the world. Cheap to clone; shared by all threads.
#[derive(Clone, Debug)]
pub struct Discovery {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    destinations: Mutex<HashMap<SocketAddr, watch::Sender<Option<Arc<Destination>>>>>,
    inbound: watch::Sender<Arc<Inbound>>,
}

impl Discovery {
    /// Knows nothing and asks nobody: every destination is outside.
    pub fn disconnected() -> Self {
        Self {
            shared: Arc::new(Shared {
                destinations: Mutex::default(),
                inbound: watch::Sender::new(Arc::default()),
            }),
        }
    }

    /// What is known of `address`, now and as it changes; None until the first answer.
    ///
    /// The first watch of an address subscribes to it. When no receiver has been left for 60 s, the
    /// subscription ends.
    pub fn watch(&self, address: SocketAddr) -> watch::Receiver<Option<Arc<Destination>>> {
        let mut destinations = self
            .shared
            .destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        destinations
            .entry(address)
            .or_insert_with(|| {
                watch::Sender::new(Some(Arc::new(Destination {
                    address,
                    kind: Kind::Outside,
                    protocol: Protocol::Detect,
                    endpoints: Vec::new(),
                })))
            })
            .subscribe()
    }

    /// What is known of this pod, now and as it changes.
    pub fn inbound(&self) -> watch::Receiver<Arc<Inbound>> {
        self.shared.inbound.subscribe()
    }
}
