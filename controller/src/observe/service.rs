//! The Observe service: what the CLI asks.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Instant};

use futures_util::{Stream, stream};
use mesh_api::v1::{
    EdgesRequest, EdgesResponse, EndpointsRequest, EndpointsResponse, InventoryRequest,
    InventoryResponse, ProxyInfo, Selector, ServicePort, StatRequest, StatResponse, TapEvent,
    TapRequest, TopRequest, TopResponse, Workload, observe_server::Observe,
};
use tonic::{Request, Response, Status};

use super::{
    Observatory, flows,
    selector::{NAMESPACE, POD, Resource, SERVICE, check},
    stat::{self, Scope},
};

/// Where a request names no window, seconds.
const DEFAULT_WINDOW: u32 = 60;

/// Answers from the observatory.
pub(crate) struct ObserveService(pub(crate) Arc<Observatory>);

impl ObserveService {
    /// # Errors
    /// NOT_FOUND if a selector names what nobody knows.
    fn known(&self, selectors: &[&Selector]) -> Result<(), Status> {
        let known: BTreeSet<Resource> = self.inventory().into_keys().collect();
        selectors
            .iter()
            .try_for_each(|selector| check(selector, &known))
    }

    fn inventory(&self) -> std::collections::BTreeMap<Resource, stat::Pods> {
        self.0
            .hub
            .with_objects(|objects| stat::inventory(objects, &self.0.store()))
    }
}

#[tonic::async_trait]
impl Observe for ObserveService {
    type TapStream = Pin<Box<dyn Stream<Item = Result<TapEvent, Status>> + Send>>;

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let StatRequest {
            selector,
            window_s,
            to,
            from,
        } = request.into_inner();
        let selector = selector.unwrap_or_default();
        let scope = match (to, from) {
            (None, None) => Scope::All,
            (Some(to), None) => Scope::To(to),
            (None, Some(from)) => Scope::From(from),
            (Some(_), Some(_)) => {
                return Err(Status::invalid_argument("at most one of to and from"));
            }
        };
        match &scope {
            Scope::All => self.known(&[&selector])?,
            Scope::To(other) | Scope::From(other) => self.known(&[&selector, other])?,
        }
        let inventory = self.inventory();
        let (store, now) = (self.0.store(), Instant::now());
        let window = store.window(or_default(window_s), now);
        let rows = stat::rows(&store, &inventory, &selector, &scope, window, now);
        Ok(Response::new(StatResponse {
            rows,
            window_s: window.length() as u32,
        }))
    }

    async fn edges(
        &self,
        request: Request<EdgesRequest>,
    ) -> Result<Response<EdgesResponse>, Status> {
        let EdgesRequest { selector, window_s } = request.into_inner();
        let selector = selector.unwrap_or_default();
        self.known(&[&selector])?;
        let (store, now) = (self.0.store(), Instant::now());
        let window = store.window(or_default(window_s), now);
        Ok(Response::new(EdgesResponse {
            edges: flows::edges(&store, &selector, window, now),
        }))
    }

    async fn top(&self, request: Request<TopRequest>) -> Result<Response<TopResponse>, Status> {
        let TopRequest { selector, window_s } = request.into_inner();
        let selector = selector.unwrap_or_default();
        self.known(&[&selector])?;
        let store = self.0.store();
        let window = store.window(or_default(window_s), Instant::now());
        Ok(Response::new(TopResponse {
            rows: flows::top(&store, &selector, window),
        }))
    }

    async fn endpoints(
        &self,
        request: Request<EndpointsRequest>,
    ) -> Result<Response<EndpointsResponse>, Status> {
        let selector = request.into_inner().selector.unwrap_or_default();
        self.known(&[&selector])?;
        let rows = flows::endpoints(&self.0.store(), &selector, Instant::now());
        Ok(Response::new(EndpointsResponse { rows }))
    }

    async fn tap(&self, request: Request<TapRequest>) -> Result<Response<Self::TapStream>, Status> {
        let TapRequest { filter, max_rps } = request.into_inner();
        let filter = filter.unwrap_or_default();
        let sides = [&filter.workload, &filter.to, &filter.from]
            .into_iter()
            .flatten();
        let selectors: Vec<Selector> = sides
            .map(|side| Selector {
                namespace: side.namespace.clone(),
                kind: side.kind.clone(),
                name: side.name.clone(),
            })
            .collect();
        self.known(&selectors.iter().collect::<Vec<_>>())?;
        let listener = self.0.taps.open(filter, max_rps)?;
        let events = stream::unfold(listener, |mut listener| async move {
            Some((Ok(listener.events.recv().await?), listener))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn inventory(
        &self,
        _: Request<InventoryRequest>,
    ) -> Result<Response<InventoryResponse>, Status> {
        let rows = self.inventory();
        let of_kind = |kind: &'static str| rows.keys().filter(move |row| row.kind == kind);
        let workloads = rows
            .keys()
            .filter(|row| row.bare || ![SERVICE, POD, NAMESPACE].contains(&row.kind.as_str()));
        let services = self.0.hub.with_objects(|objects| {
            let ports = objects.services().flat_map(|(name, service)| {
                service.ports.iter().map(|port| ServicePort {
                    namespace: name.namespace.to_string(),
                    name: name.name.to_string(),
                    port: port.port.into(),
                })
            });
            let mut services: Vec<ServicePort> = ports.collect();
            services.sort_by(|a, b| {
                (&a.namespace, &a.name, a.port).cmp(&(&b.namespace, &b.name, b.port))
            });
            services
        });
        let (store, now) = (self.0.store(), Instant::now());
        let present = store
            .reporters()
            .filter(|(_, reporter)| reporter.is_present(now));
        let mut proxies: Vec<ProxyInfo> = present
            .map(|(pod, reporter)| ProxyInfo {
                namespace: pod.namespace.to_string(),
                pod: pod.name.to_string(),
                workload: Some(reporter.workload.clone()),
                version: reporter.version.clone(),
                identity: reporter.identity.clone(),
                certificate_expires: reporter.certificate_expires,
            })
            .collect();
        proxies.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        Ok(Response::new(InventoryResponse {
            controller_version: env!("CARGO_PKG_VERSION").into(),
            namespaces: of_kind(NAMESPACE).map(|row| row.name.clone()).collect(),
            workloads: workloads
                .map(|row| Workload {
                    namespace: row.namespace.clone(),
                    kind: row.kind.clone(),
                    name: row.name.clone(),
                })
                .collect(),
            services,
            proxies,
        }))
    }
}

fn or_default(window_s: u32) -> u32 {
    if window_s == 0 {
        DEFAULT_WINDOW
    } else {
        window_s
    }
}
