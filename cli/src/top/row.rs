//! One line of the live view: what the wire says of one kind of request between two workloads, ready to be
//! sorted, filtered and drawn.

use std::cmp::Ordering;

use mesh_api::v1::{Edge, Security, Selector, TopRow, Workload};
use serde::Serialize;

use crate::{edges, output::Figures, resource};

/// Requests of one method and route from a source to a destination; or connections that carry no requests.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the calling workload, with its namespace where several are shown.
    pub source: String,
    /// Name of the called workload, or the host outside of the mesh.
    pub destination: String,
    /// The Service that was dialled; empty where none was.
    pub service: String,
    /// HTTP method; "TCP" for connections that carry no requests.
    pub method: String,
    /// Pattern of the path.
    pub route: String,
    /// In words: "mTLS", or why not.
    pub security: &'static str,
    /// Both ends proved who they are and the bytes are encrypted.
    pub secured: bool,
    /// Counts and latencies.
    #[serde(flatten)]
    pub figures: Figures,
    /// Connections open now, of a row without requests.
    pub tcp_open: u64,
    /// Requests per second in each of the last seconds, oldest first.
    pub rps_history: Vec<f32>,
    /// Whose endpoints to show for this row: the Service's, or the workload's.
    #[serde(skip)]
    pub target: Option<Selector>,
}

impl Row {
    /// A row of requests.
    pub fn of_requests(row: TopRow, namespaces: bool) -> Self {
        let (security, secured, _) = edges::security(row.security());
        let target = match (&row.service, &row.destination) {
            (Some(service), _) => Some(selector(&service.namespace, "service", &service.name)),
            (None, Some(workload)) => of_workload(workload),
            (None, None) => None,
        };
        Self {
            source: name(row.source.as_ref(), "", namespaces),
            destination: name(row.destination.as_ref(), &row.authority, namespaces),
            service: row
                .service
                .map(|service| service.to_string())
                .unwrap_or_default(),
            method: row.method,
            route: row.route,
            security,
            secured,
            figures: Figures::from(&row.traffic),
            tcp_open: 0,
            rps_history: row.rps_history,
            target,
        }
    }

    /// A row of connections that carry no requests; none if requests were counted.
    pub fn of_connections(edge: &Edge, namespaces: bool) -> Option<Self> {
        let figures = Figures::from(&edge.traffic);
        if figures.requests() > 0 || edge.security() == Security::Loopback {
            return None;
        }
        let (security, secured, _) = edges::security(edge.security());
        Some(Self {
            source: name(edge.source.as_ref(), "", namespaces),
            destination: name(edge.destination.as_ref(), &edge.authority, namespaces),
            service: String::new(),
            method: "TCP".into(),
            route: format!("{} open", edge.tcp_open),
            security,
            secured,
            figures,
            tcp_open: edge.tcp_open,
            rps_history: Vec::new(),
            target: edge.destination.as_ref().and_then(of_workload),
        })
    }

    /// What stays the same while figures change.
    pub fn key(&self) -> (&str, &str, &str, &str, &str) {
        let route = if self.method == "TCP" {
            ""
        } else {
            &self.route
        };
        (
            &self.source,
            &self.destination,
            &self.service,
            &self.method,
            route,
        )
    }

    /// Whether every word of the filter occurs somewhere in the row, in any case.
    pub fn matches(&self, filter: &str) -> bool {
        let text = format!(
            "{} {} {} {} {} {}",
            self.source, self.destination, self.service, self.method, self.route, self.security
        )
        .to_lowercase();
        filter
            .to_lowercase()
            .split_whitespace()
            .all(|word| text.contains(word))
    }
}

/// What rows can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Name of the caller.
    Source,
    /// Name of the called.
    Destination,
    /// HTTP method.
    Method,
    /// Path pattern.
    Route,
    /// Requests per second.
    Rps,
    /// Success rate.
    Success,
    /// Median latency.
    P50,
    /// 95th percentile.
    P95,
    /// 99th percentile.
    P99,
}

impl Column {
    /// From left to right.
    pub const ALL: [Self; 9] = [
        Self::Source,
        Self::Destination,
        Self::Method,
        Self::Route,
        Self::Rps,
        Self::Success,
        Self::P50,
        Self::P95,
        Self::P99,
    ];

    /// Its heading.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Source => "SOURCE",
            Self::Destination => "DESTINATION",
            Self::Method => "METHOD",
            Self::Route => "ROUTE",
            Self::Rps => "RPS",
            Self::Success => "SUCCESS",
            Self::P50 => "P50",
            Self::P95 => "P95",
            Self::P99 => "P99",
        }
    }

    /// Whether what matters most comes first in descending order: the busiest and the slowest, but the
    /// least successful.
    pub fn descends(self) -> bool {
        matches!(self, Self::Rps | Self::P50 | Self::P95 | Self::P99)
    }

    /// Ascending order by this column, then by key, so that equal rows never swap places.
    pub fn compare(self, a: &Row, b: &Row) -> Ordering {
        let float = |value: fn(&Row) -> f64| value(a).total_cmp(&value(b));
        let order = match self {
            Self::Source => a.source.cmp(&b.source),
            Self::Destination => a.destination.cmp(&b.destination),
            Self::Method => a.method.cmp(&b.method),
            Self::Route => a.route.cmp(&b.route),
            Self::Rps => float(|row| row.figures.rps),
            // A row without requests has failed in nothing, and stands behind those that have.
            Self::Success => float(|row| row.figures.success_rate.unwrap_or(2.0)),
            Self::P50 => float(|row| row.figures.latency_ms.p50.unwrap_or(-1.0)),
            Self::P95 => float(|row| row.figures.latency_ms.p95.unwrap_or(-1.0)),
            Self::P99 => float(|row| row.figures.latency_ms.p99.unwrap_or(-1.0)),
        };
        order.then_with(|| a.key().cmp(&b.key()))
    }
}

fn name(workload: Option<&Workload>, authority: &str, namespaces: bool) -> String {
    match workload {
        Some(workload) if !workload.name.is_empty() => match namespaces {
            true => format!("{}/{}", workload.namespace, workload.name),
            false => workload.name.clone(),
        },
        _ if authority.is_empty() => "not meshed".into(),
        _ => authority.into(),
    }
}

fn of_workload(workload: &Workload) -> Option<Selector> {
    (!workload.name.is_empty())
        .then(|| selector(&workload.namespace, &workload.kind, &workload.name))
}

fn selector(namespace: &str, kind: &str, name: &str) -> Selector {
    Selector {
        namespace: namespace.into(),
        kind: kind.into(),
        name: name.into(),
    }
}

/// How a selector is written above its endpoints: `svc/catalog`.
pub fn selector_name(selector: &Selector) -> String {
    format!("{}/{}", resource::short(&selector.kind), selector.name)
}
