//! The port that proxies connect to: TLS with certificates of the mesh, HTTP/2, three gRPC services.
//!
//! A client certificate is optional in the handshake, because a new proxy has none yet: Certify asks for a
//! token instead. The other services ask for the certificate ([`client`]), which has been verified against the
//! current trust bundle.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_api::SpiffeId;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status, body::Body, codegen::Service};
use x509_parser::prelude::GeneralName;

/// A client that has not finished its handshake by then is not one of ours.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pings find dead peers behind which the kernel keeps a connection open.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(10);
/// When accepting fails (out of file descriptors), trying again at once would only burn the processor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The verified identity of the client, in a request's extensions.
#[derive(Clone)]
struct Client(SpiffeId);

/// Who sends this request.
///
/// # Errors
/// UNAUTHENTICATED without a certificate.
pub(crate) fn client<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    let client = request.extensions().get::<Client>();
    client.map(|client| client.0.clone()).ok_or_else(|| {
        Status::unauthenticated("this service needs a client certificate: call Identity.Certify first, then connect with it")
    })
}

/// A gRPC service, or several behind one another's paths.
pub(crate) trait Grpc:
    Service<
        http::Request<Incoming>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Grpc for S where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static
{
}

/// Several gRPC services on one port: the first part of the path is the service's name.
#[derive(Clone)]
pub(crate) struct Services<I, D, T> {
    pub(crate) identity: I,
    pub(crate) discovery: D,
    pub(crate) telemetry: T,
}

impl<I: Grpc, D: Grpc, T: Grpc> Service<http::Request<Incoming>> for Services<I, D, T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        // The generated services are always ready.
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            "mesh.v1.Discovery" => Box::pin(self.discovery.call(request)),
            "mesh.v1.Telemetry" => Box::pin(self.telemetry.call(request)),
            // It answers UNIMPLEMENTED to what is not its own.
            _ => Box::pin(self.identity.call(request)),
        }
    }
}

/// Serves proxies until `stop`, then lets streams end by themselves.
pub(crate) async fn serve_proxies(
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    services: impl Grpc,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let (services, stop) = (services.clone(), stop.clone());
        connections.spawn(async move {
            let from = stream.peer_addr().ok();
            match tokio::time::timeout(HANDSHAKE, handshake(acceptor, stream)).await {
                Ok(Ok((stream, client))) => serve_connection(stream, client, services, stop).await,
                Ok(Err(error)) => tracing::info!(?from, %error, "TLS handshake failed"),
                Err(_) => tracing::info!(?from, "TLS handshake took too long"),
            }
        });
    }
}

/// HTTP/2 on one connection, until it or `stop`.
pub(crate) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Option<SpiffeId>,
    services: impl Grpc,
    stop: CancellationToken,
) {
    let client = client.map(Client);
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        if let Some(client) = &client {
            request.extensions_mut().insert(client.clone());
        }
        services.clone().call(request)
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> std::io::Result<(tokio_rustls::server::TlsStream<TcpStream>, Option<SpiffeId>)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let client = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| identity(chain.first()?));
    Ok((stream, client))
}

/// The only URI name of a certificate that has been verified.
fn identity(certificate: &CertificateDer<'_>) -> Option<SpiffeId> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    // SPIFFE X509-SVID, section 2: exactly one URI.
    let only = uris.next()?.parse().ok();
    only.filter(|_| uris.next().is_none())
}
