//! What happened since the last report.
//!
//! Every series remembers what was reported of it, so that what a report does not carry is part of the next
//! one: nothing is counted twice, and nothing is lost while the controller is away (for as long as a series
//! lives, which is longer than the controller remembers).

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use mesh_api::v1::{
    Breaker, ConnectionError, ConnectionStats, EndpointLoad, RequestStats, Sketch, TelemetryReport,
};

use super::{
    Cause, Metrics, PeerLabels,
    series::{Latencies, PeerSeries, ReportedRoute, RouteSeries, lock},
    telemetry::Reporter,
};
use crate::balance::BreakerState;

/// Routes in one report; more wait for the next one. Keeps a report well below the 4 MiB that gRPC servers
/// accept by default.
const MAX_REQUESTS: usize = 4_000;

/// Everything since the last call. What is returned counts as reported.
pub(super) fn take(metrics: &Metrics, reporter: Reporter, window: Duration) -> TelemetryReport {
    let peers: Vec<Arc<PeerSeries>> = lock(&metrics.peers).clone();
    metrics.certificate(reporter.certificate_expires);
    let (taps, taps_dropped) = metrics.tap.take();
    TelemetryReport {
        namespace: reporter.namespace,
        pod: reporter.pod,
        workload: reporter.workload,
        window_ms: window.as_millis().try_into().unwrap_or(u32::MAX),
        requests: requests(&peers),
        connections: connections(&peers),
        endpoints: metrics.endpoint_loads().iter().map(endpoint).collect(),
        taps,
        taps_dropped,
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        certificate_expires: reporter.certificate_expires,
        identity: reporter.identity,
    }
}

fn requests(peers: &[Arc<PeerSeries>]) -> Vec<RequestStats> {
    let mut stats = Vec::new();
    for peer in peers {
        let routes: Vec<Arc<RouteSeries>> = peer.requests().routes.clone();
        for route in routes {
            if stats.len() >= MAX_REQUESTS {
                return stats;
            }
            stats.extend(route_delta(&peer.labels, &route));
        }
    }
    stats
}

/// `None` when nothing happened.
fn route_delta(peer: &PeerLabels, route: &RouteSeries) -> Option<RequestStats> {
    let mut reported = lock(&route.reported);
    let success = delta(route.success.value(), &mut reported.success);
    let failure = delta(route.failure.value(), &mut reported.failure);
    if success == 0 && failure == 0 {
        return None;
    }
    Some(RequestStats {
        direction: peer.direction.into(),
        service: peer.service.as_deref().cloned(),
        peer: peer.workload.as_deref().cloned(),
        peer_pod: peer.pod.to_string(),
        peer_identity: peer
            .identity
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        security: peer.security.into(),
        method: route.method.to_owned(),
        route: route.route.to_string(),
        success,
        failure,
        retried: delta(route.retried.value(), &mut reported.retried),
        latency: Some(latency_delta(&route.latencies, &mut reported)),
        authority: peer.authority.to_string(),
    })
}

fn latency_delta(latencies: &Latencies, reported: &mut ReportedRoute) -> Sketch {
    let mut sketch = Sketch {
        sum_us: delta(latencies.sum_us(), &mut reported.sum_us),
        ..Sketch::default()
    };
    // Both are ascending, and a bucket that was filled stays filled.
    let known = &mut reported.latencies;
    for (index, (bucket, count)) in latencies.filled().enumerate() {
        let bucket = bucket as u16;
        if known.get(index).is_none_or(|(known, _)| *known != bucket) {
            known.insert(index, (bucket, 0));
        }
        let new = delta(count, &mut known[index].1);
        if new > 0 {
            sketch.index.push(bucket.into());
            sketch.count.push(new);
        }
    }
    sketch
}

/// One entry for each set of labels: the number of open connections must be the sum over the workers.
fn connections(peers: &[Arc<PeerSeries>]) -> Vec<ConnectionStats> {
    let mut stats: HashMap<&PeerLabels, (ConnectionStats, bool)> = HashMap::new();
    for peer in peers {
        let labels = &peer.labels;
        let (sum, changed) = stats
            .entry(labels)
            .or_insert_with(|| (empty(labels), false));
        let mut reported = lock(&peer.reported);
        let open = peer.open();
        let opened = delta(peer.opened.value(), &mut reported.opened);
        let read = delta(peer.read_bytes.value(), &mut reported.read_bytes);
        let written = delta(peer.written_bytes.value(), &mut reported.written_bytes);
        *changed |= open > 0 || reported.open > 0 || opened + read + written > 0;
        reported.open = open;
        sum.open += open;
        sum.opened += opened;
        sum.read_bytes += read;
        sum.written_bytes += written;
        for ((cause, counter), before) in Cause::ALL
            .iter()
            .zip(&peer.errors)
            .zip(&mut reported.errors)
        {
            let count = delta(counter.value(), before);
            if count > 0 {
                *changed = true;
                sum.errors.push(ConnectionError {
                    cause: cause.as_str().to_owned(),
                    count,
                });
            }
        }
    }
    stats
        .into_values()
        .filter(|(_, changed)| *changed)
        .map(|(stats, _)| stats)
        .collect()
}

fn empty(peer: &PeerLabels) -> ConnectionStats {
    ConnectionStats {
        direction: peer.direction.into(),
        service: peer.service.as_deref().cloned(),
        peer: peer.workload.as_deref().cloned(),
        peer_pod: peer.pod.to_string(),
        peer_identity: peer
            .identity
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        security: peer.security.into(),
        authority: peer.authority.to_string(),
        ..ConnectionStats::default()
    }
}

fn endpoint(load: &super::EndpointLoad) -> EndpointLoad {
    let breaker = match load.state.breaker {
        BreakerState::Closed => Breaker::Closed,
        BreakerState::Open => Breaker::Open,
        BreakerState::Probing => Breaker::Probing,
    };
    EndpointLoad {
        service: load.service.as_deref().cloned(),
        workload: Some((*load.workload).clone()),
        pod: load.pod.to_string(),
        address: Some(load.state.address.into()),
        ewma_us: load.state.ewma.as_micros().try_into().unwrap_or(u64::MAX),
        pending: load.state.pending,
        weight: load.state.weight,
        breaker: breaker.into(),
        consecutive_failures: load.state.consecutive_failures,
    }
}

/// What came since `before`, which becomes `value`.
fn delta(value: u64, before: &mut u64) -> u64 {
    let delta = value.saturating_sub(*before);
    *before = value;
    delta
}
