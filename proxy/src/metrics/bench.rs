//! What the control thread and the recording of a request do inside, for the benchmarks.

use std::hash::BuildHasher;
use std::time::Duration;

use mesh_api::v1::TelemetryReport;

use super::telemetry::Reporter;
use super::{Metrics, report, route};

impl Metrics {
    /// The report of one second.
    pub fn report(&self) -> TelemetryReport {
        report::take(self, Reporter::default(), Duration::from_secs(1))
    }
}

/// The hash of a path's route pattern.
pub fn route_hash(path: &str, state: &impl BuildHasher) -> u64 {
    route::Route::new(path, false).hash("GET", state)
}
