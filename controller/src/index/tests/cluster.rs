//! What only a real cluster does.

use super::*;

/// An object of `namespace` shop with an owner.
fn owned(kind: &str, name: &str, labels: Value, owner: Value) -> Value {
    json!({
        "kind": kind,
        "metadata": {"namespace": "shop", "name": name, "labels": labels, "ownerReferences": owner},
        "spec": {"containers": []},
        "status": {"podIPs": [{"ip": "10.0.0.9"}]},
    })
}

fn owner(kind: &str, name: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true}])
}

fn workload(index: &Index, pod: &str) -> String {
    let pod = index.objects().pod(&Name::new("shop", pod)).unwrap();
    pod.workload.to_string()
}

fn endpoints(index: &mut Index, address: &str) -> Vec<String> {
    let destination = index.watch_destination(at(address));
    destination
        .endpoints
        .keys()
        .map(SocketAddr::to_string)
        .collect()
}

fn delete(kind: ObjectKind, name: &str) -> Event {
    Event::Deleted(ObjectKey {
        kind,
        namespace: "shop".into(),
        name: name.into(),
    })
}

#[test]
fn a_pod_is_a_part_of_what_its_owners_are_a_part_of() {
    let hash = || json!({"pod-template-hash": "5d4f"});
    for (expected, labels, owner) in [
        ("deployment/web", hash(), owner("ReplicaSet", "web-5d4f")),
        ("replicaset/web", json!({}), owner("ReplicaSet", "web")),
        ("statefulset/db", json!({}), owner("StatefulSet", "db")),
        ("daemonset/agent", json!({}), owner("DaemonSet", "agent")),
        ("job/once", json!({}), owner("Job", "once")),
        ("pod/alone", json!({}), json!([])),
        // A static pod.
        ("pod/alone", json!({}), owner("Node", "node-1")),
    ] {
        let mut index = Index::new("cluster.local");
        index.apply(applied(owned("Pod", "alone", labels, owner)));
        assert_eq!(workload(&index, "alone"), expected);
    }
}

#[test]
fn an_owner_that_is_known_later_names_its_pods() {
    let mut index = Index::new("cluster.local");
    let hash = || json!({"pod-template-hash": "5d4f"});
    index.apply(applied(owned(
        "Pod",
        "nightly-1-x",
        json!({}),
        owner("Job", "nightly-1"),
    )));
    index.apply(applied(owned(
        "Pod",
        "web-1",
        hash(),
        owner("ReplicaSet", "web-5d4f"),
    )));
    index.watch_inbound(&Name::new("shop", "nightly-1-x"));
    assert_eq!(workload(&index, "nightly-1-x"), "job/nightly-1");

    let changes = index.apply(applied(owned(
        "Job",
        "nightly-1",
        json!({}),
        owner("CronJob", "nightly"),
    )));
    assert_eq!(changes.inbounds.len(), 1, "its proxy hears of it");
    assert_eq!(workload(&index, "nightly-1-x"), "cronjob/nightly");
    // Before the pod.
    index.apply(applied(owned(
        "Pod",
        "nightly-1-y",
        json!({}),
        owner("Job", "nightly-1"),
    )));
    assert_eq!(workload(&index, "nightly-1-y"), "cronjob/nightly");

    // A controller that is not a Deployment, but makes ReplicaSets as one does; or none.
    index.apply(applied(owned(
        "ReplicaSet",
        "web-5d4f",
        hash(),
        owner("Rollout", "web"),
    )));
    assert_eq!(workload(&index, "web-1"), "rollout/web");
    index.apply(applied(owned("ReplicaSet", "web-5d4f", hash(), json!([]))));
    assert_eq!(workload(&index, "web-1"), "replicaset/web-5d4f");
    index.apply(applied(owned(
        "ReplicaSet",
        "web-5d4f",
        hash(),
        owner("Deployment", "web"),
    )));
    assert_eq!(workload(&index, "web-1"), "deployment/web");

    index.apply(delete(ObjectKind::Job, "nightly-1"));
    assert_eq!(workload(&index, "nightly-1-x"), "job/nightly-1");
}

#[test]
fn terminating_endpoints_serve_while_nothing_is_ready() {
    let leaving = || json!({"ready": false, "serving": true, "terminating": true});
    let gone = || json!({"ready": false, "serving": false, "terminating": true});
    let mut index = shop();
    let port = || json!({"name": "http", "port": 8080});
    let mut set = |a: Value, b: Value| {
        let pods = [("10.244.0.2", "a", a), ("10.244.0.3", "b", b)];
        index.apply(slice("web-1", port(), &pods));
        endpoints(&mut index, "10.96.0.10:80")
    };
    assert_eq!(set(leaving(), json!({"ready": true})), ["10.244.0.3:8080"]);
    assert_eq!(set(leaving(), json!({"ready": false})), ["10.244.0.2:8080"]);
    assert_eq!(set(leaving(), gone()), ["10.244.0.2:8080"]);
    assert!(set(gone(), gone()).is_empty());
    // publishNotReadyAddresses: the EndpointSlice controller says ready whatever happens.
    let published = json!({"ready": true, "serving": false, "terminating": true});
    assert_eq!(set(published, gone()), ["10.244.0.2:8080"]);
}

#[test]
fn an_endpoint_in_two_slices_is_one() {
    let mut index = shop();
    let port = json!({"name": "http", "port": 8080});
    // As while the EndpointSlice controller moves it.
    index.apply(slice(
        "web-2",
        port,
        &[("10.244.0.2", "a", json!({"ready": true}))],
    ));
    assert_eq!(endpoints(&mut index, "10.96.0.10:80").len(), 2);
    index.apply(delete(ObjectKind::EndpointSlice, "web-1"));
    assert_eq!(endpoints(&mut index, "10.96.0.10:80"), ["10.244.0.2:8080"]);
}

#[test]
fn named_target_ports_differ_between_pods() {
    let mut index = shop();
    index.apply(slice(
        "web-1",
        json!({"name": "http", "port": 8080}),
        &[("10.244.0.2", "a", json!({}))],
    ));
    index.apply(slice(
        "web-2",
        json!({"name": "http", "port": 9090}),
        &[("10.244.0.3", "b", json!({}))],
    ));
    let expected = ["10.244.0.2:8080", "10.244.0.3:9090"];
    assert_eq!(endpoints(&mut index, "10.96.0.10:80"), expected);
}

#[test]
fn a_port_without_a_slice_is_a_service_without_endpoints() {
    let mut index = shop();
    index.apply(applied(json!({
        "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIPs": ["10.96.0.10"], "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
    })));
    let admin = index.watch_destination(at("10.96.0.10:81"));
    assert!(matches!(&admin.kind, Kind::Service(service) if service.port == 81));
    assert!(admin.endpoints.is_empty());
    assert_eq!(
        index.watch_destination(at("10.96.0.10:53")).kind,
        Kind::Outside
    );
}

#[test]
fn services_without_an_address_are_reached_at_their_pods() {
    let mut index = shop();
    index.apply(service(
        &["None"],
        json!({"name": "http", "port": 8080, "appProtocol": "http"}),
        json!({}),
    ));
    let pod = index.watch_destination(at("10.244.0.2:8080"));
    assert!(matches!(&pod.kind, Kind::Pod(workload) if workload.name == "web"));
    assert_eq!((pod.protocol, pod.endpoints.len()), (Protocol::Http, 1));
    assert_ne!(pod.endpoints[&at("10.244.0.2:8080")].identity, "");

    index.apply(applied(json!({
        "kind": "Service", "metadata": {"namespace": "shop", "name": "elsewhere"},
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    })));
    assert!(
        index
            .objects()
            .services()
            .any(|(name, _)| &*name.name == "elsewhere")
    );
}

#[test]
fn a_service_without_a_selector_is_what_people_write() {
    let mut index = shop();
    index.apply(applied(json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": "by-hand", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "appProtocol": "kubernetes.io/h2c"}],
        "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["10.244.0.2"]}],
    })));
    index.apply(delete(ObjectKind::EndpointSlice, "web-1"));
    let web = index.watch_destination(at("10.96.0.10:80"));
    assert_eq!(web.protocol, Protocol::Http2, "only the slice says so");
    assert_eq!(web.endpoints[&at("192.0.2.1:8080")].identity, "", "outside");
    assert_ne!(web.endpoints[&at("10.244.0.2:8080")].identity, "", "a pod");
    let inbound = index.watch_inbound(&Name::new("shop", "a"));
    assert!(
        inbound
            .ports
            .iter()
            .any(|port| port.port == 8080 && port.protocol() == Protocol::Http2)
    );

    index.apply(applied(json!({
        "kind": "EndpointSlice", "addressType": "FQDN",
        "metadata": {"namespace": "shop", "name": "by-hand", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["example.com"]}],
    })));
    assert!(endpoints(&mut index, "10.96.0.10:80").is_empty());
}

/// The pod runs in the network of its node, whose address it shares with every other such pod.
fn on_host(name: &str, annotations: Value) -> Event {
    applied(json!({
        "kind": "Pod", "metadata": {"namespace": "shop", "name": name, "annotations": annotations},
        "spec": {"hostNetwork": true, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "192.168.0.1"}]},
    }))
}

#[test]
fn a_nodes_address_has_no_identity() {
    let mut index = shop();
    index.apply(on_host("a", json!({"mesh.internal/proxy": "true"})));
    index.apply(on_host("agent", json!({})));
    index.apply(slice(
        "web-1",
        json!({"name": "http", "port": 8080}),
        &[("192.168.0.1", "a", json!({}))],
    ));
    let web = index.watch_destination(at("10.96.0.10:80"));
    let endpoint = &web.endpoints[&at("192.168.0.1:8080")];
    assert_eq!(
        (endpoint.identity.as_str(), endpoint.pod.as_str()),
        ("", "a")
    );
    assert_eq!(
        index.watch_destination(at("192.168.0.1:8080")).kind,
        Kind::Outside
    );
}

#[test]
fn an_address_belongs_to_the_pod_that_lives() {
    let with_phase = |name: &str, phase: &str, ips: Value| {
        applied(json!({
            "kind": "Pod",
            "metadata": {"namespace": "shop", "name": name, "annotations": {"mesh.internal/proxy": "true"}},
            "spec": {"serviceAccountName": name, "containers": [{"name": "c"}]},
            "status": {"phase": phase, "podIPs": ips},
        }))
    };
    let ip = || json!([{"ip": "10.0.0.7"}]);
    let mut index = Index::new("cluster.local");
    index.apply(with_phase("done", "Succeeded", ip()));
    index.apply(with_phase("waits", "Pending", Value::Null));
    assert_eq!(
        index.watch_destination(at("10.0.0.7:80")).kind,
        Kind::Outside
    );
    index.apply(with_phase("runs", "Running", ip()));
    index.apply(with_phase("failed", "Failed", ip()));
    let identity = &index.watch_destination(at("10.0.0.7:80")).endpoints[&at("10.0.0.7:80")]
        .identity
        .clone();
    assert_eq!(identity, "spiffe://cluster.local/ns/shop/sa/runs");

    // The slice has not heard yet that the pod has ended.
    index.apply(service(&["10.96.0.10"], json!({"port": 80}), json!({})));
    index.apply(slice(
        "web-1",
        json!({"port": 80}),
        &[("10.0.0.7", "done", json!({"ready": true}))],
    ));
    assert!(endpoints(&mut index, "10.96.0.10:80").is_empty());
}

/// A slice of pods `a` on node `n1` in zone `z1`, and `b` on node `n2` in `z2`; `endpoints` has what else each says.
fn placed(endpoints: [Value; 2]) -> Event {
    let places = [
        json!({"addresses": ["10.244.0.2"], "nodeName": "n1", "zone": "z1", "targetRef": {"kind": "Pod", "name": "a"}}),
        json!({"addresses": ["10.244.0.3"], "nodeName": "n2", "zone": "z2", "targetRef": {"kind": "Pod", "name": "b"}}),
    ];
    let endpoints: Vec<Value> = places
        .into_iter()
        .zip(endpoints)
        .map(|(mut endpoint, more)| {
            json_merge(&mut endpoint, more);
            endpoint
        })
        .collect();
    applied(json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
}

fn json_merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

/// The pods that a client is told of.
fn seen_from(index: &mut Index, node: &str, zone: &str) -> Vec<String> {
    let place = Place {
        node: node.into(),
        zone: zone.into(),
    };
    let web = index.watch_destination(at("10.96.0.10:80")).within(&place);
    web.endpoints
        .values()
        .map(|endpoint| endpoint.pod.clone())
        .collect()
}

/// `{"forZones": [{"name": "z1"}]}` and the like.
fn hints(kind: &str, names: &[&str]) -> Value {
    let names: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    json!({"hints": {kind: names}})
}

#[test]
fn clients_use_the_endpoints_for_their_zone() {
    let mut index = shop();
    let mut seen = |[a, b]: [&[&str]; 2], zone: &str| {
        index.apply(placed([hints("forZones", a), hints("forZones", b)]));
        seen_from(&mut index, "n9", zone)
    };
    assert_eq!(seen([&["z1"], &["z2"]], "z2"), ["b"]);
    assert_eq!(seen([&["z1"], &["z2", "z1"]], "z1"), ["a", "b"]);
    assert_eq!(seen([&["z1"], &["z2"]], "z3"), ["a", "b"], "none is for it");
    assert_eq!(
        seen([&["z1"], &["z2"]], ""),
        ["a", "b"],
        "its zone is not known"
    );
    assert_eq!(seen([&["z1"], &[]], "z1"), ["a", "b"], "not all have hints");

    // The pod has no label that says so; its endpoint tells where it is.
    assert_eq!(index.watch_inbound(&Name::new("shop", "a")).zone, "z1");
}

#[test]
fn clients_use_the_endpoints_for_their_node_before_those_for_their_zone() {
    let mut index = shop();
    let both = |node: &str, zone: &str| json!({"hints": {"forNodes": [{"name": node}], "forZones": [{"name": zone}]}});
    index.apply(placed([both("n1", "z1"), both("n2", "z2")]));
    assert_eq!(seen_from(&mut index, "n1", "z2"), ["a"]);
    assert_eq!(seen_from(&mut index, "n9", "z2"), ["b"], "none on its node");
    assert_eq!(seen_from(&mut index, "n9", "z9"), ["a", "b"]);
}

#[test]
fn a_service_with_a_local_policy_is_what_is_on_the_clients_node() {
    let mut index = shop();
    let with_policy = |policy: &str| {
        applied(json!({
            "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIPs": ["10.96.0.10"], "internalTrafficPolicy": policy, "ports": [{"name": "http", "port": 80}]},
        }))
    };
    index.apply(with_policy("Local"));
    index.apply(placed([json!({}), json!({})]));
    assert_eq!(seen_from(&mut index, "n1", ""), ["a"]);
    assert_eq!(seen_from(&mut index, "n9", ""), [""; 0], "none is there");
    assert_eq!(seen_from(&mut index, "", ""), [""; 0], "nobody knows where");

    // What is ready elsewhere does not help; what terminates here does.
    let ends = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    index.apply(placed([ends, json!({})]));
    assert_eq!(seen_from(&mut index, "n1", ""), ["a"]);
    index.apply(with_policy("Cluster"));
    assert_eq!(seen_from(&mut index, "n1", ""), ["b"]);
}
