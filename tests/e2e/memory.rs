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

/// Longer than the user time-out of connections between pods (30 s), which Linux also counts against a window
/// that is closed because its owner does not read.
#[test]
fn pauses_are_no_dead_peers() {
    let Some(mesh) = mesh("pauses") else {
        return;
    };
    let before = resident(&mesh);
    let command = [testapp(), "strain", "pause", "http://web:8080"];
    let pause = mesh.start(&mesh.pod("client"), command);
    let (strain, peak) = peak(&mesh, pause, Duration::from_secs(100));
    figure!(
        "64 MiB each way with a pause, in {:.1} s; RSS client, server: {before:?} → at most {peak:?} MiB",
        strain.ms / 1000.0
    );
    assert_eq!(strain.error, "");
    assert_eq!(strain.answered, 2, "{strain:?}");
}

#[test]
fn ten_thousand_idle_connections() {
    idle("10,000 idle connections", false);
}

/// Clients that say nothing until all are there, where nobody knows yet who speaks first.
#[test]
fn ten_thousand_quiet_connections() {
    idle("10,000 quiet connections", true);
}

fn idle(test: &str, quiet: bool) {
    let Some(mesh) = mesh(test) else {
        return;
    };
    let limit = mesh
        .exec(&mesh.pod("client"), ["sh", "-c", "ulimit -Hn"])
        .good();
    let files: u64 = limit.trim().parse().unwrap_or(u64::MAX);
    let count = files.saturating_sub(500).min(10_000) / 50 * 50;
    let before = resident(&mesh);
    let number = count.to_string();
    let mut command = vec![
        testapp(),
        "strain",
        "idle",
        "http://web:8080",
        "--connections",
        &number,
    ];
    command.extend(quiet.then_some("--quiet"));
    let idle = mesh.start(&mesh.pod("client"), command);
    idle.wait_for("idle", Duration::from_secs(120));
    let open = resident(&mesh);
    figure!("all open: RSS client, server: {before:?} → {open:?} MiB");
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
    // At most 32 KiB for each, and 8 KiB for one that has said nothing. The server's proxy sees few: requests share
    // connections, and so do those of quiet clients.
    let each = if quiet { count / 128 } else { count / 32 };
    assert!(
        open[0] < before[0] + 64 + each && peak[0] < before[0] + 64 + count / 32,
        "{before:?} → {open:?} → {peak:?} MiB"
    );
    assert!(peak[1] < before[1] + 64, "{before:?} → {peak:?} MiB");
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
