//! The counters themselves: written by one worker, read by the control thread.
//!
//! A counter has a single writer, so that adding is a plain load and store: no locked instruction, no cache
//! line that two workers fight for. Readers may see one request counted here and not yet there; over the next
//! report that evens out.

use std::{
    array,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_api::sketch;

use super::peer::{Cause, PeerLabels};

/// Latency buckets that are allocated together. The latencies of a route fall into a few powers of two
/// (8 buckets each), so that most of the 240 buckets never exist.
const CHUNK: usize = 24;
const CHUNKS: usize = sketch::BUCKETS / CHUNK;
const _: () = assert!(sketch::BUCKETS.is_multiple_of(CHUNK));

/// Counts up. Wraps never: 2^64.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Only the series' own worker may call this.
    pub(super) fn add(&self, n: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(n), Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A latency distribution in the buckets of [`mesh_api::sketch`].
#[derive(Debug)]
pub(super) struct Latencies {
    chunks: [OnceLock<Box<[Counter; CHUNK]>>; CHUNKS],
    sum_us: Counter,
}

impl Latencies {
    pub(super) fn record(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.add(sketch::bucket(us), 1);
        self.sum_us.add(us);
    }

    /// Microseconds.
    pub(super) fn sum_us(&self) -> u64 {
        self.sum_us.value()
    }

    /// The buckets that are not empty, ascending, with their counts.
    pub(super) fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        let chunks = self.chunks.iter().enumerate();
        let counts = chunks.flat_map(|(i, chunk)| {
            let chunk = chunk
                .get()
                .map(|chunk| chunk.each_ref().map(Counter::value));
            let counts = chunk.into_iter().flatten().enumerate();
            counts.map(move |(offset, count)| (i * CHUNK + offset, count))
        });
        counts.filter(|(_, count)| *count > 0)
    }

    /// Adds what another one counted.
    fn absorb(&self, other: &Self) {
        other
            .filled()
            .for_each(|(bucket, count)| self.add(bucket, count));
        self.sum_us.add(other.sum_us());
    }

    fn add(&self, bucket: usize, n: u64) {
        let chunk = self.chunks[bucket / CHUNK]
            .get_or_init(|| Box::new(array::from_fn(|_| Counter::default())));
        chunk[bucket % CHUNK].add(n);
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            chunks: array::from_fn(|_| OnceLock::new()),
            sum_us: Counter::default(),
        }
    }
}

/// The requests of one method and route to or from one peer.
#[derive(Debug, Default)]
pub(super) struct RouteSeries {
    pub(super) method: &'static str,
    pub(super) route: Box<str>,
    pub(super) success: Counter,
    pub(super) failure: Counter,
    /// Requests that were sent more than once.
    pub(super) retried: Counter,
    /// Times that requests were sent again.
    pub(super) retries: Counter,
    pub(super) latencies: Latencies,
    /// What the controller was told; only the control thread looks.
    pub(super) reported: Mutex<ReportedRoute>,
}

/// What was reported of a route.
#[derive(Debug, Default)]
pub(super) struct ReportedRoute {
    pub(super) success: u64,
    pub(super) failure: u64,
    pub(super) retried: u64,
    pub(super) sum_us: u64,
    /// Ascending buckets with their counts.
    pub(super) latencies: Vec<(u16, u64)>,
}

impl RouteSeries {
    pub(super) fn requests(&self) -> u64 {
        self.success.value().wrapping_add(self.failure.value())
    }

    /// Adds what a series counted that is about to go.
    fn absorb(&self, other: &Self) {
        self.success.add(other.success.value());
        self.failure.add(other.failure.value());
        self.retried.add(other.retried.value());
        self.retries.add(other.retries.value());
        self.latencies.absorb(&other.latencies);
    }
}

/// The responses of one status from one peer.
#[derive(Debug)]
pub(super) struct StatusSeries {
    pub(super) status: Status,
    pub(super) count: Counter,
}

/// How a request ended, as `response_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Status {
    /// 0 when there was no response head; [`Status::OTHER`] for what is over the bound.
    pub(super) http: u16,
    pub(super) grpc: Option<u16>,
    pub(super) success: bool,
}

impl Status {
    pub(super) const OTHER: u16 = u16::MAX;
}

/// All that is counted about one peer by one worker.
#[derive(Debug)]
pub(super) struct PeerSeries {
    pub(super) labels: PeerLabels,
    /// Connections open now: opened less closed.
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) read_bytes: Counter,
    pub(super) written_bytes: Counter,
    pub(super) errors: [Counter; Cause::ALL.len()],
    requests: Mutex<PeerRequests>,
    /// What the controller was told; only the control thread looks.
    pub(super) reported: Mutex<ReportedPeer>,
}

/// The requests of a peer. The worker locks it when a route or a status is new or goes, never to count.
#[derive(Debug, Default)]
pub(super) struct PeerRequests {
    pub(super) routes: Vec<Arc<RouteSeries>>,
    pub(super) statuses: Vec<Arc<StatusSeries>>,
    /// What evicted routes had counted: the sums over all routes, which are what Prometheus sees, never fall.
    pub(super) evicted: RouteSeries,
}

/// What was reported of a peer's connections.
#[derive(Debug, Default)]
pub(super) struct ReportedPeer {
    pub(super) open: u64,
    pub(super) opened: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) errors: [u64; Cause::ALL.len()],
}

impl PeerSeries {
    pub(super) fn new(labels: PeerLabels) -> Self {
        Self {
            labels,
            opened: Counter::default(),
            closed: Counter::default(),
            read_bytes: Counter::default(),
            written_bytes: Counter::default(),
            errors: array::from_fn(|_| Counter::default()),
            requests: Mutex::default(),
            reported: Mutex::default(),
        }
    }

    pub(super) fn open(&self) -> u64 {
        // Read in this order, a connection that opens and closes in between can't make it negative.
        let closed = self.closed.value();
        self.opened.value().saturating_sub(closed)
    }

    pub(super) fn requests(&self) -> MutexGuard<'_, PeerRequests> {
        lock(&self.requests)
    }

    /// Takes a route out; its counts stay in the peer's sums.
    pub(super) fn evict(&self, route: &Arc<RouteSeries>) {
        let mut requests = self.requests();
        requests.evicted.absorb(route);
        requests.routes.retain(|kept| !Arc::ptr_eq(kept, route));
    }
}

/// Locks what holds plain counts: there is nothing that a panic elsewhere could have left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use mesh_api::{Sketch, v1};

    use super::*;

    #[test]
    fn latencies_are_the_sketch_of_the_api() {
        let (latencies, mut sketch) = (Latencies::default(), Sketch::default());
        for us in [0, 1, 7, 8, 999, 30_000, 30_001, 5_000_000, u64::MAX / 2] {
            latencies.record(Duration::from_micros(us));
            sketch.record(us);
        }
        let wire = v1::Sketch {
            index: latencies
                .filled()
                .map(|(bucket, _)| bucket as u32)
                .collect(),
            count: latencies.filled().map(|(_, count)| count).collect(),
            sum_us: latencies.sum_us(),
        };
        assert_eq!(wire, v1::Sketch::from(&sketch));
    }

    #[test]
    fn few_buckets_exist() {
        let latencies = Latencies::default();
        (1000..4000).for_each(|us| latencies.record(Duration::from_micros(us)));
        assert!(
            latencies
                .chunks
                .iter()
                .filter(|chunk| chunk.get().is_some())
                .count()
                <= 2
        );
        assert!(
            size_of::<RouteSeries>() <= 400,
            "{}",
            size_of::<RouteSeries>()
        );
    }
}
