//! The power of two choices, over the endpoints that are not ejected.
//!
//! Two endpoints are drawn at random and the one with the lower load wins: nearly as good as asking all of
//! them, without the herd that runs to the best one (Mitzenmacher, "The Power of Two Choices in Randomized
//! Load Balancing").
//!
//! Weights: an endpoint of weight w is drawn as if there were w of it, so that between equally loaded ones
//! each gets its share. That an endpoint with more requests sees higher peaks must not undo it: where weights
//! differ, loads count as equal while they are near each other. A pair may then be twice the same endpoint,
//! which would send a slow endpoint the square of its share whatever its load; so a third one is drawn, and
//! wins if it is clearly better.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hashbrown::HashMap;

use super::{BalanceConfig, BreakerState, Outcome, breaker::Breaker, ewma::Ewma, lots::Lots};

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
    ready: Lots,
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
            ready: Lots::default(),
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
        let probed = key.probe && endpoint.breaker.state() == BreakerState::Probing;
        match outcome {
            Outcome::Success if probed => endpoint.ewma.recovered(ewma, rtt, now),
            Outcome::Success => endpoint.ewma.succeeded(ewma, rtt, now),
            Outcome::Failure => {
                let settled = endpoint.breaker.failures().saturating_add(1) >= breaker.failures;
                endpoint.ewma.failed(ewma, rtt, settled, now);
            }
            Outcome::Cancelled => endpoint.ewma.cancelled(ewma, rtt, now),
        }
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
        let excluded = exclude.and_then(|address| self.by_address.get(&address));
        let excluded = excluded.and_then(|slot| self.ready.position(*slot));
        let drawn = self.ready.draw_two(excluded, rng);
        let (one, two) = drawn.or_else(|| self.ready.draw_two(None, rng))?;
        let (other, tolerance) = if one != two {
            let tolerance = if self.ready.are_equal() { 1.0 } else { NEARLY };
            (Some(two), tolerance)
        } else if excluded.is_none() {
            (self.ready.draw(Some(one), rng), CLEARLY)
        } else {
            (None, CLEARLY)
        };
        let one = self.ready.slot(one);
        let Some(other) = other.map(|position| self.ready.slot(position)) else {
            return Some(one);
        };
        let better = self.load(other, now) * tolerance < self.load(one, now);
        Some(if better { other } else { one })
    }

    fn load(&mut self, slot: u32, now: Instant) -> f64 {
        match &mut self.slots[slot as usize].endpoint {
            Some(endpoint) => endpoint.ewma.load(&self.config.ewma, endpoint.pending, now),
            // Invariant: `ready` names filled slots only.
            None => f64::INFINITY,
        }
    }

    /// Brings what is derived from the endpoints up to date: after an update, an ejection, a probe.
    fn rebuild(&mut self) {
        (self.weighted, self.ejected, self.next_probe) = (0, 0, None);
        let endpoints = self.slots.iter().zip(0u32..);
        let weighted = endpoints.filter_map(|(slot, index)| {
            let endpoint = slot.endpoint.as_ref();
            endpoint
                .filter(|endpoint| endpoint.weight > 0)
                .map(|endpoint| (index, endpoint))
        });
        let ready = weighted.filter_map(|(index, endpoint)| {
            self.weighted += 1;
            let Some(at) = endpoint.breaker.probe_at() else {
                return Some((index, endpoint.weight));
            };
            self.ejected += 1;
            self.next_probe = Some(self.next_probe.map_or(at, |first| first.min(at)));
            None
        });
        self.ready.refill(ready);
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

#[cfg(test)]
mod tests;
