//! Freed memory goes back to the system.
//!
//! An allocator keeps what was freed for the next allocations, and looks through it as these come. In a proxy at rest
//! none come: it would hold what its busiest moment took. The program, whose allocator it is, says how to look.

use std::sync::OnceLock;
use std::time::Duration;

/// How often a worker has its allocator look: rarely enough that under load it does not count.
pub(crate) const EVERY: Duration = Duration::from_secs(10);

static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// From now on, each worker calls this now and then, on its own thread. The first one counts.
pub fn give_back_with(collect: fn()) {
    let _ = GIVE_BACK.set(collect);
}

/// Gives back what this thread has freed.
pub(crate) fn give_back() {
    if let Some(collect) = GIVE_BACK.get() {
        collect();
    }
}
