//! What the controller says of the world: destinations and their endpoints, and this pod's own ports.
//!
//! In come addresses that apps dial, out come snapshots that change under their readers. One delta stream to
//! the controller feeds them ([`Stream`]); while it is gone, what was last known stays, also over a restart
//! ([`Cache`]), and also of addresses that were not used for so long that their subscription has ended. An
//! address that is not known yet has no snapshot: readers decide how long to wait.

#[cfg(feature = "bench")]
mod bench;
mod cache;
mod remembered;
mod stream;
mod wire;
mod world;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use cache::Cache;
use mesh_api::SpiffeId;
use mesh_api::v1::{Protocol, ServicePort, Workload};
pub use stream::Stream;
use tokio::sync::{mpsc, watch};
use world::World;

/// What is known of one address that an app dialled.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// What was dialled.
    pub address: SocketAddr,
    /// What it is.
    pub kind: Kind,
    /// What is known of its bytes.
    pub protocol: Protocol,
    /// Where its traffic may go, by address; empty for [`Kind::Outside`]. Endpoints that did not change keep
    /// their `Arc` from one snapshot to the next.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// What a destination is.
#[derive(Clone, Debug, PartialEq)]
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
    /// Who its certificate must name. None: dialled in clear, since it is not meshed, or is this pod itself,
    /// whose connections to itself go over the loopback interface and meet no proxy.
    pub identity: Option<SpiffeId>,
    /// What it is part of.
    pub workload: Arc<Workload>,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// Topology zone, empty if unknown.
    pub zone: Arc<str>,
}

/// What is known of this pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inbound {
    /// What this pod is part of.
    pub workload: Workload,
    /// Topology zone, empty if unknown.
    pub zone: String,
    /// The node that the pod is on, empty if unknown.
    pub node: String,
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
    world: Mutex<World>,
    /// Addresses met for the first time, for the stream. None: nobody to ask.
    met: Option<mpsc::UnboundedSender<SocketAddr>>,
    inbound: watch::Receiver<Arc<Inbound>>,
    connected: watch::Sender<bool>,
}

/// Addresses that were met for the first time, in order.
pub(crate) type Met = mpsc::UnboundedReceiver<SocketAddr>;

impl Discovery {
    /// Knows nothing and asks nobody: every destination is outside.
    pub fn disconnected() -> Self {
        Self::with(World::default(), None)
    }

    /// Asks a controller, through a [`Stream`] that has to be run. `namespace` and `pod` are this proxy's.
    pub(crate) fn connected_by_stream(namespace: &str, pod: &str) -> (Self, Met) {
        let (sender, met) = mpsc::unbounded_channel();
        (Self::with(World::new(namespace, pod), Some(sender)), met)
    }

    fn with(world: World, met: Option<mpsc::UnboundedSender<SocketAddr>>) -> Self {
        let shared = Shared {
            inbound: world.inbound(),
            world: Mutex::new(world),
            met,
            connected: watch::Sender::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What is known of `address`, now and as it changes; None until the first answer.
    ///
    /// The first watch of an address subscribes to it. When no receiver has been left for 60 s, the
    /// subscription ends. Resolve once per destination, not per request: this takes a lock.
    pub fn watch(&self, address: SocketAddr) -> watch::Receiver<Option<Arc<Destination>>> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut world = self.world();
        let (receiver, is_new) = world.watch(address, Instant::now());
        if is_new && !self.is_connected() {
            world.recall(address);
        }
        match &self.shared.met {
            // The stream may have ended with the process; nobody is left to ask then.
            Some(met) if is_new => drop(met.send(address)),
            Some(_) => {}
            None => world.set_outside(address),
        }
        receiver
    }

    /// The controller does not answer about `address`: its watchers get what was known when it was last
    /// watched. Returns whether anything is known of it.
    pub fn recall(&self, address: SocketAddr) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.world().recall(address)
    }

    /// What is known of this pod, now and as it changes.
    pub fn inbound(&self) -> watch::Receiver<Arc<Inbound>> {
        self.shared.inbound.clone()
    }

    /// Whether the controller is feeding this view now. If not, it is the last one known.
    pub fn is_connected(&self) -> bool {
        *self.shared.connected.borrow()
    }

    /// Everything that is known, ordered by address: for `/config`.
    pub fn destinations(&self) -> Vec<Arc<Destination>> {
        self.world().destinations()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // World's methods leave it whole wherever they panic; a poisoned lock is no reason to stop serving.
        self.shared
            .world
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
