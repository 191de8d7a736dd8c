//! `mesh edges`, `mesh top` and the endpoints of a service: who talks to whom, and how.
//!
//! Told by the side that sends, which knows both workloads. What clients without a proxy send is told by the
//! side that receives, with an unknown source.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use mesh_api::v1::{
    Direction, Edge, EndpointRow, Security, Selector, ServicePort, TopRow, Workload,
};

use super::{
    ring::{Requests, Ring},
    selector::selects_side,
    stat::peer_is_silent,
    store::{Peer, Reporter, Store, Window},
    tally::{Tally, history},
};
use crate::index::Name;

/// One direction of traffic between two workloads.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Flow {
    source: Option<Workload>,
    destination: Option<Workload>,
    service: Option<ServicePort>,
    authority: String,
    client_identity: String,
    server_identity: String,
    security: Security,
}

/// Pairs of workloads with traffic in the window, the busiest first.
pub(super) fn edges(store: &Store, selector: &Selector, window: Window, now: Instant) -> Vec<Edge> {
    let mut tallies: HashMap<Flow, Tally> = HashMap::new();
    for (pod, reporter) in store.reporters() {
        for (key, ring) in &reporter.requests {
            if let Some(flow) = selected(selector, pod, reporter, &key.peer) {
                tallies
                    .entry(flow.of_workloads())
                    .or_default()
                    .add_requests(ring, key.peer.security, window);
            }
        }
        for (peer, connections) in &reporter.connections {
            if let Some(flow) = selected(selector, pod, reporter, peer) {
                let tally = tallies.entry(flow.of_workloads()).or_default();
                tally.add_connections(connections, window, reporter.is_present(now));
            }
        }
    }
    let edges = tallies
        .into_iter()
        .filter(|(_, tally)| tally.active)
        .map(|(flow, tally)| Edge {
            source: flow.source,
            destination: flow.destination,
            authority: flow.authority,
            client_identity: flow.client_identity,
            server_identity: flow.server_identity,
            security: flow.security.into(),
            traffic: Some(tally.traffic(window)),
            tcp_open: tally.open,
        });
    let name = |workload: &Option<Workload>| {
        workload
            .as_ref()
            .map(|w| (w.namespace.clone(), w.kind.clone(), w.name.clone()))
    };
    let mut edges: Vec<Edge> = edges.collect();
    edges.sort_by_cached_key(|edge| {
        (
            name(&edge.source),
            name(&edge.destination),
            edge.authority.clone(),
            edge.security,
        )
    });
    edges
}

/// Rows of requests by method and route, the busiest first.
pub(super) fn top(store: &Store, selector: &Selector, window: Window) -> Vec<TopRow> {
    let mut rows: HashMap<(Flow, &str, &str), Vec<&Ring<Requests>>> = HashMap::new();
    for (pod, reporter) in store.reporters() {
        for (key, ring) in &reporter.requests {
            if let Some(flow) = selected(selector, pod, reporter, &key.peer) {
                rows.entry((flow, &key.method, &key.route))
                    .or_default()
                    .push(ring);
            }
        }
    }
    let rows = rows
        .into_iter()
        .filter_map(|((flow, method, route), rings)| {
            let mut tally = Tally::default();
            for ring in &rings {
                tally.add_requests(ring, flow.security, window);
            }
            tally.active.then(|| TopRow {
                source: flow.source,
                destination: flow.destination,
                service: flow.service,
                authority: flow.authority,
                method: method.to_owned(),
                route: route.to_owned(),
                security: flow.security.into(),
                traffic: Some(tally.traffic(window)),
                rps_history: history(&rings, window.to),
            })
        });
    let rps = |row: &TopRow| row.traffic.as_ref().map_or(0.0, |traffic| traffic.rps);
    let mut rows: Vec<TopRow> = rows.collect();
    // The method and route break ties, so that rows don't dance.
    rows.sort_by(|a, b| {
        rps(b)
            .total_cmp(&rps(a))
            .then_with(|| (&a.route, &a.method).cmp(&(&b.route, &b.method)))
    });
    rows
}

/// Every client's view of the endpoints that the selector means.
pub(super) fn endpoints(store: &Store, selector: &Selector, now: Instant) -> Vec<EndpointRow> {
    let mut rows = BTreeMap::new();
    for (pod, reporter) in store
        .reporters()
        .filter(|(_, reporter)| reporter.is_present(now))
    {
        for load in &reporter.endpoints {
            if selects_side(
                selector,
                load.workload.as_ref(),
                &load.pod,
                load.service.as_ref(),
            ) {
                let address = load.address.clone().unwrap_or_default();
                let port = load.service.as_ref().map(|service| service.port);
                let row = EndpointRow {
                    client: Some(reporter.workload.clone()),
                    client_pod: pod.name.to_string(),
                    load: Some(load.clone()),
                };
                rows.insert(
                    (
                        load.pod.clone(),
                        address.ip,
                        address.port,
                        port,
                        pod.clone(),
                    ),
                    row,
                );
            }
        }
    }
    rows.into_values().collect()
}

/// The flow of a report, if it is to be told by this side and the selector means it.
fn selected(selector: &Selector, pod: &Name, reporter: &Reporter, peer: &Peer) -> Option<Flow> {
    let own = Some(reporter.workload.clone());
    let mtls = peer.security == Security::Mtls;
    let (source, destination) = match peer.direction {
        Direction::Outbound => (own, peer.workload.clone()),
        _ if peer_is_silent(peer) => (peer.workload.clone(), own),
        _ => return None,
    };
    let mine = selects_side(selector, Some(&reporter.workload), &pod.name, None);
    let theirs = selects_side(
        selector,
        peer.workload.as_ref(),
        &peer.pod,
        peer.service.as_ref(),
    );
    let all = selector == &Selector::default();
    (all || mine || theirs).then(|| Flow {
        source,
        destination,
        service: peer.service.clone(),
        authority: peer.authority.clone(),
        client_identity: if mtls {
            reporter.identity.clone()
        } else {
            String::new()
        },
        server_identity: peer.identity.clone(),
        security: peer.security,
    })
}

impl Flow {
    /// An edge is between workloads, through whichever service.
    fn of_workloads(self) -> Self {
        Self {
            service: None,
            ..self
        }
    }
}
