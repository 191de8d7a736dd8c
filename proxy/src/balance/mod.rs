//! Which endpoint gets the next request: Peak-EWMA, the power of two choices, circuit breaking, and how
//! often and when to try again.
//!
//! Pure: no I/O, no clock (every call takes `now`), no randomness of its own. In: the endpoints of a
//! destination and the outcome of every request. Out: a choice in constant time and without allocation.
//! Nothing here can fail; a destination without a usable endpoint has no choice ([`Balancer::pick`] is
//! `None`).

mod backoff;
mod breaker;
mod budget;
mod ewma;
mod lots;
mod pick;
#[cfg(test)]
mod simulation;

pub use backoff::Backoff;
pub use breaker::{BreakerConfig, BreakerState};
pub use budget::{BudgetConfig, RetryBudget};
pub use ewma::EwmaConfig;
pub use pick::{Balancer, Choice, EndpointState, Key};

/// How a balancer behaves. The defaults are the mesh's.
#[derive(Clone, Debug, Default)]
pub struct BalanceConfig {
    /// How latencies become a load.
    pub ewma: EwmaConfig,
    /// When an endpoint is ejected.
    pub breaker: BreakerConfig,
}

/// How a request ended, as far as its endpoint is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered, and not with a failure of its own (5xx, gRPC UNAVAILABLE …).
    Success,
    /// The endpoint failed: connection refused or reset, time-out, 5xx, a failing gRPC status.
    Failure,
    /// The caller gave up: says nothing about the endpoint but that it took at least that long.
    Cancelled,
}
