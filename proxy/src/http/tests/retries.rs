//! Once more where it is safe, and never where it is not.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::sleep};

use super::support::{Text, chain, inbound, listen, outbound, run};
use crate::detect::HttpVersion::Http1;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An app that plays one response after the other, each on a connection of its own; an empty one closes.
/// Counts the requests.
async fn script(responses: &'static [&'static str]) -> (SocketAddr, Rc<Cell<usize>>) {
    let requests = Rc::new(Cell::new(0));
    let counted = requests.clone();
    let app = listen(move |tcp| {
        let counted = counted.clone();
        async move {
            let mut text = Text::from(tcp);
            text.head().await;
            let response = responses.get(counted.get()).unwrap_or(&OK);
            counted.set(counted.get() + 1);
            text.send(response).await;
        }
    })
    .await;
    (app, requests)
}

async fn status(proxy: SocketAddr, request: &str) -> String {
    let mut client = Text::connect(proxy).await;
    client.send(request).await;
    let head = client.head().await;
    head.lines().next().unwrap().to_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_get_is_sent_again_after_a_503_or_a_lost_connection() {
    run(async {
        for first in [&[UNAVAILABLE] as &'static [&str], &[""]] {
            let (app, requests) = script(first).await;
            let status = status(outbound(Http1, app).await, GET).await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            assert_eq!(requests.get(), 2);
        }
    });
}

#[test]
fn a_get_is_sent_again_only_once_and_not_after_a_500() {
    run(async {
        let (app, requests) = script(&[UNAVAILABLE, UNAVAILABLE, UNAVAILABLE]).await;
        let answer = status(outbound(Http1, app).await, GET).await;
        assert_eq!(answer, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(requests.get(), 2);
        let (app, requests) = script(&[BROKEN]).await;
        let answer = status(outbound(Http1, app).await, GET).await;
        assert_eq!(answer, "HTTP/1.1 500 Internal Server Error");
        assert_eq!(requests.get(), 1);
    });
}

#[test]
fn a_post_is_never_sent_twice() {
    run(async {
        for first in [&[UNAVAILABLE] as &'static [&str], &[""], &["HTTP/1.1 2"]] {
            let (app, requests) = script(first).await;
            let answer = status(chain(Http1, app).await, POST).await;
            assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
            sleep(Duration::from_millis(100)).await;
            assert_eq!(requests.get(), 1, "after {first:?}");
        }
    });
}

/// The app closes an idle connection; the next request, of whatever method, must not fail for it.
#[test]
fn a_stale_connection_fails_no_request() {
    run(async {
        let bodies = Rc::new(RefCell::new(Vec::new()));
        let seen = bodies.clone();
        let app = listen(move |tcp| {
            let seen = seen.clone();
            async move {
                let mut text = Text::from(tcp);
                text.head().await;
                let body = text.until("hello").await;
                seen.borrow_mut().push(body);
                text.send(OK).await;
                // Closes although it did not say so.
                text.tcp.shutdown().await.unwrap();
            }
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        for _ in 0..5 {
            client.send(post).await;
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
            client.until("ok").await;
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(bodies.borrow().len(), 5);
    });
}

/// The inbound proxy's app is down; the outbound one has no other endpoint, and says why.
#[test]
fn an_undelivered_post_reaches_the_client_as_an_error_without_the_meshs_own_marks() {
    run(async {
        let closed = "127.0.0.1:1".parse().unwrap();
        let proxy = inbound(Http1, closed, Some("spiffe://cluster.local/ns/a/sa/b")).await;
        let mut client = Text::connect(outbound(Http1, proxy).await).await;
        client.send(POST).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(
            head.contains("mesh-error: can't connect to 127.0.0.1:1"),
            "{head}"
        );
        assert!(!head.contains("mesh-not-delivered"), "{head}");
    });
}

#[test]
fn a_hundred_clients_at_once_share_the_wait_for_connections() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        let app = listen(move |tcp| {
            counted.set(counted.get() + 1);
            async move {
                let mut text = Text::from(tcp);
                while !text.is_closed().await {
                    text.head().await;
                    text.send(OK).await;
                }
            }
        })
        .await;
        let proxy = outbound(Http1, app).await;
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..100 {
            clients.spawn_local(async move { status(proxy, GET).await });
        }
        assert!(
            clients
                .join_all()
                .await
                .iter()
                .all(|status| status == "HTTP/1.1 200 OK")
        );
        assert!(connections.get() <= 100, "{}", connections.get());
    });
}

#[test]
fn a_large_body_streams_and_an_early_answer_passes() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            text.head().await;
            // Answers before it has read the body.
            text.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
                .await;
            text.rest().await;
        })
        .await;
        let mut client = Text::connect(chain(Http1, app).await).await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 104857600\r\n\r\n")
            .await;
        let piece = "x".repeat(1024 * 1024);
        client.send(&piece).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        client.until("early").await;
        for _ in 1..100 {
            client.send(&piece).await;
        }
    });
}

/// A server that closed connections without a word (it was restarted, say) and does so no more must not cost every
/// further POST a connection of its own.
#[test]
fn posts_share_a_connection_again_once_the_server_keeps_it() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        let app = listen(move |tcp| {
            counted.set(counted.get() + 1);
            let closes = counted.get() <= 3;
            async move {
                let mut text = Text::from(tcp);
                while !text.is_closed().await {
                    text.head().await;
                    text.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        .await;
                    if closes {
                        return;
                    }
                }
            }
        })
        .await;
        let mut client = Text::connect(outbound(Http1, app).await).await;
        for _ in 0..30 {
            client
                .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                .await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            client.until("ok").await;
            sleep(Duration::from_millis(20)).await;
        }
        let connections = connections.get();
        assert!(
            (4..=12).contains(&connections),
            "{connections} for 30 requests"
        );
    });
}
