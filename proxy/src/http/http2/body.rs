//! A body as it is received on a stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header::CONTENT_LENGTH};
use hyper::body::{Frame, SizeHint};

/// A request's body, or a response's.
pub(in crate::http) struct ReceivedBody {
    /// Absent where the message can't have one.
    stream: Option<RecvStream>,
    /// Bytes that are still to come, if the peer said how many. h2 sees to it that they do.
    length: Option<u64>,
    data_ended: bool,
}

impl ReceivedBody {
    /// `headers`: of the same message.
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        // h2 has checked that it is one number.
        let length = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
        Self {
            length: match stream.is_end_stream() {
                true => Some(0),
                false => length(),
            },
            stream: Some(stream),
            data_ended: false,
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            stream: None,
            length: Some(0),
            data_ended: true,
        }
    }

    pub(super) fn into_stream(self) -> Option<RecvStream> {
        self.stream
    }

    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        if !self.data_ended {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // An error shows at the next read.
                    let _ = stream.flow_control().release_capacity(data.len());
                    self.length = self
                        .length
                        .map(|length| length.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx));
        Poll::Ready(
            trailers
                .transpose()
                .map(|trailers| trailers.map(Frame::trailers)),
        )
    }

    pub(in crate::http) fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
