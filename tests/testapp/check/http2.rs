//! HTTP/2 with prior knowledge, on the h2 crate: it shows resets and flow control as they are.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, SendRequest},
    ext::Protocol,
};
use http::{HeaderMap, Method, Request, Response, Uri};
use mesh_tests::pattern::{self, Digested};
use tokio::{net::TcpStream, time::Instant};

use super::{Checks, raw};

pub(super) async fn run(checks: &mut Checks, url: &Uri, streams: u32) {
    checks.run("HTTP/2 arrives as HTTP/2", version(url)).await;
    checks
        .run(&format!("{streams} concurrent streams"), many(url, streams))
        .await;
    checks.run("response trailers", trailers(url)).await;
    checks.run("request trailers", request_trailers(url)).await;
    checks
        .run(
            "20 MB each way at the same time, with flow control",
            mirror(url),
        )
        .await;
    checks
        .run(
            "a slow reader does not stop its neighbours",
            slow_reader(url),
        )
        .await;
    checks
        .run("a cancelled stream does not hurt the next", cancel(url))
        .await;
    checks
        .run("extended CONNECT (RFC 8441)", extended_connect(url))
        .await;
    checks.run("HEAD and 204", without_body(url)).await;
}

async fn connect(url: &Uri) -> Result<SendRequest<Bytes>> {
    let (host, port) = (url.host().unwrap_or_default(), url.port_u16().unwrap_or(80));
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(sender.ready().await?)
}

fn request(url: &Uri, method: Method, path: &str) -> Result<Request<()>> {
    let authority = url.authority().context("a URL without a host")?;
    let uri = format!("http://{authority}{path}");
    Ok(Request::builder().method(method).uri(uri).body(())?)
}

/// Sends a request without a body and reads the whole answer.
async fn fetch(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
) -> Result<(Response<()>, Vec<u8>, HeaderMap)> {
    let mut sender = sender.clone().ready().await?;
    let (response, _) = sender.send_request(request, true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok((Response::from_parts(head, ()), bytes, trailers))
}

async fn version(url: &Uri) -> Result<String> {
    let sender = connect(url).await?;
    let (_, body, _) = fetch(&sender, request(url, Method::GET, "/echo")?).await?;
    let seen: serde_json::Value = serde_json::from_slice(&body)?;
    ensure!(
        seen["version"] == "HTTP/2.0",
        "the app saw {}",
        seen["version"]
    );
    Ok(String::new())
}

async fn many(url: &Uri, streams: u32) -> Result<String> {
    let sender = connect(url).await?;
    let start = Instant::now();
    let calls = (0..streams).map(|_| async {
        let (response, _, _) = fetch(&sender, request(url, Method::GET, "/delay/1000")?).await?;
        ensure!(response.status() == 200, "{response:?}");
        anyhow::Ok(())
    });
    try_join_all(calls).await?;
    Ok(format!(
        "{streams} streams of 1 s in {:.1} s",
        start.elapsed().as_secs_f64()
    ))
}

async fn trailers(url: &Uri) -> Result<String> {
    let sender = connect(url).await?;
    let (_, body, trailers) = fetch(&sender, request(url, Method::GET, "/trailers/70000")?).await?;
    ensure!(body.len() == 70_000, "{} bytes", body.len());
    let hash = trailers.get("x-sha256").context("the trailer was lost")?;
    ensure!(
        hash.as_bytes() == pattern::sha256(70_000).as_bytes(),
        "{hash:?}"
    );
    Ok(String::new())
}

async fn request_trailers(url: &Uri) -> Result<String> {
    let mut sender = connect(url).await?;
    let (response, mut body) = sender.send_request(request(url, Method::POST, "/echo")?, false)?;
    body.send_data(Bytes::from_static(b"hello"), false)?;
    body.send_trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("x-end"),
        http::HeaderValue::from_static("yes"),
    )]))?;
    let seen: serde_json::Value = serde_json::from_slice(&collect(response.await?).await?)?;
    ensure!(seen["trailers"][0][1] == "yes", "the app saw {seen}");
    Ok(String::new())
}

async fn mirror(url: &Uri) -> Result<String> {
    const LENGTH: u64 = 20_000_000;
    let mut sender = connect(url).await?;
    let start = Instant::now();
    let (response, body) = sender.send_request(request(url, Method::POST, "/mirror")?, false)?;
    let upwards = tokio::spawn(upload(body, LENGTH));
    let mut back = response.await?.into_body();
    let hash = read(&mut back).await?;
    upwards.await??;
    ensure!(
        hash == pattern::sha256(LENGTH),
        "the bytes changed on their way"
    );
    let rate = LENGTH as f64 / start.elapsed().as_secs_f64() / 1e6;
    Ok(format!("{rate:.0} MB/s each way"))
}

async fn upload(mut body: SendStream<Bytes>, length: u64) -> Result<()> {
    for mut piece in pattern::pieces(length) {
        while !piece.is_empty() {
            body.reserve_capacity(piece.len());
            let window = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
            let granted = window.context("the stream was closed")??;
            body.send_data(piece.split_to(granted.min(piece.len())), false)?;
        }
    }
    Ok(body.send_data(Bytes::new(), true)?)
}

async fn read(body: &mut RecvStream) -> Result<String> {
    let mut digest = Digested::default();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        digest.update(&data);
    }
    Ok(digest.finish())
}

async fn slow_reader(url: &Uri) -> Result<String> {
    let mut sender = connect(url).await?;
    // Never read: its window fills up. The window of the connection is larger and must not.
    let (stalled, _) = sender.send_request(request(url, Method::GET, "/bytes/50000000")?, true)?;
    let stalled = stalled.await?;
    let start = Instant::now();
    for _ in 0..20 {
        let (_, body, _) = fetch(&sender, request(url, Method::GET, "/bytes/10000")?).await?;
        ensure!(body.len() == 10_000, "{} bytes", body.len());
    }
    drop(stalled);
    Ok(format!(
        "20 requests beside it in {} ms",
        start.elapsed().as_millis()
    ))
}

async fn cancel(url: &Uri) -> Result<String> {
    let mut sender = connect(url).await?;
    for _ in 0..20 {
        let (response, mut body) =
            sender.send_request(request(url, Method::POST, "/mirror")?, false)?;
        body.send_data(Bytes::from_static(b"x"), false)?;
        let response = response.await?;
        body.send_reset(Reason::CANCEL);
        drop(response);
    }
    let (response, _, _) = fetch(&sender, request(url, Method::GET, "/bytes/1")?).await?;
    ensure!(response.status() == 200, "{response:?}");
    Ok(String::new())
}

async fn extended_connect(url: &Uri) -> Result<String> {
    let mut sender = connect(url).await?;
    // The server's SETTINGS say whether it can; they may come after the first response.
    for _ in 0..20 {
        if sender.is_extended_connect_protocol_enabled() {
            break;
        }
        fetch(&sender, request(url, Method::GET, "/bytes/1")?).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if !sender.is_extended_connect_protocol_enabled() {
        bail!("SETTINGS_ENABLE_CONNECT_PROTOCOL is not offered");
    }
    let mut request = request(url, Method::CONNECT, "/ws")?;
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (response, mut body) = sender.send_request(request, false)?;
    let response = response.await?;
    ensure!(response.status() == 200, "{response:?}");
    // A masked text frame "hi" with mask 0 (RFC 6455, section 5.2), and its echo without a mask.
    body.send_data(
        Bytes::from_static(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']),
        false,
    )?;
    let mut back = response.into_body();
    let data = back.data().await.context("the tunnel closed")??;
    ensure!(data.as_ref() == [0x81, 2, b'h', b'i'], "{data:?} came back");
    body.send_reset(Reason::CANCEL);
    Ok(String::new())
}

async fn without_body(url: &Uri) -> Result<String> {
    let sender = connect(url).await?;
    let (response, body, _) = fetch(&sender, request(url, Method::HEAD, "/bytes/1000")?).await?;
    ensure!(body.is_empty(), "HEAD has a body");
    ensure!(
        response
            .headers()
            .get("content-length")
            .is_some_and(|length| length == "1000"),
        "HEAD lost its length: {response:?}"
    );
    let (response, body, _) = fetch(&sender, request(url, Method::GET, "/status/204")?).await?;
    ensure!(response.status() == 204 && body.is_empty(), "{response:?}");
    // And HTTP/1 still works beside it.
    let mut http1 = raw::Raw::connect(url).await?;
    http1
        .send("GET /bytes/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    http1.response().await?.expect(200)?;
    Ok(String::new())
}

async fn collect(response: Response<RecvStream>) -> Result<Vec<u8>> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
