//! The loop that serves a client's HTTP/1.x connection: a request, its response, the next request.
//!
//! In: an accepted connection and where its requests go. It ends when the client, an error or a drain ends the
//! connection; after an upgrade, when the tunnel ends.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT},
    response,
};
use hyper::body::{Body, Frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Sleep, sleep, timeout},
};

use super::{
    encode::{self, Length},
    outbox::Outbox,
    session::{BodyState, Next, Session},
};
use crate::{
    drain::Drain,
    http::{
        answer::reject,
        body::ResponseBody,
        head::{Framing, Head, Rejection, check_authority},
        incoming::Incoming,
        server::{Client, Upstream},
    },
    io::Io,
};

/// How long a client may take for a head once it has begun: longer than any working client needs,
/// short enough that slow-loris connections do not pile up (nginx: 60 s, hyper: 30 s).
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an idle connection stays open in a drain. A request may be on its way, and a close
/// would leave its client in doubt whether it was read; the clients' proxies know soon that they should go
/// elsewhere.
const DRAIN_IDLE: Duration = Duration::from_secs(1);
/// How long, and for how many bytes, the connection of a client that was refused, or answered amid its
/// request, is read on, so that a reset does not overtake the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// So much of a response is gathered before it is written, where it is there already.
const GATHER: usize = 16 * 1024;

/// How an exchange left the connection.
enum After {
    /// It carries the next request.
    KeepAlive,
    /// It ends in order.
    Close,
    /// The client has gone, or the response broke off: closing is all that is left, by a reset where the client
    /// could take the close for the end of the response.
    Broken { reset: bool },
}

/// Serves a connection until it ends.
pub(in crate::http) async fn serve(io: Io, drain: &Drain, upstream: Rc<impl Upstream>) {
    let client = Rc::new(Client::default());
    let session = Session::new(io, client.clone());
    let mut out = Outbox::default();
    let mut drained = pin!(async {
        drain.started().await;
        sleep(DRAIN_IDLE).await;
    });
    let after = loop {
        let after = match next(&session, drained.as_mut()).await {
            Next::Closed => break After::Close,
            Next::Refused(rejection) => {
                client.refuse(rejection);
                let answer = Answer::to_refused(&session, &mut out);
                answer.write(reject(rejection)).await
            }
            Next::Request(head) => {
                exchange(&session, &client, *head, drain, &*upstream, &mut out).await
            }
        };
        match after {
            After::KeepAlive if client.tunnels() => break After::KeepAlive,
            After::KeepAlive => {}
            ended => break ended,
        }
    };
    let unread = session.body_state() != BodyState::Complete || client.refused().is_some();
    match (after, session.into_parts()) {
        (_, None) => {}
        (After::KeepAlive, Some((io, early))) => {
            if let Some(tunnel) = client.take_tunnel() {
                tunnel.run(io, early).await;
            }
        }
        (After::Close, Some((mut io, _))) => {
            if unread || io.is_tls() {
                // It may be gone already.
                let _ = io.shutdown().await;
            }
            if unread {
                let _ = timeout(LINGER, linger(&mut io)).await;
            }
        }
        (After::Broken { reset }, Some((io, _))) => {
            if reset {
                io.reset();
            }
        }
    }
}

/// Waits for the next request; not for ever once its head has begun, and not long in a drain.
async fn next(session: &Session, mut drained: Pin<&mut impl Future<Output = ()>>) -> Next {
    let mut deadline: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if let Poll::Ready(next) = session.poll_next(cx) {
            return Poll::Ready(next);
        }
        if !session.in_head() {
            return drained.as_mut().poll(cx).map(|()| Next::Closed);
        }
        let deadline = deadline.get_or_insert_with(|| Box::pin(sleep(HEAD_TIMEOUT)));
        deadline.as_mut().poll(cx).map(|()| {
            Next::Refused(Rejection::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request head did not arrive within 30 s",
            ))
        })
    })
    .await
}

/// Forwards one request and writes its response.
fn exchange<'a>(
    session: &'a Rc<Session>,
    client: &'a Rc<Client>,
    head: Head,
    drain: &'a Drain,
    upstream: &'a impl Upstream,
    out: &'a mut Outbox,
) -> impl Future<Output = After> {
    let Head {
        parts,
        body: framing,
        keep_alive,
    } = head;
    let mut answer = Answer {
        session,
        out,
        version: parts.version,
        method: parts.method.clone(),
        keep_alive,
        drain: Some(drain),
    };
    let body = session.body(framing, continues(&parts.headers, parts.version, framing));
    let request = match check_authority(&parts.uri, &parts.headers) {
        Ok(()) => Ok(Request::from_parts(parts, Incoming::Http1(body))),
        Err(rejection) => {
            client.refuse(rejection);
            answer.keep_alive = false;
            // Nobody reads the body, and it is dropped: who waits for its end would wait for ever.
            Err(rejection)
        }
    };
    async move {
        let response = match request {
            Ok(request) => {
                let mut forwarding = pin!(upstream.forward(client, request));
                let forwarded = poll_fn(|cx| match forwarding.as_mut().poll(cx) {
                    Poll::Ready(forwarded) => Poll::Ready(Some(forwarded)),
                    Poll::Pending => session.poll_left(cx).map(|()| None),
                });
                match forwarded.await {
                    Some(Ok(response)) => response,
                    _ => return After::Broken { reset: false },
                }
            }
            Err(rejection) => reject(rejection),
        };
        answer.keep_alive &= client.refused().is_none();
        answer.write(response).await
    }
}

/// Whether the client waits to be asked for its body.
fn continues(headers: &HeaderMap, version: Version, framing: Framing) -> bool {
    version == Version::HTTP_11
        && framing != Framing::Length(0)
        && headers
            .get(EXPECT)
            .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The way a response takes.
struct Answer<'a> {
    session: &'a Session,
    out: &'a mut Outbox,
    version: Version,
    method: Method,
    keep_alive: bool,
    drain: Option<&'a Drain>,
}

impl<'a> Answer<'a> {
    /// To a request that could not be read.
    fn to_refused(session: &'a Session, out: &'a mut Outbox) -> Self {
        Self {
            session,
            out,
            version: Version::HTTP_11,
            method: Method::GET,
            keep_alive: false,
            drain: None,
        }
    }

    fn write(self, response: Response<ResponseBody>) -> impl Future<Output = After> {
        let (head, body) = response.into_parts();
        let mut answering = self.begin(head, body);
        async move {
            let written = poll_fn(|cx| answering.poll(cx)).await;
            let Answering {
                body,
                keep_alive,
                closes,
                session,
                ..
            } = answering;
            // Before the wait: it lets go of the request.
            drop(body);
            if let Err(why) = written {
                tracing::debug!("a response was not written whole: {why}");
                let reset = closes && matches!(why, Unwritten::Endpoint);
                return After::Broken { reset };
            }
            // The endpoint may read the rest of the request behind its response.
            match poll_fn(|cx| session.poll_body_end(cx)).await {
                BodyState::Complete if keep_alive => After::KeepAlive,
                _ => After::Close,
            }
        }
    }

    /// Writes the head into the outbox.
    fn begin(self, mut head: response::Parts, body: ResponseBody) -> Answering<'a> {
        let status = head.status;
        let tunnel = status == StatusCode::SWITCHING_PROTOCOLS
            || (self.method == Method::CONNECT && status.is_success());
        let length = match encode::has_body(&self.method, status) {
            true => self.length(&mut head.headers, &body),
            false => {
                if status == StatusCode::NO_CONTENT || tunnel {
                    // RFC 9110, section 8.6: not in these.
                    head.headers.remove(CONTENT_LENGTH);
                }
                Length::None
            }
        };
        let mut keep_alive = self.keep_alive
            && length != Length::Close
            && !self.drain.is_some_and(Drain::is_draining);
        if let Some(connection) = head.headers.get(CONNECTION) {
            keep_alive &= !connection.as_bytes().eq_ignore_ascii_case(b"close");
        } else if !keep_alive && !tunnel && self.version == Version::HTTP_11 {
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("close"));
        } else if keep_alive && self.version == Version::HTTP_10 {
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        encode::response(&mut self.out.head, self.version, &head);
        match length {
            Length::Known(bytes) if !head.headers.contains_key(CONTENT_LENGTH) => {
                encode::content_length(&mut self.out.head, bytes);
            }
            Length::Chunked => {
                encode::field(&mut self.out.head, "transfer-encoding", "chunked");
            }
            Length::None | Length::Known(_) | Length::Close => {}
        }
        self.out.head.extend_from_slice(b"\r\n");
        Answering {
            session: self.session,
            out: self.out,
            body,
            length: match length {
                Length::Known(0) => Length::None,
                other => other,
            },
            keep_alive: keep_alive || tunnel,
            closes: length == Length::Close,
            tunnel,
        }
    }

    /// How the body's end is marked; Content-Length says the same.
    fn length(&self, headers: &mut HeaderMap, body: &ResponseBody) -> Length {
        let said = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match (body.size_hint().exact(), said) {
            (Some(exact), said) => {
                if said.is_some_and(|said| said != exact) {
                    headers.remove(CONTENT_LENGTH);
                }
                Length::Known(exact)
            }
            (None, Some(said)) => Length::Known(said),
            (None, None) if self.version == Version::HTTP_11 => {
                headers.remove(CONTENT_LENGTH);
                Length::Chunked
            }
            (None, None) => Length::Close,
        }
    }
}

/// A response that is being written.
struct Answering<'a> {
    session: &'a Session,
    out: &'a mut Outbox,
    body: ResponseBody,
    /// What is still to come of the body.
    length: Length,
    keep_alive: bool,
    /// The close of the connection ends the body.
    closes: bool,
    tunnel: bool,
}

/// Why a response was not written whole.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    #[error("the client has gone")]
    Client,
    #[error("the client has gone: {0}")]
    Write(io::Error),
    #[error("the endpoint broke it off")]
    Endpoint,
}

impl Answering<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwritten>> {
        let interim = self.session.poll_interim(cx);
        ready!(interim).map_err(Unwritten::Write)?;
        loop {
            let waits = self.poll_gather(cx)?.is_pending();
            if self.poll_write(cx)?.is_pending() {
                break;
            }
            if !waits && self.length != Length::None {
                continue;
            }
            if self.poll_flush(cx)?.is_ready() && !waits {
                if !self.body.is_end_stream() {
                    // HTTP/2 may say apart that the body has ended: then its stream need not be reset.
                    let _ = Pin::new(&mut self.body).poll_frame(cx);
                }
                return Poll::Ready(Ok(()));
            }
            break;
        }
        // It waits: the request goes on meanwhile, and a client that leaves is noticed.
        self.body.poll_upload(cx);
        if !self.tunnel && self.session.poll_left(cx).is_ready() {
            return Poll::Ready(Err(Unwritten::Client));
        }
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwritten>> {
        let io = &mut *self.session.io.borrow_mut();
        self.out.poll_write(cx, io).map_err(Unwritten::Write)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwritten>> {
        let io = &mut *self.session.io.borrow_mut();
        self.out.poll_flush(cx, io).map_err(Unwritten::Write)
    }

    /// Takes as much of the body as fits into one write. Pending where more is to come, and is not there yet.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Unwritten> {
        while self.length != Length::None && self.out.has_room() && self.out.head.len() < GATHER {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Some(Ok(frame))) => self.add(frame)?,
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a response broke off");
                    return Err(Unwritten::Endpoint);
                }
                Poll::Ready(None) => {
                    match self.length {
                        Length::Known(_) => return Err(Unwritten::Endpoint),
                        Length::Chunked => encode::last_chunk(&mut self.out.head, None),
                        Length::None | Length::Close => {}
                    }
                    self.length = Length::None;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn add(&mut self, frame: Frame<Bytes>) -> Result<(), Unwritten> {
        match frame.into_data() {
            Ok(data) => {
                if let Length::Known(left) = &mut self.length {
                    let length = data.len() as u64;
                    *left = left.checked_sub(length).ok_or(Unwritten::Endpoint)?;
                }
                self.out.data(data, self.length);
                if self.length == Length::Known(0) {
                    self.length = Length::None;
                }
            }
            Err(other) => {
                if self.length == Length::Chunked
                    && let Ok(trailers) = other.into_trailers()
                {
                    encode::last_chunk(&mut self.out.head, Some(&trailers));
                    self.length = Length::None;
                }
            }
        }
        Ok(())
    }
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
