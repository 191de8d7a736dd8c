use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::io::READ_SIZE;
use crate::worker::fixture::redirected;

/// A client and a server with a copy between them.
async fn between() -> (TcpStream, TcpStream, impl Future<Output = Copied>) {
    let (client, client_side, _) = redirected(false).await;
    let (server, server_side, _) = redirected(false).await;
    let copy = copy(
        client_side.into(),
        server_side.into(),
        Bytes::from_static(b"heard "),
        Bytes::from_static(b"banner "),
    );
    (client, server, copy)
}

#[tokio::test]
async fn each_half_closes_by_itself() {
    let (mut client, mut server, copy) = between().await;
    let apps = async {
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = String::new();
        server.read_to_string(&mut request).await.unwrap();
        server.write_all(b"response").await.unwrap();
        drop(server);
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        (request, response)
    };
    let (copied, (request, response)) = tokio::join!(copy, apps);
    assert_eq!(request, "heard request");
    assert_eq!(response, "banner response");
    assert_eq!((copied.sent, copied.received), (13, 15));
    assert!(copied.broken.is_none());
}

#[tokio::test]
async fn what_a_server_said_before_it_closed_is_delivered() {
    let (mut client, mut server, copy) = between().await;
    let apps = async {
        server.read_exact(&mut [0; 6]).await.unwrap();
        server.write_all(&vec![7; 30_000]).await.unwrap();
        drop(server);
        // Too late: the server takes nothing more.
        client.write_all(b"late").await.unwrap();
        let mut response = Vec::new();
        client.read_to_end(&mut response).await.unwrap();
        drop(client);
        response.len()
    };
    let (_, length) = tokio::join!(copy, apps);
    assert_eq!(length, 30_000 + "banner ".len());
}

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other() {
    let (mut client, server, copy) = between().await;
    let chunk = vec![0; READ_SIZE];
    let flood = async {
        let mut sent = 0;
        // What two pairs of kernel buffers hold, and no more.
        while timeout(Duration::from_millis(300), client.write_all(&chunk))
            .await
            .is_ok()
        {
            sent += chunk.len();
            assert!(sent < 64 << 20, "nothing holds the sender back");
        }
    };
    tokio::select! {
        _ = copy => panic!("ended"),
        () = flood => {}
    }
    drop(server);
}

#[tokio::test]
async fn bulk_arrives_whole_in_both_directions() {
    const LENGTH: usize = 20 << 20;
    let (client, server, copy) = between().await;
    let pattern: Vec<u8> = (0..LENGTH).map(|at| (at / 7 % 251) as u8).collect();
    let exchange = |stream: TcpStream, prefix: &'static [u8]| {
        let pattern = pattern.clone();
        async move {
            let (mut read, mut write) = stream.into_split();
            let send = async {
                write.write_all(&pattern).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let receive = async { read.read_to_end(&mut got).await.unwrap() };
            tokio::join!(send, receive);
            assert_eq!(got.len(), prefix.len() + LENGTH);
            assert!(got.starts_with(prefix) && got[prefix.len()..] == pattern);
        }
    };
    let (copied, (), ()) = tokio::join!(
        copy,
        exchange(client, b"banner "),
        exchange(server, b"heard ")
    );
    assert!(copied.broken.is_none());
}
