//! Responses as they are read: how their bodies are framed, and that the cut of the input does not matter.

use bytes::BytesMut;
use http::Method;
use proptest::prelude::*;

use crate::http::h1::response::{Event, Responses};

/// What comes of an input that arrives in these pieces, written down; then the connection closes.
fn feed(method: &Method, pieces: &[&[u8]]) -> String {
    let mut responses = Responses::to(method);
    let (mut read, mut held) = (String::new(), BytesMut::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            if responses.is_complete() {
                return read + if responses.keep_alive() { "." } else { "!" };
            }
            match responses.next(&mut held) {
                Ok(Event::More) => break,
                Ok(Event::Interim(head)) => read += &format!("({})", head.status.as_u16()),
                Ok(Event::Head(head)) => {
                    read += &format!("[{} {}]", head.status.as_u16(), head.headers.len());
                    if responses.left() == Some(0) && !responses.is_complete() {
                        return read + "tunnel";
                    }
                }
                Ok(Event::Data(data)) => read += &data.escape_ascii().to_string(),
                Ok(Event::End(trailers)) => read += &"t".repeat(trailers.map_or(0, |t| t.len())),
                Err(error) => return read + &error.to_string(),
            }
        }
    }
    read + if responses.closed() { "closed" } else { "cut" }
}

fn get(response: &str) -> String {
    feed(&Method::GET, &[response.as_bytes()])
}

#[test]
fn bodies_are_framed_as_rfc_9112_says() {
    for (response, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "[200 1]ok.",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
            "[200 1]ocut",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "[200 2]ok.",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nok", "[200 0]okclosed"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "[204 0]."),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            "[304 1].",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "(100)[200 1].",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nbytes",
            "[101 1]tunnel",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "[200 1]ok.",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nok\r\n0\r\nT: v\r\n\r\n",
            "[200 1]okt.",
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "[200 2]ok!",
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "[200 1]ok!",
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            "[200 2]ok.",
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "[200 1]ok."),
    ] {
        assert_eq!(get(response), expected, "{response:?}");
    }
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(feed(&Method::HEAD, &[head]), "[200 1].");
    let connected = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbytes";
    assert_eq!(feed(&Method::CONNECT, &[connected]), "[200 1]tunnel");
}

/// They come out with a body up to the close, and are refused by who would pass them on: the connection is not used again.
#[test]
fn lengths_that_are_said_twice_end_the_connection() {
    for fields in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: +2\r\n",
    ] {
        let read = get(&format!("HTTP/1.1 200 OK\r\n{fields}\r\nok"));
        assert!(read.ends_with("okclosed"), "{fields:?}: {read}");
    }
    let differ = get("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok");
    assert!(differ.contains("differs"), "{differ}");
}

#[test]
fn what_is_no_response_is_refused() {
    for response in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 99999 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        let read = get(response);
        assert!(
            read.contains("the response can't be read"),
            "{response:?}: {read}"
        );
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    let pieces: Vec<&[u8]> = long.as_bytes().chunks(1000).collect();
    assert!(feed(&Method::GET, &pieces).contains("larger than 64 KiB"));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101));
    assert!(get(&many).contains("more than 100"));
}

fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 200 OK\r\n",
        "X: y\r\n",
        "\r\n",
        "\n",
        "\r",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nT: v\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    ]);
    prop::collection::vec(fragment, 0..12).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn the_cut_does_not_matter(
        input in fragments(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let whole = feed(&Method::GET, &[&input]);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        at.extend([0, input.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &input[w[0]..w[1]]).collect();
        prop_assert_eq!(&feed(&Method::GET, &pieces), &whole);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&feed(&Method::GET, &bytes), &whole);
    }

    #[test]
    fn noise_never_panics(input in prop::collection::vec(any::<u8>(), 0..300)) {
        feed(&Method::GET, &[&input]);
    }
}
