//! Requests that must not get through.

use mesh_tests::{Mesh, Options, figure, manifest::App, report::Malformed};

use crate::testapp;

/// Sends the whole table from one pod and fails with the rows that were answered otherwise than documented.
fn table(test: &str, from: App) {
    let web = App::new("web", [testapp(), "serve", "--http", "8080"])
        .port_of(8080, "http")
        .ready_at("/ready", 8080);
    let Some(mesh) = Mesh::up(test, &[web, from], &Options::default()) else {
        return;
    };
    let pod = mesh.pod("client");
    let rows: Vec<Malformed> = mesh.exec(&pod, [testapp(), "malformed", "web:8080"]).json();
    let wrong: Vec<_> = rows.iter().filter(|row| !row.ok).collect();
    figure!(
        "{} of {} rows as documented",
        rows.len() - wrong.len(),
        rows.len()
    );
    for row in &wrong {
        figure!("{}: expected {}, got {}", row.name, row.expected, row.got);
    }
    let get = |pod: &str, url: &str| {
        mesh.exec(pod, ["curl", "-s", "--max-time", "10", url])
            .good()
    };
    assert_eq!(
        get(&pod, "http://web:8080/"),
        "hello\n",
        "the proxy lives on"
    );
    let seen = get(&mesh.pod("web"), "http://127.0.0.1:8080/seen");
    let seen: serde_json::Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(seen["malformed"], 0, "malformed requests reached the app");
    assert!(rows.len() >= 60, "the table has only {} rows", rows.len());
    assert!(wrong.is_empty(), "{} rows", wrong.len());
}

#[test]
fn the_inbound_proxy_refuses() {
    table("malformed requests, inbound", App::client("client").plain());
}

#[test]
fn the_outbound_proxy_refuses() {
    table("malformed requests, outbound", App::client("client"));
}
