//! HTTP/2 with prior knowledge: many streams on one connection.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

use super::{LoadArgs, Tally};

/// `concurrency` streams in flight until the time is over.
pub(super) async fn closed(args: &LoadArgs, length: Duration) -> anyhow::Result<Tally> {
    let stream = TcpStream::connect(args.address)
        .await
        .with_context(|| format!("connecting to {}", args.address))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .handshake::<_, Bytes>(stream)
        .await?;
    tokio::task::spawn_local(connection);
    let end = Instant::now() + length;
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let (sender, uri) = (
            sender.clone(),
            format!("http://{}{}", args.address, args.path),
        );
        workers.spawn_local(async move {
            let mut tally = Tally::default();
            while Instant::now() < end {
                let start = Instant::now();
                match request(sender.clone(), &uri).await {
                    Ok(body) => tally.done(start.elapsed(), body),
                    Err(_) => tally.errors += 1,
                }
            }
            tally
        });
    }
    let mut total = Tally::default();
    while let Some(tally) = workers.join_next().await {
        total.add(tally?);
    }
    Ok(total)
}

async fn request(sender: h2::client::SendRequest<Bytes>, uri: &str) -> anyhow::Result<usize> {
    let request = Request::get(uri).body(())?;
    let (response, _) = sender.ready().await?.send_request(request, true)?;
    let (head, mut body) = response.await?.into_parts();
    anyhow::ensure!(head.status == 200, "answered {}", head.status);
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        length += chunk.len();
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok(length)
}
