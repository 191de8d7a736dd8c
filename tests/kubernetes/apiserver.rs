//! What every test here relies on, asked of the in-memory server and of a real one alike.

mod admission;
mod apply;
mod faults;
mod kinds;
mod objects;
mod patches;
mod portforward;
mod tokens;
mod watches;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{
    Api, Client, Error,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind, Status},
};
use mesh_tests::cluster::Cluster;
use serde_json::{Value, json};

/// A cluster, a client, and a namespace of a random name.
struct Place {
    cluster: Cluster,
    client: Client,
    namespace: String,
}

impl Place {
    async fn new() -> Option<Self> {
        let cluster = Cluster::start()?;
        let client = cluster.client().await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = json!({ "metadata": { "generateName": "apiserver-" } });
        let namespace = serde_json::from_value(namespace).expect("a namespace");
        let created = namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .expect("a namespace");
        Some(Self {
            cluster,
            client,
            namespace: created.metadata.name.expect("a generated name"),
        })
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of any kind, as they are on the wire.
    fn objects(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let resource = resource(version, kind);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Objects of the cluster, of any kind.
    fn cluster_objects(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource(version, kind))
    }
}

fn resource(version: &str, kind: &str) -> ApiResource {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// A typed object written as JSON.
fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of this kind")
}

/// A config map with one entry.
fn config_map(name: &str, value: &str) -> ConfigMap {
    object(json!({ "metadata": { "name": name }, "data": { "key": value } }))
}

/// A pod that no node runs.
fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    })
}

/// The refusal that a request met.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Status {
    match result.expect_err("a refusal") {
        Error::Api(status) => *status,
        other => panic!("not an answer of the API server: {other}"),
    }
}
