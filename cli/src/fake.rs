//! A mesh that only answers questions, for tests: the Observe service on an abstract socket.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener as StdListener},
    },
    pin::Pin,
};

use futures_util::Stream;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use mesh_api::v1::{
    Edge, EdgesRequest, EdgesResponse, EndpointRow, EndpointsRequest, EndpointsResponse,
    InventoryRequest, InventoryResponse, Security, StatRequest, StatResponse, StatRow, TapEvent,
    TapRequest, TopRequest, TopResponse, TopRow, Traffic, Workload,
    observe_server::{Observe, ObserveServer},
};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

use crate::client::LocalMesh;

/// Starts a fake of this name on the current runtime; it ends with it.
pub(crate) fn start(name: &str) -> LocalMesh {
    let mesh = LocalMesh {
        uid: nix::unistd::geteuid().as_raw(),
        name: format!("{name}-{}", std::process::id()),
    };
    let path = format!("mesh/{}/{}/observe", mesh.uid, mesh.name);
    let address = SocketAddr::from_abstract_name(path).unwrap();
    let listener = StdListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    let service = TowerToHyperService::new(ObserveServer::new(Fake));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    mesh
}

struct Fake;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Observe for Fake {
    type TapStream = Pin<Box<dyn Stream<Item = Result<TapEvent, Status>> + Send>>;

    async fn stat(&self, request: Request<StatRequest>) -> Answer<StatResponse> {
        let selector = request.into_inner().selector.unwrap_or_default();
        if !matches!(selector.name.as_str(), "" | "web") {
            let message = format!("there is no {:?}: did you mean \"web\"?", selector.name);
            return Err(Status::not_found(message));
        }
        let row = |kind: &str| StatRow {
            namespace: "shop".into(),
            kind: kind.into(),
            name: "web".into(),
            pods: 3,
            meshed_pods: 3,
            ..Default::default()
        };
        let kinds = ["deployment", "service", "namespace"];
        let rows = match selector.kind.as_str() {
            "" => kinds[..2].iter().map(|kind| row(kind)).collect(),
            kind => vec![row(kind)],
        };
        Ok(Response::new(StatResponse { rows, window_s: 42 }))
    }

    async fn edges(&self, _: Request<EdgesRequest>) -> Answer<EdgesResponse> {
        let edge = |destination, success| Edge {
            source: workload("web"),
            destination: workload(destination),
            security: Security::Mtls.into(),
            tcp_open: 2,
            traffic: Some(Traffic {
                success,
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok(Response::new(EdgesResponse {
            edges: vec![edge("store", 0), edge("cart", 9)],
        }))
    }

    async fn top(&self, _: Request<TopRequest>) -> Answer<TopResponse> {
        let row = TopRow {
            source: workload("web"),
            destination: workload("cart"),
            method: "GET".into(),
            route: "/carts/{id}".into(),
            security: Security::Mtls.into(),
            traffic: Some(Traffic {
                success: 9,
                failure: 1,
                rps: 1.0,
                secured: 10,
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok(Response::new(TopResponse { rows: vec![row] }))
    }

    async fn endpoints(&self, _: Request<EndpointsRequest>) -> Answer<EndpointsResponse> {
        let rows = vec![EndpointRow::default()];
        Ok(Response::new(EndpointsResponse { rows }))
    }

    async fn tap(&self, _: Request<TapRequest>) -> Answer<Self::TapStream> {
        let events = futures_util::stream::iter([Ok(TapEvent::default())]);
        Ok(Response::new(Box::pin(events)))
    }

    async fn inventory(&self, _: Request<InventoryRequest>) -> Answer<InventoryResponse> {
        Ok(Response::new(InventoryResponse::default()))
    }
}

fn workload(name: &str) -> Option<Workload> {
    Some(Workload {
        namespace: "shop".into(),
        kind: "deployment".into(),
        name: name.into(),
    })
}
