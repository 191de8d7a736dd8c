//! Clients that say nothing at first: the first side to speak decides what the connection is.

use std::cell::Cell;

/// Who speaks first at a destination, as far as it has been seen: so that later connections neither wait nor
/// open an upstream in vain.
#[derive(Debug, Default)]
pub struct Learnt(Cell<Speaker>);

/// Who spoke first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaker {
    /// Not seen yet.
    #[default]
    Unknown,
    /// Clients, of a protocol that has them speak first (HTTP, TLS).
    Client,
    /// The server.
    Server,
}

impl Learnt {
    /// What has been seen.
    pub fn speaker(&self) -> Speaker {
        self.0.get()
    }
}
