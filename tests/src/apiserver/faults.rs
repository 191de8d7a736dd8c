//! What a test can let go wrong.

use tokio::sync::watch;

/// How the server treats connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It serves.
    #[default]
    Up,
    /// It closes every connection, old and new.
    Refusing,
    /// It accepts connections and answers nothing, and what it was sending stops.
    Hanging,
}

/// The switches.
#[derive(Debug, Default)]
pub(super) struct Faults {
    availability: watch::Sender<Availability>,
    /// Counts how often all watches were broken off.
    breaks: watch::Sender<u64>,
}

impl Faults {
    pub(super) fn set(&self, availability: Availability) {
        self.availability.send_replace(availability);
    }

    pub(super) fn break_watches(&self) {
        self.breaks.send_modify(|count| *count += 1);
    }

    pub(super) fn availability(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }

    /// Changes when all watches are to end.
    pub(super) fn breaks(&self) -> watch::Receiver<u64> {
        self.breaks.subscribe()
    }
}
