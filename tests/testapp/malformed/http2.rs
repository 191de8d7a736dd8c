//! HTTP/2 abuse. Codes are RFC 9113's, section 7.

use super::{
    Expect::{self, GoAway, Reset, Status},
    Row,
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
        PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, fields, frame,
    },
};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

const PROTOCOL_ERROR: Expect = GoAway(&[PROTOCOL]);
const SIZE_ERROR: Expect = GoAway(&[FRAME_SIZE, PROTOCOL]);
/// The request is malformed (RFC 9113, section 8.1.1): a stream error.
const MALFORMED: Expect = Reset(&[PROTOCOL]);

/// The fields of a good request.
const GOOD: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "x"),
    (":path", "/malformed"),
];

pub(super) fn rows() -> Vec<Row> {
    let tables = [
        connection_rows(),
        stream_rows(),
        request_rows(),
        flood_rows(),
    ];
    tables.into_iter().flatten().collect()
}

/// A row that follows the preface and empty SETTINGS.
fn row(name: &'static str, frames: Vec<u8>, expect: Expect) -> Row {
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames].concat();
    Row {
        name,
        bytes,
        expect,
    }
}

fn headers(stream: u32, flags: u8, list: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &fields(list))
}

/// A setting: identifier and value.
fn setting(identifier: u16, value: u32) -> Vec<u8> {
    let payload = [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn connection_rows() -> Vec<Row> {
    vec![
        Row {
            name: "h2: broken preface",
            bytes: b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
            expect: Expect::Refused(&[400, 505]),
        },
        row(
            "h2: SETTINGS on a stream",
            frame(SETTINGS, 0, 1, &[]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: SETTINGS of 5 bytes",
            frame(SETTINGS, 0, 0, &[0; 5]),
            SIZE_ERROR,
        ),
        row(
            "h2: SETTINGS ack with payload",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            SIZE_ERROR,
        ),
        row("h2: ENABLE_PUSH of 2", setting(2, 2), PROTOCOL_ERROR),
        row(
            "h2: INITIAL_WINDOW_SIZE above 2^31-1",
            setting(4, 1 << 31),
            GoAway(&[FLOW_CONTROL, PROTOCOL]),
        ),
        row("h2: MAX_FRAME_SIZE of 1", setting(5, 1), PROTOCOL_ERROR),
        row(
            "h2: MAX_FRAME_SIZE above 2^24-1",
            setting(5, 1 << 24),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: PING of 7 bytes",
            frame(PING, 0, 0, &[0; 7]),
            SIZE_ERROR,
        ),
        row(
            "h2: PING on a stream",
            frame(PING, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: GOAWAY of 7 bytes",
            frame(GOAWAY, 0, 0, &[0; 7]),
            SIZE_ERROR,
        ),
        row(
            "h2: WINDOW_UPDATE of 0",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: WINDOW_UPDATE of 3 bytes",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            SIZE_ERROR,
        ),
        row(
            "h2: window above 2^31-1",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
            GoAway(&[FLOW_CONTROL]),
        ),
        row(
            "h2: PUSH_PROMISE from a client",
            {
                let payload = [&[0, 0, 0, 2], &fields(&GOOD)[..]].concat();
                [
                    headers(1, 0, &GOOD),
                    frame(PUSH_PROMISE, END_HEADERS, 1, &payload),
                ]
                .concat()
            },
            PROTOCOL_ERROR,
        ),
        row(
            "h2: a frame above MAX_FRAME_SIZE",
            frame(DATA, 0, 1, &[0; 20_000]),
            SIZE_ERROR,
        ),
        row(
            "h2: field index 0",
            frame(HEADERS, 5, 1, &[0x80]),
            GoAway(&[COMPRESSION, PROTOCOL]),
        ),
        row(
            "h2: field index out of the table",
            frame(HEADERS, 5, 1, &[0xfe]),
            GoAway(&[COMPRESSION, PROTOCOL]),
        ),
        row(
            "h2: field length above 32 bits",
            frame(
                HEADERS,
                5,
                1,
                &[0, 127, 255, 255, 255, 255, 255, 255, 255, 1],
            ),
            GoAway(&[COMPRESSION, PROTOCOL]),
        ),
        row(
            "h2: table size above the setting",
            frame(HEADERS, 5, 1, &[0x3f, 0xe1, 0xff, 3]),
            GoAway(&[COMPRESSION, PROTOCOL]),
        ),
    ]
}

fn stream_rows() -> Vec<Row> {
    let get = |stream| headers(stream, END_STREAM, &GOOD);
    vec![
        row(
            "h2: DATA on stream 0",
            frame(DATA, 0, 0, b"x"),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: DATA on an idle stream",
            frame(DATA, 0, 1, b"x"),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: HEADERS on stream 0",
            headers(0, END_STREAM, &GOOD),
            PROTOCOL_ERROR,
        ),
        row("h2: HEADERS on an even stream", get(2), PROTOCOL_ERROR),
        row(
            "h2: RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: RST_STREAM of 3 bytes",
            frame(RST_STREAM, 0, 1, &[0; 3]),
            SIZE_ERROR,
        ),
        row(
            "h2: PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, &[0; 5]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: CONTINUATION without HEADERS",
            frame(CONTINUATION, END_HEADERS, 1, &fields(&GOOD)),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: PING between HEADERS and CONTINUATION",
            {
                [
                    frame(HEADERS, END_STREAM, 1, &fields(&GOOD)),
                    frame(PING, 0, 0, &[0; 8]),
                ]
                .concat()
            },
            PROTOCOL_ERROR,
        ),
        row(
            "h2: CONTINUATION of another stream",
            {
                [
                    frame(HEADERS, END_STREAM, 1, &fields(&GOOD)),
                    frame(CONTINUATION, 4, 3, &[]),
                ]
                .concat()
            },
            PROTOCOL_ERROR,
        ),
        row(
            "h2: padding longer than HEADERS",
            frame(HEADERS, END_HEADERS | PADDED, 1, &[200, 0, 0]),
            PROTOCOL_ERROR,
        ),
        row(
            "h2: padding longer than DATA",
            {
                [
                    headers(1, 0, &GOOD[..]),
                    frame(DATA, PADDED, 1, &[200, 0, 0]),
                ]
                .concat()
            },
            PROTOCOL_ERROR,
        ),
        row(
            "h2: DATA after the end of the stream",
            {
                let good = [
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":authority", "x"),
                    (":path", "/delay/2000"),
                ];
                [headers(1, END_STREAM, &good), frame(DATA, 0, 1, b"x")].concat()
            },
            Reset(&[STREAM_CLOSED, PROTOCOL]),
        ),
    ]
}

fn request_rows() -> Vec<Row> {
    let without = |name: &str| -> Vec<(&str, &str)> {
        GOOD.into_iter()
            .filter(|(field, _)| *field != name)
            .collect()
    };
    let with = |extra: &[(&'static str, &'static str)]| [&GOOD[..], extra].concat();
    let lists: Vec<(&'static str, Vec<(&str, &str)>)> = vec![
        ("h2: no :method", without(":method")),
        ("h2: no :scheme", without(":scheme")),
        ("h2: no :path", without(":path")),
        (
            "h2: empty :path",
            [&without(":path")[..], &[(":path", "")]].concat(),
        ),
        (
            "h2: :path without a slash",
            [&without(":path")[..], &[(":path", "malformed")]].concat(),
        ),
        (
            "h2: :path with a space",
            [&without(":path")[..], &[(":path", "/malformed a")]].concat(),
        ),
        ("h2: :path with CRLF", {
            [
                &without(":path")[..],
                &[(":path", "/malformed HTTP/1.1\r\nX: ")],
            ]
            .concat()
        }),
        ("h2: two :method", with(&[(":method", "GET")])),
        ("h2: two :path", with(&[(":path", "/malformed")])),
        ("h2: unknown pseudo-header", with(&[(":made-up", "1")])),
        (":status in an h2 request", with(&[(":status", "200")])),
        ("h2: pseudo-header behind a header", {
            [
                &without(":path")[..],
                &[("x-a", "1"), (":path", "/malformed")],
            ]
            .concat()
        }),
        ("h2: upper case in a name", with(&[("X-Upper", "1")])),
        ("h2: empty name", with(&[("", "1")])),
        ("h2: space in a name", with(&[("x a", "1")])),
        ("h2: CRLF in a value", with(&[("x-a", "1\r\nx-b: 2")])),
        ("h2: NUL in a value", with(&[("x-a", "1\x002")])),
        ("h2: connection", with(&[("connection", "close")])),
        (
            "h2: transfer-encoding",
            with(&[("transfer-encoding", "chunked")]),
        ),
        ("h2: keep-alive", with(&[("keep-alive", "1")])),
        ("h2: upgrade", with(&[("upgrade", "h2c")])),
        ("h2: te other than trailers", with(&[("te", "gzip")])),
        (
            "h2: content-length without a body",
            with(&[("content-length", "5")]),
        ),
        (
            "h2: content-length that is no number",
            with(&[("content-length", "five")]),
        ),
        (
            "h2: two content-lengths",
            with(&[("content-length", "0"), ("content-length", "1")]),
        ),
        (":authority with a space in h2", {
            [&without(":authority")[..], &[(":authority", "x y")]].concat()
        }),
        (":authority with user information in h2", {
            [&without(":authority")[..], &[(":authority", "u@x")]].concat()
        }),
    ];
    let mut rows: Vec<Row> = lists
        .into_iter()
        .map(|(name, list)| row(name, headers(1, END_STREAM, &list), MALFORMED))
        .collect();
    let digest = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/digest"),
    ];
    let long = [&digest[..], &[("content-length", "5")]].concat();
    rows.push(row(
        "h2: body longer than content-length",
        {
            [
                headers(1, 0, &long),
                frame(DATA, END_STREAM, 1, b"hello world"),
            ]
            .concat()
        },
        MALFORMED,
    ));
    rows.push(row(
        "h2: body shorter than content-length",
        [headers(1, 0, &long), frame(DATA, END_STREAM, 1, b"hell")].concat(),
        MALFORMED,
    ));
    rows
}

fn flood_rows() -> Vec<Row> {
    let good = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/bytes/1"),
    ];
    let last = |stream| headers(stream, END_STREAM, &good);
    vec![
        // CVE-2024-27316: headers without an end.
        row(
            "h2: 20,000 CONTINUATION frames",
            {
                let more = frame(CONTINUATION, 0, 1, &fields(&[("x-a", "1")]));
                [frame(HEADERS, 0, 1, &fields(&GOOD)), more.repeat(20_000)].concat()
            },
            GoAway(&[CALM, PROTOCOL, COMPRESSION]),
        ),
        row(
            "h2: a field of 200 KiB",
            {
                let large = "a".repeat(200 << 10);
                let block = fields(&[&GOOD[..], &[("x-a", &large)]].concat());
                let mut pieces = block.chunks(16_000);
                let mut frames = frame(HEADERS, END_STREAM, 1, pieces.next().unwrap_or_default());
                pieces.for_each(|piece| frames.extend(frame(CONTINUATION, 0, 1, piece)));
                frames.extend(frame(CONTINUATION, END_HEADERS, 1, &[]));
                frames
            },
            Reset(&[CALM, PROTOCOL, COMPRESSION]),
        ),
        // CVE-2023-44487: rapid reset.
        row(
            "h2: 5,000 requests reset at once",
            {
                let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                (0..5000)
                    .flat_map(|n| [last(2 * n + 1), reset(2 * n + 1)])
                    .flatten()
                    .collect()
            },
            GoAway(&[CALM]),
        ),
        // Harmless if answered cheaply: the connection goes on.
        row(
            "h2: 10,000 PINGs, then a request",
            [frame(PING, 0, 0, &[0; 8]).repeat(10_000), last(1)].concat(),
            Status(200),
        ),
        row(
            "h2: 10,000 SETTINGS, then a request",
            [setting(3, 100).repeat(10_000), last(1)].concat(),
            Status(200),
        ),
        row(
            "h2: unknown frames and settings are ignored",
            [frame(0xbe, 0xff, 0, b"grease"), setting(0x0a0a, 1), last(1)].concat(),
            Status(200),
        ),
    ]
}
