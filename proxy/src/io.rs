//! A byte stream between two parties, in clear or encrypted, as one type.

mod cork;
mod plain;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
pub use cork::{Cork, Corked, cork};
use plain::lift_user_timeout;
pub use plain::{Plain, Sending};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::metrics::{Cause, ConnectionGuard, Undecided};
use crate::tls::{ClientTls, ServerTls};

/// A connection as the data path sees it. Counts its bytes where it is told to.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    counted: Counted,
}

/// For whom the bytes count.
#[derive(Debug)]
enum Counted {
    Nobody,
    Peer(ConnectionGuard),
    Undecided(Rc<Undecided>),
}

/// TLS is boxed: its state is about 1 KiB, and most functions hand an [`Io`] on.
#[derive(Debug)]
enum Stream {
    Plain(Plain),
    Client(Box<ClientTls<Plain>>),
    Server(Box<ServerTls<Plain>>),
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Plain::from(tcp).into()
    }
}

impl From<Plain> for Io {
    fn from(plain: Plain) -> Self {
        Self::new(Stream::Plain(plain))
    }
}

impl From<ClientTls<Plain>> for Io {
    fn from(mut tls: ClientTls<Plain>) -> Self {
        tls.get_mut().1.set_buffer_limit(Some(WRITE_SIZE));
        Self::new(Stream::Client(Box::new(tls)))
    }
}

impl From<ServerTls<Plain>> for Io {
    fn from(mut tls: ServerTls<Plain>) -> Self {
        tls.get_mut().1.set_buffer_limit(Some(WRITE_SIZE));
        Self::new(Stream::Server(Box::new(tls)))
    }
}

impl Io {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            counted: Counted::Nobody,
        }
    }

    /// From now on its bytes count for a peer; its end too.
    pub fn counted(self, guard: ConnectionGuard) -> Self {
        Self {
            counted: Counted::Peer(guard),
            ..self
        }
    }

    /// The same for a peer that is not known yet.
    pub fn counted_once_decided(self, undecided: Rc<Undecided>) -> Self {
        Self {
            counted: Counted::Undecided(undecided),
            ..self
        }
    }

    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        self.plain().tcp()
    }

    fn plain(&self) -> &Plain {
        match &self.stream {
            Stream::Plain(plain) => plain,
            Stream::Client(tls) => tls.get_ref().0,
            Stream::Server(tls) => tls.get_ref().0,
        }
    }

    fn plain_mut(&mut self) -> &mut Plain {
        match &mut self.stream {
            Stream::Plain(plain) => plain,
            Stream::Client(tls) => tls.get_mut().0,
            Stream::Server(tls) => tls.get_mut().0,
        }
    }

    /// From now on, what a peer refuses by a reset is discarded instead of being an error of the write: it may
    /// have answered before it closed, and reading gives that answer, then the reset. Whoever sends must look at
    /// what is returned before he relies on the connection.
    pub fn send_requests(&mut self) -> Sending {
        self.plain_mut().sending.insert(Sending::default()).clone()
    }

    /// A reset is an error of the write again.
    pub fn end_requests(&mut self) {
        self.plain_mut().sending = None;
    }

    /// Whether the mesh encrypts it.
    pub fn is_tls(&self) -> bool {
        !matches!(self.stream, Stream::Plain(_))
    }

    /// Reads at least one byte, up to [`READ_SIZE`]; empty at the end. Needs no buffer while it waits.
    pub fn poll_read_bytes(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(self.poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
        })
    }

    /// Reads at least one byte into `buffer`, up to [`READ_SIZE`]; returns how many, 0 at the end. Needs no room in the
    /// buffer while it waits.
    pub fn poll_read_into(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(self.poll_read(cx, &mut read))?;
            buffer.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Whether nothing has arrived that was not read, not even the end.
    pub fn is_silent(&self) -> bool {
        let silent = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        !self.has_buffered()
            && SockRef::from(self.tcp())
                .peek(&mut [MaybeUninit::uninit()])
                .is_err_and(|error| silent(&error))
    }

    /// Whether something that has arrived waits inside of this process to be read.
    fn has_buffered(&self) -> bool {
        let decrypted = match &self.stream {
            Stream::Plain(_) => false,
            // rustls wants no more as long as it holds plaintext.
            Stream::Client(tls) => !tls.get_ref().1.wants_read(),
            Stream::Server(tls) => !tls.get_ref().1.wants_read(),
        };
        decrypted || self.plain().has_prefix()
    }

    /// Ends the connection with a TCP reset instead of an orderly close.
    pub fn reset(self) {
        if let Err(error) = self.tcp().set_zero_linger() {
            tracing::debug!(%error, "can't reset a connection; closing it instead");
        }
    }

    /// Counts that the peer broke the connection, where it counts for a peer.
    pub fn count_broken(&self) {
        match &self.counted {
            Counted::Nobody => {}
            Counted::Peer(guard) => guard.error(Cause::Reset),
            Counted::Undecided(undecided) => undecided.error(Cause::Reset),
        }
    }

    /// Lets a peer stop reading for as long as it likes. Linux counts the user time-out against a closed
    /// window too, though the peer acknowledges every probe (tcp_probe_timer): a consumer that pauses for
    /// longer would be cut off.
    pub fn allow_pauses(&self) {
        lift_user_timeout(&SockRef::from(self.tcp()));
    }

    fn count_read(&self, bytes: usize) {
        match &self.counted {
            Counted::Nobody => {}
            Counted::Peer(guard) => guard.read(bytes as u64),
            Counted::Undecided(undecided) => undecided.read(bytes as u64),
        }
    }

    fn count_written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(Ok(bytes)) = &written else {
            return written;
        };
        match &self.counted {
            Counted::Nobody => {}
            _ if self.plain().discards() => {}
            Counted::Peer(guard) => guard.written(*bytes as u64),
            Counted::Undecided(undecided) => undecided.written(*bytes as u64),
        }
        written
    }
}

/// Forwards a call to whatever is inside.
macro_rules! inner {
    ($io:expr, $inner:ident => $call:expr) => {
        match &mut $io.stream {
            Stream::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Client($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
            Stream::Server($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = inner!(self, inner => inner.poll_read(cx, buf));
        self.count_read(buf.filled().len() - before);
        result
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = inner!(self, inner => inner.poll_write(cx, buf));
        self.count_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = inner!(self, inner => inner.poll_write_vectored(cx, bufs));
        self.count_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, inner => inner.poll_shutdown(cx))
    }
}

/// Bytes that one read takes, at most: eight full TLS records. A body of 100 KB costs a sixth more CPU in reads of 64 KiB.
pub const READ_SIZE: usize = 128 * 1024;
/// Bytes that a TLS session takes at once: what was read, and a head before it, leave in one write.
const WRITE_SIZE: usize = READ_SIZE + 16 * 1024;

/// Lends a buffer of [`READ_SIZE`] that all connections of this thread share, so that idle ones need none.
/// It can't be lent twice at once: `with` must not call back.
pub(crate) fn with_scratch<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
    }
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}

/// How long a connection may be idle before the kernel asks whether the peer still exists, and how long it
/// waits before it asks again.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How often it asks before it gives up.
const KEEPALIVE_PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Sets the options of a connection to another pod, whose node may vanish without a word.
///
/// # Errors
/// The kernel refuses one of them: the connection is gone.
pub fn tune_remote(socket: SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Sets the options of a connection inside of this pod: the same kernel is at both ends, so that nobody
/// vanishes unnoticed, and idle connections need no wake-ups.
///
/// # Errors
/// As [`tune_remote`].
pub fn tune_local(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)
}

#[cfg(test)]
mod tests;
