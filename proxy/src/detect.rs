//! What a connection speaks, from its first bytes.
//!
//! Pure: bytes in, a [`Protocol`] out, or none while they are the beginning of more than one. Adding bytes
//! never changes an answer, and [`LIMIT`] bytes always have one.

mod client_hello;
#[cfg(test)]
mod tests;

pub use client_hello::ClientHello;

/// So many bytes are looked at, at most: more than any ClientHello or request line in use (curl's
/// post-quantum ClientHello has about 1.6 KiB; servers commonly refuse request lines above 8 KiB).
pub const LIMIT: usize = 16 * 1024;

/// The longest method in IANA's registry is UPDATEREDIRECTREF, 17 characters.
const METHOD_LIMIT: usize = 24;
/// Of these, the request line is awaited even if it comes slowly.
const METHODS: [&[u8]; 9] = [
    b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT", b"TRACE",
];
/// The client's connection preface, RFC 9113 section 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, perhaps malformed: its first line names HTTP.
    Http(HttpVersion),
    /// TLS, by its ClientHello.
    Tls(ClientHello),
    /// Anything else.
    Opaque,
}

/// How HTTP is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detection {
    /// It is this.
    Decided(Protocol),
    /// More bytes are needed, and will surely come: it begins like TLS, HTTP/2 or a well-known method.
    Likely,
    /// More bytes are needed. A client of some other protocol may have said all that it has to say.
    Unclear,
}

/// Classifies the first bytes that a client sent.
pub fn detect(bytes: &[u8]) -> Detection {
    let full = bytes.len() >= LIMIT;
    let bytes = &bytes[..bytes.len().min(LIMIT)];
    if bytes.is_empty() {
        return Detection::Unclear;
    }
    if bytes.starts_with(HTTP2_PREFACE) {
        return Detection::Decided(Protocol::Http(HttpVersion::Http2));
    }
    if HTTP2_PREFACE.starts_with(bytes) {
        return Detection::Likely;
    }
    let detection = match bytes[0] {
        client_hello::HANDSHAKE => client_hello::detect(bytes),
        _ => request_line(bytes),
    };
    match detection {
        Detection::Likely if full && bytes[0] == client_hello::HANDSHAKE => {
            Detection::Decided(Protocol::Tls(ClientHello::default()))
        }
        // An endless request line: the HTTP server refuses it.
        Detection::Likely if full => Detection::Decided(Protocol::Http(HttpVersion::Http1)),
        Detection::Unclear if full => Detection::Decided(Protocol::Opaque),
        other => other,
    }
}

/// Like [`detect`], but where nothing is of interest but whether it is TLS.
pub fn tls_or_opaque(bytes: &[u8]) -> Detection {
    match bytes.first() {
        None | Some(&client_hello::HANDSHAKE) => detect(bytes),
        Some(_) => Detection::Decided(Protocol::Opaque),
    }
}

/// `method SP anything " HTTP/" anything LF`: what is wrong with such a line is for the HTTP server to say.
/// Text protocols (SMTP, Redis, memcached) have lines too, but none that names HTTP.
fn request_line(bytes: &[u8]) -> Detection {
    // A server should ignore an empty line before the request (RFC 9112 section 2.2).
    let line = bytes
        .strip_prefix(b"\r\n")
        .or_else(|| bytes.strip_prefix(b"\n"))
        .unwrap_or(bytes);
    if line.is_empty() || line == b"\r" {
        return Detection::Unclear;
    }
    let Some(space) = line.iter().position(|byte| !is_token(*byte)) else {
        return match line.len() {
            0..=METHOD_LIMIT if METHODS.iter().any(|method| method.starts_with(line)) => {
                Detection::Likely
            }
            0..=METHOD_LIMIT => Detection::Unclear,
            _ => Detection::Decided(Protocol::Opaque),
        };
    };
    if space == 0 || space > METHOD_LIMIT || line[space] != b' ' {
        return Detection::Decided(Protocol::Opaque);
    }
    let (known, rest) = (METHODS.contains(&&line[..space]), &line[space..]);
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) if contains(&rest[..end], b" HTTP/") => {
            Detection::Decided(Protocol::Http(HttpVersion::Http1))
        }
        Some(_) => Detection::Decided(Protocol::Opaque),
        None if known => Detection::Likely,
        None => Detection::Unclear,
    }
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
