//! The names of Services and pods (Kubernetes' DNS-Based Service Discovery specification, 1.1.0). Pure.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::local::engine::services::{EndpointView, ServiceView};

/// The zone's own name.
pub(crate) const DOMAIN: &str = "cluster.local";

/// Every name there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zone {
    names: BTreeMap<String, Records>,
}

/// What is known of a name. Empty: the name exists, but has no such records.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Records {
    pub(crate) a: Vec<Ipv4Addr>,
    pub(crate) aaaa: Vec<Ipv6Addr>,
    /// Port and target.
    pub(crate) srv: Vec<(u16, String)>,
}

impl Zone {
    /// The names of these Services and pods.
    pub(crate) fn new<'a>(
        services: &[ServiceView],
        pods: impl Iterator<Item = (&'a str, Ipv4Addr)>,
    ) -> Self {
        let mut zone = Self::default();
        zone.entry(&format!("svc.{DOMAIN}"));
        for (namespace, ip) in pods {
            let dashed = ip.to_string().replace('.', "-");
            zone.entry(&format!("{dashed}.{namespace}.pod.{DOMAIN}"))
                .a
                .push(ip);
        }
        for service in services {
            zone.add(service);
        }
        zone
    }

    /// What is known of a name in lower case without its last dot; `None`: there is no such name.
    pub(crate) fn find(&self, name: &str) -> Option<&Records> {
        self.names.get(name)
    }

    fn add(&mut self, service: &ServiceView) {
        let base = format!("{}.{}.svc.{DOMAIN}", service.name, service.namespace);
        let records = self.entry(&base);
        if let Some(address) = service.cluster_ip {
            records.a.push(address);
            for port in &service.ports {
                self.srv(
                    &base,
                    port.name.as_deref(),
                    &port.protocol,
                    port.port,
                    base.clone(),
                );
            }
            return;
        }
        for endpoint in service.endpoints.iter().filter(|endpoint| endpoint.ready) {
            self.address(&base, service, endpoint);
            // A pod without a name of its own is named by its address, as CoreDNS does.
            let own = match &endpoint.hostname {
                Some(hostname) => format!("{hostname}.{base}"),
                None => format!("{}.{base}", endpoint.ip.to_string().replace('.', "-")),
            };
            self.address(&own, service, endpoint);
            for (port, target) in service.ports.iter().zip(&endpoint.ports) {
                if let Some(target) = target {
                    self.srv(
                        &base,
                        port.name.as_deref(),
                        &port.protocol,
                        *target,
                        own.clone(),
                    );
                }
            }
        }
    }

    fn address(&mut self, name: &str, service: &ServiceView, endpoint: &EndpointView) {
        let records = self.entry(name);
        records.a.push(endpoint.ip);
        if service.ipv6 {
            records.aaaa.push(endpoint.ip6);
        }
    }

    fn srv(&mut self, base: &str, name: Option<&str>, protocol: &str, port: u16, target: String) {
        // Only named ports have a SRV name (section 2.3.2 of the specification).
        if let Some(name) = name {
            let protocol = protocol.to_ascii_lowercase();
            self.entry(&format!("_{name}._{protocol}.{base}"))
                .srv
                .push((port, target));
        }
    }

    /// The name's records; the names above it exist too (RFC 8020).
    fn entry(&mut self, name: &str) -> &mut Records {
        let mut above = name;
        while let Some((_, rest)) = above.split_once('.') {
            if !rest.ends_with(DOMAIN) {
                break;
            }
            self.names.entry(rest.to_owned()).or_default();
            above = rest;
        }
        self.names.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::engine::services::PortView;

    fn zone(cluster_ip: Option<Ipv4Addr>) -> Zone {
        let endpoint = EndpointView {
            pod: "db-0".into(),
            ip: Ipv4Addr::new(10, 244, 0, 7),
            ip6: Ipv6Addr::LOCALHOST,
            hostname: Some("db-0".into()),
            ports: vec![Some(5432)],
            ready: true,
            serving: true,
            terminating: false,
        };
        let mut leaving = endpoint.clone();
        leaving.ready = false;
        let service = ServiceView {
            namespace: "shop".into(),
            name: "db".into(),
            cluster_ip,
            ipv6: false,
            ports: vec![PortView {
                name: Some("sql".into()),
                port: 5432,
                protocol: "TCP".into(),
                app_protocol: None,
            }],
            endpoints: vec![endpoint, leaving],
        };
        Zone::new(&[service], std::iter::empty())
    }

    #[test]
    fn a_cluster_ip_has_one_address_and_no_ipv6() {
        let address = Ipv4Addr::new(10, 96, 1, 1);
        let zone = zone(Some(address));
        let found = zone.find("db.shop.svc.cluster.local").unwrap();
        assert_eq!((found.a.as_slice(), found.aaaa.len()), (&[address][..], 0));
        let srv = &zone
            .find("_sql._tcp.db.shop.svc.cluster.local")
            .unwrap()
            .srv;
        assert_eq!(srv, &[(5432, "db.shop.svc.cluster.local".to_owned())]);
    }

    #[test]
    fn a_headless_service_has_its_ready_pods() {
        let zone = zone(None);
        let pod = Ipv4Addr::new(10, 244, 0, 7);
        assert_eq!(zone.find("db.shop.svc.cluster.local").unwrap().a, [pod]);
        assert_eq!(
            zone.find("db-0.db.shop.svc.cluster.local").unwrap().a,
            [pod]
        );
        let srv = &zone
            .find("_sql._tcp.db.shop.svc.cluster.local")
            .unwrap()
            .srv;
        assert_eq!(srv, &[(5432, "db-0.db.shop.svc.cluster.local".to_owned())]);
    }

    #[test]
    fn names_above_a_name_exist_and_others_do_not() {
        let zone = zone(None);
        for name in [
            "cluster.local",
            "svc.cluster.local",
            "shop.svc.cluster.local",
            "_tcp.db.shop.svc.cluster.local",
        ] {
            assert_eq!(zone.find(name), Some(&Records::default()), "{name}");
        }
        for name in ["web.shop.svc.cluster.local", "local", "example.org"] {
            assert_eq!(zone.find(name), None, "{name}");
        }
    }
}
