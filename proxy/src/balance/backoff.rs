//! How long to wait before trying again.

use std::time::Duration;

/// Exponential back-off with full jitter.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// Upper bound of the first wait. Default 25 ms.
    pub min: Duration,
    /// Upper bound of every wait. Default 250 ms.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

impl Backoff {
    /// The wait before retry number `retry` (the first is 0).
    pub fn delay(&self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let bound = self.min.saturating_mul(1 << retry.min(16)).min(self.max);
        bound.mul_f64(rng.f64())
    }
}
