//! One answer from those of all replicas of the controller. Pure.
//!
//! A proxy reports to one replica at a time, so that what was counted (requests, bytes, connections, latencies) is
//! added up. What the objects of the cluster say (pods of a workload, names) every replica knows alike: it is
//! taken once.

use std::{collections::BTreeMap, hash::Hash};

use mesh_api::{
    Sketch,
    v1::{
        Edge, EdgesResponse, EndpointRow, EndpointsResponse, InventoryResponse, ServicePort,
        StatResponse, StatRow, TopResponse, TopRow, Traffic, Workload,
    },
};

/// Figures of several parts of the same thing.
pub(crate) fn traffic<'a>(parts: impl IntoIterator<Item = &'a Traffic>) -> Traffic {
    let mut latency = Sketch::default();
    let mut total = Traffic::default();
    for part in parts {
        latency.merge(&part.latency.clone().unwrap_or_default());
        total.success = total.success.saturating_add(part.success);
        total.failure = total.failure.saturating_add(part.failure);
        total.rps += part.rps;
        total.retried = total.retried.saturating_add(part.retried);
        total.secured = total.secured.saturating_add(part.secured);
    }
    total.latency = Some((&latency).into());
    total
}

pub(super) fn stat(answers: Vec<StatResponse>) -> StatResponse {
    let window_s = answers.iter().map(|answer| answer.window_s).max();
    let rows = answers.into_iter().flat_map(|answer| answer.rows);
    let rows = fold(
        rows,
        |row| (row.namespace.clone(), row.kind.clone(), row.name.clone()),
        |all: &mut StatRow, row| {
            all.pods = all.pods.max(row.pods);
            all.meshed_pods = all.meshed_pods.max(row.meshed_pods);
            all.traffic = both(&all.traffic, &row.traffic);
            all.tcp_open += row.tcp_open;
            all.read_bytes_per_s += row.read_bytes_per_s;
            all.written_bytes_per_s += row.written_bytes_per_s;
        },
    );
    StatResponse {
        rows,
        window_s: window_s.unwrap_or_default(),
    }
}

pub(super) fn edges(answers: Vec<EdgesResponse>) -> EdgesResponse {
    let edges = answers.into_iter().flat_map(|answer| answer.edges);
    let edges = fold(
        edges,
        |edge| {
            (
                key(&edge.source),
                key(&edge.destination),
                edge.authority.clone(),
                (edge.client_identity.clone(), edge.server_identity.clone()),
                edge.security,
            )
        },
        |all: &mut Edge, edge| {
            all.traffic = both(&all.traffic, &edge.traffic);
            all.tcp_open += edge.tcp_open;
        },
    );
    EdgesResponse { edges }
}

pub(super) fn top(answers: Vec<TopResponse>) -> TopResponse {
    let rows = answers.into_iter().flat_map(|answer| answer.rows);
    let rows = fold(
        rows,
        |row| {
            (
                (key(&row.source), key(&row.destination)),
                port(&row.service),
                row.authority.clone(),
                (row.method.clone(), row.route.clone()),
                row.security,
            )
        },
        |all: &mut TopRow, row| {
            all.traffic = both(&all.traffic, &row.traffic);
            add_histories(&mut all.rps_history, &row.rps_history);
        },
    );
    TopResponse { rows }
}

pub(super) fn endpoints(answers: Vec<EndpointsResponse>) -> EndpointsResponse {
    let rows = answers.into_iter().flat_map(|answer| answer.rows);
    // For some seconds after a proxy went from one replica to another, both know it.
    let rows = fold(
        rows,
        |row| {
            let load = row.load.clone().unwrap_or_default();
            let address = load.address.unwrap_or_default();
            (
                (load.pod, address.ip, address.port),
                port(&load.service),
                (key(&row.client), row.client_pod.clone()),
            )
        },
        |_: &mut EndpointRow, _| {},
    );
    EndpointsResponse { rows }
}

pub(crate) fn inventory(answers: Vec<InventoryResponse>) -> InventoryResponse {
    let mut all = InventoryResponse::default();
    for answer in answers {
        all.controller_version = answer.controller_version;
        all.namespaces.extend(answer.namespaces);
        all.workloads.extend(answer.workloads);
        all.services.extend(answer.services);
        all.proxies.extend(answer.proxies);
    }
    all.namespaces.sort_unstable();
    all.namespaces.dedup();
    let keep = |_: &mut _, _| {};
    all.workloads = fold(all.workloads, |workload| key(&Some(workload.clone())), keep);
    let keep = |_: &mut _, _| {};
    all.services = fold(all.services, |service| port(&Some(service.clone())), keep);
    all.proxies = fold(
        all.proxies,
        |proxy| (proxy.namespace.clone(), proxy.pod.clone()),
        |known: &mut mesh_api::v1::ProxyInfo, proxy| {
            // The later certificate is the one that it has now.
            if proxy.certificate_expires > known.certificate_expires {
                *known = proxy;
            }
        },
    );
    all
}

/// Rows of one key become one row; they are ordered by it.
fn fold<T, K: Ord + Hash>(
    rows: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
    add: impl Fn(&mut T, T),
) -> Vec<T> {
    let mut merged: BTreeMap<K, T> = BTreeMap::new();
    for row in rows {
        match merged.entry(key(&row)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(row);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => add(entry.get_mut(), row),
        }
    }
    merged.into_values().collect()
}

fn both(a: &Option<Traffic>, b: &Option<Traffic>) -> Option<Traffic> {
    Some(traffic([a, b].into_iter().flatten()))
}

/// The last seconds stand at the end, whatever the lengths.
fn add_histories(all: &mut Vec<f32>, more: &[f32]) {
    if more.len() > all.len() {
        all.splice(0..0, std::iter::repeat_n(0.0, more.len() - all.len()));
    }
    for (sum, one) in all.iter_mut().rev().zip(more.iter().rev()) {
        *sum += one;
    }
}

fn key(workload: &Option<Workload>) -> Option<(String, String, String)> {
    workload.as_ref().map(|workload| {
        (
            workload.namespace.clone(),
            workload.kind.clone(),
            workload.name.clone(),
        )
    })
}

fn port(service: &Option<ServicePort>) -> Option<(String, String, u32)> {
    service.as_ref().map(|service| {
        (
            service.namespace.clone(),
            service.name.clone(),
            service.port,
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(us: &[u64], failure: u64) -> Traffic {
        let mut latency = Sketch::default();
        us.iter().for_each(|us| latency.record(*us));
        Traffic {
            success: us.len() as u64,
            failure,
            rps: us.len() as f64,
            latency: Some((&latency).into()),
            retried: failure,
            secured: us.len() as u64,
        }
    }

    fn row(name: &str, us: &[u64]) -> StatRow {
        StatRow {
            namespace: "shop".into(),
            kind: "deployment".into(),
            name: name.into(),
            pods: 3,
            meshed_pods: 2,
            traffic: Some(part(us, 1)),
            tcp_open: us.len() as u64,
            ..Default::default()
        }
    }

    proptest! {
        /// However the proxies are spread over replicas, the sum is the same.
        #[test]
        fn spreading_changes_nothing(
            parts in prop::collection::vec((0usize..3, 0usize..4, prop::collection::vec(1u64..1_000_000, 0..6)), 0..12),
        ) {
            let names = ["a", "b", "c", "d"];
            let one = vec![StatResponse {
                rows: parts.iter().map(|(_, name, us)| row(names[*name], us)).collect(),
                window_s: 60,
            }];
            let spread: Vec<StatResponse> = (0..3)
                .map(|replica| StatResponse {
                    rows: parts
                        .iter()
                        .filter(|(at, ..)| *at == replica)
                        .map(|(_, name, us)| row(names[*name], us))
                        .collect(),
                    window_s: 20 * (replica as u32 + 1),
                })
                .collect();
            prop_assert_eq!(stat(one), stat(spread));
        }
    }

    #[test]
    fn pods_are_facts_and_requests_are_counts() {
        let answer = |rows| StatResponse { rows, window_s: 60 };
        let merged = stat(vec![
            answer(vec![row("web", &[1000, 2000])]),
            answer(vec![row("web", &[3000]), row("cart", &[])]),
        ]);
        let [cart, web] = merged.rows.as_slice() else {
            panic!("{merged:?}")
        };
        assert_eq!((cart.pods, web.pods, web.meshed_pods), (3, 3, 2));
        assert_eq!(web.tcp_open, 3);
        let traffic = web.traffic.clone().unwrap();
        assert_eq!((traffic.success, traffic.failure), (3, 2));
        let mut latency = Sketch::default();
        latency.merge(&traffic.latency.unwrap());
        assert_eq!(latency.count(), 3);
    }

    #[test]
    fn sparklines_end_now() {
        let top_row = |history: &[f32]| TopRow {
            method: "GET".into(),
            rps_history: history.to_vec(),
            ..Default::default()
        };
        let merged = top(vec![
            TopResponse {
                rows: vec![top_row(&[1.0, 2.0])],
            },
            TopResponse {
                rows: vec![top_row(&[0.0, 0.0, 5.0])],
            },
        ]);
        assert_eq!(merged.rows.len(), 1);
        assert_eq!(merged.rows[0].rps_history, [0.0, 1.0, 7.0]);
    }

    #[test]
    fn a_proxy_that_moved_is_one_proxy() {
        let answer = |version: &str, expires| InventoryResponse {
            namespaces: vec!["shop".into()],
            proxies: vec![mesh_api::v1::ProxyInfo {
                namespace: "shop".into(),
                pod: "web-1".into(),
                version: version.into(),
                certificate_expires: expires,
                ..Default::default()
            }],
            ..Default::default()
        };
        let merged = inventory(vec![answer("new", 9), answer("old", 3)]);
        assert_eq!(merged.namespaces, ["shop"]);
        assert_eq!(merged.proxies.len(), 1);
        assert_eq!(merged.proxies[0].version, "new");
    }
}
