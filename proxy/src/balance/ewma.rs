//! Peak-EWMA: what it costs to send one more request to an endpoint.
//!
//! The estimate of an endpoint's round-trip time follows a peak at once and forgets it exponentially
//! (Finagle's `PeakEwma`): a slow endpoint is avoided after one slow response, and since its estimate decays
//! towards zero for as long as it is avoided, it is tried again by itself. The load is that estimate times
//! the requests that would then be in flight.
//!
//! Two additions:
//!
//! - Failures weigh as latency. An endpoint that fails fast would otherwise look like the best one and draw
//!   all requests. So a failure never lowers the estimate, and the estimate is multiplied by 1 to 16 with the
//!   recent share of failures. It is a factor, not a fixed penalty, so that where all endpoints fail alike it
//!   cancels out and latency still decides; and a single failure weighs nothing, since sending an endpoint's
//!   whole load elsewhere because of one bad request would do more harm. A run of failures that
//!   may yet end in an ejection does not weigh before it is over: the breaker needs those requests to tell a
//!   dead endpoint from one that fails sometimes, and takes it back sooner than a decay over 10 s would.
//! - An endpoint that was never measured has no estimate: idle, it costs nothing, so that a new replica gets
//!   its first request at once instead of after the seed has decayed; while that one is on its way, the seed
//!   counts, so that it is not flooded. After an ejection, the probe is its first measurement.

use std::time::{Duration, Instant};

/// The failures' share times this, plus one, multiplies the estimate.
const FAILURE_WEIGHT: f64 = 15.0;
/// How much one outcome counts in the share of failures.
const FAILURE_STEP: f64 = 1.0 / 16.0;
/// The share of failures that does not weigh: a single one. Between idle replicas the smallest difference
/// decides, so that any penalty at all would keep away everything until it has decayed.
const FORGIVEN: f64 = FAILURE_STEP;
/// Estimates below a microsecond are equal: there, only the requests in flight decide.
const FLOOR_NS: f64 = 1_000.0;

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

/// The estimate of one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ewma {
    /// Nanoseconds; the seed until `measured`.
    cost: f64,
    /// Share of failures among the recent requests, 0 to 1; decays like `cost`.
    failures: f64,
    /// What of `failures` counts already.
    weighing: f64,
    /// When the three were true.
    stamp: Instant,
    measured: bool,
}

impl Ewma {
    pub(super) fn new(config: &EwmaConfig, now: Instant) -> Self {
        Self {
            cost: nanos(config.seed),
            failures: 0.0,
            weighing: 0.0,
            stamp: now,
            measured: false,
        }
    }

    /// The load of one more request when `pending` are in flight. Comparable between endpoints; no unit.
    pub(super) fn load(&mut self, config: &EwmaConfig, pending: u32, now: Instant) -> f64 {
        if !self.measured && pending == 0 {
            return 0.0;
        }
        if self.measured {
            // Finagle observes a zero here.
            let keep = self.age(config, now);
            self.cost *= keep;
        }
        let penalty = 1.0 + FAILURE_WEIGHT * (self.weighing - FORGIVEN).max(0.0);
        self.cost.max(FLOOR_NS) * penalty * (f64::from(pending) + 1.0)
    }

    /// A response that is no failure.
    pub(super) fn succeeded(&mut self, config: &EwmaConfig, rtt: Duration, now: Instant) {
        let keep = self.age(config, now);
        let rtt = nanos(rtt);
        self.cost = if rtt > self.cost || !self.measured {
            rtt
        } else {
            self.cost * keep + rtt * (1.0 - keep)
        };
        self.failures *= 1.0 - FAILURE_STEP;
        self.weighing = self.failures;
        self.measured = true;
    }

    /// A failure after `rtt`. It weighs at once if `settled`, else when the next request succeeds.
    pub(super) fn failed(
        &mut self,
        config: &EwmaConfig,
        rtt: Duration,
        settled: bool,
        now: Instant,
    ) {
        self.age(config, now);
        // A failure that is faster than the seed measures nothing: the seed, taken for a measurement, would keep
        // away the very requests that the breaker needs, and all others for half a minute.
        self.measured |= settled || nanos(rtt) > self.cost;
        self.cost = self.cost.max(nanos(rtt));
        self.failures += (1.0 - self.failures) * FAILURE_STEP;
        if settled {
            self.weighing = self.failures;
        }
    }

    /// A probe succeeded: what was seen before the ejection is about an endpoint that was ill. The breaker
    /// has dealt with its failures.
    pub(super) fn recovered(&mut self, config: &EwmaConfig, rtt: Duration, now: Instant) {
        *self = Self::new(config, now);
        self.succeeded(config, rtt, now);
    }

    /// The caller gave up after `rtt`: the response would have taken at least that long.
    pub(super) fn cancelled(&mut self, config: &EwmaConfig, rtt: Duration, now: Instant) {
        if nanos(rtt) > self.cost {
            self.age(config, now);
            self.cost = nanos(rtt);
            self.measured = true;
        }
    }

    /// The estimated round-trip time.
    pub(super) fn estimate(&self, config: &EwmaConfig, now: Instant) -> Duration {
        let keep = if self.measured {
            self.keep(config, now)
        } else {
            1.0
        };
        Duration::from_nanos((self.cost * keep) as u64)
    }

    /// Moves the stamp to `now` and lets failures decay. Returns what is left of older observations.
    fn age(&mut self, config: &EwmaConfig, now: Instant) -> f64 {
        let keep = self.keep(config, now);
        self.failures *= keep;
        self.weighing *= keep;
        self.stamp = self.stamp.max(now);
        keep
    }

    fn keep(&self, config: &EwmaConfig, now: Instant) -> f64 {
        let elapsed = nanos(now.saturating_duration_since(self.stamp));
        (-elapsed / nanos(config.decay).max(1.0)).exp()
    }
}

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn measured(rtt: Duration, now: Instant) -> (EwmaConfig, Ewma) {
        let config = EwmaConfig::default();
        let mut ewma = Ewma::new(&config, now);
        ewma.succeeded(&config, rtt, now);
        (config, ewma)
    }

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() <= right.abs() * 1e-6
    }

    #[test]
    fn the_seed_counts_until_the_first_response() {
        let (config, now) = (EwmaConfig::default(), Instant::now());
        let mut ewma = Ewma::new(&config, now);
        assert_eq!(ewma.load(&config, 0, now), 0.0);
        assert!(near(ewma.load(&config, 1, now), 60e6));
        assert!(near(
            ewma.load(&config, 1, now + Duration::from_secs(30)),
            60e6
        ));
        ewma.succeeded(&config, 2 * MS, now);
        assert!(near(ewma.load(&config, 0, now), 2e6));
    }

    #[test]
    fn a_peak_counts_at_once_and_decays_over_ten_seconds() {
        let now = Instant::now();
        let (config, mut ewma) = measured(MS, now);
        ewma.succeeded(&config, 200 * MS, now);
        assert!(near(ewma.load(&config, 0, now), 200e6));
        let later = now + Duration::from_secs(10);
        assert!(near(
            ewma.estimate(&config, later).as_nanos() as f64,
            200e6 / std::f64::consts::E
        ));
        assert!(near(
            ewma.load(&config, 1, later),
            2.0 * 200e6 / std::f64::consts::E
        ));
    }

    #[test]
    fn a_lower_latency_counts_by_the_time_that_passed() {
        let now = Instant::now();
        let (config, mut ewma) = measured(100 * MS, now);
        let later = now + Duration::from_secs(5);
        ewma.succeeded(&config, 10 * MS, later);
        let keep = (-0.5f64).exp();
        assert!(near(
            ewma.load(&config, 0, later),
            100e6 * keep + 10e6 * (1.0 - keep)
        ));
    }

    #[test]
    fn failures_weigh_as_latency() {
        let now = Instant::now();
        let (config, mut ewma) = measured(20 * MS, now);
        ewma.failed(&config, MS / 10, false, now);
        assert!(near(ewma.load(&config, 0, now), 20e6), "too early");
        ewma.succeeded(&config, 20 * MS, now);
        let one = ewma.load(&config, 0, now);
        assert!(near(one, 20e6), "one failure: {}", one / 20e6);
        (0..100).for_each(|_| ewma.failed(&config, MS / 10, true, now));
        let many = ewma.load(&config, 0, now);
        assert!(
            (15.0..=16.0).contains(&(many / 20e6)),
            "only failures: {}",
            many / 20e6
        );
        (0..100).for_each(|_| ewma.succeeded(&config, 20 * MS, now));
        assert!(
            ewma.load(&config, 0, now) < 21e6,
            "forgotten after successes"
        );
    }

    #[test]
    fn a_first_failure_does_not_turn_the_seed_into_a_measurement() {
        let (config, now) = (EwmaConfig::default(), Instant::now());
        let mut ewma = Ewma::new(&config, now);
        ewma.failed(&config, MS, false, now);
        assert_eq!(ewma.load(&config, 0, now), 0.0, "still unknown");
        ewma.failed(&config, 1000 * MS, false, now);
        assert!(
            near(ewma.load(&config, 0, now), 1e9),
            "it takes a second to fail"
        );
    }

    #[test]
    fn a_recovered_endpoint_is_as_good_as_its_probe() {
        let now = Instant::now();
        let (config, mut ewma) = measured(500 * MS, now);
        (0..50).for_each(|_| ewma.failed(&config, 1000 * MS, true, now));
        ewma.recovered(&config, 2 * MS, now);
        assert!(near(ewma.load(&config, 0, now), 2e6));
    }

    #[test]
    fn giving_up_only_raises_the_estimate() {
        let now = Instant::now();
        let (config, mut ewma) = measured(20 * MS, now);
        ewma.cancelled(&config, MS, now);
        assert!(near(ewma.load(&config, 0, now), 20e6));
        ewma.cancelled(&config, 500 * MS, now);
        assert!(near(ewma.load(&config, 0, now), 500e6));
    }

    #[test]
    fn a_clock_that_steps_back_does_no_harm() {
        let now = Instant::now() + Duration::from_secs(100);
        let (config, mut ewma) = measured(20 * MS, now);
        let before = now - Duration::from_secs(50);
        assert!(near(ewma.load(&config, 0, before), 20e6));
    }
}
