//! The kinds of work that are compared, one table each.

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::{
    peer::{APP_H2_PORT, APP_PORT},
    running::Running,
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
    /// Requests that took 40 ms or more: the kernel's delayed acknowledgement, most likely.
    pub(super) delayed: u64,
    /// Both proxies together, microseconds of CPU per request.
    pub(super) cpu_us: f64,
    /// Both proxies together, CPU seconds per gigabyte of bodies.
    pub(super) cpu_s_per_gb: f64,
    /// Resident at the end of the load, bytes: outbound and inbound proxy.
    pub(super) rss: [u64; 2],
}

const H1: Scenario = Scenario {
    name: "h1",
    what: "HTTP/1.1, 50 connections, closed loop, 1 KB bodies",
    mode: "closed",
    path: "/small",
    port: APP_PORT,
    concurrency: 50,
    seconds: 8.0,
};

/// In this order. `h1` stands first: what is resident after it, is what the others had no part in.
const ALL: [Scenario; 7] = [
    H1,
    Scenario {
        name: "open",
        what: "HTTP/1.1, 1000 requests/s on 50 connections, open loop, latency from the intended send time",
        mode: "open",
        ..H1
    },
    Scenario {
        name: "h2",
        what: "HTTP/2, 64 streams on one connection, closed loop, 1 KB bodies",
        mode: "h2",
        port: APP_H2_PORT,
        concurrency: 64,
        ..H1
    },
    Scenario {
        name: "bulk",
        what: "HTTP/1.1, 8 connections, closed loop, 100 KB bodies",
        path: "/large",
        concurrency: 8,
        ..H1
    },
    Scenario {
        name: "connect",
        what: "a new HTTP/1.1 connection for every request, 10 at a time",
        mode: "connect",
        concurrency: 10,
        ..H1
    },
    Scenario {
        name: "post",
        what: "HTTP/1.1, 1 connection, 1 KB bodies both ways, the request's head and body in two segments",
        mode: "post",
        path: "/post",
        concurrency: 1,
        seconds: 4.0,
        ..H1
    },
    Scenario {
        name: "busy",
        what: "HTTP/1.1, 1000 connections, closed loop, 1 KB bodies",
        concurrency: 1000,
        ..H1
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
            chosen
                .iter_mut()
                .for_each(|s| s.seconds = s.seconds.min(2.0));
        }
        Ok(chosen)
    }

    /// Warms up, then measures.
    pub(super) fn run(&self, running: &mut Running) -> anyhow::Result<Measured> {
        self.load(running, (self.seconds / 8.0).max(0.5))?;
        let before = running.usage()?;
        let report = self.load(running, self.seconds)?;
        let after = running.usage()?;
        let cpu_ns: u64 = before
            .iter()
            .zip(&after)
            .map(|(b, a)| a.cpu_ns.saturating_sub(b.cpu_ns))
            .sum();
        if report.requests == 0 {
            bail!("no request was answered ({} errors)", report.errors);
        }
        Ok(Measured {
            requests_per_s: report.requests as f64 / report.seconds,
            errors: report.errors,
            p50_us: report.p50_us,
            p99_us: report.p99_us,
            delayed: report.delayed,
            cpu_us: cpu_ns as f64 / 1e3 / report.requests as f64,
            cpu_s_per_gb: cpu_ns as f64 / report.body_bytes.max(1) as f64,
            rss: after.map(|usage| usage.rss),
        })
    }

    fn load(&self, running: &Running, seconds: f64) -> anyhow::Result<LoadReport> {
        let (concurrency, seconds) = (self.concurrency.to_string(), seconds.to_string());
        let load = running.load(
            self.port,
            &[
                "--path",
                self.path,
                "--mode",
                self.mode,
                "--concurrency",
                &concurrency,
                "--seconds",
                &seconds,
            ],
        )?;
        let output = load.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "the load generator: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("the load generator's report")
    }
}
