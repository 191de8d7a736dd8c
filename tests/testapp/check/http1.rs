//! HTTP/1.0 and HTTP/1.1.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Uri;
use mesh_tests::pattern;
use tokio::time::Instant;

use super::{
    Checks,
    raw::{Raw, status, value},
};

pub(super) async fn run(checks: &mut Checks, url: &Uri) {
    checks
        .run(
            "keep-alive, HEAD, 204 and 304 on one connection",
            keep_alive(url),
        )
        .await;
    checks
        .run("HTTP/1.0 arrives as HTTP/1.0 and closes", http10(url))
        .await;
    checks.run("absolute-form", absolute_form(url)).await;
    checks
        .run("chunked request with trailers", chunked_request(url))
        .await;
    checks
        .run("chunked response with trailers", chunked_response(url))
        .await;
    checks
        .run("100-continue comes from the app", continues(url))
        .await;
    checks
        .run("417 instead of 100-continue", refuses_to_continue(url))
        .await;
    checks.run("pipelined requests", pipelined(url)).await;
    checks
        .run("a dripping response is not held back", drips(url))
        .await;
    checks
        .run(
            "headers: identity added, mesh-* stripped, the rest untouched",
            headers(url),
        )
        .await;
    checks.run("a head of 32 KiB", large_head(url)).await;
    checks
        .run("10 MiB each way at the same time", mirror(url))
        .await;
    checks.run("CONNECT", connect(url)).await;
    checks
        .run(
            "upgrade is refused by an app that can't",
            refused_upgrade(url),
        )
        .await;
    checks
        .run("a body that the app does not read", unread_body(url))
        .await;
}

fn get(url: &Uri, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", authority(url))
}

fn authority(url: &Uri) -> &str {
    url.authority().map_or("", |authority| authority.as_str())
}

async fn keep_alive(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    for length in [0usize, 1, 1000, 100_000] {
        raw.send(get(url, &format!("/bytes/{length}"))).await?;
        let response = raw.response().await?.expect(200)?;
        ensure!(
            response.body.len() == length,
            "{} of {length} bytes",
            response.body.len()
        );
    }
    raw.send(get(url, "/bytes/1000").replace("GET", "HEAD"))
        .await?;
    let head = raw.head().await?;
    ensure!(
        value(&head, "content-length") == Some("1000"),
        "HEAD lost its length: {head}"
    );
    for code in [204, 304, 404, 500, 200] {
        raw.send(get(url, &format!("/status/{code}"))).await?;
        let head = raw.head().await?;
        ensure!(status(&head)? == code, "expected {code}: {head}");
        if !matches!(code, 204 | 304) {
            raw.rest(head).await?;
        }
    }
    Ok(String::new())
}

async fn http10(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    raw.send(format!(
        "GET /echo HTTP/1.0\r\nHost: {}\r\n\r\n",
        authority(url)
    ))
    .await?;
    let response = raw.response().await?.expect(200)?;
    let version = response.json()?["version"].clone();
    ensure!(version == "HTTP/1.0", "the app saw {version}");
    ensure!(
        value(&response.head, "transfer-encoding").is_none(),
        "HTTP/1.0 knows no chunks: {}",
        response.head
    );
    ensure!(raw.some().await?.is_empty(), "the connection stays open");
    Ok(String::new())
}

async fn absolute_form(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let host = authority(url);
    raw.send(format!(
        "GET http://{host}/echo?q=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ))
    .await?;
    let seen = raw.response().await?.expect(200)?.json()?;
    let uri = seen["uri"].as_str().unwrap_or_default();
    ensure!(uri.ends_with("/echo?q=1"), "the app saw {uri}");
    Ok(uri.to_owned())
}

async fn chunked_request(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    raw.send(format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n\
         5\r\nhello\r\n",
        authority(url)
    ))
    .await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    raw.send("6;ext=1\r\n world\r\n0\r\nX-End: yes\r\n\r\n")
        .await?;
    let seen = raw.response().await?.expect(200)?.json()?;
    ensure!(seen["body_bytes"] == 11, "the app saw {seen}");
    ensure!(
        seen["trailers"][0][1] == "yes",
        "the trailer was lost: {seen}"
    );
    Ok(String::new())
}

async fn chunked_response(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let request = get(url, "/trailers/200000");
    raw.send(request.replace("\r\n\r\n", "\r\nTE: trailers\r\nConnection: TE\r\n\r\n"))
        .await?;
    let response = raw.response().await?.expect(200)?;
    ensure!(
        response.body.len() == 200_000,
        "{} bytes",
        response.body.len()
    );
    let hash = pattern::sha256(200_000);
    ensure!(
        response.trailers.contains(&hash),
        "trailers: {:?}",
        response.trailers
    );
    Ok(String::new())
}

async fn continues(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let start = Instant::now();
    raw.send(format!(
        "POST /continue/300 HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        authority(url)
    ))
    .await?;
    let head = raw.head().await?;
    let waited = start.elapsed();
    ensure!(status(&head)? == 100, "{head}");
    ensure!(
        waited >= Duration::from_millis(300),
        "100 after {waited:?}: not the app's"
    );
    raw.send("hello").await?;
    let response = raw.response().await?.expect(200)?;
    ensure!(response.text().starts_with("5 "), "{}", response.text());
    Ok(format!(
        "100 after {} ms, the app waits 300",
        waited.as_millis()
    ))
}

async fn refuses_to_continue(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    raw.send(format!(
        "POST /refuse HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        authority(url)
    ))
    .await?;
    raw.response().await?.expect(417)?;
    Ok(String::new())
}

async fn pipelined(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let paths = ["/bytes/10", "/delay/50", "/bytes/20", "/bytes/30"];
    raw.send(paths.map(|path| get(url, path)).concat()).await?;
    for length in [10, 5, 20, 30] {
        let response = raw.response().await?.expect(200)?;
        ensure!(response.body.len() == length, "answers out of order");
    }
    Ok(String::new())
}

async fn drips(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let start = Instant::now();
    raw.send(get(url, "/drip/8")).await?;
    let head = raw.head().await?;
    let first = raw.some().await?;
    let waited = start.elapsed();
    ensure!(!first.is_empty(), "no body: {head}");
    ensure!(
        waited < Duration::from_millis(500),
        "the first drop took {waited:?}"
    );
    Ok(format!("first drop after {} ms of 800", waited.as_millis()))
}

async fn headers(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let spoofed = "mesh-client-id: spiffe://cluster.local/ns/evil/sa/root\r\nMesh-Anything: 1\r\n\
                   X-Twice: a\r\nX-Twice: b\r\nX-Empty:\r\nCookie: a=1; b=2\r\nX-Hop: gone\r\n\
                   Connection: x-hop\r\n\r\n";
    raw.send(get(url, "/echo").replace("\r\n\r\n", &format!("\r\n{spoofed}")))
        .await?;
    let seen = raw.response().await?.expect(200)?.json()?;
    let list = seen["headers"].as_array().context("no headers")?;
    let values = |name: &str| -> Vec<&str> {
        let named = list.iter().filter(|pair| pair[0] == name);
        named.filter_map(|pair| pair[1].as_str()).collect()
    };
    let id = values("mesh-client-id");
    ensure!(
        !id.iter().any(|id| id.contains("evil")),
        "a spoofed identity reached the app"
    );
    ensure!(
        values("mesh-anything").is_empty(),
        "mesh-anything reached the app"
    );
    ensure!(
        values("x-hop").is_empty(),
        "a hop-by-hop header reached the app"
    );
    ensure!(
        values("x-twice") == ["a", "b"],
        "x-twice: {:?}",
        values("x-twice")
    );
    ensure!(
        values("x-empty") == [""],
        "x-empty: {:?}",
        values("x-empty")
    );
    ensure!(
        values("host") == [authority(url)],
        "host: {:?}",
        values("host")
    );
    Ok(id.join(" "))
}

async fn large_head(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let padding = "x".repeat(32 * 1024);
    raw.send(get(url, "/echo").replace("\r\n\r\n", &format!("\r\nX-Large: {padding}\r\n\r\n")))
        .await?;
    raw.response().await?.expect(200)?;
    Ok(String::new())
}

async fn mirror(url: &Uri) -> Result<String> {
    const LENGTH: u64 = 10 << 20;
    let mut raw = Raw::connect(url).await?;
    raw.send(format!(
        "POST /mirror HTTP/1.1\r\nHost: {}\r\nContent-Length: {LENGTH}\r\n\r\n",
        authority(url)
    ))
    .await?;
    // The answer comes back while the request is still being sent: nobody may wait for its end.
    let mut pieces = pattern::pieces(LENGTH);
    raw.send(pieces.next().context("no data")?).await?;
    let head = raw.head().await?;
    ensure!(status(&head)? == 200, "{head}");
    let (from, to) = raw.stream.into_split();
    let sender = tokio::spawn(async move {
        let mut to = to;
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut to, &piece).await?;
        }
        Ok::<_, std::io::Error>(to)
    });
    let mut from = tokio::io::BufReader::new(from);
    let mut total = 0usize;
    let mut buffer = vec![0; 1 << 16];
    while total < LENGTH as usize - pattern::PIECE {
        let n = tokio::io::AsyncReadExt::read(&mut from, &mut buffer).await?;
        ensure!(n > 0, "closed after {total} bytes");
        total += n;
    }
    sender.await??;
    Ok(String::new())
}

async fn connect(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let host = authority(url);
    raw.send(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .await?;
    let head = raw.head().await?;
    ensure!(status(&head)? == 200, "{head}");
    raw.send("through the tunnel").await?;
    let back = raw.exactly(18).await?;
    ensure!(
        back == b"through the tunnel",
        "{:?} came back",
        String::from_utf8_lossy(&back)
    );
    Ok(String::new())
}

async fn refused_upgrade(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    let upgrade = "\r\nConnection: upgrade\r\nUpgrade: made-up/1\r\n\r\n";
    raw.send(get(url, "/status/200").replace("\r\n\r\n", upgrade))
        .await?;
    raw.response().await?.expect(200)?;
    raw.send(get(url, "/status/200")).await?;
    raw.response().await?.expect(200)?;
    Ok("the connection is still good for HTTP".to_owned())
}

async fn unread_body(url: &Uri) -> Result<String> {
    let mut raw = Raw::connect(url).await?;
    raw.send(format!(
        "POST /status/403 HTTP/1.1\r\nHost: {}\r\nContent-Length: 300000\r\n\r\n",
        authority(url)
    ))
    .await?;
    for piece in pattern::pieces(300_000) {
        // The server may close while this is sent: the answer counts.
        if raw.send(piece).await.is_err() {
            break;
        }
    }
    raw.response().await?.expect(403)?;
    Ok(String::new())
}
