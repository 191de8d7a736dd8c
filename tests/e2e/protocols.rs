//! Everything that two proxies in between must not change.

use std::process::Command;

use mesh_tests::{Mesh, Options, binary, figure, manifest::App, pattern, report::Check, skip};

use crate::{server, testapp};

fn mesh(test: &str) -> Option<Mesh> {
    Mesh::up(
        test,
        &[server("web"), App::client("client")],
        &Options::default(),
    )
}

/// Runs a list of checks in the client's pod.
fn check(mesh: &Mesh, arguments: &[&str]) -> Vec<Check> {
    let command = [&[testapp(), "check"], arguments].concat();
    mesh.exec(&mesh.pod("client"), command).json()
}

/// Prints all checks, then fails if one failed.
fn judge(checks: &[Check]) {
    for check in checks {
        let result = check.error.as_deref().unwrap_or("ok");
        figure!(
            "{}: {result} {} ({:.0} ms)",
            check.name,
            check.detail,
            check.ms
        );
    }
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.error.is_some())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn http1() {
    let Some(mesh) = mesh("HTTP/1") else { return };
    let checks = check(&mesh, &["http1", "http://web:8080"]);
    judge(&checks);
    let headers = checks
        .iter()
        .find(|check| check.name.starts_with("headers:"));
    let id = &headers.expect("the check of headers").detail;
    assert_eq!(
        id, "spiffe://cluster.local/ns/default/sa/client",
        "mesh-client-id at the app"
    );
}

#[test]
fn http2() {
    let Some(mesh) = mesh("HTTP/2") else { return };
    judge(&check(
        &mesh,
        &["http2", "http://web:8080", "--streams", "1000"],
    ));
}

#[test]
fn grpc() {
    let Some(mesh) = mesh("gRPC") else { return };
    judge(&check(
        &mesh,
        &["grpc", "http://web:9090", "--bytes", "100000000"],
    ));
}

#[test]
fn websocket() {
    let Some(mesh) = mesh("WebSocket") else {
        return;
    };
    judge(&check(&mesh, &["websocket", "http://web:8080"]));
}

#[test]
fn tcp() {
    let Some(mesh) = mesh("TCP") else { return };
    let ports = [
        "--echo", "7000", "--banner", "7001", "--digest", "7002", "--reset", "7003",
    ];
    judge(&check(&mesh, &[&["tcp", "web"], &ports[..]].concat()));
}

#[test]
fn curl() {
    const TEST: &str = "curl";
    if binary::find("curl").is_none() {
        return skip(TEST, "curl is not installed");
    }
    let Some(mesh) = mesh(TEST) else { return };
    let pod = mesh.pod("client");
    let curl = |arguments: &[&str]| {
        let fixed = ["curl", "-s", "-S", "--max-time", "30"];
        mesh.exec(&pod, [&fixed[..], arguments].concat()).good()
    };
    assert_eq!(curl(&["http://web:8080/"]), "hello\n");
    assert_eq!(
        curl(&["http://web.default.svc.cluster.local:8080/"]),
        "hello\n"
    );
    let body = mesh.shared().join("body");
    let bytes: Vec<u8> = pattern::pieces(10_000_000).flatten().collect();
    std::fs::write(&body, bytes).expect("a body for curl");
    let data = format!("@{}", body.display());
    let expected = format!("10000000 {}\n", pattern::sha256(10_000_000));
    // curl asks for 100-continue by itself with bodies of this size.
    assert_eq!(
        curl(&["--data-binary", &data, "http://web:8080/digest"]),
        expected
    );
    assert_eq!(
        curl(&["-T", &data[1..], "http://web:8080/digest"]),
        expected
    );
    let code = ["-o", "/dev/null", "-w", "%{http_code} %{http_version}"];
    assert_eq!(
        curl(&[&code[..], &["http://web:8080/status/418"]].concat()),
        "418 1.1"
    );
    assert_eq!(
        curl(&[&code[..], &["-I", "http://web:8080/bytes/9"]].concat()),
        "200 1.1"
    );
    assert_eq!(
        curl(&[&code[..], &["-0", "http://web:8080/bytes/9"]].concat()),
        "200 1"
    );
    let version = Command::new("curl")
        .arg("--version")
        .output()
        .expect("curl starts");
    if String::from_utf8_lossy(&version.stdout).contains("HTTP2") {
        let prior = ["--http2-prior-knowledge", "http://web:8080/"];
        assert_eq!(curl(&[&code[..], &prior[..]].concat()), "200 2");
    }
}
