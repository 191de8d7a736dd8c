//! Circuit breaking.

use std::time::Duration;

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug)]
pub struct BreakerConfig {
    /// Failures in a row that eject an endpoint. Default 7 (Linkerd).
    pub failures: u32,
    /// Length of the first ejection. Default 1 s (Linkerd).
    pub min_ejection: Duration,
    /// Each further ejection is twice as long, up to this. Default 60 s (Linkerd).
    pub max_ejection: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 7,
            min_ejection: Duration::from_secs(1),
            max_ejection: Duration::from_secs(60),
        }
    }
}

/// What the breaker of an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BreakerState {
    /// Requests flow.
    #[default]
    Closed,
    /// Ejected: gets no requests.
    Open,
    /// One real request is trying it.
    Probing,
}
