//! The body of a response on its way to the client.
//!
//! Passes frames on as the client takes them; tells the [`Exchange`] how it went once the last
//! frame, an error or the client's loss of interest ends it. The exchange's metrics, the balancer's
//! outcome and the connection's return to its pool hang on that.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

use super::{
    exchange::Exchange,
    forward::{ConnectionError, Received},
    h1, http2,
    pool::Channel,
    tunnel::Tunnel,
};

/// How a response body ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End<'a> {
    /// Wholly, with its trailers.
    Complete(Option<&'a HeaderMap>),
    /// The endpoint broke off.
    Failed,
    /// The client went away.
    Abandoned,
}

/// What the client gets.
pub(super) struct ResponseBody {
    source: Source,
    exchange: Option<Exchange>,
}

enum Source {
    /// What the mesh itself has to say; empty after it was said.
    Words(Bytes),
    /// On the HTTP/1.x connection that the exchange holds.
    Http1,
    Http2(http2::client::ResponseBody),
    /// None: the protocol has changed.
    Tunnel(Box<Tunnel>),
}

impl ResponseBody {
    /// A body that the mesh made.
    pub(super) fn words(words: impl Into<Bytes>) -> Self {
        Self {
            source: Source::Words(words.into()),
            exchange: None,
        }
    }

    /// What follows a response that changes the protocol of an HTTP/2 client's stream.
    pub(super) fn tunnel(tunnel: Tunnel) -> Self {
        Self {
            source: Source::Tunnel(Box::new(tunnel)),
            exchange: None,
        }
    }

    /// Takes that out.
    pub(super) fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        match std::mem::replace(&mut self.source, Source::Words(Bytes::new())) {
            Source::Tunnel(tunnel) => Some(tunnel),
            source => {
                self.source = source;
                None
            }
        }
    }

    /// The endpoint's body. A response without one ends here and now.
    pub(super) fn endpoint(received: Received, exchange: Exchange) -> Self {
        let mut body = Self {
            source: match received {
                Received::Http1 => Source::Http1,
                Received::Http2(body) => Source::Http2(body),
            },
            exchange: Some(exchange),
        };
        if body.is_end_stream() {
            body.end(End::Complete(None));
        }
        body
    }

    /// Goes on with sending the request, while nobody takes the response.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = self.connection() {
            // A failure shows in the response, or in the connection's not being used again.
            let _ = connection.poll_upload(cx);
        }
    }

    fn connection(&mut self) -> Option<&mut h1::client::Connection> {
        match &mut self.exchange.as_mut()?.lease.as_mut()?.channel {
            Channel::Http1(connection) => Some(connection),
            Channel::Http2(_) => None,
        }
    }

    fn end(&mut self, how: End<'_>) {
        if let Some(exchange) = self.exchange.take() {
            exchange.end(how);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ConnectionError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        let (frame, last) = match &mut self.source {
            Source::Words(words) => {
                let words = std::mem::take(words);
                let frame = (!words.is_empty()).then(|| Ok(Frame::data(words)));
                return Poll::Ready(frame);
            }
            Source::Tunnel(_) => return Poll::Ready(None),
            Source::Http1 => {
                let Some(connection) = self.connection() else {
                    return Poll::Ready(None);
                };
                let frame = ready!(connection.poll_frame(cx));
                let frame = frame.map(|frame| frame.map_err(ConnectionError::Http1));
                (frame, connection.is_end_stream())
            }
            Source::Http2(body) => {
                let frame = ready!(body.poll_frame(cx));
                let frame = frame.map(|frame| frame.map_err(ConnectionError::Http2));
                (frame, body.is_end_stream())
            }
        };
        match &frame {
            None => self.end(End::Complete(None)),
            Some(Err(_)) => self.end(End::Failed),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(exchange) = &mut self.exchange {
                        exchange.data(data.len());
                    }
                    // Nobody polls again after the last frame who knows that it was the last.
                    if last {
                        self.end(End::Complete(None));
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.end(End::Complete(Some(trailers)));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Words(words) => words.is_empty(),
            Source::Http1 => match self.exchange.as_ref().and_then(Exchange::http1) {
                Some(connection) => connection.is_end_stream(),
                None => true,
            },
            Source::Http2(body) => body.is_end_stream(),
            Source::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Words(words) => SizeHint::with_exact(words.len() as u64),
            Source::Http1 => match self.exchange.as_ref().and_then(Exchange::http1) {
                Some(connection) => connection.size_hint(),
                None => SizeHint::with_exact(0),
            },
            Source::Http2(body) => body.size_hint(),
            Source::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.end(End::Abandoned);
    }
}
