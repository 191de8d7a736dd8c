//! Connections that the proxy opens: to endpoints, and to the app beside it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mesh_api::SpiffeId;
use mesh_api::v1::Security;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::io::{Io, Plain, tune_local, tune_remote};
use crate::metrics::{Cause, PeerMetrics};
use crate::target::Peer;
use crate::tls::{Alpn, TlsError};
use crate::worker::Worker;

/// For an endpoint to take a TCP connection (the design's default; Linkerd's too).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For the app in the same network namespace (Linkerd's default).
const APP_CONNECT_TIMEOUT: Duration = Duration::from_millis(300);

/// Why a connection could not be made. Nothing of the caller's was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answered.
    #[error("{address} did not take a connection within {after:?}")]
    Timeout {
        /// What was dialled.
        address: SocketAddr,
        /// The limit.
        after: Duration,
    },
    /// The kernel or the peer refused.
    #[error("can't connect to {address}: {source}")]
    Tcp {
        /// What was dialled.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The peer is not who it should be, or does not speak mutual TLS.
    #[error("can't secure the connection to {address} as {identity}: {source}")]
    Tls {
        /// What was dialled.
        address: SocketAddr,
        /// Who it should be.
        identity: SpiffeId,
        /// Why.
        source: TlsError,
    },
}

/// Opens a connection to an endpoint; mutual TLS where it is meshed. `alpn` says what will be inside. Counts
/// a failure, and the connection's bytes.
///
/// # Errors
/// See [`ConnectError`]: nothing was sent, so that another endpoint may be tried.
pub async fn dial(worker: &Worker, peer: &Peer, alpn: Alpn) -> Result<Io, ConnectError> {
    dial_counted(worker, peer, alpn, &peer.metrics).await
}

/// [`dial`], counted as something else than the endpoint's own traffic.
///
/// # Errors
/// As [`dial`].
pub async fn dial_counted(
    worker: &Worker,
    peer: &Peer,
    alpn: Alpn,
    metrics: &Rc<PeerMetrics>,
) -> Result<Io, ConnectError> {
    match dial_endpoint(worker, peer, alpn).await {
        Ok(io) => Ok(io.counted(metrics.connection())),
        Err(error) => {
            let (cause, pod) = (error.cause(), &*peer.endpoint.pod);
            metrics.error(cause);
            if worker.is_news(cause, peer.endpoint.address) {
                match cause.is_for_somebody_to_look_at() {
                    true => tracing::warn!(pod, "{error}"),
                    false => tracing::info!(pod, "{error}"),
                }
            }
            Err(error)
        }
    }
}

/// Opens a connection to the app in this pod, as it was dialled from outside.
///
/// # Errors
/// The app does not listen there, or does not accept in time.
pub async fn dial_app(worker: &Worker, app: SocketAddr) -> Result<Io, ConnectError> {
    let tcp = connect(app, tune_local, worker.config.mark, APP_CONNECT_TIMEOUT).await?;
    Ok(tcp.into())
}

async fn dial_endpoint(worker: &Worker, peer: &Peer, alpn: Alpn) -> Result<Io, ConnectError> {
    let address = peer.endpoint.address;
    let tcp =
        Plain::from(connect(address, tune_remote, worker.config.mark, CONNECT_TIMEOUT).await?);
    let identity = match &peer.endpoint.identity {
        Some(identity) if peer.security() == Security::Mtls => identity,
        _ => return Ok(tcp.into()),
    };
    // Boxed: a handshake's future is large, and rare.
    let handshake = Box::pin(worker.tls.connect(tcp.reading_ahead(), identity, alpn));
    match handshake.await {
        Ok(tls) => Ok(tls.into()),
        Err(source) => Err(ConnectError::Tls {
            address,
            identity: identity.clone(),
            source,
        }),
    }
}

async fn connect(
    address: SocketAddr,
    tune: fn(SockRef<'_>) -> io::Result<()>,
    mark: Option<u32>,
    after: Duration,
) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Tcp { address, source };
    let socket = socket(address, mark).map_err(failed)?;
    tune(SockRef::from(&socket)).map_err(failed)?;
    match timeout(after, socket.connect(address)).await {
        Ok(connected) => connected.map_err(failed),
        Err(_) => Err(ConnectError::Timeout { address, after }),
    }
}

fn socket(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// As what a failed handshake is counted.
pub fn tls_cause(error: &TlsError) -> Cause {
    match error {
        TlsError::WrongIdentity { .. } | TlsError::NoIdentity { .. } => Cause::WrongIdentity,
        TlsError::Expired { .. } | TlsError::NotYetValid { .. } => Cause::CertificateExpired,
        TlsError::ForeignIssuer | TlsError::BadCertificate(_) => Cause::CertificateUntrusted,
        TlsError::NoCertificate | TlsError::NotReady => Cause::CertificateMissing,
        TlsError::Timeout(_) => Cause::ConnectTimeout,
        TlsError::Io(io::ErrorKind::ConnectionReset) => Cause::Reset,
        TlsError::Refused(_) | TlsError::Alpn | TlsError::Protocol(_) | TlsError::Io(_) => {
            Cause::TlsHandshake
        }
    }
}

impl ConnectError {
    /// As what it is counted.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Timeout { .. } => Cause::ConnectTimeout,
            Self::Tcp { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => Cause::Refused,
                io::ErrorKind::ConnectionReset => Cause::Reset,
                io::ErrorKind::TimedOut => Cause::ConnectTimeout,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    Cause::Unreachable
                }
                _ => Cause::Other,
            },
            Self::Tls { source, .. } => tls_cause(source),
        }
    }
}
