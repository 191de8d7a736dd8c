//! Apps that answer and close without having read the request's body.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use tokio::io::AsyncWriteExt;

use super::{
    meshed::{caller, pod},
    support::{Text, chain, run},
};
use crate::{detect::HttpVersion::Http1, tls::tests::Authority};

/// On a thread of its own, so that its reset can come at any moment. It reads a piece of each connection, and
/// refuses what says that it is long.
fn impatient() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let mut piece = [0; 1024];
            let length = tcp.read(&mut piece).unwrap();
            let head = String::from_utf8_lossy(&piece[..length]);
            let answer: &[u8] = if head.contains("content-length: 300000") {
                b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
            } else {
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            };
            tcp.write_all(answer).unwrap();
        }
    });
    address
}

async fn every_answer_arrives(proxy: SocketAddr) {
    let body = "x".repeat(300_000);
    for round in 0..100 {
        let mut client = Text::connect(proxy).await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
            .await;
        // The proxy may stop reading once it has the answer.
        let _ = client.tcp.write_all(body.as_bytes()).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "round {round}: {head}");
        client.until("no").await;
        // Whatever is left of that connection is not used again, though nothing said that it would close.
        let mut client = Text::connect(proxy).await;
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "round {round}: {head}");
    }
}

#[test]
fn a_reset_does_not_overtake_the_answer() {
    run(async { every_answer_arrives(chain(Http1, impatient()).await).await });
}

#[test]
fn a_reset_does_not_overtake_the_answer_between_two_meshed_pods() {
    run(async {
        let authority = Authority::new();
        let (pod, _) = pod(&authority, impatient()).await;
        every_answer_arrives(caller(&authority, &[pod]).await).await;
    });
}
