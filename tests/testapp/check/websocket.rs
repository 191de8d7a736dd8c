//! WebSocket over HTTP/1.1 Upgrade.

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::Checks;

pub(super) async fn run(checks: &mut Checks, url: &Uri) {
    checks
        .run("messages of 0 B to 1 MiB come back", echo(url))
        .await;
    checks.run("the close handshake", close(url)).await;
}

fn address(url: &Uri) -> String {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    format!("ws://{authority}/ws")
}

async fn echo(url: &Uri) -> Result<String> {
    let (mut socket, _) = connect_async(address(url)).await?;
    for length in [0usize, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let message = Message::binary(vec![length as u8; length]);
        socket.send(message.clone()).await?;
        let back = socket.next().await.context("closed")??;
        ensure!(
            back == message,
            "{length} bytes came back as {}",
            back.len()
        );
    }
    socket.send(Message::text("grüße")).await?;
    let back = socket.next().await.context("closed")??;
    ensure!(back == Message::text("grüße"), "{back:?}");
    Ok(String::new())
}

async fn close(url: &Uri) -> Result<String> {
    let (mut socket, _) = connect_async(address(url)).await?;
    socket.send(Message::text("x")).await?;
    socket.next().await.context("closed")??;
    socket.close(None).await?;
    while let Some(message) = socket.next().await {
        if let Ok(Message::Close(_)) = message {
            return Ok(String::new());
        }
    }
    // tungstenite ends the stream when both sides have said close.
    Ok(String::new())
}
