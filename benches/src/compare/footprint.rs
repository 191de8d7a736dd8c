//! What a pair of proxies takes up: memory at rest, with 10,000 idle connections, and when these and 1,000 busy ones
//! are gone.

use std::{
    io::{BufRead as _, BufReader},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::{
    peer::{APP_PORT, Peer},
    running::Running,
};

/// Connections that are held open.
const HELD: usize = 10_000;
/// Where there is no time to open so many: what each takes up is the same.
const HELD_QUICK: usize = 2_000;
/// What happens right after the last connection is open is not idleness yet.
const CALM: Duration = Duration::from_secs(2);
/// Between the end of the load and the last look: longer than the 60 s after which the mesh's pools are empty.
const SETTLE: Duration = Duration::from_secs(75);
/// Where there is no time for that.
const SETTLE_QUICK: Duration = Duration::from_secs(3);
/// Of the busy connections.
const BUSY: &[&str] = &["--mode=closed", "--concurrency=1000", "--seconds=2"];

/// Outbound and inbound proxy.
#[derive(Serialize, Clone, Debug)]
pub(super) struct Footprint {
    /// Milliseconds from the client's proxy's start to the first answer through it.
    pub(super) ready_ms: Option<f64>,
    /// Bytes of its program without symbols.
    pub(super) binary: Option<u64>,
    /// Resident before any load, bytes.
    pub(super) idle: [u64; 2],
    /// More of it with idle connections, by connection.
    pub(super) per_connection: Option<[f64; 2]>,
    /// Resident when all load is gone.
    pub(super) settled: [u64; 2],
}

impl Footprint {
    /// Of a pair that has just been started: what a load before had grown, these connections would use.
    pub(super) fn measure(peer: &Peer, running: &mut Running, quick: bool) -> anyhow::Result<Self> {
        let can_hold = !peer.without.iter().any(|name| name == "hold");
        let per_connection = can_hold
            .then(|| {
                hold(running, if quick { HELD_QUICK } else { HELD }).context("holding connections")
            })
            .transpose()?;
        let busy = running.load(APP_PORT, BUSY)?.wait_with_output()?;
        if !busy.status.success() {
            bail!(
                "busy connections: {}",
                String::from_utf8_lossy(&busy.stderr).trim()
            );
        }
        std::thread::sleep(if quick { SETTLE_QUICK } else { SETTLE });
        Ok(Self {
            ready_ms: running.ready.map(|time| time.as_secs_f64() * 1e3),
            binary: peer.stripped_size()?,
            idle: running.idle,
            per_connection,
            settled: running.usage()?.map(|usage| usage.rss),
        })
    }
}

/// Opens the connections, each with one request, and looks while nothing happens on them.
fn hold(running: &mut Running, held: usize) -> anyhow::Result<[f64; 2]> {
    let before = running.usage()?;
    let concurrency = held.to_string();
    let hold = ["--mode", "hold", "--concurrency", &concurrency];
    let mut load = running.load(APP_PORT, &hold)?;
    let output = load.stdout.take().context("the load generator's output")?;
    let opened = BufReader::new(output).lines().next().transpose()?;
    if opened.is_none() {
        let output = load.wait_with_output()?;
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    std::thread::sleep(CALM);
    let after = running.usage()?;
    // The end of its input tells it to close them.
    drop(load.stdin.take());
    load.wait()?;
    let more = |side: usize| after[side].rss.saturating_sub(before[side].rss) as f64 / held as f64;
    Ok([more(0), more(1)])
}
