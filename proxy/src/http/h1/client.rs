//! A connection to an endpoint or to the app: one request at a time, read and written by whoever sends it.
//!
//! In: a request's head and body. Out: the response's head, then its body, frame by frame; while the response is read,
//! the rest of the request goes on. Nothing runs while a connection is idle.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request, response,
};
use hyper::body::{Body, Frame, SizeHint};

use super::{
    encode::{self, Length},
    outbox::Outbox,
    response::{Event, Malformed, Responses},
};
use crate::{
    http::upload::{Gate, RequestBody, UploadError},
    io::{Io, Sending},
};

/// An HTTP/1.x connection.
pub(in crate::http) struct Connection {
    io: Io,
    sending: Sending,
    /// Read and not taken yet.
    held: BytesMut,
    out: Outbox,
    responses: Responses,
    /// What is still to be sent of the current request.
    upload: Option<Upload>,
    /// Something went wrong: it carries no further request.
    broken: bool,
    requests: u64,
}

struct Upload {
    body: RequestBody,
    length: Length,
}

/// Why there is no response, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum Error {
    /// Nothing of the request was taken by the kernel.
    #[error("the connection ended before the request was sent")]
    Unsent,
    /// The client's body failed.
    #[error(transparent)]
    Upload(UploadError),
    #[error("the body is not as long as Content-Length says")]
    Length,
    #[error("the connection was closed early")]
    Closed,
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Malformed(Malformed),
}

impl Connection {
    /// A server may answer and close without having read the request's body. The reset that this causes must
    /// not hide the answer: RFC 9112, section 9.6.
    pub(in crate::http) fn new(mut io: Io) -> Box<Self> {
        let sending = io.send_requests();
        Box::new(Self {
            io,
            sending,
            held: BytesMut::new(),
            out: Outbox::default(),
            responses: Responses::none(),
            upload: None,
            broken: false,
            requests: 0,
        })
    }

    /// Whether it can carry another request, as far as can be known: the response is complete, and nothing has been
    /// heard since. Most often what is heard is that the peer has closed it; what it says without being asked is no
    /// answer to the next request.
    ///
    /// The kernel is asked: the runtime hears of a close only when it polls, and a request that is sent before that is
    /// lost.
    pub(in crate::http) fn is_usable(&self) -> bool {
        self.is_reusable() && self.io.is_silent()
    }

    /// Whether the exchange is over and the connection may be kept for the next.
    pub(in crate::http) fn is_reusable(&self) -> bool {
        self.responses.is_complete()
            && self.responses.keep_alive()
            && self.held.is_empty()
            && !self.is_uploading()
            && !self.broken
            && !self.sending.has_discarded()
    }

    /// Whether it has carried more than one request.
    pub(in crate::http) fn is_reused(&self) -> bool {
        self.requests > 1
    }

    /// Whether part of the request is still to be sent.
    pub(in crate::http) fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// Sends a request whose fields say how `body` is framed; returns the response's head.
    ///
    /// `gate` opens when the endpoint asks for the body. `long`: the body is more than a window's worth; who reads it
    /// may pause.
    pub(in crate::http) async fn send(
        &mut self,
        head: &request::Parts,
        body: RequestBody,
        gate: Option<&Arc<Gate>>,
        long: bool,
    ) -> Result<response::Parts, Error> {
        self.sending.begin(long);
        self.requests += 1;
        encode::request(&mut self.out.head, head);
        self.responses = Responses::to(&head.method);
        let length = length(head);
        self.upload = Some(Upload { body, length });
        let received = poll_fn(|cx| self.poll_head(cx, gate)).await;
        self.broken |= received.is_err();
        match received {
            Err(Error::Closed | Error::Io(_)) if !self.sending.has_sent() => Err(Error::Unsent),
            received => received,
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        gate: Option<&Arc<Gate>>,
    ) -> Poll<Result<response::Parts, Error>> {
        if let Poll::Ready(Err(error)) = self.poll_upload(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            match self
                .responses
                .next(&mut self.held)
                .map_err(Error::Malformed)?
            {
                Event::Head(head) => return Poll::Ready(Ok(*head)),
                Event::Interim(head) => {
                    if let Some(gate) = gate
                        && head.status == StatusCode::CONTINUE
                    {
                        gate.open();
                    }
                }
                // Invariant: no body comes before its head.
                Event::Data(_) | Event::End(_) => return Poll::Ready(Err(Error::Closed)),
                Event::More => match ready!(self.poll_fill(cx)) {
                    Ok(0) => return Poll::Ready(Err(Error::Closed)),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Err(Error::Io(error))),
                },
            }
        }
    }

    /// Goes on with sending the request; ready when it is sent whole, and afterwards.
    pub(in crate::http) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let sent = self.poll_send(cx);
        if let Poll::Ready(sent) = &sent {
            self.upload = None;
            self.broken |= sent.is_err();
        }
        sent
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(upload) = &mut self.upload else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let mut waits = false;
            while upload.length != Length::None && self.out.has_room() {
                match Pin::new(&mut upload.body).poll_frame(cx) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err(Error::Upload(error)));
                    }
                    Poll::Ready(Some(Ok(frame))) => upload.add(frame, &mut self.out)?,
                    Poll::Ready(None) => upload.end(&mut self.out)?,
                }
            }
            ready!(self.out.poll_write(cx, &mut self.io)).map_err(Error::Io)?;
            if waits || upload.length == Length::None {
                ready!(self.out.poll_flush(cx, &mut self.io)).map_err(Error::Io)?;
                return match waits {
                    true => Poll::Pending,
                    false => Poll::Ready(Ok(())),
                };
            }
        }
    }

    /// The next frame of the response's body.
    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(Err(error @ Error::Upload(_))) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = self.poll_response(cx);
        if let Poll::Ready(Some(Err(_))) = &frame {
            self.broken = true;
        }
        frame
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match self
                .responses
                .next(&mut self.held)
                .map_err(Error::Malformed)?
            {
                Event::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Event::End(trailers) => {
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                // Invariant: a head has come already.
                Event::Head(_) | Event::Interim(_) => {
                    return Poll::Ready(Some(Err(Error::Closed)));
                }
                Event::More => match ready!(self.poll_fill(cx)) {
                    Ok(0) if self.responses.closed() => return Poll::Ready(None),
                    Ok(0) => return Poll::Ready(Some(Err(Error::Closed))),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Some(Err(Error::Io(error)))),
                },
            }
        }
    }

    /// Whether the response is complete.
    pub(in crate::http) fn is_end_stream(&self) -> bool {
        self.responses.is_complete()
    }

    /// How much of the response's body is still to come.
    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        self.responses
            .left()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The stream, once the response has changed its protocol, and what was read of it already.
    pub(in crate::http) fn into_tunnel(mut self) -> (Io, Bytes) {
        self.io.end_requests();
        (self.io, self.held.freeze())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read_into(cx, &mut self.held)
    }
}

impl Upload {
    fn add(&mut self, frame: Frame<Bytes>, out: &mut Outbox) -> Result<(), Error> {
        let frame = match frame.into_data() {
            Ok(data) => {
                if let Length::Known(left) = &mut self.length {
                    *left = left.checked_sub(data.len() as u64).ok_or(Error::Length)?;
                }
                out.data(data, self.length);
                if self.length == Length::Known(0) {
                    self.length = Length::None;
                }
                return Ok(());
            }
            Err(other) => other,
        };
        if self.length == Length::Chunked
            && let Ok(trailers) = frame.into_trailers()
        {
            encode::last_chunk(&mut out.head, Some(&trailers));
            self.length = Length::None;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Outbox) -> Result<(), Error> {
        match self.length {
            Length::Known(_) => return Err(Error::Length),
            Length::Chunked => encode::last_chunk(&mut out.head, None),
            Length::None | Length::Close => {}
        }
        self.length = Length::None;
        Ok(())
    }
}

/// How the body of a request is framed, as its head says. There is none where it says nothing.
fn length(head: &request::Parts) -> Length {
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return Length::Chunked;
    }
    let length = head.headers.get(CONTENT_LENGTH);
    let number = |length: &HeaderValue| length.to_str().ok()?.parse().ok();
    match length.and_then(number) {
        Some(0) | None => Length::None,
        Some(length) => Length::Known(length),
    }
}
