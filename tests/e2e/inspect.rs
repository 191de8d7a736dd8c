//! What the command line tells of a running mesh: whether it is well, who a pod is, what its proxy believes.

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

    let versions = mesh.cli_json(&["version"]);
    assert_eq!(versions["skew"], false, "{versions}");
    assert_eq!(
        versions["proxies"].as_object().map(serde_json::Map::len),
        Some(1)
    );

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
