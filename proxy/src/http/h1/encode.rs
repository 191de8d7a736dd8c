//! Heads and chunks as they stand on the wire.

use http::{HeaderMap, Method, StatusCode, Version, request, response};
use hyper::ext::ReasonPhrase;

/// How the end of a body is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none.
    None,
    /// So many bytes of it are still to be written.
    Known(u64),
    Chunked,
    /// By the close of the connection.
    Close,
}

/// A request's head. How its body is framed stands in its fields already.
pub(super) fn request(out: &mut Vec<u8>, head: &request::Parts) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    match (head.uri.authority(), head.uri.path_and_query()) {
        (None, Some(path)) => out.extend_from_slice(path.as_str().as_bytes()),
        (Some(authority), None) => out.extend_from_slice(authority.as_str().as_bytes()),
        _ => out.extend_from_slice(head.uri.to_string().as_bytes()),
    }
    out.extend_from_slice(match head.version {
        Version::HTTP_10 => b" HTTP/1.0\r\n",
        _ => b" HTTP/1.1\r\n",
    });
    fields(out, &head.headers);
    out.extend_from_slice(b"\r\n");
}

/// A response's head up to its last field; [`end`] follows.
pub(super) fn response(out: &mut Vec<u8>, version: Version, head: &response::Parts) {
    out.extend_from_slice(match version {
        Version::HTTP_10 => b"HTTP/1.0 ",
        _ => b"HTTP/1.1 ",
    });
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    match head.extensions.get::<ReasonPhrase>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => {
            let reason = head.status.canonical_reason().unwrap_or("<none>");
            out.extend_from_slice(reason.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    fields(out, &head.headers);
}

/// One more field.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for piece in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(piece.as_bytes());
    }
}

/// A length in decimal digits.
pub(super) fn content_length(out: &mut Vec<u8>, length: u64) {
    field(out, "content-length", &length.to_string());
}

/// The line before the data of a chunk; CRLF follows the data.
pub(super) fn chunk(out: &mut Vec<u8>, length: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(DIGITS[length >> (4 * digit) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// The end of a chunked body.
pub(super) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(out, trailers);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a response to `method` with this status can have a body (RFC 9110, section 6.4.1).
pub(super) fn has_body(method: &Method, status: StatusCode) -> bool {
    method != Method::HEAD
        && !(method == Method::CONNECT && status.is_success())
        && !status.is_informational()
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED
}

fn fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_hexadecimal() {
        for (length, line) in [
            (0, "0\r\n"),
            (9, "9\r\n"),
            (15, "f\r\n"),
            (16, "10\r\n"),
            (255, "ff\r\n"),
            (0x1_2345, "12345\r\n"),
        ] {
            let mut out = Vec::new();
            chunk(&mut out, length);
            assert_eq!(String::from_utf8(out).unwrap(), line);
        }
    }
}
