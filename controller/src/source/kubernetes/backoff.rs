//! How long to wait before the next attempt.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
/// client-go waits up to 30 s. A mesh that is 30 s behind a cluster that has come back is worth more than the few
/// requests saved.
pub(super) const MAX: Duration = Duration::from_secs(10);

/// Doubles from half a second to [`MAX`]; jittered downwards, so that the watches of all replicas do not come back
/// at the same moment.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.0 = (self.0 * 2).min(MAX);
        wait
    }

    pub(super) fn reset(&mut self) {
        self.0 = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_somewhere() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..10).map(|_| backoff.next()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits[9] >= MAX / 2 && waits[9] <= MAX);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
