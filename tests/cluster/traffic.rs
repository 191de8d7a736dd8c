//! Requests and connections between pods.

use mesh_tests::report::{Check, Load};

use crate::{
    stage::Stage,
    workload::{MESHED, PLAIN},
};

pub(crate) fn protocols(stage: &Stage) {
    for (from, url, kind) in [
        ("client", "http://web/", "get"),
        ("client", "http://web/once", "post"),
        ("client", "http://web:9090", "grpc"),
        ("client", "http://alias/", "get"),
        ("client", "http://store-1.store:8080/", "get"),
        ("client", "http://classic/", "get"),
        ("classic", "http://web/", "get"),
    ] {
        let load = load(stage, MESHED, from, &format!("--kind {kind} --url {url}"));
        assert_eq!(load.failed, 0, "{from} to {url}: {:?}", load.errors);
    }
    for check in [
        "http1 http://web/",
        "http2 http://web/ --streams 100",
        "grpc http://web:9090 --bytes 1048576",
        "websocket http://web/ws",
        "tcp web --echo 7070 --banner 7071 --digest 7072 --reset 7073",
    ] {
        let done = stage.testapp(MESHED, "client", &format!("check {check}"));
        let failed: Vec<Check> = done.json::<Vec<Check>>();
        // How soon a banner comes says more of the nodes than of the mesh: they may be shared.
        let is_late = |error: &String| error.starts_with("the banner took");
        let failed: Vec<_> = failed
            .into_iter()
            .filter(|check| check.error.as_ref().is_some_and(|error| !is_late(error)))
            .collect();
        assert!(failed.is_empty(), "{check}: {failed:#?}");
    }
    // From outside of the mesh, in clear, nothing is refused.
    let load = load(
        stage,
        PLAIN,
        "outsider",
        &format!("--url http://web.{MESHED}/"),
    );
    assert_eq!(load.failed, 0, "{:?}", load.errors);
    // And out of the mesh.
    let load = self::load(
        stage,
        MESHED,
        "client",
        &format!("--url http://outsider.{PLAIN}/"),
    );
    assert_eq!(load.failed, 0, "{:?}", load.errors);
}

pub(crate) fn identities(stage: &Stage) {
    let id = |account: &str| format!("spiffe://cluster.local/ns/{MESHED}/sa/{account}");
    let edges = stage.json("edges -A --window 10m");
    let edge = |from: &str, to: &str| {
        let found = edges
            .as_array()
            .expect("edges")
            .iter()
            .find(|edge| edge["source"]["name"] == from && edge["destination"]["name"] == to);
        found.unwrap_or_else(|| panic!("no edge from {from} to {to} in {edges:#}"))
    };
    for (from, to) in [
        ("client", "web"),
        ("client", "store"),
        ("client", "classic"),
        ("classic", "web"),
    ] {
        let edge = edge(from, to);
        assert_eq!(edge["security"], "mTLS", "{edge:#}");
        assert_eq!(edge["client_identity"], id(from));
        assert_eq!(edge["server_identity"], id(to));
    }
    let in_clear = "no: peer not meshed";
    assert_eq!(edge("client", "outsider")["security"], in_clear);
    // Nobody calls it but who is meshed, and its kubelet, which is no caller.
    let stat = stage.json(&format!("stat deploy/classic -n {MESHED} --window 10m"));
    assert_eq!(stat["rows"][0]["secured_rate"], 1.0, "{stat:#}");
    let from_outside = edges.as_array().expect("edges").iter().find(|edge| {
        edge["source"]["name"] != "client"
            && edge["destination"]["name"] == "web"
            && edge["security"] == in_clear
    });
    assert!(from_outside.is_some(), "{edges:#}");
}

/// Some seconds of requests.
pub(crate) fn load(stage: &Stage, namespace: &str, from: &str, arguments: &str) -> Load {
    let arguments = format!("load --rate 30 --seconds 4 --connections 4 {arguments}");
    stage.testapp(namespace, from, &arguments).json()
}
