//! A mesh on this machine.

use jiff::Timestamp;
use mesh_api::local::Pod;

use super::{
    super::{
        codes::{M01, M02},
        facts::Found,
        line::{Line, count, few},
    },
    data,
};
use crate::client::Inventory;

/// What was found out about a mesh on this machine.
#[derive(Clone, Debug)]
pub(in super::super) struct Facts {
    pub(in super::super) now: Timestamp,
    pub(in super::super) name: String,
    pub(in super::super) pods: Found<Vec<Pod>>,
    pub(in super::super) inventory: Found<Inventory>,
}

/// What is to be said of it.
pub(in super::super) fn lines(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    let log = "See its log: mesh local logs controller.";
    match &facts.inventory {
        Ok(_) => lines.push(Line::well(M01, format!("mesh {}", facts.name))),
        Err(cause) => lines.push(Line::failure(M01, cause, log)),
    }
    lines.push(match &facts.pods {
        Ok(pods) => ready(pods),
        Err(cause) => Line::failure(
            M02,
            cause,
            "Start it again: mesh down, then mesh up -f FILE.",
        ),
    });
    if let Ok(inventory) = &facts.inventory {
        let version = inventory
            .replicas
            .first()
            .map(|(_, version)| version.as_str());
        lines.push(data::versions(&inventory.all.proxies, version));
        lines.push(data::certificates(&inventory.all.proxies, facts.now));
    }
    lines
}

fn ready(pods: &[Pod]) -> Line {
    let not_ready: Vec<String> = pods
        .iter()
        .filter(|pod| !pod.ready && pod.phase != "Terminating")
        .map(|pod| format!("{}/{} ({})", pod.namespace, pod.name, pod.reason))
        .collect();
    match not_ready.as_slice() {
        [] => Line::well(M02, count(pods.len(), "pod")),
        some => Line::failure(
            M02,
            format!("Pods are not ready: {}.", few(some)),
            "See what they print: mesh local logs POD.",
        ),
    }
}
