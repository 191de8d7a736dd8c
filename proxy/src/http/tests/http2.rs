//! HTTP/2 through two proxies, and HTTP/1.x requests that travel over it.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, client, server};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};

use super::support::{CLIENT, Text, chain, inbound, listen, outbound, run};
use crate::{
    detect::HttpVersion::{Http1, Http2},
    drain, http as proxy,
    tls::Tls,
    worker::Worker,
};

/// Spawns hyper's tasks on the test's own thread.
#[derive(Debug, Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// An HTTP/2 client.
async fn connect(address: SocketAddr) -> client::SendRequest<Bytes> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = client::handshake(tcp).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    sender.ready().await.unwrap()
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://example{path}"))
}

/// An HTTP/2 app that answers each stream with `answer`.
async fn app<F, T>(answer: F) -> SocketAddr
where
    F: Fn(Request<h2::RecvStream>, server::SendResponse<Bytes>) -> T + Clone + 'static,
    T: Future<Output = ()> + 'static,
{
    listen(move |tcp| {
        let answer = answer.clone();
        async move {
            let mut connection = server::Builder::new()
                .max_concurrent_streams(5000)
                .handshake(tcp)
                .await
                .unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                spawn_local(answer(request, respond));
            }
        }
    })
    .await
}

/// Reads a body, giving back its window; its length, and its trailers.
async fn read(mut body: h2::RecvStream) -> Result<(usize, Option<HeaderMap>), h2::Error> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((length, body.trailers().await?))
}

/// Sends so many bytes, as the window allows.
async fn pour(stream: &mut h2::SendStream<Bytes>, mut bytes: usize, end: bool) {
    let piece = Bytes::from(vec![7; 16 * 1024]);
    while bytes > 0 {
        stream.reserve_capacity(bytes.min(piece.len()));
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(capacity)) = capacity else { return };
        let length = capacity.min(bytes).min(piece.len());
        bytes -= length;
        stream
            .send_data(piece.slice(..length), end && bytes == 0)
            .unwrap();
    }
}

#[test]
fn grpc_passes_with_trailers_and_streams_both_ways() {
    run(async {
        let app = app(|request, mut respond| async move {
            assert_eq!(request.headers()["te"], "trailers");
            assert_eq!(request.uri().authority().unwrap(), "example");
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            // The head comes before the request has ended.
            let mut stream = respond.send_response(response, false).unwrap();
            let (length, trailers) = read(request.into_body()).await.unwrap();
            assert_eq!((length, trailers), (5, None));
            stream.send_data("world".into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let mut client = connect(chain(Http2, app).await).await;
        let request = request("POST", "/shop.Cart/Add")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        stream.send_data("hello".into(), true).unwrap();
        let (length, trailers) = read(response.into_body()).await.unwrap();
        assert_eq!(length, 5);
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    });
}

#[test]
fn resets_pass_with_their_code_both_ways() {
    run(async {
        let seen = Rc::new(Cell::new(None));
        let noted = seen.clone();
        let app = app(move |request, mut respond| {
            let noted = noted.clone();
            async move {
                if request.uri().path() == "/app" {
                    respond.send_reset(Reason::ENHANCE_YOUR_CALM);
                    return;
                }
                let failed = read(request.into_body()).await.unwrap_err();
                noted.set(failed.reason());
            }
        })
        .await;
        let mut client = connect(chain(Http2, app).await).await;
        let sent = client.send_request(request("POST", "/app").body(()).unwrap(), true);
        let error = sent.unwrap().0.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));

        let sent = client.send_request(request("POST", "/client").body(()).unwrap(), false);
        let (_response, mut stream) = sent.unwrap();
        stream.send_data("x".into(), false).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_reset(Reason::CANCEL);
        while seen.get().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(seen.get(), Some(Reason::CANCEL));
    });
}

#[test]
fn a_refused_stream_is_tried_again_once() {
    run(async {
        let times = Rc::new(Cell::new(0));
        let counted = times.clone();
        let app = app(move |request, mut respond| {
            counted.set(counted.get() + 1);
            let first = counted.get() == 1;
            async move {
                let _ = read(request.into_body()).await;
                if first {
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    let stream = respond.send_response(Response::new(()), true);
                    drop(stream);
                }
            }
        })
        .await;
        let mut client = connect(outbound(Http2, app).await).await;
        let sent = client.send_request(request("POST", "/").body(()).unwrap(), false);
        let (response, mut stream) = sent.unwrap();
        stream.send_data("once more".into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        assert_eq!(times.get(), 2);
    });
}

#[test]
fn a_slow_reader_holds_the_writer_back() {
    run(async {
        let sent = Rc::new(Cell::new(0));
        let counted = sent.clone();
        let app = app(move |_request, mut respond| {
            let counted = counted.clone();
            async move {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                for _ in 0..6400 {
                    pour(&mut stream, 16 * 1024, false).await;
                    counted.set(counted.get() + 16 * 1024);
                }
                let _ = stream.send_data(Bytes::new(), true);
            }
        })
        .await;
        let mut client = connect(chain(Http2, app).await).await;
        let (response, _) = client
            .send_request(request("GET", "/").body(()).unwrap(), true)
            .unwrap();
        let response = response.await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Nothing was read: what is under way is what the windows and buffers of three hops hold.
        assert!(sent.get() < 12 * 1024 * 1024, "{} bytes", sent.get());
        let (length, _) = read(response.into_body()).await.unwrap();
        assert_eq!(length, 6400 * 16 * 1024);
    });
}

#[test]
fn a_hundred_megabytes_upload() {
    run(async {
        let app = app(|request, mut respond| async move {
            let (length, _) = read(request.into_body()).await.unwrap();
            let response = Response::builder()
                .header("x-length", length)
                .body(())
                .unwrap();
            respond.send_response(response, true).unwrap();
        })
        .await;
        let mut client = connect(chain(Http2, app).await).await;
        let sent = client.send_request(request("POST", "/").body(()).unwrap(), false);
        let (response, mut stream) = sent.unwrap();
        pour(&mut stream, 100 * 1024 * 1024, true).await;
        let response = response.await.unwrap();
        assert_eq!(response.headers()["x-length"], "104857600");
    });
}

#[test]
fn a_thousand_streams_at_once() {
    run(async {
        let waiting = Rc::new(Cell::new(0));
        let counted = waiting.clone();
        let app = app(move |_request, mut respond| {
            let counted = counted.clone();
            async move {
                counted.set(counted.get() + 1);
                while counted.get() < 1000 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                respond.send_response(Response::new(()), true).unwrap();
            }
        })
        .await;
        let client = connect(chain(Http2, app).await).await;
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let client = client.clone();
            streams.spawn_local(async move {
                let mut client = client.ready().await.unwrap();
                let sent = client.send_request(request("GET", "/").body(()).unwrap(), true);
                sent.unwrap().0.await.unwrap().status()
            });
        }
        let statuses = streams.join_all().await;
        assert!(statuses.iter().all(|status| *status == StatusCode::OK));
    });
}

/// What the inbound proxy of a meshed pod does with requests that were HTTP/1.x before they travelled over
/// mesh-h2.
#[test]
fn http1_over_http2_is_restored() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.starts_with("POST /a?b HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("host: shop\r\n"), "{head}");
            assert!(head.contains(&format!("mesh-client-id: {CALLER}\r\n")), "{head}");
            assert!(!head.contains("mesh-original-version"), "{head}");
            assert!(!head.contains("mesh-forged"), "{head}");
            text.until("hello").await;
            text.send("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
                .await;
        })
        .await;
        let proxy = inbound(Http2, app, Some(CALLER)).await;
        let mut client = connect(proxy).await;
        let request = Request::builder()
            .method("POST")
            .uri("/a?b")
            .version(http::Version::HTTP_11)
            .header("host", "shop")
            .header("content-length", "5")
            .header("mesh-original-version", "HTTP/1.1")
            .header("mesh-forged", "x")
            .body(())
            .unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data("hello".into(), true).unwrap();
        let response = response.await.unwrap();
        assert!(!response.headers().contains_key("connection"));
        assert!(!response.headers().contains_key("transfer-encoding"));
        assert_eq!(read(response.into_body()).await.unwrap().0, 2);
    });
}

#[test]
fn http_1_0_over_http2_is_restored() {
    run(async {
        let app = listen(move |tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(head.starts_with("GET /x HTTP/1.0\r\n"), "{head}");
            assert!(!head.contains("host:"), "{head}");
            text.send("HTTP/1.0 200 OK\r\n\r\nbye").await;
        })
        .await;
        let mut client = connect(inbound(Http2, app, Some(CALLER)).await).await;
        let request = Request::builder()
            .uri("/x")
            .version(http::Version::HTTP_11)
            .header("mesh-original-version", "HTTP/1.0")
            .body(())
            .unwrap();
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(read(response.into_body()).await.unwrap().0, 3);
    });
}

#[test]
fn callers_without_the_mesh_can_not_forge_who_they_are() {
    run(async {
        let app = listen(|tcp| async move {
            let mut text = Text::from(tcp);
            let head = text.head().await;
            assert!(!head.contains("mesh-"), "{head}");
            text.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
        })
        .await;
        let mut client = Text::connect(inbound(Http1, app, None).await).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nmesh-client-id: x\r\nMesh-Original-Version: HTTP/1.0\r\n\r\n")
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn an_app_that_is_down_is_told_apart() {
    run(async {
        let closed = "127.0.0.1:1".parse().unwrap();
        let mut client = connect(inbound(Http2, closed, Some(CALLER)).await).await;
        let grpc = request("POST", "/a.B/C")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let response = client.send_request(grpc, true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["mesh-not-delivered"], "true");
        assert!(response.body().is_end_stream());

        // To a caller that is not meshed it says nothing.
        let mut client = Text::connect(inbound(Http1, closed, None).await).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert!(!head.contains("mesh-not-delivered"), "{head}");
    });
}

#[test]
fn extended_connect_makes_a_tunnel() {
    run(async {
        let app = listen(|tcp| async move {
            let service = service_fn(|mut request: Request<Incoming>| async move {
                let protocol = request.extensions().get::<hyper::ext::Protocol>();
                assert_eq!(protocol.unwrap().as_str(), "websocket");
                let upgrade = hyper::upgrade::on(&mut request);
                spawn_local(async move {
                    let mut stream = TokioIo::new(upgrade.await.unwrap());
                    let mut ping = [0; 4];
                    stream.read_exact(&mut ping).await.unwrap();
                    stream.write_all(&ping).await.unwrap();
                });
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            let _ = hyper::server::conn::http2::Builder::new(Local)
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(tcp), service)
                .await;
        })
        .await;
        let tcp = TcpStream::connect(chain(Http2, app).await).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(Local, TokioIo::new(tcp))
                .await
                .unwrap();
        spawn_local(connection);
        // The client learns from the settings that extended CONNECT is there.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut request = Request::builder()
            .method("CONNECT")
            .uri("http://example/ws")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let protocol = hyper::ext::Protocol::from_static("websocket");
        request.extensions_mut().insert(protocol);
        let mut response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
        let mut stream = TokioIo::new(upgraded);
        stream.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        stream.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"ping");
    });
}

#[test]
fn a_drain_finishes_what_is_in_flight() {
    run(async {
        let app = app(|_request, mut respond| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let (trigger, drain) = drain::channel(Duration::from_secs(5));
        let mut worker = Worker::for_test(Tls::new());
        Rc::get_mut(&mut worker).unwrap().drain = drain;
        let proxy = listen(move |tcp| {
            let worker = worker.clone();
            async move {
                let target = worker.target(app);
                proxy::outbound::serve(worker, tcp.into(), CLIENT, Http2, target).await;
            }
        })
        .await;
        let mut client = connect(proxy).await;
        let sent = client.send_request(request("GET", "/").body(()).unwrap(), true);
        tokio::time::sleep(Duration::from_millis(50)).await;
        trigger.start();
        assert_eq!(sent.unwrap().0.await.unwrap().status(), StatusCode::OK);
        // The connection takes no more.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(client.ready().await.is_err());
    });
}

#[test]
fn an_authority_with_a_user_is_refused() {
    run(async {
        let mut client = connect(outbound(Http2, "127.0.0.1:1".parse().unwrap()).await).await;
        let request = Request::get("http://user@example/").body(()).unwrap();
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            response.headers()["mesh-error"],
            "the authority has user information"
        );
    });
}

/// A body whose length is known does not become chunked on the way.
#[test]
fn lengths_are_kept() {
    run(async {
        let app = listen(|tcp| async move {
            let service = service_fn(|request: Request<Incoming>| async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(Full::new(body)))
            });
            let _ = hyper::server::conn::http2::Builder::new(Local)
                .serve_connection(TokioIo::new(tcp), service)
                .await;
        })
        .await;
        let mut client = connect(chain(Http2, app).await).await;
        let request = request("POST", "/")
            .header("content-length", "3")
            .body(())
            .unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data("abc".into(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["content-length"], "3");
    });
}
