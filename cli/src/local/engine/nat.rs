//! ClusterIPs for connections that no proxy carries: pods without one, skipped ports, UDP.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use mesh_proxy::init::nft::{Chain, Hook, NftError, Protocol, Rule, Table};

use super::services::ServiceView;
use crate::local::network::{DNS, SERVICES};

const TABLE: &str = "mesh-services";

/// Makes the node translate ClusterIPs to the addresses of ready pods.
///
/// # Errors
/// The kernel refused.
pub(super) fn apply(services: &[ServiceView]) -> Result<(), NftError> {
    let rules: Vec<Rule> = services.iter().flat_map(rules).collect();
    // A pod that reaches itself through a Service would see a packet from its own address arrive.
    let endpoints = services.iter().flat_map(|service| &service.endpoints);
    let pods: BTreeSet<IpAddr> = endpoints.map(|endpoint| endpoint.ip.into()).collect();
    let hairpins = pods
        .into_iter()
        .map(|ip| Rule::new().from(ip).to(ip).masquerade());
    Table::new(TABLE)
        .chain(Chain::nat("pods", Hook::Prerouting).rules(rules.clone()))
        .chain(Chain::nat("node", Hook::Output).rules(rules))
        .chain(Chain::nat("hairpin", Hook::Postrouting).rules(hairpins))
        .chain(refuse("refuse-pods", Hook::Prerouting))
        .chain(refuse("refuse-node", Hook::Output))
        .replace()
}

/// What is still addressed to a Service has no endpoint: refused at once, instead of a time-out.
fn refuse(name: &str, hook: Hook) -> Chain {
    Chain::filter(name, hook)
        .rule(Rule::new().to(IpAddr::V4(DNS)).accept())
        .rule(
            Rule::new()
                .to_network(SERVICES.into())
                .protocol(Protocol::Tcp)
                .reject(Protocol::Tcp),
        )
}

fn rules(service: &ServiceView) -> Vec<Rule> {
    let Some(address) = service.cluster_ip else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (index, port) in service.ports.iter().enumerate() {
        let protocol = match port.protocol.as_str() {
            "UDP" => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let endpoints: Vec<SocketAddr> = service
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ready)
            .filter_map(|endpoint| Some((endpoint.ip, (*endpoint.ports.get(index)?)?).into()))
            .collect();
        let rule = Rule::new()
            .to(IpAddr::V4(address))
            .port(protocol, port.port);
        all.extend(rule.dnat_random(&endpoints));
    }
    all
}
