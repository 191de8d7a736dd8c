//! Clients that try to use up a proxy's memory.

use std::{thread, time::Duration};

use mesh_tests::{Mesh, Options, Running, figure, manifest::App, report::Strain};

use crate::{server, testapp};

const MIB: u64 = 1 << 20;

fn mesh(test: &str) -> Option<Mesh> {
    let apps = [
        server("web"),
        App::client("client"),
        App::client("stranger").plain(),
    ];
    Mesh::up(test, &apps, &Options::default())
}

/// Resident memory of the client's and the server's proxy, MiB.
fn resident(mesh: &Mesh) -> [u64; 2] {
    ["client", "web"].map(|name| mesh.proxy_memory(&mesh.pod(name)) / MIB)
}

/// The highest while a command runs.
fn peak(mesh: &Mesh, running: Running, patience: Duration) -> (Strain, [u64; 2]) {
    let mut peak = resident(mesh);
    let end = std::time::Instant::now() + patience;
    while running.peek().code == -1 && std::time::Instant::now() < end {
        let now = resident(mesh);
        peak = [peak[0].max(now[0]), peak[1].max(now[1])];
        thread::sleep(Duration::from_millis(100));
    }
    (running.wait(Duration::from_secs(5)).json(), peak)
}

#[test]
fn a_body_of_one_gigabyte() {
    let Some(mesh) = mesh("1 GiB body") else {
        return;
    };
    let before = resident(&mesh);
    let command = [testapp(), "strain", "upload", "http://web:8080"];
    let upload = mesh.start(&mesh.pod("client"), command);
    let (strain, peak) = peak(&mesh, upload, Duration::from_secs(120));
    let rate = strain.bytes as f64 / strain.ms / 1000.0;
    figure!("{rate:.0} MB/s; RSS client, server: {before:?} → at most {peak:?} MiB");
    assert_eq!(strain.error, "");
    assert_eq!(strain.answered, 1, "{strain:?}");
    assert!(
        peak[0] < before[0] + 64 && peak[1] < before[1] + 64,
        "{before:?} → {peak:?} MiB"
    );
}

#[test]
fn a_client_that_does_not_read() {
    let Some(mesh) = mesh("deaf client") else {
        return;
    };
    let before = resident(&mesh);
    let command = [testapp(), "strain", "deaf", "http://web:8080"];
    let deaf = mesh.start(&mesh.pod("client"), command);
    let (strain, peak) = peak(&mesh, deaf, Duration::from_secs(60));
    figure!("RSS client, server: {before:?} → at most {peak:?} MiB");
    assert_eq!(strain.error, "");
    assert!(
        peak[0] < before[0] + 64 && peak[1] < before[1] + 64,
        "{before:?} → {peak:?} MiB"
    );
}

#[test]
fn ten_thousand_idle_connections() {
    let Some(mesh) = mesh("10,000 idle connections") else {
        return;
    };
    let limit = mesh
        .exec(&mesh.pod("client"), ["sh", "-c", "ulimit -Hn"])
        .good();
    let files: u64 = limit.trim().parse().unwrap_or(u64::MAX);
    let count = files.saturating_sub(500).min(10_000) / 50 * 50;
    let before = resident(&mesh);
    let number = count.to_string();
    let command = [
        testapp(),
        "strain",
        "idle",
        "http://web:8080",
        "--connections",
        &number,
    ];
    let idle = mesh.start(&mesh.pod("client"), command);
    let (strain, peak) = peak(&mesh, idle, Duration::from_secs(120));
    figure!(
        "{} opened, {} answered, {} closed, in {:.1} s; RSS client, server: {before:?} → {peak:?} MiB",
        strain.opened,
        strain.answered,
        strain.closed,
        strain.ms / 1000.0
    );
    assert_eq!(strain.error, "");
    assert_eq!(
        (strain.opened, strain.answered),
        (count, count),
        "{strain:?}"
    );
    // At most 32 KiB for each.
    assert!(
        peak[0] < before[0] + 64 + count / 32,
        "{before:?} → {peak:?} MiB"
    );
    let output = mesh
        .exec(&mesh.pod("client"), ["curl", "-s", "http://web:8080/"])
        .good();
    assert_eq!(output, "hello\n", "the proxy lives on");
}

#[test]
fn slow_loris() {
    let Some(mesh) = mesh("slow loris") else {
        return;
    };
    let before = resident(&mesh);
    for client in ["client", "stranger"] {
        let command = [
            testapp(),
            "strain",
            "loris",
            "http://web:8080",
            "--connections",
            "1000",
            "--seconds",
            "5",
        ];
        let loris = mesh.start(&mesh.pod(client), command);
        thread::sleep(Duration::from_secs(1));
        let get = ["curl", "-s", "--max-time", "5", "http://web:8080/"];
        let output = mesh.exec(&mesh.pod(client), get).good();
        assert_eq!(output, "hello\n", "others are served meanwhile");
        let (strain, peak) = peak(&mesh, loris, Duration::from_secs(60));
        figure!("{client}: {strain:?}; RSS client, server: {before:?} → at most {peak:?} MiB");
        assert_eq!(strain.error, "");
        assert!(
            peak[0] < before[0] + 96 && peak[1] < before[1] + 96,
            "{before:?} → {peak:?}"
        );
    }
}
