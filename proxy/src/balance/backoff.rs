//! How long to wait before trying again.

use std::time::Duration;

/// Exponential back-off with full jitter (AWS Architecture Blog, "Exponential Backoff and Jitter"): clients
/// that failed together do not come back together.
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
    /// The wait before retry number `retry` (the first is 0): uniform between nothing and its bound, which
    /// doubles with each retry.
    pub fn delay(&self, retry: u32, rng: &mut fastrand::Rng) -> Duration {
        let bound = self.min.saturating_mul(1 << retry.min(16)).min(self.max);
        bound.mul_f64(rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_fill_a_range_that_doubles_up_to_its_end() {
        let (backoff, mut rng) = (Backoff::default(), fastrand::Rng::with_seed(1));
        for (retry, bound) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (1000, 250)] {
            let bound = Duration::from_millis(bound);
            let waits: Vec<_> = (0..1000).map(|_| backoff.delay(retry, &mut rng)).collect();
            assert!(waits.iter().all(|wait| *wait <= bound));
            assert!(waits.iter().any(|wait| *wait < bound / 10), "no jitter");
            assert!(waits.iter().any(|wait| *wait > bound * 9 / 10), "too short");
        }
    }
}
