//! Names, addresses and peers outside of the mesh.

use std::time::Duration;

use mesh_tests::{Mesh, Options, figure, manifest::App, metrics, report::Load};

use crate::{load, server, testapp};

fn get(mesh: &Mesh, pod: &str, url: &str) -> String {
    mesh.exec(pod, ["curl", "-g", "-s", "-S", "--max-time", "10", url])
        .good()
}

/// The sum of a proxy's samples with these labels, once it is at least `wanted`.
fn metric(mesh: &Mesh, pod: &str, name: &str, labels: &[&str], wanted: f64) -> f64 {
    let end = std::time::Instant::now() + Duration::from_secs(3);
    loop {
        let value = metrics::sum(&mesh.metrics(pod), name, labels);
        if value >= wanted || std::time::Instant::now() > end {
            return value;
        }
    }
}

#[test]
fn names_resolve() {
    let apps = [
        server("web").replicas(2),
        server("each").replicas(2).headless(),
        App::client("client"),
        App::client("stranger").plain(),
    ];
    let Some(mesh) = Mesh::up("DNS", &apps, &Options::default()) else {
        return;
    };
    for client in ["client", "stranger"] {
        let pod = mesh.pod(client);
        let resolve = |name: &str| -> Vec<String> {
            let output = mesh.exec(&pod, ["getent", "ahostsv4", name]);
            let mut addresses: Vec<String> = output
                .stdout
                .lines()
                .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
                .collect();
            addresses.sort();
            addresses.dedup();
            addresses
        };
        for name in [
            "web",
            "web.default",
            "web.default.svc",
            "web.default.svc.cluster.local",
        ] {
            let addresses = resolve(name);
            assert_eq!(addresses.len(), 1, "{name}: {addresses:?}");
            assert!(addresses[0].starts_with("10.96."), "{name}: {addresses:?}");
        }
        let mut ips: Vec<String> = mesh.pods("each").iter().map(|pod| pod.ip.clone()).collect();
        ips.sort();
        assert_eq!(resolve("each"), ips, "a headless Service is its pods");
        assert!(resolve("nothing.default.svc.cluster.local").is_empty());
        figure!("{client}: web is {:?}, each is {ips:?}", resolve("web"));
    }
}

#[test]
fn headless_services_and_pod_addresses_are_meshed_too() {
    let apps = [server("each").replicas(2).headless(), App::client("client")];
    let Some(mesh) = Mesh::up("headless", &apps, &Options::default()) else {
        return;
    };
    let client = mesh.pod("client");
    for _ in 0..5 {
        assert_eq!(get(&mesh, &client, "http://each:8080/"), "hello\n");
    }
    for pod in mesh.pods("each") {
        let answer = get(&mesh, &client, &format!("http://{}:8080/echo", pod.ip));
        assert!(
            answer.contains("spiffe://cluster.local/ns/default/sa/client"),
            "{answer}"
        );
    }
    let labels = ["direction=\"outbound\"", "tls=\"true\""];
    let secured = metric(&mesh, &client, "request_total", &labels, 7.0);
    figure!("{secured} requests over mTLS");
    assert_eq!(secured, 7.0);
}

#[test]
fn ipv6() {
    let apps = [
        server("web"),
        App::client("client"),
        App::client("stranger").plain(),
    ];
    let Some(mesh) = Mesh::up("IPv6", &apps, &Options::default()) else {
        return;
    };
    let ip6 = mesh.pods("web")[0].ip6.clone();
    assert!(
        ip6.starts_with("fd00:10:244:"),
        "the pod's IPv6 address is {ip6:?}"
    );
    let client = mesh.pod("client");
    let answer = get(&mesh, &client, &format!("http://[{ip6}]:8080/echo"));
    assert!(
        answer.contains("spiffe://cluster.local/ns/default/sa/client"),
        "{answer}"
    );
    let answer = get(
        &mesh,
        &mesh.pod("stranger"),
        &format!("http://[{ip6}]:8080/"),
    );
    assert_eq!(answer, "hello\n");
    let secured = ["direction=\"outbound\"", "tls=\"true\""];
    assert_eq!(metric(&mesh, &client, "request_total", &secured, 1.0), 1.0);
}

#[test]
fn pods_that_are_not_meshed_talk_with_those_that_are() {
    let apps = [
        server("web").replicas(2),
        server("bare").replicas(2).plain(),
        App::client("client"),
        App::client("stranger").plain(),
    ];
    let Some(mesh) = Mesh::up("unmeshed peers", &apps, &Options::default()) else {
        return;
    };
    for (from, to) in [
        ("client", "bare"),
        ("stranger", "web"),
        ("stranger", "bare"),
    ] {
        let url = format!("http://{to}:8080/bytes/100");
        let gets: Load = mesh
            .exec(&mesh.pod(from), load("get", &url, 50, 1.0))
            .json();
        let url = format!("http://{to}:9090");
        let calls: Load = mesh
            .exec(&mesh.pod(from), load("grpc", &url, 50, 1.0))
            .json();
        figure!(
            "{from} → {to}: GETs {:?}, gRPC {:?}",
            gets.replicas,
            calls.replicas
        );
        assert_eq!(
            (gets.failed, calls.failed),
            (0, 0),
            "{:?} {:?}",
            gets.errors,
            calls.errors
        );
        // Connections of processes without a proxy are spread by the node, not by request.
        if from == "client" {
            assert_eq!(gets.replicas.len(), 2, "{:?}", gets.replicas);
        }
        let tcp = [
            "tcp", to, "--echo", "7000", "--banner", "7001", "--digest", "7002", "--reset", "7003",
        ];
        let checks: Vec<mesh_tests::report::Check> = mesh
            .exec(&mesh.pod(from), [&[testapp(), "check"], &tcp[..]].concat())
            .json();
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| check.error.is_some())
            .collect();
        assert!(failed.is_empty(), "{from} → {to}: {failed:#?}");
    }
    let clear = ["direction=\"outbound\"", "tls=\"no_identity\""];
    assert!(metric(&mesh, &mesh.pod("client"), "request_total", &clear, 50.0) >= 50.0);
    let clear = ["direction=\"inbound\"", "tls=\"no_identity\""];
    let web = mesh.pods("web");
    let seen: f64 = web
        .iter()
        .map(|pod| metric(&mesh, &mesh_tests::path(pod), "request_total", &clear, 1.0))
        .sum();
    assert!(seen >= 50.0, "inbound requests in clear: {seen}");
}
