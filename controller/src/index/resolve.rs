//! From objects to answers: what is behind an address, and what is in front of a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use mesh_api::{
    names,
    v1::{self, Protocol},
};

use super::{
    destination::{Destination, Kind},
    locality::Locality,
    objects::Objects,
    protocol::{Ports, hint, opaque_by_default},
    record::{Name, Pod, Service, ServicePort},
    slice::{Slice, SliceEndpoint, SlicePort, State},
};

/// An annotation may name ranges; a policy lists at most so many ports that nothing else is known of.
const MAX_LISTED_PORTS: usize = 2048;

/// An endpoint of a Service's port that may be used.
struct Target<'a> {
    at: SocketAddr,
    port: &'a SlicePort,
    endpoint: &'a SliceEndpoint,
    pod: Option<(&'a Name, &'a Pod)>,
}

impl Target<'_> {
    /// The node that it is on; empty where nobody says.
    fn node(&self) -> &str {
        match (self.endpoint.node.as_str(), self.pod) {
            ("", Some((_, pod))) => &pod.node,
            (node, _) => node,
        }
    }
}

/// What is in front of a pod's port.
struct Front<'a> {
    name: &'a Name,
    service: &'a Service,
    port: &'a ServicePort,
    /// The port as the slice has it.
    target: &'a SlicePort,
}

impl Objects {
    /// The state of a destination now.
    pub fn destination(&self, address: SocketAddr) -> Destination {
        let at_ip = self.services_by_ip.of(&address.ip()).next();
        if let Some((name, service)) = at_ip.and_then(|name| self.services.get_key_value(name)) {
            return match service
                .ports
                .iter()
                .find(|port| port.port == address.port())
            {
                Some(port) => self.behind_service(address, name, service, port),
                // Nothing listens there: what the kernel answers is as true as anything.
                None => outside(address),
            };
        }
        match self.pod_at(address.ip()) {
            Some((name, pod)) => self.behind_pod(address, name, pod),
            None => outside(address),
        }
    }

    /// The inbound policy of a pod now. Of a pod that is not known yet: what holds for every pod.
    pub fn inbound(&self, name: &Name) -> v1::Inbound {
        let pod = self.pods.get(name);
        let explicit = self.explicit_opaque(name, pod);
        let mut ports: BTreeSet<u16> = pod
            .iter()
            .flat_map(|pod| pod.ports.iter().copied())
            .collect();
        match explicit {
            Some(opaque) => ports.extend(opaque.iter().take(MAX_LISTED_PORTS)),
            None => ports.extend(names::DEFAULT_OPAQUE_PORTS),
        }
        let slices = pod
            .map(|pod| self.slices_of_pod(name, pod))
            .unwrap_or_default();
        ports.extend(
            slices
                .iter()
                .flat_map(|slice| slice.ports.iter().map(|port| port.port)),
        );
        let known = ports.into_iter().filter_map(|port| {
            let (protocol, service) = self.port_of_pod(name, pod, &slices, port);
            (protocol != Protocol::Detect || service.is_some()).then(|| v1::InboundPort {
                port: port.into(),
                protocol: protocol.into(),
                service,
            })
        });
        v1::Inbound {
            ports: known.collect(),
            workload: Some(pod.map_or_else(
                || v1::Workload {
                    namespace: name.namespace.to_string(),
                    kind: "pod".into(),
                    name: name.name.to_string(),
                },
                |pod| pod.workload.clone(),
            )),
            node: pod.map(|pod| pod.node.clone()).unwrap_or_default(),
            zone: pod.map_or("", |pod| zone_of(name, pod, &slices)).into(),
        }
    }

    /// The pods behind a Service, ready or not.
    pub fn pods_of_service(&self, name: &Name) -> BTreeSet<&Name> {
        let slices = self
            .slices_by_service
            .of(name)
            .filter_map(|slice| self.slices.get(slice));
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        endpoints
            .filter_map(|endpoint| Some(self.pod_of(endpoint)?.0))
            .collect()
    }

    fn behind_service(
        &self,
        address: SocketAddr,
        name: &Name,
        service: &Service,
        port: &ServicePort,
    ) -> Destination {
        let targets = self.targets(name, service, port, address.is_ipv4());
        let opaque_target = opaque_by_default(port.port)
            || targets
                .iter()
                .any(|target| opaque_by_default(target.at.port()));
        let opaque_pod = targets.iter().any(|target| {
            let opaque = target.pod.and_then(|(_, pod)| pod.opaque.as_ref());
            opaque.is_some_and(|ports| ports.contains(target.at.port()))
        });
        let explicit = service
            .opaque
            .as_ref()
            .or_else(|| self.namespace_opaque(&name.namespace));
        let mut of_slices = targets.iter().filter_map(|target| target.port.hint());
        let protocol = match explicit {
            _ if opaque_pod => Protocol::Opaque,
            Some(ports) if ports.contains(port.port) => Protocol::Opaque,
            explicit => match port.hint().or_else(|| of_slices.next()) {
                Some(hinted) => hinted,
                None if explicit.is_none() && opaque_target => Protocol::Opaque,
                None => Protocol::Detect,
            },
        };
        let locality = locality(service, &targets);
        Destination {
            address,
            kind: Kind::Service(service_port(name, port)),
            protocol,
            endpoints: targets
                .into_iter()
                .map(|target| {
                    let endpoint = self.endpoint(target.at, target.pod, &target.endpoint.zone);
                    (target.at, endpoint)
                })
                .collect(),
            locality,
        }
    }

    /// The endpoints of a Service's port that may be sent new connections: those that are ready; if there is
    /// none, those that still serve while they terminate.
    fn targets(
        &self,
        name: &Name,
        service: &Service,
        port: &ServicePort,
        ipv4: bool,
    ) -> Vec<Target<'_>> {
        let slices = self
            .slices_by_service
            .of(name)
            .filter_map(|slice| self.slices.get(slice));
        let mut targets = Vec::new();
        for slice in slices {
            for target in slice.ports.iter().filter(|it| it.name == port.name) {
                let family = slice.endpoints.iter().filter(|it| it.ip.is_ipv4() == ipv4);
                for endpoint in family.filter(|it| it.state != State::Unusable) {
                    let pod = self.pod_of(endpoint);
                    // The slice is ahead of its pod. Whether the pod is meshed is not known, so that dialling it now
                    // might send in clear what has to be secured.
                    let unknown = pod.is_none() && endpoint.pod.is_some();
                    // The slice is behind its pod, whose address may be somebody else's now.
                    let finished = pod.is_some_and(|(_, pod)| pod.finished);
                    if !unknown && !finished {
                        let at = SocketAddr::new(endpoint.ip, target.port);
                        targets.push(Target {
                            at,
                            port: target,
                            endpoint,
                            pod,
                        });
                    }
                }
            }
        }
        // Where clients may not leave their node, one that is ready elsewhere is of no use to them.
        let choice = |it: &Target<'_>| service.same_node.then(|| it.node().to_owned());
        let ready = targets
            .iter()
            .filter(|it| it.endpoint.state == State::Ready);
        let ready: BTreeSet<_> = ready.map(choice).collect();
        targets.retain(|it| it.endpoint.state == State::Ready || !ready.contains(&choice(it)));
        targets
    }

    fn behind_pod(&self, address: SocketAddr, name: &Name, pod: &Pod) -> Destination {
        let slices = self.slices_of_pod(name, pod);
        let (protocol, _) = self.port_of_pod(name, Some(pod), &slices, address.port());
        let zone = zone_of(name, pod, &slices);
        let endpoint = self.endpoint(address, Some((name, pod)), zone);
        Destination {
            address,
            kind: Kind::Pod(pod.workload.clone()),
            protocol,
            endpoints: BTreeMap::from([(address, endpoint)]),
            locality: Locality::default(),
        }
    }

    fn endpoint(
        &self,
        address: SocketAddr,
        pod: Option<(&Name, &Pod)>,
        zone: &str,
    ) -> v1::Endpoint {
        // Ports that are not redirected are reached as they are, and nobody there speaks the mesh's TLS.
        let meshed = pod.filter(|(_, pod)| {
            let port = address.port();
            pod.meshed && port != names::ADMIN_PORT && !pod.skipped.contains(port)
        });
        let identity = meshed.and_then(|(name, pod)| self.identity(name, pod));
        v1::Endpoint {
            address: Some(address.into()),
            weight: 1,
            identity: identity.map(|id| id.to_string()).unwrap_or_default(),
            workload: pod.map(|(_, pod)| pod.workload.clone()),
            pod: pod
                .map(|(name, _)| name.name.to_string())
                .unwrap_or_default(),
            zone: zone.to_owned(),
        }
    }

    /// What is known of a pod's port, and the Service in front of it. A client's proxy and the pod's own
    /// proxy are told the same.
    fn port_of_pod(
        &self,
        name: &Name,
        pod: Option<&Pod>,
        slices: &[&Slice],
        port: u16,
    ) -> (Protocol, Option<v1::ServicePort>) {
        let explicit = self.explicit_opaque(name, pod);
        let front = self.front(slices, port);
        let service = front
            .as_ref()
            .map(|front| service_port(front.name, front.port));
        let protocol = if explicit.is_some_and(|ports| ports.contains(port)) {
            Protocol::Opaque
        } else if let Some(front) = front {
            let annotated = front
                .service
                .opaque
                .as_ref()
                .or_else(|| self.namespace_opaque(&front.name.namespace));
            let by_default = || opaque_by_default(port) || opaque_by_default(front.port.port);
            match front.port.hint().or_else(|| front.target.hint()) {
                _ if annotated.is_some_and(|ports| ports.contains(front.port.port)) => {
                    Protocol::Opaque
                }
                Some(hinted) => hinted,
                None if explicit.is_none() && annotated.is_none() && by_default() => {
                    Protocol::Opaque
                }
                None => Protocol::Detect,
            }
        } else if explicit.is_none() && opaque_by_default(port) {
            Protocol::Opaque
        } else {
            Protocol::Detect
        };
        (protocol, service)
    }

    /// The Service through which clients reach a pod's port; of several, one with a ClusterIP, then the first
    /// by name.
    fn front<'a>(&'a self, slices: &[&'a Slice], port: u16) -> Option<Front<'a>> {
        let fronts = slices.iter().flat_map(|slice| {
            let (name, service) = self.services.get_key_value(&slice.service)?;
            let targets = slice.ports.iter().filter(move |target| target.port == port);
            Some(targets.filter_map(move |target| {
                let port = service.ports.iter().find(|it| it.name == target.name)?;
                Some(Front {
                    name,
                    service,
                    port,
                    target,
                })
            }))
        });
        fronts.flatten().min_by_key(|front| {
            let headless = front.service.cluster_ips.is_empty();
            (headless, front.name, front.port.port)
        })
    }

    /// The slices that list this pod.
    fn slices_of_pod(&self, name: &Name, pod: &Pod) -> Vec<&Slice> {
        let is_own = |ip: &&IpAddr| self.pod_at(**ip).is_some_and(|(owner, _)| owner == name);
        let by_ip = pod
            .ips
            .iter()
            .filter(is_own)
            .flat_map(|ip| self.slices_by_ip.of(ip));
        let names: BTreeSet<&Name> = self.slices_by_pod.of(name).chain(by_ip).collect();
        names
            .into_iter()
            .filter_map(|slice| self.slices.get(slice))
            .collect()
    }

    /// The pod that an endpoint names, else the one that has its address (slices that people write by hand
    /// name none).
    fn pod_of(&self, endpoint: &SliceEndpoint) -> Option<(&Name, &Pod)> {
        match &endpoint.pod {
            Some(name) => self.pods.get_key_value(name),
            None => self.pod_at(endpoint.ip),
        }
    }

    fn explicit_opaque<'a>(&'a self, name: &Name, pod: Option<&'a Pod>) -> Option<&'a Ports> {
        pod.and_then(|pod| pod.opaque.as_ref())
            .or_else(|| self.namespace_opaque(&name.namespace))
    }

    fn namespace_opaque(&self, namespace: &str) -> Option<&Ports> {
        self.namespaces.get(namespace)?.opaque.as_ref()
    }
}

impl ServicePort {
    fn hint(&self) -> Option<Protocol> {
        self.app_protocol.as_deref().and_then(hint)
    }
}

impl SlicePort {
    fn hint(&self) -> Option<Protocol> {
        self.app_protocol.as_deref().and_then(hint)
    }
}

/// The zone that the pod says it is in (Kubernetes labels pods with it since 1.35), else the one that the
/// EndpointSlices know. A pod that is behind no Service has none before 1.35; then hints do not matter to it.
fn zone_of<'a>(name: &Name, pod: &'a Pod, slices: &[&'a Slice]) -> &'a str {
    if !pod.zone.is_empty() {
        return &pod.zone;
    }
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let own = endpoints.filter(|endpoint| endpoint.pod.as_ref() == Some(name));
    own.map(|endpoint| endpoint.zone.as_str())
        .find(|zone| !zone.is_empty())
        .unwrap_or_default()
}

fn locality(service: &Service, targets: &[Target<'_>]) -> Locality {
    let nodes = targets.iter().map(|it| (it.at, it.node().to_owned()));
    Locality {
        same_node: service.same_node.then(|| nodes.collect()),
        nodes: hints(targets, |endpoint| &endpoint.for_nodes),
        zones: hints(targets, |endpoint| &endpoint.for_zones),
    }
}

/// One endpoint without a hint makes all of them void (KEP-2433): the hints are being worked out.
fn hints(
    targets: &[Target<'_>],
    of: impl Fn(&SliceEndpoint) -> &Vec<String>,
) -> BTreeMap<SocketAddr, Vec<String>> {
    let hints = targets.iter().map(|it| (it.at, of(it.endpoint).clone()));
    let hints: BTreeMap<_, _> = hints.collect();
    if hints.values().any(Vec::is_empty) {
        return BTreeMap::new();
    }
    hints
}

fn outside(address: SocketAddr) -> Destination {
    Destination {
        address,
        kind: Kind::Outside,
        protocol: if opaque_by_default(address.port()) {
            Protocol::Opaque
        } else {
            Protocol::Detect
        },
        endpoints: BTreeMap::new(),
        locality: Locality::default(),
    }
}

fn service_port(name: &Name, port: &ServicePort) -> v1::ServicePort {
    v1::ServicePort {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        port: port.port.into(),
    }
}
