//! The pure cores of the request path, for the benchmarks: what hyper does not do.

use http::{Version, request, response};

use super::framing::Conversation;
use super::{head, headers};

/// Follows the framing of a client's bytes, as the guard before hyper does.
#[derive(Debug)]
pub struct Framing(Conversation);

impl Default for Framing {
    fn default() -> Self {
        Self(Conversation::new())
    }
}

impl Framing {
    /// How many of these bytes may pass.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        self.0.advance(bytes).0
    }
}

/// Whether a complete HTTP/1.x head is one that every recipient reads the same way.
pub fn is_head_fine(bytes: &[u8]) -> bool {
    head::check(bytes).is_ok()
}

/// All that the outbound proxy changes in a request without a body, on its way to another proxy.
pub fn rewrite_request(request: &mut request::Parts) {
    let needs = headers::receive(request, false);
    headers::strip_mesh(&mut request.headers);
    headers::for_proxy(request, needs, false);
    headers::frame(request, needs, false, false);
}

/// All that a proxy changes in a response to an HTTP/1.1 client.
pub fn rewrite_response(response: &mut response::Parts) {
    headers::respond(response, Version::HTTP_11);
}
