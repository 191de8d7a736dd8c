//! Adding series up to the figures of one row.

use mesh_api::{
    Sketch,
    v1::{Security, Traffic},
};

use super::{
    ring::{FINE, Requests, Ring},
    store::{Connections, Window},
};

/// Reports come once a second: so long after a second ended, all of its requests have been reported.
const SETTLED: u64 = 2;
/// Length of the sparkline, seconds.
const HISTORY: u64 = 30;

/// Figures of one row in a window.
#[derive(Default)]
pub(super) struct Tally {
    success: u64,
    failure: u64,
    retried: u64,
    secured: u64,
    latency: Sketch,
    spread: f64,
    pub(super) open: u64,
    read: u64,
    written: u64,
    /// Something happened.
    pub(super) active: bool,
}

impl Tally {
    pub(super) fn add_requests(
        &mut self,
        ring: &Ring<Requests>,
        security: Security,
        window: Window,
    ) {
        for second in ring.between(window.from, window.to) {
            self.success += second.success;
            self.failure += second.failure;
            self.retried += second.retried;
            if security == Security::Mtls {
                self.secured += second.success + second.failure;
            }
            self.latency.merge(&second.latency.wire());
            self.active = true;
        }
        let settled = settled(window);
        self.spread += ring
            .between(settled.from, settled.to)
            .map(|second| second.spread)
            .sum::<f64>();
    }

    /// `present`: the reporting proxy is alive, so that its gauges are true.
    pub(super) fn add_connections(
        &mut self,
        connections: &Connections,
        window: Window,
        present: bool,
    ) {
        if present {
            self.open += connections.open;
        }
        for second in connections.bytes.between(window.from, window.to) {
            self.read += second.read;
            self.written += second.written;
            self.active = true;
        }
        self.active |= self.open > 0;
    }

    pub(super) fn traffic(&self, window: Window) -> Traffic {
        // In a long window the edges don't matter, and older seconds are merged.
        let rps = if window.length() + SETTLED <= FINE {
            self.spread / settled(window).length() as f64
        } else {
            (self.success + self.failure) as f64 / window.length() as f64
        };
        Traffic {
            success: self.success,
            failure: self.failure,
            rps,
            latency: Some((&self.latency).into()),
            retried: self.retried,
            secured: self.secured,
        }
    }

    /// Bytes per second read and written.
    pub(super) fn bytes_per_second(&self, window: Window) -> (f64, f64) {
        let seconds = window.length() as f64;
        (self.read as f64 / seconds, self.written as f64 / seconds)
    }
}

/// Requests per second in each of the last [`HISTORY`] settled seconds, oldest first.
pub(super) fn history(rings: &[&Ring<Requests>], now: u64) -> Vec<f32> {
    let newest = now.saturating_sub(SETTLED);
    let seconds = newest.saturating_sub(HISTORY)..newest;
    let of = |second: u64| {
        rings
            .iter()
            .flat_map(|ring| ring.between(second, second + 1))
            .map(|at| at.spread)
            .sum::<f64>()
    };
    let known = seconds.map(|second| of(second) as f32).collect::<Vec<_>>();
    let mut history = vec![0.0; HISTORY as usize - known.len()];
    history.extend(known);
    history
}

fn settled(window: Window) -> Window {
    Window {
        from: window.from.saturating_sub(SETTLED),
        to: window.to.saturating_sub(SETTLED),
    }
}
