//! Idle connections.

use std::time::Instant;

/// The idle HTTP connections of one endpoint or app.
#[derive(Debug, Default)]
pub struct Pool {}

impl Pool {
    /// Closes what has been idle for too long. The worker calls it every few seconds.
    pub fn evict_idle(&self, _now: Instant) {}
}
