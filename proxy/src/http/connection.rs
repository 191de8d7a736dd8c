//! Client connections to endpoints: hyper's, each driven by a task of its own.
//!
//! In: a connected stream. Out: something that takes a request and gives a response, or says whether the
//! request was provably never sent.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, sync::oneshot, task::spawn_local};

use super::{
    head::{MAX_FIELDS, MAX_HEAD},
    upload::RequestBody,
};
use crate::io::{Io, Sending};

/// Windows of HTTP/2 streams and connections (the design's minimum). Fixed: hyper's adaptive windows begin at
/// 64 KiB for both, where one stream whose client does not read stops all others of its connection.
pub(super) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often a silent HTTP/2 connection is asked whether it is alive, and how long it may take.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an HTTP/1.x connection's read or write buffer; hyper's default is 400 KiB.
pub(super) const BUFFER: usize = 128 * 1024;

/// Spawns hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(async move {
            task.await;
        });
    }
}

/// The stream of a connection whose protocol was changed, and what was read of it already.
pub(super) type Tunnelled = (Io, Bytes);

/// An HTTP/1.x connection; carries one request at a time.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    tunnel: oneshot::Receiver<Tunnelled>,
    /// The request in flight asks for another protocol: keep the stream when the connection ends.
    wants_tunnel: Rc<Cell<bool>>,
    sending: Sending,
}

impl Http1 {
    /// A server may answer and close without having read the request's body. The reset that this causes must
    /// not hide the answer: RFC 9112, section 9.6.
    pub(super) async fn open(mut io: Io) -> hyper::Result<Self> {
        let sending = io.send_requests();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .max_header_size(MAX_HEAD)
            .handshake(TokioIo::new(io))
            .await?;
        debug_assert_eq!(MAX_FIELDS, 100, "hyper's default; more would allocate");
        let (parts, tunnel) = oneshot::channel();
        let wants_tunnel = Rc::new(Cell::new(false));
        let keep = wants_tunnel.clone();
        spawn_local(drive_http1(connection, parts, keep));
        Ok(Self {
            sender,
            tunnel,
            wants_tunnel,
            sending,
        })
    }

    /// Whether it can carry no further request.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.sending.has_discarded()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until the next request may be sent.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        self.sender.ready().await
    }

    /// `long`: the body is more than a window's worth; who reads it may pause.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        tunnel: bool,
        long: bool,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.wants_tunnel.set(tunnel);
        self.sending.allow_pauses(long);
        self.sender.try_send_request(request).await
    }

    /// The stream, once the response has changed its protocol.
    pub(super) async fn into_tunnel(self) -> Option<Tunnelled> {
        // The sender keeps the connection's task alive until it is dropped.
        let Self { sender, tunnel, .. } = self;
        drop(sender);
        tunnel.await.ok()
    }
}

async fn drive_http1(
    mut connection: http1::Connection<TokioIo<Io>, RequestBody>,
    tunnel: oneshot::Sender<Tunnelled>,
    wants_tunnel: Rc<Cell<bool>>,
) {
    if let Err(error) = poll_fn(|cx| connection.poll_without_shutdown(cx)).await {
        tracing::debug!(%error, "a connection to an endpoint ended");
        return;
    }
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if wants_tunnel.get() {
        io.end_requests();
        // Nobody waits when the response was an ordinary one; then this closes it.
        let _ = tunnel.send((io, parts.read_buf));
    } else {
        let _ = io.shutdown().await;
    }
}

/// A shared HTTP/2 connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    state: Rc<Http2State>,
}

/// What the connection's task knows.
struct Http2State {
    /// Streams that the peer allows (SETTINGS_MAX_CONCURRENT_STREAMS).
    max_streams: Cell<usize>,
    /// The peer knows extended CONNECT (RFC 8441).
    extended_connect: Cell<bool>,
    in_flight: Cell<usize>,
    /// The task's: hyper does not wake it for the peer's settings.
    waker: Cell<Option<Waker>>,
}

impl Http2 {
    pub(super) async fn open(io: Io) -> hyper::Result<Self> {
        let (sender, mut connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(io))
            .await?;
        let state = Rc::new(Http2State {
            max_streams: Cell::new(connection.current_max_send_streams()),
            extended_connect: Cell::new(false),
            in_flight: Cell::new(0),
            waker: Cell::new(None),
        });
        let known = state.clone();
        spawn_local(async move {
            let ended = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                if ended.is_pending() {
                    known.max_streams.set(connection.current_max_send_streams());
                    known
                        .extended_connect
                        .set(connection.is_extended_connect_protocol_enabled());
                    known.waker.set(Some(cx.waker().clone()));
                }
                ended
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "an HTTP/2 connection to an endpoint ended");
            }
        });
        Ok(Self { sender, state })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether one more stream would be opened at once.
    pub(super) fn has_room(&self) -> bool {
        self.state.in_flight.get() < self.state.max_streams.get()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state.in_flight.get() == 0
    }

    /// A stream, counted until it is dropped.
    pub(super) fn stream(&self) -> Http2Stream {
        self.state.in_flight.set(self.state.in_flight.get() + 1);
        Http2Stream(self.clone())
    }
}

/// The right to one stream.
pub(super) struct Http2Stream(Http2);

impl Http2Stream {
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.0.sender.try_send_request(request).await
    }

    /// Whether the peer takes extended CONNECT; waits a moment for its settings.
    pub(super) async fn takes_extended_connect(&self) -> bool {
        for _ in 0..100 {
            if self.0.state.extended_connect.get() {
                return true;
            }
            if let Some(waker) = self.0.state.waker.take() {
                waker.wake();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let state = &self.0.state;
        state.in_flight.set(state.in_flight.get() - 1);
    }
}
