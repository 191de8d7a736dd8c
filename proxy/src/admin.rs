//! The proxy's own small HTTP server: is it alive, is it ready, what does it count; and within the pod: what does it
//! believe.

mod belief;
mod probe;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use belief::Belief;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_api::names;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::config::Config;
use crate::discovery::Discovery;
use crate::drain::Drain;
use crate::io::tune_remote;
use crate::listen;
use crate::logging::LogLevel;
use crate::metrics::{self, Metrics};
use crate::tls::Tls;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// A client that has not sent its request by then is no probe and no scraper.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a log filter.
const BODY_LIMIT: usize = 4096;
const PATHS: &str = "/live, /ready, /metrics, /config, /log-level and /probe/tcp/PORT";

/// What the server shows.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) config: Arc<Config>,
    pub(crate) tls: Tls,
    pub(crate) discovery: Discovery,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
    pub(crate) log_level: LogLevel,
}

/// Listens on all addresses. Unlike the workers' ports this one is never shared, so that a second proxy in the
/// same network namespace fails here instead of taking half of the connections of the first.
pub(crate) fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let any = [
        (Ipv6Addr::UNSPECIFIED, port).into(),
        (Ipv4Addr::UNSPECIFIED, port).into(),
    ];
    let listen = || {
        let listener = std::net::TcpListener::bind::<&[SocketAddr]>(&any)?;
        listener.set_nonblocking(true)?;
        // What it accepts inherits it.
        tune_remote(SockRef::from(&listener))?;
        TcpListener::from_std(listener)
    };
    listen().with_context(|| {
        format!("can't listen on --admin-port {port} (is another proxy running in this pod?)")
    })
}

impl Admin {
    /// Serves for ever.
    pub(crate) async fn run(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let start = move |tcp, client| drop(tokio::spawn(admin.clone().serve(tcp, client)));
        listen::accept(listener, std::future::pending(), start).await;
    }

    async fn serve(self: Arc<Self>, tcp: TcpStream, client: SocketAddr) {
        // The pod, as the client calls it.
        let Ok(pod) = tcp.local_addr().map(|local| local.ip()) else {
            return;
        };
        let service = service_fn(|request| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(request, client, pod).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .serve_connection(TokioIo::new(tcp), service);
        if let Err(error) = connection.await {
            tracing::debug!(%client, %error, "an admin connection ended early");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        pod: IpAddr,
    ) -> Response<Full<Bytes>> {
        let readable = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/live" if readable => text(StatusCode::OK, "live\n"),
            "/ready" if readable => self.ready(),
            "/metrics" if readable => {
                typed(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.encode())
            }
            "/config" if readable && !is_in_pod(client) => {
                let why = "what this proxy believes is only shown within the pod (127.0.0.1): mesh diagnostics proxy-config POD\n";
                text(StatusCode::FORBIDDEN, why)
            }
            "/config" if readable => self.config(),
            "/log-level" if readable => text(StatusCode::OK, self.log_level.current() + "\n"),
            "/log-level" if request.method() == Method::PUT => {
                self.set_log_level(request.into_body(), client).await
            }
            path if readable && path.starts_with(names::TCP_PROBE_PATH) => {
                probe::tcp(path, pod, self.config.mark).await
            }
            "/log-level" => not_allowed("GET, HEAD, PUT"),
            "/live" | "/ready" | "/metrics" | "/config" => not_allowed("GET, HEAD"),
            path => text(
                StatusCode::NOT_FOUND,
                format!("no {path} here; there are {PATHS}\n"),
            ),
        }
    }

    /// The listeners are up: this server starts after them.
    fn ready(&self) -> Response<Full<Bytes>> {
        match self.unready() {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {why}\n"),
            ),
        }
    }

    fn unready(&self) -> Option<&'static str> {
        if self.drain.is_draining() {
            return Some("draining");
        }
        let needs_certificate = self.config.controller.is_some() && !self.tls.ready();
        needs_certificate.then_some("no valid certificate from the controller yet")
    }

    fn config(&self) -> Response<Full<Bytes>> {
        match serde_json::to_vec_pretty(&Belief::of(self)) {
            Ok(mut body) => {
                body.push(b'\n');
                typed(StatusCode::OK, JSON, body)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    async fn set_log_level(&self, body: Incoming, client: SocketAddr) -> Response<Full<Bytes>> {
        if !is_in_pod(client) {
            let why = "the log level can only be changed from within the pod (127.0.0.1)\n";
            return text(StatusCode::FORBIDDEN, why);
        }
        let filter = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        match self.log_level.set(&filter) {
            Ok(()) => {
                tracing::info!(filter = filter.trim(), "the log level was changed");
                text(StatusCode::OK, self.log_level.current() + "\n")
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

/// Everybody in the cluster can reach this port, for probes and scrapers. What concerns the pod alone is for those
/// who are in it, or are forwarded into it by the API server.
fn is_in_pod(client: SocketAddr) -> bool {
    client.ip().to_canonical().is_loopback()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, TEXT, body)
}

fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("allowed: {allowed}\n"),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests {
    use super::is_in_pod;

    #[test]
    fn only_loopback_is_in_the_pod() {
        for inside in ["127.0.0.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
            assert!(is_in_pod(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.0.0.7:5", "[fd00::7]:5", "[::ffff:10.0.0.7]:5"] {
            assert!(!is_in_pod(outside.parse().unwrap()), "{outside}");
        }
    }
}
