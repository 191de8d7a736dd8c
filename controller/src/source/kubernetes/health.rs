//! Whether the watches work, for operators.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::time::Instant;

use super::{CONNECT, backoff};
use crate::source::Kind;

/// A resumed watch says nothing until something changes. One that has not failed again after the longest back-off
/// and the longest attempt is taken as working.
const RECOVERED: Duration = backoff::MAX
    .saturating_add(CONNECT)
    .saturating_add(Duration::from_secs(5));

/// The metrics of all kinds.
#[derive(Clone)]
pub(super) struct Metrics {
    connected: Family<KindLabel, Gauge>,
    last_event: Family<KindLabel, Gauge>,
    objects: Family<KindLabel, Gauge>,
    lists: Family<KindLabel, Counter>,
    failures: Family<KindLabel, Counter>,
    differences: Family<KindLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// How the watch of one kind does.
pub(super) struct Health {
    kind: &'static str,
    metrics: Metrics,
    failing: Option<Failing>,
}

struct Failing {
    since: Instant,
    last: Instant,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            connected: Family::default(),
            last_event: Family::default(),
            objects: Family::default(),
            lists: Family::default(),
            failures: Family::default(),
            differences: Family::default(),
        };
        registry.register(
            "source_connected",
            "1 while objects of this kind are watched, 0 while that fails and the last known state serves",
            metrics.connected.clone(),
        );
        registry.register(
            "source_last_event_timestamp_seconds",
            "When the watch of this kind last told of an object, as Unix time",
            metrics.last_event.clone(),
        );
        registry.register(
            "source_objects",
            "Objects of this kind",
            metrics.objects.clone(),
        );
        registry.register(
            "source_lists",
            "Complete lists of this kind: one at the start, then one whenever a watch could not be resumed",
            metrics.lists.clone(),
        );
        registry.register(
            "source_failures",
            "Lists and watches of this kind that failed",
            metrics.failures.clone(),
        );
        registry.register(
            "source_differences",
            "Objects that a comparison with a fresh list found to be missed by the watch, and corrected",
            metrics.differences.clone(),
        );
        metrics
    }

    pub(super) fn of(&self, kind: Kind) -> Health {
        let label = KindLabel {
            kind: kind.plural(),
        };
        // A counter that has never counted shall be seen as well.
        self.connected.get_or_create(&label).set(0);
        drop(self.failures.get_or_create(&label));
        drop(self.differences.get_or_create(&label));
        Health {
            kind: kind.plural(),
            metrics: self.clone(),
            failing: None,
        }
    }

    pub(super) fn differ(&self, kind: Kind, objects: usize) {
        let label = KindLabel {
            kind: kind.plural(),
        };
        let counter = self.differences.get_or_create(&label);
        counter.inc_by(objects as u64);
    }
}

impl Health {
    /// The API server has told something.
    pub(super) fn heard(&mut self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs() as i64);
        let last = self.metrics.last_event.get_or_create(&self.label());
        last.set(seconds);
        drop(last);
        self.works();
    }

    /// A list is complete.
    pub(super) fn listed(&mut self, objects: usize) {
        self.metrics.lists.get_or_create(&self.label()).inc();
        self.count(objects);
    }

    pub(super) fn count(&self, objects: usize) {
        let gauge = self.metrics.objects.get_or_create(&self.label());
        gauge.set(objects as i64);
    }

    /// An attempt failed; the next one is in `pause`.
    pub(super) fn failed(&mut self, reason: &str, pause: Duration) {
        self.metrics.failures.get_or_create(&self.label()).inc();
        self.metrics.connected.get_or_create(&self.label()).set(0);
        let now = Instant::now();
        match &mut self.failing {
            Some(failing) => {
                failing.last = now;
                tracing::debug!(kind = self.kind, reason, ?pause, "watching still fails");
            }
            None => {
                self.failing = Some(Failing {
                    since: now,
                    last: now,
                });
                tracing::warn!(
                    kind = self.kind,
                    reason,
                    "watching fails; what is known stays in use, and it is tried again and again"
                );
            }
        }
    }

    /// Returns when a watch that had failed has gone on without a failure for a while.
    pub(super) async fn recovers(&self) {
        match &self.failing {
            Some(failing) => tokio::time::sleep_until(failing.last + RECOVERED).await,
            None => std::future::pending().await,
        }
    }

    /// Takes the watch as working.
    pub(super) fn works(&mut self) {
        self.metrics.connected.get_or_create(&self.label()).set(1);
        if let Some(failing) = self.failing.take() {
            let gone = failing.since.elapsed();
            tracing::info!(kind = self.kind, ?gone, "watching works again");
        }
    }

    fn label(&self) -> KindLabel {
        KindLabel { kind: self.kind }
    }
}
