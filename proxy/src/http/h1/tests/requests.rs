//! Requests as they are read: what is taken, what is refused, and that the cut of the input does not matter.

use bytes::BytesMut;
use http::StatusCode;
use proptest::prelude::*;

use crate::http::{
    h1::request::{Event, Requests},
    head::Framing,
};

/// Why the input was refused, and whether that was in a head.
type Refused = (StatusCode, &'static str, bool);

/// What comes of an input that arrives in these pieces, written down; and the refusal.
fn feed(pieces: &[&[u8]]) -> (String, Option<Refused>) {
    let mut requests = Requests::new();
    let (mut read, mut held, mut in_body) = (String::new(), BytesMut::new(), false);
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            match requests.next(&mut held) {
                Ok(Event::More) => break,
                Ok(Event::Head(head)) => {
                    in_body = head.body != Framing::Length(0);
                    let parts = &head.parts;
                    read += &format!("[{} {} {:?}", parts.method, parts.uri, parts.version);
                    for (name, value) in &parts.headers {
                        read += &format!(" {name}={}", value.as_bytes().escape_ascii());
                    }
                    read.push(']');
                }
                Ok(Event::Data { data, last }) => {
                    in_body &= !last;
                    read += &data.escape_ascii().to_string();
                    read += if last { "." } else { "" };
                }
                Ok(Event::End(trailers)) => {
                    in_body = false;
                    read.push('.');
                    for (name, value) in trailers.iter().flatten() {
                        read += &format!("{name}={}", value.as_bytes().escape_ascii());
                    }
                }
                Err(r) => return (read, Some((r.status, r.words, !in_body))),
            }
        }
    }
    (read, None)
}

fn refusal(input: &str) -> Option<u16> {
    feed(&[input.as_bytes()])
        .1
        .map(|(status, ..)| status.as_u16())
}

/// A head with a Host field, from a request line and further lines.
fn head(line: &str, fields: &str) -> String {
    format!("{line}\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn what_is_fine_is_taken_as_it_stands() {
    for (input, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "[GET / HTTP/1.1 host=a]",
        ),
        (
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "[GET / HTTP/1.1 host=a]",
        ),
        ("GET / HTTP/1.0\r\n\r\n", "[GET / HTTP/1.0]"),
        (
            "GET /a?b=c%20d HTTP/1.1\r\nhost:a:80\r\nAccept: */*\r\nX:\r\nx: 2\r\n\r\n",
            "[GET /a?b=c%20d HTTP/1.1 host=a:80 accept=*/* x= x=2]",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "[OPTIONS * HTTP/1.1 host=a]",
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            "[CONNECT a:443 HTTP/1.1 host=a:443]",
        ),
        (
            "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            "[GET http://a/b HTTP/1.1 host=a]",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n",
            "[POST / HTTP/1.1 host=a content-length=5]hello.[GET / HTTP/1.0]",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "[POST / HTTP/1.1 host=a transfer-encoding=chunked]hello.",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nT: v\r\n\r\n",
            "[POST / HTTP/1.1 host=a transfer-encoding=Chunked]hello.t=v",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\r\n\r\n",
            "[GET / HTTP/1.1 host=a x=caf\\xc3\\xa9]",
        ),
        (
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\nX: a\tb\r\n\r\n",
            "[GET / HTTP/1.1 host=[::1]:80 x=a\\tb]",
        ),
    ] {
        assert_eq!(
            feed(&[input.as_bytes()]),
            (expected.to_owned(), None),
            "{input:?}"
        );
    }
}

#[test]
fn bodies_that_could_be_read_in_two_ways_are_refused() {
    for (expected, fields) in [
        (400, "Content-Length: 1\r\nContent-Length: 1\r\n"),
        (400, "Content-Length: 1\r\nContent-Length: 2\r\n"),
        (400, "Content-Length: 1, 1\r\n"),
        (400, "Content-Length: +1\r\n"),
        (400, "Content-Length: -1\r\n"),
        (400, "Content-Length: 0x10\r\n"),
        (400, "Content-Length: 1 1\r\n"),
        (400, "Content-Length:\r\n"),
        (400, "Content-Length: 99999999999999999999\r\n"),
        (400, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        (
            400,
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        (400, "Transfer-Encoding: chunked, chunked\r\n"),
        (400, "Transfer-Encoding: xchunked\r\n"),
        (400, "Transfer-Encoding: \"chunked\"\r\n"),
        (400, "Transfer-Encoding: chunked, gzip\r\n"),
        (400, "Transfer-Encoding:\r\n"),
        (501, "Transfer-Encoding: gzip, chunked\r\n"),
        (400, "Transfer-Encoding : chunked\r\n"),
        (400, "Transfer-Encoding:\x0bchunked\r\n"),
    ] {
        let input = head("POST / HTTP/1.1", fields);
        assert_eq!(refusal(&input), Some(expected), "{fields:?}");
    }
    let old = head("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n");
    assert_eq!(refusal(&old), Some(400));
}

#[test]
fn malformed_fields_are_refused() {
    for fields in [
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "X: a\rb\r\n",
        "X: a\r\r\n",
        "X:\x0ca\r\n",
        "X: a\x0c\r\n",
        "X: a\0b\r\n",
        "X: a\n",
        "X a\r\n",
        ": a\r\n",
        "X(: a\r\n",
        "X\u{e9}: a\r\n",
        "Host: b\r\n",
    ] {
        let input = head("GET / HTTP/1.1", fields);
        assert_eq!(refusal(&input), Some(400), "{fields:?}");
    }
    for input in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n",
    ] {
        assert_eq!(refusal(input), Some(400), "{input:?}");
    }
}

#[test]
fn malformed_request_lines_are_refused() {
    for (expected, line) in [
        (400, "GET  / HTTP/1.1"),
        (400, "GET / HTTP/1.1 "),
        (400, " GET / HTTP/1.1"),
        (400, "GET /"),
        (400, "GET"),
        (400, "G@T / HTTP/1.1"),
        (400, "GET\t/ HTTP/1.1"),
        (400, "GET /\u{e9} HTTP/1.1"),
        (400, "GET /a#b HTTP/1.1"),
        (400, "GET /\x7f HTTP/1.1"),
        (400, "GET a HTTP/1.1"),
        (400, "GET ftp://a/ HTTP/1.1"),
        (400, "GET * HTTP/1.1"),
        (400, "CONNECT /a HTTP/1.1"),
        (400, "GET / http/1.1"),
        (400, "GET / HTTP/11"),
        (505, "GET / HTTP/1.2"),
        (505, "GET / HTTP/3.0"),
        (505, "GET / HTTP/2.0"),
    ] {
        assert_eq!(refusal(&head(line, "")), Some(expected), "{line:?}");
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let long = "a".repeat(70_000);
    for (expected, input) in [
        (501, head(&format!("{} / HTTP/1.1", "A".repeat(33)), "")),
        (414, head(&format!("GET /{long} HTTP/1.1"), "")),
        (431, head("GET / HTTP/1.1", &format!("X: {long}\r\n"))),
        (431, head("GET / HTTP/1.1", &"X: y\r\n".repeat(100))),
    ] {
        assert_eq!(refusal(&input), Some(expected), "{input:.60}");
        let bytes: Vec<&[u8]> = input.as_bytes().chunks(1000).collect();
        assert_eq!(feed(&bytes).1.map(|r| r.0.as_u16()), Some(expected));
    }
}

#[test]
fn bad_chunks_are_refused() {
    for body in [
        "x\r\n",
        "\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhelloX\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "5;a\nhello\r\n",
        "5;a\0\r\nhello\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
    ] {
        let input = head("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n") + body;
        assert_eq!(refusal(&input), Some(400), "{body:?}");
    }
    let long = format!("5;{}\r\nhello\r\n", "a".repeat(5000));
    let input = head("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n") + &long;
    assert_eq!(refusal(&input), Some(400));
}

#[test]
fn a_refused_request_leaves_those_before_it_alone() {
    let good = head("GET /1 HTTP/1.1", "");
    let input = [&*good, &*good, "BAD\r\n\r\n"].concat();
    let (read, refused) = feed(&[input.as_bytes()]);
    assert_eq!(read, "[GET /1 HTTP/1.1 host=a]".repeat(2));
    assert!(refused.is_some());
}

/// Pieces of requests, right and wrong, glued together.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "Host: a\r\n",
        "X: y\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nT: v\r\n\r\n",
        "5;e=f\r\n",
        ":",
        "X : y\r\n",
        "Upgrade: x\r\n",
        "GET /a HTTP/1.1\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    ]);
    prop::collection::vec(fragment, 0..20).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn the_cut_does_not_matter(
        input in fragments(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let whole = feed(&[&input]);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        at.extend([0, input.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &input[w[0]..w[1]]).collect();
        prop_assert_eq!(&feed(&pieces), &whole);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&feed(&bytes), &whole);
    }

    #[test]
    fn noise_never_panics(input in prop::collection::vec(any::<u8>(), 0..300)) {
        feed(&[&input]);
    }
}
