//! The body of a request on its way to an endpoint: streamed as it comes, and kept as long as it is
//! small, so that the request can be sent once more.
//!
//! Errors of the client's connection pass through with their HTTP/2 reason: the stream to
//! the endpoint is reset with it.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::incoming::{Incoming, IncomingError};

/// Most bytes of a body that are kept for a retry.
pub(super) const REPLAY_LIMIT: usize = 64 * 1024;
/// How long a body waits for the endpoint's 100. An endpoint that does not know Expect never sends
/// one, and the client may never send without (RFC 9110, section 10.1.1); curl waits 1 s.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of one client request, shared by the tries to send it.
pub(super) struct Upload {
    incoming: RefCell<Incoming>,
    kept: RefCell<Kept>,
    /// The length that the client declared.
    length: Option<u64>,
    /// Bytes that came from the client.
    received: Cell<u64>,
    /// The try that may read; bodies of earlier ones fail.
    current: Cell<u32>,
    /// The client's connection failed while the body was read.
    broken: Cell<bool>,
    gate: Option<Arc<Gate>>,
}

/// The part of the body that was read so far, while it may be needed again.
#[derive(Default)]
struct Kept {
    frames: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// The last frame is among them.
    ended: bool,
    /// More was read than is kept: no second try.
    overflown: bool,
}

/// What is sent to the endpoint. Without an upload it is empty.
pub(super) struct RequestBody {
    upload: Option<Rc<Upload>>,
    number: u32,
    /// Frames of `kept` that were sent.
    next: usize,
    sent: u64,
    ended: bool,
    patience: Option<Pin<Box<Sleep>>>,
}

/// Keeps a body back until the endpoint says that it wants it (`Expect: 100-continue`).
pub(super) struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const REFUSED: u8 = 2;

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// With the client's reset code, if it sent one.
    #[error("the client's request ended early")]
    Client(#[source] IncomingError),
    /// The request is being sent again elsewhere.
    #[error("another try took over the request body")]
    Superseded,
    /// The final response came instead of 100.
    #[error("the endpoint did not ask for the request body")]
    NotAsked,
}

impl Upload {
    /// `continues`: the client waits for 100.
    pub(super) fn new(incoming: Incoming, continues: bool) -> Rc<Self> {
        let length = incoming.size_hint().exact();
        let overflown = length.is_some_and(|length| length > REPLAY_LIMIT as u64);
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            kept: RefCell::new(Kept {
                overflown,
                ..Kept::default()
            }),
            length,
            received: Cell::new(0),
            current: Cell::new(0),
            broken: Cell::new(false),
            gate: continues.then(|| {
                Arc::new(Gate {
                    state: AtomicU8::new(CLOSED),
                    waker: AtomicWaker::new(),
                })
            }),
        })
    }

    /// The body for the next try. Those of earlier tries fail from now on.
    pub(super) fn body(self: &Rc<Self>) -> RequestBody {
        self.current.set(self.current.get() + 1);
        RequestBody {
            upload: Some(self.clone()),
            number: self.current.get(),
            next: 0,
            sent: 0,
            ended: false,
            patience: None,
        }
    }

    /// Whether everything that was read is still there.
    pub(super) fn can_replay(&self) -> bool {
        self.received.get() == 0 || !self.kept.borrow().overflown
    }

    /// The declared length is no more than what is kept.
    pub(super) fn is_small(&self) -> bool {
        self.length
            .is_some_and(|length| length <= REPLAY_LIMIT as u64)
    }

    /// The declared length is more than is ever kept.
    pub(super) fn is_large(&self) -> bool {
        self.length
            .is_some_and(|length| length > REPLAY_LIMIT as u64)
    }

    /// Nothing is sent twice after this: the response has begun.
    pub(super) fn keep_no_more(&self) {
        self.kept.borrow_mut().overflown = true;
    }

    /// Bytes that came from the client.
    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Whether the client's connection failed while the body was read.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Set when the client waits for 100.
    pub(super) fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    fn poll_client(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let mut incoming = self.incoming.borrow_mut();
        let frame = match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            None => {
                self.kept.borrow_mut().ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                self.broken.set(true);
                return Poll::Ready(Some(Err(UploadError::Client(error))));
            }
            Some(Ok(frame)) => frame,
        };
        let mut kept = self.kept.borrow_mut();
        if let Some(data) = frame.data_ref() {
            self.received.set(self.received.get() + data.len() as u64);
            kept.overflown |= kept.bytes + data.len() > REPLAY_LIMIT;
            if kept.overflown {
                kept.frames = Vec::new();
            } else {
                kept.bytes += data.len();
                kept.frames.push(data.clone());
            }
            kept.ended = incoming.is_end_stream();
        } else if let Some(trailers) = frame.trailers_ref() {
            if !kept.overflown {
                kept.trailers = Some(trailers.clone());
            }
            kept.ended = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl RequestBody {
    pub(super) fn empty() -> Self {
        Self {
            upload: None,
            number: 0,
            next: 0,
            sent: 0,
            ended: true,
            patience: None,
        }
    }

    /// A frame that was read by an earlier try.
    fn kept(&mut self, upload: &Upload) -> Option<Frame<Bytes>> {
        let kept = upload.kept.borrow();
        if let Some(data) = kept.frames.get(self.next) {
            self.next += 1;
            return Some(Frame::data(data.clone()));
        }
        if kept.ended {
            self.ended = true;
            return kept.trailers.clone().map(Frame::trailers);
        }
        None
    }

    fn poll_gate(&mut self, cx: &mut Context<'_>, gate: &Gate) -> Poll<Result<(), UploadError>> {
        gate.waker.register(cx.waker());
        match gate.state.load(Ordering::Acquire) {
            OPEN => return Poll::Ready(Ok(())),
            REFUSED => return Poll::Ready(Err(UploadError::NotAsked)),
            _ => {}
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(CONTINUE_TIMEOUT)));
        ready!(patience.as_mut().poll(cx));
        gate.open();
        Poll::Ready(Ok(()))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(upload) = self.upload.clone() else {
            return Poll::Ready(None);
        };
        if upload.current.get() != self.number {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(gate) = &upload.gate
            && let Err(error) = ready!(self.poll_gate(cx, gate))
        {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(frame) = self.kept(&upload) {
            self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(upload.poll_client(cx));
        match &frame {
            None => self.ended = true,
            Some(Ok(frame)) => {
                self.next = upload.kept.borrow().frames.len();
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                self.ended = frame.is_trailers();
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        if self.ended {
            return true;
        }
        let Some(upload) = &self.upload else {
            return true;
        };
        let kept = upload.kept.borrow();
        if kept.ended {
            return kept.trailers.is_none() && self.next >= kept.frames.len();
        }
        self.next >= kept.frames.len() && upload.incoming.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.upload.as_ref().map(|upload| upload.length) {
            None => SizeHint::with_exact(0),
            Some(None) => SizeHint::default(),
            Some(Some(length)) => SizeHint::with_exact(length.saturating_sub(self.sent)),
        }
    }
}

impl Gate {
    /// The endpoint said 100, or has had its time.
    pub(super) fn open(&self) {
        self.turn(OPEN);
    }

    /// The whole response is here, and nobody asked for the body.
    pub(super) fn refuse(&self) {
        self.turn(REFUSED);
    }

    fn turn(&self, to: u8) {
        let _ = self
            .state
            .compare_exchange(CLOSED, to, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }
}
