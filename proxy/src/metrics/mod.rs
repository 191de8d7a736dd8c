//! What the proxy counts, and who gets to see it.
//!
//! In: the workers count requests, connections and errors into series of their own ([`WorkerMetrics`],
//! [`PeerMetrics`]): single-writer relaxed atomics, without a lock or an allocation on the hot path. Out: the
//! control thread reads them for Prometheus ([`Metrics::encode`]) and for the controller
//! ([`telemetry::report`]). Counting can't fail.
//!
//! Series are bounded: 64 routes per peer, 1,000 peers per worker, 10,000 routes per process (about 1 kB each);
//! what is over a bound counts in an overflow series (`*`), and how often is counted too. A series that has
//! been idle for 10 minutes is evicted by the worker's timer. A route's counts then stay in the sums of its
//! peer, so that no Prometheus counter falls while it is there; a peer that nobody talks to any more goes as
//! a whole, and if it comes back, it starts from zero as after a restart, which `rate` understands.

#[cfg(feature = "bench")]
pub mod bench;
mod labels;
mod peer;
mod process;
mod prometheus;
mod report;
mod route;
mod series;
mod tap;
pub mod telemetry;

use std::{
    cell::{Cell, RefCell},
    hash::BuildHasher,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hashbrown::HashTable;
use mesh_api::v1;

pub use peer::{Cause, ConnectionGuard, PeerLabels, PeerMetrics, RequestRecord, Undecided};
pub use prometheus::CONTENT_TYPE;
pub use tap::Tap;

use crate::balance::EndpointState;
use series::{PeerSeries, lock};

/// Routes of all peers that one process counts apart.
const MAX_SERIES: usize = 10_000;
/// Peers that one worker counts apart.
const MAX_PEERS: usize = 1_000;
/// Series that have been idle this long are evicted: the controller remembers no longer either.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a worker looks for them.
const SWEEP: Duration = Duration::from_secs(60);

/// Everything the process counts. Shared by all threads.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The series of all workers.
    peers: Mutex<Vec<Arc<PeerSeries>>>,
    /// What each worker published last.
    loads: Mutex<Vec<Vec<EndpointLoad>>>,
    /// How many routes are counted apart.
    series: AtomicUsize,
    overflows: AtomicU64,
    retries_skipped: [AtomicU64; RetrySkipped::ALL.len()],
    /// Seconds since the Unix epoch; 0 without a certificate.
    certificate_expires: AtomicU64,
    certificates: AtomicU64,
    tap: Tap,
}

/// One worker's counters. Cheap to clone; stays on its thread.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    process: Arc<Metrics>,
    worker: usize,
    own: Rc<Own>,
}

/// What one worker knows of its own.
#[derive(Debug, Default)]
struct Own {
    peers: RefCell<HashTable<(u64, Rc<PeerMetrics>)>>,
    hasher: foldhash::fast::RandomState,
    swept: Cell<Option<Instant>>,
}

/// How an endpoint of a balancer stands, with its names: published by every worker once a second.
#[derive(Clone, Debug)]
pub struct EndpointLoad {
    /// The Service it was reached through; `None` when its pod was dialled directly.
    pub service: Option<Arc<v1::ServicePort>>,
    /// What runs there.
    pub workload: Arc<v1::Workload>,
    /// Its pod.
    pub pod: Arc<str>,
    /// What the balancer thinks of it.
    pub state: EndpointState,
}

/// Why a failed request was not tried again although its method allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetrySkipped {
    /// The retry budget was spent.
    Budget,
    /// The body was too large to keep.
    Body,
}

impl EndpointLoad {
    /// Adds what another worker thinks of the same endpoint.
    fn merge(&mut self, other: &EndpointState) {
        let state = &mut self.state;
        if other.consecutive_failures >= state.consecutive_failures {
            (state.consecutive_failures, state.breaker) =
                (other.consecutive_failures, other.breaker);
        }
        state.pending = state.pending.saturating_add(other.pending);
        state.ewma = state.ewma.max(other.ewma);
    }
}

impl RetrySkipped {
    const ALL: [(Self, &str); 2] = [(Self::Budget, "budget"), (Self::Body, "body")];
}

impl Metrics {
    /// Metrics of a process without workers yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The counters of a new worker. Call on the worker's thread, once.
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        let mut loads = lock(&self.loads);
        loads.push(Vec::new());
        WorkerMetrics {
            process: self.clone(),
            worker: loads.len() - 1,
            own: Rc::default(),
        }
    }

    /// Single requests, for `mesh tap`.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The text for `/metrics` (content type [`CONTENT_TYPE`]).
    pub fn encode(&self) -> String {
        prometheus::encode(self)
    }

    /// What the workers published last: for `/config`. Where several workers send to one endpoint, their
    /// requests add up and the worst opinion counts.
    pub fn endpoint_loads(&self) -> Vec<EndpointLoad> {
        let mut merged: Vec<EndpointLoad> = Vec::new();
        let mut by_endpoint = hashbrown::HashMap::new();
        for load in lock(&self.loads).iter().flatten() {
            let index = *by_endpoint
                .entry((load.service.clone(), load.state.address))
                .or_insert(merged.len());
            match merged.get_mut(index) {
                None => merged.push(load.clone()),
                Some(known) => known.merge(&load.state),
            }
        }
        merged
    }

    /// Notes the certificate in use. `expires`: seconds since the Unix epoch.
    fn certificate(&self, expires: u64) {
        if self.certificate_expires.swap(expires, Relaxed) != expires {
            self.certificates.fetch_add(1, Relaxed);
        }
    }

    fn register(&self, peer: Arc<PeerSeries>) {
        lock(&self.peers).push(peer);
    }

    fn unregister(&self, peer: &Arc<PeerSeries>) {
        lock(&self.peers).retain(|kept| !Arc::ptr_eq(kept, peer));
    }

    /// Makes room for one route. False when there is none.
    fn reserve_series(&self) -> bool {
        self.series
            .fetch_update(Relaxed, Relaxed, |n| (n < MAX_SERIES).then_some(n + 1))
            .is_ok()
    }

    /// Makes room for an overflow route.
    fn reserve_overflow(&self) {
        self.series.fetch_add(1, Relaxed);
    }

    fn release_series(&self) {
        self.series.fetch_sub(1, Relaxed);
    }

    fn count_overflow(&self) {
        self.overflows.fetch_add(1, Relaxed);
    }
}

impl WorkerMetrics {
    /// The counters of a peer: the same for the same labels. Resolve once per endpoint or accepted connection,
    /// not per request.
    pub fn peer(&self, labels: PeerLabels) -> Rc<PeerMetrics> {
        let mut peers = self.own.peers.borrow_mut();
        let find = |peers: &HashTable<(u64, Rc<PeerMetrics>)>, labels: &PeerLabels| {
            let hash = self.own.hasher.hash_one(labels);
            let known = peers.find(hash, |(_, peer)| peer.labels() == labels);
            (hash, known.map(|(_, peer)| peer.clone()))
        };
        let (mut hash, known) = find(&peers, &labels);
        if let Some(known) = known {
            return known;
        }
        let mut labels = labels;
        if peers.len() >= MAX_PEERS {
            self.process.count_overflow();
            labels = labels.overflow();
            let known;
            (hash, known) = find(&peers, &labels);
            if let Some(known) = known {
                return known;
            }
        }
        let peer = Rc::new(PeerMetrics::new(self.process.clone(), labels));
        peers.insert_unique(hash, (hash, peer.clone()), |(hash, _)| *hash);
        peer
    }

    /// Counts a retry that was wanted but not made.
    pub fn retry_skipped(&self, why: RetrySkipped) {
        self.process.retries_skipped[why as usize].fetch_add(1, Relaxed);
    }

    /// Once a second: publishes how the worker's endpoints stand and evicts series that have been idle.
    pub fn tick(&self, loads: Vec<EndpointLoad>, now: Instant) {
        lock(&self.process.loads)[self.worker] = loads;
        let swept = self.own.swept.get();
        if swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP) {
            return;
        }
        self.own.swept.set(Some(now));
        let evict =
            |peer: &Rc<PeerMetrics>| peer.evict(PATIENCE, now) && Rc::strong_count(peer) == 1;
        self.own.peers.borrow_mut().retain(|(_, peer)| !evict(peer));
    }

    /// Single requests, for `mesh tap`. Check [`Tap::active`] before building an event.
    pub fn tap(&self) -> &Tap {
        self.process.tap()
    }

    /// All that this process counts.
    #[cfg(test)]
    pub(crate) fn process(&self) -> &Metrics {
        &self.process
    }
}

#[cfg(test)]
mod tests;
