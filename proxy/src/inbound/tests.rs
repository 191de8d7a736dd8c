//! Connections to an app through one proxy or two, against real servers on loopback.

use std::convert::Infallible;
use std::io::ErrorKind;

use ::http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2::handshake;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::tls::Tls;
use crate::tls::tests::{Authority, id};
use crate::worker::fixture::{assert_reset_passes, dial, server};

/// What another pod dials: its connections are served by `worker` as if redirected from `app`.
async fn pod(worker: &Rc<Worker>, app: SocketAddr) -> SocketAddr {
    let (listener, address) = server(false).await;
    let worker = worker.clone();
    spawn_local(async move {
        loop {
            let (tcp, client) = listener.accept().await.unwrap();
            spawn_local(connection(worker.clone(), tcp, client, app));
        }
    });
    address
}

/// A client's connection through its proxy and the proxy of `api` to a listening app.
async fn meshed() -> (Rc<Worker>, SocketAddr, TcpListener) {
    let authority = Authority::new();
    let (listener, app) = server(false).await;
    let api = pod(&Worker::for_test(authority.trusted("api")), app).await;
    let web = Worker::for_test(authority.trusted("web"));
    let _ = web.know(api, v1::Protocol::Detect, &[(api, Some(id("api")))]);
    (web, api, listener)
}

#[tokio::test]
async fn a_banner_passes_two_proxies_at_once() {
    let test = async {
        let (web, api, listener) = meshed().await;
        let started = Instant::now();
        let mut client = dial(&web, api).await;
        let (mut app, _) = listener.accept().await.unwrap();
        app.write_all(b"hello").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(100));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn bytes_and_closed_halves_pass_two_proxies() {
    let test = async {
        let (web, api, listener) = meshed().await;
        let mut client = dial(&web, api).await;
        client.write_all(&vec![7; 1 << 20]).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        app.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, vec![7; 1 << 20]);
        app.write_all(b"done").await.unwrap();
        drop(app);
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert_eq!(response, "done");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn resets_pass_two_proxies_both_ways() {
    let test = async {
        let (web, api, listener) = meshed().await;
        for client_resets in [true, false] {
            let mut client = dial(&web, api).await;
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
async fn tls_that_ends_without_a_word_is_a_reset() {
    let test = async {
        let authority = Authority::new();
        let (listener, app) = server(false).await;
        let api = pod(&Worker::for_test(authority.trusted("api")), app).await;
        let tcp = TcpStream::connect(api).await.unwrap();
        let web = authority.trusted("web");
        let mut tls = web.connect(tcp, &id("api"), Alpn::Tcp).await.unwrap();
        tls.write_all(b"all of it?").await.unwrap();
        let (mut app, _) = listener.accept().await.unwrap();
        app.read_exact(&mut [0; 10]).await.unwrap();
        // A FIN, but no close_notify: anyone on the way could have sent it.
        tls.get_mut().0.shutdown().await.unwrap();
        let error = app.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_foreign_certificate_reaches_no_app() {
    let test = async {
        let (listener, app) = server(false).await;
        let api = pod(&Worker::for_test(Authority::new().trusted("api")), app).await;
        let web = Worker::for_test(Authority::new().trusted("web"));
        let _ = web.know(api, v1::Protocol::Opaque, &[(api, Some(id("api")))]);
        let mut client = dial(&web, api).await;
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let reached = tokio::time::timeout(2 * MOMENT, listener.accept()).await;
        assert!(reached.is_err());
    };
    LocalSet::new().run_until(test).await;
}

/// As Kubernetes 1.36 sends them, and what may look like one.
#[test]
fn a_probe_says_that_it_is_one() {
    let request = |agent: &str| {
        format!(
            "GET /ready HTTP/1.1\r\nHost: 10.244.1.7:8080\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
    };
    assert!(is_probe(request("kube-probe/1.36").as_bytes()));
    for other in [
        request("curl/8"),
        request("not-kube-probe/1"),
        "GET /kube-probe/ HTTP/1.1\r\n\r\n".to_owned(),
        String::new(),
    ] {
        assert!(!is_probe(other.as_bytes()), "{other}");
    }
}

/// It begins as every gRPC client does; only the head of its request says what it is.
#[tokio::test]
async fn a_grpc_probe_counts_as_one() {
    let test = async {
        let (listener, app) = server(false).await;
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let answer = service_fn(async |_: Request<Incoming>| {
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                });
                let served = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), answer);
                tokio::spawn(served);
            }
        });
        let worker = Worker::for_test(Tls::new());
        let api = pod(&worker, app).await;
        for (agent, is_probe) in [
            ("kube-probe/1.36 grpc-go/1.72.2", true),
            ("grpc-go/1.72.2", false),
        ] {
            let tcp = TcpStream::connect(api).await.unwrap();
            let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(tcp))
                .await
                .unwrap();
            let connection = spawn_local(connection);
            let request = Request::post("http://api/grpc.health.v1.Health/Check")
                .header("user-agent", agent)
                .body(Empty::<Bytes>::new())
                .unwrap();
            client.send_request(request).await.unwrap();
            drop(client);
            connection.await.unwrap().unwrap();
            let text = worker.metrics.process().encode();
            let counted = |name: &str, label: &str| {
                let line = text
                    .lines()
                    .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
                line.map_or("0", |line| line.rsplit(' ').next().unwrap())
            };
            let others = if is_probe { "0" } else { "1" };
            for name in ["request_total", "tcp_open_total"] {
                assert_eq!(counted(name, "reason=\"probe\""), "1", "{name} in {text}");
                assert_eq!(
                    counted(name, "tls=\"loopback\""),
                    others,
                    "{name} in {text}"
                );
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_caller_without_a_proxy_is_served_too() {
    let test = async {
        let (listener, app) = server(false).await;
        let api = pod(&Worker::for_test(Tls::new()), app).await;
        // One waits for the app to speak, one speaks, one brings its own TLS.
        for said in [&b""[..], b"PING\r\n", b"\x16\x03\x01\0\x04\x01\0\0\0"] {
            let mut client = TcpStream::connect(api).await.unwrap();
            client.write_all(said).await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; said.len()];
            app.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, said);
            app.write_all(b"220").await.unwrap();
            client.read_exact(&mut [0; 3]).await.unwrap();
        }
    };
    LocalSet::new().run_until(test).await;
}
