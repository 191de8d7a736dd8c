//! May this request be sent once more? The design's retry table as a pure function.
//!
//! A request is never sent twice unless the first try provably did not reach the app, or its method
//! says that twice is as good as once.

use http::{Method, StatusCode};

/// How a try ended without a response that can be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection to the endpoint could be made.
    Connect,
    /// The connection ended before the first byte was written.
    Unsent,
    /// The endpoint says that it did nothing: REFUSED_STREAM, a GOAWAY below this stream, or
    /// `mesh-not-delivered` from its proxy.
    Refused,
    /// The connection or stream broke before a response head arrived.
    Lost,
    /// A response head with this status.
    Status(StatusCode),
    /// A gRPC response without messages whose status is 14, unavailable.
    GrpcUnavailable,
}

/// What is known when a try has failed.
#[derive(Debug, Clone)]
pub(super) struct Attempt<'a> {
    pub(super) method: &'a Method,
    pub(super) failure: Failure,
    /// Retries already made that count: all but those after [`Failure::Connect`] and
    /// [`Failure::Unsent`].
    pub(super) retries: u32,
    /// Endpoints that were tried and could not be connected to.
    pub(super) unreachable: u32,
    /// Endpoints there are.
    pub(super) endpoints: u32,
    /// Everything of the body that was read can be sent again.
    pub(super) can_replay: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Give the client what there is.
    GiveUp,
    /// The method would allow it, but the body was not kept.
    BodyGone,
    /// At once, if possible elsewhere. Costs no budget: nothing was sent.
    AtOnce,
    /// After a pause, if the budget has one left.
    Later,
}

/// Most retries of a request that may have reached an app.
const MAX_RETRIES: u32 = 1;
/// Most times a request is handed back by a stale connection before that is an error. Each time uses
/// up an idle connection; the pool dials anew after the first.
const MAX_UNSENT: u32 = 3;

/// Decides; `unsent` counts how often this request was handed back so far.
pub(super) fn decide(attempt: &Attempt<'_>, unsent: u32) -> Decision {
    let again = match attempt.failure {
        Failure::Connect if attempt.unreachable < attempt.endpoints => return Decision::AtOnce,
        // All were tried; the last one may have had a bad moment.
        Failure::Connect => true,
        Failure::Unsent => {
            return if unsent < MAX_UNSENT {
                Decision::AtOnce
            } else {
                Decision::GiveUp
            };
        }
        Failure::Refused => true,
        Failure::Lost => is_safe(attempt.method),
        Failure::Status(status) => is_safe(attempt.method) && is_gateway_error(status),
        // gRPC: the server did not begin to process the call (gRFC A6).
        Failure::GrpcUnavailable => true,
    };
    if !again || attempt.retries >= MAX_RETRIES {
        Decision::GiveUp
    } else if !attempt.can_replay {
        Decision::BodyGone
    } else {
        Decision::Later
    }
}

/// RFC 9110, section 9.2.1: the methods that ask for nothing to change.
pub(super) fn is_safe(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}

/// 502, 503 and 504: what a gateway says when the fault is not the request's.
pub(super) fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failures() -> impl Strategy<Value = Failure> {
        prop_oneof![
            Just(Failure::Connect),
            Just(Failure::Unsent),
            Just(Failure::Refused),
            Just(Failure::Lost),
            (100u16..600)
                .prop_map(|code| Failure::Status(StatusCode::from_u16(code).unwrap_or_default())),
            Just(Failure::GrpcUnavailable),
        ]
    }

    fn methods() -> impl Strategy<Value = Method> {
        prop::sample::select(vec![
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::CONNECT,
        ])
    }

    fn attempt(method: &Method, failure: Failure) -> Attempt<'_> {
        Attempt {
            method,
            failure,
            retries: 0,
            unreachable: 1,
            endpoints: 3,
            can_replay: true,
        }
    }

    /// The table of the design, row by row.
    #[test]
    fn table() {
        let bad_gateway = Failure::Status(StatusCode::BAD_GATEWAY);
        for (method, failure, expected) in [
            (Method::POST, Failure::Connect, Decision::AtOnce),
            (Method::POST, Failure::Unsent, Decision::AtOnce),
            (Method::POST, Failure::Refused, Decision::Later),
            (Method::POST, Failure::Lost, Decision::GiveUp),
            (Method::POST, bad_gateway, Decision::GiveUp),
            (Method::PUT, Failure::Lost, Decision::GiveUp),
            (Method::GET, Failure::Lost, Decision::Later),
            (Method::HEAD, bad_gateway, Decision::Later),
            (
                Method::GET,
                Failure::Status(StatusCode::INTERNAL_SERVER_ERROR),
                Decision::GiveUp,
            ),
            (
                Method::GET,
                Failure::Status(StatusCode::SERVICE_UNAVAILABLE),
                Decision::Later,
            ),
            (
                Method::OPTIONS,
                Failure::Status(StatusCode::GATEWAY_TIMEOUT),
                Decision::Later,
            ),
            (Method::POST, Failure::GrpcUnavailable, Decision::Later),
        ] {
            assert_eq!(
                decide(&attempt(&method, failure), 0),
                expected,
                "{method} {failure:?}"
            );
        }
    }

    #[test]
    fn every_endpoint_is_dialled_once_and_one_of_them_twice() {
        let mut last = attempt(&Method::POST, Failure::Connect);
        last.unreachable = 3;
        assert_eq!(decide(&last, 0), Decision::Later);
        last.retries = 1;
        assert_eq!(decide(&last, 0), Decision::GiveUp);
    }

    proptest! {
        /// The property that a shop's orders depend on.
        #[test]
        fn an_unsafe_request_is_never_sent_twice(
            method in methods(), failure in failures(), retries in 0u32..3, unsent in 0u32..5,
            unreachable in 0u32..5, endpoints in 0u32..5, can_replay: bool,
        ) {
            let attempt = Attempt { method: &method, failure, retries, unreachable, endpoints, can_replay };
            let sent_again = matches!(decide(&attempt, unsent), Decision::AtOnce | Decision::Later);
            let provably_unsent =
                matches!(failure, Failure::Connect | Failure::Unsent | Failure::Refused);
            if sent_again && failure != Failure::GrpcUnavailable {
                prop_assert!(provably_unsent || is_safe(&method));
            }
        }

        #[test]
        fn retries_end(
            method in methods(), failure in failures(), unsent in 3u32.., unreachable in 5u32..,
        ) {
            let attempt = Attempt {
                method: &method, failure, retries: 1, unreachable, endpoints: 5, can_replay: true,
            };
            prop_assert_eq!(decide(&attempt, unsent), Decision::GiveUp);
        }
    }
}
