//! The injector webhook: the API server shows a pod that is being created, and is told how to put a proxy
//! beside it.
//!
//! In: an AdmissionReview over TLS. Out: a JSONPatch, or why there is none. What can fail: the review may be
//! malformed (400), or this code (500): then the webhook's failurePolicy decides what becomes of the pod.

mod metrics;
mod review;
mod settings;

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    duties::Census,
    inject::{NamespaceFacts, Reason, Settings},
};
pub(crate) use metrics::Admissions;
use review::Decision;
pub(crate) use settings::open as open_settings;

/// A review holds the pod twice at most, and the API server takes no request over 3 MiB.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// A client that has not finished its handshake by then is not the API server.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Reading a namespace; the API server itself waits 10 s for the whole answer.
const READ: Duration = Duration::from_secs(2);
/// When accepting fails (out of file descriptors), trying again at once would only burn the processor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Answers the API server.
pub(crate) struct Injector {
    pub(crate) census: Arc<Census>,
    pub(crate) client: Client,
    pub(crate) settings: watch::Receiver<Arc<Settings>>,
    pub(crate) admissions: Admissions,
}

/// Accepts connections until `stop`, then lets those that are there end by themselves.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    injector: Arc<Injector>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection of the API server failed");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        // Asked anew for each connection: the certificate is renewed while the server runs.
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let (injector, stop) = (Arc::clone(&injector), stop.clone());
        connections.spawn(async move {
            if let Err(error) = converse(stream, acceptor, injector, stop).await {
                tracing::info!(%error, "a connection to the webhook ended");
            }
        });
    }
}

/// One connection: HTTP/1.1 or HTTP/2, as the client chose in the handshake.
async fn converse(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    injector: Arc<Injector>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let injector = Arc::clone(&injector);
        async move { Ok::<_, Infallible>(injector.answer(request).await) }
    });
    // Both kinds of connection have the same methods and no common trait.
    macro_rules! until_stop {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            tokio::select! {
                result = &mut connection => result?,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await?;
                }
            }
        }};
    }
    if is_h2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .to_owned();
        until_stop!(builder.serve_connection(stream, service));
    } else {
        let builder = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .to_owned();
        until_stop!(builder.serve_connection(stream, service));
    }
    Ok(())
}

impl Injector {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/inject") => {}
            (_, "/inject") => {
                return text(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview");
            }
            _ => return text(StatusCode::NOT_FOUND, "there is /inject"),
        }
        let started = Instant::now();
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return text(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "no AdmissionReview is that long",
                );
            }
            Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        // A panic is of this pod only.
        let review = AssertUnwindSafe(self.review(&body)).catch_unwind().await;
        let (outcome, response) = review.unwrap_or_else(|_| {
            tracing::error!(
                "the injector has panicked; the webhook's failurePolicy decides on the pod"
            );
            let problem = "the injector has failed: see the log of the mesh's controller";
            ("failed", text(StatusCode::INTERNAL_SERVER_ERROR, problem))
        });
        self.admissions.count(outcome, started.elapsed());
        response
    }

    async fn review(&self, body: &[u8]) -> (&'static str, Response<Full<Bytes>>) {
        let request = match review::parse(body) {
            Ok(request) => request,
            Err(problem) => {
                tracing::warn!(problem, "the webhook was sent what it does not understand");
                return ("malformed", text(StatusCode::BAD_REQUEST, problem));
            }
        };
        let decision = match self.decide(&request).await {
            Ok(decision) => decision,
            Err(error) => {
                tracing::error!(pod = request.pod(), %error, "the injector has failed; the webhook's failurePolicy decides on the pod");
                return (
                    "failed",
                    text(StatusCode::INTERNAL_SERVER_ERROR, format!("mesh: {error}")),
                );
            }
        };
        let outcome = match &decision {
            Decision::Inject(_) => {
                tracing::info!(pod = request.pod(), "proxy injected");
                "injected"
            }
            Decision::Pass(reason) => {
                tracing::debug!(pod = request.pod(), %reason, "no proxy injected");
                "skipped"
            }
            Decision::Warn(reason) => {
                tracing::warn!(pod = request.pod(), %reason, "no proxy injected, although one was asked for");
                "skipped"
            }
            Decision::Refuse(problem) => {
                tracing::warn!(pod = request.pod(), %problem, "pod refused");
                "refused"
            }
        };
        let mut response = text(StatusCode::OK, request.answer(&decision).to_string());
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        (outcome, response)
    }

    /// With what is known of the namespace; if that says no, with what the API server says: it has asked
    /// because it has seen a label, which may be news here.
    async fn decide(&self, request: &review::Request) -> anyhow::Result<Decision> {
        let settings = self.settings.borrow().clone();
        if let Some(facts) = self.census.facts(&request.namespace) {
            let decision = request.decide(&facts, &settings)?;
            if decision != Decision::Pass(Reason::NotOptedIn) {
                return Ok(decision);
            }
        }
        let facts = self.read(&request.namespace).await?;
        Ok(request.decide(&facts, &settings)?)
    }

    async fn read(&self, name: &str) -> anyhow::Result<NamespaceFacts> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = timeout(READ, api.get(name)).await;
        let meta = namespace
            .map_err(anyhow::Error::from)
            .and_then(|result| Ok(result?))
            .map_err(|error| error.context(format!("reading namespace {name} failed")))?
            .metadata;
        Ok(NamespaceFacts {
            name: name.into(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
        })
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
