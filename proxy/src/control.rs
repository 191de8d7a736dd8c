//! The way to the controller: gRPC over our own connector, so that connections carry the proxy's mark and are
//! secured by SPIFFE ids, with this proxy's certificate once it has one.
//!
//! What fails shows as the error of a call on the channel; callers try again after a pause.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::balance::Backoff;
use crate::config::Controller;
use crate::tls::{ClientTls, Tls, TlsError, TrustBundle, TrustBundleError};

/// For TCP and TLS together; the controller is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An address where nobody answers leaves time for the others of its name.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);
/// A controller that vanished without a word is noticed after the sum of these two.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that the pause after a first failure can be.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Never dialled: the connector knows the address.
const NOMINAL_URI: &str = "http://mesh-controller";

/// The controller can't be reached, or is not who it should be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The roots by which to know it.
    #[error("the trust bundle {file}: {source}")]
    BundleFile {
        /// Its path.
        file: String,
        /// Why it can't be read.
        source: io::Error,
    },
    /// The roots by which to know it.
    #[error("the trust bundle {file}: {source}")]
    Bundle {
        /// Its path.
        file: String,
        /// Why it can't be used.
        source: TrustBundleError,
    },
    /// Its name has no address.
    #[error("the controller's name {host} can't be resolved: {source}")]
    Resolve {
        /// As configured.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("the controller at {address} can't be reached: {source}")]
    Tcp {
        /// The address tried last.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No TLS connection.
    #[error("the controller at {address} can't be trusted: {source}")]
    Tls {
        /// What was dialled.
        address: SocketAddr,
        /// Why.
        source: TlsError,
    },
}

/// A channel to the controller. It connects at its first call and again whenever the connection is lost;
/// each connection shows the certificate that this proxy has at that time, if any.
pub fn channel(controller: &Arc<Controller>, mark: Option<u32>, tls: &Tls) -> Channel {
    let (controller, tls) = (controller.clone(), tls.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (controller, tls) = (controller.clone(), tls.clone());
        async move { connect(&controller, mark, &tls).await.map(TokioIo::new) }
    });
    Endpoint::from_static(NOMINAL_URI)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// The pauses between attempts.
pub(crate) const fn backoff(longest: Duration) -> Backoff {
    Backoff {
        min: FIRST_PAUSE,
        max: longest,
    }
}

async fn connect(
    controller: &Controller,
    mark: Option<u32>,
    tls: &Tls,
) -> Result<ClientTls<TcpStream>, ConnectError> {
    let bundle = trusted_roots(controller, tls)?;
    let (tcp, address) = dial(controller, mark).await?;
    tls.connect_controller(tcp, &controller.identity, bundle)
        .await
        .map_err(|source| ConnectError::Tls { address, source })
}

/// The roots of the file, read anew for each connection, and those that the controller streamed. Roots may
/// have been rotated while there was no connection; the file is then ahead of what was streamed.
fn trusted_roots(controller: &Controller, tls: &Tls) -> Result<TrustBundle, ConnectError> {
    let file = || controller.trust_bundle_file.display().to_string();
    let domain = controller.identity.trust_domain();
    let streamed = tls.bundle();
    let read = match std::fs::read(&controller.trust_bundle_file) {
        Ok(pem) => TrustBundle::from_pem(domain, &pem).map_err(|source| ConnectError::Bundle {
            file: file(),
            source,
        }),
        Err(source) => Err(ConnectError::BundleFile {
            file: file(),
            source,
        }),
    };
    match (read, streamed) {
        (Ok(read), Some(streamed)) => Ok(read.union(&streamed)),
        (Ok(read), None) => Ok(read),
        (Err(error), Some(streamed)) => {
            tracing::warn!(%error, "using the roots that the controller sent before");
            Ok(TrustBundle::clone(&streamed))
        }
        (Err(error), None) => Err(error),
    }
}

/// The first address of the controller that answers. Its name is resolved each time: it may have moved.
async fn dial(
    controller: &Controller,
    mark: Option<u32>,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let (host, port) = (controller.host.as_str(), controller.port);
    let resolve = |source| ConnectError::Resolve {
        host: host.to_owned(),
        source,
    };
    let mut failure = None;
    for address in lookup_host((host, port)).await.map_err(resolve)? {
        let dialled = timeout(ADDRESS_TIMEOUT, dial_address(address, mark)).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tcp) => return Ok((tcp, address)),
            Err(source) => {
                failure = Some(ConnectError::Tcp {
                    address: address.to_string(),
                    source,
                });
            }
        }
    }
    Err(failure.unwrap_or_else(|| resolve(io::ErrorKind::NotFound.into())))
}

pub(crate) async fn dial_address(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

/// What went wrong with a call, in one line. gRPC's own text shows its causes as Rust values.
pub(crate) fn explain(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    match status.code() {
        // What the transport makes of errors that it can't tell apart; says nothing.
        Code::Unknown => text,
        code => format!("{text} ({code:?})"),
    }
}

/// Says what keeps failing, without flooding the log: warns of what is new, mutters of the rest.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    last: Option<String>,
}

impl Complaints {
    pub(crate) fn complain(&mut self, problem: &str, error: &str, pause: Duration) {
        if self.last.as_deref() == Some(error) {
            tracing::debug!("{problem}: {error}; trying again in {pause:.1?}");
        } else {
            tracing::warn!("{problem}: {error}; trying again");
            self.last = Some(error.to_owned());
        }
    }

    /// It works again: the next failure is news.
    pub(crate) fn settle(&mut self) {
        self.last = None;
    }
}
