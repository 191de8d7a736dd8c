//! The client's side of a connection.
//!
//! In: an accepted connection and where its requests go. It ends when the client, an
//! error or a drain ends the connection; after an upgrade, when the tunnel ends.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
};

use http::{Request, Response};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{
    answer::reject,
    body::ResponseBody,
    forward::ConnectionError,
    h1,
    head::{MAX_HEAD, Rejection, check_authority},
    http2::{CONNECTION_WINDOW, Local, PING_INTERVAL, PING_TIMEOUT, STREAM_WINDOW},
    incoming::Incoming,
    tunnel::Tunnel,
};
use crate::{
    detect::HttpVersion,
    drain::Drain,
    io::{Io, cork},
};

/// Requests that one HTTP/2 client may have in flight. Above nginx's 128 and hyper's 200, since a client
/// proxy puts all requests of its pod on one connection.
const MAX_STREAMS: u32 = 2048;
/// Streams that a client may reset before they are accepted, and that may be reset for its errors,
/// before it loses its connection: against rapid reset (CVE-2023-44487) and MadeYouReset
/// (CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 64;
const MAX_ERROR_RESETS: usize = 1024;
/// What the requests of one client connection share with it.
#[derive(Default)]
pub(super) struct Client {
    refused: Cell<Option<Rejection>>,
    /// Set by a response that changes the protocol.
    tunnel: RefCell<Option<Tunnel>>,
}

/// The endpoint reset the stream; the client's is reset with the same code.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint reset the stream")]
pub(super) struct Reset(#[source] pub(super) ConnectionError);

impl Client {
    /// Why what this client sends was refused, if it was: the connection ends with the answer.
    pub(super) fn refused(&self) -> Option<Rejection> {
        self.refused.get()
    }

    pub(super) fn refuse(&self, rejection: Rejection) {
        self.refused.set(Some(rejection));
    }

    /// The response to the current request is the last of HTTP on this connection.
    pub(super) fn tunnel(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
    }

    /// Whether it was.
    pub(super) fn tunnels(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }
}

/// Where a connection's requests go.
pub(super) trait Upstream: 'static {
    /// Answers one request.
    async fn forward(
        &self,
        client: &Rc<Client>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Reset>;
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    io: Io,
    version: HttpVersion,
    drain: &Drain,
    upstream: Rc<impl Upstream>,
) {
    match version {
        HttpVersion::Http1 => h1::server::serve(io, drain, upstream).await,
        HttpVersion::Http2 => serve_http2(io, drain, upstream).await,
    }
}

async fn serve_http2(io: Io, drain: &Drain, upstream: Rc<impl Upstream>) {
    let client = Rc::new(Client::default());
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (client, upstream) = (client.clone(), upstream.clone());
        async move {
            // Why it is not clear to whom the request is.
            match check_authority(request.uri(), request.headers()) {
                Err(rejection) => Ok(reject(rejection)),
                Ok(()) => {
                    let request = request.map(Incoming::Http2);
                    upstream.forward(&client, request).await
                }
            }
        }
    });
    let (corked, cork) = cork(io);
    let connection = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .enable_connect_protocol()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(corked), service);
    let mut connection = pin!(connection);
    let mut draining = pin!(drain.started());
    let mut drained = false;
    let ended = poll_fn(|cx| {
        if !drained && draining.as_mut().poll(cx).is_ready() {
            drained = true;
            connection.as_mut().graceful_shutdown();
        }
        let ended = connection.as_mut().poll(cx);
        cork.poll_flush(cx);
        ended
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's HTTP/2 connection ended");
    }
}
