//! How many requests may be tried again.
//!
//! Finagle's `RetryBudget`: over any window of 10 s, retries are at most 20 % of the requests plus 10 per
//! second. When everything fails, the load grows by a fifth and not to a multiple; a client with few requests
//! can still retry them.

use std::time::{Duration, Instant};

/// The window slides in this many steps.
const SLOTS: usize = 10;

/// How much a retry budget allows.
#[derive(Clone, Debug)]
pub struct BudgetConfig {
    /// Retries per request. Default 0.2 (Finagle, Linkerd).
    pub ratio: f64,
    /// Retries per second that are always allowed. Default 10 (Finagle, Linkerd).
    pub min_per_second: f64,
    /// How long a request counts. Default 10 s (Finagle, Linkerd).
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
    /// Retries per request.
    ratio: f64,
    /// Retries of a window that need no request.
    reserve: f64,
    /// What requests brought and retries took, per step of the window, in retries.
    slots: [f64; SLOTS],
    /// Length of a step.
    step: Duration,
    /// Slot of the running step, and when that step began.
    current: usize,
    began: Instant,
}

impl RetryBudget {
    /// A budget with its reserve full.
    pub fn new(config: BudgetConfig, now: Instant) -> Self {
        Self {
            ratio: config.ratio,
            reserve: config.min_per_second * config.window.as_secs_f64(),
            slots: [0.0; SLOTS],
            step: (config.window / SLOTS as u32).max(Duration::from_millis(1)),
            current: 0,
            began: now,
        }
    }

    /// Counts a request (not a retry).
    pub fn deposit(&mut self, now: Instant) {
        self.slide(now);
        self.slots[self.current] += self.ratio;
    }

    /// Takes one retry, if the budget has one.
    #[must_use]
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.slide(now);
        let balance = self.reserve + self.slots.iter().sum::<f64>();
        // Deposits are sums of fifths, which floating point can't hold exactly.
        let allowed = balance >= 1.0 - 1e-6;
        if allowed {
            self.slots[self.current] -= 1.0;
        }
        allowed
    }

    fn slide(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < self.step {
            return;
        }
        let steps = (elapsed.as_nanos() / self.step.as_nanos()) as usize;
        if steps >= SLOTS {
            self.slots = [0.0; SLOTS];
            self.began = now;
            return;
        }
        for _ in 0..steps {
            self.current = (self.current + 1) % SLOTS;
            self.slots[self.current] = 0.0;
            self.began += self.step;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quiet_client_has_ten_retries_per_second() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(BudgetConfig::default(), now);
        assert_eq!((0..1000).filter(|_| budget.withdraw(now)).count(), 100);
        let later = now + Duration::from_secs(10);
        assert_eq!((0..1000).filter(|_| budget.withdraw(later)).count(), 100);
    }

    #[test]
    fn a_fifth_of_the_requests() {
        let now = Instant::now();
        let config = BudgetConfig {
            min_per_second: 0.0,
            ..BudgetConfig::default()
        };
        let mut budget = RetryBudget::new(config, now);
        assert!(!budget.withdraw(now));
        (0..1000).for_each(|_| budget.deposit(now));
        assert_eq!((0..1000).filter(|_| budget.withdraw(now)).count(), 200);
        (0..1000).for_each(|_| budget.deposit(now));
        let later = now + Duration::from_secs(10);
        assert!(!budget.withdraw(later), "the allowance is forgotten");
    }

    proptest! {
        // What the budget is for: whatever the order of requests and retries, no window has more retries
        // than its requests and its reserve allow (a window may be one step longer than it says).
        #[test]
        fn never_more_than_the_window_allows(events in prop::collection::vec((0u64..500, any::<bool>()), 1..2000)) {
            let mut now = Instant::now();
            let config = BudgetConfig { min_per_second: 1.0, ..BudgetConfig::default() };
            let mut budget = RetryBudget::new(config, now);
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            for (wait_ms, retry) in events {
                now += Duration::from_millis(wait_ms);
                if !retry {
                    budget.deposit(now);
                    requests.push(now);
                } else if budget.withdraw(now) {
                    retries.push(now);
                }
                let within = |times: &[Instant], window| times.iter().filter(|at| now - **at < window).count();
                let spent = within(&retries, Duration::from_secs(9)) as f64;
                // Requests pay for retries that come up to a window later.
                let allowed = 10.0 + 0.2 * within(&requests, Duration::from_secs(19)) as f64;
                prop_assert!(spent <= allowed + 1e-3, "{spent} retries, {allowed} allowed");
            }
        }
    }
}
