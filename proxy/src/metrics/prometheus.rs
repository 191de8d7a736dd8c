//! The text that Prometheus scrapes.
//!
//! Names and labels are Linkerd's where the meaning is the same, so that its dashboards work. What differs:
//! requests are counted when they end, not when they begin; the latency is the time to the end of the
//! response and is not divided by status; `dst_pod`, `dst_service` and so on name what discovery knows,
//! without a Prometheus relabelling. Routes are not in here: `mesh top` has them, and their number is the
//! clients' to choose.
//!
//! Everything is copied and summed over the workers first, then written by prometheus-client's encoder.

use std::{
    array,
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use mesh_api::sketch;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use super::{
    Cause, EndpointLoad, Metrics, RetrySkipped,
    labels::Labels,
    process::Process,
    series::{Latencies, PeerSeries, Status, lock},
};
use crate::balance::BreakerState;

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of `response_latency_ms`, milliseconds (Linkerd's); above the last is +Inf.
const BOUNDS_MS: [u64; 25] = [
    1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 500, 1_000, 2_000, 3_000, 4_000, 5_000,
    10_000, 20_000, 30_000, 40_000, 50_000,
];

pub(super) fn encode(metrics: &Metrics) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::of(metrics)));
    let mut text = String::new();
    // Writing to a string can't fail, and neither can what is written.
    let _ = text::encode(&mut text, &registry);
    text
}

/// All figures at one moment, summed over the workers.
#[derive(Debug)]
struct Snapshot {
    peers: BTreeMap<Labels, PeerSums>,
    endpoints: Vec<(Labels, EndpointLoad)>,
    retries_skipped: [u64; RetrySkipped::ALL.len()],
    overflows: u64,
    series: u64,
    certificate_expires: u64,
    certificates: u64,
    process: Process,
}

/// A metric's name, its help, and where its value comes from.
type Figure<T, V> = (&'static str, &'static str, fn(&T) -> V);

#[derive(Debug)]
struct PeerSums {
    open: u64,
    opened: u64,
    closed: u64,
    read_bytes: u64,
    written_bytes: u64,
    errors: [u64; Cause::ALL.len()],
    statuses: BTreeMap<Status, u64>,
    retried: u64,
    retries: u64,
    latency: [u64; BOUNDS_MS.len() + 1],
    latency_sum_us: u64,
}

impl Snapshot {
    fn of(metrics: &Metrics) -> Self {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let mut peers: BTreeMap<Labels, PeerSums> = BTreeMap::new();
        for peer in lock(&metrics.peers).iter() {
            peers
                .entry(Labels::of_peer(&peer.labels))
                .or_default()
                .add(peer);
        }
        let endpoints = metrics.endpoint_loads().into_iter();
        Self {
            peers,
            endpoints: endpoints
                .map(|load| (Labels::of_endpoint(&load), load))
                .collect(),
            retries_skipped: metrics.retries_skipped.each_ref().map(read),
            overflows: read(&metrics.overflows),
            series: metrics.series.load(Relaxed) as u64,
            certificate_expires: read(&metrics.certificate_expires),
            certificates: read(&metrics.certificates),
            process: Process::read(),
        }
    }

    fn requests(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut metric = out.counter("request", "HTTP requests that ended")?;
        for (labels, peer) in self.with_requests() {
            count(&mut metric, labels, peer.statuses.values().sum())?;
        }
        let mut metric = out.counter("response", "HTTP requests that ended, by how")?;
        for (labels, peer) in self.with_requests() {
            for (status, n) in &peer.statuses {
                count(&mut metric, &labels.with_status(*status), *n)?;
            }
        }
        let mut metric = out.histogram(
            "response_latency_ms",
            "Time from a request's head to the end of its response, milliseconds",
        )?;
        for (labels, peer) in self.with_requests() {
            let bounds = BOUNDS_MS.iter().map(|ms| *ms as f64).chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(peer.latency).collect();
            metric.encode_family(labels)?.encode_histogram::<NoLabels>(
                peer.latency_sum_us as f64 / 1000.0,
                peer.latency.iter().sum(),
                &buckets,
                None,
            )?;
        }
        let mut metric = out.counter(
            "request_retried",
            "HTTP requests that were sent more than once",
        )?;
        for (labels, peer) in self.with_requests() {
            count(&mut metric, labels, peer.retried)?;
        }
        let mut metric =
            out.counter("request_retry", "Times that HTTP requests were sent again")?;
        for (labels, peer) in self.with_requests() {
            count(&mut metric, labels, peer.retries)?;
        }
        let mut metric = out.counter(
            "request_retry_skipped",
            "Retries that were not made, by reason",
        )?;
        for (why, word) in RetrySkipped::ALL {
            let labels = Labels::one("reason", word);
            count(&mut metric, &labels, self.retries_skipped[why as usize])?;
        }
        Ok(())
    }

    fn connections(&self, out: &mut Out<'_>) -> fmt::Result {
        let mut metric = out.gauge("tcp_open_connections", "Connections that are open")?;
        for (labels, peer) in &self.peers {
            gauge(&mut metric, labels, peer.open as f64)?;
        }
        let counters: [Figure<PeerSums, u64>; 4] = [
            ("tcp_open", "Connections made or accepted", |peer| {
                peer.opened
            }),
            ("tcp_close", "Connections that ended", |peer| peer.closed),
            ("tcp_read_bytes", "Bytes received from peers", |peer| {
                peer.read_bytes
            }),
            ("tcp_write_bytes", "Bytes sent to peers", |peer| {
                peer.written_bytes
            }),
        ];
        for (name, help, value) in counters {
            let mut metric = out.counter(name, help)?;
            for (labels, peer) in &self.peers {
                count(&mut metric, labels, value(peer))?;
            }
        }
        let mut metric = out.counter(
            "tcp_error",
            "Connections that failed or were refused, by cause",
        )?;
        for (labels, peer) in &self.peers {
            for (cause, n) in Cause::ALL.iter().zip(peer.errors).filter(|(_, n)| *n > 0) {
                count(&mut metric, &labels.with("error", cause.as_str()), n)?;
            }
        }
        Ok(())
    }

    fn endpoints(&self, out: &mut Out<'_>) -> fmt::Result {
        let gauges: [Figure<EndpointLoad, f64>; 4] = [
            (
                "outbound_endpoint_rtt_seconds",
                "Peak-EWMA of an endpoint's round-trip time",
                |load| load.state.ewma.as_secs_f64(),
            ),
            (
                "outbound_endpoint_pending_requests",
                "Requests in flight to an endpoint",
                |load| load.state.pending.into(),
            ),
            (
                "outbound_endpoint_weight",
                "Relative share of an endpoint in the load",
                |load| load.state.weight.into(),
            ),
            (
                "outbound_endpoint_breaker",
                "Circuit breaker of an endpoint: 0 closed, 1 open (ejected), 2 probing",
                |load| match load.state.breaker {
                    BreakerState::Closed => 0.0,
                    BreakerState::Open => 1.0,
                    BreakerState::Probing => 2.0,
                },
            ),
        ];
        for (name, help, value) in gauges {
            let mut metric = out.gauge(name, help)?;
            for (labels, load) in &self.endpoints {
                gauge(&mut metric, labels, value(load))?;
            }
        }
        Ok(())
    }

    fn process(&self, out: &mut Out<'_>) -> fmt::Result {
        let none = Labels::default();
        let mut metric = out.0.encode_descriptor(
            "proxy_build",
            "The proxy's version",
            None,
            MetricType::Info,
        )?;
        metric.encode_info(&Labels::one("version", env!("CARGO_PKG_VERSION")))?;
        if self.certificate_expires > 0 {
            let help = "End of the proxy's certificate, seconds since the Unix epoch";
            let mut metric = out.gauge("identity_cert_expiration_timestamp_seconds", help)?;
            gauge(&mut metric, &none, self.certificate_expires as f64)?;
        }
        let mut metric = out.counter("identity_cert_refresh", "Certificates that were received")?;
        count(&mut metric, &none, self.certificates)?;
        let mut metric = out.gauge("metric_series", "Routes that are counted apart")?;
        gauge(&mut metric, &none, self.series as f64)?;
        let help =
            "Requests and peers that were counted as `*` because there are too many different ones";
        let mut metric = out.counter("metric_series_overflow", help)?;
        count(&mut metric, &none, self.overflows)?;
        if let Some(seconds) = self.process.cpu_seconds {
            let mut metric = out.counter("process_cpu_seconds", "User and system CPU time")?;
            metric.encode_counter::<NoLabels, f64, f64>(&seconds, None)?;
        }
        let number = |n: Option<u64>| n.map(|n| n as f64);
        for (name, help, value) in [
            (
                "process_start_time_seconds",
                "Start, seconds since the Unix epoch",
                self.process.start_seconds,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory",
                number(self.process.resident_bytes),
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory",
                number(self.process.virtual_bytes),
            ),
            ("process_threads", "Threads", number(self.process.threads)),
            (
                "process_open_fds",
                "Open file descriptors",
                number(self.process.open_files),
            ),
            (
                "process_max_fds",
                "Limit of open file descriptors",
                number(self.process.max_files),
            ),
        ] {
            if let Some(value) = value {
                gauge(&mut out.gauge(name, help)?, &none, value)?;
            }
        }
        Ok(())
    }

    fn with_requests(&self) -> impl Iterator<Item = (&Labels, &PeerSums)> {
        self.peers
            .iter()
            .filter(|(_, peer)| !peer.statuses.is_empty())
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.requests(&mut out)?;
        self.connections(&mut out)?;
        self.endpoints(&mut out)?;
        self.process(&mut out)
    }
}

impl PeerSums {
    fn add(&mut self, peer: &PeerSeries) {
        self.open += peer.open();
        self.opened += peer.opened.value();
        self.closed += peer.closed.value();
        self.read_bytes += peer.read_bytes.value();
        self.written_bytes += peer.written_bytes.value();
        self.errors
            .iter_mut()
            .zip(&peer.errors)
            .for_each(|(sum, n)| *sum += n.value());
        // Locked as a whole: a route that is being evicted counts once.
        let requests = peer.requests();
        for status in &requests.statuses {
            *self.statuses.entry(status.status).or_default() += status.count.value();
        }
        for route in requests
            .routes
            .iter()
            .map(|route| &**route)
            .chain([&requests.evicted])
        {
            self.retried += route.retried.value();
            self.retries += route.retries.value();
            self.add_latencies(&route.latencies);
        }
    }

    /// A bucket of ours counts below a bound when it lies below it as a whole: a latency is shown at most an
    /// eighth too long, never too short.
    fn add_latencies(&mut self, latencies: &Latencies) {
        self.latency_sum_us = self.latency_sum_us.wrapping_add(latencies.sum_us());
        for (bucket, n) in latencies.filled() {
            let last_us = sketch::bounds(bucket).1 - 1;
            let bound = BOUNDS_MS.partition_point(|ms| ms * 1000 < last_us);
            self.latency[bound] += n;
        }
    }
}

impl Default for PeerSums {
    fn default() -> Self {
        Self {
            open: 0,
            opened: 0,
            closed: 0,
            read_bytes: 0,
            written_bytes: 0,
            errors: array::from_fn(|_| 0),
            statuses: BTreeMap::new(),
            retried: 0,
            retries: 0,
            latency: array::from_fn(|_| 0),
            latency_sum_us: 0,
        }
    }
}

/// The encoder wants a type for the labels of exemplars, of which there are none.
type NoLabels = Labels;

/// Starts metrics, with their help and type.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counter<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)
    }

    fn gauge<'s>(&'s mut self, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)
    }

    fn histogram<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Histogram)
    }
}

fn count(metric: &mut MetricEncoder<'_>, labels: &Labels, value: u64) -> fmt::Result {
    let none: Option<&Exemplar<NoLabels, u64>> = None;
    if labels.is_empty() {
        metric.encode_counter(&value, none)
    } else {
        metric.encode_family(labels)?.encode_counter(&value, none)
    }
}

fn gauge(metric: &mut MetricEncoder<'_>, labels: &Labels, value: f64) -> fmt::Result {
    if labels.is_empty() {
        metric.encode_gauge(&value)
    } else {
        metric.encode_family(labels)?.encode_gauge(&value)
    }
}
