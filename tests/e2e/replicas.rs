//! Replicas that are slow or failing.

use std::{thread, time::Duration};

use mesh_tests::{Mesh, Options, figure, manifest::App, path, report::Load};

use crate::{load, server, summary, testapp};

fn mesh(test: &str) -> Option<Mesh> {
    let apps = [server("web").replicas(3), App::client("client")];
    Mesh::up(test, &apps, &Options::default())
}

fn faults(mesh: &Mesh, pod: &str, faults: &[&str]) {
    mesh.exec(pod, [&[testapp(), "faults"], faults].concat())
        .good();
}

fn gets(mesh: &Mesh, rate: u32, seconds: f64) -> Load {
    let command = load("get", "http://web:8080/bytes/100", rate, seconds);
    mesh.exec(&mesh.pod("client"), command).json()
}

/// Good answers of a replica in part of a load.
fn of(load: &Load, seconds: std::ops::Range<usize>, replica: &str) -> u64 {
    let rows = load.seconds.get(seconds).unwrap_or_default();
    rows.iter()
        .filter_map(|second| second.replicas.get(replica))
        .sum()
}

#[test]
fn a_slow_replica_gets_few_requests() {
    let Some(mesh) = mesh("slow replica") else {
        return;
    };
    let fast = gets(&mesh, 300, 4.0);
    figure!("all fast: {}", summary(&fast));
    let slow = mesh.pods("web")[0].clone();
    faults(&mesh, &path(&slow), &["--delay-ms", "200"]);
    let load = gets(&mesh, 300, 10.0);
    figure!("one 200 ms slower: {}", summary(&load));
    let share = *load.replicas.get(&slow.name).unwrap_or(&0) as f64 / load.sent as f64;
    figure!("share of the slow replica: {:.2} %", share * 100.0);
    assert_eq!(load.failed, 0, "{:?}", load.errors);
    assert!(share < 0.05, "{share}");
    assert!(
        load.p95_ms < fast.p95_ms + 50.0,
        "p95 {} → {} ms",
        fast.p95_ms,
        load.p95_ms
    );
    // One whose first answer was slow may still be avoided: the EWMA forgets in 10 s.
    let used = fast.replicas.values().filter(|count| **count > 200).count();
    assert!(used >= 2, "the load was not spread: {:?}", fast.replicas);
}

#[test]
fn a_failing_replica_is_ejected_and_found_well_again() {
    let Some(mesh) = mesh("failing replica") else {
        return;
    };
    let failing = mesh.pods("web")[0].clone();
    faults(&mesh, &path(&failing), &["--status", "503"]);
    let client = mesh.pod("client");
    let seen = |mesh: &Mesh| -> u64 {
        let url = "http://127.0.0.1:8080/seen";
        let text = mesh.exec(&path(&failing), ["curl", "-s", url]).good();
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["requests"].as_u64().unwrap_or_default()
    };
    let load_running = mesh.start(&client, load("get", "http://web:8080/bytes/100", 200, 20.0));
    load_running.wait_for("started", Duration::from_secs(10));
    thread::sleep(Duration::from_secs(6));
    let tried = seen(&mesh);
    figure!("requests that reached the failing replica in 6 s: {tried} of 1200");
    assert!(
        (1..=120).contains(&tried),
        "not ejected: it got {tried} of 1200"
    );
    faults(&mesh, &path(&failing), &[]);
    let load: Load = load_running.wait(Duration::from_secs(40)).json();
    figure!("{}", summary(&load));
    // Probed after pauses of 1, 2 and 4 s: the third finds it well, and it gets requests from then on.
    // One slow answer can send it away again for seconds, as any other.
    let back = of(&load, 6..20, &failing.name);
    figure!("good answers of it in the last 14 s: {back} of 2800");
    assert!(
        back >= 150,
        "not found well again: {back} of 2800 in the last 14 s"
    );
    // Retries hide the failures of one replica in three.
    assert_eq!(load.failed, 0, "{:?}", load.errors);
}

#[test]
fn never_more_than_half_of_the_replicas_are_ejected() {
    let Some(mesh) = mesh("all replicas failing") else {
        return;
    };
    let pods = mesh.pods("web");
    for pod in &pods {
        faults(&mesh, &path(pod), &["--status", "503"]);
    }
    let client = mesh.pod("client");
    let running = mesh.start(&client, load("get", "http://web:8080/bytes/100", 200, 6.0));
    running.wait_for("started", Duration::from_secs(10));
    let mut most = 0;
    while running.peek().code == -1 {
        let text = mesh.metrics(&client);
        // 1 is open: ejected. The endpoints of one Service port are one balancer's.
        let open = |line: &&str| {
            line.starts_with("outbound_endpoint_breaker{")
                && line.contains("8080")
                && line.ends_with(" 1.0")
        };
        most = most.max(text.lines().filter(open).count());
        thread::sleep(Duration::from_millis(200));
    }
    let load: Load = running.wait(Duration::from_secs(20)).json();
    figure!("{}", summary(&load));
    figure!("at most {most} of 3 ejected at once");
    assert_eq!(most, 1, "half of three is one:\n{}", mesh.metrics(&client));
    // The answers are the app's, not the mesh's.
    assert!(
        load.errors.keys().all(|error| error.starts_with("503")),
        "{:?}",
        load.errors
    );
}
