//! What one proxy has still to be told: bounded by what it watches, however slow it is.
//!
//! Per destination the outbox holds what the proxy was told last and what is true now, both shared snapshots.
//! Deltas are made when the proxy takes them, so that ten changes that it was too slow for become one. There, too,
//! endpoints that are meant for clients elsewhere are left out.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use mesh_api::v1::{DiscoveryUpdate, Inbound, TrustBundle, discovery_update};

use crate::index::{Change, Delta, Destination, Place};

#[derive(Default)]
pub(super) struct Outbox {
    version: u64,
    bundle: Option<TrustBundle>,
    inbound: Option<Arc<Inbound>>,
    /// Where the proxy is.
    place: Place,
    watched: HashMap<SocketAddr, Watched>,
    /// Destinations of which the proxy does not have the current state, each once.
    stale: VecDeque<SocketAddr>,
}

struct Watched {
    /// What the proxy has; `None`: nothing, it needs the whole state.
    told: Option<Arc<Destination>>,
    current: Arc<Destination>,
    /// From `told` to `current`, where somebody has worked it out already.
    delta: Option<Arc<Delta>>,
    queued: bool,
    /// Version of the last update about it, and whether that was a delta.
    sent: (u64, bool),
}

impl Outbox {
    pub(super) fn bundle(&mut self, bundle: TrustBundle) {
        self.bundle = Some(bundle);
    }

    pub(super) fn inbound(&mut self, inbound: Arc<Inbound>) {
        let place = Place {
            node: inbound.node.clone(),
            zone: inbound.zone.clone(),
        };
        if self.place != place {
            self.place = place;
            // What the proxy was told of these destinations was for clients elsewhere.
            for (address, watched) in &mut self.watched {
                let told = watched.told.take_if(|told| !told.locality.is_everywhere());
                if told.is_some() && !std::mem::replace(&mut watched.queued, true) {
                    self.stale.push_back(*address);
                }
            }
        }
        self.inbound = Some(inbound);
    }

    /// Also a repeated subscription is answered by the whole state.
    pub(super) fn subscribe(&mut self, current: Arc<Destination>) {
        let address = current.address;
        let queued = self
            .watched
            .get(&address)
            .is_some_and(|watched| watched.queued);
        if !queued {
            self.stale.push_back(address);
        }
        let watched = Watched {
            told: None,
            current,
            delta: None,
            queued: true,
            sent: (0, false),
        };
        self.watched.insert(address, watched);
    }

    pub(super) fn unsubscribe(&mut self, address: SocketAddr) {
        if self
            .watched
            .remove(&address)
            .is_some_and(|watched| watched.queued)
        {
            self.stale.retain(|stale| *stale != address);
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        let address = change.after.address;
        let Some(watched) = self.watched.get_mut(&address) else {
            return;
        };
        let follows = watched
            .told
            .as_ref()
            .is_some_and(|told| Arc::ptr_eq(told, &change.before));
        let for_all = [&change.before, &change.after]
            .iter()
            .all(|it| it.locality.is_everywhere());
        watched.delta = change.delta.clone().filter(|_| follows && for_all);
        watched.current = Arc::clone(&change.after);
        if !std::mem::replace(&mut watched.queued, true) {
            self.stale.push_back(address);
        }
    }

    /// An update can't be used. If it was a delta, the whole state may do; if it was that, nothing will.
    pub(super) fn refused(&mut self, version: u64) {
        for (address, watched) in &mut self.watched {
            if watched.sent == (version, true) {
                watched.told = None;
                if !std::mem::replace(&mut watched.queued, true) {
                    self.stale.push_back(*address);
                }
            }
        }
    }

    /// The next update, the most important first.
    pub(super) fn next(&mut self) -> Option<DiscoveryUpdate> {
        if let Some(bundle) = self.bundle.take() {
            return Some(self.numbered(discovery_update::Kind::Bundle(bundle)));
        }
        if let Some(inbound) = self.inbound.take() {
            let inbound = Arc::unwrap_or_clone(inbound);
            return Some(self.numbered(discovery_update::Kind::Inbound(inbound)));
        }
        while let Some(address) = self.stale.pop_front() {
            // Invariant: what is stale is watched.
            let Some(watched) = self.watched.get_mut(&address) else {
                continue;
            };
            watched.queued = false;
            let told = watched.told.replace(Arc::clone(&watched.current));
            let current = watched.current.within(&self.place);
            let delta = watched.delta.take();
            let delta = match told {
                Some(told) if delta.is_none() => {
                    told.within(&self.place).delta_to(&current).map(Arc::new)
                }
                _ => delta,
            };
            // It went there and back while the proxy was busy.
            if delta
                .as_ref()
                .is_some_and(|delta| delta.upsert.is_empty() && delta.remove.is_empty())
            {
                continue;
            }
            watched.sent = (self.version + 1, delta.is_some());
            let update = match delta {
                Some(delta) => delta.update(address),
                None => current.update(),
            };
            return Some(self.numbered(update));
        }
        None
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.watched.len()
    }

    /// Forgets everything; returns what was watched.
    pub(super) fn clear(&mut self) -> Vec<SocketAddr> {
        self.stale.clear();
        self.watched.drain().map(|(address, _)| address).collect()
    }

    fn numbered(&mut self, kind: discovery_update::Kind) -> DiscoveryUpdate {
        self.version += 1;
        DiscoveryUpdate {
            version: self.version,
            kind: Some(kind),
        }
    }
}

#[cfg(test)]
mod tests;
