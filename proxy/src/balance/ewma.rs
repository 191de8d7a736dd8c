//! Peak-EWMA.

use std::time::Duration;

/// How latencies become a load.
#[derive(Clone, Debug)]
pub struct EwmaConfig {
    /// After this long, an old peak weighs 1/e. Default 10 s (Finagle, Linkerd).
    pub decay: Duration,
    /// The latency of an endpoint of which nothing is known. Default 30 ms (Linkerd).
    pub seed: Duration,
}

impl Default for EwmaConfig {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            seed: Duration::from_millis(30),
        }
    }
}
