//! Faults of one replica that tests switch on and off while it runs.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Applied to every HTTP request and gRPC call but the ones for the test itself.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Faults {
    pub(crate) delay_ms: u64,
    /// Answer with this HTTP status (gRPC: UNAVAILABLE); 0: answer well.
    pub(crate) status: u16,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The port of the HTTP server in this pod.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    #[arg(long, default_value_t = 0)]
    status: u16,
}

/// Tells the server in this pod over loopback, which is never redirected.
pub(crate) async fn change(args: Args) -> Result<()> {
    let body = serde_json::to_string(&Faults {
        delay_ms: args.delay_ms,
        status: args.status,
    })?;
    let mut stream = TcpStream::connect(("127.0.0.1", args.port)).await?;
    let request = format!(
        "POST /faults HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "the server said {answer}"
    );
    Ok(())
}
