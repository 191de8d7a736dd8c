//! A body on its way into a stream, as the peer's windows allow.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;

use crate::http::incoming::h2_error;

/// A body was sent, or there is no use in sending it: of a request's, the response shows why.
pub(super) struct Sent;

/// Sends a body to its end. Dropped before that, it leaves the stream to be reset.
pub(super) struct SendBody<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Read, and waiting for room in the window.
    waiting: Option<Bytes>,
}

impl<B> SendBody<B> {
    pub(super) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            waiting: None,
        }
    }
}

impl<B> Future for SendBody<B>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Unpin,
{
    type Output = Sent;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Sent> {
        let Self {
            body,
            stream,
            waiting,
        } = &mut *self;
        loop {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Sent);
            }
            if let Some(data) = waiting {
                while !data.is_empty() && stream.capacity() == 0 {
                    match ready!(stream.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(Sent),
                    }
                }
                let data = std::mem::take(data);
                *waiting = None;
                let ends = body.is_end_stream();
                if stream.send_data(data, ends).is_err() || ends {
                    return Poll::Ready(Sent);
                }
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() && !body.is_end_stream() => {}
                    Ok(data) => {
                        // Room is asked for only now that there is something to send: it would be missing to the
                        // connection's other streams. For more than one byte h2 asks itself.
                        stream.reserve_capacity(data.len().min(1));
                        *waiting = Some(data);
                    }
                    Err(frame) => {
                        stream.reserve_capacity(0);
                        if let Ok(trailers) = frame.into_trailers() {
                            let _ = stream.send_trailers(trailers);
                        }
                        return Poll::Ready(Sent);
                    }
                },
                Some(Err(error)) => {
                    stream.send_reset(reason(&error));
                    return Poll::Ready(Sent);
                }
                None => {
                    let _ = stream.send_data(Bytes::new(), true);
                    return Poll::Ready(Sent);
                }
            }
        }
    }
}

/// With what a stream is reset: the reason of whoever broke off, if he gave one.
pub(super) fn reason(error: &(dyn Error + 'static)) -> Reason {
    h2_error(error)
        .and_then(h2::Error::reason)
        .unwrap_or(Reason::INTERNAL_ERROR)
}
