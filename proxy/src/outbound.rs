//! The outbound story: a connection of this pod's own apps, from its first byte to an endpoint.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use mesh_api::v1::{self, Direction, Security};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::balance::Outcome;
use crate::connect::{self, ConnectError};
use crate::detect::{self, ClientHello, HttpVersion, Protocol};
use crate::http;
use crate::io::{Io, Plain};
use crate::listen::original_destination;
use crate::metrics::{Cause, PeerLabels, PeerMetrics};
use crate::quiet::{self, First, Speaker, Undecided};
use crate::target::{Peer, Target, Unavailable};
use crate::tcp;
use crate::tls::{Alpn, TlsError};
use crate::worker::Worker;

#[cfg(test)]
mod tests;

/// For discovery's first answer about a destination, and for an endpoint to become ready.
pub const READY_WAIT: Duration = Duration::from_secs(3);
/// A client that says nothing for so long may be waiting for the server to speak first.
const MOMENT: Duration = Duration::from_millis(20);
/// Endpoints that are tried for one opaque connection, at most.
const ATTEMPTS: usize = 3;

/// No endpoint could be opened for an opaque connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The last one that was tried.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// Serves one accepted connection until it ends.
pub async fn serve(worker: Rc<Worker>, tcp: TcpStream, client: SocketAddr) {
    match original_destination(&tcp, client, worker.own_ports()) {
        Ok(destination) => connection(worker, tcp, client, destination).await,
        Err(error) => {
            if worker.is_news(error.cause(), client) {
                tracing::warn!(%client, "outbound connection refused: {error}");
            }
            refused(&worker, None).error(error.cause());
            Io::from(tcp).reset();
        }
    }
}

/// Serves one connection whose client dialled `destination`.
pub async fn connection(
    worker: Rc<Worker>,
    tcp: TcpStream,
    client: SocketAddr,
    destination: SocketAddr,
) {
    let target = worker.target(destination);
    if !target.answered(READY_WAIT).await {
        undiscovered(&worker, &target, client);
    }
    let (protocol, heard, upstream) = match target.protocol() {
        v1::Protocol::Opaque => (Protocol::Opaque, Bytes::new(), None),
        v1::Protocol::Detect => {
            let open = async || open(&worker, &target, None).await;
            let moment = match target.learnt.speaker() {
                Speaker::Server => Duration::ZERO,
                Speaker::Client | Speaker::Unknown => MOMENT,
            };
            match quiet::first(&tcp, &target.learnt, moment, detect::detect, open).await {
                Ok(First::Client {
                    protocol,
                    bytes,
                    upstream,
                }) => (protocol, bytes, upstream),
                Ok(First::Server {
                    upstream,
                    bytes,
                    client_bytes,
                }) => return copy(Io::from(tcp), upstream, client_bytes, bytes, &target).await,
                Err(Undecided::Open(error)) => return not_opened(&worker, tcp, &target, &error),
                Err(error) => return undecided(&worker, tcp, &target, &error),
            }
        }
        declared => match quiet::hear(&tcp).await {
            Ok((said, heard)) => (as_declared(declared, said), heard, None),
            Err(error) => return undecided(&worker, tcp, &target, &error),
        },
    };
    // The futures of what follows are boxed: they are larger than all that a quiet connection needs.
    match protocol {
        Protocol::Http(version) => {
            if let Some(upstream) = upstream {
                close(upstream);
            }
            let io = Plain::new(tcp, heard).into();
            let serving = http::outbound::serve(worker, io, client, version, target);
            Box::pin(serving).await;
        }
        Protocol::Tls(hello) => {
            Box::pin(opaque(worker, tcp, heard, upstream, target, Some(hello))).await;
        }
        Protocol::Opaque => {
            // Closed without a word where clients speak first: a health check, or a connection never used.
            if heard.is_empty() && upstream.is_none() && target.learnt.client_speaks_first() {
                return;
            }
            Box::pin(opaque(worker, tcp, heard, upstream, target, None)).await;
        }
    }
}

/// Discovery did not answer in time. What was known of the destination before is used again, so that one of the
/// mesh is not sent to in clear; one that was never met is passed through.
fn undiscovered(worker: &Worker, target: &Target, client: SocketAddr) {
    let destination = target.address;
    refused(worker, None).error(Cause::Undiscovered);
    let recalled = worker.discovery.recall(destination);
    if !recalled {
        target.pass_through();
    }
    if worker.is_news(Cause::Undiscovered, destination) {
        let instead = match recalled {
            true => "using what was known before",
            false => "passing through",
        };
        tracing::info!(%client, %destination, "discovery did not answer in time: {instead}");
    }
}

/// What the controller declared counts, but for the difference between HTTP versions, and the app's own TLS.
pub(crate) fn as_declared(declared: v1::Protocol, said: Protocol) -> Protocol {
    match (declared, said) {
        (v1::Protocol::Http | v1::Protocol::Http2, Protocol::Opaque) => {
            // Malformed: the HTTP server says so.
            Protocol::Http(HttpVersion::Http1)
        }
        (v1::Protocol::Tls, Protocol::Http(_)) => Protocol::Opaque,
        (_, said) => said,
    }
}

/// Carries bytes of which nothing is known but perhaps that they are the app's own TLS.
async fn opaque(
    worker: Rc<Worker>,
    tcp: TcpStream,
    heard: Bytes,
    upstream: Option<Io>,
    target: Rc<Target>,
    hello: Option<ClientHello>,
) {
    let opened = match upstream {
        Some(upstream) => Ok(upstream),
        None => open(&worker, &target, hello.as_ref()).await,
    };
    match opened {
        Ok(upstream) => copy(Io::from(tcp), upstream, heard, Bytes::new(), &target).await,
        Err(error) => not_opened(&worker, tcp, &target, &error),
    }
}

/// Opens a connection to an endpoint of the target; to another one where the first can't be reached: nothing
/// was sent yet.
async fn open(
    worker: &Worker,
    target: &Rc<Target>,
    hello: Option<&ClientHello>,
) -> Result<Io, OpenError> {
    target.ready(READY_WAIT).await?;
    let mut attempt = 1;
    let mut failed = None;
    loop {
        let picked = target.pick(failed)?;
        let peer = picked.peer.clone();
        let metrics = opaque_metrics(worker, &peer, hello);
        let started = Instant::now();
        let dialled = connect::dial_counted(worker, &peer, Alpn::Tcp, &metrics).await;
        // How long the connection stays open says nothing about the endpoint: it is finished with here.
        match dialled {
            Ok(io) => {
                picked.finish_after(Outcome::Success, started.elapsed());
                return Ok(io);
            }
            Err(error) => {
                picked.finish_after(Outcome::Failure, started.elapsed());
                // A busy peer may take a late ClientHello for a quiet client and let its app speak in clear.
                let again = match &error {
                    ConnectError::Tls {
                        source: TlsError::Protocol(_) | TlsError::Io(_),
                        ..
                    } => 2,
                    _ => 1,
                };
                if attempt >= ATTEMPTS.min(target.endpoints().max(again)) {
                    return Err(error.into());
                }
            }
        }
        attempt += 1;
        failed = Some(peer.endpoint.address);
    }
}

/// The app's own TLS counts apart where the mesh does not secure it.
fn opaque_metrics(worker: &Worker, peer: &Peer, hello: Option<&ClientHello>) -> Rc<PeerMetrics> {
    let labels = peer.metrics.labels();
    let Some(hello) = hello.filter(|_| labels.security != Security::Mtls) else {
        return peer.metrics.clone();
    };
    let authority = match (&hello.sni, labels.security) {
        (Some(sni), Security::Outside) => sni[..].into(),
        _ => labels.authority.clone(),
    };
    worker.metrics.peer(PeerLabels {
        security: Security::AppTls,
        authority,
        ..labels.clone()
    })
}

async fn copy(client: Io, upstream: Io, heard: Bytes, banner: Bytes, target: &Target) {
    let copied = tcp::copy(client, upstream, heard, banner).await;
    let destination = target.address;
    match &copied.broken {
        Some(broken) => tracing::debug!(%destination, ?copied, "outbound: {broken}"),
        None => tracing::debug!(%destination, ?copied, "outbound: closed"),
    }
}

/// Ends an upstream that was opened in vain, so that its peer sees an orderly end.
fn close(mut upstream: Io) {
    spawn_local(async move {
        // It may be gone already.
        let _ = upstream.shutdown().await;
    });
}

/// Ends a connection of which nobody said enough.
fn undecided<E: std::fmt::Display>(
    worker: &Worker,
    tcp: TcpStream,
    target: &Target,
    error: &Undecided<E>,
) {
    tracing::debug!(destination = %target.address, "outbound: {error}");
    if let Some(cause) = error.cause() {
        refused(worker, Some(target)).error(cause);
    }
    error.end(tcp);
}

/// Ends a connection for which no endpoint could be opened: as the app would see it without a proxy.
fn not_opened(worker: &Worker, tcp: TcpStream, target: &Target, error: &OpenError) {
    if let OpenError::Unavailable(_) = error {
        if worker.is_news(Cause::NoEndpoint, target.address) {
            tracing::info!(destination = %target.address, "outbound: {error}");
        }
        refused(worker, Some(target)).error(Cause::NoEndpoint);
    }
    Io::from(tcp).reset();
}

/// What is counted where no endpoint is to blame.
pub(crate) fn refused(worker: &Worker, target: Option<&Target>) -> Rc<PeerMetrics> {
    worker.metrics.peer(PeerLabels {
        direction: Direction::Outbound,
        service: target.and_then(Target::service),
        workload: None,
        pod: "".into(),
        identity: None,
        security: Security::Unspecified,
        authority: "".into(),
    })
}
