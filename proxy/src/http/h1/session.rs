//! A client's connection, shared by the loop that serves it and the body of the request that it is sending.
//!
//! Both live on one thread, but the body may be read by another task (HTTP/2 sends bodies in tasks of its own): while
//! it is open, only its reader reads, and the loop is woken when it ends.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use tokio::io::AsyncWrite;

use super::request::{Event, Requests};
use crate::{
    http::{
        head::{Framing, Head, Rejection},
        server::Client,
    },
    io::Io,
};

/// Bytes that a client may have sent ahead while its request is answered; then it has to wait.
const AHEAD: usize = 64 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The connection.
pub(super) struct Session {
    pub(super) io: RefCell<Io>,
    client: Rc<Client>,
    reading: RefCell<Reading>,
    /// Still to be written before the body is read on: the client waits for it.
    interim: Cell<&'static [u8]>,
    body: Cell<BodyState>,
    /// The loop's, while it waits for the end of a body.
    waker: Cell<Option<Waker>>,
}

struct Reading {
    held: BytesMut,
    requests: Requests,
}

/// What became of the current request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    /// Its reader may go on.
    Open,
    /// It has ended, or there is none.
    Complete,
    /// It can't be read to its end: malformed, or the client has gone.
    Failed,
    /// Its reader wants no more of it.
    Dropped,
}

/// The body of a client's request.
pub(in crate::http) struct RequestBody {
    session: Option<Rc<Session>>,
    framing: Framing,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum BodyError {
    #[error("{}", .0.words)]
    Refused(Rejection),
    #[error("the client closed the connection")]
    Closed,
    #[error(transparent)]
    Io(io::Error),
}

/// What a client does next.
pub(super) enum Next {
    Request(Box<Head>),
    Refused(Rejection),
    Closed,
}

impl Session {
    pub(super) fn new(io: Io, client: Rc<Client>) -> Rc<Self> {
        Rc::new(Self {
            io: RefCell::new(io),
            client,
            reading: RefCell::new(Reading {
                held: BytesMut::new(),
                requests: Requests::new(),
            }),
            interim: Cell::default(),
            body: Cell::new(BodyState::Complete),
            waker: Cell::default(),
        })
    }

    /// The next request's head. The body of the last one must be complete.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Next> {
        let Reading { held, requests } = &mut *self.reading.borrow_mut();
        loop {
            match requests.next(held) {
                Ok(Event::Head(head)) => return Poll::Ready(Next::Request(head)),
                Err(rejection) => return Poll::Ready(Next::Refused(rejection)),
                // Invariant: no body is open.
                Ok(Event::Data { .. } | Event::End(_)) => return Poll::Ready(Next::Closed),
                Ok(Event::More) => {}
            }
            match ready!(self.poll_fill(cx, held)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Next::Closed),
            }
        }
    }

    /// Whether the client has begun a head.
    pub(super) fn in_head(&self) -> bool {
        !self.reading.borrow().held.is_empty()
    }

    /// The body that follows a head. `continues`: the client waits to be asked for it.
    pub(super) fn body(self: &Rc<Self>, framing: Framing, continues: bool) -> RequestBody {
        let none = framing == Framing::Length(0);
        if !none {
            self.body.set(BodyState::Open);
            self.interim.set(if continues { CONTINUE } else { b"" });
        }
        RequestBody {
            session: (!none).then(|| self.clone()),
            framing,
        }
    }

    /// Ready when the client has gone while its request is answered. Otherwise takes what it sends ahead, within
    /// bounds.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.body.get() {
            BodyState::Open => {
                self.wake_me(cx);
                return Poll::Pending;
            }
            // The request is answered with the reason.
            BodyState::Failed if self.client.refused().is_some() => return Poll::Pending,
            BodyState::Failed => return Poll::Ready(()),
            // The rest of the body is in the way.
            BodyState::Dropped => return Poll::Pending,
            BodyState::Complete => {}
        }
        let held = &mut self.reading.borrow_mut().held;
        while held.len() < AHEAD {
            match ready!(self.poll_fill(cx, held)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Ready when nobody reads the body any more; says how it ended.
    pub(super) fn poll_body_end(&self, cx: &mut Context<'_>) -> Poll<BodyState> {
        match self.body.get() {
            BodyState::Open => {
                self.wake_me(cx);
                Poll::Pending
            }
            ended => Poll::Ready(ended),
        }
    }

    /// What became of the current request's body.
    pub(super) fn body_state(&self) -> BodyState {
        self.body.get()
    }

    /// Writes what is left of an interim response that has begun; the final one follows.
    pub(super) fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.get().len() == CONTINUE.len() {
            self.interim.set(b"");
        }
        self.poll_continue(cx)
    }

    /// The connection, and what was read of it already. None while the body of a request is still read.
    pub(super) fn into_parts(self: Rc<Self>) -> Option<(Io, Bytes)> {
        let session = Rc::into_inner(self)?;
        let held = session.reading.into_inner().held;
        Some((session.io.into_inner(), held.freeze()))
    }

    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.body.get() != BodyState::Open {
            return Poll::Ready(None);
        }
        let frame = ready!(self.poll_open_body(cx));
        if let Some(Err(error)) = &frame {
            if let BodyError::Refused(rejection) = error {
                self.client.refuse(*rejection);
            }
            self.body_ended(BodyState::Failed);
        }
        Poll::Ready(frame)
    }

    fn poll_open_body(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        ready!(self.poll_continue(cx)).map_err(BodyError::Io)?;
        let Reading { held, requests } = &mut *self.reading.borrow_mut();
        loop {
            match requests.next(held).map_err(BodyError::Refused)? {
                Event::Data { data, last } => {
                    if last {
                        self.body_ended(BodyState::Complete);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Event::End(trailers) => {
                    self.body_ended(BodyState::Complete);
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                // Invariant: a body is open.
                Event::Head(_) => return Poll::Ready(Some(Err(BodyError::Closed))),
                Event::More => match ready!(self.poll_fill(cx, held)) {
                    Ok(0) => return Poll::Ready(Some(Err(BodyError::Closed))),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Some(Err(BodyError::Io(error)))),
                },
            }
        }
    }

    fn poll_continue(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.get().is_empty() {
            return Poll::Ready(Ok(()));
        }
        let io = &mut *self.io.borrow_mut();
        while !self.interim.get().is_empty() {
            let rest = self.interim.get();
            let written = ready!(Pin::new(&mut *io).poll_write(cx, rest))?;
            self.interim.set(&rest[written..]);
        }
        Pin::new(io).poll_flush(cx)
    }

    fn poll_fill(&self, cx: &mut Context<'_>, held: &mut BytesMut) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_read_into(cx, held)
    }

    fn body_ended(&self, how: BodyState) {
        self.body.set(how);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wake_me(&self, cx: &Context<'_>) {
        let waker = self.waker.take();
        let same = waker.filter(|waker| waker.will_wake(cx.waker()));
        self.waker
            .set(Some(same.unwrap_or_else(|| cx.waker().clone())));
    }
}

impl RequestBody {
    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &self.session {
            Some(session) => session.poll_body(cx),
            None => Poll::Ready(None),
        }
    }

    /// Whether nothing more comes. A chunked body is not known to end before its end.
    pub(in crate::http) fn is_end_stream(&self) -> bool {
        self.session
            .as_ref()
            .is_none_or(|session| session.body.get() != BodyState::Open)
    }

    /// The declared length.
    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(length) => SizeHint::with_exact(length),
            Framing::Chunked => SizeHint::default(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(session) = &self.session
            && session.body.get() == BodyState::Open
        {
            session.body_ended(BodyState::Dropped);
        }
    }
}
