//! Bytes on their way out of a connection: a head and at most one frame of a body.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::encode::{self, Length};
use crate::io::Io;

/// Frames up to this size are copied behind their head: one piece costs less to write than two.
const SMALL: usize = 4 * 1024;
/// Room that an idle connection keeps for its next message, if the last one needed it.
const KEPT: usize = 2 * 1024;

/// What is still to be written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Written by whoever makes heads; `at` bytes of it are gone.
    pub(super) head: Vec<u8>,
    at: usize,
    data: Bytes,
    tail: &'static [u8],
    /// Taken by the connection, but perhaps still inside of its TLS session.
    unflushed: bool,
}

impl Outbox {
    /// Whether everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.head.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether a frame of a body fits in.
    pub(super) fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty()
    }

    /// Adds a frame of a body. There must be room, and the frame must be no longer than `length` allows.
    pub(super) fn data(&mut self, data: Bytes, length: Length) {
        if data.is_empty() {
            return;
        }
        let chunked = length == Length::Chunked;
        if chunked {
            encode::chunk(&mut self.head, data.len());
        }
        if data.len() <= SMALL {
            self.head.extend_from_slice(&data);
            if chunked {
                self.head.extend_from_slice(b"\r\n");
            }
        } else {
            self.data = data;
            self.tail = if chunked { b"\r\n" } else { b"" };
        }
    }

    /// Writes everything; not yet through the TLS session ([`Outbox::poll_flush`]).
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let head = &self.head[self.at..];
            let io = Pin::new(&mut *io);
            let taken = if self.data.is_empty() && self.tail.is_empty() {
                ready!(io.poll_write(cx, head))?
            } else {
                let pieces = [head, &self.data, self.tail].map(IoSlice::new);
                ready!(io.poll_write_vectored(cx, &pieces))?
            };
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(taken);
        }
        Poll::Ready(Ok(()))
    }

    /// Lets what was written go out.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        if self.unflushed && io.is_tls() {
            ready!(Pin::new(io).poll_flush(cx))?;
        }
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut taken: usize) {
        let head = taken.min(self.head.len() - self.at);
        self.at += head;
        taken -= head;
        let data = taken.min(self.data.len());
        self.data.advance(data);
        taken -= data;
        self.tail = &self.tail[taken..];
        if self.at == self.head.len() {
            self.head.clear();
            self.head.shrink_to(KEPT);
            self.at = 0;
        }
        if self.data.is_empty() {
            // Lets go of the buffer that it was cut from.
            self.data = Bytes::new();
        }
    }
}
