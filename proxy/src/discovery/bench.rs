//! What the controller says, said by a benchmark.

use mesh_api::v1;

use super::Discovery;

impl Discovery {
    /// Knows what it is told with [`Discovery::tell`], and asks nobody.
    pub fn told() -> Self {
        Self::connected_by_stream("bench", "none").0
    }

    /// The whole state of a destination that is watched. False where it is malformed.
    pub fn tell(&self, destination: v1::Destination) -> bool {
        self.world().set(destination).is_ok()
    }

    /// A change of a destination that has been told. False where it does not fit.
    pub fn tell_change(&self, delta: v1::DestinationDelta) -> bool {
        self.world().change(delta).is_ok()
    }
}
