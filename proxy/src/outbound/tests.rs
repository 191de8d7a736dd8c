//! Connections of an app through the outbound side, against real servers on loopback.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use super::*;
use crate::tls::Tls;
use crate::worker::fixture::{assert_reset_passes, dial, nobody, redirected, server};

fn worker() -> Rc<Worker> {
    Worker::for_test(Tls::new())
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// A ClientHello with nothing in it.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\0\x04\x01\0\0\0";

async fn banner_arrives_at_once(v6: bool) {
    let (listener, destination) = server(v6).await;
    let worker = worker();
    for _ in 0..2 {
        let started = Instant::now();
        let mut client = dial(&worker, destination).await;
        let (mut app, _) = listener.accept().await.unwrap();
        app.write_all(b"220 hello\r\n").await.unwrap();
        let mut banner = [0; 11];
        client.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"220 hello\r\n");
        assert!(started.elapsed() < Duration::from_millis(100));
        // And on it goes, both ways.
        client.write_all(b"EHLO").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut app).await, b"EHLO");
        app.write_all(b"250").await.unwrap();
        drop(app);
        assert_eq!(read_to_end(&mut client).await, b"250");
        assert_eq!(worker.target(destination).learnt.speaker(), Speaker::Server);
    }
}

#[tokio::test]
async fn a_servers_banner_arrives_at_once() {
    LocalSet::new()
        .run_until(banner_arrives_at_once(false))
        .await;
}

#[tokio::test]
async fn a_servers_banner_arrives_at_once_over_ipv6() {
    LocalSet::new()
        .run_until(banner_arrives_at_once(true))
        .await;
}

#[tokio::test]
async fn where_clients_speak_first_nothing_is_opened_for_a_quiet_one() {
    let test = async {
        let (listener, destination) = server(false).await;
        let worker = worker();
        let mut first = dial(&worker, destination).await;
        first.write_all(CLIENT_HELLO).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut heard = [0; CLIENT_HELLO.len()];
        app.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, CLIENT_HELLO);

        let _quiet = dial(&worker, destination).await;
        let opened = tokio::time::timeout(5 * MOMENT, listener.accept()).await;
        assert!(opened.is_err(), "opened in vain");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn quiet_clients_do_not_open_an_upstream_each() {
    let test = async {
        let (listener, destination) = server(false).await;
        let worker = worker();
        let mut clients = Vec::new();
        for _ in 0..200 {
            clients.push(dial(&worker, destination).await);
        }
        let mut opened = Vec::new();
        while let Ok(accepted) = tokio::time::timeout(5 * MOMENT, listener.accept()).await {
            opened.push(accepted);
        }
        assert_eq!(opened.len(), 128);

        // One that had no turn is served as soon as it speaks.
        let last = clients.last_mut().unwrap();
        last.write_all(CLIENT_HELLO).await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut heard = [0; CLIENT_HELLO.len()];
        app.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, CLIENT_HELLO);

        // From it, all have learnt who speaks first: no turn that becomes free is taken.
        drop(opened);
        let opened = tokio::time::timeout(5 * MOMENT, listener.accept()).await;
        assert!(opened.is_err(), "opened in vain");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_late_client_of_an_open_upstream_uses_it() {
    let test = async {
        let (listener, destination) = server(false).await;
        let mut client = dial(&worker(), destination).await;
        let (mut app, _) = listener.accept().await.unwrap();
        client.write_all(b"PING\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut app).await, b"PING\r\n");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_first_still_hears_the_server() {
    let test = async {
        let (listener, destination) = server(false).await;
        let mut client = dial(&worker(), destination).await;
        client.shutdown().await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        assert_eq!(read_to_end(&mut app).await, b"");
        app.write_all(b"12:00").await.unwrap();
        drop(app);
        assert_eq!(read_to_end(&mut client).await, b"12:00");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn resets_are_passed_on_both_ways() {
    let test = async {
        let (listener, destination) = server(false).await;
        let worker = worker();
        for client_resets in [true, false] {
            let mut client = dial(&worker, destination).await;
            client.write_all(b"*1\r\n").await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            app.read_exact(&mut [0; 4]).await.unwrap();
            match client_resets {
                true => assert_reset_passes(client, app).await,
                false => assert_reset_passes(app, client).await,
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_refused_connection_is_a_reset_for_the_client() {
    let test = async {
        let destination = nobody().await;
        let worker = worker();
        for said in [&b""[..], b"*1\r\n"] {
            let mut client = dial(&worker, destination).await;
            client.write_all(said).await.unwrap();
            let error = client.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn another_endpoint_is_tried_where_one_refuses() {
    let test = async {
        let ((listener, address), destination) = (server(false).await, nobody().await);
        let worker = worker();
        let endpoints = [(nobody().await, None), (address, None)];
        let _answers = worker.know(destination, v1::Protocol::Opaque, &endpoints);
        for _ in 0..8 {
            let mut client = dial(&worker, destination).await;
            let (mut app, _) = listener.accept().await.unwrap();
            app.write_all(b"x").await.unwrap();
            client.read_exact(&mut [0; 1]).await.unwrap();
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_waits_for_the_first_endpoint() {
    let test = async {
        let ((listener, address), destination) = (server(false).await, nobody().await);
        let worker = worker();
        let answers = worker.know(destination, v1::Protocol::Opaque, &[]);
        let mut client = dial(&worker, destination).await;
        tokio::task::yield_now().await;
        let full = worker.know(destination, v1::Protocol::Opaque, &[(address, None)]);
        answers.send_replace(full.borrow().clone());
        let (mut app, _) = listener.accept().await.unwrap();
        app.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0; 1]).await.unwrap();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_connection_to_the_proxys_own_port_is_refused() {
    let test = async {
        // Not redirected: what it dialled is where it arrived.
        let (mut client, accepted, address) = redirected(false).await;
        spawn_local(serve(worker(), accepted, address));
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    };
    LocalSet::new().run_until(test).await;
}
