//! Gathers what HTTP/2 writes, so that the frames of many streams leave in one TLS record and one system call.
//!
//! h2 flushes after every DATA frame that it does not copy. Here a flush does nothing: the [`Cork`] lets everything
//! out once the connection has been polled.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Io;

/// From so much on the writer has to wait. A TLS session takes it at once.
const FULL: usize = 64 * 1024;

/// The stream that is written to.
#[derive(Debug)]
pub struct Corked(Rc<RefCell<Gathered>>);

/// Lets out what was written.
#[derive(Debug)]
pub struct Cork(Rc<RefCell<Gathered>>);

#[derive(Debug)]
struct Gathered {
    io: Io,
    out: BytesMut,
    /// Taken by the connection, but perhaps still inside of its TLS session.
    unflushed: bool,
    /// Why nothing can be written any more.
    failed: Option<io::ErrorKind>,
    /// Waits for room.
    writer: Option<Waker>,
    /// Something was read that nobody has been told of.
    heard: bool,
}

/// A stream on which nothing leaves before its cork is asked to let it out.
pub fn cork(io: Io) -> (Corked, Cork) {
    let gathered = Rc::new(RefCell::new(Gathered {
        io,
        out: BytesMut::new(),
        unflushed: false,
        failed: None,
        writer: None,
        heard: false,
    }));
    (Corked(gathered.clone()), Cork(gathered))
}

impl Cork {
    /// Lets everything out. For the task that polls the connection itself, each time that it has.
    pub fn poll_flush(&self, cx: &mut Context<'_>) {
        // A failure is told to the writer; what is left goes out when the connection takes it.
        let _ = self.0.borrow_mut().poll_flush(cx);
    }

    /// Whether anything has been read since this was last asked.
    pub fn take_heard(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().heard)
    }
}

impl Gathered {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(self.poll_out(cx));
        if let Err(error) = &flushed {
            self.failed = Some(error.kind());
            self.out = BytesMut::new();
        }
        self.unflushed = false;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Poll::Ready(flushed)
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.unflushed = true;
        }
        // An idle connection needs no buffer.
        self.out = BytesMut::new();
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gathered = &mut *self.0.borrow_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut gathered.io).poll_read(cx, buf);
        gathered.heard |= buf.filled().len() > before;
        read
    }
}

impl AsyncWrite for Corked {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gathered = &mut *self.0.borrow_mut();
        if let Some(failed) = gathered.failed {
            return Poll::Ready(Err(failed.into()));
        }
        if gathered.out.len() >= FULL {
            gathered.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for buf in bufs {
            gathered.out.extend_from_slice(buf);
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.0.borrow().failed {
            Some(failed) => Err(failed.into()),
            None => Ok(()),
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathered = &mut *self.0.borrow_mut();
        ready!(gathered.poll_flush(cx))?;
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}
