//! The chunked transfer coding (RFC 9112, section 7.1), taken off a body as it arrives.
//!
//! Pure: bytes come in, in pieces of any size; data and the trailer section come out. The verdict never depends on
//! how the input was cut.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::head::{self, MAX_FIELDS, MAX_HEAD, Rejection};

/// Most bytes of chunk extensions in one body. They mean nothing to anyone; hyper stops at 16 KiB.
const MAX_EXTENSIONS: usize = 4 * 1024;

/// A position within a chunked body.
#[derive(Debug)]
pub(in crate::http) struct Decoder {
    part: Part,
    /// Spaces after a size pass: some servers pad their sizes. From a client they are refused.
    padding: bool,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    /// Fields and bytes of the trailer section so far.
    fields: usize,
    section: usize,
    trailers: Option<HeaderMap>,
}

/// What comes next of a body.
#[derive(Debug)]
pub(in crate::http) enum Decoded {
    /// More input is needed.
    More,
    /// A piece of the data.
    Data(Bytes),
    /// The body is complete.
    End(Option<HeaderMap>),
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
    End,
}

impl Decoder {
    /// Of a request: strict.
    pub(super) fn of_request() -> Self {
        Self::new(false)
    }

    /// Of a response: as lenient as its servers need it.
    pub(super) fn of_response() -> Self {
        Self::new(true)
    }

    fn new(padding: bool) -> Self {
        Self {
            part: Part::Size { digits: 0, size: 0 },
            padding,
            extensions: 0,
            fields: 0,
            section: 0,
            trailers: None,
        }
    }

    /// Takes the next part of the body out of `held`.
    pub(super) fn next(&mut self, held: &mut BytesMut) -> Result<Decoded, Rejection> {
        const SIZE: Rejection = Rejection::bad("a chunk size is not a hexadecimal number");
        const END: Rejection = Rejection::bad("a chunk does not end where its size says");
        while let Some(&byte) = held.first() {
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
                    (None, b' ' | b'\t') if digits > 0 && self.padding => Part::Extension { size },
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
                    let length = usize::try_from(left).map_or(held.len(), |l| l.min(held.len()));
                    self.part = match left - length as u64 {
                        0 => Part::DataCr,
                        left => Part::Data(left),
                    };
                    return Ok(Decoded::Data(take(held, length)));
                }
                Part::DataCr if byte == b'\r' => Part::DataLf,
                Part::DataLf if byte == b'\n' => Part::Size { digits: 0, size: 0 },
                Part::DataCr | Part::DataLf => return Err(END),
                Part::Trailer => {
                    let Some(length) = self.trailer_line(held)? else {
                        return Ok(Decoded::More);
                    };
                    held.advance(length);
                    if matches!(self.part, Part::End) {
                        return Ok(Decoded::End(self.trailers.take()));
                    }
                    continue;
                }
                Part::End => return Ok(Decoded::End(None)),
            };
            held.advance(1);
        }
        Ok(Decoded::More)
    }

    /// Reads the trailer line that begins here; its length, once it is complete. An empty one ends the section.
    fn trailer_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, Rejection> {
        const LARGE: Rejection = Rejection::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the trailer section is larger than 64 KiB or has more than 100 fields",
        );
        let end = memchr::memchr(b'\n', bytes);
        if self.section + end.map_or(bytes.len(), |end| end + 1) > MAX_HEAD {
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
        self.section += end + 1;
        if line.is_empty() {
            self.part = Part::End;
            return Ok(Some(2));
        }
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(LARGE);
        }
        let (name, value) = head::field(line)?;
        if name.eq_ignore_ascii_case(b"content-length")
            || name.eq_ignore_ascii_case(b"transfer-encoding")
            || name.eq_ignore_ascii_case(b"host")
        {
            return Err(Rejection::bad(
                "a trailer field would change how the message is read",
            ));
        }
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            self.trailers.get_or_insert_default().append(name, value);
        }
        Ok(Some(end + 1))
    }
}

/// The first bytes of what is held. Where that is everything, nothing has to be shared.
pub(super) fn take(held: &mut BytesMut, length: usize) -> Bytes {
    if length == held.len() {
        std::mem::take(held).freeze()
    } else {
        held.split_to(length).freeze()
    }
}
