//! What the webhook is measured by.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Upper bounds of the latency, in seconds; the API server waits 5 s.
const BOUNDS: [f64; 9] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0, 5.0];

/// Answers to the API server.
pub(crate) struct Admissions {
    outcomes: Family<OutcomeLabel, Counter>,
    latency: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    /// injected, skipped, refused, malformed or failed.
    outcome: &'static str,
}

impl Admissions {
    /// Registers `admissions` and `admission_latency_seconds`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let admissions = Self {
            outcomes: Family::default(),
            latency: Histogram::new(BOUNDS),
        };
        registry.register(
            "admissions",
            "Pods that the API server asked about, by what became of them",
            admissions.outcomes.clone(),
        );
        registry.register_with_unit(
            "admission_latency",
            "How long the API server waited for an answer",
            Unit::Seconds,
            admissions.latency.clone(),
        );
        admissions
    }

    pub(super) fn count(&self, outcome: &'static str, latency: Duration) {
        self.outcomes.get_or_create(&OutcomeLabel { outcome }).inc();
        self.latency.observe(latency.as_secs_f64());
    }
}
