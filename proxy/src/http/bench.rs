//! The pure cores of the request path, for the benchmarks.

use bytes::BytesMut;
use http::{Method, Version, request, response};

use super::h1::request::{Event, Requests};
use super::h1::response::Responses;
use super::headers;

/// Reads the requests of a client.
#[derive(Debug)]
pub struct Client(Requests);

impl Default for Client {
    fn default() -> Self {
        Self(Requests::new())
    }
}

impl Client {
    /// Takes all that is in `bytes`. False where it is malformed.
    pub fn read(&mut self, bytes: &mut BytesMut) -> bool {
        loop {
            match self.0.next(bytes) {
                Ok(Event::More) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Reads the whole response to a GET. False where it is malformed.
pub fn read_response(bytes: &mut BytesMut) -> bool {
    let mut responses = Responses::to(&Method::GET);
    while !responses.is_complete() {
        if responses.next(bytes).is_err() {
            return false;
        }
    }
    true
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
