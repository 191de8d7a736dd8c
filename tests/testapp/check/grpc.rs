//! Every kind of gRPC call.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use http::Uri;
use mesh_tests::{
    echo::{Call, Chunk, echo_client::EchoClient},
    pattern::{self, Digested},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::Checks;

pub(super) async fn run(checks: &mut Checks, url: &Uri, bytes: u64) {
    let endpoint = Endpoint::from(url.clone())
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let client = EchoClient::new(endpoint.connect_lazy());
    checks
        .run("unary, with metadata both ways", unary(client.clone()))
        .await;
    checks
        .run(
            "a status with its message and metadata",
            status(client.clone()),
        )
        .await;
    checks.run("upload", upload(client.clone(), bytes)).await;
    checks
        .run("download", download(client.clone(), bytes))
        .await;
    checks
        .run("chat, 100 messages in turn", ping_pong(client.clone()))
        .await;
    checks
        .run(
            "chat, both directions at once",
            chat(client.clone(), bytes / 4),
        )
        .await;
    checks
        .run(
            "the deadline reaches the server and ends the call",
            deadline(client.clone()),
        )
        .await;
    checks
        .run("cancellation reaches the server", cancel(client.clone()))
        .await;
    checks.run("200 calls at once", many(client)).await;
}

async fn unary(mut client: EchoClient<Channel>) -> Result<String> {
    let mut request = Request::new(Call {
        note: "hello".to_owned(),
        ..Call::default()
    });
    let binary = MetadataValue::from_bytes(&[0, 255, 10, 13, 44]);
    request
        .metadata_mut()
        .insert_bin("test-bin", binary.clone());
    let response = client.unary(request).await?;
    ensure!(
        response.metadata().get_bin("test-bin") == Some(&binary),
        "metadata: {:?}",
        response.metadata()
    );
    ensure!(response.get_ref().note == "hello", "{response:?}");
    Ok(String::new())
}

async fn status(mut client: EchoClient<Channel>) -> Result<String> {
    let call = Call {
        status: Code::DataLoss as u32,
        note: "ünïcode, 100%".into(),
        ..Call::default()
    };
    let status = client
        .unary(call)
        .await
        .err()
        .context("the call went well")?;
    ensure!(status.code() == Code::DataLoss, "{status:?}");
    ensure!(status.message() == "ünïcode, 100%", "{status:?}");
    let detail = status
        .metadata()
        .get("test-detail")
        .context("the trailer was lost")?;
    ensure!(detail == "trailer", "{detail:?}");
    Ok(String::new())
}

async fn upload(mut client: EchoClient<Channel>, length: u64) -> Result<String> {
    let start = Instant::now();
    let chunks =
        tokio_stream::iter(pattern::pieces(length).map(|data| Chunk { data: data.into() }));
    let answer = client.upload(chunks).await?.into_inner();
    ensure!(answer.count == length, "{} of {length} bytes", answer.count);
    ensure!(
        answer.sha256 == pattern::sha256(length),
        "the bytes changed on their way"
    );
    Ok(rate(length, start))
}

async fn download(mut client: EchoClient<Channel>, length: u64) -> Result<String> {
    let start = Instant::now();
    let call = Call {
        bytes: length,
        ..Call::default()
    };
    let mut chunks = client.download(call).await?.into_inner();
    let mut digest = Digested::default();
    while let Some(chunk) = chunks.message().await? {
        digest.update(&chunk.data);
    }
    ensure!(digest.count == length, "{} of {length} bytes", digest.count);
    ensure!(
        digest.finish() == pattern::sha256(length),
        "the bytes changed on their way"
    );
    Ok(rate(length, start))
}

fn rate(length: u64, start: Instant) -> String {
    format!(
        "{:.0} MB/s",
        length as f64 / start.elapsed().as_secs_f64() / 1e6
    )
}

/// Each message waits for the echo of the one before: nothing may be held back.
async fn ping_pong(mut client: EchoClient<Channel>) -> Result<String> {
    let (send, receive) = mpsc::channel(1);
    send.send(Chunk { data: vec![0] }).await?;
    let mut back = client
        .chat(ReceiverStream::new(receive))
        .await?
        .into_inner();
    let start = Instant::now();
    for number in 0..100u8 {
        let chunk = back.message().await?.context("the stream ended")?;
        ensure!(
            chunk.data == [number],
            "{:?} instead of {number}",
            chunk.data
        );
        send.send(Chunk {
            data: vec![number + 1],
        })
        .await?;
    }
    drop(send);
    while back.message().await?.is_some() {}
    Ok(format!(
        "{:.2} ms per turn",
        start.elapsed().as_secs_f64() * 10.0
    ))
}

async fn chat(mut client: EchoClient<Channel>, length: u64) -> Result<String> {
    let start = Instant::now();
    let chunks =
        tokio_stream::iter(pattern::pieces(length).map(|data| Chunk { data: data.into() }));
    let mut back = client.chat(chunks).await?.into_inner();
    let mut digest = Digested::default();
    while let Some(chunk) = back.message().await? {
        digest.update(&chunk.data);
    }
    ensure!(digest.count == length, "{} of {length} bytes", digest.count);
    ensure!(
        digest.finish() == pattern::sha256(length),
        "the bytes changed on their way"
    );
    Ok(rate(length, start))
}

async fn deadline(mut client: EchoClient<Channel>) -> Result<String> {
    let mut request = Request::new(Call::default());
    request.set_timeout(Duration::from_secs(30));
    let answer = client.unary(request).await?.into_inner();
    ensure!(!answer.timeout.is_empty(), "grpc-timeout did not arrive");

    let mut request = Request::new(Call {
        delay_ms: 5000,
        ..Call::default()
    });
    request.set_timeout(Duration::from_millis(300));
    let start = Instant::now();
    let status = client
        .unary(request)
        .await
        .err()
        .context("the call went well")?;
    let waited = start.elapsed();
    ensure!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    ensure!(waited < Duration::from_secs(2), "ended after {waited:?}");
    Ok(format!(
        "{:?} after {} ms, asked for 300",
        status.code(),
        waited.as_millis()
    ))
}

async fn cancel(mut client: EchoClient<Channel>) -> Result<String> {
    let before = client.cancelled(Call::default()).await?.into_inner().count;
    let mut hanging = client.clone();
    let call = tokio::spawn(async move { hanging.hang(Call::default()).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    call.abort();
    let start = Instant::now();
    loop {
        let now = client.cancelled(Call::default()).await?.into_inner().count;
        if now > before {
            return Ok(format!("seen after {} ms", start.elapsed().as_millis()));
        }
        ensure!(
            start.elapsed() < Duration::from_secs(3),
            "the server still waits after 3 s"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn many(client: EchoClient<Channel>) -> Result<String> {
    let start = Instant::now();
    let calls = (0..200).map(|_| {
        let mut client = client.clone();
        async move {
            client
                .unary(Call {
                    delay_ms: 500,
                    ..Call::default()
                })
                .await
        }
    });
    try_join_all(calls).await?;
    Ok(format!(
        "200 calls of 0.5 s in {:.1} s",
        start.elapsed().as_secs_f64()
    ))
}
