//! What a proxy changes in the header section of a message (RFC 9110, section 7.6), and nothing more.
//!
//! In: heads as they were read. Out: heads for the next hop: connection-specific fields are gone,
//! the mesh's own are set, the version that the caller spoke travels along. Via, Date and Server are
//! not added: the mesh does not show. Header maps are changed in place, never rebuilt.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE,
        USER_AGENT,
    },
    request,
};
use mesh_api::names;

/// Connection-specific without being named in Connection.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

pub(super) const ORIGINAL_VERSION: HeaderName =
    HeaderName::from_static(names::HEADER_ORIGINAL_VERSION);
pub(super) const NOT_DELIVERED: HeaderName = HeaderName::from_static(names::HEADER_NOT_DELIVERED);
pub(super) const ERROR: HeaderName = HeaderName::from_static(names::HEADER_ERROR);
pub(super) const CLIENT_ID: HeaderName = HeaderName::from_static(names::HEADER_CLIENT_ID);

/// How a request has to travel, as its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// The version that the caller spoke.
    pub(super) version: Version,
    /// CONNECT, extended CONNECT or Upgrade: the response may begin another protocol.
    pub(super) tunnel: bool,
    /// Waits for 100 before it sends its body.
    pub(super) continues: bool,
    /// The target is in absolute-form: an HTTP/1.x peer has to see it that way.
    pub(super) absolute: bool,
    /// gRPC: its status is in the trailers, and errors are told its way.
    pub(super) grpc: bool,
}

impl Needs {
    /// Whether HTTP/1.x may carry the request only on a connection that speaks it.
    pub(super) fn http1_only(&self) -> bool {
        self.version != Version::HTTP_2 && (self.tunnel || self.continues || self.absolute)
    }
}

/// Whether a request is a kubelet's probe, by its own word. Its gRPC library adds its own name at the end.
pub(super) fn is_probe(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT);
    agent.is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe/"))
}

/// Takes what belongs to the caller's connection out of a request, and says what the request needs.
///
/// `body`: whether a body follows, or may follow.
pub(super) fn receive(head: &mut request::Parts, body: bool) -> Needs {
    let http1 = head.version != Version::HTTP_2;
    let connect = head.method == Method::CONNECT;
    let mut needs = Needs {
        version: head.version,
        tunnel: connect,
        continues: false,
        absolute: http1 && !connect && head.uri.scheme().is_some(),
        grpc: is_grpc(&head.headers),
    };
    if http1 {
        let upgrade = strip_connection(&mut head.headers, head.version == Version::HTTP_11);
        needs.tunnel |= upgrade;
        if upgrade {
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if let Some(expect) = head.headers.get(EXPECT) {
            needs.continues = body
                && head.version == Version::HTTP_11
                && expect.as_bytes().eq_ignore_ascii_case(b"100-continue");
        }
        if needs.absolute {
            // RFC 9112, section 3.2.2: the target's authority replaces a Host that differs.
            if let Some(host) = head
                .uri
                .authority()
                .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
            {
                head.headers.insert(HOST, host);
            }
        }
    } else {
        // What an HTTP/2 client expects is up to its own time-out: no 100 is sent there.
        head.headers.remove(EXPECT);
    }
    needs
}

/// Removes everything that starts with `mesh-`: only proxies may say such things.
pub(super) fn strip_mesh(headers: &mut HeaderMap) {
    let is_mesh = |name: &&HeaderName| name.as_str().starts_with(names::HEADER_PREFIX);
    while let Some(name) = headers.keys().find(is_mesh).cloned() {
        headers.remove(name);
    }
}

/// Makes the head fit for a connection to another proxy of the mesh.
pub(super) fn for_proxy(head: &mut request::Parts, needs: Needs, http2: bool) {
    let original = match (needs.version, http2) {
        (Version::HTTP_2, _) => {
            head.version = Version::HTTP_2;
            return;
        }
        (Version::HTTP_10, _) => HeaderValue::from_static("HTTP/1.0"),
        (_, true) => HeaderValue::from_static("HTTP/1.1"),
        (_, false) => {
            head.headers.remove(ORIGINAL_VERSION);
            head.version = Version::HTTP_11;
            return;
        }
    };
    head.version = Version::HTTP_11;
    head.headers.insert(ORIGINAL_VERSION, original);
    // HTTP/1.1 needs a Host field, HTTP/1.0 does not; an empty one stands for none.
    head.headers
        .entry(HOST)
        .or_insert(HeaderValue::from_static(""));
}

/// Reads the version that the caller of the caller's proxy spoke, and undoes what [`for_proxy`] did for it.
pub(super) fn original_version(head: &mut request::Parts) -> Version {
    let original = head.headers.remove(ORIGINAL_VERSION);
    let original = match original.as_ref().map(HeaderValue::as_bytes) {
        Some(b"HTTP/1.0") => Version::HTTP_10,
        Some(b"HTTP/1.1") => Version::HTTP_11,
        _ => return head.version,
    };
    if head.headers.get(HOST).is_some_and(HeaderValue::is_empty) {
        head.headers.remove(HOST);
    }
    original
}

/// Says on the next connection how the body is framed and what is for that connection only. Called again
/// for a further try, on a connection that may speak another version.
pub(super) fn frame(head: &mut request::Parts, needs: Needs, http2: bool, body: bool) {
    if http2 {
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.remove(CONNECTION);
        if head.version == Version::HTTP_2 && head.uri.authority().is_none() {
            // h2 refuses to send HTTP/2 without an authority, but takes a request in origin-form as one
            // that HTTP/1.1 was translated from: RFC 9113, section 8.3.1 allows Host instead.
            head.version = Version::HTTP_11;
        }
        return;
    }
    if body && head.version == Version::HTTP_11 && !head.headers.contains_key(CONTENT_LENGTH) {
        // Of unknown length: HTTP/2 needs no field that says so.
        head.headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if !needs.tunnel && head.headers.contains_key(TE) {
        // RFC 9110, section 10.1.4: TE is for this connection only, and has to be named.
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Takes what belongs to the endpoint's connection out of a response, and fits it to the client's.
pub(super) fn respond(response: &mut http::response::Parts, client: Version) {
    let upgrade = upgrade_of(response).filter(|_| client != Version::HTTP_2);
    if response.version != Version::HTTP_2 {
        strip_connection(&mut response.headers, false);
    }
    if let Some(upgrade) = upgrade {
        response.headers.insert(UPGRADE, upgrade);
        response
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // A proxy answers with its own version; where the client speaks HTTP/1.0, the server writes that.
    response.version = if client == Version::HTTP_2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
}

/// The Upgrade field of a 101, or of a 426, which must name what it asks for.
fn upgrade_of(response: &http::response::Parts) -> Option<HeaderValue> {
    matches!(
        response.status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED
    )
    .then(|| response.headers.get(UPGRADE).cloned())
    .flatten()
}

/// How long an idle connection may be used, as the server says: `Keep-Alive: timeout=5`.
pub(super) fn keep_alive_timeout(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    value.split(',').find_map(|parameter| {
        let (name, seconds) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("timeout")
            .then(|| seconds.parse().ok())?
    })
}

/// Whether an HTTP/1.x response is framed in one way only; otherwise why not.
///
/// Where a length is said twice or a coding is not known, what follows would be read as the next response by the
/// one and as a body by the other.
pub(super) fn check_response(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if let Some(coding) = coding {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("the response has a Transfer-Encoding other than chunked");
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err("the response has both Content-Length and Transfer-Encoding");
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        if !length.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err("the response's Content-Length is not one number");
        }
        // Its reader has made sure that repeated lengths are equal: RFC 9112, section 6.3 allows one.
        if lengths.next().is_some() {
            let length = length.clone();
            headers.insert(CONTENT_LENGTH, length);
        }
    }
    Ok(())
}

/// gRPC over HTTP/2: `application/grpc`, with or without a message format.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .is_some_and(|value| {
            value
                .strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
}

/// The number in `grpc-status`; a value that is none counts as 2, unknown.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    let value = headers.get(GRPC_STATUS)?;
    Some(
        value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(2),
    )
}

/// Removes what HTTP/2 has no use for: h2 would not send a response with it.
pub(super) fn strip_for_http2(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_for_one_hop(name)).cloned() {
        headers.remove(name);
    }
}

/// Whether a field is for the connection that it came on, or says what is.
fn is_for_one_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "transfer-encoding" | "te" | "upgrade" | "keep-alive" | "proxy-connection"
    )
}

/// Removes the fields of this hop, those that Connection names too. Returns whether the message
/// asks for another protocol (`keep_upgrade`: then Upgrade stays).
fn strip_connection(headers: &mut HeaderMap, keep_upgrade: bool) -> bool {
    // Most messages have none; one pass over the names costs less than a search for each.
    if !headers.keys().any(is_for_one_hop) {
        return false;
    }
    let mut asks_upgrade = false;
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|b| *b == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"upgrade") {
                asks_upgrade = true;
            } else if !option.eq_ignore_ascii_case(b"keep-alive")
                && !option.eq_ignore_ascii_case(b"close")
                && !option.eq_ignore_ascii_case(b"te")
                && let Ok(name) = HeaderName::from_bytes(option)
            {
                named.push(name);
            }
        }
    }
    for name in named {
        // RFC 9110, section 7.6.1: never fields that are meant for all recipients. Naming them is
        // an attempt to make a proxy drop them.
        if name != HOST && name != CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    headers.remove(CONNECTION);
    // Often it was the only one: `Connection: keep-alive`.
    if !headers.keys().any(is_for_one_hop) {
        return false;
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().any(|value| {
            value
                .as_bytes()
                .split(|b| *b == b',')
                .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    let Some(upgrade) = headers.get(UPGRADE) else {
        return false;
    };
    // An upgrade to h2c would take the requests behind it out of the mesh's sight.
    let known = !upgrade.as_bytes().split(|b| *b == b',').any(|protocol| {
        protocol
            .trim_ascii()
            .get(..2)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"h2"))
    });
    if keep_upgrade && asks_upgrade && known {
        return true;
    }
    headers.remove(UPGRADE);
    headers.remove(HTTP2_SETTINGS);
    false
}
