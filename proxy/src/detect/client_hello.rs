//! The two extensions of a TLS ClientHello that matter here (RFC 8446 section 4.1.2).

use super::{Detection, Protocol};

/// Content type of a TLS record with handshake messages.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// A record's payload, RFC 8446 section 5.1.
const RECORD_LIMIT: usize = 1 << 14;

/// What a TLS client asks for. Empty where its ClientHello can't be understood: it is TLS nevertheless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The application protocols it offers, RFC 7301.
    pub alpn: Vec<Box<[u8]>>,
    /// The server name it asks for, RFC 6066.
    pub sni: Option<Box<str>>,
}

/// Classifies bytes of which the first is [`HANDSHAKE`].
pub(super) fn detect(bytes: &[u8]) -> Detection {
    let wrong = |at: usize, ok: fn(u8) -> bool| bytes.get(at).is_some_and(|byte| !ok(*byte));
    // Record version 3.x (SSL 3.0 to TLS 1.3); the message in the first record is a ClientHello.
    if wrong(1, |byte| byte == 3) || wrong(2, |byte| byte <= 4) || wrong(5, |b| b == CLIENT_HELLO) {
        return Detection::Decided(Protocol::Opaque);
    }
    if bytes.len() < 6 {
        return Detection::Likely;
    }
    match message(bytes) {
        Message::Partial => Detection::Likely,
        Message::Whole(body) => Detection::Decided(Protocol::Tls(parse(&body).unwrap_or_default())),
        Message::Broken => Detection::Decided(Protocol::Tls(ClientHello::default())),
    }
}

enum Message {
    Partial,
    Whole(Vec<u8>),
    Broken,
}

/// Joins the ClientHello's body from as many records as it was cut into.
fn message(bytes: &[u8]) -> Message {
    let mut joined = Vec::new();
    let mut reader = Reader(bytes);
    loop {
        if let [_, a, b, c, body @ ..] = joined.as_slice() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > super::LIMIT {
                return Message::Broken;
            }
            if let Some(body) = body.get(..length) {
                return Message::Whole(body.to_vec());
            }
        }
        let Some(header) = reader.take(5) else {
            return Message::Partial;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE || header[1] != 3 || length == 0 || length > RECORD_LIMIT {
            return Message::Broken;
        }
        let Some(fragment) = reader.take(length) else {
            return Message::Partial;
        };
        joined.extend_from_slice(fragment);
    }
}

/// None where the body is malformed.
fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut hello = ClientHello::default();
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // version, random
    reader.vector8()?; // session id
    reader.vector16()?; // cipher suites
    reader.vector8()?; // compression methods
    if reader.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(reader.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut data = Reader(extensions.vector16()?);
        match kind {
            SERVER_NAME => {
                let mut names = Reader(data.vector16()?);
                while !names.0.is_empty() {
                    let (kind, name) = (names.u8()?, names.vector16()?);
                    if kind == 0 && hello.sni.is_none() {
                        hello.sni = std::str::from_utf8(name).ok().map(Box::from);
                    }
                }
            }
            ALPN => {
                let mut protocols = Reader(data.vector16()?);
                while !protocols.0.is_empty() {
                    hello.alpn.push(protocols.vector8()?.into());
                }
            }
            _ => {}
        }
    }
    Some(hello)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}
