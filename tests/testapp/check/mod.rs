//! Checks of everything that a proxy may break without failing a request.

mod grpc;
mod http1;
mod http2;
pub(crate) mod raw;
mod tcp;
mod websocket;

use std::{future::Future, time::Duration};

use anyhow::Result;
use clap::Subcommand;
use http::Uri;
use mesh_tests::report::Check;
use tokio::time::{Instant, timeout};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// HTTP/1.0 and HTTP/1.1, written by hand.
    Http1 { url: Uri },
    /// HTTP/2 with prior knowledge: streams, trailers, resets, a tunnel.
    Http2 {
        url: Uri,
        /// Concurrent streams on one connection.
        #[arg(long, default_value_t = 1000)]
        streams: u32,
    },
    /// Every kind of gRPC call.
    Grpc {
        url: Uri,
        /// Bytes each way.
        #[arg(long, default_value_t = 100 << 20)]
        bytes: u64,
    },
    /// WebSocket messages.
    Websocket { url: Uri },
    /// Echo, server speaks first, half-close, reset.
    Tcp(tcp::Args),
}

pub(crate) async fn run(command: Command) -> Result<Vec<Check>> {
    let mut checks = Checks::default();
    match command {
        Command::Http1 { url } => http1::run(&mut checks, &url).await,
        Command::Http2 { url, streams } => http2::run(&mut checks, &url, streams).await,
        Command::Grpc { url, bytes } => grpc::run(&mut checks, &url, bytes).await,
        Command::Websocket { url } => websocket::run(&mut checks, &url).await,
        Command::Tcp(args) => tcp::run(&mut checks, &args).await,
    }
    Ok(checks.done)
}

/// Runs checks one after the other and goes on after a failure.
#[derive(Default)]
struct Checks {
    done: Vec<Check>,
}

impl Checks {
    /// A check gives a figure or an error; longer than 60 s is an error.
    async fn run(&mut self, name: &str, check: impl Future<Output = Result<String>>) {
        let start = Instant::now();
        let result = match timeout(Duration::from_secs(60), check).await {
            Ok(result) => result.map_err(|error| format!("{error:#}")),
            Err(_) => Err("not done in 60 s".to_owned()),
        };
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        let (error, detail) = match result {
            Ok(detail) => (None, detail),
            Err(error) => (Some(error), String::new()),
        };
        self.done.push(Check {
            name: name.to_owned(),
            error,
            detail,
            ms,
        });
    }
}
