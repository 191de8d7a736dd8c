//! What the command line tells of a running mesh: whether it is well, who a pod is, what its proxy believes.

use std::{
    thread,
    time::{Duration, Instant},
};

use mesh_tests::{Mesh, Options, figure};

use crate::server;

#[test]
fn a_mesh_is_checked_and_a_proxy_is_looked_into() {
    let Some(mesh) = Mesh::up("inspect", &[server("web")], &Options::default()) else {
        return;
    };
    let check = mesh.cli_json(&["check"]);
    assert_eq!(check["ok"], true, "{check:#}");
    figure!("{} checks", check["checks"].as_array().map_or(0, Vec::len));

    // A proxy is known with its first report, a second after its start.
    let started = Instant::now();
    let versions = loop {
        let versions = mesh.cli_json(&["version"]);
        let known = versions["proxies"]
            .as_object()
            .is_some_and(|all| all.len() == 1);
        if known || started.elapsed() > Duration::from_secs(10) {
            assert!(known, "{versions}");
            break versions;
        }
        thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(versions["skew"], false, "{versions}");

    let identity = mesh.cli_json(&["identity", "deploy/web"]);
    let id = identity["identity"].as_str().expect("an identity");
    assert!(
        id.starts_with("spiffe://cluster.local/ns/default/sa/"),
        "{id}"
    );
    assert!(identity["expires_in_s"].as_i64() > Some(0), "{identity}");

    let output = mesh.cli(&["diagnostics", "policy", "deploy/web"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("8080"), "{output:?}");

    // From anywhere but the pod itself, nobody learns what its proxy believes.
    let pod = mesh.pods("web")[0].clone();
    let url = format!("http://{}:4191/config", pod.ip);
    let code = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let answer = mesh.exec("", code).good();
    assert_eq!(answer, "403");
}
