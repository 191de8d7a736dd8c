//! What is counted.

use super::{cores, path};

/// One thing that the proxy does.
pub(super) struct Case {
    /// Its word on the command line and in the table.
    pub(super) name: &'static str,
    /// One operation, in a sentence.
    pub(super) what: &'static str,
    /// How often, at first: enough for what happens once in a while to even out.
    pub(super) operations: u64,
    /// Does it so often; returns the allocations that this took.
    pub(super) work: fn(u64) -> u64,
}

const fn case(
    name: &'static str,
    what: &'static str,
    operations: u64,
    work: fn(u64) -> u64,
) -> Case {
    Case {
        name,
        what,
        operations,
        work,
    }
}

/// All of them, in the order of the data path; the whole path at last.
pub(super) const CASES: &[Case] = &[
    case(
        "detect/http1",
        "the first bytes are a GET of a browser's size",
        4_000,
        cores::detect_http1,
    ),
    case(
        "detect/tls",
        "the first bytes are a ClientHello",
        4_000,
        cores::detect_tls,
    ),
    case(
        "read/get",
        "a GET with nine fields is read and checked",
        4_000,
        cores::read_get,
    ),
    case(
        "read/post",
        "a POST with 1 KB, chunked",
        4_000,
        cores::read_post,
    ),
    case(
        "read/response",
        "a response with 1 KB",
        4_000,
        cores::read_response,
    ),
    case(
        "headers/request",
        "a request's head is rewritten for the next hop",
        cores::HEADS,
        cores::rewrite_request_head,
    ),
    case(
        "headers/response",
        "a response's head is rewritten for the client",
        cores::HEADS,
        cores::rewrite_response_head,
    ),
    case(
        "balance/3",
        "pick and finish, 3 endpoints",
        10_000,
        cores::balance_3,
    ),
    case(
        "balance/100",
        "pick and finish, 100 endpoints",
        10_000,
        cores::balance_100,
    ),
    case(
        "balance/failing",
        "pick and finish, 3 endpoints of which one fails and is ejected and probed",
        10_000,
        cores::balance_failing,
    ),
    case(
        "budget",
        "a deposit, and in every tenth a withdrawal",
        10_000,
        cores::budget,
    ),
    case(
        "route",
        "the hash of the route pattern of /users/1234/orders?page=3",
        10_000,
        cores::route,
    ),
    case(
        "metrics/record",
        "a request is counted",
        10_000,
        cores::record,
    ),
    case(
        "metrics/report",
        "a second's report about 20 series",
        200,
        cores::report,
    ),
    case(
        "sketch",
        "a latency is put into a sketch",
        10_000,
        cores::sketch,
    ),
    case(
        "discovery/set",
        "a destination with 100 endpoints is told anew",
        40,
        cores::discovery_set,
    ),
    case(
        "discovery/change",
        "one of its endpoints changes",
        200,
        cores::discovery_change,
    ),
    case(
        "floor/get",
        "client and app of the cases below, without a proxy: GET, 1 KB comes back",
        240,
        path::floor_get,
    ),
    case(
        "path/get/outbound",
        "the outbound proxy alone",
        240,
        path::get_outbound,
    ),
    case(
        "path/get/inbound",
        "the inbound proxy alone",
        240,
        path::get_inbound,
    ),
    case("path/get/clear", "both, without TLS", 240, path::get_clear),
    case(
        "path/get/mtls",
        "both, with mutual TLS",
        240,
        path::get_mtls,
    ),
    case("path/post/mtls", "… a POST with 1 KB", 240, path::post_mtls),
    case(
        "floor/h2",
        "HTTP/2: client and app without a proxy",
        240,
        path::floor_h2,
    ),
    case(
        "path/h2/clear",
        "HTTP/2 through both, without TLS",
        240,
        path::h2_clear,
    ),
    case(
        "path/h2/mtls",
        "HTTP/2 through both, with mutual TLS",
        240,
        path::h2_mtls,
    ),
    case(
        "path/connect/mtls",
        "a new client connection with one GET",
        200,
        path::connect_mtls,
    ),
    case(
        "path/handshake/mtls",
        "a connection that is not HTTP, with a TLS handshake between the proxies for it",
        10,
        path::handshake_mtls,
    ),
];
