//! The state machine: updates and addresses in, snapshots out. Pure: no I/O, no clock of its own.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_api::v1;
use tokio::sync::watch;

use super::remembered::Remembered;
use super::wire::{self, WireError};
use super::{Destination, Endpoint, Inbound, Kind};

/// How long an address that nobody watches stays subscribed.
const IDLE: Duration = Duration::from_secs(60);
/// The controller may send a few more deltas before it has read that an address is no longer wanted.
const REMEMBERED_DEPARTURES: usize = 256;

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct World {
    entries: BTreeMap<SocketAddr, Entry>,
    /// Services and pods that are no longer among the entries.
    remembered: Remembered,
    inbound: watch::Sender<Arc<Inbound>>,
    /// This pod: its endpoints are dialled in clear.
    namespace: String,
    pod: String,
    /// Addresses unsubscribed on the present stream.
    departed: VecDeque<SocketAddr>,
    /// Changed since [`World::take_changed`].
    changed: bool,
}

#[derive(Debug)]
struct Entry {
    answer: watch::Sender<Option<Arc<Destination>>>,
    /// Whether the present stream sent its whole state: only then deltas fit.
    is_current: bool,
    /// Since when it has been seen without a watcher.
    idle_since: Option<Instant>,
}

/// An update that can't be used; what was known stays.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum UpdateError {
    /// A field is malformed.
    #[error(transparent)]
    Malformed(#[from] WireError),
    /// Deltas need something that they change.
    #[error("a delta for {0}, whose whole state this stream has not sent")]
    NoBase(SocketAddr),
    /// An update of no kind that this version knows.
    #[error("an update of an unknown kind: is the controller newer than this proxy?")]
    UnknownKind,
}

impl World {
    pub(super) fn new(namespace: &str, pod: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            ..Self::default()
        }
    }

    /// A watch of `address`, and whether it has to be subscribed to.
    pub(super) fn watch(
        &mut self,
        address: SocketAddr,
        now: Instant,
    ) -> (watch::Receiver<Option<Arc<Destination>>>, bool) {
        let mut is_new = false;
        let entry = self.entries.entry(address).or_insert_with(|| {
            is_new = true;
            Entry {
                answer: watch::Sender::new(None),
                is_current: false,
                idle_since: Some(now),
            }
        });
        (entry.answer.subscribe(), is_new)
    }

    pub(super) fn inbound(&self) -> watch::Receiver<Arc<Inbound>> {
        self.inbound.subscribe()
    }

    /// Answers of known destinations, by address.
    pub(super) fn destinations(&self) -> Vec<Arc<Destination>> {
        self.entries
            .values()
            .filter_map(|entry| entry.answer.borrow().clone())
            .collect()
    }

    /// The same, and those that are only remembered.
    pub(super) fn all_destinations(&self) -> Vec<Arc<Destination>> {
        let mut all = self.destinations();
        all.extend(self.remembered.all().cloned());
        all
    }

    /// Answers with what is remembered of an address, until the controller does. Returns whether there is an
    /// answer.
    pub(super) fn recall(&mut self, address: SocketAddr) -> bool {
        let Some(entry) = self.entries.get_mut(&address) else {
            return false;
        };
        let is_answered = entry.answer.borrow().is_some();
        match self.remembered.recall(address) {
            Some(destination) if !is_answered => entry.set(Destination::clone(&destination)),
            _ => is_answered,
        }
    }

    /// [`World::recall`] for all that wait: the controller is gone.
    pub(super) fn recall_unanswered(&mut self) {
        let waiting = self.entries.iter();
        let waiting = waiting.filter(|(_, entry)| entry.answer.borrow().is_none());
        for address in waiting.map(|(address, _)| *address).collect::<Vec<_>>() {
            self.recall(address);
        }
    }

    /// Every address, for the start of a stream. Deltas fit again once their states have been sent anew.
    pub(super) fn subscriptions(&mut self) -> Vec<SocketAddr> {
        self.departed.clear();
        for entry in self.entries.values_mut() {
            entry.is_current = false;
        }
        self.entries.keys().copied().collect()
    }

    /// An address that nobody can be asked about.
    pub(super) fn set_outside(&mut self, address: SocketAddr) {
        let destination = Destination {
            address,
            kind: Kind::Outside,
            protocol: v1::Protocol::Detect,
            endpoints: Vec::new(),
        };
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.set(destination);
        }
    }

    /// The whole state of a destination. One that is no longer wanted is ignored.
    pub(super) fn set(&mut self, destination: v1::Destination) -> Result<(), UpdateError> {
        let mut destination = wire::destination(destination)?;
        for endpoint in &mut destination.endpoints {
            self.dial_self_in_clear(endpoint);
        }
        if let Some(entry) = self.entries.get_mut(&destination.address) {
            entry.is_current = true;
            self.remembered.forget(destination.address);
            self.changed |= entry.set(destination);
        }
        Ok(())
    }

    /// A change of a destination.
    pub(super) fn change(&mut self, delta: v1::DestinationDelta) -> Result<(), UpdateError> {
        let address = wire::address(delta.address.as_ref())?;
        let upsert = delta
            .upsert
            .into_iter()
            .map(wire::endpoint)
            .collect::<Result<Vec<_>, _>>()?;
        let remove = delta
            .remove
            .iter()
            .map(|address| wire::address(Some(address)));
        let remove = remove.collect::<Result<Vec<_>, _>>()?;

        let known = self.entries.get(&address).filter(|entry| entry.is_current);
        let Some(old) = known.and_then(|entry| entry.answer.borrow().clone()) else {
            // Not an error of the controller's: the two messages crossed.
            let crossed = self.departed.contains(&address) && !self.entries.contains_key(&address);
            return if crossed {
                Ok(())
            } else {
                Err(UpdateError::NoBase(address))
            };
        };
        let mut endpoints: BTreeMap<_, _> = old
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.address, endpoint.clone()))
            .collect();
        for address in remove {
            endpoints.remove(&address);
        }
        for mut endpoint in upsert {
            self.dial_self_in_clear(&mut endpoint);
            endpoints.insert(endpoint.address, endpoint);
        }
        let endpoints = endpoints.into_values().collect();
        if let Some(entry) = self.entries.get_mut(&address) {
            self.changed |= entry.set(Destination {
                endpoints,
                ..Destination::clone(&old)
            });
        }
        Ok(())
    }

    /// What is known of this pod.
    pub(super) fn set_inbound(&mut self, inbound: v1::Inbound) -> Result<(), UpdateError> {
        let inbound = Arc::new(wire::inbound(inbound)?);
        self.changed |= self.inbound.send_if_modified(|known| {
            let differs = *known != inbound;
            *known = inbound;
            differs
        });
        Ok(())
    }

    /// What an earlier process knew. It stays until the controller says otherwise, or nobody watches it.
    pub(super) fn restore(&mut self, destinations: Vec<v1::Destination>, now: Instant) {
        for destination in destinations {
            let Ok(address) = wire::address(destination.address.as_ref()) else {
                continue;
            };
            drop(self.watch(address, now));
            if let Err(error) = self.set(destination) {
                tracing::warn!(%address, %error, "a cached destination can't be used");
            }
        }
        for entry in self.entries.values_mut() {
            entry.is_current = false;
        }
        self.changed = false;
    }

    /// Lets go of what nobody has watched for a minute, and says which addresses to unsubscribe. Services and
    /// pods stay remembered, for a time without the controller.
    ///
    /// While the controller is away, forgetting could not be made good: services and pods stay. Addresses
    /// outside and those never answered do go, since there is no bound on their number.
    pub(super) fn forget_idle(&mut self, now: Instant, is_connected: bool) -> Vec<SocketAddr> {
        let mut forgotten = Vec::new();
        self.entries.retain(|address, entry| {
            if entry.answer.receiver_count() > 0 {
                entry.idle_since = None;
                return true;
            }
            let since = *entry.idle_since.get_or_insert(now);
            let is_idle = now.duration_since(since) >= IDLE;
            if !is_idle || !(is_connected || entry.is_unbounded()) {
                return true;
            }
            forgotten.push(*address);
            match entry.answer.borrow().clone() {
                Some(destination) if destination.kind != Kind::Outside => {
                    self.remembered.keep(destination, now);
                }
                _ => {}
            }
            false
        });
        self.remembered.forget_old(now);
        self.changed |= !forgotten.is_empty();
        self.departed.extend(&forgotten);
        let too_many = self.departed.len().saturating_sub(REMEMBERED_DEPARTURES);
        self.departed.drain(..too_many);
        forgotten
    }

    /// Something changed that is cached with this.
    pub(super) fn note_change(&mut self) {
        self.changed = true;
    }

    /// Whether anything that is cached changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        mem::take(&mut self.changed)
    }

    fn dial_self_in_clear(&self, endpoint: &mut Arc<Endpoint>) {
        let is_self = *endpoint.pod == *self.pod && endpoint.workload.namespace == self.namespace;
        if is_self && endpoint.identity.is_some() {
            Arc::make_mut(endpoint).identity = None;
        }
    }
}

impl Entry {
    /// Whether this changes what is known. Equal endpoints keep their old `Arc`.
    fn set(&mut self, mut destination: Destination) -> bool {
        self.answer.send_if_modified(|answer| {
            if let Some(old) = answer {
                for endpoint in &mut destination.endpoints {
                    let place = old
                        .endpoints
                        .binary_search_by_key(&endpoint.address, |old| old.address);
                    if let Some(old) = place.ok().and_then(|place| old.endpoints.get(place))
                        && old == endpoint
                    {
                        *endpoint = old.clone();
                    }
                }
                if **old == destination {
                    return false;
                }
            }
            *answer = Some(Arc::new(destination));
            true
        })
    }

    fn is_unbounded(&self) -> bool {
        match &*self.answer.borrow() {
            None => true,
            Some(destination) => destination.kind == Kind::Outside,
        }
    }
}

#[cfg(test)]
mod tests;
