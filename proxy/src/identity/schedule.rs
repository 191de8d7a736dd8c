//! When to renew a certificate: pure.

use std::time::{Duration, SystemTime};

/// Without a certificate, or with one that is over, nothing is secured: hurry.
const HURRIED_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The life of one certificate, as seen by this machine's clock.
///
/// It starts when the certificate arrived: `not_before` lies in the past on purpose, for clocks that are
/// late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    issued: SystemTime,
    not_after: SystemTime,
    renew_at: SystemTime,
}

impl Schedule {
    /// Renewal comes at 70 % of life, moved by up to 5 % either way: `jitter` is in 0..1.
    pub(super) fn new(issued: SystemTime, not_after: SystemTime, jitter: f64) -> Self {
        let life = not_after.duration_since(issued).unwrap_or_default();
        let share = 0.65 + jitter.clamp(0.0, 1.0) / 10.0;
        Self {
            issued,
            not_after,
            renew_at: issued + life.mul_f64(share),
        }
    }

    pub(super) fn renew_at(&self) -> SystemTime {
        self.renew_at
    }

    pub(super) fn life(&self) -> Duration {
        self.not_after
            .duration_since(self.issued)
            .unwrap_or_default()
    }

    /// The longest pause between failing attempts: a tenth of what is left, so that short lives get several
    /// attempts and long ones don't hammer a controller that is gone.
    pub(super) fn longest_pause(current: Option<&Self>, now: SystemTime) -> Duration {
        match current.and_then(|schedule| schedule.not_after.duration_since(now).ok()) {
            Some(left) => (left / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
            None => HURRIED_PAUSE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renews_around_70_percent() {
        assert_eq!(Schedule::new(at(1000), at(2000), 0.0).renew_at(), at(1650));
        assert_eq!(Schedule::new(at(1000), at(2000), 0.5).renew_at(), at(1700));
        assert_eq!(Schedule::new(at(1000), at(2000), 1.0).renew_at(), at(1750));
    }

    #[test]
    fn a_certificate_that_is_over_is_renewed_at_once() {
        assert_eq!(Schedule::new(at(2000), at(1000), 0.5).renew_at(), at(2000));
    }

    #[test]
    fn attempts_fit_what_is_left() {
        let day = Schedule::new(at(0), at(86_400), 0.5);
        assert_eq!(
            Schedule::longest_pause(Some(&day), at(60_000)),
            LONGEST_PAUSE
        );
        let short = Schedule::new(at(0), at(10), 0.5);
        assert_eq!(
            Schedule::longest_pause(Some(&short), at(7)),
            Duration::from_millis(300)
        );
        assert_eq!(
            Schedule::longest_pause(Some(&short), at(10)),
            SHORTEST_PAUSE
        );
        assert_eq!(Schedule::longest_pause(Some(&short), at(11)), HURRIED_PAUSE);
        assert_eq!(Schedule::longest_pause(None, at(0)), HURRIED_PAUSE);
    }
}
