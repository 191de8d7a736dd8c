//! What the mesh itself answers when a request can't be forwarded: the cause in words.

use std::error::Error;

use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE},
};

use super::{body::ResponseBody, head::Rejection, headers};

/// Why a request was not forwarded, or its response not passed on.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) words: String,
    /// The app has provably not seen the request.
    pub(super) not_delivered: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            status,
            words: words.into(),
            not_delivered: false,
        }
    }

    pub(super) fn undelivered(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            not_delivered: true,
            ..Self::new(status, words)
        }
    }

    /// As the client's protocol has it: for gRPC a response of trailers only.
    pub(super) fn response(&self, grpc: bool) -> Response<ResponseBody> {
        let words = header_value(&self.words);
        let mut response = if grpc {
            let mut response = Response::new(ResponseBody::words(""));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", self.grpc_status().into());
            headers.insert("grpc-message", percent_encode(&self.words));
            response
        } else {
            let mut body = self.words.clone();
            body.push('\n');
            let mut response = Response::new(ResponseBody::words(body));
            *response.status_mut() = self.status;
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            response
        };
        *response.version_mut() = Version::HTTP_11;
        response.headers_mut().insert(headers::ERROR, words);
        response
    }

    /// gRPC's codes for what a proxy has to say: UNAVAILABLE may be tried again.
    pub(super) fn grpc_status(&self) -> u16 {
        match self.status.as_u16() {
            500 | 501 => 12,
            502..=504 => 14,
            _ => 13,
        }
    }
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.status, rejection.words)
    }
}

/// Answers a request that was refused where it was read, and ends the connection.
pub(super) fn reject(rejection: Rejection) -> Response<ResponseBody> {
    let mut response = Refusal::from(rejection).response(false);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An error and what caused it, in one line: hyper's errors say little themselves.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

/// The words on one line of visible characters.
fn header_value(words: &str) -> HeaderValue {
    HeaderValue::from_str(words).unwrap_or_else(|_| {
        let visible: String = words
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { ' ' })
            .collect();
        HeaderValue::from_str(&visible).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// gRPC over HTTP/2, "Responses": Percent-Encoded.
fn percent_encode(words: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(words.len());
    for byte in words.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    header_value(&encoded)
}
