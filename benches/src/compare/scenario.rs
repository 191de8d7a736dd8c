//! The kinds of work that are compared, one table each.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::{
    peer::{APP_H2_PORT, APP_PORT, Running},
    topology::Pod,
};
use crate::load::LoadReport;

/// One kind of work.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// Word on the command line and heading of the table.
    pub(super) name: &'static str,
    /// What it is, in a sentence.
    pub(super) what: &'static str,
    mode: &'static str,
    path: &'static str,
    port: u16,
    concurrency: usize,
    seconds: f64,
}

/// Figures of one run.
#[derive(Serialize, Clone, Debug)]
pub(super) struct Measured {
    pub(super) requests_per_s: f64,
    pub(super) errors: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    /// Both proxies together, microseconds of CPU per request.
    pub(super) cpu_us: f64,
    /// Both proxies together, CPU seconds per gigabyte of bodies.
    pub(super) cpu_s_per_gb: f64,
    /// Resident after the run, bytes: outbound and inbound proxy.
    pub(super) rss: [u64; 2],
    /// Milliseconds from the proxies' start to the first answer.
    pub(super) ready_ms: f64,
}

const ALL: [Scenario; 5] = [
    Scenario {
        name: "h1",
        what: "HTTP/1.1, 50 connections, closed loop, 1 KB bodies",
        mode: "closed",
        path: "/small",
        port: APP_PORT,
        concurrency: 50,
        seconds: 8.0,
    },
    Scenario {
        name: "open",
        what: "HTTP/1.1, 1000 requests/s on 50 connections, open loop, latency from the intended send time",
        mode: "open",
        path: "/small",
        port: APP_PORT,
        concurrency: 50,
        seconds: 8.0,
    },
    Scenario {
        name: "h2",
        what: "HTTP/2, 64 streams on one connection, closed loop, 1 KB bodies",
        mode: "h2",
        path: "/small",
        port: APP_H2_PORT,
        concurrency: 64,
        seconds: 8.0,
    },
    Scenario {
        name: "bulk",
        what: "HTTP/1.1, 8 connections, closed loop, 100 KB bodies",
        mode: "closed",
        path: "/large",
        port: APP_PORT,
        concurrency: 8,
        seconds: 8.0,
    },
    Scenario {
        name: "connect",
        what: "a new HTTP/1.1 connection for every request, 10 at a time",
        mode: "connect",
        path: "/small",
        port: APP_PORT,
        concurrency: 10,
        seconds: 5.0,
    },
];

impl Scenario {
    /// The scenarios with these names; all for an empty list.
    pub(super) fn named(names: &[String], quick: bool) -> anyhow::Result<Vec<Self>> {
        if let Some(name) = names
            .iter()
            .find(|name| ALL.iter().all(|s| s.name != name.as_str()))
        {
            bail!(
                "no scenario is called {name:?}: known are {}",
                ALL.map(|s| s.name).join(", ")
            );
        }
        let mut chosen: Vec<_> = ALL.to_vec();
        chosen.retain(|s| names.is_empty() || names.iter().any(|name| name == s.name));
        if quick {
            chosen.iter_mut().for_each(|s| s.seconds = 3.0);
        }
        Ok(chosen)
    }

    /// Warms up for a second, then measures.
    pub(super) fn run(&self, running: &mut Running) -> anyhow::Result<Measured> {
        self.load(running, 1.0)?;
        let before = running.usage()?;
        let report = self.load(running, self.seconds)?;
        let after = running.usage()?;
        let cpu_ns: u64 = before
            .iter()
            .zip(&after)
            .map(|(b, a)| a.cpu_ns - b.cpu_ns)
            .sum();
        if report.requests == 0 {
            bail!("no request was answered ({} errors)", report.errors);
        }
        Ok(Measured {
            requests_per_s: report.requests as f64 / report.seconds,
            errors: report.errors,
            p50_us: report.p50_us,
            p99_us: report.p99_us,
            cpu_us: cpu_ns as f64 / 1e3 / report.requests as f64,
            cpu_s_per_gb: cpu_ns as f64 / report.body_bytes.max(1) as f64,
            rss: after.map(|usage| usage.rss),
            ready_ms: running.ready.as_secs_f64() * 1e3,
        })
    }

    fn load(&self, running: &Running, seconds: f64) -> anyhow::Result<LoadReport> {
        let generator = std::env::current_exe()?;
        let output = Pod::Client
            .command(&generator.to_string_lossy())
            .args([
                "load",
                "--address",
                &SocketAddr::new(running.target, self.port).to_string(),
            ])
            .args(["--path", self.path, "--mode", self.mode])
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(["--seconds", &seconds.to_string()])
            .output()
            .context("starting the load generator")?;
        if !output.status.success() {
            bail!(
                "the load generator: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
