//! Destinations that are not subscribed to any more, as they were known last: what is used where the controller
//! can't be asked. Without it, a destination that was idle for a while would be taken for one outside of the mesh,
//! and be sent to in clear.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Destination;

/// The life of a certificate: after so long without a controller this proxy can't secure anything either.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Destinations and their endpoints together. One takes 100 to 200 bytes: half a MiB at most.
const MAX_SIZE: usize = 4096;

/// The memory, bounded in size and age.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    memories: BTreeMap<SocketAddr, Memory>,
    size: usize,
}

#[derive(Debug)]
struct Memory {
    destination: Arc<Destination>,
    since: Instant,
}

impl Memory {
    fn size(&self) -> usize {
        1 + self.destination.endpoints.len()
    }
}

impl Remembered {
    /// Remembers how a destination was; in its place goes what has been remembered for longest.
    pub(super) fn keep(&mut self, destination: Arc<Destination>, now: Instant) {
        let address = destination.address;
        self.forget(address);
        let memory = Memory {
            destination,
            since: now,
        };
        self.size += memory.size();
        self.memories.insert(address, memory);
        while self.size > MAX_SIZE && self.memories.len() > 1 {
            let others = self.memories.iter().filter(|(other, _)| **other != address);
            let oldest = others.min_by_key(|(_, memory)| memory.since);
            if let Some((oldest, _)) = oldest {
                self.forget(*oldest);
            }
        }
    }

    /// How a destination was.
    pub(super) fn recall(&self, address: SocketAddr) -> Option<Arc<Destination>> {
        self.memories
            .get(&address)
            .map(|memory| memory.destination.clone())
    }

    /// There is better knowledge.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        if let Some(memory) = self.memories.remove(&address) {
            self.size -= memory.size();
        }
    }

    /// Lets go of what is too old to be of use.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let size = &mut self.size;
        self.memories.retain(|_, memory| {
            let is_young = now.saturating_duration_since(memory.since) < MAX_AGE;
            *size -= if is_young { 0 } else { memory.size() };
            is_young
        });
    }

    /// All of it, by address.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.memories.values().map(|memory| &memory.destination)
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::v1::Protocol;

    use super::super::{Endpoint, Kind};
    use super::*;

    fn service(number: u16, endpoints: u16) -> Arc<Destination> {
        let at = |port| SocketAddr::from(([10, 96, 0, 1], port));
        let endpoint = |port| {
            Arc::new(Endpoint {
                address: at(port),
                weight: 1,
                identity: None,
                workload: Arc::default(),
                pod: "".into(),
                zone: "".into(),
            })
        };
        Arc::new(Destination {
            address: at(number),
            kind: Kind::Service(Arc::default()),
            protocol: Protocol::Detect,
            endpoints: (0..endpoints).map(endpoint).collect(),
        })
    }

    #[test]
    fn the_longest_forgotten_makes_room() {
        let (mut remembered, start) = (Remembered::default(), Instant::now());
        for number in 0..3000 {
            let now = start + Duration::from_secs(number.into());
            remembered.keep(service(number, 3), now);
        }
        assert_eq!(remembered.all().count(), MAX_SIZE / 4);
        assert!(remembered.recall(service(0, 0).address).is_none());
        assert!(remembered.recall(service(2999, 0).address).is_some());
        // One that is larger than all room is better than none.
        remembered.keep(service(7, 5000), start);
        assert_eq!(remembered.all().count(), 1);
        remembered.keep(service(8, 1), start);
        assert_eq!((remembered.all().count(), remembered.size), (1, 2));
    }

    #[test]
    fn what_is_a_day_old_is_of_no_use() {
        let (mut remembered, start) = (Remembered::default(), Instant::now());
        remembered.keep(service(1, 1), start);
        remembered.keep(service(2, 1), start + Duration::from_secs(1));
        remembered.forget_old(start + MAX_AGE);
        let left: Vec<_> = remembered.all().map(|known| known.address.port()).collect();
        assert_eq!((left, remembered.size), (vec![2], 2));
    }
}
