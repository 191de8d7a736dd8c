//! HTTP/1.x through two proxies: what the app sees and what the client gets.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use super::support::{CLIENT, Text, canned, chain, listen, outbound, run};
use crate::{detect::HttpVersion::Http1, tls::Tls, worker::Worker};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn keep_alive_uses_one_connection_to_the_app() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        let app = listen(move |tcp| {
            counted.set(counted.get() + 1);
            async move {
                let mut text = Text::from(tcp);
                for _ in 0..3 {
                    let head = text.head().await;
                    assert!(head.starts_with("GET /a?b HTTP/1.1\r\n"), "{head}");
                    assert!(head.contains("\r\nhost: example\r\n"), "{head}");
                    assert!(!head.contains("x-hop") && !head.contains("mesh-"), "{head}");
                    text.send(OK).await;
                }
            }
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        for _ in 0..3 {
            client
                .send(
                    "GET /a?b HTTP/1.1\r\nHost: example\r\nConnection: keep-alive, x-hop\r\n\
                     X-Hop: 1\r\nmesh-client-id: forged\r\n\r\n",
                )
                .await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert!(!head.contains("date:") && !head.contains("via:"), "{head}");
            assert_eq!(client.until("ok").await, "ok");
        }
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            for _ in 0..3 {
                let head = text.head().await;
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let length = path.len();
                text.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}"
                ))
                .await;
            }
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        let request = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client
            .send(&[request("/1"), request("/2"), "GARBAGE\r\n\r\n".into()].concat())
            .await;
        for path in ["/1", "/2"] {
            client.head().await;
            assert_eq!(client.until(path).await, path);
        }
        let refused = client.rest().await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
        assert!(
            refused.contains("mesh-error: the request line"),
            "{refused}"
        );
        assert!(refused.contains("connection: close"), "{refused}");
    });
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
            assert!(head.contains("te: trailers\r\n"), "{head}");
            let body = text.until("\r\n\r\n").await;
            assert!(
                body.starts_with("5\r\nhello\r\n0\r\nx-sum: 1\r\n"),
                "{body}"
            );
            text.send(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                 3\r\nabc\r\n0\r\nX-Sum: 2\r\n\r\n",
            )
            .await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nTrailer: x-sum\r\n\
                 Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
            )
            .await;
        let head = client.head().await;
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert_eq!(
            client.until("\r\n\r\n").await,
            "3\r\nabc\r\n0\r\nx-sum: 2\r\n\r\n"
        );
    });
}

#[test]
fn a_get_may_have_a_chunked_body() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            text.head().await;
            assert_eq!(text.until("0\r\n\r\n").await, "2\r\nhi\r\n0\r\n\r\n");
            text.send(OK).await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .await;
        client.until("ok").await;
    });
}

#[test]
fn a_head_response_keeps_its_length() {
    run(async {
        let app = canned("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", false).await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        for _ in 0..2 {
            client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(client.head().await.contains("content-length: 1234"));
        }
    });
}

#[test]
fn http_1_0_stays_1_0() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.starts_with("GET / HTTP/1.0\r\n"), "{head}");
            text.send("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\nuntil the end"), "{response}");
        assert!(!response.contains("chunked"), "{response}");
    });
}

#[test]
fn absolute_form_and_asterisk_stay_what_they_are() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.starts_with("GET http://b/c HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("host: b\r\n"), "{head}");
            text.send(OK).await;
            let head = text.head().await;
            assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
            text.send(OK).await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("GET http://b/c HTTP/1.1\r\nHost: other\r\n\r\n")
            .await;
        client.until("ok").await;
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("ok").await;
    });
}

#[test]
fn the_client_gets_100_only_when_the_app_asks() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.contains("expect: 100-continue"), "{head}");
            assert!(text.is_silent().await, "the body came unasked");
            text.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            text.until("hello").await;
            text.send(OK).await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .await;
        assert!(client.is_silent().await, "100 came too early");
        assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send("hello").await;
        client.until("ok").await;
    });
}

#[test]
fn a_final_response_instead_of_100_passes() {
    run(async {
        let refusal = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno";
        let app = canned(refusal, false).await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            .await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.1 417 "), "{response}");
        assert!(response.ends_with("no"), "{response}");
    });
}

#[test]
fn websocket_bytes_pass_both_ways_and_halves_close() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.contains("upgrade: websocket\r\n"), "{head}");
            assert!(head.contains("connection: upgrade\r\n"), "{head}");
            text.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
                .await;
            assert_eq!(text.rest().await, "early late");
            text.send("bye").await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        // Bytes right behind the head must not be read as a request.
        client
            .send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ")
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("upgrade: websocket"), "{head}");
        client.until("hello").await;
        client.send("late").await;
        AsyncWriteExt::shutdown(&mut client.tcp).await.unwrap();
        assert_eq!(client.rest().await, "bye");
    });
}

#[test]
fn a_refused_upgrade_leaves_http_going_on() {
    run(async {
        let app = canned(OK, false).await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
        client.send(&upgrade.repeat(3)).await;
        for _ in 0..3 {
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
            client.until("ok").await;
        }
    });
}

#[test]
fn connect_makes_a_tunnel() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.starts_with("CONNECT b:443 HTTP/1.1\r\n"), "{head}");
            text.send("HTTP/1.1 200 OK\r\n\r\n").await;
            text.until("ping").await;
            text.send("pong").await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.send("ping").await;
        assert_eq!(client.rest().await, "pong");
    });
}

#[test]
fn an_h2c_upgrade_is_ignored() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(
                !head.contains("upgrade") && !head.contains("http2-settings"),
                "{head}"
            );
            text.send(OK).await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
            .await;
        client.until("ok").await;
    });
}

#[test]
fn responses_with_two_framings_are_not_passed_on() {
    run(async {
        for response in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n b\r\n\r\nok",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            let app = canned(response, true).await;
            let mut client = Text::connect(chain(Http1, app).await).await;
            client
                .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                .await;
            let head = client.head().await;
            assert!(
                head.starts_with("HTTP/1.1 502 "),
                "{response:?} became {head}"
            );
            assert!(head.contains("mesh-error: "), "{head}");
        }
    });
}

#[test]
fn a_bad_chunk_is_answered_with_its_reason() {
    run(async {
        let app = listen(|tcp| async move {
            Text::from(tcp).rest().await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await;
        sleep(Duration::from_millis(50)).await;
        client.send("zz\r\n").await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
        assert!(response.contains("mesh-error: a chunk size"), "{response}");
    });
}

/// A request that crosses the drain on an idle connection is still answered, and told to be the last.
#[test]
fn a_drain_does_not_cut_off_a_request_on_its_way() {
    run(async {
        let app = canned(OK, false).await;
        let (trigger, drain) = crate::drain::channel(Duration::from_secs(5));
        let mut worker = Worker::for_test(Tls::new());
        Rc::get_mut(&mut worker).unwrap().drain = drain;
        let proxy = listen(move |tcp| {
            let worker = worker.clone();
            async move {
                let target = worker.target(app);
                crate::http::outbound::serve(worker, tcp.into(), CLIENT, Http1, target).await;
            }
        })
        .await;
        let mut client = Text::connect(proxy).await;
        let mut idle = Text::connect(proxy).await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        for client in [&mut client, &mut idle] {
            client.send(request).await;
            client.until("ok").await;
        }
        trigger.start();
        sleep(Duration::from_millis(100)).await;
        client.send(request).await;
        let last = client.rest().await;
        assert!(last.contains("connection: close\r\n"), "{last}");
        assert!(last.ends_with("ok"), "{last}");
        assert_eq!(idle.rest().await, "");
    });
}

#[test]
fn nobody_listens() {
    run(async {
        let closed = "127.0.0.1:1".parse().unwrap();
        let mut client = Text::connect(outbound(Http1, closed).await).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(
            head.contains("mesh-error: can't connect to 127.0.0.1:1: "),
            "{head}"
        );
    });
}

/// Where the close of the connection ends the body, a close would say that it is whole.
#[test]
fn a_response_that_breaks_off_does_not_look_complete() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            text.head().await;
            text.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                .await;
            sleep(Duration::from_millis(100)).await;
        })
        .await;
        let proxy = chain(Http1, app).await;
        let mut client = Text::connect(proxy).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("5\r\nhello\r\n").await;
        assert_eq!(client.rest().await, "", "no last chunk");

        let mut client = Text::connect(proxy).await;
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        client.until("hello").await;
        let end = client.tcp.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_client_that_sends_far_ahead_has_to_wait() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            text.head().await;
            sleep(Duration::from_millis(300)).await;
            text.send(OK).await;
            for _ in 0..2000 {
                text.head().await;
                text.send(OK).await;
            }
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(8000)
        );
        // More than the proxy and the kernel hold: the writer only comes to an end when answers are read.
        let (mut read, mut write) = client.tcp.split();
        let ahead = async {
            for _ in 0..2000 {
                write.write_all(request.as_bytes()).await.unwrap();
            }
        };
        let answers = async {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            let mut all = vec![0; 2000 * answer.len()];
            read.read_exact(&mut all).await.unwrap();
            assert!(all.chunks(answer.len()).all(|one| one == answer.as_bytes()));
        };
        tokio::join!(ahead, answers);
    });
}

/// Whoever waits for the end of a body that nobody reads waits for ever.
#[test]
fn a_refused_request_with_a_body_does_not_keep_its_connection() {
    run(async {
        let mut client = Text::connect(chain(Http1, canned(OK, false).await).await).await;
        client
            .send("POST http://user@a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(client.rest().await.contains("user information"));
    });
}
