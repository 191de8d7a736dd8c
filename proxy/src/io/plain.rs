//! The TCP connection below everything.
//!
//! Where requests are sent on it, a peer may refuse what is written without that being an error, and may pause: see
//! [`Sending`].

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::READ_SIZE;

/// What is read ahead of rustls: as much as its reader takes, in records, and the one that they end in.
const AHEAD_SIZE: usize = READ_SIZE + 32 * 1024;

/// A TCP connection whose next bytes may have been read already; they are read again.
#[derive(Debug)]
pub struct Plain {
    tcp: TcpStream,
    prefix: Bytes,
    /// Reads more from the kernel than it is asked for, and keeps it in `prefix`.
    reads_ahead: bool,
    /// There where requests are sent.
    pub(super) sending: Option<Sending>,
}

/// How requests are sent on a connection that this proxy made ([`Io::send_requests`](super::Io::send_requests)).
#[derive(Clone, Debug, Default)]
pub struct Sending(Rc<SendingState>);

#[derive(Debug, Default)]
struct SendingState {
    /// How the peer refused bytes, which were discarded.
    refused: Cell<Option<io::ErrorKind>>,
    /// Whether the kernel has taken bytes of the current request.
    sent: Cell<bool>,
    /// Whether the peer may pause, and whether the kernel has been told.
    may_pause: Cell<bool>,
    pauses: Cell<bool>,
    /// The time-out that was lifted for it.
    lifted: Cell<Option<Duration>>,
}

const RESET: io::ErrorKind = io::ErrorKind::ConnectionReset;

impl Plain {
    /// `prefix` was read from `tcp` before.
    pub fn new(tcp: TcpStream, prefix: Bytes) -> Self {
        Self {
            tcp,
            prefix,
            reads_ahead: false,
            sending: None,
        }
    }

    /// For a reader that asks for little at a time: rustls wants 4 KiB, a quarter of a full record.
    pub fn reading_ahead(self) -> Self {
        Self {
            reads_ahead: true,
            ..self
        }
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether bytes that were read before are still to be read again.
    pub(super) fn has_prefix(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Whether nothing that is written arrives any more.
    pub(super) fn discards(&self) -> bool {
        self.sending.as_ref().is_some_and(Sending::has_discarded)
    }

    fn poll_read_ahead(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        thread_local! {
            /// Not the buffer of `with_scratch`, into which the decrypted bytes go.
            static AHEAD: RefCell<Vec<u8>> = RefCell::new(vec![0; AHEAD_SIZE]);
        }
        AHEAD.with_borrow_mut(|ahead| {
            let mut read = ReadBuf::new(ahead);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
            let (asked, more) = read
                .filled()
                .split_at(buf.remaining().min(read.filled().len()));
            buf.put_slice(asked);
            if !more.is_empty() {
                self.prefix = Bytes::copy_from_slice(more);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Lifts or restores the user time-out, as the request that is about to be written wants it.
    fn prepare_write(&self) {
        if let Some(Sending(state)) = &self.sending
            && state.may_pause.get() != state.pauses.get()
        {
            state.pauses.set(state.may_pause.get());
            let socket = SockRef::from(&self.tcp);
            let changed = if state.may_pause.get() {
                state.lifted.set(socket.tcp_user_timeout().ok().flatten());
                lift_user_timeout(&socket);
                Ok(())
            } else {
                state
                    .lifted
                    .take()
                    .map_or(Ok(()), |timeout| socket.set_tcp_user_timeout(Some(timeout)))
            };
            if let Err(error) = changed {
                tracing::debug!(%error, "can't restore the user time-out of a connection");
            }
        }
    }

    /// Takes `offered` bytes for written where the peer is known to take none.
    fn discard(&self, written: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match (&self.sending, &written) {
            (Some(Sending(state)), Poll::Ready(Err(error))) if is_refusal(error) => {
                state.refused.set(Some(error.kind()));
                Poll::Ready(Ok(offered))
            }
            (Some(Sending(state)), Poll::Ready(Ok(1..))) => {
                state.sent.set(true);
                written
            }
            _ => written,
        }
    }
}

impl Sending {
    /// Whether there was something that the peer did not take.
    pub fn has_discarded(&self) -> bool {
        self.0.refused.get().is_some()
    }

    /// The next request begins. `pauses`: whether the peer may stop reading for as long as it likes, see
    /// [`Io::allow_pauses`](super::Io::allow_pauses). Where it may not, a request to a node that has vanished fails in 30 s.
    pub fn begin(&self, pauses: bool) {
        self.0.sent.set(false);
        self.0.may_pause.set(pauses);
    }

    /// Whether the kernel has taken any byte of the current request.
    pub fn has_sent(&self) -> bool {
        self.0.sent.get()
    }
}

impl From<TcpStream> for Plain {
    fn from(tcp: TcpStream) -> Self {
        Self::new(tcp, Bytes::new())
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            let before = buf.filled().len();
            if self.reads_ahead {
                ready!(self.poll_read_ahead(cx, buf))?;
            } else {
                ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
            }
            let ended = buf.filled().len() == before && buf.remaining() > 0;
            return match &self.sending {
                // The kernel told of the reset only once, when it refused a write: this is no orderly end.
                Some(Sending(state)) if ended && state.refused.get() == Some(RESET) => {
                    Poll::Ready(Err(RESET.into()))
                }
                _ => Poll::Ready(Ok(())),
            };
        }
        let length = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            // Lets go of the buffer that it was cut from.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.discards() {
            return Poll::Ready(Ok(buf.len()));
        }
        self.prepare_write();
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.discard(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        if self.discards() {
            return Poll::Ready(Ok(offered));
        }
        self.prepare_write();
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.discard(written, offered)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// The peer has closed its receiving half too: EPIPE after its FIN, else ECONNRESET.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Lets a peer stop reading for as long as it likes.
pub(super) fn lift_user_timeout(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_tcp_user_timeout(None) {
        tracing::debug!(%error, "can't lift the user time-out of a connection");
    }
}
