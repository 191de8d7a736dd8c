//! Asks the mesh, each second, for what the live view shows.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use mesh_api::v1::{
    EdgesRequest, EndpointRow, EndpointsRequest, Selector, StatRequest, TopRequest,
};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::row::Row;
use crate::{
    client::{Mesh, Replicas, merge},
    output::Figures,
};

const INTERVAL: Duration = Duration::from_secs(1);

/// What to show.
#[derive(Clone, Debug)]
pub struct Query {
    /// Whose requests.
    pub selectors: Vec<Selector>,
    /// Seconds to look back.
    pub window_s: u32,
}

/// Everything the view shows of one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// All rows summed up.
    pub totals: Totals,
    /// One per source, destination, method and route.
    pub rows: Vec<Row>,
    /// The endpoints asked for, if any were.
    #[serde(skip)]
    pub endpoints: Vec<EndpointRow>,
}

/// Sums over the whole view.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Pods in the namespaces that are looked at.
    pub pods: u32,
    /// Pods with a proxy.
    pub meshed_pods: u32,
    /// Requests of all rows.
    #[serde(flatten)]
    pub figures: Figures,
}

/// One moment; `endpoints` names whose endpoints to ask for as well.
///
/// # Errors
/// The mesh does not answer, or knows no such resource.
pub async fn snapshot(
    replicas: &mut Replicas,
    query: &Query,
    endpoints: Option<&Selector>,
) -> Result<Snapshot> {
    let (mut requests, mut edges) = (Vec::new(), Vec::new());
    for selector in &query.selectors {
        let request = TopRequest {
            selector: Some(selector.clone()),
            window_s: query.window_s,
        };
        requests.extend(replicas.top(request).await?.rows);
        let request = EdgesRequest {
            selector: Some(selector.clone()),
            window_s: query.window_s,
        };
        edges.extend(replicas.edges(request).await?.edges);
    }
    let namespaces: BTreeSet<&str> = requests
        .iter()
        .flat_map(|row| [&row.source, &row.destination])
        .flatten()
        .map(|workload| workload.namespace.as_str())
        .filter(|namespace| !namespace.is_empty())
        .collect();
    let several = namespaces.len() > 1;
    let figures = Figures::from(&merge::traffic(
        requests.iter().filter_map(|row| row.traffic.as_ref()),
    ));
    let mut rows: Vec<Row> = requests
        .into_iter()
        .map(|row| Row::of_requests(row, several))
        .collect();
    rows.extend(
        edges
            .iter()
            .filter_map(|edge| Row::of_connections(edge, several)),
    );
    // Where selectors overlap, a row came twice.
    rows.sort_by(|a, b| a.key().cmp(&b.key()));
    rows.dedup_by(|a, b| a.key() == b.key());
    let (pods, meshed_pods) = pods(replicas, query).await?;
    let endpoints = match endpoints {
        None => Vec::new(),
        Some(selector) => {
            let request = EndpointsRequest {
                selector: Some(selector.clone()),
            };
            replicas.endpoints(request).await?.rows
        }
    };
    Ok(Snapshot {
        totals: Totals {
            pods,
            meshed_pods,
            figures,
        },
        rows,
        endpoints,
    })
}

/// Sends a snapshot or what went wrong, each second and at once when `endpoints` changes, until nobody
/// listens.
pub async fn collect(
    mesh: Mesh,
    query: Query,
    mut endpoints: watch::Receiver<Option<Selector>>,
    snapshots: mpsc::Sender<Result<Snapshot>>,
) {
    let mut connected: Option<Replicas> = None;
    loop {
        let started = tokio::time::Instant::now();
        let wanted = endpoints.borrow_and_update().clone();
        let replicas = match connected.take() {
            Some(replicas) => Ok(replicas),
            None => mesh.observe().await,
        };
        // After a failure everything is looked for anew: the replicas may be others now.
        let outcome = match replicas {
            Ok(mut replicas) => {
                let outcome = snapshot(&mut replicas, &query, wanted.as_ref()).await;
                connected = outcome.is_ok().then_some(replicas);
                outcome
            }
            Err(error) => Err(error),
        };
        if snapshots.send(outcome).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(started + INTERVAL) => {}
            changed = endpoints.changed() => if changed.is_err() { return },
        }
    }
}

async fn pods(replicas: &mut Replicas, query: &Query) -> Result<(u32, u32)> {
    let namespaces: BTreeSet<&str> = query
        .selectors
        .iter()
        .map(|selector| selector.namespace.as_str())
        .collect();
    let mut sum = (0, 0);
    for namespace in namespaces {
        let request = StatRequest {
            selector: Some(Selector {
                kind: "namespace".into(),
                name: namespace.into(),
                ..Selector::default()
            }),
            window_s: query.window_s,
            ..StatRequest::default()
        };
        for row in replicas.stat(request).await?.rows {
            sum = (sum.0 + row.pods, sum.1 + row.meshed_pods);
        }
    }
    Ok(sum)
}
