//! Follows the bytes of a client from request to request.
//!
//! Pure: bytes come in, in pieces of any size; heads, data and trailer sections come out. A head comes only as a whole
//! and only when [`head::parse`] finds nothing wrong with it. The verdict never depends on how the input was cut.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::chunked::{Decoded, Decoder, take};
use crate::http::head::{self, Framing, Head, MAX_FIELDS, MAX_HEAD, Rejection};

/// Where in the conversation a client is.
#[derive(Debug)]
pub(in crate::http) struct Requests {
    state: State,
    /// Where the lines end that were found of the current head.
    ends: Vec<usize>,
}

/// What comes next from a client.
#[derive(Debug)]
pub(in crate::http) enum Event {
    /// More input is needed.
    More,
    /// A request begins.
    Head(Box<Head>),
    /// A piece of its body; whether it is known to be the last.
    Data { data: Bytes, last: bool },
    /// Its chunked body is complete.
    End(Option<HeaderMap>),
}

#[derive(Debug)]
enum State {
    /// In a head of which `scanned` bytes hold no end.
    Head {
        scanned: usize,
    },
    /// So many bytes of a body are still to come.
    Length(u64),
    Chunked(Box<Decoder>),
}

const BETWEEN: State = State::Head { scanned: 0 };

impl Requests {
    pub(in crate::http) fn new() -> Self {
        Self {
            state: BETWEEN,
            ends: Vec::new(),
        }
    }

    /// Takes what comes next out of `held`.
    pub(in crate::http) fn next(&mut self, held: &mut BytesMut) -> Result<Event, Rejection> {
        match &mut self.state {
            State::Head { scanned } => loop {
                match find_head(held, scanned, &mut self.ends)? {
                    Found::Incomplete => return Ok(Event::More),
                    Found::Blank(length) => held.advance(length),
                    Found::Head(length) => {
                        let head = head::parse(&take(held, length), &self.ends)?;
                        self.ends.clear();
                        self.state = match head.body {
                            Framing::Length(0) => BETWEEN,
                            Framing::Length(length) => State::Length(length),
                            Framing::Chunked => State::Chunked(Box::new(Decoder::of_request())),
                        };
                        return Ok(Event::Head(Box::new(head)));
                    }
                }
            },
            State::Length(_) if held.is_empty() => Ok(Event::More),
            State::Length(left) => {
                let length = usize::try_from(*left).map_or(held.len(), |l| l.min(held.len()));
                *left -= length as u64;
                let last = *left == 0;
                if last {
                    self.state = BETWEEN;
                }
                let data = take(held, length);
                Ok(Event::Data { data, last })
            }
            State::Chunked(decoder) => Ok(match decoder.next(held)? {
                Decoded::More => Event::More,
                Decoded::Data(data) => Event::Data { data, last: false },
                Decoded::End(trailers) => {
                    self.state = BETWEEN;
                    Event::End(trailers)
                }
            }),
        }
    }
}

enum Found {
    Incomplete,
    /// An empty line before a request: skipped (RFC 9112, section 2.2).
    Blank(usize),
    Head(usize),
}

fn find_head(bytes: &[u8], scanned: &mut usize, ends: &mut Vec<usize>) -> Result<Found, Rejection> {
    if ends.is_empty() && bytes.starts_with(b"\r\n") {
        *scanned = 0;
        return Ok(Found::Blank(2));
    }
    while let Some(found) = memchr::memchr(b'\n', &bytes[*scanned..]) {
        let at = *scanned + found;
        if at >= MAX_HEAD {
            break;
        }
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Rejection::bad("a line of the head ends without CR"));
        }
        let line = ends.last().copied().unwrap_or(0);
        *scanned = at + 1;
        if at - 1 == line {
            return Ok(Found::Head(at + 1));
        }
        // The request line is none of the fields.
        if ends.len() > MAX_FIELDS {
            return Err(Rejection::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request has more than 100 header fields",
            ));
        }
        ends.push(at + 1);
    }
    if bytes.len() > MAX_HEAD {
        return Err(if ends.is_empty() {
            Rejection::new(
                StatusCode::URI_TOO_LONG,
                "the request line is longer than 64 KiB",
            )
        } else {
            Rejection::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request head is larger than 64 KiB",
            )
        });
    }
    *scanned = bytes.len();
    Ok(Found::Incomplete)
}
