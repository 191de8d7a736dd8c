//! Ten minutes of what every proxy measured, in memory and bounded.
//!
//! Pure: time comes in. What is reported is counted in the second in which the report arrives.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use mesh_api::v1::{
    ConnectionStats, Direction, EndpointLoad, RequestStats, Security, ServicePort, TelemetryReport,
    Workload,
};

use super::ring::{Bytes, KEPT, Requests, Ring};
use crate::index::Name;

/// Series of requests that are kept at most. A busy one takes up to 30 kB. Beyond this, new methods and routes
/// are counted as "*"; beyond a quarter more, they are not counted.
const MAX_SERIES: usize = 20_000;
/// The name of everything that is not told apart.
const OTHER: &str = "*";
/// A proxy that has reported nothing for so long is gone: its open connections and endpoints don't count.
pub(super) const SILENT: Duration = Duration::from_secs(10);

/// What proxies reported.
pub struct Store {
    started: Instant,
    aged: u64,
    reporters: HashMap<Name, Reporter>,
    series: usize,
    dropped: u64,
}

/// One proxy.
pub(super) struct Reporter {
    pub(super) workload: Workload,
    pub(super) identity: String,
    pub(super) version: String,
    pub(super) certificate_expires: u64,
    pub(super) endpoints: Vec<EndpointLoad>,
    pub(super) requests: HashMap<RequestKey, Ring<Requests>>,
    pub(super) connections: HashMap<Peer, Connections>,
    seen: Instant,
}

/// The other side of a connection, as the reporting proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) direction: Direction,
    pub(super) service: Option<ServicePort>,
    pub(super) workload: Option<Workload>,
    pub(super) pod: String,
    pub(super) identity: String,
    pub(super) security: Security,
    pub(super) authority: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestKey {
    pub(super) peer: Peer,
    pub(super) method: String,
    pub(super) route: String,
}

/// Connections to or from one peer.
#[derive(Default)]
pub(super) struct Connections {
    /// Open at the last report.
    pub(super) open: u64,
    pub(super) bytes: Ring<Bytes>,
}

/// Seconds of the store's own time.
#[derive(Clone, Copy)]
pub(super) struct Window {
    /// After this second …
    pub(super) from: u64,
    /// … up to and including this one.
    pub(super) to: u64,
}

impl Window {
    /// Seconds that it covers, at least 1.
    pub(super) fn length(&self) -> u64 {
        (self.to - self.from).max(1)
    }
}

impl Store {
    /// An empty store.
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            aged: 0,
            reporters: HashMap::new(),
            series: 0,
            dropped: 0,
        }
    }

    /// Adds a report of the proxy beside `pod`. `identity` is that of its certificate.
    pub fn record(
        &mut self,
        pod: &Name,
        workload: Workload,
        identity: &str,
        report: TelemetryReport,
        now: Instant,
    ) {
        let second = self.second(now);
        if second > self.aged {
            self.age(now);
        }
        let elapsed = now.duration_since(self.started).as_secs_f64();
        // The window of the report, in the store's own time.
        let length = f64::from(report.window_ms.clamp(1, 60_000)) / 1000.0;
        let span = (elapsed - length).max(0.0)..elapsed;

        let reporter = self
            .reporters
            .entry(pod.clone())
            .or_insert_with(|| Reporter::new(now));
        reporter.seen = now;
        reporter.workload = workload;
        reporter.identity = identity.to_owned();
        reporter.version = report.proxy_version;
        reporter.certificate_expires = report.certificate_expires;
        reporter.endpoints = report.endpoints;
        for stats in report.requests {
            let Some(ring) = reporter.ring(&stats, &mut self.series) else {
                self.dropped += stats.success + stats.failure;
                continue;
            };
            let bucket = ring.at(second);
            bucket.success += stats.success;
            bucket.failure += stats.failure;
            bucket.retried += stats.retried;
            if let Some(latency) = &stats.latency {
                bucket.latency.add(latency);
            }
            spread(ring, span.clone(), (stats.success + stats.failure) as f64);
        }
        // A gauge that is no longer reported is that of a peer without connections.
        for connections in reporter.connections.values_mut() {
            connections.open = 0;
        }
        for stats in report.connections {
            let connections = reporter
                .connections
                .entry(Peer::of_connection(&stats))
                .or_default();
            connections.open += stats.open;
            let bytes = connections.bytes.at(second);
            bytes.read += stats.read_bytes;
            bytes.written += stats.written_bytes;
        }
    }

    /// Forgets what is too old.
    pub fn age(&mut self, now: Instant) {
        let second = self.second(now);
        self.aged = second;
        for reporter in self.reporters.values_mut() {
            reporter.requests.retain(|_, ring| ring.age(second));
            reporter
                .connections
                .retain(|_, connections| connections.bytes.age(second) || connections.open > 0);
        }
        let kept = Duration::from_secs(KEPT);
        self.reporters
            .retain(|_, reporter| now.duration_since(reporter.seen) < kept);
        self.series = self
            .reporters
            .values()
            .map(|reporter| reporter.requests.len())
            .sum();
    }

    /// All proxies that reported in the last ten minutes.
    pub(super) fn reporters(&self) -> impl Iterator<Item = (&Name, &Reporter)> {
        self.reporters.iter()
    }

    /// The last `seconds`, or less when the store is younger.
    pub(super) fn window(&self, seconds: u32, now: Instant) -> Window {
        let to = self.second(now);
        Window {
            from: to.saturating_sub(u64::from(seconds).clamp(1, KEPT)),
            to,
        }
    }

    /// Series kept now, and requests that were not counted because there were too many.
    pub fn size(&self) -> (usize, u64) {
        (self.series, self.dropped)
    }

    /// Seconds count from 1, so that a window can begin before the first one.
    fn second(&self, now: Instant) -> u64 {
        now.duration_since(self.started).as_secs() + 1
    }
}

impl Reporter {
    fn new(now: Instant) -> Self {
        Self {
            workload: Workload::default(),
            identity: String::new(),
            version: String::new(),
            certificate_expires: 0,
            endpoints: Vec::new(),
            requests: HashMap::new(),
            connections: HashMap::new(),
            seen: now,
        }
    }

    /// Whether it reports still.
    pub(super) fn is_present(&self, now: Instant) -> bool {
        now.duration_since(self.seen) < SILENT
    }

    fn ring(&mut self, stats: &RequestStats, series: &mut usize) -> Option<&mut Ring<Requests>> {
        let mut key = RequestKey {
            peer: Peer::of_request(stats),
            method: stats.method.clone(),
            route: stats.route.clone(),
        };
        if *series >= MAX_SERIES && !self.requests.contains_key(&key) {
            (key.method, key.route) = (OTHER.into(), OTHER.into());
        }
        if !self.requests.contains_key(&key) {
            if *series >= MAX_SERIES + MAX_SERIES / 4 {
                return None;
            }
            *series += 1;
        }
        Some(self.requests.entry(key).or_default())
    }
}

impl Peer {
    fn of_request(stats: &RequestStats) -> Self {
        Self {
            direction: stats.direction(),
            service: stats.service.clone(),
            workload: stats.peer.clone(),
            pod: stats.peer_pod.clone(),
            identity: stats.peer_identity.clone(),
            security: stats.security(),
            authority: stats.authority.clone(),
        }
    }

    fn of_connection(stats: &ConnectionStats) -> Self {
        Self {
            direction: stats.direction(),
            service: stats.service.clone(),
            workload: stats.peer.clone(),
            pod: stats.peer_pod.clone(),
            identity: stats.peer_identity.clone(),
            security: stats.security(),
            authority: stats.authority.clone(),
        }
    }
}

/// Spreads requests evenly over the seconds of `span`.
fn spread(ring: &mut Ring<Requests>, span: std::ops::Range<f64>, requests: f64) {
    let length = span.end - span.start;
    if length <= 0.0 {
        return;
    }
    let (first, last) = (span.start as u64, span.end as u64);
    for second in first..=last {
        let start = span.start.max(second as f64);
        let end = span.end.min((second + 1) as f64);
        if end > start {
            ring.at(second + 1).spread += requests * (end - start) / length;
        }
    }
}
