//! A byte stream between two parties, in clear or encrypted, as one type.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::{ClientTls, ServerTls};

/// A TCP connection whose first bytes may have been read already; they are read again.
#[derive(Debug)]
pub struct Plain {
    tcp: TcpStream,
    prefix: Bytes,
}

/// A connection as the data path sees it.
#[derive(Debug)]
pub enum Io {
    /// In clear.
    Plain(Plain),
    /// This proxy called, and has verified the peer. Boxed: TLS state is about 1 KiB.
    Client(Box<ClientTls<Plain>>),
    /// The peer called, and is verified.
    Server(Box<ServerTls<Plain>>),
}

impl Plain {
    /// `prefix` was read from `tcp` before.
    pub fn new(tcp: TcpStream, prefix: Bytes) -> Self {
        Self { tcp, prefix }
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl From<TcpStream> for Plain {
    fn from(tcp: TcpStream) -> Self {
        Self::new(tcp, Bytes::new())
    }
}

impl Io {
    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(plain) => &plain.tcp,
            Self::Client(tls) => &tls.get_ref().0.tcp,
            Self::Server(tls) => &tls.get_ref().0.tcp,
        }
    }

    /// Whether the mesh encrypts it.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Ends the connection with a TCP reset, as its other half ended.
    pub fn reset(self) {
        if let Err(error) = self.tcp().set_zero_linger() {
            tracing::debug!(%error, "can't reset a connection; closing it instead");
        }
    }
}

/// Forwards a call to whatever is inside.
macro_rules! inner {
    ($io:expr, $inner:ident => $call:expr) => {
        match $io.get_mut() {
            Io::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Io::Client($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
            Io::Server($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, inner => inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, inner => inner.poll_shutdown(cx))
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.tcp).poll_read(cx, buf);
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
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
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

/// How long a connection may be idle before the kernel asks whether the peer still exists.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Sets the options that every connection of the data path has: no delay, keepalive, user time-out.
///
/// # Errors
/// The kernel refuses one of them: the connection is gone.
pub fn tune(socket: socket2::SockRef<'_>) -> io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}
