//! Stands between an HTTP/1.x client's bytes and hyper, and refuses what hyper would normalise.
//!
//! Reads go through [`Conversation`]. When a head is refused, hyper gets a harmless request in its
//! place, so that the refusal is answered in order after earlier pipelined responses; the service
//! knows it by its number ([`Checkpoint::refused`]) and answers with the reason. When a body is
//! refused, the read fails, and the service finds the reason too. Writes are untouched.

use std::{
    cell::Cell,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    framing::{Conversation, Then},
    head::Rejection,
};

/// How long a client may take for a head once it has begun: longer than any working client needs,
/// short enough that slow-loris connections do not pile up (nginx: 60 s, hyper: 30 s).
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What hyper gets instead of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: mesh\r\nconnection: close\r\n\r\n";

/// What the guard and the service of one connection tell each other.
#[derive(Default)]
pub(super) struct Checkpoint {
    refused_head: Cell<Option<(u64, Rejection)>>,
    refused_body: Cell<Option<Rejection>>,
    answer: Cell<Option<Answer>>,
    waker: Cell<Option<Waker>>,
}

/// The response to a request that asked for another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It begins: from here the bytes are nobody's business.
    Tunnel,
    /// HTTP goes on.
    Ordinary,
}

impl Checkpoint {
    /// Why the request with this number (from 0, in order of arrival) was replaced.
    pub(super) fn refused(&self, number: u64) -> Option<Rejection> {
        self.refused_head
            .get()
            .filter(|(refused, _)| *refused == number)
            .map(|(_, rejection)| rejection)
    }

    /// Why the body that is being read failed.
    pub(super) fn refused_body(&self) -> Option<Rejection> {
        self.refused_body.get()
    }

    /// True when the connection ends with a refusal, so that unread bytes may be in flight.
    pub(super) fn refused_any(&self) -> bool {
        self.refused_head.get().is_some() || self.refused_body.get().is_some()
    }

    /// Says how the request that asked for another protocol was answered.
    pub(super) fn answered(&self, tunnel: bool) {
        self.answer.set(Some(if tunnel {
            Answer::Tunnel
        } else {
            Answer::Ordinary
        }));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A read failed because the body it belongs to is not framed as its head says.
#[derive(Debug, thiserror::Error)]
#[error("the request body was refused: {0}")]
struct BodyRefused(&'static str);

/// The guarded stream.
pub(super) struct Guard<IO> {
    io: IO,
    conversation: Conversation,
    /// Read and not passed on: at most one head, or one read's worth behind it.
    held: BytesMut,
    /// So much of `held` may be passed on.
    ready: usize,
    mode: Mode,
    deadline: Option<Pin<Box<Sleep>>>,
    checkpoint: Rc<Checkpoint>,
}

enum Mode {
    Checking,
    /// The rest of the stand-in is still to be delivered; then nothing more.
    Refused(&'static [u8]),
    Failed(&'static str),
    Tunnel,
}

impl<IO: AsyncRead + Unpin> Guard<IO> {
    pub(super) fn new(io: IO, checkpoint: Rc<Checkpoint>) -> Self {
        Self {
            io,
            conversation: Conversation::new(),
            held: BytesMut::new(),
            ready: 0,
            mode: Mode::Checking,
            deadline: None,
            checkpoint,
        }
    }

    /// Whether the client is amid a body, which it may go on to send.
    pub(super) fn in_body(&self) -> bool {
        self.conversation.in_body()
    }

    /// The stream, and what was read of it and not passed on.
    pub(super) fn into_parts(self) -> (IO, Bytes) {
        (self.io, self.held.freeze())
    }

    fn poll_checked(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.deliver(out) {
                return Poll::Ready(Ok(()));
            }
            match self.mode {
                Mode::Checking => {}
                Mode::Tunnel => return Pin::new(&mut self.io).poll_read(cx, out),
                Mode::Failed(words) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, BodyRefused(words));
                    return Poll::Ready(Err(error));
                }
                // hyper answers the stand-in and closes; what still arrives is the lingering
                // close's business.
                Mode::Refused(_) => return Poll::Pending,
            }
            if let Some(answer) = self.checkpoint.answer.take() {
                match answer {
                    Answer::Tunnel => {
                        self.mode = Mode::Tunnel;
                        self.ready = self.held.len();
                    }
                    Answer::Ordinary => {
                        self.conversation.resume();
                        self.check_held();
                    }
                }
                continue;
            }
            let before = out.filled().len();
            let waiting = self.conversation.is_waiting();
            if waiting {
                self.checkpoint.waker.set(Some(cx.waker().clone()));
                // One read is kept, so that a client that goes away is noticed; no more.
                if !self.held.is_empty() {
                    return Poll::Pending;
                }
            }
            match Pin::new(&mut self.io).poll_read(cx, out) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    continue;
                }
            }
            let fresh = out.filled().len() - before;
            if fresh == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() && !waiting {
                let (passed, then) = self.conversation.advance(&out.filled()[before..]);
                if passed < fresh {
                    self.held
                        .extend_from_slice(&out.filled()[before + passed..]);
                    out.set_filled(before + passed);
                }
                self.act(then);
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                self.held.extend_from_slice(&out.filled()[before..]);
                out.set_filled(before);
                self.check_held();
            }
        }
    }

    /// Moves bytes that may pass into `out`; true if there were any.
    fn deliver(&mut self, out: &mut ReadBuf<'_>) -> bool {
        if self.ready > 0 {
            let length = self.ready.min(out.remaining());
            out.put_slice(&self.held[..length]);
            self.held.advance(length);
            self.ready -= length;
            return true;
        }
        if let Mode::Refused(rest) = &mut self.mode {
            let length = rest.len().min(out.remaining());
            out.put_slice(&rest[..length]);
            *rest = &rest[length..];
            return length > 0;
        }
        false
    }

    fn check_held(&mut self) {
        let (passed, then) = self.conversation.advance(&self.held);
        self.ready = passed;
        self.act(then);
    }

    fn act(&mut self, then: Then) {
        match then {
            Then::More | Then::Wait => {}
            Then::RefuseHead(rejection) => self.refuse(rejection),
            Then::RefuseBody(rejection) => {
                self.checkpoint.refused_body.set(Some(rejection));
                self.mode = Mode::Failed(rejection.words);
            }
        }
        if !matches!(self.mode, Mode::Checking) || !self.conversation.in_head() {
            self.deadline = None;
        } else if self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep_until(Instant::now() + HEAD_TIMEOUT)));
        }
    }

    fn refuse(&mut self, rejection: Rejection) {
        let number = self.conversation.heads();
        self.checkpoint.refused_head.set(Some((number, rejection)));
        self.mode = Mode::Refused(STAND_IN);
        self.deadline = None;
    }

    /// Ready when the head that has begun took too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        ready!(deadline.as_mut().poll(cx));
        self.refuse(Rejection::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request head did not arrive within 30 s",
        ));
        Poll::Ready(())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_checked(cx, out)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO> fmt::Debug for Guard<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("conversation", &self.conversation)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}
