//! What `mesh demo --for` prints, and whether the demo did what it should.

use std::collections::BTreeMap;

use anyhow::Result;
use mesh_api::{
    local::{ListRequest, ListResponse, local_client::LocalClient},
    v1::{EdgesRequest, Selector, StatRequest},
};
use serde::Serialize;
use tonic::transport::Channel;

use super::NAMESPACE;
use crate::{
    client::{self, Replicas},
    edges::{self, Edge},
    output::{Cell, Figures, Format, Output, Table, Tone},
    stat::{self, Row},
    top::collect::{self, Query, Totals},
};

/// The shop fails a few per cent of its requests on purpose; below this share something else fails.
const LEAST_SUCCESS: f64 = 0.9;
/// Success that a workload must reach, where it fails on purpose.
const FAILS_ON_PURPOSE: [(&str, f64); 1] = [("payments", 0.6)];

/// The statistics of a demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Everything flowed, secured, without a crash.
    ok: bool,
    /// Why not, as sentences.
    problems: Vec<String>,
    /// Seconds that the figures cover.
    window_s: u32,
    /// All requests between the shop's workloads.
    totals: Totals,
    /// Per workload: what it answered.
    workloads: Vec<Row>,
    /// Per Service: what its clients saw.
    services: Vec<Row>,
    /// Who talked to whom.
    edges: Vec<Edge>,
}

impl Report {
    /// Asks the running demo.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn fetch(
        observe: &mut Replicas,
        local: &mut LocalClient<Channel>,
        window_s: u32,
    ) -> Result<Self> {
        let shop = Selector {
            namespace: NAMESPACE.into(),
            ..Selector::default()
        };
        let stat_request = StatRequest {
            selector: Some(shop.clone()),
            window_s,
            ..StatRequest::default()
        };
        let stat = stat::fetch(observe, &[stat_request]).await?;
        let edges_request = EdgesRequest {
            selector: Some(shop.clone()),
            window_s,
        };
        let edges = edges::fetch(observe, &[edges_request]).await?;
        let query = Query {
            selectors: vec![shop],
            window_s,
        };
        let totals = collect::snapshot(observe, &query, None).await?.totals;
        let pods = client::call(local.list(ListRequest {})).await?;
        let problems = problems(&stat.rows, &edges, &pods);
        let (services, workloads) = stat.rows.into_iter().partition(|row| row.kind == "service");
        Ok(Self {
            ok: problems.is_empty(),
            problems,
            window_s: stat.window_s,
            totals,
            workloads,
            services,
            edges,
        })
    }

    /// What failed, as one text; none if all is well.
    pub(super) fn failure(&self) -> Option<String> {
        (!self.ok).then(|| self.problems.join(" "))
    }

    /// Prints it.
    ///
    /// # Errors
    /// The output is closed or full.
    pub(super) fn print(&self, output: &mut Output, format: Format) -> Result<()> {
        if format == Format::Json {
            output.json(self, false)?;
            return Ok(());
        }
        for rows in [&self.workloads, &self.services] {
            output.table(&stat::table(rows, format), false)?;
            output.line("")?;
        }
        output.table(&edges::table(&self.edges, format), false)?;
        output.line("")?;
        let mut table = Table::new(vec![
            "ALL", "SUCCESS", "RPS", "P50", "P95", "P99", "SECURED",
        ]);
        let mut cells = vec![Cell::text(format!("{} pods", self.totals.pods)).tone(Tone::Bold)];
        cells.extend(self.totals.figures.cells());
        cells.push(self.totals.figures.secured_cell());
        table.row(cells);
        output.table(&table, false)?;
        Ok(())
    }
}

/// Everything that is not as it should be in a demo that has run for a while.
fn problems(rows: &[Row], edges: &[Edge], list: &ListResponse) -> Vec<String> {
    let mut problems = Vec::new();
    for pod in &list.pods {
        if pod.restarts > 0 {
            problems.push(format!(
                "Pod {} crashed ({} restarts).",
                pod.name, pod.restarts
            ));
        }
        if !pod.ready && pod.phase != "Terminating" {
            problems.push(format!("Pod {} is not ready: {}.", pod.name, pod.reason));
        }
        if !pod.meshed {
            problems.push(format!("Pod {} has no proxy.", pod.name));
        }
    }
    if !list.controller_running {
        problems.push("The controller is not running.".into());
    }
    // Whoever is called has answered requests or holds a connection; the traffic source is not called.
    let mut called: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for edge in edges {
        if let Some(destination) = &edge.destination {
            let sum = called.entry(&destination.name).or_default();
            *sum = (sum.0 + edge.figures.requests(), sum.1 + edge.tcp_open);
        }
        // Whoever is no workload of the mesh can't be secured by it, such as a probe of the node.
        if !edge.secured && !edge.source.name.is_empty() {
            let to = edge.destination_name();
            problems.push(format!(
                "{} → {to} is not secured ({}).",
                edge.source, edge.security
            ));
        }
    }
    for row in rows
        .iter()
        .filter(|row| row.kind != "service" && row.name != "shoppers")
    {
        if !called.contains_key(row.name.as_str()) {
            problems.push(format!("Nothing flowed to {}.", row.name));
        }
        let least = FAILS_ON_PURPOSE
            .iter()
            .find(|(name, _)| *name == row.name)
            .map_or(LEAST_SUCCESS, |(_, least)| *least);
        if too_many_failures(&row.figures, least) {
            let Figures { failure, .. } = row.figures;
            problems.push(format!("{failure} requests to {} failed.", row.name));
        }
    }
    problems
}

fn too_many_failures(figures: &Figures, least: f64) -> bool {
    figures.success_rate.is_some_and(|rate| rate < least)
}

#[cfg(test)]
mod tests {
    use mesh_api::{
        local::Pod,
        v1::{self, Security, Traffic, Workload},
    };

    use super::*;

    fn edge(destination: &str, success: u64, tcp_open: u64, security: Security) -> Edge {
        let workload = |name: &str| {
            Some(Workload {
                namespace: NAMESPACE.into(),
                kind: "deployment".into(),
                name: name.into(),
            })
        };
        Edge::from(v1::Edge {
            source: workload("web"),
            destination: workload(destination),
            security: security.into(),
            traffic: Some(Traffic {
                success,
                ..Traffic::default()
            }),
            tcp_open,
            ..v1::Edge::default()
        })
    }

    fn row(name: &str, success: u64, failure: u64) -> Row {
        Row::from(v1::StatRow {
            namespace: NAMESPACE.into(),
            kind: "deployment".into(),
            name: name.into(),
            traffic: Some(Traffic {
                success,
                failure,
                ..Traffic::default()
            }),
            ..v1::StatRow::default()
        })
    }

    fn list() -> ListResponse {
        ListResponse {
            pods: vec![Pod {
                name: "web-0".into(),
                meshed: true,
                ready: true,
                ..Pod::default()
            }],
            controller_running: true,
            ..ListResponse::default()
        }
    }

    #[test]
    fn all_is_well() {
        let rows = [
            row("cart", 99, 1),
            row("payments", 94, 6),
            row("store", 0, 0),
            row("shoppers", 0, 0),
        ];
        let edges = [
            edge("cart", 99, 0, Security::Mtls),
            edge("payments", 94, 0, Security::Mtls),
            edge("store", 0, 1, Security::Mtls),
        ];
        assert_eq!(problems(&rows, &edges, &list()), [""; 0]);
    }

    #[test]
    fn each_failure_is_a_sentence() {
        let rows = [row("cart", 80, 20), row("store", 0, 0)];
        let edges = [edge("cart", 80, 0, Security::PeerNotMeshed)];
        let mut crashed = list();
        crashed.pods[0].restarts = 2;
        crashed.pods[0].ready = false;
        crashed.pods[0].reason = "its probe fails".into();
        crashed.controller_running = false;
        assert_eq!(
            problems(&rows, &edges, &crashed),
            [
                "Pod web-0 crashed (2 restarts).",
                "Pod web-0 is not ready: its probe fails.",
                "The controller is not running.",
                "deploy/web → deploy/cart is not secured (no: peer not meshed).",
                "20 requests to cart failed.",
                "Nothing flowed to store.",
            ]
        );
    }
}
