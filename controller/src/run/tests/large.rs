//! A large cluster: how fast one change travels, and what a pod costs.

use std::sync::Mutex;

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::json;

use super::*;
use crate::source::{Caller, Object, ReviewError, SourceError};

const SERVICES: usize = 1000;
/// Of each service.
const PODS: usize = 10;
const CHANGES: usize = 20;

/// What the test sends.
struct Fed(Mutex<Option<mpsc::Receiver<Event>>>);

impl Source for Fed {
    fn watch(&self) -> Result<mpsc::Receiver<Event>, SourceError> {
        Ok(self.0.lock().unwrap().take().unwrap())
    }

    async fn review(&self, _: &str) -> Result<Caller, ReviewError> {
        Ok(Caller {
            namespace: "shop".into(),
            service_account: "s7".into(),
            pod: "s7-5d4f-0".into(),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_in_a_large_cluster_reaches_a_proxy_within_100_ms() {
    let (events, receiver) = mpsc::channel(1024);
    let mut mesh = Mesh::new();
    let before = resident();
    mesh.start_on(Fed(Mutex::new(Some(receiver))), Registry::default());
    let started = Instant::now();
    for service in 0..SERVICES {
        for n in 0..PODS {
            events.send(pod(service, n)).await.unwrap();
        }
        events.send(front(service)).await.unwrap();
        events.send(slice(service, true)).await.unwrap();
    }
    events.send(Event::Synced).await.unwrap();
    let identity = soon(mesh.certify("any")).await.unwrap();
    println!(
        "{SERVICES} services of {PODS} pods read in {:?}; {} bytes a pod, its part of services and slices included",
        started.elapsed(),
        resident().saturating_sub(before) / (SERVICES * PODS),
    );

    let mut stream = Stream::open(mesh.connect(Some(&identity)).await)
        .await
        .unwrap();
    stream.hello("shop", "s7-5d4f-0").await;
    let destination = address(&format!("{}:80", cluster_ip(7)));
    stream
        .say(discovery_request::Kind::Subscribe(destination))
        .await;
    let initial = soon(async {
        loop {
            if let discovery_update::Kind::Destination(initial) = stream.next().await {
                break initial;
            }
        }
    });
    assert_eq!(initial.await.endpoints.len(), PODS);

    let mut took = Vec::new();
    for change in 0..CHANGES {
        let event = slice(7, change % 2 == 1);
        let sent = Instant::now();
        events.send(event).await.unwrap();
        let update = soon(stream.next()).await;
        took.push(sent.elapsed());
        let discovery_update::Kind::Delta(delta) = update else {
            panic!("{update:?}")
        };
        assert_eq!(delta.upsert.len() + delta.remove.len(), 1);
    }
    took.sort();
    let (median, worst) = (took[CHANGES / 2], took[CHANGES - 1]);
    println!("one change reaches a proxy in {median:?}, at worst {worst:?}");
    assert!(median < Duration::from_millis(100), "{took:?}");
    mesh.stop().await;
}

fn pod(service: usize, n: usize) -> Event {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "namespace": "shop", "name": format!("s{service}-5d4f-{n}"), "resourceVersion": "1234567",
            "creationTimestamp": "2026-11-23T03:00:00Z",
            "labels": {"app": format!("s{service}"), "pod-template-hash": "5d4f", "topology.kubernetes.io/zone": "zone-1"},
            "annotations": {"mesh.internal/proxy": "true"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("s{service}-5d4f"), "uid": "1", "controller": true}],
        },
        "spec": {"serviceAccountName": format!("s{service}"), "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": pod_ip(service, n), "podIPs": [{"ip": pod_ip(service, n)}]},
    }))
    .unwrap();
    Event::Applied(Box::new(Object::Pod(pod)))
}

fn front(service: usize) -> Event {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": format!("s{service}")},
        "spec": {"clusterIPs": [cluster_ip(service)], "ports": [{"name": "http", "port": 80}]},
    }))
    .unwrap();
    Event::Applied(Box::new(Object::Service(service)))
}

/// Its first endpoint is ready or not.
fn slice(service: usize, ready: bool) -> Event {
    let endpoints: Vec<_> = (0..PODS)
        .map(|n| {
            json!({
                "addresses": [pod_ip(service, n)], "conditions": {"ready": n > 0 || ready}, "zone": "zone-1",
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("s{service}-5d4f-{n}")},
            })
        })
        .collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": format!("s{service}-x"), "labels": {"kubernetes.io/service-name": format!("s{service}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
    .unwrap();
    Event::Applied(Box::new(Object::EndpointSlice(slice)))
}

fn pod_ip(service: usize, n: usize) -> String {
    format!("10.{}.{}.{}", 100 + n, service / 250, 1 + service % 250)
}

fn cluster_ip(service: usize) -> String {
    format!("10.96.{}.{}", service / 250, 1 + service % 250)
}

/// Bytes of memory that this process has now.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<usize>().unwrap() * 1024
}
