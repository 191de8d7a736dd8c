//! The controller's `kubernetes` source: what it tells of a cluster, whatever happens to its watches.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    authentication::v1::TokenRequest,
    batch::v1::Job,
    core::v1::{Namespace, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use mesh_api::names;
use mesh_controller::{
    index::{Index, Name},
    source::{Event, Kind, Kubernetes, Object, ReviewError, Source},
};
use mesh_tests::{cluster::Cluster, link::Link};
use prometheus_client::registry::Registry;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

const NAMESPACE: &str = "shop";
/// Back-off of a watch included.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_told_and_answers_a_proxy() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let shop = Shop::new(cluster.client().await).await;
    shop.replica_set().await;
    shop.pod("web-5d4f-1", "10.1.0.1").await;
    let cluster_ip = shop.service().await;
    shop.slice(&["10.1.0.1"]).await;

    let mut watch = Watch::start(cluster.client().await);
    watch.until("everything", |watch| watch.synced).await;
    let key = |kind, name: &str| watch.told.contains_key(&(kind, name.to_owned()));
    assert!(key(Kind::Namespace, NAMESPACE) && key(Kind::Service, "web"));
    assert!(key(Kind::ReplicaSet, "web-5d4f") && key(Kind::EndpointSlice, "web-x"));
    let Object::Pod(pod) = &watch.told[&(Kind::Pod, "web-5d4f-1".to_owned())] else {
        panic!("not a pod");
    };
    assert_eq!(pod.metadata.managed_fields, None, "pruned");

    let destination = format!("{cluster_ip}:80").parse().expect("an address");
    let seen = watch.index.watch_destination(destination);
    let endpoint = &seen.endpoints[&"10.1.0.1:8080".parse().expect("an address")];
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/shop/sa/web");
    let workload = endpoint.workload.as_ref().map(ToString::to_string);
    assert_eq!(workload.as_deref(), Some("rollout/web"), "not a Deployment");

    shop.pod("web-5d4f-2", "10.1.0.2").await;
    shop.replace_slice(&["10.1.0.2"]).await;
    watch
        .until("the other endpoint", |watch| {
            let seen = watch.index.watch_destination(destination);
            seen.endpoints
                .keys()
                .map(|at| at.ip().to_string())
                .eq(["10.1.0.2"])
        })
        .await;
    shop.delete::<Pod>("web-5d4f-2").await;
    watch
        .until("the deletion", |watch| {
            watch
                .index
                .watch_destination(destination)
                .endpoints
                .is_empty()
        })
        .await;

    shop.cron_job().await;
    watch
        .until("the job's owner", |watch| {
            watch
                .told
                .contains_key(&(Kind::Job, "nightly-1".to_owned()))
        })
        .await;
    shop.owned_pod("nightly-1-x", "Job", "nightly-1", "10.1.0.3")
        .await;
    watch
        .until("the job's pod", |watch| {
            let pod = watch
                .index
                .objects()
                .pod(&Name::new(NAMESPACE, "nightly-1-x"));
            pod.is_some_and(|pod| pod.workload.to_string() == "cronjob/nightly")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_while_the_api_server_can_not_be_reached_is_told_afterwards() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let link = Link::to(&cluster).await;
    let shop = Shop::new(cluster.client().await).await;
    for name in ["stays", "goes"] {
        shop.pod(name, "10.1.0.1").await;
    }
    let mut watch = Watch::start(link.client());
    watch.until("everything", |watch| watch.synced).await;

    // A connection that breaks: the watch goes on.
    link.cut();
    shop.pod("new", "10.1.0.4").await;
    watch.until("a new pod", |watch| watch.has_pod("new")).await;

    link.down();
    watch
        .until("that it notices", |watch| {
            watch.metric("source_connected{kind=\"pods\"} 0")
        })
        .await;
    shop.delete::<Pod>("goes").await;
    shop.pod("late", "10.1.0.5").await;
    assert!(
        watch.has_pod("goes") && watch.has_pod("stays"),
        "known things stay known"
    );
    link.up();
    watch
        .until("what was missed", |watch| {
            watch.has_pod("late") && !watch.has_pod("goes")
        })
        .await;
    assert!(watch.has_pod("stays") && watch.has_pod("new"));
    watch
        .until("that it works again", |watch| {
            watch.metric("source_connected{kind=\"pods\"} 1")
        })
        .await;
    assert!(watch.metric("source_differences_total{kind=\"pods\"} 0"));
}

/// In memory only: nobody can make a real API server forget in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_too_old_is_listed_again_and_deletions_are_found() {
    let Some(cluster) = Cluster::in_memory() else {
        return;
    };
    let link = Link::to(&cluster).await;
    let shop = Shop::new(cluster.client().await).await;
    for name in ["stays", "goes"] {
        shop.pod(name, "10.1.0.1").await;
    }
    let mut watch = Watch::start(link.client());
    watch.until("everything", |watch| watch.synced).await;
    link.down();
    shop.delete::<Pod>("goes").await;
    shop.pod("new", "10.1.0.4").await;
    assert!(cluster.compact());
    link.up();
    watch
        .until("what was missed", |watch| {
            watch.has_pod("new") && !watch.has_pod("goes")
        })
        .await;
    assert!(watch.has_pod("stays"));
    // What a list shows to be gone is told before the list counts as complete.
    watch
        .until("that it was listed again", |watch| {
            watch.metric("source_lists_total{kind=\"pods\"} 2")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_reviewed() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let link = Link::to(&cluster).await;
    let shop = Shop::new(cluster.client().await).await;
    let pod = shop.pod("web-1", "10.1.0.1").await;
    let bound =
        json!({"kind": "Pod", "apiVersion": "v1", "name": "web-1", "uid": pod.metadata.uid});
    let source = Kubernetes::new(link.client(), &mut Registry::default());

    let good = shop.token(names::TOKEN_AUDIENCE, Some(&bound)).await;
    let caller = source.review(&good).await.expect("a caller");
    let caller = (&*caller.namespace, &*caller.service_account, &*caller.pod);
    assert_eq!(caller, ("shop", "web", "web-1"));

    // The signature's first character.
    let (signed, signature) = good.rsplit_once('.').expect("a JWT");
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{signed}.{other}{}", &signature[1..]);
    let elsewhere = shop.token("https://elsewhere.example", Some(&bound)).await;
    let unbound = shop.token(names::TOKEN_AUDIENCE, None).await;
    for (what, token) in [
        ("forged", &*forged),
        ("for another audience", &*elsewhere),
        ("of no pod", &*unbound),
        ("nonsense", "nonsense"),
        ("empty", ""),
    ] {
        let refused = source.review(token).await;
        assert!(
            matches!(refused, Err(ReviewError::Invalid)),
            "{what}: {refused:?}"
        );
    }
    shop.delete::<Pod>("web-1").await;
    // The API server remembers the answers to reviews for some seconds.
    let refused = timeout(SOON, async {
        while source.review(&good).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    refused.await.expect("a token dies with its pod");

    link.down();
    let unknown = source.review(&good).await;
    assert!(
        matches!(unknown, Err(ReviewError::Unavailable(_))),
        "{unknown:?}"
    );
}

/// What a source has told, put together.
struct Watch {
    events: mpsc::Receiver<Event>,
    registry: Registry,
    synced: bool,
    told: BTreeMap<(Kind, String), Object>,
    index: Index,
}

impl Watch {
    fn start(client: Client) -> Self {
        let mut registry = Registry::default();
        let source = Kubernetes::new(client, &mut registry);
        Self {
            events: source.watch().expect("a watch"),
            registry,
            synced: false,
            told: BTreeMap::new(),
            index: Index::new("cluster.local"),
        }
    }

    /// Takes what is told until it is enough.
    async fn until(&mut self, what: &str, mut enough: impl FnMut(&mut Self) -> bool) {
        let waited = timeout(SOON, async {
            while !enough(self) {
                // Metrics change without an event.
                let event = timeout(Duration::from_millis(50), self.events.recv());
                if let Ok(event) = event.await {
                    self.take(event.expect("a source that goes on"));
                }
            }
        });
        let is_enough = waited.await.is_ok();
        assert!(
            is_enough,
            "not told of {what}; told: {:?}",
            self.told.keys()
        );
    }

    fn take(&mut self, event: Event) {
        match &event {
            Event::Applied(object) => {
                let key = object.key();
                self.told
                    .insert((key.kind, key.name), Object::clone(object));
            }
            Event::Deleted(key) => {
                self.told.remove(&(key.kind, key.name.clone()));
            }
            Event::Synced => self.synced = true,
        }
        self.index.apply(event);
    }

    fn has_pod(&self, name: &str) -> bool {
        self.told.contains_key(&(Kind::Pod, name.to_owned()))
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text.lines().any(|it| it == line)
    }
}

/// A namespace with a service account, and what controllers would make in it.
struct Shop(Client);

impl Shop {
    async fn new(client: Client) -> Self {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = object(json!({"metadata": {"name": NAMESPACE}}));
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .expect("a namespace");
        let shop = Self(client);
        for account in ["web", "default"] {
            shop.create::<ServiceAccount>(json!({"metadata": {"name": account}}))
                .await;
        }
        shop
    }

    /// As a Deployment's, but of somebody else.
    async fn replica_set(&self) {
        let labels = json!({"app": "web", "pod-template-hash": "5d4f"});
        self.create::<ReplicaSet>(json!({
            "metadata": {"name": "web-5d4f", "labels": labels, "ownerReferences": owner("example.com/v1", "Rollout", "web")},
            "spec": {
                "replicas": 0, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web"}]}},
            },
        }))
        .await;
    }

    async fn cron_job(&self) {
        self.create::<Job>(json!({
            "metadata": {"name": "nightly-1", "ownerReferences": owner("batch/v1", "CronJob", "nightly")},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "n", "image": "n"}]}}},
        }))
        .await;
    }

    /// A running, meshed pod of the ReplicaSet.
    async fn pod(&self, name: &str, ip: &str) -> Pod {
        self.owned_pod(name, "ReplicaSet", "web-5d4f", ip).await
    }

    async fn owned_pod(&self, name: &str, kind: &str, of: &str, ip: &str) -> Pod {
        let group = if kind == "Job" { "batch/v1" } else { "apps/v1" };
        let pod = self.create::<Pod>(json!({
            "metadata": {
                "name": name, "labels": {"app": "web", "pod-template-hash": "5d4f"},
                "annotations": {names::ANNOTATION_PROXY: "true"}, "ownerReferences": owner(group, kind, of),
            },
            "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "web", "ports": [{"containerPort": 8080}]}]},
        }));
        let pod = pod.await;
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        let pods: Api<Pod> = Api::namespaced(self.0.clone(), NAMESPACE);
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("the pod's status");
        pod
    }

    /// Returns its ClusterIP.
    async fn service(&self) -> String {
        let service = self.create::<Service>(json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }));
        let spec = service.await.spec;
        spec.and_then(|spec| spec.cluster_ip).expect("a ClusterIP")
    }

    async fn slice(&self, ips: &[&str]) {
        self.create::<EndpointSlice>(slice(ips)).await;
    }

    async fn replace_slice(&self, ips: &[&str]) {
        let slices: Api<EndpointSlice> = Api::namespaced(self.0.clone(), NAMESPACE);
        let endpoints = json!({"endpoints": slice(ips)["endpoints"]});
        slices
            .patch("web-x", &PatchParams::default(), &Patch::Merge(endpoints))
            .await
            .expect("the slice");
    }

    async fn token(&self, audience: &str, bound: Option<&Value>) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.0.clone(), NAMESPACE);
        let request: TokenRequest = object(
            json!({"spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound}}),
        );
        let token = accounts
            .create_token_request("web", &PostParams::default(), &request)
            .await;
        let status = token.expect("a token").status;
        status.and_then(|status| status.token).expect("a token")
    }

    async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.0.clone(), NAMESPACE);
        let created = api.create(&PostParams::default(), &object(value)).await;
        created.unwrap_or_else(|error| panic!("creating a {}: {error}", K::kind(&())))
    }

    /// At once: no kubelet is there to let a pod end.
    async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.0.clone(), NAMESPACE);
        let now = DeleteParams::default().grace_period(0);
        api.delete(name, &now).await.expect("a deletion");
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}

fn owner(api_version: &str, kind: &str, name: &str) -> Value {
    json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": "6e5b0e0b-0000-4000-8000-000000000001", "controller": true}])
}

fn slice(ips: &[&str]) -> Value {
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|ip| {
            let pod = format!("web-5d4f-{}", ip.rsplit('.').next().unwrap_or_default());
            json!({"addresses": [ip], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod}})
        })
        .collect();
    json!({
        "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}
