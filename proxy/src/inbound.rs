//! The inbound story: a connection to this pod, from its first byte to the app.

use std::net::SocketAddr;
use std::rc::Rc;

use mesh_api::SpiffeId;
use mesh_api::v1::Security;

use crate::http;
use crate::metrics::PeerMetrics;
use crate::quiet::Learnt;

/// One port of the app in this pod, as it is dialled from outside.
#[derive(Debug)]
pub struct App {
    /// Where the app listens.
    pub address: SocketAddr,
    /// Idle HTTP connections to it.
    pub pool: http::Pool,
    /// Who speaks first there.
    pub learnt: Learnt,
}

/// Who opened an inbound connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it came from.
    pub address: SocketAddr,
    /// Who it proved to be; none if it is not meshed.
    pub identity: Option<SpiffeId>,
    /// Whether the connection is secured by the mesh.
    pub security: Security,
    /// What is counted about it.
    pub metrics: Rc<PeerMetrics>,
}

impl App {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            pool: http::Pool::default(),
            learnt: Learnt::default(),
        }
    }
}
