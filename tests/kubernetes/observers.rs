//! Replicas of a controller as far as the command line sees them: pods in the API, and sockets of this machine
//! behind their ports that give fixed answers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Output},
};

use futures_util::{Stream, StreamExt, stream};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use mesh_api::{
    Sketch,
    names::{OBSERVE_PORT, SYSTEM_NAMESPACE},
    v1::{
        Edge, EdgesRequest, EdgesResponse, EndpointRow, EndpointsRequest, EndpointsResponse,
        InventoryRequest, InventoryResponse, ProxyInfo, Security, StatRequest, StatResponse,
        StatRow, TapEvent, TapRequest, TopRequest, TopResponse, TopRow, Traffic, Workload,
        observe_server::{Observe, ObserveServer},
    },
};
use mesh_tests::cluster::Cluster;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{Status, body::Body};

/// A cluster with a runtime for what stands in for its pods.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) runtime: Runtime,
    pub(crate) client: Client,
}

impl Stage {
    /// `None` where no API server can be run.
    pub(crate) fn new() -> Option<Self> {
        let cluster = Cluster::start()?;
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(cluster.client());
        Some(Self {
            cluster,
            runtime,
            client,
        })
    }

    /// A namespace, with the service account that every pod needs and nobody else makes here.
    pub(crate) fn namespace(&self, name: &str, labels: Value) {
        self.create(
            ("", "v1", "Namespace"),
            "",
            json!({"metadata": {"name": name, "labels": labels}}),
        );
        let account = json!({"metadata": {"name": "default"}});
        self.create(("", "v1", "ServiceAccount"), name, account);
    }

    /// Creates an object, and sets its status if it has one.
    pub(crate) fn create(&self, kind: (&str, &str, &str), namespace: &str, mut object: Value) {
        let (group, version, name) = kind;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, name));
        object["apiVersion"] = resource.api_version.clone().into();
        object["kind"] = name.into();
        let api: Api<DynamicObject> = match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let status = object["status"].take();
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        self.runtime.block_on(async {
            let created = api.create(&PostParams::default(), &object).await;
            let created = created.expect("the object is taken");
            if !status.is_null() {
                let patch = Patch::Merge(json!({ "status": status }));
                let name = created.metadata.name.unwrap_or_default();
                let patched = api
                    .patch_status(&name, &PatchParams::default(), &patch)
                    .await;
                patched.expect("its status is taken");
            }
        });
    }

    /// A pod of the controller, with a status as the kubelet would write it.
    pub(crate) fn controller(&self, pod: &str, ready: bool) {
        let status = match ready {
            true => {
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
            }
            false => json!({"phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/1 nodes are available",
            }]}),
        };
        let object = json!({
            "metadata": {"name": pod, "labels": {"mesh.internal/component": "controller"}},
            "spec": {
                "nodeName": "node-1",
                "automountServiceAccountToken": false,
                "containers": [{"name": "mesh-controller", "image": concat!("localhost/mesh/mesh-controller:", env!("CARGO_PKG_VERSION"))}],
            },
            "status": status,
        });
        self.create(("", "v1", "Pod"), SYSTEM_NAMESPACE, object);
    }

    /// Serves fixed answers behind the Observe port of a pod. `false` where ports can't be forwarded.
    pub(crate) fn observer(&self, pod: &str, replica: u64) -> bool {
        let service = TowerToHyperService::new(ObserveServer::new(Fixed { replica }));
        let address = self.serve(move |stream| {
            let service = service.clone();
            async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        self.cluster
            .serve_pod_ports(SYSTEM_NAMESPACE, pod, [(OBSERVE_PORT, address)])
    }

    /// Answers every request with the same JSON, as a proxy's admin port does.
    pub(crate) fn web(&self, body: String) -> SocketAddr {
        self.serve(move |stream| {
            let body = body.clone();
            async move {
                let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                    let body = body.clone();
                    async move { Ok::<_, Infallible>(Response::new(Body::new(body))) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })
    }

    /// Hands every connection to a free port of loopback on.
    pub(crate) fn serve<F>(
        &self,
        connection: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
    ) -> SocketAddr
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("its address");
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream));
            }
        });
        address
    }

    /// Runs `mesh` on this cluster.
    pub(crate) fn mesh(&self, words: &str) -> Said {
        mesh(self.cluster.kubeconfig(), words)
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) good: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// The standard output of a command that went well, which is JSON.
    pub(crate) fn json(self) -> Value {
        assert!(self.good, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            good: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The command `mesh WORDS --kubeconfig FILE`, without what this machine's user has set.
pub(crate) fn command(kubeconfig: &Path, words: &str) -> Command {
    let mut command = Command::new(mesh_tests::binary::mesh());
    command
        .args(words.split_whitespace())
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .env_remove("KUBECONFIG")
        .env_remove("MESH_NAME")
        .env_remove("MESH_NAMESPACE");
    command
}

/// Runs it to its end.
pub(crate) fn mesh(kubeconfig: &Path, words: &str) -> Said {
    command(kubeconfig, words)
        .output()
        .expect("mesh runs")
        .into()
}

/// A kubeconfig beside another one, changed.
pub(crate) fn changed(kubeconfig: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let text = std::fs::read_to_string(kubeconfig).expect("the kubeconfig");
    // Kubeconfigs of the harness are JSON, which is YAML too.
    let mut value: Value = serde_json::from_str(&text).expect("JSON");
    change(&mut value);
    let path = kubeconfig.with_extension("changed");
    std::fs::write(&path, value.to_string()).expect("a file beside it");
    path
}

/// Replica 1 counts once, replica 2 twice; what only one has heard of, the other does not know.
struct Fixed {
    replica: u64,
}

type Answer<T> = Result<tonic::Response<T>, Status>;

impl Fixed {
    fn traffic(&self) -> Option<Traffic> {
        let mut latency = Sketch::default();
        (0..10 * self.replica).for_each(|_| latency.record(1000 * self.replica));
        Some(Traffic {
            success: 9 * self.replica,
            failure: self.replica,
            rps: self.replica as f64,
            latency: Some((&latency).into()),
            retried: 0,
            secured: 10 * self.replica,
        })
    }
}

#[tonic::async_trait]
impl Observe for Fixed {
    type TapStream = Pin<Box<dyn Stream<Item = Result<TapEvent, Status>> + Send>>;

    async fn stat(&self, request: tonic::Request<StatRequest>) -> Answer<StatResponse> {
        let selector = request.into_inner().selector.unwrap_or_default();
        if selector.kind == "namespace" {
            return Ok(tonic::Response::new(StatResponse::default()));
        }
        let own = format!("only-{}", self.replica);
        let rows: Vec<StatRow> = ["web", own.as_str()]
            .into_iter()
            .filter(|name| selector.name.is_empty() || selector.name == *name)
            .map(|name| StatRow {
                namespace: "shop".into(),
                kind: "deployment".into(),
                name: name.into(),
                pods: 3,
                meshed_pods: 3,
                traffic: self.traffic(),
                tcp_open: self.replica,
                ..StatRow::default()
            })
            .collect();
        if rows.is_empty() {
            let what = format!(
                "there is no deployment {:?}: did you mean \"web\"?",
                selector.name
            );
            return Err(Status::not_found(what));
        }
        Ok(tonic::Response::new(StatResponse { rows, window_s: 60 }))
    }

    async fn edges(&self, _: tonic::Request<EdgesRequest>) -> Answer<EdgesResponse> {
        let edge = Edge {
            source: workload("web"),
            destination: workload("cart"),
            security: Security::Mtls.into(),
            traffic: self.traffic(),
            tcp_open: self.replica,
            ..Edge::default()
        };
        Ok(tonic::Response::new(EdgesResponse { edges: vec![edge] }))
    }

    async fn top(&self, _: tonic::Request<TopRequest>) -> Answer<TopResponse> {
        let row = TopRow {
            source: workload("web"),
            destination: workload("cart"),
            method: "GET".into(),
            route: "/carts/{id}".into(),
            security: Security::Mtls.into(),
            traffic: self.traffic(),
            rps_history: vec![self.replica as f32; 30],
            ..TopRow::default()
        };
        Ok(tonic::Response::new(TopResponse { rows: vec![row] }))
    }

    async fn endpoints(&self, _: tonic::Request<EndpointsRequest>) -> Answer<EndpointsResponse> {
        let rows = vec![EndpointRow::default()];
        Ok(tonic::Response::new(EndpointsResponse { rows }))
    }

    async fn tap(&self, _: tonic::Request<TapRequest>) -> Answer<Self::TapStream> {
        let event = TapEvent {
            source: workload("web"),
            source_pod: format!("web-{}", self.replica),
            destination: workload("cart"),
            path: "/".into(),
            status: 200,
            ..TapEvent::default()
        };
        // As a tap does, it goes on.
        let events = stream::iter([Ok(event)]).chain(stream::pending());
        Ok(tonic::Response::new(Box::pin(events)))
    }

    async fn inventory(&self, _: tonic::Request<InventoryRequest>) -> Answer<InventoryResponse> {
        Ok(tonic::Response::new(InventoryResponse {
            controller_version: env!("CARGO_PKG_VERSION").into(),
            namespaces: vec!["shop".into()],
            proxies: vec![ProxyInfo {
                namespace: "shop".into(),
                pod: format!("web-{}", self.replica),
                workload: workload("web"),
                version: "0.0.9".into(),
                certificate_expires: u64::from(u32::MAX),
                ..ProxyInfo::default()
            }],
            ..InventoryResponse::default()
        }))
    }
}

fn workload(name: &str) -> Option<Workload> {
    Some(Workload {
        namespace: "shop".into(),
        kind: "deployment".into(),
        name: name.into(),
    })
}
