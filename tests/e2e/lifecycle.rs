//! The beginning and the end of a mesh.

use std::{fs, process::Stdio, time::Duration};

use mesh_tests::{Mesh, Options, figure, manifest::App};
use nix::sys::signal::Signal;

use crate::server;

fn mesh(test: &str) -> Option<Mesh> {
    let apps = [server("web").replicas(2), App::client("client")];
    Mesh::up(test, &apps, &Options::default())
}

#[test]
fn down_leaves_nothing() {
    let Some(mut mesh) = mesh("mesh down") else {
        return;
    };
    let output = mesh.cli(&["down"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    mesh.assert_ended();
}

#[test]
fn every_signal_leaves_nothing() {
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGKILL,
    ] {
        let Some(mut mesh) = mesh(&format!("{signal} to mesh up")) else {
            return;
        };
        mesh.end(signal);
    }
}

#[test]
fn replicas_can_be_scaled_deleted_and_changed() {
    let Some(mesh) = mesh("scale, delete, change") else {
        return;
    };
    let ready = |count: usize| {
        move |list: &mesh_api::local::ListResponse| {
            let web = list.pods.iter().filter(|pod| pod.workload == "web");
            web.clone().all(|pod| pod.ready) && web.count() == count
        }
    };
    let patience = Duration::from_secs(20);
    mesh.scale("web", 4);
    mesh.wait_until("4 replicas", patience, ready(4));
    mesh.scale("web", 1);
    mesh.wait_until("1 replica", patience, ready(1));
    let old = mesh.pods("web")[0].clone();
    mesh.delete(&old, 5);
    mesh.wait_until("another pod in its place", patience, |list| {
        ready(1)(list) && list.pods.iter().all(|pod| pod.name != old.name)
    });

    // A changed file is picked up; a field that can't be honoured is named.
    let changed = server("web").replicas(3).yaml() + &App::client("client").yaml();
    let odd = changed.replace(
        "\"serviceAccountName\"",
        "\"hostPID\": true, \"serviceAccountName\"",
    );
    fs::write(mesh.manifests().join("apps.yaml"), odd).expect("the changed manifests");
    mesh.wait_until("3 replicas after the change", patience, ready(3));
    mesh.wait_until("a warning that names hostPID", patience, |list| {
        list.warnings
            .iter()
            .any(|warning| warning.contains("hostPID"))
    });
    figure!("{:?}", mesh.list().warnings);
}

#[test]
fn figures_reach_the_commands() {
    let Some(mesh) = mesh("stat, edges, top, tap") else {
        return;
    };
    let load = crate::load("get", "http://web:8080/bytes/100", 50, 12.0);
    let running = mesh.start(&mesh.pod("client"), load);
    running.wait_for("started", Duration::from_secs(10));
    std::thread::sleep(Duration::from_secs(5));
    let mut tap = mesh.cli_command(&["tap", "deploy/web", "-o", "json"]);
    let mut tap = tap.stdout(Stdio::piped()).spawn().expect("mesh starts");
    std::thread::sleep(Duration::from_secs(3));
    tap.kill().expect("mesh tap runs until it is ended");
    let tap = tap.wait_with_output().expect("what mesh tap printed");
    let tap = String::from_utf8_lossy(&tap.stdout).into_owned();
    for command in ["stat", "edges", "top"] {
        let json = mesh.cli_json(&[command]).to_string();
        assert!(json.contains("web"), "mesh {command}: {json}");
        let table = mesh.cli(&[command, "-o", "table"]);
        let table = String::from_utf8_lossy(&table.stdout).into_owned();
        table.lines().for_each(|line| figure!("{command}: {line}"));
        assert!(table.contains("web"), "mesh {command}: {table}");
    }
    assert!(tap.contains("/bytes/100"), "mesh tap: {tap}");
    // What a failing test prints.
    let logs = mesh.logs();
    for part in ["/mesh-proxy |", "controller |"] {
        assert!(logs.contains(part), "no {part} in the logs: {logs}");
    }
    let output = mesh.cli(&["stat", "deploy/wbe"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("web"),
        "no suggestion: {error}"
    );
}
