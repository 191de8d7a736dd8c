//! Which of a destination's endpoints a client is told of, by where both are: kube-proxy's rules, so that the mesh
//! keeps traffic as near as the cluster does without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// Where a client is; empty: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its node.
    pub node: String,
    /// Its zone.
    pub zone: String,
}

/// Whose clients the endpoints of a destination are for. The default: everybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// The node of each endpoint, where clients may use those of their own node only
    /// (`internalTrafficPolicy: Local`, KEP-2086).
    pub same_node: Option<BTreeMap<SocketAddr, String>>,
    /// The nodes whose clients each endpoint is for (`PreferSameNode`, KEP-3015); empty unless each has such hints.
    pub nodes: BTreeMap<SocketAddr, Vec<String>>,
    /// The zones whose clients each endpoint is for (KEP-2433); empty unless each has such hints.
    pub zones: BTreeMap<SocketAddr, Vec<String>>,
}

impl Locality {
    /// Whether all clients are told the same.
    pub fn is_everywhere(&self) -> bool {
        self.same_node.is_none() && self.nodes.is_empty() && self.zones.is_empty()
    }

    /// The endpoints for a client at `place`; `None`: all of them. Hints are a preference: where no endpoint is for
    /// the client's place, it uses all. A policy is none: a client without an endpoint on its node has none.
    pub(super) fn endpoints(&self, place: &Place) -> Option<BTreeSet<SocketAddr>> {
        let known = |name: &&String| !name.is_empty();
        if let Some(nodes) = &self.same_node {
            let here = nodes
                .iter()
                .filter(|(_, node)| Some(*node) == Some(&place.node).filter(known));
            return Some(here.map(|(at, _)| *at).collect());
        }
        [(&self.nodes, &place.node), (&self.zones, &place.zone)]
            .into_iter()
            .find_map(|(hints, own)| {
                let own = Some(own).filter(known)?;
                let hinted = hints.iter().filter(|(_, places)| places.contains(own));
                let chosen: BTreeSet<_> = hinted.map(|(at, _)| *at).collect();
                (!chosen.is_empty()).then_some(chosen)
            })
    }
}
