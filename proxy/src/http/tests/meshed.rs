//! HTTP between two pods of the mesh: mutual TLS, and the choice of the wire.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use mesh_api::v1;
use tokio::{task::JoinSet, time::sleep};

use super::support::{Text, canned, listen, run};
use crate::{
    inbound,
    outbound::connection,
    tls::tests::{Authority, id},
    worker::{Worker, fixture::nobody},
};

const GET: &str = "GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A meshed pod before `app`, and how many connections its proxy has accepted.
pub(super) async fn pod(authority: &Authority, app: SocketAddr) -> (SocketAddr, Rc<Cell<usize>>) {
    let worker = Worker::for_test(authority.trusted("api"));
    let accepted = Rc::new(Cell::new(0));
    let counted = accepted.clone();
    let address = listen(move |tcp| {
        counted.set(counted.get() + 1);
        let client = tcp.peer_addr().unwrap();
        inbound::connection(worker.clone(), tcp, client, app)
    })
    .await;
    (address, accepted)
}

/// The proxy of a pod that calls a service with these meshed endpoints.
pub(super) async fn caller(authority: &Authority, endpoints: &[SocketAddr]) -> SocketAddr {
    let worker = Worker::for_test(authority.trusted("web"));
    let endpoints: Vec<_> = endpoints.iter().map(|at| (*at, Some(id("api")))).collect();
    let service = endpoints[0].0;
    let known = worker.know(service, v1::Protocol::Http, &endpoints);
    listen(move |tcp| {
        let _known = &known;
        let client = tcp.peer_addr().unwrap();
        connection(worker.clone(), tcp, client, service)
    })
    .await
}

/// An app that counts its requests and answers each after a while.
async fn slow(requests: Rc<Cell<usize>>) -> SocketAddr {
    listen(move |tcp| {
        let requests = requests.clone();
        async move {
            let mut text = Text::from(tcp);
            while !text.is_closed().await {
                let head = text.head().await;
                assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("host: shop\r\n"), "{head}");
                assert!(
                    head.contains(&format!("mesh-client-id: {}\r\n", id("web"))),
                    "{head}"
                );
                assert!(!head.contains("mesh-original-version"), "{head}");
                requests.set(requests.get() + 1);
                sleep(Duration::from_millis(50)).await;
                text.send(OK).await;
            }
        }
    })
    .await
}

#[test]
fn one_request_after_the_other_takes_one_connection() {
    run(async {
        let authority = Authority::new();
        let requests = Rc::new(Cell::new(0));
        let (api, accepted) = pod(&authority, slow(requests.clone()).await).await;
        let proxy = caller(&authority, &[api]).await;
        let mut client = Text::connect(proxy).await;
        for _ in 0..5 {
            client.send(GET).await;
            client.until("ok").await;
        }
        assert_eq!((requests.get(), accepted.get()), (5, 1));
    });
}

/// How many requests arrive, and over how many connections, where so many clients at once send so many each.
async fn at_once(clients: usize, each: usize) -> (usize, usize) {
    let authority = Authority::new();
    let requests = Rc::new(Cell::new(0));
    let (api, accepted) = pod(&authority, slow(requests.clone()).await).await;
    let proxy = caller(&authority, &[api]).await;
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn_local(async move {
            let mut client = Text::connect(proxy).await;
            for _ in 0..each {
                client.send(GET).await;
                let head = client.head().await;
                assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                client.until("ok").await;
            }
        });
    }
    tasks.join_all().await;
    (requests.get(), accepted.get())
}

#[test]
fn many_requests_at_once_share_a_connection() {
    run(async {
        let (requests, connections) = at_once(200, 3).await;
        assert_eq!(requests, 600);
        // A few before they were many, and one for all others.
        assert!(connections <= 20, "{connections} connections");
    });
}

#[test]
fn a_burst_is_no_burst_of_handshakes() {
    // Twelve are too few to be many: two of their own, and one that the others share.
    run(async { assert_eq!(at_once(12, 1).await, (12, 3)) });
}

#[test]
fn an_upgrade_passes_two_proxies() {
    run(async {
        let authority = Authority::new();
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            text.head().await;
            text.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhi",
            )
            .await;
            text.until("there").await;
            text.send("bye").await;
        })
        .await;
        let (api, _) = pod(&authority, app).await;
        let mut client = Text::connect(caller(&authority, &[api]).await).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        client.until("hi").await;
        client.send("there").await;
        assert_eq!(client.rest().await, "bye");
    });
}

#[test]
fn http_1_0_crosses_the_mesh() {
    run(async {
        let authority = Authority::new();
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.starts_with("GET / HTTP/1.0\r\n"), "{head}");
            text.send("HTTP/1.0 200 OK\r\n\r\nbye").await;
        })
        .await;
        let (api, _) = pod(&authority, app).await;
        let mut client = Text::connect(caller(&authority, &[api]).await).await;
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        let response = client.rest().await;
        assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\nbye"), "{response}");
    });
}

/// One pod's app is down: its proxy says that it has not delivered the request, and even a POST goes to
/// the other, with its body, once.
#[test]
fn an_undelivered_post_goes_to_another_endpoint() {
    run(async {
        let authority = Authority::new();
        let (down, refused) = pod(&authority, nobody().await).await;
        let posts = Rc::new(Cell::new(0));
        let counted = posts.clone();
        let app = listen(move |tcp| {
            let counted = counted.clone();
            async move {
                let mut text = Text::from(tcp);
                while !text.is_closed().await {
                    text.until("hello").await;
                    counted.set(counted.get() + 1);
                    text.send(OK).await;
                }
            }
        })
        .await;
        let (up, _) = pod(&authority, app).await;
        let proxy = caller(&authority, &[down, up]).await;
        for _ in 0..20 {
            let mut client = Text::connect(proxy).await;
            client.send(POST).await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
        assert_eq!(posts.get(), 20);
        assert!(
            refused.get() > 0,
            "the endpoint that is down was never picked"
        );
    });
}

/// A pod is gone: nothing was sent, so every method goes elsewhere at once.
#[test]
fn a_dead_endpoint_fails_no_request() {
    run(async {
        let authority = Authority::new();
        let (up, _) = pod(&authority, canned(OK, true).await).await;
        let proxy = caller(&authority, &[nobody().await, up]).await;
        for _ in 0..20 {
            let mut client = Text::connect(proxy).await;
            client.send("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
    });
}
