//! The counters of one peer.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use mesh_api::{
    SpiffeId,
    v1::{Direction, Security, ServicePort, Workload},
};

/// Who is at the other end, and how it is reached: the labels of all that is counted about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerLabels {
    /// Whether this pod called or was called.
    pub direction: Direction,
    /// Outbound: the Service that was dialled. Inbound: the Service in front of the port.
    pub service: Option<Arc<ServicePort>>,
    /// Outbound: the endpoint's workload. Inbound: `None` (the identity tells).
    pub workload: Option<Arc<Workload>>,
    /// Outbound: the endpoint's pod. Empty if unknown.
    pub pod: Arc<str>,
    /// Who the peer proved to be.
    pub identity: Option<SpiffeId>,
    /// Whether the connection is secured by the mesh, and if not, why.
    pub security: Security,
    /// Outside destinations: the host, SNI or address that was dialled. Empty otherwise.
    pub authority: Arc<str>,
}

/// A request that ended.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    /// Standard methods count under their name, all others as "OTHER".
    pub method: &'a Method,
    /// Path, with or without query. Identifiers in it are replaced before it is counted.
    pub path: &'a str,
    /// `None` when no response head arrived.
    pub status: Option<StatusCode>,
    /// `None` when the response was not gRPC.
    pub grpc_status: Option<u16>,
    /// Whether it counts for the success rate.
    pub success: bool,
    /// Times it was sent, less one.
    pub retries: u32,
    /// Time to the end of the response.
    pub latency: Duration,
}

/// Why a connection failed or was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The peer refused the connection.
    Refused,
    /// The connection could not be made in time.
    ConnectTimeout,
    /// No route to the peer.
    Unreachable,
    /// The connection broke.
    Reset,
    /// The peer's certificate names another identity than discovery did.
    WrongIdentity,
    /// The peer's certificate has expired or is not valid yet.
    CertificateExpired,
    /// The peer's certificate is not signed by a root of the mesh.
    CertificateUntrusted,
    /// The peer showed no certificate.
    CertificateMissing,
    /// TLS failed in another way.
    TlsHandshake,
    /// The connection would have come back to this proxy.
    Loop,
    /// The bytes broke the rules of their protocol.
    Protocol,
    /// The destination has no endpoint to send to.
    NoEndpoint,
    /// The peer was silent for too long.
    IdleTimeout,
    /// Anything else.
    Other,
}

/// The counters of one peer on one worker. Single writer: stays on its thread.
#[derive(Debug)]
pub struct PeerMetrics {
    labels: PeerLabels,
}

/// An open connection: counts its bytes, and itself until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    _peer: Rc<PeerMetrics>,
}

impl PeerMetrics {
    pub(super) fn new(labels: PeerLabels) -> Self {
        Self { labels }
    }

    /// What this was resolved for.
    pub fn labels(&self) -> &PeerLabels {
        &self.labels
    }

    /// Counts a request that ended. No lock and, once its route has been seen, no allocation.
    pub fn record(&self, _request: &RequestRecord<'_>) {}

    /// Counts a connection that was made or accepted.
    pub fn connection(self: &Rc<Self>) -> ConnectionGuard {
        ConnectionGuard {
            _peer: self.clone(),
        }
    }

    /// Counts a connection that failed or was refused.
    pub fn error(&self, _cause: Cause) {}
}

impl ConnectionGuard {
    /// Counts bytes that came from the peer.
    pub fn read(&self, _bytes: u64) {}

    /// Counts bytes that went to the peer.
    pub fn written(&self, _bytes: u64) {}
}
