//! Single behaviours; `cluster` has what only a real cluster does, `random` the properties.

mod cluster;
mod random;

use mesh_api::v1::Protocol;
use serde_json::{Value, json};

use super::*;
use crate::source::{Kind as ObjectKind, Object, ObjectKey};

fn applied(value: Value) -> Event {
    let object = match value["kind"].as_str().unwrap() {
        "Namespace" => Object::Namespace(serde_json::from_value(value).unwrap()),
        "Pod" => Object::Pod(serde_json::from_value(value).unwrap()),
        "Service" => Object::Service(serde_json::from_value(value).unwrap()),
        "ReplicaSet" => {
            Object::ReplicaSet(serde_json::from_value(value["metadata"].clone()).unwrap())
        }
        "Job" => Object::Job(serde_json::from_value(value["metadata"].clone()).unwrap()),
        _ => Object::EndpointSlice(serde_json::from_value(value).unwrap()),
    };
    Event::Applied(Box::new(object))
}

fn namespace(name: &str, annotations: Value) -> Event {
    applied(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}),
    )
}

fn pod(name: &str, ips: &[&str], annotations: Value) -> Event {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    applied(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": name, "annotations": annotations,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "1", "controller": true}],
        },
        "spec": {"serviceAccountName": "web-account", "containers": [{"name": "web", "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": ips},
    }))
}

fn meshed(name: &str, ip: &str) -> Event {
    pod(name, &[ip], json!({"mesh.internal/proxy": "true"}))
}

fn service(ips: &[&str], port: Value, annotations: Value) -> Event {
    applied(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web", "annotations": annotations},
        "spec": {"clusterIPs": ips, "ports": [port]},
    }))
}

fn slice(name: &str, port: Value, endpoints: &[(&str, &str, Value)]) -> Event {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, pod, conditions)| {
            json!({"addresses": [ip], "conditions": conditions, "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod}})
        })
        .collect();
    applied(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [port], "endpoints": endpoints,
    }))
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A Service `web` 10.96.0.10:80 → 8080 over two pods, `a` meshed and `b` not.
fn shop() -> Index {
    let mut index = Index::new("cluster.local");
    index.apply(meshed("a", "10.244.0.2"));
    index.apply(pod("b", &["10.244.0.3"], json!({})));
    index.apply(service(
        &["10.96.0.10"],
        json!({"name": "http", "port": 80}),
        json!({}),
    ));
    index.apply(slice(
        "web-1",
        json!({"name": "http", "port": 8080}),
        &[
            ("10.244.0.2", "a", json!({"ready": true})),
            ("10.244.0.3", "b", json!({})),
        ],
    ));
    index
}

#[test]
fn a_service_is_its_ready_endpoints() {
    let mut index = shop();
    let destination = index.watch_destination(at("10.96.0.10:80"));
    assert!(
        matches!(&destination.kind, Kind::Service(service) if service.name == "web" && service.port == 80)
    );
    assert_eq!(destination.endpoints.len(), 2);
    let a = &destination.endpoints[&at("10.244.0.2:8080")];
    assert_eq!(a.identity, "spiffe://cluster.local/ns/shop/sa/web-account");
    assert_eq!(a.workload.as_ref().unwrap().to_string(), "deployment/web");
    assert_eq!((a.pod.as_str(), a.weight), ("a", 1));
    assert_eq!(
        destination.endpoints[&at("10.244.0.3:8080")].identity,
        "",
        "not meshed"
    );

    for conditions in [
        json!({"ready": false}),
        json!({"ready": false, "serving": true, "terminating": true}),
    ] {
        let changes = index.apply(slice(
            "web-1",
            json!({"name": "http", "port": 8080}),
            &[
                ("10.244.0.2", "a", conditions),
                ("10.244.0.3", "b", json!({})),
            ],
        ));
        for change in changes.destinations {
            let delta = change.delta.unwrap();
            assert_eq!(
                (delta.upsert.len(), &delta.remove[..]),
                (0, &[at("10.244.0.2:8080")][..])
            );
        }
        assert_eq!(
            index.watch_destination(at("10.96.0.10:80")).endpoints.len(),
            1
        );
    }
}

#[test]
fn other_addresses() {
    let mut index = shop();
    assert_eq!(
        index.watch_destination(at("10.96.0.10:81")).kind,
        Kind::Outside
    );
    assert_eq!(
        index.watch_destination(at("93.184.216.34:443")).kind,
        Kind::Outside
    );
    let pod = index.watch_destination(at("10.244.0.2:9999"));
    assert!(matches!(&pod.kind, Kind::Pod(workload) if workload.name == "web"));
    assert_eq!(
        pod.endpoints.keys().collect::<Vec<_>>(),
        [&at("10.244.0.2:9999")]
    );
    // Galera's, and the admin port of the proxy, which Prometheus asks for metrics.
    for address in ["10.244.0.2:4567", "10.244.0.2:4191"] {
        let skipped = index.watch_destination(at(address));
        let identity = &skipped.endpoints[&at(address)].identity;
        assert_eq!(identity, "", "{address} is not redirected to the proxy");
    }
    let gone = index.apply(Event::Deleted(ObjectKey {
        kind: ObjectKind::Pod,
        namespace: "shop".into(),
        name: "a".into(),
    }));
    assert!(
        gone.destinations
            .iter()
            .all(|change| change.after.kind == Kind::Outside)
    );
    assert_eq!(gone.destinations.len(), 3);
}

#[test]
fn an_endpoint_ahead_of_its_pod_is_not_dialled_in_clear() {
    let mut index = Index::new("cluster.local");
    index.apply(service(&["10.96.0.10"], json!({"port": 80}), json!({})));
    index.apply(slice(
        "web-1",
        json!({"port": 8080}),
        &[("10.244.0.2", "a", json!({}))],
    ));
    assert!(
        index
            .watch_destination(at("10.96.0.10:80"))
            .endpoints
            .is_empty()
    );
    let changes = index.apply(meshed("a", "10.244.0.2"));
    assert_ne!(
        changes.destinations[0].after.endpoints[&at("10.244.0.2:8080")].identity,
        ""
    );
}

#[test]
fn both_families() {
    let mut index = Index::new("cluster.local");
    index.apply(pod("a", &["10.244.0.2", "fd00::2"], json!({})));
    index.apply(service(
        &["10.96.0.10", "fd00:96::10"],
        json!({"port": 80}),
        json!({}),
    ));
    index.apply(slice(
        "v4",
        json!({"port": 8080}),
        &[("10.244.0.2", "a", json!({}))],
    ));
    index.apply(slice(
        "v6",
        json!({"port": 8080}),
        &[("fd00::2", "a", json!({}))],
    ));
    let keys = |address: &str, index: &mut Index| -> Vec<SocketAddr> {
        index
            .watch_destination(at(address))
            .endpoints
            .keys()
            .copied()
            .collect()
    };
    assert_eq!(keys("10.96.0.10:80", &mut index), [at("10.244.0.2:8080")]);
    assert_eq!(keys("[fd00:96::10]:80", &mut index), [at("[fd00::2]:8080")]);
}

#[test]
fn protocols_agree_on_both_sides() {
    let protocol = |port: Value, on_service: Value, on_namespace: Value, on_pod: Value| {
        let mut index = shop();
        index.apply(namespace("shop", on_namespace));
        index.apply(pod("b", &["10.244.0.3"], on_pod));
        let target = port["targetPort"].as_u64().unwrap_or(8080);
        let service_port = port["port"].as_u64().unwrap();
        let name = port["name"].clone();
        index.apply(service(&["10.96.0.10"], port, on_service));
        index.apply(slice(
            "web-1",
            json!({"name": name, "port": target}),
            &[("10.244.0.3", "b", json!({}))],
        ));
        let service = index
            .watch_destination(at(&format!("10.96.0.10:{service_port}")))
            .protocol;
        let direct = index
            .watch_destination(at(&format!("10.244.0.3:{target}")))
            .protocol;
        let inbound = index.watch_inbound(&Name::new("shop", "b"));
        let inbound = inbound
            .ports
            .iter()
            .find(|port| port.port == target as u32)
            .unwrap();
        assert_eq!(inbound.protocol(), direct);
        assert_eq!(inbound.service.as_ref().unwrap().port, service_port as u32);
        assert_eq!(service, direct);
        service
    };
    let none = || json!({});
    let opaque = |ports: &str| json!({"mesh.internal/opaque-ports": ports});
    let http = || json!({"name": "x", "port": 80, "appProtocol": "http"});
    assert_eq!(
        protocol(json!({"name": "x", "port": 80}), none(), none(), none()),
        Protocol::Detect
    );
    assert_eq!(protocol(http(), none(), none(), none()), Protocol::Http);
    assert_eq!(
        protocol(
            json!({"port": 80, "appProtocol": "kubernetes.io/h2c"}),
            none(),
            none(),
            none()
        ),
        Protocol::Http2
    );
    assert_eq!(
        protocol(http(), opaque("80"), none(), none()),
        Protocol::Opaque
    );
    assert_eq!(
        protocol(http(), none(), opaque("80,8080"), none()),
        Protocol::Opaque
    );
    assert_eq!(
        protocol(http(), none(), none(), opaque("8000-9000")),
        Protocol::Opaque
    );
    assert_eq!(
        protocol(json!({"port": 5432}), none(), none(), none()),
        Protocol::Opaque,
        "by default"
    );
    assert_eq!(
        protocol(
            json!({"port": 80, "targetPort": 6379}),
            none(),
            none(),
            none()
        ),
        Protocol::Opaque,
        "by default"
    );
    assert_eq!(
        protocol(json!({"port": 5432}), opaque(""), none(), none()),
        Protocol::Detect,
        "nothing is opaque"
    );
    assert_eq!(
        protocol(
            json!({"port": 5432, "appProtocol": "http"}),
            none(),
            none(),
            none()
        ),
        Protocol::Http
    );
}

#[test]
fn an_unknown_pod_has_the_policy_of_every_pod() {
    let mut index = Index::new("cluster.local");
    let inbound = index.watch_inbound(&Name::new("shop", "a"));
    assert!(
        inbound
            .ports
            .iter()
            .any(|port| port.port == 5432 && port.protocol() == Protocol::Opaque)
    );
    let changes = index.apply(meshed("a", "10.244.0.2"));
    assert_eq!(
        changes.inbounds[0].1.workload.as_ref().unwrap().to_string(),
        "deployment/web"
    );
}

#[test]
fn a_heartbeat_changes_nothing() {
    let mut index = shop();
    index.watch_destination(at("10.96.0.10:80"));
    index.watch_inbound(&Name::new("shop", "a"));
    let changes = index.apply(meshed("a", "10.244.0.2"));
    assert!(changes.destinations.is_empty() && changes.inbounds.is_empty());
}
