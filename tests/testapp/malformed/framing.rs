//! HTTP/1 framing: where one message ends and the next begins (RFC 9112, sections 6 and 7). Every row is a
//! way to smuggle a request past a proxy that is lenient.

use super::{
    Expect::{self, Refused},
    Row,
};

const BAD: Expect = Refused(&[400]);
/// RFC 9112, section 6.1: a transfer coding that is not known may get 501.
const BAD_CODING: Expect = Refused(&[400, 501]);

/// Name, header lines, what follows the head, answer.
#[rustfmt::skip]
const ROWS: &[(&str, &str, &str, Expect)] = &[
    ("Content-Length before Transfer-Encoding", "Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n", BAD),
    ("Transfer-Encoding before Content-Length", "Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n", BAD),
    ("two Content-Lengths that differ", "Content-Length: 5\r\nContent-Length: 6", "hello!", BAD),
    ("two Content-Lengths that agree", "Content-Length: 5\r\nContent-Length: 5", "hello", BAD),
    ("list of Content-Lengths that agree", "Content-Length: 5, 5", "hello", BAD),
    ("list of Content-Lengths that differ", "Content-Length: 5, 6", "hello!", BAD),
    ("Content-Length with plus", "Content-Length: +5", "hello", BAD),
    ("Content-Length negative", "Content-Length: -5", "hello", BAD),
    ("Content-Length hexadecimal", "Content-Length: 0x5", "hello", BAD),
    ("Content-Length with a space inside", "Content-Length: 5 5", "hello", BAD),
    ("Content-Length empty", "Content-Length:", "hello", BAD),
    ("Content-Length with letters behind", "Content-Length: 5a", "hello", BAD),
    ("Content-Length above 64 bits", "Content-Length: 18446744073709551617", "h", BAD),
    ("Content-Length with a fraction", "Content-Length: 5.0", "hello", BAD),
    ("space before the colon of Content-Length", "Content-Length : 5", "hello", BAD),
    ("space before the colon of Transfer-Encoding", "Transfer-Encoding : chunked", "0\r\n\r\n", BAD),
    ("Transfer-Encoding identity", "Transfer-Encoding: identity", "", BAD_CODING),
    ("Transfer-Encoding unknown", "Transfer-Encoding: xchunked", "0\r\n\r\n", BAD_CODING),
    ("Transfer-Encoding chunked not last", "Transfer-Encoding: chunked, identity", "0\r\n\r\n", BAD_CODING),
    ("Transfer-Encoding chunked twice", "Transfer-Encoding: chunked, chunked", "0\r\n\r\n", BAD_CODING),
    ("Transfer-Encoding gzip alone", "Transfer-Encoding: gzip", "", BAD_CODING),
    ("Transfer-Encoding in two headers", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", BAD_CODING),
    ("Transfer-Encoding with vertical tab", "Transfer-Encoding: \x0bchunked", "0\r\n\r\n", BAD_CODING),
    ("Transfer-Encoding empty", "Transfer-Encoding:", "", BAD_CODING),
    ("Transfer-Encoding folded", "Transfer-Encoding:\r\n chunked", "0\r\n\r\n", BAD),
    ("Transfer-Encoding quoted", "Transfer-Encoding: \"chunked\"", "0\r\n\r\n", BAD_CODING),
];

/// Name, chunked body, answer. The head is good: the app may have begun to read when the error comes, so
/// that 400 and a close are the proxy's, before or instead of the app's answer.
const CHUNKS: &[(&str, &str)] = &[
    ("chunk size not hexadecimal", "zz\r\nhello\r\n0\r\n\r\n"),
    ("chunk size negative", "-5\r\nhello\r\n0\r\n\r\n"),
    ("chunk size with plus", "+5\r\nhello\r\n0\r\n\r\n"),
    ("chunk size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("chunk size empty", "\r\nhello\r\n0\r\n\r\n"),
    (
        "chunk size above 64 bits",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ),
    ("chunk size with underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("chunk size ended by a bare LF", "5\nhello\r\n0\r\n\r\n"),
    ("chunk size ended by a bare CR", "5\rhello\r\n0\r\n\r\n"),
    (
        "chunk longer than its size",
        "5\r\nhello world\r\n0\r\n\r\n",
    ),
    ("chunk ended by a bare LF", "5\r\nhello\n0\r\n\r\n"),
    (
        "chunk extension with a bare LF",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "chunk extension with a bare CR",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "trailer without a colon",
        "5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
    ),
    (
        "trailer with a space in its name",
        "5\r\nhello\r\n0\r\nx y: z\r\n\r\n",
    ),
];

pub(super) fn rows() -> Vec<Row> {
    let framed = ROWS.iter().map(|(name, headers, body, expect)| Row {
        name,
        bytes: format!("POST /malformed HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}").into(),
        expect: *expect,
    });
    let chunked = CHUNKS.iter().map(|(name, body)| Row {
        name,
        // `/digest` reads its body: `/malformed` would count before the body is seen to be bad.
        bytes: format!(
            "POST /digest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        )
        .into(),
        expect: BAD,
    });
    let old = Row {
        name: "Transfer-Encoding in HTTP/1.0",
        bytes:
            b"POST /malformed HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
        expect: BAD,
    };
    framed.chain(chunked).chain([old]).collect()
}
