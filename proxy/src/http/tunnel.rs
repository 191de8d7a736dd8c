//! After CONNECT and Upgrade: bytes both ways, in a protocol that is nobody's business.

use bytes::Bytes;
use tokio::io::copy_bidirectional;

use super::{exchange::Busy, http2, pool::Lease};
use crate::{io::Io, tcp};

/// The endpoint's side of a protocol that is about to begin.
pub(super) struct Tunnel {
    lease: Lease,
    busy: Busy,
    /// Of an HTTP/2 response.
    stream: Option<http2::TunnelledStream>,
}

impl Tunnel {
    pub(super) fn new(lease: Lease, busy: Busy, stream: Option<http2::TunnelledStream>) -> Self {
        Self {
            lease,
            busy,
            stream,
        }
    }

    /// Connects it to an HTTP/1.x client whose next bytes are `early`.
    pub(super) async fn run(self, client: Io, early: Bytes) {
        let Self { lease, busy, .. } = self;
        let Some(connection) = lease.into_http1() else {
            return;
        };
        let (server, banner) = connection.into_tunnel();
        let copied = tcp::copy(client, server, early, banner).await;
        tracing::debug!(?copied, "an upgraded connection ended");
        drop(busy);
    }

    /// Connects it to an HTTP/2 client's stream, once the response is on its way.
    pub(super) async fn run_stream(self, mut client: http2::TunnelledStream) {
        let Some(mut server) = self.stream else {
            return;
        };
        let copied = copy_bidirectional(&mut client, &mut server).await;
        tracing::debug!(?copied, "a tunnelled stream ended");
        drop(self.busy);
        drop(self.lease);
    }
}
