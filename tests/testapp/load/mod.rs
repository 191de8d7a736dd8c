//! Load at a fixed rate, open loop: latency counts from the moment at which a request was due, so that a
//! stall is seen by every request that it delays.

mod grpc;
mod http;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use ::http::Uri;
use anyhow::Result;
use clap::ValueEnum;
use mesh_tests::report::{Load, Second};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep_until},
};

#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    #[arg(long, value_enum, default_value = "get")]
    kind: Kind,
    /// Where to send: for gRPC without a path.
    #[arg(long)]
    url: Uri,
    /// Requests per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Keep-alive connections, or gRPC channels.
    #[arg(long, default_value_t = 16)]
    connections: u32,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// HTTP/1.1 keep-alive GETs.
    Get,
    /// HTTP/1.1 POSTs, each with an id of its own.
    Post,
    /// Unary gRPC calls.
    Grpc,
}

/// What came of one request.
enum Outcome {
    Ok {
        replica: String,
    },
    Failed {
        replica: Option<String>,
        cause: String,
    },
}

/// Sends requests until the time is over; a line "started" on standard error tells when it begins.
pub(crate) async fn run(args: Args) -> Result<Load> {
    let total = (f64::from(args.rate) * args.seconds) as u64;
    let plan = Rc::new(Plan {
        start: Instant::now() + Duration::from_millis(50),
        rate: args.rate,
        total,
        next: RefCell::new(0),
        results: RefCell::default(),
    });
    eprintln!("started");
    let workers = LocalSet::new();
    for _ in 0..args.connections {
        let (plan, args) = (Rc::clone(&plan), args.clone());
        match args.kind {
            Kind::Get | Kind::Post => {
                workers.spawn_local(http::worker(plan, args.url, args.kind == Kind::Post));
            }
            Kind::Grpc => {
                let channel = grpc::channel(&args.url)?;
                // A channel carries many calls at once: four workers share each.
                for _ in 0..4 {
                    workers.spawn_local(grpc::worker(Rc::clone(&plan), channel.clone()));
                }
            }
        }
    }
    workers.await;
    Ok(plan.report())
}

/// The schedule that the workers share, and their results.
struct Plan {
    start: Instant,
    rate: u32,
    total: u64,
    next: RefCell<u64>,
    results: RefCell<Vec<(u64, Duration, Outcome)>>,
}

/// One request of the plan.
struct Due {
    number: u64,
    at: Instant,
}

impl Plan {
    /// Waits until the next request is due; `None` when the plan is done.
    async fn next(&self) -> Option<Due> {
        let number = *self.next.borrow();
        if number >= self.total {
            return None;
        }
        *self.next.borrow_mut() += 1;
        let offset = Duration::from_secs_f64(number as f64 / f64::from(self.rate));
        let at = self.start + offset;
        sleep_until(at).await;
        Some(Due { number, at })
    }

    fn done(&self, due: &Due, outcome: Outcome) {
        let latency = due.at.elapsed();
        self.results
            .borrow_mut()
            .push((due.number, latency, outcome));
    }

    fn report(&self) -> Load {
        let mut load = Load::default();
        let mut all = Vec::new();
        let mut by_second: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
        for (number, latency, outcome) in self.results.borrow().iter() {
            let second = (number / u64::from(self.rate)) as usize;
            if load.seconds.len() <= second {
                load.seconds.resize_with(second + 1, Second::default);
            }
            let row = &mut load.seconds[second];
            load.sent += 1;
            match outcome {
                Outcome::Ok { replica } => {
                    load.ok += 1;
                    row.ok += 1;
                    *load.replicas.entry(replica.clone()).or_default() += 1;
                    *row.replicas.entry(replica.clone()).or_default() += 1;
                    all.push(*latency);
                    by_second.entry(second).or_default().push(*latency);
                }
                Outcome::Failed { replica, cause } => {
                    load.failed += 1;
                    row.failed += 1;
                    *load.errors.entry(cause.clone()).or_default() += 1;
                    if let Some(replica) = replica {
                        *row.replicas.entry(replica.clone()).or_default() += 1;
                    }
                }
            }
        }
        for (second, mut latencies) in by_second {
            load.seconds[second].p95_ms = quantile(&mut latencies, 0.95);
        }
        load.p50_ms = quantile(&mut all, 0.5);
        load.p95_ms = quantile(&mut all, 0.95);
        load.p99_ms = quantile(&mut all, 0.99);
        load.max_ms = quantile(&mut all, 1.0);
        load
    }
}

fn quantile(latencies: &mut [Duration], q: f64) -> f64 {
    latencies.sort_unstable();
    let rank = (latencies.len() as f64 * q).ceil() as usize;
    let latency = latencies.get(rank.max(1) - 1).copied().unwrap_or_default();
    latency.as_secs_f64() * 1000.0
}
