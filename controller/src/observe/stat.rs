//! `mesh stat`: one row per workload, service, pod or namespace.
//!
//! A request between two meshed pods is reported twice, by the proxy that sent it and by the one that received
//! it. So that no row counts it twice, each row has one side from which it is told:
//!
//! * A *workload* (pod, namespace) is what it receives: inbound reports of its own proxies. For pods without a
//!   proxy, of which there are none, outbound reports of the proxies that call them.
//! * A *service* is what its clients see: outbound reports of proxies that dialled it. Clients without a proxy
//!   report nothing; what they sent is in the inbound reports of the service's pods as unmeshed.
//! * A kubelet's *probes* count for nothing, nor are they an edge: only `mesh tap` shows them, and proxies' own metrics.
//! * With *from*, rows are what that source calls, and with *to*, rows are the callers of that destination: both
//!   from outbound reports only, because an inbound proxy knows its caller's identity and not its workload.

use std::{collections::BTreeMap, time::Instant};

use mesh_api::v1::{Direction, Security, Selector, StatRow, Workload};

use super::{
    selector::{Resource, selects, selects_side},
    store::{Peer, Store, Window},
    tally::Tally,
};
use crate::index::{Name, Objects};

/// Pods behind a row.
#[derive(Clone, Copy, Default)]
pub(super) struct Pods {
    all: u32,
    meshed: u32,
}

/// Which traffic a statistic is about.
pub(super) enum Scope {
    All,
    To(Selector),
    From(Selector),
}

/// Everything that has a row, with its pods: what exists, and what reported in the last ten minutes.
pub(super) fn inventory(objects: &Objects, store: &Store) -> BTreeMap<Resource, Pods> {
    let mut rows: BTreeMap<Resource, Pods> = BTreeMap::new();
    let mut add = |resource: Resource, meshed: Option<bool>| {
        let pods = rows.entry(resource).or_default();
        pods.all += u32::from(meshed.is_some());
        pods.meshed += u32::from(meshed == Some(true));
    };
    for (name, pod) in objects.pods().filter(|(_, pod)| !pod.finished) {
        let meshed = Some(pod.meshed);
        add(Resource::pod(&pod.workload, &name.name), meshed);
        if pod.workload.kind != super::selector::POD {
            add(Resource::workload(&pod.workload), meshed);
        }
        add(Resource::namespace(&name.namespace), meshed);
    }
    for (name, service) in objects.services() {
        let of = |port: u32| {
            Resource::service(&mesh_api::v1::ServicePort {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
                port,
            })
        };
        let port = service.ports.first().map_or(0, |port| port.port.into());
        add(of(port), None);
        for pod in objects.pods_of_service(name) {
            add(of(port), objects.pod(pod).map(|pod| pod.meshed));
        }
    }
    for namespace in objects.namespaces() {
        add(Resource::namespace(namespace), None);
    }
    for (pod, reporter) in store.reporters() {
        add(Resource::workload(&reporter.workload), None);
        add(Resource::pod(&reporter.workload, &pod.name), None);
    }
    rows
}

/// The rows that the selector means.
pub(super) fn rows(
    store: &Store,
    inventory: &BTreeMap<Resource, Pods>,
    selector: &Selector,
    scope: &Scope,
    window: Window,
    now: Instant,
) -> Vec<StatRow> {
    let mut tallies: BTreeMap<Resource, Tally> = BTreeMap::new();
    for (pod, reporter) in store.reporters() {
        for (key, ring) in &reporter.requests {
            for row in credited(pod, &reporter.workload, &key.peer, scope) {
                tallies
                    .entry(row)
                    .or_default()
                    .add_requests(ring, key.peer.security, window);
            }
        }
        for (peer, connections) in &reporter.connections {
            for row in credited(pod, &reporter.workload, peer, scope) {
                tallies.entry(row).or_default().add_connections(
                    connections,
                    window,
                    reporter.is_present(now),
                );
            }
        }
    }
    let quiet = Tally::default();
    let mut rows: Vec<StatRow> = inventory
        .iter()
        .filter(|(resource, _)| selects(selector, resource))
        .map(|(resource, pods)| {
            let tally = tallies.get(resource).unwrap_or(&quiet);
            let (read, written) = tally.bytes_per_second(window);
            let row = StatRow {
                namespace: resource.namespace.clone(),
                kind: resource.kind.clone(),
                name: resource.name.clone(),
                pods: pods.all,
                meshed_pods: pods.meshed,
                traffic: Some(tally.traffic(window)),
                tcp_open: tally.open,
                read_bytes_per_s: read,
                written_bytes_per_s: written,
            };
            (row, tally.active)
        })
        // With --to or --from a row without traffic says nothing; else only what is gone may be left out.
        .filter(|(row, active)| {
            *active
                || (matches!(scope, Scope::All)
                    && (row.pods > 0
                        || row.kind == super::selector::SERVICE
                        || row.kind == super::selector::NAMESPACE))
        })
        .map(|(row, _)| row)
        .collect();
    rows.sort_by(|a, b| (&a.namespace, &a.kind, &a.name).cmp(&(&b.namespace, &b.kind, &b.name)));
    rows
}

/// The rows that some traffic counts for; see the module.
fn credited(pod: &Name, workload: &Workload, peer: &Peer, scope: &Scope) -> Vec<Resource> {
    let outbound = peer.direction == Direction::Outbound;
    let mut rows = Vec::new();
    match scope {
        // What the kubelet asks says nothing of what users get, nor of how their traffic is secured.
        _ if peer.security == Security::Probe => {}
        Scope::All if outbound => {
            rows.extend(peer.service.as_ref().map(Resource::service));
            if peer_is_silent(peer) {
                sides(&mut rows, peer.workload.as_ref(), &peer.pod);
            }
        }
        Scope::All => {
            sides(&mut rows, Some(workload), &pod.name);
            if peer_is_silent(peer) {
                rows.extend(peer.service.as_ref().map(Resource::service));
            }
        }
        Scope::From(source)
            if outbound && selects_side(source, Some(workload), &pod.name, None) =>
        {
            rows.extend(peer.service.as_ref().map(Resource::service));
            sides(&mut rows, peer.workload.as_ref(), &peer.pod);
        }
        Scope::To(destination)
            if outbound
                && selects_side(
                    destination,
                    peer.workload.as_ref(),
                    &peer.pod,
                    peer.service.as_ref(),
                ) =>
        {
            sides(&mut rows, Some(workload), &pod.name);
        }
        Scope::From(_) | Scope::To(_) => {}
    }
    rows
}

/// The peer has no proxy in this connection's path, so that nobody else reports it.
pub(super) fn peer_is_silent(peer: &Peer) -> bool {
    matches!(peer.security, Security::PeerNotMeshed | Security::AppTls)
}

fn sides(rows: &mut Vec<Resource>, workload: Option<&Workload>, pod: &str) {
    let Some(workload) = workload else { return };
    rows.push(Resource::workload(workload));
    rows.push(Resource::namespace(&workload.namespace));
    // The workload of a pod without an owner is the pod.
    if workload.kind != super::selector::POD && !pod.is_empty() {
        rows.push(Resource::pod(workload, pod));
    }
}
