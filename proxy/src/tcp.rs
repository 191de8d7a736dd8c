//! Bytes both ways between two connections, until both halves have ended.
//!
//! A closed half is passed on as a closed half; a reset, or TLS that ends without a close_notify, as a
//! reset. A connection holds no buffer but for what its slower side has not taken yet, at most
//! [`crate::io::READ_SIZE`] each way; while that waits, nothing more is read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::{Io, with_scratch};

#[cfg(test)]
mod tests;

/// How a connection ended.
#[derive(Debug)]
pub struct Copied {
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub received: u64,
    /// Why it was reset; none when both sides closed orderly.
    pub broken: Option<Broken>,
}

/// Which side broke a connection, and how.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The client.
    #[error("the client broke it: {0}")]
    Client(#[source] io::Error),
    /// The server.
    #[error("the server broke it: {0}")]
    Server(#[source] io::Error),
}

/// Copies until both sides have closed, or one has broken. `heard` has been read from the client already,
/// `banner` from the server.
pub async fn copy(mut client: Io, mut server: Io, heard: Bytes, banner: Bytes) -> Copied {
    client.allow_pauses();
    server.allow_pauses();
    let (mut up, mut down) = (Flow::new(heard), Flow::new(banner));
    let broken = poll_fn(|cx| {
        // Both are polled each time: each registers its own wake-ups.
        let sent = up.poll(cx, &mut client, &mut server);
        let received = down.poll(cx, &mut server, &mut client);
        match (sent, received) {
            (_, Poll::Ready(Err(error))) => Poll::Ready(Some(Broken::Server(error))),
            (Poll::Ready(Err(error)), _) => Poll::Ready(Some(Broken::Client(error))),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    })
    .await
    .or_else(|| up.refused().map(Broken::Server))
    .or_else(|| down.refused().map(Broken::Client));
    if let Some(broken) = &broken {
        match broken {
            Broken::Client(_) => client.count_broken(),
            Broken::Server(_) => server.count_broken(),
        }
        client.reset();
        server.reset();
    }
    Copied {
        sent: up.bytes,
        received: down.bytes,
        broken,
    }
}

/// One direction.
#[derive(Debug)]
struct Flow {
    /// Read, but not taken by the receiver yet.
    waiting: Bytes,
    /// Taken by the receiver.
    bytes: u64,
    /// Taken, but perhaps still inside the TLS session.
    unflushed: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    /// The sender has closed; the receiver is to be told.
    Closing,
    Closed,
    /// The receiver has broken. The other direction finds that out too, once it has delivered what the
    /// receiver had said before.
    Refused(io::Error),
}

impl State {
    /// A receiver that has closed both its halves takes nothing more, but has not broken: Linux answers EPIPE
    /// after it has sent a FIN, ECONNRESET where it has not. All that it said before its FIN is delivered.
    fn refused(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Refused(error),
        }
    }
}

impl Flow {
    fn new(waiting: Bytes) -> Self {
        Self {
            waiting,
            bytes: 0,
            unflushed: false,
            state: State::Open,
        }
    }

    /// Ready when nothing more will flow; an error if the sender broke.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<io::Result<()>> {
        loop {
            let step = match self.state {
                State::Closed | State::Refused(_) => return Poll::Ready(Ok(())),
                State::Open | State::Closing if !self.waiting.is_empty() => {
                    self.poll_deliver(cx, to)
                }
                State::Closing => Pin::new(&mut *to)
                    .poll_shutdown(cx)
                    .map(|closed| match closed {
                        // It has closed or broken already: the other direction finds out which.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            State::Refused(error)
                        }
                        _ => State::Closed,
                    }),
                State::Open => match self.poll_forward(cx, from, to) {
                    Poll::Ready(state) => Poll::Ready(state?),
                    Poll::Pending => {
                        ready!(self.poll_flush(cx, to));
                        return Poll::Pending;
                    }
                },
            };
            self.state = ready!(step);
        }
    }

    /// Writes what waits.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<State> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting)) {
                Ok(written) if written > 0 => {
                    self.waiting.advance(written);
                    self.taken(written);
                }
                Ok(_) => return Poll::Ready(State::Refused(io::ErrorKind::WriteZero.into())),
                Err(error) => return Poll::Ready(State::refused(error)),
            }
        }
        self.waiting = Bytes::new();
        Poll::Ready(match std::mem::replace(&mut self.state, State::Open) {
            State::Closing => State::Closing,
            _ => State::Open,
        })
    }

    /// Reads once, and writes what was read; keeps what is not taken.
    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
    ) -> Poll<io::Result<State>> {
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(State::Closing));
            }
            let written = match Pin::new(to).poll_write(cx, read) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Ok(State::refused(error))),
                Poll::Pending => 0,
            };
            self.taken(written);
            if written < read.len() {
                self.waiting = Bytes::copy_from_slice(&read[written..]);
            }
            Poll::Ready(Ok(State::Open))
        })
    }

    /// Nothing more comes for now: what came shall arrive.
    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut Io) -> Poll<()> {
        if self.unflushed && to.is_tls() {
            // An error shows at the next write.
            let _ = ready!(Pin::new(to).poll_flush(cx));
        }
        self.unflushed = false;
        Poll::Ready(())
    }

    fn taken(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.unflushed |= bytes > 0;
    }

    /// Why the receiver took no more, if so.
    fn refused(&mut self) -> Option<io::Error> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Refused(error) => Some(error),
            _ => None,
        }
    }
}
