//! The client's side of a connection: hyper's server, with the guard before it.
//!
//! In: an accepted connection and where its requests go. It ends when the client, an
//! error or a drain ends the connection; after an upgrade, when the tunnel ends.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Version, header::UPGRADE};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncReadExt,
    time::{sleep, timeout},
};

use super::{
    answer::reject,
    body::ResponseBody,
    connection::{BUFFER, CONNECTION_WINDOW, Local, PING_INTERVAL, PING_TIMEOUT, STREAM_WINDOW},
    guard::{Checkpoint, Guard},
    head::{MAX_HEAD, Rejection, check_authority},
    tunnel::Tunnel,
};
use crate::{detect::HttpVersion, drain::Drain, io::Io};

/// Requests that one HTTP/2 client may have in flight. Above nginx's 128 and hyper's 200, since a client
/// proxy puts all requests of its pod on one connection.
const MAX_STREAMS: u32 = 2048;
/// Streams that a client may reset before they are accepted, and that may be reset for its errors,
/// before it loses its connection: against rapid reset (CVE-2023-44487) and MadeYouReset
/// (CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 64;
const MAX_ERROR_RESETS: usize = 1024;
/// How long, and for how many bytes, the connection of a client that was refused, or answered amid its
/// request, is read on, so that a reset does not overtake the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// How long an idle HTTP/1.x connection stays open in a drain. A request may be on its way, and a close
/// would leave its client in doubt whether it was read; the clients' proxies know soon that they should go
/// elsewhere.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// What belongs to one client connection.
#[derive(Default)]
pub(super) struct Client {
    checkpoint: Rc<Checkpoint>,
    /// Set by a response that changes the protocol.
    tunnel: RefCell<Option<Tunnel>>,
    requests: Cell<u64>,
    in_flight: Cell<usize>,
}

/// A request that is being answered.
struct InFlight<'a>(&'a Cell<usize>);

impl<'a> InFlight<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The endpoint reset the stream; the client's is reset with the same code.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint reset the stream")]
pub(super) struct Reset(#[source] pub(super) hyper::Error);

impl Client {
    /// Why the body that is being read from this client failed, if it was refused.
    pub(super) fn refused_body(&self) -> Option<Rejection> {
        self.checkpoint.refused_body()
    }

    /// The response to the current request is the last of HTTP on this connection.
    pub(super) fn tunnel(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
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
        HttpVersion::Http1 => serve_http1(io, drain, upstream).await,
        HttpVersion::Http2 => serve_http2(io, drain, upstream).await,
    }
}

async fn serve_http1(io: Io, drain: &Drain, upstream: Rc<impl Upstream>) {
    let client = Rc::new(Client::default());
    let guard = Guard::new(io, client.checkpoint.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let number = client.requests.replace(client.requests.get() + 1);
        let refused = client
            .checkpoint
            .refused(number)
            .or_else(|| unclear(&request));
        // The same question that the guard asked of the head.
        let may_tunnel = request.method() == Method::CONNECT
            || (request.version() == Version::HTTP_11 && request.headers().contains_key(UPGRADE));
        let (client, upstream) = (&client, &upstream);
        async move {
            let _in_flight = InFlight::new(&client.in_flight);
            if let Some(rejection) = refused {
                return Ok(reject(rejection));
            }
            let response = upstream.forward(client, request).await;
            if may_tunnel {
                client.checkpoint.answered(client.tunnel.borrow().is_some());
            }
            response
        }
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(BUFFER)
        .max_header_size(MAX_HEAD)
        // The guard's: hyper's would also end connections that are idle between requests.
        .header_read_timeout(None)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(guard), service);
    let idle = async {
        drain.started().await;
        sleep(DRAIN_IDLE).await;
    };
    let (mut draining, mut idle) = (pin!(drain.started()), pin!(idle));
    let (mut drains, mut drained) = (false, false);
    let ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if drained || ended.is_ready() {
            return ended;
        }
        drains = drains || draining.as_mut().poll(cx).is_ready();
        // Between requests hyper would close at once; the next response says `Connection: close`.
        let now = drains && (client.in_flight.get() > 0 || idle.as_mut().poll(cx).is_ready());
        if !now {
            return ended;
        }
        drained = true;
        Pin::new(&mut connection).graceful_shutdown();
        Pin::new(&mut connection).poll(cx)
    })
    .await;
    let parts = connection.into_parts();
    let guard = parts.io.into_inner();
    let unread = guard.in_body() || client.checkpoint.refused_any();
    let (mut io, held) = guard.into_parts();
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended");
    } else if let Some(tunnel) = client.tunnel.take() {
        tunnel.run(io, join(parts.read_buf, held)).await;
        return;
    }
    // hyper has ended its side.
    if unread {
        let _ = timeout(LINGER, linger(&mut io)).await;
    }
}

async fn serve_http2(io: Io, drain: &Drain, upstream: Rc<impl Upstream>) {
    let client = Rc::new(Client::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (client, upstream) = (client.clone(), upstream.clone());
        async move {
            match unclear(&request) {
                Some(rejection) => Ok(reject(rejection)),
                None => upstream.forward(&client, request).await,
            }
        }
    });
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
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut draining = pin!(drain.started());
    let mut drained = false;
    let ended = poll_fn(|cx| {
        if !drained && draining.as_mut().poll(cx).is_ready() {
            drained = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's HTTP/2 connection ended");
    }
}

/// Why it is not clear to whom a request is.
fn unclear(request: &Request<Incoming>) -> Option<Rejection> {
    check_authority(request.uri(), request.headers()).err()
}

fn join(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() || second.is_empty() {
        return if first.is_empty() { second } else { first };
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(&second);
    both.freeze()
}

/// Reads and drops what still comes.
async fn linger(io: &mut Io) {
    let mut scratch = vec![0; 16 * 1024];
    let mut left = LINGER_BYTES;
    while let Ok(read @ 1..) = io.read(&mut scratch).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}
