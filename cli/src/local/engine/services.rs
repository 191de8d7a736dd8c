//! Which pods are behind which Service: what DNS, NAT and the controller are told. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::util::intstr::IntOrString};
use sha2::{Digest, Sha256};

use crate::local::{manifest::Key, network::DNS};

/// What a Service sees of a pod.
#[derive(Clone, Debug)]
pub(crate) struct PodView {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Ipv6Addr,
    pub(crate) labels: BTreeMap<String, String>,
    /// Its name below a headless Service, and the Service's name.
    pub(crate) hostname: Option<(String, String)>,
    /// Named ports of its containers.
    pub(crate) ports: BTreeMap<String, u16>,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
}

/// A Service with its pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceView {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `None`: headless.
    pub(crate) cluster_ip: Option<Ipv4Addr>,
    /// Whether its pods' IPv6 addresses have names: as on most clusters only where `ipFamilies` asks for it, because
    /// many servers listen on IPv4 only.
    pub(crate) ipv6: bool,
    pub(crate) ports: Vec<PortView>,
    pub(crate) endpoints: Vec<EndpointView>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PortView {
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    /// "TCP" or "UDP".
    pub(crate) protocol: String,
    pub(crate) app_protocol: Option<String>,
}

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EndpointView {
    pub(crate) pod: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Ipv6Addr,
    /// Its name below the Service's name.
    pub(crate) hostname: Option<String>,
    /// The pod's port for each of the Service's; `None` where it has no port of that name.
    pub(crate) ports: Vec<Option<u16>>,
    /// May get new connections.
    pub(crate) ready: bool,
    /// Answers, though it may be about to end.
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

/// Puts Services and pods together.
pub(crate) fn resolve(
    services: &BTreeMap<Key, k8s::Service>,
    addresses: &BTreeMap<Key, Ipv4Addr>,
    pods: &[PodView],
) -> Vec<ServiceView> {
    let resolved = services.iter().filter_map(|(key, service)| {
        let spec = service.spec.as_ref()?;
        let ports = spec.ports.as_deref().unwrap_or_default();
        let selector = spec.selector.clone().unwrap_or_default();
        let always = spec.publish_not_ready_addresses == Some(true);
        let selected = pods.iter().filter(|pod| {
            // A Service without a selector has no pods of its own.
            !selector.is_empty()
                && pod.namespace == key.0
                && selector
                    .iter()
                    .all(|(name, value)| pod.labels.get(name) == Some(value))
        });
        let endpoints = selected.map(|pod| EndpointView {
            pod: pod.name.clone(),
            ip: pod.ip,
            ip6: pod.ip6,
            hostname: pod
                .hostname
                .as_ref()
                .filter(|(_, subdomain)| *subdomain == key.1)
                .map(|(hostname, _)| hostname.clone()),
            ports: ports.iter().map(|port| target(port, pod)).collect(),
            ready: (pod.ready || always) && !pod.terminating,
            serving: pod.ready || always,
            terminating: pod.terminating,
        });
        Some(ServiceView {
            namespace: key.0.clone(),
            name: key.1.clone(),
            cluster_ip: addresses.get(key).copied(),
            ipv6: spec
                .ip_families
                .iter()
                .flatten()
                .any(|family| family == "IPv6"),
            ports: ports.iter().filter_map(PortView::of).collect(),
            endpoints: endpoints.collect(),
        })
    });
    resolved.collect()
}

impl PortView {
    fn of(port: &k8s::ServicePort) -> Option<Self> {
        Some(Self {
            name: port.name.clone(),
            port: port.port.try_into().ok()?,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            app_protocol: port.app_protocol.clone(),
        })
    }
}

/// The ClusterIPs of all Services: those that they ask for or had, else one made of the name, so that a Service
/// usually has the same address in every run.
pub(crate) fn cluster_ips(
    services: &BTreeMap<Key, k8s::Service>,
    before: &BTreeMap<Key, Ipv4Addr>,
) -> BTreeMap<Key, Ipv4Addr> {
    let mut addresses = BTreeMap::new();
    let asked = |service: &k8s::Service| {
        service
            .spec
            .as_ref()?
            .cluster_ip
            .clone()
            .filter(|address| !address.is_empty())
    };
    for (key, service) in services {
        if let Some(address) = asked(service).and_then(|address| address.parse().ok()) {
            addresses.insert(key.clone(), address);
        }
    }
    let mut taken: BTreeSet<Ipv4Addr> = addresses.values().copied().chain([DNS]).collect();
    for (key, service) in services {
        if asked(service).is_none() {
            let kept = before
                .get(key)
                .copied()
                .filter(|address| !taken.contains(address));
            let address = kept.unwrap_or_else(|| free_address(key, &taken));
            taken.insert(address);
            addresses.insert(key.clone(), address);
        }
    }
    addresses
}

fn free_address(key: &Key, taken: &BTreeSet<Ipv4Addr>) -> Ipv4Addr {
    let digest = Sha256::digest(format!("{}/{}", key.0, key.1));
    let mut number = u16::from_be_bytes([digest[0], digest[1]]);
    loop {
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 96, high, low);
        // 10.96.0.x is kept for what has a fixed address; 0 and 255 only look odd.
        if high != 0 && low != 0 && low != 255 && !taken.contains(&address) {
            return address;
        }
        number = number.wrapping_add(1);
    }
}

fn target(port: &k8s::ServicePort, pod: &PodView) -> Option<u16> {
    match &port.target_port {
        None => port.port.try_into().ok(),
        Some(IntOrString::Int(number)) => (*number).try_into().ok(),
        Some(IntOrString::String(name)) => {
            pod.ports.get(name).copied().or_else(|| name.parse().ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(selector: &str, port: k8s::ServicePort) -> k8s::Service {
        k8s::Service {
            spec: Some(k8s::ServiceSpec {
                selector: Some(BTreeMap::from([("app".into(), selector.into())])),
                ports: Some(vec![port]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pod(name: &str, app: &str) -> PodView {
        PodView {
            namespace: "shop".into(),
            name: name.into(),
            ip: Ipv4Addr::new(10, 244, 0, 2),
            ip6: Ipv6Addr::LOCALHOST,
            labels: BTreeMap::from([("app".into(), app.into())]),
            hostname: None,
            ports: BTreeMap::from([("http".into(), 8000)]),
            ready: true,
            terminating: false,
        }
    }

    #[test]
    fn selects_by_labels_and_resolves_named_ports() {
        let port = k8s::ServicePort {
            port: 80,
            target_port: Some(IntOrString::String("http".into())),
            ..Default::default()
        };
        let key = ("shop".to_owned(), "web".to_owned());
        let services = BTreeMap::from([(key.clone(), service("web", port))]);
        let mut leaving = pod("web-2", "web");
        leaving.terminating = true;
        let pods = [pod("web-1", "web"), leaving, pod("db-1", "db")];
        let views = resolve(&services, &cluster_ips(&services, &BTreeMap::new()), &pods);
        let found: Vec<_> = views[0]
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.pod.as_str(), endpoint.ready, endpoint.ports[0]))
            .collect();
        assert_eq!(
            found,
            [("web-1", true, Some(8000)), ("web-2", false, Some(8000))]
        );
    }

    #[test]
    fn addresses_are_unique_stable_and_as_asked() {
        let mut services = BTreeMap::new();
        for number in 0..2000 {
            services.insert(
                ("shop".to_owned(), format!("s{number}")),
                service("x", k8s::ServicePort::default()),
            );
        }
        let mut fixed = service("x", k8s::ServicePort::default());
        fixed.spec.get_or_insert_default().cluster_ip = Some("10.96.7.7".into());
        let mut headless = fixed.clone();
        headless.spec.get_or_insert_default().cluster_ip = Some("None".into());
        services.insert(("shop".into(), "fixed".into()), fixed);
        services.insert(("shop".into(), "headless".into()), headless);
        let first = cluster_ips(&services, &BTreeMap::new());
        assert_eq!(first.len(), 2001);
        assert_eq!(first.values().collect::<BTreeSet<_>>().len(), 2001);
        assert_eq!(
            first[&("shop".into(), "fixed".into())],
            Ipv4Addr::new(10, 96, 7, 7)
        );
        assert_eq!(cluster_ips(&services, &first), first);
        services.remove(&("shop".to_owned(), "s7".to_owned()));
        let second = cluster_ips(&services, &first);
        assert!(second.iter().all(|(key, address)| first[key] == *address));
    }
}
