//! The head of an HTTP/1.x request, read so that every recipient would read it the same way.
//!
//! Pure: a complete head comes in, its parts and the framing of its body or a [`Rejection`] come out. RFC 9112 lets a
//! recipient be lenient ("robustness"): drop a repeated Content-Length, prefer Transfer-Encoding over it, take a bare
//! LF. A proxy that normalises such a message in silence is how requests are smuggled, so all of it is refused here.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONNECTION, HOST},
    request,
};

/// Longest message head, bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// Most header fields in a head.
pub(super) const MAX_FIELDS: usize = 100;
/// Longest method. RFC 9110 section 9.1 asks for 501 for what no server implements.
const MAX_METHOD: usize = 32;

/// Why a request is refused, and with which status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: StatusCode,
    /// The words of the `mesh-error` header and of the body.
    pub(crate) words: &'static str,
}

impl Rejection {
    pub(super) const fn bad(words: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            words,
        }
    }

    pub(super) const fn new(status: StatusCode, words: &'static str) -> Self {
        Self { status, words }
    }
}

/// What follows a request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, or none.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A head that is fine.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: request::Parts,
    pub(super) body: Framing,
    /// The client will send another request on this connection, as far as it goes.
    pub(super) keep_alive: bool,
}

/// Reads one head, from its request line up to and including the empty line.
///
/// `ends`: where each of its lines but the empty one ends, behind its CRLF; they are no more than [`MAX_FIELDS`] and one.
pub(super) fn parse(head: &Bytes, ends: &[usize]) -> Result<Head, Rejection> {
    let mut begin = 0;
    let mut lines = ends.iter().map(|end| {
        let line = &head[begin..*end - 2];
        begin = *end;
        line
    });
    let line = lines
        .next()
        .ok_or(Rejection::bad("the request line is not complete"))?;
    let (mut parts, ()) = Request::new(()).into_parts();
    request_line(head, line, &mut parts)?;
    let mut fields = Fields::default();
    // The request line is no field; there is room for two that a proxy adds.
    parts.headers = HeaderMap::with_capacity(ends.len() + 1);
    for line in lines {
        fields.add(head, line, &mut parts.headers)?;
    }
    fields.finish(parts)
}

fn request_line(head: &Bytes, line: &[u8], parts: &mut request::Parts) -> Result<(), Rejection> {
    const SHAPE: Rejection =
        Rejection::bad("the request line is not: method, one space, target, one space, version");
    let mut words = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(SHAPE);
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(Rejection::bad(
            "the method has a character that is not allowed",
        ));
    }
    if method.len() > MAX_METHOD {
        return Err(Rejection::new(
            StatusCode::NOT_IMPLEMENTED,
            "the method is longer than any that is implemented",
        ));
    }
    if target.is_empty() {
        return Err(SHAPE);
    }
    if !target
        .iter()
        .all(|b| (0x21..=0x7e).contains(b) && *b != b'#')
    {
        return Err(Rejection::bad(
            "the request target has a character that is not allowed",
        ));
    }
    let connect = method == b"CONNECT";
    let form = match target {
        _ if connect => !target.contains(&b'/'),
        b"*" => method == b"OPTIONS",
        [b'/', ..] => true,
        _ => starts_with_scheme(target),
    };
    if !form {
        return Err(Rejection::bad(
            "the request target is not in a form that this method can have",
        ));
    }
    parts.version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Rejection::new(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "only HTTP/1.0 and HTTP/1.1 are spoken here",
            ));
        }
        _ => return Err(Rejection::bad("the HTTP version can't be read")),
    };
    parts.method = Method::from_bytes(method).map_err(|_| SHAPE)?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(target))
        .map_err(|_| Rejection::bad("the request target can't be read"))?;
    Ok(())
}

fn starts_with_scheme(target: &[u8]) -> bool {
    let after = |scheme: &[u8]| {
        target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme)
    };
    after(b"http://") || after(b"https://")
}

/// What the fields seen so far say about framing.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    transfer_encoding: bool,
    /// What Connection says.
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn add(&mut self, head: &Bytes, line: &[u8], headers: &mut HeaderMap) -> Result<(), Rejection> {
        let (name, value) = split_field(line)?;
        // These check the characters: RFC 9110, sections 5.1 and 5.5, and nothing but that.
        let parsed = HeaderName::from_bytes(name).map_err(|_| BAD_NAME)?;
        let shared =
            HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_| BAD_VALUE)?;
        // Only names of these lengths matter; most fields end here without a comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if !is_authority(value) {
                    return Err(Rejection::bad("the Host field is not a host and a port"));
                }
            }
            10 if name.eq_ignore_ascii_case(CONNECTION.as_str().as_bytes()) => {
                for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.coding(value)?,
            _ => {}
        }
        headers.append(parsed, shared);
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.length.is_some() {
            return Err(Rejection::bad("Content-Length is repeated"));
        }
        // 19 digits fit into 64 bits.
        let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
        if !digits {
            return Err(Rejection::bad("Content-Length is not one number"));
        }
        let number = value
            .iter()
            .fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
        self.length = Some(number);
        Ok(())
    }

    fn coding(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.transfer_encoding {
            return Err(Rejection::bad("Transfer-Encoding is repeated"));
        }
        self.transfer_encoding = true;
        if value.eq_ignore_ascii_case(b"chunked") {
            return Ok(());
        }
        let mut codings = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        let last = codings.next_back().unwrap_or_default();
        let known_last = last.eq_ignore_ascii_case(b"chunked");
        if known_last && codings.all(|c| !c.is_empty() && !c.eq_ignore_ascii_case(b"chunked")) {
            // RFC 9112, section 6.1: a transfer coding that is not understood.
            return Err(Rejection::new(
                StatusCode::NOT_IMPLEMENTED,
                "the only transfer coding spoken here is chunked",
            ));
        }
        Err(Rejection::bad("Transfer-Encoding is not chunked"))
    }

    fn finish(self, parts: request::Parts) -> Result<Head, Rejection> {
        let http_11 = parts.version == Version::HTTP_11;
        if self.hosts > 1 {
            return Err(Rejection::bad("the Host field is repeated"));
        }
        if self.hosts == 0 && http_11 {
            return Err(Rejection::bad("the request has no Host field"));
        }
        if self.transfer_encoding && self.length.is_some() {
            return Err(Rejection::bad(
                "the request has both Content-Length and Transfer-Encoding",
            ));
        }
        if self.transfer_encoding && !http_11 {
            return Err(Rejection::bad("HTTP/1.0 has no Transfer-Encoding"));
        }
        Ok(Head {
            parts,
            body: match self.length {
                _ if self.transfer_encoding => Framing::Chunked,
                length => Framing::Length(length.unwrap_or(0)),
            },
            keep_alive: !self.close && (http_11 || self.keep_alive),
        })
    }
}

const BAD_NAME: Rejection = Rejection::bad("a header name has a character that is not allowed");
const BAD_VALUE: Rejection = Rejection::bad("a header value has a control character");

/// Splits a header or trailer field line and checks its characters (RFC 9112, section 5).
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Rejection> {
    let (name, value) = split_field(line)?;
    if !name.iter().all(|b| is_token(*b)) {
        return Err(BAD_NAME);
    }
    if !value.iter().all(|b| is_value(*b)) {
        return Err(BAD_VALUE);
    }
    Ok((name, value))
}

fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Rejection> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Rejection::bad("a header line is folded"));
    }
    // Names are short: shorter than what a vectorised search is worth.
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(Rejection::bad("a header line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() {
        return Err(BAD_NAME);
    }
    Ok((name, trim(value)))
}

/// Without spaces and tabs around it, and nothing else: a CR or a form feed there is refused.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110, section 5.6.2: tchar.
fn is_token(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0usize;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

/// RFC 9110, section 5.5: visible characters, space, tab and obs-text.
fn is_value(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f) || byte == b'\t'
}

/// A host and perhaps a port (RFC 9110, section 7.2); empty where there is none.
fn is_authority(value: &[u8]) -> bool {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(b);
    let (host, port) = match value.strip_prefix(b"[") {
        Some(rest) => match memchr::memchr(b']', rest) {
            Some(end) if rest[..end].iter().all(|b| is_name(b) || *b == b':') => {
                (&b""[..], &rest[end + 1..])
            }
            _ => return false,
        },
        None => value.split_at(memchr::memchr(b':', value).unwrap_or(value.len())),
    };
    host.iter().all(is_name)
        && (port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit)))
}

/// Checks what is left when a request has been parsed: its authority, which HTTP/2 and absolute-form carry
/// in the target.
pub(super) fn check_authority(uri: &Uri, headers: &HeaderMap) -> Result<(), Rejection> {
    let Some(authority) = uri.authority() else {
        return Ok(());
    };
    if authority.as_str().contains('@') {
        // RFC 9110, section 4.2.4 and RFC 9113, section 8.3.1.
        return Err(Rejection::bad("the authority has user information"));
    }
    if uri.scheme().is_none() {
        return Ok(());
    }
    let mut hosts = headers.get_all(HOST).iter();
    if hosts.next().is_some() && hosts.next().is_some() {
        return Err(Rejection::bad("the Host field is repeated"));
    }
    Ok(())
}
