//! Replicas, clients and a clock, all virtual: thousands of requests through a balancer without sleeping.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{BalanceConfig, Balancer, BreakerState, EndpointState, Key, Outcome};

/// One replica.
pub(super) struct Replica {
    pub(super) weight: u32,
    /// Each response takes 0.8 to 1.2 times this.
    pub(super) latency: Duration,
    /// Share of requests that it fails, in a millisecond.
    pub(super) failing: f64,
    /// What it got.
    pub(super) requests: u64,
    pub(super) failures: u64,
    in_flight: u32,
    /// Most requests that it had in flight while its breaker was not closed.
    pub(super) most_while_ejected: u32,
}

/// A balancer over replicas, in virtual time.
pub(super) struct Simulation {
    pub(super) balancer: Balancer<usize>,
    pub(super) replicas: Vec<Replica>,
    pub(super) now: Instant,
    pub(super) most_ejected: usize,
    rng: fastrand::Rng,
    /// End of a request, its replica, its key, when it began, whether it fails.
    in_flight: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    requests: Vec<(Key, Instant, Outcome)>,
}

pub(super) fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 244, 0, index as u8], 80))
}

impl Simulation {
    pub(super) fn new(replicas: impl IntoIterator<Item = (u32, Duration)>, seed: u64) -> Self {
        let replicas = replicas.into_iter().map(|(weight, latency)| Replica {
            weight,
            latency,
            failing: 0.0,
            requests: 0,
            failures: 0,
            in_flight: 0,
            most_while_ejected: 0,
        });
        let mut simulation = Self {
            balancer: Balancer::new(BalanceConfig::default()),
            replicas: replicas.collect(),
            now: Instant::now(),
            most_ejected: 0,
            rng: fastrand::Rng::with_seed(seed),
            in_flight: BinaryHeap::new(),
            requests: Vec::new(),
        };
        simulation.update();
        simulation
    }

    /// Tells the balancer about the replicas.
    pub(super) fn update(&mut self) {
        let all = self
            .replicas
            .iter()
            .enumerate()
            .map(|(i, replica)| (address(i), replica.weight, i));
        self.balancer.update(all, self.now);
    }

    /// An open loop: so many requests per second, whatever the answers.
    pub(super) fn open_loop(&mut self, rps: u32, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            let next = self.now + Duration::from_secs(1) / rps;
            self.finish_until(next);
            self.now = next;
            self.start();
        }
    }

    /// A closed loop: so many clients, each sends when it has its answer.
    pub(super) fn closed_loop(&mut self, clients: usize, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            while self.in_flight.len() < clients {
                self.start();
            }
            if let Some(Reverse((at, ..))) = self.in_flight.peek() {
                let at = *at;
                self.finish_until(at);
            }
        }
    }

    /// The share of the requests that each replica got since the last call.
    pub(super) fn shares(&mut self) -> Vec<f64> {
        let total: u64 = self.replicas.iter().map(|replica| replica.requests).sum();
        let take =
            |replica: &mut Replica| std::mem::take(&mut replica.requests) as f64 / total as f64;
        self.replicas.iter_mut().map(take).collect()
    }

    pub(super) fn state(&self, index: usize) -> EndpointState {
        let mut states = self.balancer.states(self.now);
        states
            .find(|(replica, _)| **replica == index)
            .map(|(_, state)| state)
            .unwrap()
    }

    fn start(&mut self) {
        let picked = self.balancer.pick(self.now, None, &mut self.rng).unwrap();
        let (key, index) = (picked.key, *picked.endpoint);
        let breaker = self.state(index).breaker;
        let replica = &mut self.replicas[index];
        replica.requests += 1;
        replica.in_flight += 1;
        if breaker != BreakerState::Closed {
            replica.most_while_ejected = replica.most_while_ejected.max(replica.in_flight);
        }
        let fails = self.rng.f64() < replica.failing;
        let (outcome, latency) = if fails {
            (Outcome::Failure, Duration::from_millis(1))
        } else {
            (
                Outcome::Success,
                replica.latency.mul_f64(0.8 + 0.4 * self.rng.f64()),
            )
        };
        self.requests.push((key, self.now, outcome));
        let end = self.now + latency;
        self.in_flight
            .push(Reverse((end, self.requests.len() as u64 - 1, index)));
    }

    fn finish_until(&mut self, until: Instant) {
        while self
            .in_flight
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= until)
        {
            let Some(Reverse((at, request, index))) = self.in_flight.pop() else {
                return;
            };
            let (key, began, outcome) = self.requests[request as usize];
            self.now = self.now.max(at);
            self.balancer.finished(key, outcome, at - began, at);
            self.replicas[index].in_flight -= 1;
            self.replicas[index].failures += u64::from(outcome == Outcome::Failure);
            let ejected =
                |(_, state): &(&usize, EndpointState)| state.breaker != BreakerState::Closed;
            self.most_ejected = self
                .most_ejected
                .max(self.balancer.states(at).filter(ejected).count());
        }
    }
}
