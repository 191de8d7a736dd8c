//! The load generator: runs in the client's namespace as a process of its own, prints one JSON report.
//!
//! A closed loop sends the next request when the last one is answered: it measures the cost at
//! saturation. An open loop sends on a schedule and measures from the *intended* send time, so that a
//! stall of the proxy counts for every request that should have been sent meanwhile.

mod connection;
mod hold;
mod http1;
mod http2;

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// Linux waits so long before it acknowledges a segment alone (`TCP_DELACK_MIN`).
const DELAYED_US: u32 = 40_000;

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
    /// HTTP/1.1 keep-alive connections; POSTs whose head and body leave in segments of their own.
    Post,
    /// One request on each of many connections, which then stay open until the input ends.
    Hold,
    /// Asks until there is an answer.
    First,
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
    /// Requests that took 40 ms or more: what Linux delays an acknowledgement by, at least.
    pub(crate) delayed: u64,
}

/// Runs the load and prints the report as one line of JSON.
pub(crate) fn run(args: &LoadArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    let length = Duration::from_secs_f64(args.seconds);
    let tally = tasks.block_on(&runtime, async {
        match args.mode {
            Mode::Closed => http1::closed(args, length).await.map(Some),
            Mode::Open => http1::open(args, length).await.map(Some),
            Mode::Connect => http1::connect(args, length).await.map(Some),
            Mode::Post => http1::post(args, length).await.map(Some),
            Mode::H2 => http2::closed(args, length).await.map(Some),
            Mode::Hold => hold::hold(args).await.map(|()| None),
            Mode::First => hold::first_answer(args, length).await.map(|()| None),
        }
    })?;
    if let Some(mut tally) = tally {
        println!("{}", serde_json::to_string(&tally.report(args.seconds))?);
    }
    Ok(())
}

/// Counts of one connection or of all.
#[derive(Default)]
struct Tally {
    errors: u64,
    body_bytes: u64,
    /// Microseconds, one by one: a percentile of buckets would hide a difference of a few per cent.
    latencies: Vec<u32>,
}

impl Tally {
    fn done(&mut self, latency: Duration, body_bytes: usize) {
        self.latencies
            .push(latency.as_micros().try_into().unwrap_or(u32::MAX));
        self.body_bytes += body_bytes as u64;
    }

    fn add(&mut self, mut other: Self) {
        self.errors += other.errors;
        self.body_bytes += other.body_bytes;
        self.latencies.append(&mut other.latencies);
    }

    fn report(&mut self, seconds: f64) -> LoadReport {
        self.latencies.sort_unstable();
        let sorted = &self.latencies;
        let quantile = |q: f64| {
            let index = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
            sorted.get(index).copied().unwrap_or(0).into()
        };
        LoadReport {
            requests: sorted.len() as u64,
            errors: self.errors,
            body_bytes: self.body_bytes,
            seconds,
            p50_us: quantile(0.50),
            p99_us: quantile(0.99),
            delayed: (sorted.len() - sorted.partition_point(|us| *us < DELAYED_US)) as u64,
        }
    }
}
