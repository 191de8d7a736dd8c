//! Accepting connections until SIGTERM, then finishing what is in flight.

use std::{convert::Infallible, error::Error, future::Future, net::Ipv6Addr, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// What in-flight work gets after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// An answer of the shop over HTTP.
pub(super) type Answer = (StatusCode, String);

/// Changes once: at SIGTERM.
pub(super) type Stop = watch::Receiver<bool>;

/// Hands each connection on `port` to `handle`.
///
/// # Errors
/// The port is taken.
pub(super) async fn tcp<F, Fut>(port: u16, handle: F) -> Result<()>
where
    F: Fn(TcpStream, Stop) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut sigterm = signal(SignalKind::terminate())?;
    // The wildcard of IPv6 takes IPv4 too, unless the kernel has no IPv6.
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", port))
            .await
            .with_context(|| format!("Can't listen on port {port}"))?,
    };
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(handle(stream, stopped.clone()));
                }
                // Out of descriptors, most likely: they come back as connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = sigterm.recv() => break,
        }
    }
    drop(listener);
    stop.send_replace(true);
    let finish = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, finish).await;
    Ok(())
}

/// Serves HTTP/1.1: `handle` gets method, path and body; `/healthz` is answered here.
///
/// # Errors
/// The port is taken.
pub(super) async fn http<F, Fut>(port: u16, handle: F) -> Result<()>
where
    F: Fn(Method, String, Bytes) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let handle = handle.clone();
        async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path().to_owned();
            let (status, text) = match body.collect().await {
                _ if path == "/healthz" => (StatusCode::OK, "ok".into()),
                Ok(body) => handle(head.method, path, body.to_bytes()).await,
                Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
            };
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    http_service(port, service).await
}

/// Serves HTTP/1.1 and HTTP/2 with a service of any kind.
///
/// # Errors
/// The port is taken.
pub(super) async fn http_service<S, B>(port: u16, service: S) -> Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    tcp(port, move |stream, stop| {
        http_connection(stream, stop, service.clone())
    })
    .await
}

/// Serves one connection until the client leaves, or until nothing is in flight after the stop.
pub(super) async fn http_connection<S, B>(stream: TcpStream, mut stop: Stop, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    // That a client goes away in the middle is everyday life for a server.
    let _ = tokio::select! {
        result = connection.as_mut() => result,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}
