//! Life without the controller, and certificates that live ten seconds.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use mesh_api::local::signal_request::Target;
use mesh_tests::{Mesh, Options, figure, manifest::App, metrics, report::Load};
use nix::sys::signal::Signal;

use crate::{load, server, summary};

const CONTROLLER: Target = Target::Controller(true);

fn renewals(mesh: &Mesh, pod: &str) -> f64 {
    metrics::sum(&mesh.metrics(pod), "identity_cert_refresh_total", &[])
}

#[test]
fn renewals_and_a_killed_controller_fail_no_request() {
    let apps = [
        server("web").replicas(2),
        App::client("client"),
        App::client("caller"),
    ];
    let arguments = ["--leaf-lifetime", "10s"].map(str::to_owned).to_vec();
    let Some(mesh) = Mesh::up("controller killed", &apps, &Options { arguments }) else {
        return;
    };
    let (client, web) = (mesh.pod("client"), mesh.pod("web"));
    let before = (renewals(&mesh, &client), renewals(&mesh, &web));
    let gets = mesh.start(&client, load("get", "http://web:8080/bytes/100", 200, 42.0));
    let calls = mesh.start(
        &mesh.pod("caller"),
        load("grpc", "http://web:9090", 100, 42.0),
    );
    gets.wait_for("started", Duration::from_secs(10));
    thread::sleep(Duration::from_secs(4));
    mesh.signal(CONTROLLER, Signal::SIGKILL, false);
    thread::sleep(Duration::from_secs(10));
    mesh.signal(CONTROLLER, Signal::SIGKILL, true);
    thread::sleep(Duration::from_secs(2));
    mesh.resume(CONTROLLER);

    let gets: Load = gets.wait(Duration::from_secs(80)).json();
    let calls: Load = calls.wait(Duration::from_secs(80)).json();
    figure!("GETs: {}", summary(&gets));
    figure!("gRPC: {}", summary(&calls));
    let after = (renewals(&mesh, &client), renewals(&mesh, &web));
    figure!(
        "renewals: client {}, server {}",
        after.0 - before.0,
        after.1 - before.1
    );
    assert_eq!((gets.sent, gets.failed), (8400, 0), "{:?}", gets.errors);
    assert_eq!((calls.sent, calls.failed), (4200, 0), "{:?}", calls.errors);
    assert!(
        after.0 - before.0 >= 5.0,
        "the client's proxy renewed {}",
        after.0 - before.0
    );
    assert!(
        after.1 - before.1 >= 5.0,
        "the server's proxy renewed {}",
        after.1 - before.1
    );
}

/// Fingerprints of the roots that a proxy trusts.
fn roots(mesh: &Mesh, pod: &str) -> BTreeSet<String> {
    let config: serde_json::Value =
        serde_json::from_str(&mesh.admin(pod, "config")).expect("JSON of /config");
    let roots = &config["trust_bundle"]["roots_sha256"];
    serde_json::from_value(roots.clone()).expect("fingerprints")
}

#[test]
fn a_rotation_of_the_root_fails_no_request() {
    let apps = [
        server("web").replicas(2),
        App::client("client"),
        App::client("caller"),
    ];
    let arguments = ["--leaf-lifetime", "6s", "--root-lifetime", "60s"];
    let arguments = arguments.map(str::to_owned).to_vec();
    let Some(mesh) = Mesh::up("root rotation", &apps, &Options { arguments }) else {
        return;
    };
    let (client, web) = (mesh.pod("client"), mesh.pod("web"));
    let first = roots(&mesh, &client);
    assert_eq!(first.len(), 1, "{first:?}");
    let start = Instant::now();
    // The first root is joined after 42 s, stops issuing after 48 s, and is forgotten after 60 s.
    let gets = mesh.start(&client, load("get", "http://web:8080/bytes/100", 200, 75.0));
    let calls = mesh.start(
        &mesh.pod("caller"),
        load("grpc", "http://web:9090", 100, 75.0),
    );
    gets.wait_for("started", Duration::from_secs(10));
    let mut overlapped = BTreeSet::new();
    while start.elapsed() < Duration::from_secs(72) {
        for pod in [&client, &web] {
            let trusted = roots(&mesh, pod);
            if trusted.len() > 1 && overlapped.insert(pod) {
                assert!(trusted.is_superset(&first), "{trusted:?}");
                let after = start.elapsed().as_secs();
                figure!("{pod} trusts {} roots after {after} s", trusted.len());
            }
        }
        thread::sleep(Duration::from_millis(500));
    }
    let gets: Load = gets.wait(Duration::from_secs(60)).json();
    let calls: Load = calls.wait(Duration::from_secs(60)).json();
    figure!("GETs: {}", summary(&gets));
    figure!("gRPC: {}", summary(&calls));
    assert_eq!((gets.sent, gets.failed), (15_000, 0), "{:?}", gets.errors);
    assert_eq!((calls.sent, calls.failed), (7500, 0), "{:?}", calls.errors);
    assert_eq!(
        overlapped.len(),
        2,
        "old and new root were trusted together by {overlapped:?}"
    );
    for pod in [&client, &web] {
        let last = roots(&mesh, pod);
        assert!(
            last.is_disjoint(&first),
            "{pod} still trusts the first root: {last:?}"
        );
    }
    assert!(
        mesh.list().pods.iter().all(|pod| pod.restarts == 0),
        "{:#?}",
        mesh.list()
    );
}

#[test]
fn proxies_that_restart_without_the_controller_serve() {
    let apps = [server("web").replicas(2), App::client("client")];
    let Some(mesh) = Mesh::up("proxies restarted alone", &apps, &Options::default()) else {
        return;
    };
    let client = mesh.pod("client");
    let gets = |seconds| -> Load {
        mesh.exec(
            &client,
            load("get", "http://web:8080/bytes/100", 100, seconds),
        )
        .json()
    };
    assert_eq!(gets(1.0).failed, 0, "before anything happened");
    mesh.signal(CONTROLLER, Signal::SIGKILL, true);
    let still = gets(2.0);
    figure!("without the controller: {}", summary(&still));
    assert_eq!(still.failed, 0, "{:?}", still.errors);

    let proxies = mesh.pods("web").into_iter().chain(mesh.pods("client"));
    for pod in proxies {
        mesh.signal(
            Target::Proxy(mesh_tests::path(&pod)),
            Signal::SIGKILL,
            false,
        );
    }
    // The engine starts them again; their admin servers say when they are ready.
    mesh.wait_until(
        "the pods are ready again",
        Duration::from_secs(15),
        |list| list.pods.iter().all(|pod| pod.ready),
    );
    thread::sleep(Duration::from_secs(1));
    let alone = gets(3.0);
    figure!(
        "all proxies restarted without the controller: {}",
        summary(&alone)
    );
    assert_eq!(alone.failed, 0, "{:?}", alone.errors);
    assert_eq!(alone.replicas.len(), 2, "{:?}", alone.replicas);
    let text = mesh.metrics(&client);
    let secured = metrics::sum(
        &text,
        "request_total",
        &["direction=\"outbound\"", "tls=\"true\""],
    );
    figure!("requests over mTLS since the restart: {secured}");
    assert!(
        secured >= 300.0,
        "the restarted proxy sent in clear:\n{text}"
    );
    mesh.resume(CONTROLLER);
}
