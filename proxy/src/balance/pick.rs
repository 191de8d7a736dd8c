//! The power of two choices, over the endpoints that are not ejected.
//!
//! Two endpoints are drawn at random and the one with the lower load wins: nearly as good as asking all of
//! them, without the herd that runs to the best one (Mitzenmacher, "The Power of Two Choices in Randomized
//! Load Balancing").
//!
//! Weights: an endpoint of weight w is drawn as if there were w of it (weights are first divided by what they
//! have in common). Between equally loaded endpoints, each then gets exactly its share, also of only two; that
//! an endpoint with more requests sees higher peaks must not undo it, so that loads count as equal while they
//! are near each other. A pair may be twice the same endpoint, which would send a slow endpoint the square of
//! its share whatever its load; so a third one is drawn then, and wins if it is clearly better.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hashbrown::HashMap;

use super::{BalanceConfig, BreakerState, Outcome, breaker::Breaker, ewma::Ewma};

/// Where weights differ, loads are equal up to this factor.
const NEARLY: f64 = 1.5;
/// A pair of one endpoint with itself yields to a third one whose load is lower by this factor.
const CLEARLY: f64 = 3.0;

/// Balances the requests of one destination over its endpoints.
///
/// `T` is what the caller keeps per endpoint, for example `Rc<Peer>`.
#[derive(Debug)]
pub struct Balancer<T> {
    config: BalanceConfig,
    slots: Vec<Slot<T>>,
    /// Slots without an endpoint.
    free: Vec<u32>,
    by_address: HashMap<SocketAddr, u32, foldhash::fast::RandomState>,
    /// Slots of the endpoints with a weight that are not ejected.
    ready: Vec<u32>,
    /// Where each of `ready` ends in the running sum of their weights; empty while all weights are equal.
    ends: Vec<u64>,
    /// Endpoints with a weight; how many of them are ejected.
    weighted: usize,
    ejected: usize,
    /// When the first of the ejected endpoints may be probed.
    next_probe: Option<Instant>,
    /// Only for the length of ejections.
    jitter: fastrand::Rng,
}

/// A picked endpoint. Every pick must be answered by one [`Balancer::finished`].
#[derive(Debug)]
pub struct Choice<'a, T> {
    /// Names the pick in [`Balancer::finished`].
    pub key: Key,
    /// Where the endpoint is.
    pub address: SocketAddr,
    /// What was given to [`Balancer::update`].
    pub endpoint: &'a T,
}

/// Names one pick. Harmless when the endpoint is gone by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    slot: u32,
    /// Tells the endpoint from an earlier one in the same slot.
    generation: u32,
    /// This request is to prove that an ejected endpoint works again.
    probe: bool,
}

/// How one endpoint stands: for `/config`, telemetry and gauges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EndpointState {
    /// Where it is.
    pub address: SocketAddr,
    /// Relative share of the load; 0 gets nothing new.
    pub weight: u32,
    /// Peak-EWMA of the round-trip time.
    pub ewma: Duration,
    /// Requests in flight.
    pub pending: u32,
    /// Whether it is ejected.
    pub breaker: BreakerState,
    /// Failures in a row.
    pub consecutive_failures: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    endpoint: Option<Endpoint<T>>,
}

#[derive(Debug)]
struct Endpoint<T> {
    address: SocketAddr,
    weight: u32,
    value: T,
    /// Named by the update that runs.
    listed: bool,
    pending: u32,
    ewma: Ewma,
    breaker: Breaker,
}

impl<T> Balancer<T> {
    /// A balancer without endpoints.
    pub fn new(config: BalanceConfig) -> Self {
        Self {
            config,
            slots: Vec::new(),
            free: Vec::new(),
            by_address: HashMap::default(),
            ready: Vec::new(),
            ends: Vec::new(),
            weighted: 0,
            ejected: 0,
            next_probe: None,
            jitter: fastrand::Rng::new(),
        }
    }

    /// Replaces the set of endpoints (address, weight, the caller's value). Those that stay keep their
    /// latency, pending requests and breaker; their weight and value are replaced. Of two with one address,
    /// the later counts.
    pub fn update(
        &mut self,
        endpoints: impl IntoIterator<Item = (SocketAddr, u32, T)>,
        now: Instant,
    ) {
        for (address, weight, value) in endpoints {
            match self.endpoint_at(address) {
                Some(known) => {
                    known.weight = weight;
                    known.value = value;
                    known.listed = true;
                }
                None => self.insert(Endpoint {
                    address,
                    weight,
                    value,
                    listed: true,
                    pending: 0,
                    ewma: Ewma::new(&self.config.ewma, now),
                    breaker: Breaker::default(),
                }),
            }
        }
        self.remove_unlisted();
        self.rebuild();
        // Fewer endpoints may be left than the ejected ones need beside them.
        while self.ejected > self.weighted / 2 {
            let ejected =
                |endpoint: &&mut Endpoint<T>| endpoint.weight > 0 && !endpoint.breaker.is_closed();
            let first = self
                .endpoints_mut()
                .filter(ejected)
                .min_by_key(|endpoint| endpoint.breaker.probe_at());
            // Invariant: `rebuild` counted at least one.
            let Some(first) = first else { break };
            first.breaker.close(now);
            self.rebuild();
        }
    }

    /// What the caller keeps for the endpoint at this address: so that `update` can be given the same again.
    pub fn find(&self, address: SocketAddr) -> Option<&T> {
        let slot = *self.by_address.get(&address)?;
        self.slots[slot as usize]
            .endpoint
            .as_ref()
            .map(|endpoint| &endpoint.value)
    }

    /// Number of endpoints, usable or not.
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether there is no endpoint at all.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Chooses the endpoint of the next request; `None` when there is none with a weight.
    ///
    /// `exclude` is the endpoint that just failed this request: it is chosen again only if there is no other.
    /// Such a request is never a probe: it has failed once already.
    pub fn pick(
        &mut self,
        now: Instant,
        exclude: Option<SocketAddr>,
        rng: &mut fastrand::Rng,
    ) -> Option<Choice<'_, T>> {
        let due = exclude.is_none() && self.next_probe.is_some_and(|at| at <= now);
        let probe = if due { self.start_probe(now) } else { None };
        let slot = match probe {
            Some(slot) => slot,
            None => self.best_of_two(now, exclude, rng)?,
        };
        let Slot {
            generation,
            endpoint,
        } = &mut self.slots[slot as usize];
        // Invariant: `ready` and the probes name filled slots only.
        let endpoint = endpoint.as_mut()?;
        endpoint.pending = endpoint.pending.saturating_add(1);
        Some(Choice {
            key: Key {
                slot,
                generation: *generation,
                probe: probe.is_some(),
            },
            address: endpoint.address,
            endpoint: &endpoint.value,
        })
    }

    /// Says how the request of a pick ended. `rtt` is the time to the response's head (or to the failure).
    pub fn finished(&mut self, key: Key, outcome: Outcome, rtt: Duration, now: Instant) {
        let may_eject = (self.ejected + 1) * 2 <= self.weighted;
        let BalanceConfig { ewma, breaker } = &self.config;
        let Some(endpoint) = self
            .slots
            .get_mut(key.slot as usize)
            .filter(|slot| slot.generation == key.generation)
            .and_then(|slot| slot.endpoint.as_mut())
        else {
            return;
        };
        endpoint.pending = endpoint.pending.saturating_sub(1);
        match outcome {
            Outcome::Success => endpoint.ewma.succeeded(ewma, rtt, now),
            Outcome::Failure => {
                let settled = endpoint.breaker.failures().saturating_add(1) >= breaker.failures;
                endpoint.ewma.failed(ewma, rtt, settled, now);
            }
            Outcome::Cancelled => endpoint.ewma.cancelled(ewma, rtt, now),
        }
        let probed = key.probe && endpoint.breaker.state() == BreakerState::Probing;
        match outcome {
            Outcome::Success if endpoint.breaker.is_closed() => {
                return endpoint.breaker.succeeded();
            }
            Outcome::Success if probed => endpoint.breaker.close(now),
            Outcome::Failure if endpoint.breaker.is_closed() => {
                if !endpoint.breaker.failed(breaker) || endpoint.weight == 0 || !may_eject {
                    return;
                }
                endpoint.breaker.eject(breaker, self.jitter.f64(), now);
            }
            Outcome::Failure if probed => {
                endpoint.breaker.failed(breaker);
                endpoint.breaker.eject(breaker, self.jitter.f64(), now);
            }
            Outcome::Cancelled if probed => endpoint.breaker.probe_again(now),
            // What was sent before the ejection proves nothing; giving up neither.
            _ => return,
        }
        self.rebuild();
    }

    /// How every endpoint stands.
    pub fn states(&self, now: Instant) -> impl Iterator<Item = (&T, EndpointState)> {
        self.slots
            .iter()
            .filter_map(|slot| slot.endpoint.as_ref())
            .map(move |endpoint| {
                let state = EndpointState {
                    address: endpoint.address,
                    weight: endpoint.weight,
                    ewma: endpoint.ewma.estimate(&self.config.ewma, now),
                    pending: endpoint.pending,
                    breaker: endpoint.breaker.state(),
                    consecutive_failures: endpoint.breaker.failures(),
                };
                (&endpoint.value, state)
            })
    }

    /// Gives the request to an ejected endpoint whose pause is over.
    fn start_probe(&mut self, now: Instant) -> Option<u32> {
        let due = |slot: &Slot<T>| {
            let endpoint = slot
                .endpoint
                .as_ref()
                .filter(|endpoint| endpoint.weight > 0);
            endpoint
                .and_then(|endpoint| endpoint.breaker.probe_at())
                .is_some_and(|at| at <= now)
        };
        let found = self.slots.iter().position(due);
        if let Some(endpoint) = found.and_then(|slot| self.slots[slot].endpoint.as_mut()) {
            endpoint.breaker.probe(&self.config.breaker, now);
        }
        self.rebuild();
        found.map(|slot| slot as u32)
    }

    fn best_of_two(
        &mut self,
        now: Instant,
        exclude: Option<SocketAddr>,
        rng: &mut fastrand::Rng,
    ) -> Option<u32> {
        let excluded = exclude
            .and_then(|address| self.by_address.get(&address))
            .and_then(|slot| self.ready.iter().position(|ready| ready == slot));
        let mut hole = self.tickets(excluded);
        let all = self.tickets_total();
        let mut total = all - (hole.1 - hole.0);
        if total == 0 {
            (hole, total) = ((0, 0), all);
        }
        if total == 0 {
            return None;
        }
        let first = rng.u64(0..total);
        let one = self.holder(first, hole);
        if total == 1 {
            return Some(self.ready[one]);
        }
        // Two different tickets.
        let second = rng.u64(0..total - 1);
        let two = self.holder(second + u64::from(second >= first), hole);
        if one != two {
            let tolerance = if self.ends.is_empty() { 1.0 } else { NEARLY };
            let better = self.load(two, now) * tolerance < self.load(one, now);
            return Some(self.ready[if better { two } else { one }]);
        }
        let own = self.tickets(Some(one));
        let others = all - (own.1 - own.0);
        if excluded.is_some() || others == 0 {
            return Some(self.ready[one]);
        }
        let third = self.holder(rng.u64(0..others), own);
        let better = self.load(third, now) * CLEARLY < self.load(one, now);
        Some(self.ready[if better { third } else { one }])
    }

    fn load(&mut self, ready: usize, now: Instant) -> f64 {
        let slot = self.ready[ready] as usize;
        match &mut self.slots[slot].endpoint {
            Some(endpoint) => endpoint.ewma.load(&self.config.ewma, endpoint.pending, now),
            None => f64::INFINITY,
        }
    }

    /// Each ready endpoint holds as many tickets as its weight.
    fn tickets_total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(self.ready.len() as u64)
    }

    /// The tickets of one ready endpoint; none without one.
    fn tickets(&self, ready: Option<usize>) -> (u64, u64) {
        match ready {
            None => (0, 0),
            Some(index) if self.ends.is_empty() => (index as u64, index as u64 + 1),
            Some(0) => (0, self.ends[0]),
            Some(index) => (self.ends[index - 1], self.ends[index]),
        }
    }

    /// Who holds a ticket, counting past the tickets in `hole`. Constant time while all weights are equal,
    /// else a binary search.
    fn holder(&self, ticket: u64, hole: (u64, u64)) -> usize {
        let ticket = if ticket < hole.0 {
            ticket
        } else {
            ticket + (hole.1 - hole.0)
        };
        if self.ends.is_empty() {
            ticket as usize
        } else {
            self.ends.partition_point(|end| *end <= ticket)
        }
    }

    /// Brings what is derived from the endpoints up to date: after an update, an ejection, a probe.
    fn rebuild(&mut self) {
        (self.weighted, self.ejected, self.next_probe) = (0, 0, None);
        self.ready.clear();
        self.ends.clear();
        let (mut total, mut common) = (0u64, 0u64);
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(endpoint) = slot
                .endpoint
                .as_ref()
                .filter(|endpoint| endpoint.weight > 0)
            else {
                continue;
            };
            self.weighted += 1;
            if let Some(at) = endpoint.breaker.probe_at() {
                self.ejected += 1;
                self.next_probe = Some(self.next_probe.map_or(at, |first| first.min(at)));
                continue;
            }
            total += u64::from(endpoint.weight);
            common = greatest_common_divisor(common, endpoint.weight.into());
            self.ready.push(index as u32);
            self.ends.push(total);
        }
        if common * self.ready.len() as u64 == total {
            // All have the same weight.
            self.ends.clear();
        } else {
            self.ends.iter_mut().for_each(|end| *end /= common);
        }
    }

    fn insert(&mut self, endpoint: Endpoint<T>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                endpoint: None,
            });
            self.slots.len() as u32 - 1
        });
        self.by_address.insert(endpoint.address, index);
        self.slots[index as usize].endpoint = Some(endpoint);
    }

    fn remove_unlisted(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            match &mut slot.endpoint {
                Some(endpoint) if endpoint.listed => endpoint.listed = false,
                Some(endpoint) => {
                    self.by_address.remove(&endpoint.address);
                    self.free.push(index as u32);
                    slot.generation = slot.generation.wrapping_add(1);
                    slot.endpoint = None;
                }
                None => {}
            }
        }
    }

    fn endpoint_at(&mut self, address: SocketAddr) -> Option<&mut Endpoint<T>> {
        let slot = *self.by_address.get(&address)?;
        self.slots[slot as usize].endpoint.as_mut()
    }

    fn endpoints_mut(&mut self) -> impl Iterator<Item = &mut Endpoint<T>> {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.endpoint.as_mut())
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests;
