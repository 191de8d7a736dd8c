//! Follows the bytes of an HTTP/1.x client connection from message to message.
//!
//! Pure: bytes come in, in pieces of any size; out comes how many of them may be passed on to
//! hyper. A head passes only as a whole and only when [`head::check`] finds nothing wrong with it;
//! bodies pass as they come. The verdict never depends on how the input was cut.

use http::StatusCode;

use super::head::{self, Framing, MAX_FIELDS, MAX_HEAD, Rejection};

/// Most bytes of chunk extensions in one body. They mean nothing to anyone; hyper stops at 16 KiB.
const MAX_EXTENSIONS: usize = 4 * 1024;

/// Where in the conversation the connection is.
#[derive(Debug)]
pub(super) struct Conversation {
    state: State,
    /// Heads passed so far.
    heads: u64,
    /// The message that is being followed asked for another protocol behind its body.
    may_tunnel: bool,
}

/// What to do with the input that was not passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Keep it and offer it again with more behind it.
    More,
    /// Keep it until the response says whether another protocol begins: [`Conversation::resume`].
    Wait,
    /// Refuse the message that begins here.
    RefuseHead(Rejection),
    /// Refuse the message whose body is being read.
    RefuseBody(Rejection),
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In a head of which `scanned` bytes hold no end; the current line began at `line`.
    Head {
        scanned: usize,
        line: usize,
    },
    /// So many bytes of a body are still to come.
    Length(u64),
    Chunked(Chunk),
    /// After a request for another protocol.
    Waiting,
}

/// A position within a chunked body (RFC 9112, section 7.1).
#[derive(Debug, Clone, Copy)]
struct Chunk {
    part: Part,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    /// Fields and bytes of the trailer section so far.
    fields: usize,
    trailer: usize,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    /// In the hexadecimal digits of a size; `digits` of them so far.
    Size {
        digits: u8,
        size: u64,
    },
    /// In an extension, up to CR.
    Extension {
        size: u64,
    },
    /// LF must follow.
    SizeEnd {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a line of the trailer section.
    Trailer,
}

impl Conversation {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head {
                scanned: 0,
                line: 0,
            },
            heads: 0,
            may_tunnel: false,
        }
    }

    /// Heads passed so far.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// The response to a request for another protocol was an ordinary one.
    pub(super) fn resume(&mut self) {
        self.state = State::Head {
            scanned: 0,
            line: 0,
        };
    }

    /// True until the response to a request for another protocol is known.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    /// True while a head has begun and not ended.
    pub(super) fn in_head(&self) -> bool {
        matches!(self.state, State::Head { scanned, .. } if scanned > 0)
    }

    /// Whether the last head's body has not passed whole.
    pub(super) fn in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    /// Takes everything that was read and not passed on yet; says how much of it passes.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> (usize, Then) {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            let step = match &mut self.state {
                State::Waiting => return (passed, Then::Wait),
                State::Head { scanned, line } => match find_head(rest, scanned, line) {
                    Found::Incomplete => return (passed, Then::More),
                    Found::Bad(rejection) => return (passed, Then::RefuseHead(rejection)),
                    Found::Blank(length) => length,
                    Found::Head(length) => match head::check(&rest[..length]) {
                        Err(rejection) => return (passed, Then::RefuseHead(rejection)),
                        Ok(head) => {
                            self.heads += 1;
                            self.may_tunnel = head.may_tunnel;
                            self.state = match head.body {
                                Framing::Length(length) => State::Length(length),
                                Framing::Chunked => State::Chunked(Chunk::new()),
                            };
                            length
                        }
                    },
                },
                State::Length(0) => {
                    self.end_of_body();
                    0
                }
                State::Length(_) if rest.is_empty() => return (passed, Then::More),
                State::Length(left) => {
                    let length = usize::try_from(*left).map_or(rest.len(), |l| l.min(rest.len()));
                    *left -= length as u64;
                    length
                }
                State::Chunked(chunk) => {
                    let mut length = 0;
                    match chunk.advance(rest, &mut length) {
                        Err(rejection) => return (passed + length, Then::RefuseBody(rejection)),
                        Ok(true) => self.end_of_body(),
                        Ok(false) if length == 0 => return (passed, Then::More),
                        Ok(false) => {}
                    }
                    length
                }
            };
            passed += step;
        }
    }

    fn end_of_body(&mut self) {
        if self.may_tunnel {
            self.state = State::Waiting;
        } else {
            self.resume();
        }
    }
}

enum Found {
    Incomplete,
    /// An empty line before a request: skipped (RFC 9112, section 2.2).
    Blank(usize),
    Head(usize),
    Bad(Rejection),
}

fn find_head(bytes: &[u8], scanned: &mut usize, line: &mut usize) -> Found {
    if *line == 0 && bytes.starts_with(b"\r\n") {
        *scanned = 0;
        return Found::Blank(2);
    }
    while let Some(found) = memchr::memchr(b'\n', &bytes[*scanned..]) {
        let end = *scanned + found;
        if end >= MAX_HEAD {
            break;
        }
        if end == 0 || bytes[end - 1] != b'\r' {
            return Found::Bad(Rejection::bad("a line of the head ends without CR"));
        }
        *scanned = end + 1;
        if end - 1 == *line {
            return Found::Head(end + 1);
        }
        *line = end + 1;
    }
    if bytes.len() > MAX_HEAD {
        return Found::Bad(if *line == 0 {
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
    Found::Incomplete
}

impl Chunk {
    fn new() -> Self {
        Self {
            part: Part::Size { digits: 0, size: 0 },
            extensions: 0,
            fields: 0,
            trailer: 0,
        }
    }

    /// Moves `at` over the bytes that pass; returns whether the body ended with them. A trailer line
    /// passes only as a whole.
    fn advance(&mut self, bytes: &[u8], at: &mut usize) -> Result<bool, Rejection> {
        const SIZE: Rejection = Rejection::bad("a chunk size is not a hexadecimal number");
        const END: Rejection = Rejection::bad("a chunk does not end where its size says");
        while *at < bytes.len() {
            let byte = bytes[*at];
            self.part = match self.part {
                Part::Size { digits, size } => match (char::from(byte).to_digit(16), byte) {
                    // 16 digits are 64 bits; a size that is longer is an attempt to overflow.
                    (Some(_), _) if digits == 15 => return Err(SIZE),
                    (Some(digit), _) => Part::Size {
                        digits: digits + 1,
                        size: size << 4 | u64::from(digit),
                    },
                    (None, b'\r') if digits > 0 => Part::SizeEnd { size },
                    (None, b';') if digits > 0 => Part::Extension { size },
                    _ => return Err(SIZE),
                },
                Part::Extension { size } => {
                    self.extensions += 1;
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(Rejection::bad("chunk extensions are longer than 4 KiB"));
                    }
                    match byte {
                        b'\r' => Part::SizeEnd { size },
                        b'\t' | 0x20..=0x7e | 0x80.. => Part::Extension { size },
                        _ => {
                            return Err(Rejection::bad(
                                "a chunk extension has a control character",
                            ));
                        }
                    }
                }
                Part::SizeEnd { size } => match (byte, size) {
                    (b'\n', 0) => Part::Trailer,
                    (b'\n', _) => Part::Data(size),
                    _ => return Err(SIZE),
                },
                Part::Data(left) => {
                    let rest = bytes.len() - *at;
                    let length = usize::try_from(left).map_or(rest, |l| l.min(rest));
                    *at += length;
                    let left = left - length as u64;
                    self.part = if left == 0 {
                        Part::DataCr
                    } else {
                        Part::Data(left)
                    };
                    continue;
                }
                Part::DataCr if byte == b'\r' => Part::DataLf,
                Part::DataLf if byte == b'\n' => Part::Size { digits: 0, size: 0 },
                Part::DataCr | Part::DataLf => return Err(END),
                Part::Trailer => match self.trailer_line(&bytes[*at..])? {
                    None => return Ok(false),
                    Some(2) => {
                        *at += 2;
                        return Ok(true);
                    }
                    Some(length) => {
                        *at += length;
                        continue;
                    }
                },
            };
            *at += 1;
        }
        Ok(false)
    }

    /// The length of the trailer line that begins here, once it is complete; 2 ends the section.
    fn trailer_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, Rejection> {
        const LARGE: Rejection = Rejection::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the trailer section is larger than 64 KiB or has more than 100 fields",
        );
        let end = memchr::memchr(b'\n', bytes);
        if self.trailer + end.map_or(bytes.len(), |end| end + 1) > MAX_HEAD {
            return Err(LARGE);
        }
        let Some(end) = end else {
            return Ok(None);
        };
        let Some(line) = bytes[..end].strip_suffix(b"\r") else {
            return Err(Rejection::bad(
                "a line of the trailer section ends without CR",
            ));
        };
        self.trailer += end + 1;
        if line.is_empty() {
            return Ok(Some(2));
        }
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(LARGE);
        }
        let (name, _) = head::field(line)?;
        if name.eq_ignore_ascii_case(b"content-length")
            || name.eq_ignore_ascii_case(b"transfer-encoding")
            || name.eq_ignore_ascii_case(b"host")
        {
            return Err(Rejection::bad(
                "a trailer field would change how the message is read",
            ));
        }
        Ok(Some(end + 1))
    }
}
