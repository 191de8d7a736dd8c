use std::time::Duration;

use mesh_api::v1::{
    ConnectionStats, Direction, RequestStats, Security, Selector, ServicePort, Sketch, StatRow,
};
use serde_json::json;

use super::*;
use crate::{
    index::{Index, Objects},
    source::{Event, Object},
};

const SECOND: Duration = Duration::from_secs(1);

fn deployment(name: &str) -> Workload {
    Workload {
        namespace: "shop".into(),
        kind: "deployment".into(),
        name: name.into(),
    }
}

fn web() -> ServicePort {
    ServicePort {
        namespace: "shop".into(),
        name: "web".into(),
        port: 80,
    }
}

/// Pods client-1 and web-1 with proxies, db-1 without; a Service in front of web.
fn index() -> Index {
    let mut index = Index::new("cluster.local");
    for (n, (workload, meshed)) in [("client", true), ("web", true), ("db", false)]
        .into_iter()
        .enumerate()
    {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": format!("{workload}-1"),
                "annotations": {"mesh.internal/proxy": meshed.to_string()},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": workload, "uid": "1"}],
            },
            "status": {"podIP": format!("10.0.0.{}", n + 1)},
        });
        index.apply(Event::Applied(Box::new(Object::Pod(
            serde_json::from_value(pod).unwrap(),
        ))));
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    index.apply(Event::Applied(Box::new(Object::Service(
        serde_json::from_value(service).unwrap(),
    ))));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "web-1"}}],
    });
    index.apply(Event::Applied(Box::new(Object::EndpointSlice(
        serde_json::from_value(slice).unwrap(),
    ))));
    index
}

fn requests(
    direction: Direction,
    peer: Option<&str>,
    security: Security,
    service: bool,
    success: u64,
) -> RequestStats {
    let mut latency = mesh_api::Sketch::default();
    (0..success).for_each(|_| latency.record(5000));
    RequestStats {
        direction: direction.into(),
        service: service.then(web),
        peer: peer.map(deployment),
        peer_pod: peer.map(|peer| format!("{peer}-1")).unwrap_or_default(),
        security: security.into(),
        method: "GET".into(),
        route: "/".into(),
        success,
        latency: Some(Sketch::from(&latency)),
        ..RequestStats::default()
    }
}

/// One second of: the client calls web (20, secured) and db (5); web gets those and 3 from outside of the mesh. A
/// kubelet probes it, too, which is nobody's traffic.
fn traffic(store: &mut Store, now: Instant) {
    let report = |requests: Vec<RequestStats>| TelemetryReport {
        window_ms: 1000,
        requests,
        ..TelemetryReport::default()
    };
    let mut client = report(vec![
        requests(Direction::Outbound, Some("web"), Security::Mtls, true, 20),
        requests(
            Direction::Outbound,
            Some("db"),
            Security::PeerNotMeshed,
            false,
            5,
        ),
    ]);
    client.connections = vec![ConnectionStats {
        direction: Direction::Outbound.into(),
        service: Some(web()),
        peer: Some(deployment("web")),
        peer_pod: "web-1".into(),
        security: Security::Mtls.into(),
        open: 2,
        read_bytes: 100,
        ..ConnectionStats::default()
    }];
    let server = report(vec![
        requests(Direction::Inbound, None, Security::Mtls, true, 20),
        requests(Direction::Inbound, None, Security::PeerNotMeshed, true, 3),
        requests(Direction::Inbound, None, Security::Probe, true, 7),
    ]);
    store.record(
        &Name::new("shop", "client-1"),
        deployment("client"),
        "spiffe://c",
        client,
        now,
    );
    store.record(
        &Name::new("shop", "web-1"),
        deployment("web"),
        "spiffe://w",
        server,
        now,
    );
}

fn stat(
    store: &Store,
    objects: &Objects,
    kind: &str,
    scope: stat::Scope,
    now: Instant,
) -> Vec<StatRow> {
    let selector = Selector {
        kind: kind.into(),
        ..Selector::default()
    };
    let inventory = stat::inventory(objects, store);
    stat::rows(
        store,
        &inventory,
        &selector,
        &scope,
        store.window(10, now),
        now,
    )
}

fn successes(rows: &[StatRow]) -> Vec<(String, u64)> {
    let of = |row: &StatRow| {
        (
            format!("{}/{}", row.kind, row.name),
            row.traffic.as_ref().unwrap().success,
        )
    };
    rows.iter().map(of).collect()
}

fn expect(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter()
        .map(|(name, success)| ((*name).to_owned(), *success))
        .collect()
}

fn named(name: &str) -> Selector {
    Selector {
        kind: "deployment".into(),
        name: name.into(),
        ..Selector::default()
    }
}

#[test]
fn nothing_is_counted_twice() {
    let (index, start) = (index(), Instant::now());
    let (mut store, now) = (Store::new(start), start + SECOND);
    traffic(&mut store, now);
    let objects = index.objects();

    let rows = stat(&store, objects, "", stat::Scope::All, now);
    let expected = [
        ("deployment/client", 0),
        ("deployment/db", 5),
        ("deployment/web", 23),
        ("service/web", 23),
    ];
    assert_eq!(successes(&rows), expect(&expected));
    assert_eq!(rows[2].traffic.as_ref().unwrap().secured, 20);
    assert_eq!(
        (rows[3].pods, rows[3].meshed_pods, rows[3].tcp_open),
        (1, 1, 2)
    );
    assert_eq!((rows[1].pods, rows[1].meshed_pods), (1, 0));

    let pods = stat(&store, objects, "pod", stat::Scope::All, now);
    assert_eq!(
        successes(&pods),
        expect(&[("pod/client-1", 0), ("pod/db-1", 5), ("pod/web-1", 23)])
    );
    let namespaces = stat(&store, objects, "namespace", stat::Scope::All, now);
    assert_eq!(successes(&namespaces), expect(&[("namespace/shop", 28)]));
    assert_eq!((namespaces[0].pods, namespaces[0].meshed_pods), (3, 2));

    let from = stat(&store, objects, "", stat::Scope::From(named("client")), now);
    assert_eq!(
        successes(&from),
        expect(&[
            ("deployment/db", 5),
            ("deployment/web", 20),
            ("service/web", 20)
        ])
    );
    let to = stat(&store, objects, "", stat::Scope::To(named("web")), now);
    assert_eq!(successes(&to), expect(&[("deployment/client", 20)]));
}

#[test]
fn rates_and_latencies() {
    let (index, start) = (index(), Instant::now());
    let mut store = Store::new(start);
    // Reports come a little unevenly; the rate stays what it is.
    for n in 1..=40u32 {
        traffic(
            &mut store,
            start + SECOND * n + Duration::from_millis(if n % 3 == 0 { 60 } else { 0 }),
        );
    }
    let now = start + SECOND * 40 + Duration::from_millis(100);
    let rows = stat(&store, index.objects(), "service", stat::Scope::All, now);
    let traffic = rows[0].traffic.as_ref().unwrap();
    assert!((traffic.rps - 23.0).abs() < 0.5, "{}", traffic.rps);
    let mut latency = mesh_api::Sketch::default();
    latency.merge(traffic.latency.as_ref().unwrap());
    assert_eq!(latency.count(), traffic.success);
    assert!((4700..5300).contains(&latency.quantile(0.5).unwrap()));

    let top = flows::top(&store, &Selector::default(), store.window(10, now));
    assert_eq!(top.len(), 3);
    assert_eq!(top[0].destination, Some(deployment("web")));
    assert_eq!(
        (
            top[0].method.as_str(),
            top[0].route.as_str(),
            top[0].rps_history.len()
        ),
        ("GET", "/", 30)
    );
    assert!(
        top[0]
            .rps_history
            .iter()
            .all(|rps| (rps - 20.0).abs() < 2.0),
        "{:?}",
        top[0].rps_history
    );
}

#[test]
fn edges_say_who_and_why_not() {
    let start = Instant::now();
    let (mut store, now) = (Store::new(start), start + SECOND);
    traffic(&mut store, now);
    let edges = flows::edges(&store, &Selector::default(), store.window(10, now), now);
    let of = |edge: &mesh_api::v1::Edge| {
        let name =
            |workload: &Option<Workload>| workload.as_ref().map_or("?".into(), |w| w.name.clone());
        (
            name(&edge.source),
            name(&edge.destination),
            edge.security(),
            edge.tcp_open,
        )
    };
    let expected = [
        ("?".into(), "web".into(), Security::PeerNotMeshed, 0),
        ("client".into(), "db".into(), Security::PeerNotMeshed, 0),
        ("client".into(), "web".into(), Security::Mtls, 2),
    ];
    assert_eq!(
        edges
            .iter()
            .map(of)
            .collect::<Vec<(String, String, Security, u64)>>(),
        expected
    );
    assert_eq!(edges[2].client_identity, "spiffe://c");
    assert!(flows::edges(&store, &named("nobody"), store.window(10, now), now).is_empty());
    // The proxies fall silent: what was open is not known to be open.
    let later = now + SECOND * 30;
    assert!(flows::edges(&store, &Selector::default(), store.window(10, later), later).is_empty());
}

#[test]
fn what_is_gone_is_forgotten_and_memory_is_bounded() {
    let start = Instant::now();
    let mut store = Store::new(start);
    traffic(&mut store, start + SECOND);
    store.age(start + SECOND * 700);
    assert_eq!((store.reporters().count(), store.size().0), (0, 0));

    let many = (0..30_000).map(|n| RequestStats {
        route: format!("/{n}"),
        ..requests(Direction::Inbound, None, Security::Mtls, false, 1)
    });
    let report = TelemetryReport {
        window_ms: 1000,
        requests: many.collect(),
        ..TelemetryReport::default()
    };
    let now = start + SECOND * 701;
    store.record(
        &Name::new("shop", "web-1"),
        deployment("web"),
        "",
        report,
        now,
    );
    assert_eq!(store.size(), (20_001, 0));
    let rows = stat(
        &store,
        index().objects(),
        "deployment",
        stat::Scope::All,
        now,
    );
    assert_eq!(
        successes(&rows)[2],
        ("deployment/web".into(), 30_000),
        "the rest is counted as *"
    );
}
