//! What this proxy believes, as `/config` shows it. Times are in seconds since the Unix epoch.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_api::v1::{Protocol, ServicePort, Workload};
use pem::{EncodeConfig, LineEnding, Pem};
use serde::Serialize;

use super::Admin;
use crate::balance::BreakerState;
use crate::discovery::{self, Kind};
use crate::metrics::EndpointLoad;
use crate::tls::Credentials;

#[derive(Serialize)]
pub(super) struct Belief {
    version: &'static str,
    namespace: String,
    pod: String,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready_because: Option<&'static str>,
    controller: Option<Controller>,
    certificate: Option<Certificate>,
    trust_bundle: Option<Bundle>,
    inbound: Inbound,
    destinations: Vec<Destination>,
}

#[derive(Serialize)]
struct Controller {
    address: String,
    identity: String,
    /// If not, what follows is what was known last.
    connected: bool,
}

#[derive(Serialize)]
struct Certificate {
    identity: String,
    not_before: u64,
    not_after: u64,
    /// Negative once it is over.
    expires_in_s: i64,
    /// The leaf first, PEM.
    chain_pem: String,
}

#[derive(Serialize)]
struct Bundle {
    trust_domain: String,
    roots_sha256: Vec<String>,
}

#[derive(Serialize)]
struct Inbound {
    workload: Option<String>,
    zone: String,
    ports: Vec<InboundPort>,
}

#[derive(Serialize)]
struct InboundPort {
    port: u16,
    protocol: &'static str,
    service: Option<String>,
}

#[derive(Serialize)]
struct Destination {
    address: SocketAddr,
    kind: &'static str,
    /// "namespace/service:port" or "namespace/kind/name".
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    protocol: &'static str,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize)]
struct Endpoint {
    address: SocketAddr,
    pod: String,
    workload: Option<String>,
    zone: String,
    weight: u32,
    /// None: dialled in clear.
    identity: Option<String>,
    /// None until it was used.
    load: Option<Load>,
}

#[derive(Serialize)]
struct Load {
    /// Peak-EWMA of the round-trip time, milliseconds.
    ewma_ms: f64,
    pending: u32,
    breaker: &'static str,
    consecutive_failures: u32,
}

impl Belief {
    pub(super) fn of(admin: &Admin) -> Self {
        let unready = admin.unready();
        let published = admin.metrics.endpoint_loads();
        let loads = published
            .iter()
            .map(|load| ((load.service.as_deref(), load.state.address), load));
        let loads: Loads<'_> = loads.collect();
        let destinations = admin.discovery.destinations();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            namespace: admin.config.namespace.clone(),
            pod: admin.config.pod.clone(),
            ready: unready.is_none(),
            not_ready_because: unready,
            controller: admin
                .config
                .controller
                .as_ref()
                .map(|controller| Controller {
                    address: format!("{}:{}", controller.host, controller.port),
                    identity: controller.identity.to_string(),
                    connected: admin.discovery.is_connected(),
                }),
            certificate: admin
                .tls
                .credentials()
                .map(|credentials| (&*credentials).into()),
            trust_bundle: admin.tls.bundle().map(|bundle| Bundle {
                trust_domain: bundle.domain().to_owned(),
                roots_sha256: bundle.fingerprints(),
            }),
            inbound: (&**admin.discovery.inbound().borrow()).into(),
            destinations: destinations
                .iter()
                .map(|known| Destination::new(known, &loads))
                .collect(),
        }
    }
}

/// By service and endpoint: an endpoint has a load of its own in each service that it is part of.
type Loads<'a> = HashMap<(Option<&'a ServicePort>, SocketAddr), &'a EndpointLoad>;

impl Destination {
    fn new(known: &discovery::Destination, loads: &Loads<'_>) -> Self {
        let (kind, name, service) = match &known.kind {
            Kind::Service(service) => ("service", Some(service.to_string()), Some(&**service)),
            Kind::Pod(workload) => ("pod", workload_name(workload), None),
            Kind::Outside => ("outside", None, None),
        };
        let endpoints = known.endpoints.iter().map(|endpoint| Endpoint {
            address: endpoint.address,
            pod: endpoint.pod.to_string(),
            workload: workload_name(&endpoint.workload),
            zone: endpoint.zone.to_string(),
            weight: endpoint.weight,
            identity: endpoint.identity.as_ref().map(ToString::to_string),
            load: loads
                .get(&(service, endpoint.address))
                .map(|load| Load::from(*load)),
        });
        Self {
            address: known.address,
            kind,
            name,
            protocol: protocol_name(known.protocol),
            endpoints: endpoints.collect(),
        }
    }
}

impl From<&EndpointLoad> for Load {
    fn from(load: &EndpointLoad) -> Self {
        Self {
            ewma_ms: load.state.ewma.as_secs_f64() * 1000.0,
            pending: load.state.pending,
            breaker: match load.state.breaker {
                BreakerState::Closed => "closed",
                BreakerState::Open => "open",
                BreakerState::Probing => "probing",
            },
            consecutive_failures: load.state.consecutive_failures,
        }
    }
}

impl From<&discovery::Inbound> for Inbound {
    fn from(inbound: &discovery::Inbound) -> Self {
        let mut ports: Vec<_> = inbound
            .ports
            .iter()
            .map(|(port, known)| InboundPort {
                port: *port,
                protocol: protocol_name(known.protocol),
                service: known.service.as_ref().map(ToString::to_string),
            })
            .collect();
        ports.sort_by_key(|port| port.port);
        Self {
            workload: workload_name(&inbound.workload),
            zone: inbound.zone.clone(),
            ports,
        }
    }
}

impl From<&Credentials> for Certificate {
    fn from(credentials: &Credentials) -> Self {
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs()
        };
        let (not_after, now) = (seconds(credentials.not_after()), seconds(SystemTime::now()));
        Self {
            identity: credentials.identity().to_string(),
            not_before: seconds(credentials.not_before()),
            not_after,
            expires_in_s: not_after.cast_signed().saturating_sub(now.cast_signed()),
            chain_pem: chain_pem(credentials),
        }
    }
}

fn chain_pem(credentials: &Credentials) -> String {
    let chain = credentials.chain().iter();
    let blocks: Vec<_> = chain
        .map(|der| Pem::new("CERTIFICATE", der.to_vec()))
        .collect();
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_many_config(&blocks, config)
}

fn workload_name(workload: &Workload) -> Option<String> {
    (!workload.name.is_empty()).then(|| format!("{}/{workload}", workload.namespace))
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detect",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Tls => "tls",
        Protocol::Opaque => "opaque",
    }
}
