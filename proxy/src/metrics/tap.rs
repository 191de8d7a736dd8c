//! Single requests as they happen, for `mesh tap`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mesh_api::v1::TapEvent;

/// Where workers offer requests while somebody watches. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    active: Arc<AtomicBool>,
}

impl Tap {
    /// Whether somebody watches: one relaxed load. Check it before building an event.
    pub fn active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Offers a request; it is dropped when nobody's filter matches, or too many came this second.
    pub fn offer(&self, _event: TapEvent) {}
}
