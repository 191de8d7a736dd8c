//! Replicas that come and go under load.

use std::{collections::HashMap, fs, thread, time::Duration};

use mesh_tests::{Mesh, Options, figure, manifest::App, report::Load};

use crate::{load, server, summary, testapp};

#[test]
fn a_rolling_restart_fails_no_request() {
    let apps = [
        server("web").replicas(3),
        App::client("client"),
        App::client("caller"),
    ];
    let Some(mesh) = Mesh::up("rolling restart", &apps, &Options::default()) else {
        return;
    };
    let before = mesh.pods("web");
    let gets = load("get", "http://web:8080/bytes/100", 500, 15.0);
    let gets = mesh.start(&mesh.pod("client"), gets);
    let calls = mesh.start(
        &mesh.pod("caller"),
        load("grpc", "http://web:9090", 250, 15.0),
    );
    gets.wait_for("started", Duration::from_secs(10));
    thread::sleep(Duration::from_secs(2));
    mesh.restart("web");
    mesh.wait_until(
        "every replica is a new one",
        Duration::from_secs(40),
        |list| {
            let names: Vec<_> = list.pods.iter().map(|pod| &pod.name).collect();
            let replaced = before.iter().all(|old| !names.contains(&&old.name));
            let ready = list
                .pods
                .iter()
                .filter(|pod| pod.workload == "web" && pod.ready)
                .count();
            replaced && ready == 3
        },
    );
    let gets: Load = gets.wait(Duration::from_secs(60)).json();
    let calls: Load = calls.wait(Duration::from_secs(60)).json();
    figure!("GETs: {}", summary(&gets));
    figure!("gRPC: {}", summary(&calls));
    assert!(
        gets.replicas.len() > 3,
        "the restart was not under load: {:?}",
        gets.replicas
    );
    assert_eq!((gets.sent, gets.failed), (7500, 0), "{:?}", gets.errors);
    assert_eq!((calls.sent, calls.failed), (3750, 0), "{:?}", calls.errors);
}

#[test]
fn a_killed_replica_fails_no_get_and_repeats_no_post() {
    let folder = tempfile::tempdir().expect("a folder for the ids");
    let path = folder.path().to_str().expect("a plain path");
    let serve = [testapp(), "serve", "--http", "8080", "--executed", path];
    let web = App::new("web", serve)
        .port(8080)
        .ready_at("/ready", 8080)
        .replicas(3);
    let apps = [web, App::client("client"), App::client("poster")];
    let Some(mesh) = Mesh::up("SIGKILL of a replica", &apps, &Options::default()) else {
        return;
    };
    let gets = load("get", "http://web:8080/bytes/100", 500, 8.0);
    let gets = mesh.start(&mesh.pod("client"), gets);
    let posts = load("post", "http://web:8080/once", 200, 8.0);
    let posts = mesh.start(&mesh.pod("poster"), posts);
    gets.wait_for("started", Duration::from_secs(10));
    thread::sleep(Duration::from_secs(3));
    let victim = &mesh.pods("web")[0];
    mesh.delete(victim, 0);

    let gets: Load = gets.wait(Duration::from_secs(60)).json();
    let posts: Load = posts.wait(Duration::from_secs(60)).json();
    figure!("GETs: {}", summary(&gets));
    figure!("POSTs: {}", summary(&posts));
    let mut executed: HashMap<String, u32> = HashMap::new();
    for file in fs::read_dir(folder.path()).expect("the ids").flatten() {
        let ids = fs::read_to_string(file.path()).expect("the ids of a replica");
        ids.lines()
            .for_each(|id| *executed.entry(id.to_owned()).or_default() += 1);
    }
    figure!("{} POSTs executed", executed.len());
    assert_eq!((gets.sent, gets.failed), (4000, 0), "{:?}", gets.errors);
    let twice: Vec<_> = executed.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "executed more than once: {twice:?}");
    assert!(
        executed.len() as u64 >= posts.ok,
        "{} answered well",
        posts.ok
    );
    // A POST may fail only because its replica died with it.
    assert!(posts.failed <= 10, "{:?}", posts.errors);
}
