//! The load generator: runs in the client's namespace as a process of its own, prints one JSON report.
//!
//! A closed loop sends the next request when the last one is answered: it measures the cost at
//! saturation. An open loop sends on a schedule and measures from the *intended* send time, so that a
//! stall of the proxy counts for every request that should have been sent meanwhile.

mod http1;
mod http2;

use std::{net::SocketAddr, time::Duration};

use mesh_api::Sketch;
use serde::{Deserialize, Serialize};

/// What to send.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct LoadArgs {
    /// Where to connect.
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Path of the request.
    #[arg(long, default_value = "/small")]
    pub(crate) path: String,
    /// How requests are sent.
    #[arg(long, value_enum)]
    pub(crate) mode: Mode,
    /// Connections (for `h2`: streams on one connection).
    #[arg(long, default_value_t = 50)]
    pub(crate) concurrency: usize,
    /// Requests per second of the open loop.
    #[arg(long, default_value_t = 1000)]
    pub(crate) rate: u64,
    /// Measured time, seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
}

/// How requests are sent.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// HTTP/1.1 keep-alive connections, each with one request in flight.
    Closed,
    /// HTTP/1.1 keep-alive connections at a fixed rate.
    Open,
    /// A new HTTP/1.1 connection for every request.
    Connect,
    /// HTTP/2 streams on one connection.
    H2,
}

/// What was measured.
#[derive(Serialize, Deserialize, Debug, Default, Clone)]
pub(crate) struct LoadReport {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) body_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// Runs the load and prints the report as one line of JSON.
pub(crate) fn run(args: &LoadArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    let tally = tasks.block_on(&runtime, async {
        let length = Duration::from_secs_f64(args.seconds);
        match args.mode {
            Mode::Closed => http1::closed(args, length).await,
            Mode::Open => http1::open(args, length).await,
            Mode::Connect => http1::connect(args, length).await,
            Mode::H2 => http2::closed(args, length).await,
        }
    })?;
    println!("{}", serde_json::to_string(&tally.report(args.seconds))?);
    Ok(())
}

/// Counts of one connection or of all.
#[derive(Default)]
struct Tally {
    errors: u64,
    body_bytes: u64,
    latency: Sketch,
}

impl Tally {
    fn done(&mut self, latency: Duration, body_bytes: usize) {
        self.latency.record(latency.as_micros() as u64);
        self.body_bytes += body_bytes as u64;
    }

    fn add(&mut self, other: &Self) {
        self.errors += other.errors;
        self.body_bytes += other.body_bytes;
        self.latency.merge(&(&other.latency).into());
    }

    fn report(&self, seconds: f64) -> LoadReport {
        LoadReport {
            requests: self.latency.count(),
            errors: self.errors,
            body_bytes: self.body_bytes,
            seconds,
            p50_us: self.latency.quantile(0.50).unwrap_or(0),
            p99_us: self.latency.quantile(0.99).unwrap_or(0),
        }
    }
}
