//! The pure heart of discovery: objects in, versioned snapshots and per-destination deltas out. No I/O.
//!
//! Only destinations and pods that somebody watches have a snapshot. When an object changes, [`Objects`] says
//! which addresses and pods that can touch; the watched ones among them are resolved again, and those that
//! really differ are reported as a [`Changes`]. Resolving is the same function that answers a new watcher, so
//! incremental updates and a fresh start can't disagree.

mod destination;
mod links;
mod locality;
mod objects;
mod owner;
mod protocol;
mod record;
mod resolve;
mod slice;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_api::v1;

pub use destination::{Change, Delta, Destination, Kind};
pub use locality::{Locality, Place};
pub use objects::Objects;
pub(crate) use protocol::Ports;
pub use record::{Name, Pod, Service};

use crate::source::Event;

/// Objects, and the snapshots of what is watched.
pub struct Index {
    objects: Objects,
    destinations: HashMap<IpAddr, HashMap<u16, Arc<Destination>>>,
    inbounds: HashMap<Name, Arc<v1::Inbound>>,
}

/// What one event changed for those who watch.
#[derive(Debug, Default)]
pub struct Changes {
    /// Destinations, each with its state before and after.
    pub destinations: Vec<Change>,
    /// Pods whose inbound policy is now another.
    pub inbounds: Vec<(Name, Arc<v1::Inbound>)>,
}

impl Index {
    /// An empty index; identities are made in `trust_domain`.
    pub fn new(trust_domain: &str) -> Self {
        Self {
            objects: Objects::new(trust_domain),
            destinations: HashMap::new(),
            inbounds: HashMap::new(),
        }
    }

    /// Takes one step of the source.
    pub fn apply(&mut self, event: Event) -> Changes {
        let mut touched = self.objects.apply(event);
        let mut changes = Changes::default();
        for ip in touched.ips {
            for (port, snapshot) in self.destinations.get_mut(&ip).into_iter().flatten() {
                let after = self.objects.destination(SocketAddr::new(ip, *port));
                if after != **snapshot {
                    let after = Arc::new(after);
                    let before = std::mem::replace(snapshot, Arc::clone(&after));
                    changes.destinations.push(Change::new(before, after));
                }
            }
        }
        if let Some(namespace) = touched.namespace {
            let within = |pod: &&Name| *pod.namespace == *namespace;
            touched
                .pods
                .extend(self.inbounds.keys().filter(within).cloned());
        }
        for pod in touched.pods {
            if let Some(before) = self.inbounds.get_mut(&pod) {
                let after = self.objects.inbound(&pod);
                if after != **before {
                    *before = Arc::new(after);
                    changes.inbounds.push((pod, Arc::clone(before)));
                }
            }
        }
        changes
    }

    /// The state of a destination; from now on [`Index::apply`] reports its changes.
    pub fn watch_destination(&mut self, address: SocketAddr) -> Arc<Destination> {
        let ports = self.destinations.entry(address.ip()).or_default();
        let snapshot = ports
            .entry(address.port())
            .or_insert_with(|| Arc::new(self.objects.destination(address)));
        Arc::clone(snapshot)
    }

    /// Nobody watches this destination any more.
    pub fn forget_destination(&mut self, address: SocketAddr) {
        if let Some(ports) = self.destinations.get_mut(&address.ip()) {
            ports.remove(&address.port());
            if ports.is_empty() {
                self.destinations.remove(&address.ip());
            }
        }
    }

    /// The inbound policy of a pod, also of one that is not known yet; changes are reported from now on.
    pub fn watch_inbound(&mut self, pod: &Name) -> Arc<v1::Inbound> {
        let snapshot = self
            .inbounds
            .entry(pod.clone())
            .or_insert_with(|| Arc::new(self.objects.inbound(pod)));
        Arc::clone(snapshot)
    }

    /// Nobody watches this pod any more.
    pub fn forget_inbound(&mut self, pod: &Name) {
        self.inbounds.remove(pod);
    }

    /// What is known, for those who ask once.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }
}

#[cfg(test)]
mod tests;
