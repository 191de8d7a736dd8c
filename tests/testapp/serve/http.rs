//! The HTTP server, HTTP/1 and HTTP/2 on one port.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use mesh_tests::pattern::{self, Digested};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::App;

type Body = BoxBody<Bytes, hyper::Error>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(answer(&app, request).await) }
    });
    accept(listener, service, stopped).await
}

/// Serves connections until `stopped`, then finishes the requests in flight.
pub(super) async fn accept<S, B>(
    listener: TcpListener,
    service: S,
    mut stopped: watch::Receiver<bool>,
) -> Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(connection(stream, service.clone(), stopped.clone()));
            }
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn connection<S, B>(stream: TcpStream, service: S, mut stopped: watch::Receiver<bool>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let _ = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Idle connections are a test of their own.
        .header_read_timeout(None);
    builder
        .http2()
        .enable_connect_protocol()
        .max_concurrent_streams(2000)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // A connection that breaks is what some tests are about: nothing to report here.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(Duration::from_secs(5), connection).await;
        }
    }
}

async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let head = request.method() == Method::HEAD;
    let mut segments = path.trim_start_matches('/').splitn(2, '/');
    let (verb, argument) = (segments.next().unwrap_or(""), segments.next().unwrap_or(""));
    let number: u64 = argument.parse().unwrap_or(0);
    let mut response = match verb {
        "faults" => set_faults(app, request).await,
        "seen" => json_body(&json!({
            "requests": app.requests.load(Ordering::Relaxed),
            "malformed": app.malformed.load(Ordering::Relaxed),
            "cancelled": app.cancelled.load(Ordering::Relaxed),
            "resets": app.resets.load(Ordering::Relaxed),
        })),
        "ready" => full("ready\n"),
        _ => {
            App::count(&app.requests);
            let faults = app.faults();
            if faults.delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(faults.delay_ms)).await;
            }
            match (StatusCode::from_u16(faults.status), verb) {
                (Ok(status), _) => with_status(full("a fault that the test asked for\n"), status),
                (_, "echo") => echo(request).await,
                (_, "mirror") => mirror(request),
                (_, "digest") => digest(request).await,
                (_, "once") => once(app, &request),
                (_, "status") => with_status(
                    full("as asked\n"),
                    StatusCode::from_u16(number as u16).unwrap_or(StatusCode::BAD_REQUEST),
                ),
                (_, "delay") => {
                    tokio::time::sleep(Duration::from_millis(number)).await;
                    full("late\n")
                }
                // Polling the body makes hyper send `100 Continue`: not before this delay.
                (_, "continue") => {
                    tokio::time::sleep(Duration::from_millis(number)).await;
                    digest(request).await
                }
                (_, "refuse") => with_status(full("no\n"), StatusCode::EXPECTATION_FAILED),
                (_, "bytes") => bytes(number, false),
                (_, "trailers") => bytes(number, true),
                (_, "drip") => drip(number),
                (_, "ws") => websocket(request),
                (_, "malformed") => {
                    App::count(&app.malformed);
                    full("must not be reached by a malformed request\n")
                }
                (_, "") if request.method() == Method::CONNECT => tunnel(request),
                _ => full("hello\n"),
            }
        }
    };
    // hyper sees to this in HTTP/1 only.
    if head
        || matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
    {
        *response.body_mut() = empty();
    }
    if let Ok(replica) = HeaderValue::from_str(&app.replica) {
        response.headers_mut().insert("x-replica", replica);
    }
    response
}

async fn set_faults(app: &App, request: Request<Incoming>) -> Response<Body> {
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes());
    match body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok())
    {
        Some(faults) => {
            *app.faults
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = faults;
            full("done\n")
        }
        None => with_status(full("not faults\n"), StatusCode::BAD_REQUEST),
    }
}

/// What arrived, as JSON.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok((count, sha256, trailers)) = drain(body).await else {
        return with_status(full("the body broke off\n"), StatusCode::BAD_REQUEST);
    };
    json_body(&json!({
        "method": parts.method.as_str(),
        "version": format!("{:?}", parts.version),
        "uri": parts.uri.to_string(),
        "headers": text(&parts.headers),
        "body_bytes": count,
        "body_sha256": sha256,
        "trailers": text(&trailers),
    }))
}

fn text(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&http::HeaderName, &HeaderValue)| {
        (
            name.to_string(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    };
    headers.iter().map(pair).collect()
}

async fn digest(request: Request<Incoming>) -> Response<Body> {
    match drain(request.into_body()).await {
        Ok((count, sha256, _)) => full(&format!("{count} {sha256}\n")),
        Err(_) => with_status(full("the body broke off\n"), StatusCode::BAD_REQUEST),
    }
}

async fn drain(mut body: Incoming) -> hyper::Result<(u64, String, HeaderMap)> {
    let (mut digest, mut trailers) = (Digested::default(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => digest.update(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let count = digest.count;
    Ok((count, digest.finish(), trailers))
}

fn mirror(request: Request<Incoming>) -> Response<Body> {
    Response::new(request.into_body().boxed())
}

fn once(app: &App, request: &Request<Incoming>) -> Response<Body> {
    let id = request
        .headers()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok());
    match id.map(|id| app.execute(id)) {
        Some(Ok(())) => full("executed\n"),
        _ => with_status(
            full("no id, or no place to write it\n"),
            StatusCode::BAD_REQUEST,
        ),
    }
}

/// The pattern; with its hash in a trailer, then necessarily chunked.
fn bytes(length: u64, trailer: bool) -> Response<Body> {
    let data = stream::iter(pattern::pieces(length).map(|piece| Ok(Frame::data(piece))));
    if !trailer {
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(data)));
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
        return response;
    }
    let mut trailers = HeaderMap::new();
    if let Ok(hash) = pattern::sha256(length).parse() {
        trailers.insert("x-sha256", hash);
    }
    let end = stream::iter([Ok(Frame::trailers(trailers))]);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(data.chain(end))));
    let names = HeaderValue::from_static("x-sha256");
    response.headers_mut().insert(header::TRAILER, names);
    response
}

/// One small chunk each 100 ms: shows whether something holds a response back.
fn drip(count: u64) -> Response<Body> {
    let chunks = stream::iter(0..count).then(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Frame::data(Bytes::from_static(b"drip\n")))
    });
    Response::new(BodyExt::boxed(StreamBody::new(
        chunks.map_err(|never: hyper::Error| never),
    )))
}

/// RFC 6455, and RFC 8441 over HTTP/2: echoes every message.
fn websocket(request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get("sec-websocket-key").cloned();
    let extended = request.extensions().get::<hyper::ext::Protocol>().is_some();
    let mut response = Response::new(empty());
    match key {
        Some(key) if !extended => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
                headers.insert("sec-websocket-accept", accept);
            }
        }
        _ if extended => {}
        _ => return with_status(full("not a WebSocket request\n"), StatusCode::BAD_REQUEST),
    }
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let (sink, messages) = socket.split();
        let messages = messages
            .try_filter(|message| std::future::ready(message.is_text() || message.is_binary()));
        let _ = messages.forward(sink).await;
    });
    response
}

/// CONNECT: echoes the bytes of the tunnel.
fn tunnel(request: Request<Incoming>) -> Response<Body> {
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
    });
    Response::new(empty())
}

fn full(text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    Response::new(body.map_err(|never| match never {}).boxed())
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn json_body(value: &serde_json::Value) -> Response<Body> {
    full(&format!("{value}\n"))
}

fn with_status(mut response: Response<Body>, status: StatusCode) -> Response<Body> {
    *response.status_mut() = status;
    response
}
