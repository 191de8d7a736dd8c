//! The golden figures of a window, as every command prints them.

use mesh_api::{Sketch, v1};
use serde::Serialize;

use super::{
    number,
    table::{Cell, Tone},
};

/// Requests of a window: how many, how well, how fast.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests per second.
    pub rps: f64,
    /// Requests that ended well.
    pub success: u64,
    /// Requests that failed.
    pub failure: u64,
    /// `success` as a share of all, 0 to 1; none without requests.
    pub success_rate: Option<f64>,
    /// Time to the end of the response.
    pub latency_ms: Latency,
    /// Requests that took more than one try.
    pub retried: u64,
    /// Requests on connections secured by mTLS.
    pub secured: u64,
    /// `secured` as a share of all, 0 to 1; without requests the share of connections, if it is known.
    pub secured_rate: Option<f64>,
}

/// Quantiles, milliseconds; none without requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the requests took less.
    pub p50: Option<f64>,
    /// All but a twentieth took less.
    pub p95: Option<f64>,
    /// All but a hundredth took less.
    pub p99: Option<f64>,
}

impl Figures {
    /// Number of requests.
    pub fn requests(&self) -> u64 {
        self.success.saturating_add(self.failure)
    }

    /// The cells SUCCESS, RPS, P50, P95, P99.
    pub fn cells(&self) -> [Cell; 5] {
        let none = if self.requests() == 0 {
            Tone::Dim
        } else {
            Tone::Plain
        };
        let success = number::percent(self.success, self.requests());
        [
            Cell::figure(success).tone(Tone::of_success(self.success, self.failure)),
            Cell::figure(number::rate(self.rps)).tone(none),
            Cell::figure(milliseconds(self.latency_ms.p50)).tone(none),
            Cell::figure(milliseconds(self.latency_ms.p95)).tone(none),
            Cell::figure(milliseconds(self.latency_ms.p99)).tone(none),
        ]
    }

    /// The share of requests that mTLS secured.
    pub fn secured_cell(&self) -> Cell {
        let (text, tone) = match self.secured_rate {
            None => (number::NONE.into(), Tone::Dim),
            Some(1.0..) => ("100%".into(), Tone::Good),
            Some(share) if share > 0.0 => (
                number::percent((share * 10_000.0) as u64, 10_000),
                Tone::Warn,
            ),
            Some(_) => ("0%".into(), Tone::Bad),
        };
        Cell::figure(text).tone(tone)
    }
}

impl From<&v1::Traffic> for Figures {
    fn from(traffic: &v1::Traffic) -> Self {
        let mut latency = Sketch::default();
        latency.merge(&traffic.latency.clone().unwrap_or_default());
        let quantile = |q| latency.quantile(q).map(|us| us as f64 / 1000.0);
        let all = traffic.success.saturating_add(traffic.failure);
        let share = |part: u64| (all > 0).then(|| part as f64 / all as f64);
        Self {
            rps: traffic.rps,
            success: traffic.success,
            failure: traffic.failure,
            success_rate: share(traffic.success),
            latency_ms: Latency {
                p50: quantile(0.5),
                p95: quantile(0.95),
                p99: quantile(0.99),
            },
            retried: traffic.retried,
            secured: traffic.secured,
            secured_rate: share(traffic.secured),
        }
    }
}

impl From<&Option<v1::Traffic>> for Figures {
    fn from(traffic: &Option<v1::Traffic>) -> Self {
        traffic.as_ref().map(Self::from).unwrap_or_default()
    }
}

/// A latency in milliseconds as it is written in a column.
pub fn milliseconds(ms: Option<f64>) -> String {
    number::maybe_duration(ms.map(|ms| (ms * 1000.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_window() {
        let mut latency = Sketch::default();
        (0..100).for_each(|_| latency.record(12_000));
        let traffic = v1::Traffic {
            success: 95,
            failure: 5,
            rps: 10.0,
            latency: Some((&latency).into()),
            retried: 2,
            secured: 50,
        };
        let figures = Figures::from(&traffic);
        assert_eq!(figures.success_rate, Some(0.95));
        assert_eq!(figures.secured_rate, Some(0.5));
        let text = figures.cells().map(|cell| cell.text);
        assert_eq!(text, ["95.00%", "10.0", "12ms", "12ms", "12ms"]);
        assert_eq!(figures.secured_cell().tone, Tone::Warn);
    }

    #[test]
    fn no_traffic_has_no_shares() {
        let figures = Figures::from(&None);
        assert_eq!((figures.success_rate, figures.latency_ms.p99), (None, None));
        let text = figures.cells().map(|cell| cell.text);
        assert_eq!(text, ["-", "0", "-", "-", "-"]);
    }
}
