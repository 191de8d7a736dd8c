use proptest::prelude::*;

use super::*;

/// What `detect` says when the bytes arrive one after another.
fn bytewise(bytes: &[u8]) -> Detection {
    (0..=bytes.len())
        .map(|end| detect(&bytes[..end]))
        .find(|detection| matches!(detection, Detection::Decided(_)))
        .unwrap_or_else(|| detect(bytes))
}

fn http1() -> Detection {
    Detection::Decided(Protocol::Http(HttpVersion::Http1))
}

fn opaque() -> Detection {
    Detection::Decided(Protocol::Opaque)
}

/// A ClientHello in records of at most `fragment` bytes.
fn client_hello(alpn: &[&[u8]], sni: Option<&str>, fragment: usize) -> Vec<u8> {
    let vector16 = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let mut extensions = Vec::new();
    if let Some(name) = sni {
        let entry = [&[0][..], &vector16(name.as_bytes())].concat();
        extensions.extend([0, 0]);
        extensions.extend(vector16(&vector16(&entry)));
    }
    if !alpn.is_empty() {
        let list: Vec<u8> = alpn
            .iter()
            .flat_map(|protocol| [&[protocol.len() as u8], *protocol].concat())
            .collect();
        extensions.extend([0, 16]);
        extensions.extend(vector16(&vector16(&list)));
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(vector16(&[0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(vector16(&extensions));
    let mut message = vec![1, 0];
    message.extend(vector16(&body));
    message
        .chunks(fragment)
        .flat_map(|chunk| [&[22, 3, 1][..], &vector16(chunk)].concat())
        .collect()
}

#[test]
fn http() {
    for request in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "\r\nPOST /x?y HTTP/1.1\r\n",
        "CONNECT a:443 HTTP/1.1\r\n",
        "PROPFIND /a HTTP/1.1\r\n",
        "M-SEARCH * HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\n",
        // Malformed, but for the HTTP server to refuse.
        "GET / HTTP/9.9\r\n",
        "GET  /a b HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\nHost: a\r\n",
    ] {
        assert_eq!(detect(request.as_bytes()), http1(), "{request:?}");
        assert_eq!(bytewise(request.as_bytes()), http1(), "{request:?}");
    }
    let endless = [b"GET /", &[b'a'; LIMIT][..]].concat();
    assert_eq!(detect(&endless), http1());
    assert_eq!(
        bytewise(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"),
        Detection::Decided(Protocol::Http(HttpVersion::Http2))
    );
}

#[test]
fn beginnings() {
    for likely in [
        "G",
        "GET",
        "GET /x",
        "P",
        "PRI * HTTP/2.0\r\n\r\n",
        "\x16",
        "\x16\x03\x01\x02",
    ] {
        assert_eq!(detect(likely.as_bytes()), Detection::Likely, "{likely:?}");
    }
    for unclear in ["", "\r\n", "LOGIN", "EHLO me", "set a 0 0 1"] {
        assert_eq!(
            detect(unclear.as_bytes()),
            Detection::Unclear,
            "{unclear:?}"
        );
    }
}

#[test]
fn other_protocols_are_opaque() {
    for bytes in [
        "EHLO mail.example.com\r\n",
        "SET a 1\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "GET key\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\x08\x04\u{12}\x16/", // PostgreSQL's SSLRequest, nearly
        "NICK someone\r\nUSER a b c d\r\n",
        "\x16\x02\x01",
        "\x16\x03\x01\0\x05\x02",
    ] {
        assert_eq!(detect(bytes.as_bytes()), opaque(), "{bytes:?}");
        assert_eq!(bytewise(bytes.as_bytes()), opaque(), "{bytes:?}");
    }
}

#[test]
fn tls_that_cannot_be_understood_is_still_tls() {
    let unparsed = Detection::Decided(Protocol::Tls(ClientHello::default()));
    // A ClientHello of nothing but zeroes' length.
    assert_eq!(detect(b"\x16\x03\x01\0\x04\x01\0\0\0"), unparsed);
    // An alert amid the ClientHello.
    assert_eq!(
        detect(b"\x16\x03\x01\0\x05\x01\0\x01\0\0\x15\x03\x01\0\x02"),
        unparsed
    );
    // Longer than we look at.
    let long = [&b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"[..], &[0; LIMIT]].concat();
    assert_eq!(detect(&long), unparsed);
}

proptest! {
    #[test]
    fn more_bytes_never_change_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(detect(&bytes), bytewise(&bytes));
    }

    #[test]
    fn more_text_never_changes_an_answer(text in "(GET|PRI|EHLO|\r|\n| |\\* HTTP/2.0|/|HTTP/1.1|[a-z]){0,12}") {
        prop_assert_eq!(detect(text.as_bytes()), bytewise(text.as_bytes()));
    }

    #[test]
    fn a_damaged_client_hello_never_changes_an_answer(
        mut bytes in (1usize..300).prop_map(|n| client_hello(&[b"mesh-h2"], Some("a.b"), n)),
        at in any::<prop::sample::Index>(),
        to: u8,
    ) {
        let at = at.index(bytes.len());
        bytes[at] = to;
        prop_assert_eq!(detect(&bytes), bytewise(&bytes));
    }

    #[test]
    fn limit_bytes_always_have_an_answer(head in prop::collection::vec(any::<u8>(), 0..40), fill: u8) {
        let mut bytes = head;
        bytes.resize(LIMIT, fill);
        prop_assert!(matches!(detect(&bytes), Detection::Decided(_)));
    }

    #[test]
    fn finds_alpn_and_server_name_in_any_records(fragment in 1usize..300, rest: [u8; 8]) {
        let mut bytes = client_hello(&[b"mesh-tcp", b"h2"], Some("shop.example"), fragment);
        bytes.extend(rest);
        let expected = ClientHello {
            alpn: vec![b"mesh-tcp"[..].into(), b"h2"[..].into()],
            sni: Some("shop.example".into()),
        };
        prop_assert_eq!(bytewise(&bytes), Detection::Decided(Protocol::Tls(expected)));
    }
}
