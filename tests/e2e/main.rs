//! End-to-end tests: real proxies, run by `mesh up`, as root or as an ordinary user.
//!
//! Every test prints what it measured (`--nocapture` shows it), or `skipped:` and why.

mod control;
mod debian;
mod demo;
mod inspect;
mod lifecycle;
mod malformed;
mod manifests;
mod memory;
mod network;
mod peers;
mod protocols;
mod replicas;
mod rolling;
mod screen;
mod wire;

use std::sync::LazyLock;

use mesh_tests::{manifest::App, report::Load};

/// The program with the servers and clients of the tests: `$MESH_TESTAPP_BIN`, or the one built with them.
fn testapp() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        std::env::var("MESH_TESTAPP_BIN")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_mesh-testapp").to_owned())
    });
    &PATH
}

/// A server of every protocol; nothing is said of its ports.
fn server(name: &str) -> App {
    App::new(
        name,
        [
            testapp(),
            "serve",
            "--http",
            "8080",
            "--grpc",
            "9090",
            "--echo",
            "7000",
            "--banner",
            "7001",
            "--digest",
            "7002",
            "--reset",
            "7003",
        ],
    )
    .port(8080)
    .port(9090)
    .port(7000)
    .port(7001)
    .port(7002)
    .port(7003)
    .ready_at("/ready", 8080)
}

/// The arguments of a load generator.
fn load(kind: &str, url: &str, rate: u32, seconds: f64) -> Vec<String> {
    let (rate, seconds) = (rate.to_string(), seconds.to_string());
    [
        testapp(),
        "load",
        "--kind",
        kind,
        "--url",
        url,
        "--rate",
        &rate,
        "--seconds",
        &seconds,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// One line about a load.
fn summary(load: &Load) -> String {
    format!(
        "{} sent, {} failed {:?}, p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.0} ms, {:?}",
        load.sent,
        load.failed,
        load.errors,
        load.p50_ms,
        load.p95_ms,
        load.p99_ms,
        load.max_ms,
        load.replicas
    )
}
