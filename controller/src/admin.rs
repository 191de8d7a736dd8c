//! `/live`, `/ready`, `/metrics` and `/log-level`, for probes and operators.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_api::log_filter;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;
use tracing_subscriber::{filter::Targets, reload};

/// The target of the controller's own lines.
pub(crate) const PROGRAM: &str = "mesh_controller";
/// Longer than any log filter.
const MAX_BODY: usize = 4096;

/// Changes what is logged.
pub(crate) type LogLevel = reload::Handle<Targets, tracing_subscriber::Registry>;

/// What the admin port shows.
pub(crate) struct Admin {
    /// Set as soon as everything has registered.
    pub(crate) registry: OnceLock<Registry>,
    pub(crate) readiness: Readiness,
    pub(crate) log_level: LogLevel,
}

/// What the controller still waits for, in words. It is ready when that is nothing.
#[derive(Clone)]
pub(crate) struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    pub(crate) fn waiting_for(reasons: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(Mutex::new(reasons.into_iter().collect())))
    }

    pub(crate) fn wait(&self, reason: &'static str) {
        self.lock().insert(reason);
    }

    pub(crate) fn has(&self, reason: &'static str) {
        self.lock().remove(reason);
    }

    fn missing(&self) -> Vec<&'static str> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting an admin connection failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/live") => text(StatusCode::OK, "live\n"),
            (&Method::GET, "/ready") => self.ready(),
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, "/log-level") => {
                let level = self.log_level.with_current(ToString::to_string);
                text(StatusCode::OK, level.unwrap_or_default() + "\n")
            }
            (&Method::PUT, "/log-level") => self.set_log_level(request).await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /live /ready /metrics, and /log-level (GET, PUT)\n",
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let missing = self.readiness.missing();
        if missing.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        let missing = missing.join(", ");
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {missing}\n"),
        )
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut body = String::new();
        if let Some(registry) = self.registry.get() {
            // Writing into a string can't fail.
            let _ = encode(&mut body, registry);
        }
        let mut response = text(StatusCode::OK, body);
        let kind = http::HeaderValue::from_static(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        );
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind);
        response
    }

    async fn set_log_level(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return text(
                    StatusCode::BAD_REQUEST,
                    format!("reading the level failed: {error}\n"),
                );
            }
        };
        let filter = std::str::from_utf8(&body).map_err(|error| error.to_string());
        let filter = filter
            .and_then(|level| log_filter::parse(level, PROGRAM).map_err(|error| error.to_string()));
        match filter.and_then(|filter| {
            self.log_level
                .reload(filter)
                .map_err(|error| error.to_string())
        }) {
            Ok(()) => text(StatusCode::OK, "changed\n"),
            Err(error) => text(
                StatusCode::BAD_REQUEST,
                format!("setting the log level failed: {error}\n"),
            ),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
