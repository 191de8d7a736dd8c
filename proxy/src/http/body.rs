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
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::exchange::Exchange;

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

/// What hyper's server sends.
pub(super) struct ResponseBody {
    source: Source,
    exchange: Option<Exchange>,
}

enum Source {
    /// What the mesh itself has to say; empty after it was said.
    Words(Bytes),
    Endpoint(Incoming),
}

impl ResponseBody {
    /// A body that the mesh made.
    pub(super) fn words(words: impl Into<Bytes>) -> Self {
        Self {
            source: Source::Words(words.into()),
            exchange: None,
        }
    }

    /// The endpoint's body. A response without one ends here and now.
    pub(super) fn endpoint(incoming: Incoming, exchange: Exchange) -> Self {
        let mut body = Self {
            source: Source::Endpoint(incoming),
            exchange: Some(exchange),
        };
        if body.is_end_stream() {
            body.end(End::Complete(None));
        }
        body
    }

    fn end(&mut self, how: End<'_>) {
        if let Some(exchange) = self.exchange.take() {
            exchange.end(how);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let incoming = match &mut self.source {
            Source::Words(words) => {
                let words = std::mem::take(words);
                let frame = (!words.is_empty()).then(|| Ok(Frame::data(words)));
                return Poll::Ready(frame);
            }
            Source::Endpoint(incoming) => incoming,
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        // hyper does not poll again after the last frame when it knows that it was the last.
        let last = incoming.is_end_stream();
        match &frame {
            None => self.end(End::Complete(None)),
            Some(Err(_)) => self.end(End::Failed),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(exchange) = &mut self.exchange {
                        exchange.data(data.len());
                    }
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
            Source::Endpoint(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Words(words) => SizeHint::with_exact(words.len() as u64),
            Source::Endpoint(incoming) => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.end(End::Abandoned);
    }
}
