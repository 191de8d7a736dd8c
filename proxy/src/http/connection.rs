//! HTTP/2 connections to endpoints: hyper's, each driven by a task of its own.
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

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::spawn_local;

use super::{h1, head::MAX_HEAD, upload::RequestBody};
use crate::io::{Io, cork};

/// Windows of HTTP/2 streams and connections (the design's minimum). Fixed: hyper's adaptive windows begin at
/// 64 KiB for both, where one stream whose client does not read stops all others of its connection.
pub(super) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often a silent HTTP/2 connection is asked whether it is alive, and how long it may take.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(10);

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

/// How a connection to an endpoint failed a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Http1(h1::client::Error),
    #[error(transparent)]
    Http2(hyper::Error),
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
        let (corked, cork) = cork(io);
        // hyper drives the connection in a task that it spawns.
        spawn_local(cork.run());
        let (sender, mut connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(TokioIo::new(corked))
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
