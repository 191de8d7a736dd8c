//! A connection to an endpoint that many requests share.
//!
//! In: a connected stream; then requests. Out: their responses, or whether a request was provably never sent. A task
//! of the connection's own moves its frames; it ends when the peer has closed it, or when nobody needs it any more.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{Method, Request, request, response};
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::{AbortHandle, spawn_local};

use super::{
    CONNECTION_WINDOW, STREAM_WINDOW,
    body::ReceivedBody,
    keep_alive::KeepAlive,
    tunnel::TunnelledStream,
    upload::{SendBody, Sent},
};
use crate::{
    http::{head::MAX_HEAD, upload::RequestBody},
    io::{Cork, Corked, Io, cork},
};

/// Streams that are opened before the peer has said how many it allows: what RFC 9113, section 6.5.2 recommends that
/// it allow at least.
const STREAMS_AT_FIRST: usize = 100;
/// How long a peer may take to say that it knows extended CONNECT, and how often it is looked.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);
const SETTINGS_LOOK: Duration = Duration::from_millis(10);

/// A shared HTTP/2 connection.
pub(in crate::http) struct Connection {
    sender: SendRequest<Bytes>,
    in_flight: Rc<Cell<usize>>,
}

/// The right to one stream of a connection.
pub(in crate::http) struct Stream {
    sender: SendRequest<Bytes>,
    in_flight: Rc<Cell<usize>>,
}

/// A stream with a request on it.
pub(in crate::http) struct Opened {
    response: ResponseFuture,
    upload: Option<SendBody<RequestBody>>,
    tunnel: Option<h2::SendStream<Bytes>>,
}

/// Why there is no response.
pub(in crate::http) enum Error {
    /// Nothing of the request was sent.
    Unsent(Box<request::Parts>),
    Failed(h2::Error),
}

/// The body of a response.
pub(in crate::http) struct ResponseBody {
    body: ReceivedBody,
    /// The request's body, as long as it is being sent.
    uploading: Option<Uploading>,
    /// The other direction, after CONNECT.
    tunnel: Option<h2::SendStream<Bytes>>,
}

/// Dropped, it stops the sending of a request's body, which resets the stream; unless that was let go.
struct Uploading(Option<AbortHandle>);

impl Connection {
    /// # Errors
    /// The stream has ended already.
    pub(in crate::http) async fn open(io: Io) -> Result<Self, h2::Error> {
        let (corked, cork) = cork(io);
        let (sender, connection) = Builder::new()
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD as u32)
            .enable_push(false)
            .handshake(corked)
            .await?;
        spawn_local(drive(connection, cork));
        Ok(Self {
            sender,
            in_flight: Rc::default(),
        })
    }

    /// Whether it takes no more requests: it has ended, or the peer has said that it will (GOAWAY).
    pub(in crate::http) fn is_closed(&mut self) -> bool {
        !is_open(&mut self.sender)
    }

    /// Whether one more stream would be opened at once.
    pub(in crate::http) fn has_room(&self) -> bool {
        self.in_flight.get() < self.sender.current_max_send_streams()
    }

    pub(in crate::http) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// A stream, counted until it is dropped.
    pub(in crate::http) fn stream(&self) -> Stream {
        self.in_flight.set(self.in_flight.get() + 1);
        Stream {
            sender: self.sender.clone(),
            in_flight: self.in_flight.clone(),
        }
    }
}

/// Whether its connection takes requests. No stream may have been opened by it.
fn is_open(sender: &mut SendRequest<Bytes>) -> bool {
    // It would wait only for the stream that it has opened.
    let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(())))
}

/// Moves the connection's frames until it ends.
async fn drive(mut connection: h2::client::Connection<Corked, Bytes>, cork: Cork) {
    let mut keep_alive = connection.ping_pong().map(KeepAlive::new);
    let ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        KeepAlive::poll_after(&mut keep_alive, cx, &cork, ended)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP/2 connection to an endpoint ended");
    }
}

impl Stream {
    /// Opens the stream with a request.
    ///
    /// # Errors
    /// The connection takes no more requests.
    pub(in crate::http) fn open(
        &mut self,
        head: request::Parts,
        body: RequestBody,
    ) -> Result<Opened, Error> {
        if !is_open(&mut self.sender) {
            return Err(Error::Unsent(Box::new(head)));
        }
        let connect = head.method == Method::CONNECT;
        let ends = !connect && body.is_end_stream();
        let (response, stream) = self
            .sender
            .send_request(Request::from_parts(head, ()), ends)
            .map_err(Error::Failed)?;
        let (upload, tunnel) = match (ends, connect) {
            (true, _) => (None, None),
            (false, true) => (None, Some(stream)),
            (false, false) => (Some(SendBody::new(body, stream)), None),
        };
        Ok(Opened {
            response,
            upload,
            tunnel,
        })
    }

    /// Whether the peer takes extended CONNECT; waits a moment for its settings.
    pub(in crate::http) async fn takes_extended_connect(&self) -> bool {
        let known = async {
            while !self.sender.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(SETTINGS_LOOK).await;
            }
        };
        tokio::time::timeout(SETTINGS_TIMEOUT, known).await.is_ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

impl Opened {
    /// The response. Dropped before that, it resets the stream.
    ///
    /// # Errors
    /// The stream ended without one.
    pub(in crate::http) async fn response(self) -> Result<(response::Parts, ResponseBody), Error> {
        let Self {
            response,
            upload,
            tunnel,
        } = self;
        let uploading = match upload {
            Some(upload) => send_body(upload).await,
            None => None,
        };
        let (head, stream) = response.await.map_err(Error::Failed)?.into_parts();
        let tunnel = tunnel.filter(|_| head.status.is_success());
        let body = ReceivedBody::new(stream, &head.headers);
        let body = ResponseBody::new(body, uploading, tunnel);
        Ok((head, body))
    }
}

/// Sends what is there of a body at once, the rest in a task.
async fn send_body(mut upload: SendBody<RequestBody>) -> Option<Uploading> {
    let at_once = poll_fn(|cx| Poll::Ready(Pin::new(&mut upload).poll(cx))).await;
    match at_once {
        Poll::Ready(Sent) => None,
        Poll::Pending => Some(Uploading(Some(spawn_local(upload).abort_handle()))),
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Uploading {
    /// The endpoint may read the rest though it has answered.
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl ResponseBody {
    fn new(
        body: ReceivedBody,
        uploading: Option<Uploading>,
        tunnel: Option<h2::SendStream<Bytes>>,
    ) -> Self {
        let mut body = Self {
            body,
            uploading,
            tunnel,
        };
        body.look_for_end();
        body
    }

    /// The stream in both directions, after CONNECT.
    pub(in crate::http) fn into_tunnel(self) -> Option<TunnelledStream> {
        let Self { body, tunnel, .. } = self;
        Some(TunnelledStream::new(tunnel?, body.into_stream()?))
    }

    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let frame = ready!(self.body.poll_frame(cx));
        self.look_for_end();
        Poll::Ready(match frame {
            // The response is complete; only the rest of the request is not wanted: RFC 9113, section 8.1.
            Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => None,
            frame => frame,
        })
    }

    fn look_for_end(&mut self) {
        if self.is_end_stream()
            && let Some(uploading) = self.uploading.take()
        {
            uploading.let_go();
        }
    }

    pub(in crate::http) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
