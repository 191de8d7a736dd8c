//! Circuit breaking: an endpoint that fails again and again gets a pause, then one request to prove itself.
//!
//! Closed → (so many failures in a row) → open → (pause over) → probing with one real request → closed, or
//! open again for twice as long. This is the state machine of one endpoint; how many endpoints may be ejected
//! at once is the balancer's rule.

use std::time::{Duration, Instant};

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug)]
pub struct BreakerConfig {
    /// Failures in a row that eject an endpoint. Default 7 (Linkerd).
    pub failures: u32,
    /// Length of the first ejection, before jitter (up to half as long again). Default 1 s (Linkerd).
    pub min_ejection: Duration,
    /// Each further ejection is twice as long, up to this. Default 60 s (Linkerd).
    pub max_ejection: Duration,
    /// An endpoint that stayed closed this long starts again with the shortest ejection. Default 60 s.
    pub forgive: Duration,
    /// A probe without an outcome for this long is followed by another one: the first may be a stream without
    /// end. Default 10 s.
    pub probe_patience: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 7,
            min_ejection: Duration::from_secs(1),
            max_ejection: Duration::from_secs(60),
            forgive: Duration::from_secs(60),
            probe_patience: Duration::from_secs(10),
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

/// The breaker of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Breaker {
    state: BreakerState,
    /// Failures in a row.
    failures: u32,
    /// Ejections in a row: the exponent of the next one's length.
    ejections: u32,
    /// Open or probing: when the next probe may start. Closed: since when, once it was ejected.
    at: Option<Instant>,
}

impl Breaker {
    pub(super) fn state(&self) -> BreakerState {
        self.state
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == BreakerState::Closed
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// When an ejected endpoint may be probed (again); `None` while closed.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.at.filter(|_| !self.is_closed())
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure. True when the endpoint should be ejected.
    pub(super) fn failed(&mut self, config: &BreakerConfig) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures >= config.failures
    }

    /// Takes the endpoint out. `jitter` is from 0 to 1: proxies that saw the same failures should not all come
    /// back in the same instant.
    pub(super) fn eject(&mut self, config: &BreakerConfig, jitter: f64, now: Instant) {
        let forgiven = self.is_closed()
            && self
                .at
                .is_some_and(|since| now.saturating_duration_since(since) >= config.forgive);
        if forgiven {
            self.ejections = 0;
        }
        let pause = config
            .min_ejection
            .saturating_mul(1 << self.ejections.min(16))
            .min(config.max_ejection);
        self.ejections = self.ejections.saturating_add(1);
        self.state = BreakerState::Open;
        self.at = Some(now + pause.mul_f64(1.0 + jitter / 2.0));
    }

    /// Lets one request try the endpoint.
    pub(super) fn probe(&mut self, config: &BreakerConfig, now: Instant) {
        self.state = BreakerState::Probing;
        self.at = Some(now + config.probe_patience);
    }

    /// The probe ended without an answer: the next request is a probe again.
    pub(super) fn probe_again(&mut self, now: Instant) {
        self.state = BreakerState::Open;
        self.at = Some(now);
    }

    /// Takes the endpoint back.
    pub(super) fn close(&mut self, now: Instant) {
        self.state = BreakerState::Closed;
        self.failures = 0;
        self.at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn pause(breaker: &Breaker, now: Instant) -> Duration {
        breaker.probe_at().unwrap() - now
    }

    #[test]
    fn seven_failures_in_a_row() {
        let config = BreakerConfig::default();
        let mut breaker = Breaker::default();
        assert!((0..6).all(|_| !breaker.failed(&config)));
        breaker.succeeded();
        assert!((0..6).all(|_| !breaker.failed(&config)));
        assert!(breaker.failed(&config));
    }

    #[test]
    fn ejections_double_up_to_a_minute_and_jitter_adds_up_to_half() {
        let (config, now) = (BreakerConfig::default(), Instant::now());
        let mut breaker = Breaker::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            breaker.eject(&config, 0.0, now);
            assert_eq!(pause(&breaker, now), seconds * S);
            breaker.probe(&config, now);
        }
        breaker.eject(&config, 1.0, now);
        assert_eq!(pause(&breaker, now), 90 * S);
    }

    #[test]
    fn a_good_minute_is_forgiven() {
        let (config, now) = (BreakerConfig::default(), Instant::now());
        let mut breaker = Breaker::default();
        breaker.eject(&config, 0.0, now);
        breaker.close(now);
        breaker.eject(&config, 0.0, now + 59 * S);
        assert_eq!(pause(&breaker, now + 59 * S), 2 * S);
        breaker.close(now + 61 * S);
        breaker.eject(&config, 0.0, now + 121 * S);
        assert_eq!(pause(&breaker, now + 121 * S), S);
    }
}
