//! The inbound story: a connection to this pod, from its first byte to the app.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_api::SpiffeId;
use mesh_api::v1::{self, Direction, Security, ServicePort};
use tokio::net::TcpStream;

use crate::connect::{self, ConnectError, tls_cause};
use crate::detect::{self, HttpVersion, Protocol};
use crate::http;
use crate::io::{Io, Plain};
use crate::listen::original_destination;
use crate::metrics::{PeerLabels, PeerMetrics};
use crate::outbound::as_declared;
use crate::quiet::{self, First, Learnt, Undecided};
use crate::tcp;
use crate::tls::{Accepted, Alpn};
use crate::worker::Worker;

#[cfg(test)]
mod tests;

/// A caller that says nothing for so long may be waiting for the app to speak first. Longer than outbound:
/// a meshed caller's ClientHello must not be overtaken by the app's banner in clear.
const MOMENT: Duration = Duration::from_millis(40);

/// One port of the app in this pod, as it is dialled from outside.
#[derive(Debug)]
pub struct App {
    /// Where the app listens.
    pub address: SocketAddr,
    /// Idle HTTP connections to it.
    pub pool: http::Pool,
    /// Who speaks first there.
    pub learnt: Learnt,
    last_used: Cell<Instant>,
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

/// Serves one accepted connection until it ends.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, client: SocketAddr) {
    match original_destination(&tcp, client, worker.own_ports()) {
        Ok(destination) => connection(worker, tcp, client, destination).await,
        Err(error) => {
            if worker.is_news(error.cause(), client) {
                tracing::warn!(%client, "inbound connection refused: {error}");
            }
            let caller = caller(&worker, client, None, None, Security::Unspecified);
            caller.metrics.error(error.cause());
            Io::from(tcp).reset();
        }
    }
}

/// Serves one connection that was dialled to `destination`, an address of this pod.
pub async fn connection(
    worker: Rc<Worker>,
    tcp: TcpStream,
    client: SocketAddr,
    destination: SocketAddr,
) {
    let app = worker.app(destination);
    let (declared, service) = worker.inbound_port(destination.port());
    // On an opaque port too: a meshed caller begins with a ClientHello, which is not for the app.
    let detect = match declared {
        v1::Protocol::Opaque => detect::tls_or_opaque,
        _ => detect::detect,
    };
    let unmeshed = |security| unmeshed(&worker, client, destination, service.clone(), security);
    let open = async || connect::dial_app(&worker, destination).await;
    let first = quiet::first(&tcp, &app.learnt, MOMENT, detect, open).await;
    let (protocol, heard, upstream, banner) = match first {
        Ok(First::Client {
            protocol,
            bytes,
            upstream,
        }) => (protocol, bytes, upstream, Bytes::new()),
        Ok(First::Server {
            upstream,
            bytes,
            client_bytes,
        }) => (Protocol::Opaque, client_bytes, Some(upstream), bytes),
        Err(error) => {
            let caller = unmeshed(Security::PeerNotMeshed);
            return undecided(tcp, &caller, &app, &error);
        }
    };
    // The futures of what follows are boxed: they are larger than all that a quiet connection needs.
    match as_declared(declared, protocol) {
        Protocol::Tls(hello) if hello.alpn.iter().any(|p| Alpn::from_wire(p).is_some()) => {
            Box::pin(meshed(worker, Plain::new(tcp, heard), client, app, service)).await;
        }
        Protocol::Http(version) => {
            let caller = unmeshed(match is_probe(&heard) {
                true => Security::Probe,
                false => Security::PeerNotMeshed,
            });
            let io = Io::from(Plain::new(tcp, heard));
            Box::pin(http::inbound::serve(worker, io, version, caller, app)).await;
        }
        Protocol::Opaque if heard.is_empty() && upstream.is_none() && silent(declared, &app) => {}
        protocol => {
            let security = match protocol {
                Protocol::Tls(_) => Security::AppTls,
                _ => Security::PeerNotMeshed,
            };
            let caller = unmeshed(security);
            let io = Io::from(tcp).counted(caller.metrics.connection());
            Box::pin(opaque(worker, io, heard, upstream, banner, caller, app)).await;
        }
    }
}

/// Serves a connection that another proxy opened.
async fn meshed(
    worker: Rc<Worker>,
    plain: Plain,
    client: SocketAddr,
    app: Rc<App>,
    service: Option<Arc<ServicePort>>,
) {
    let accepted = match worker.tls.accept(plain.reading_ahead()).await {
        Ok(accepted) => accepted,
        Err(error) => {
            let (app, cause) = (app.address, tls_cause(&error));
            if worker.is_news(cause, client) {
                match cause.is_for_somebody_to_look_at() {
                    true => {
                        tracing::warn!(%client, %app, "a mesh connection was refused: {error}");
                    }
                    false => tracing::info!(%client, %app, "a mesh connection failed: {error}"),
                }
            }
            let caller = caller(&worker, client, None, service, Security::Unspecified);
            return caller.metrics.error(cause);
        }
    };
    let Accepted { stream, peer, alpn } = accepted;
    let caller = caller(&worker, client, Some(peer), service, Security::Mtls);
    let io = Io::from(stream);
    match alpn {
        Alpn::Http1 => http::inbound::serve(worker, io, HttpVersion::Http1, caller, app).await,
        Alpn::Http2 => http::inbound::serve(worker, io, HttpVersion::Http2, caller, app).await,
        Alpn::Tcp => {
            let io = io.counted(caller.metrics.connection());
            opaque(worker, io, Bytes::new(), None, Bytes::new(), caller, app).await;
        }
    }
}

/// Carries opaque bytes to the app and back. `heard` and `banner` have been read from either side already.
async fn opaque(
    worker: Rc<Worker>,
    io: Io,
    heard: Bytes,
    upstream: Option<Io>,
    banner: Bytes,
    caller: Caller,
    app: Rc<App>,
) {
    let opened = match upstream {
        Some(upstream) => Ok(upstream),
        None => connect::dial_app(&worker, app.address).await,
    };
    match opened {
        Ok(upstream) => {
            let copied = tcp::copy(io, upstream, heard, banner).await;
            match &copied.broken {
                Some(broken) => {
                    tracing::debug!(client = %caller.address, app = %app.address, ?copied, "inbound: {broken}");
                }
                None => {
                    tracing::debug!(client = %caller.address, app = %app.address, ?copied, "inbound: closed");
                }
            }
        }
        Err(error) => {
            if worker.is_news(error.cause(), caller.address) {
                tracing::info!(client = %caller.address, "inbound: {error}");
            }
            caller.metrics.error(error.cause());
            io.reset();
        }
    }
}

/// Ends a connection of which nobody said enough.
fn undecided(tcp: TcpStream, caller: &Caller, app: &App, error: &Undecided<ConnectError>) {
    tracing::debug!(client = %caller.address, app = %app.address, "inbound: {error}");
    let cause = match error {
        Undecided::Open(error) => Some(error.cause()),
        other => other.cause(),
    };
    if let Some(cause) = cause {
        caller.metrics.error(cause);
    }
    error.end(tcp);
}

/// Whether a connection that closed without a word was not worth telling the app of: a health check, or one
/// that was never used.
fn silent(declared: v1::Protocol, app: &App) -> bool {
    declared != v1::Protocol::Opaque && app.learnt.client_speaks_first()
}

/// Whether the first request of a connection is a kubelet's HTTP probe, by its own word: that decides how it is
/// counted, and nothing else. The kubelet sends a request whole, on a connection of its own. Its gRPC probes are told
/// by [`http::inbound::serve`]: they begin as every gRPC client does.
fn is_probe(request: &[u8]) -> bool {
    const HEADER: &[u8] = b"\r\nUser-Agent: kube-probe/";
    request.windows(HEADER.len()).any(|at| at == HEADER)
}

/// A caller without a proxy; `security` says of what kind, but a pod may call itself.
fn unmeshed(
    worker: &Worker,
    client: SocketAddr,
    destination: SocketAddr,
    service: Option<Arc<ServicePort>>,
    security: Security,
) -> Caller {
    let security = match security {
        Security::PeerNotMeshed if client.ip() == destination.ip() => Security::Loopback,
        other => other,
    };
    caller(worker, client, None, service, security)
}

fn caller(
    worker: &Worker,
    address: SocketAddr,
    identity: Option<SpiffeId>,
    service: Option<Arc<ServicePort>>,
    security: Security,
) -> Caller {
    let labels = PeerLabels {
        direction: Direction::Inbound,
        service,
        workload: None,
        pod: "".into(),
        identity: identity.clone(),
        security,
        authority: "".into(),
    };
    Caller {
        address,
        identity,
        security,
        metrics: worker.metrics.peer(labels),
    }
}

impl App {
    pub(crate) fn new(address: SocketAddr, now: Instant) -> Self {
        Self {
            address,
            pool: http::Pool::default(),
            learnt: Learnt::default(),
            last_used: Cell::new(now),
        }
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self, now: Instant) {
        self.last_used.set(now);
    }

    /// When it was last used.
    pub(crate) fn last_used(&self) -> Instant {
        self.last_used.get()
    }
}
