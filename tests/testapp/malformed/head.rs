//! HTTP/1 request lines and headers (RFC 9112, sections 2 to 5; RFC 9110, section 5).

use super::{
    Expect::{self, Refused, Status},
    Row,
};

const BAD: Expect = Refused(&[400]);
const TOO_LARGE: Expect = Refused(&[400, 414, 431]);

/// Name, the whole request, answer.
#[rustfmt::skip]
const ROWS: &[(&str, &str, Expect)] = &[
    ("obs-fold with a space", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n 2\r\n\r\n", BAD),
    ("obs-fold with a tab", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n\t2\r\n\r\n", BAD),
    ("space before the first header", "GET /malformed HTTP/1.1\r\n Host: x\r\n\r\n", BAD),
    ("bare CR in a value", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A: 1\rX-B: 2\r\n\r\n", BAD),
    ("bare CR instead of a line break", "GET /malformed HTTP/1.1\rHost: x\r\n\r\n", BAD),
    ("bare CR before CRLF", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A: 1\r\r\n\r\n", BAD),
    ("NUL in a value", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A: 1\x002\r\n\r\n", BAD),
    ("NUL in a name", "GET /malformed HTTP/1.1\r\nHost: x\r\nX\x00A: 1\r\n\r\n", BAD),
    ("control character in a value", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A: 1\x012\r\n\r\n", BAD),
    ("DEL in a value", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A: 1\x7f2\r\n\r\n", BAD),
    ("space in a name", "GET /malformed HTTP/1.1\r\nHost: x\r\nX A: 1\r\n\r\n", BAD),
    ("space before a colon", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-A : 1\r\n\r\n", BAD),
    ("empty name", "GET /malformed HTTP/1.1\r\nHost: x\r\n: 1\r\n\r\n", BAD),
    ("no colon", "GET /malformed HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", BAD),
    ("parenthesis in a name", "GET /malformed HTTP/1.1\r\nHost: x\r\nX(A: 1\r\n\r\n", BAD),
    ("umlaut in a name", "GET /malformed HTTP/1.1\r\nHost: x\r\nX-ä: 1\r\n\r\n", BAD),
    ("no Host", "GET /malformed HTTP/1.1\r\nX-A: 1\r\n\r\n", BAD),
    ("two Hosts", "GET /malformed HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", BAD),
    ("two equal Hosts", "GET /malformed HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", BAD),
    ("Host with a space", "GET /malformed HTTP/1.1\r\nHost: x y\r\n\r\n", BAD),
    ("Host with a path", "GET /malformed HTTP/1.1\r\nHost: x/y\r\n\r\n", BAD),
    ("Host with user information", "GET /malformed HTTP/1.1\r\nHost: u@x\r\n\r\n", BAD),
    ("Host with a port that is no number", "GET /malformed HTTP/1.1\r\nHost: x:http\r\n\r\n", BAD),
    ("no version", "GET /malformed\r\nHost: x\r\n\r\n", BAD),
    ("version in lower case", "GET /malformed http/1.1\r\nHost: x\r\n\r\n", BAD),
    ("version HTTP/1.9", "GET /malformed HTTP/1.9\r\nHost: x\r\n\r\n", Refused(&[400, 505])),
    ("version HTTP/2.0 in clear text", "GET /malformed HTTP/2.0\r\nHost: x\r\n\r\n", Refused(&[400, 505])),
    ("version with a space inside", "GET /malformed HTTP/1. 1\r\nHost: x\r\n\r\n", BAD),
    ("two spaces behind the method", "GET  /malformed HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("tab behind the method", "GET\t/malformed HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("space at the end of the request line", "GET /malformed HTTP/1.1 \r\nHost: x\r\n\r\n", BAD),
    ("space in the path", "GET /malformed path HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("control character in the path", "GET /malformed\x01 HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("path without a slash", "GET malformed HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("parenthesis in the method", "GE(T /malformed HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("CONNECT to a path", "CONNECT /malformed HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("asterisk with GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("absolute-form with a broken host", "GET http://[::1/malformed HTTP/1.1\r\nHost: x\r\n\r\n", BAD),
    ("no request", "\r\n\r\n\r\n\r\nnonsense\r\n\r\n", BAD),
    // What may look like an attack and is none: RFC 9110, section 7.8, lets a server ignore an upgrade.
    ("upgrade to h2c is ignored", "GET /bytes/1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", Status(200)),
    ("empty line before the request is skipped", "\r\nGET /bytes/1 HTTP/1.1\r\nHost: x\r\n\r\n", Status(200)),
];

pub(super) fn rows() -> Vec<Row> {
    let with = |headers: String| format!("GET /malformed HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let many = (0..3000).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large = [
        (
            "path of 200 KiB",
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200 << 10)),
        ),
        (
            "header of 200 KiB",
            with(format!("X-A: {}\r\n", "a".repeat(200 << 10))),
        ),
        (
            "name of 200 KiB",
            with(format!("{}: 1\r\n", "a".repeat(200 << 10))),
        ),
        ("3000 headers", with(many)),
        (
            "request line without an end",
            "GET /".to_owned() + &"a".repeat(1 << 20),
        ),
    ];
    let large = large.map(|(name, text)| Row {
        name,
        bytes: text.into(),
        expect: TOO_LARGE,
    });
    ROWS.iter()
        .map(|(name, text, expect)| Row {
            name,
            bytes: (*text).into(),
            expect: *expect,
        })
        .chain(large)
        .collect()
}
