//! Reads what an endpoint answers to one request.
//!
//! Pure: bytes come in, in pieces of any size; heads, data and the trailer section come out. Where a length is said in
//! two ways, the head comes out as it is, with a body up to the close of the connection: who passes it on refuses it.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    response,
};
use hyper::ext::ReasonPhrase;

use super::chunked::{Decoded, Decoder, take};
use crate::http::head::{MAX_FIELDS, MAX_HEAD};

/// Where in a response an endpoint is.
#[derive(Debug)]
pub(in crate::http) struct Responses {
    state: State,
    /// The request is HEAD, or CONNECT: its response is special.
    head_only: bool,
    connect: bool,
    /// The connection may carry another request once this response is complete.
    keep_alive: bool,
}

/// What comes next of a response.
#[derive(Debug)]
pub(in crate::http) enum Event {
    /// More input is needed.
    More,
    /// An interim response (1xx); the final one follows.
    Interim(Box<response::Parts>),
    /// The response's head.
    Head(Box<response::Parts>),
    /// A piece of its body.
    Data(Bytes),
    /// Its body is complete.
    End(Option<HeaderMap>),
}

/// What came is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response can't be read: {0}")]
pub(in crate::http) struct Malformed(pub(super) &'static str);

#[derive(Debug)]
enum State {
    /// In a head of which `scanned` bytes hold no end.
    Head {
        scanned: usize,
    },
    Length(u64),
    Chunked(Box<Decoder>),
    /// Up to the close of the connection.
    Close,
    /// Another protocol begins.
    Tunnel,
    End,
}

impl Responses {
    /// The response to a request with this method is awaited.
    pub(in crate::http) fn to(method: &Method) -> Self {
        Self {
            state: State::Head { scanned: 0 },
            head_only: method == Method::HEAD,
            connect: method == Method::CONNECT,
            keep_alive: false,
        }
    }

    /// Nothing is awaited.
    pub(super) fn none() -> Self {
        Self {
            state: State::End,
            head_only: false,
            connect: false,
            keep_alive: true,
        }
    }

    /// Whether the response is complete; true also where nothing is awaited.
    pub(in crate::http) fn is_complete(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Whether the connection may carry another request once the response is complete.
    pub(super) fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// How long the rest of the body is, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::End | State::Tunnel => Some(0),
            State::Head { .. } | State::Chunked(_) | State::Close => None,
        }
    }

    /// Takes what comes next out of `held`.
    pub(in crate::http) fn next(&mut self, held: &mut BytesMut) -> Result<Event, Malformed> {
        match &mut self.state {
            State::Head { scanned } => match find_end(held, scanned)? {
                None => Ok(Event::More),
                Some(length) => {
                    let parts = parse(&take(held, length))?;
                    self.begin(parts)
                }
            },
            State::Length(0) | State::End | State::Tunnel => {
                self.finish();
                Ok(Event::End(None))
            }
            State::Length(_) | State::Close if held.is_empty() => Ok(Event::More),
            State::Length(left) => {
                let length = usize::try_from(*left).map_or(held.len(), |l| l.min(held.len()));
                *left -= length as u64;
                if *left == 0 {
                    self.finish();
                }
                Ok(Event::Data(take(held, length)))
            }
            State::Close => Ok(Event::Data(std::mem::take(held).freeze())),
            State::Chunked(decoder) => {
                match decoder.next(held).map_err(|why| Malformed(why.words))? {
                    Decoded::More => Ok(Event::More),
                    Decoded::Data(data) => Ok(Event::Data(data)),
                    Decoded::End(trailers) => {
                        self.finish();
                        Ok(Event::End(trailers))
                    }
                }
            }
        }
    }

    /// The endpoint has closed its side. Whether that is how this response ends.
    pub(super) fn closed(&mut self) -> bool {
        let ends = matches!(self.state, State::Close | State::End);
        if ends {
            self.state = State::End;
        }
        self.keep_alive = false;
        ends
    }

    fn finish(&mut self) {
        if !matches!(self.state, State::Tunnel) {
            self.state = State::End;
        }
    }

    /// RFC 9112, section 6.3.
    fn begin(&mut self, parts: response::Parts) -> Result<Event, Malformed> {
        let status = parts.status;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            self.state = State::Head { scanned: 0 };
            return Ok(Event::Interim(Box::new(parts)));
        }
        self.keep_alive = keeps_alive(&parts);
        let bodiless = self.head_only
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        self.state =
            if status == StatusCode::SWITCHING_PROTOCOLS || (self.connect && status.is_success()) {
                State::Tunnel
            } else if bodiless {
                State::End
            } else {
                framing(&parts)?
            };
        self.keep_alive &= !matches!(self.state, State::Close);
        Ok(Event::Head(Box::new(parts)))
    }
}

fn framing(parts: &response::Parts) -> Result<State, Malformed> {
    let headers = &parts.headers;
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        if parts.version != Version::HTTP_11 {
            return Err(Malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked")
            && !headers.contains_key(CONTENT_LENGTH)
            && headers.get_all(TRANSFER_ENCODING).iter().count() == 1;
        return Ok(match chunked {
            true => State::Chunked(Box::new(Decoder::of_response())),
            false => State::Close,
        });
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(State::Close);
    };
    if lengths.any(|other| other != length) {
        return Err(Malformed("Content-Length is repeated and differs"));
    }
    let digits = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    let number = Some(length)
        .filter(|length| digits(length))
        .and_then(|length| length.to_str().ok()?.parse().ok());
    Ok(match number {
        Some(0) => State::End,
        Some(length) => State::Length(length),
        None => State::Close,
    })
}

fn keeps_alive(parts: &response::Parts) -> bool {
    let (mut close, mut keep_alive) = (false, false);
    for value in parts.headers.get_all(CONNECTION) {
        for option in value
            .as_bytes()
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii)
        {
            close |= option.eq_ignore_ascii_case(b"close");
            keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    !close && (parts.version == Version::HTTP_11 || keep_alive)
}

/// The length of the head that begins here, once its empty line is there.
fn find_end(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, Malformed> {
    while let Some(found) = memchr::memchr(b'\n', &bytes[*scanned..]) {
        let end = *scanned + found + 1;
        match &bytes[end..] {
            [b'\n', ..] => return Ok(Some(end + 1)),
            [b'\r', b'\n', ..] => return Ok(Some(end + 2)),
            // What follows decides: this line end is looked at again.
            [] | [b'\r'] => {
                *scanned = end - 1;
                return within(bytes);
            }
            _ => *scanned = end,
        }
    }
    *scanned = bytes.len();
    within(bytes)
}

fn within(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match bytes.len() > MAX_HEAD {
        true => Err(Malformed("its head is larger than 64 KiB")),
        false => Ok(None),
    }
}

fn parse(head: &Bytes) -> Result<response::Parts, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut fields)
        .map_err(|error| Malformed(words(error)))?;
    let (true, Some(code)) = (complete.is_complete(), parsed.code) else {
        return Err(Malformed("its head is not complete"));
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(code).map_err(|_| Malformed("invalid status"))?;
    parts.version = match parsed.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    // Most are canonical and need not be kept.
    if let Some(reason) = parsed.reason
        && Some(reason) != parts.status.canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    parts.headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        match (name, value) {
            (Ok(name), Ok(value)) => parts.headers.append(name, value),
            _ => return Err(Malformed("invalid header field")),
        };
    }
    Ok(parts)
}

fn words(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "invalid header name",
        httparse::Error::HeaderValue => "invalid header value",
        httparse::Error::Status => "invalid status",
        httparse::Error::TooManyHeaders => "more than 100 header fields",
        httparse::Error::Version => "invalid HTTP version",
        httparse::Error::NewLine | httparse::Error::Token => "invalid bytes in its head",
    }
}
