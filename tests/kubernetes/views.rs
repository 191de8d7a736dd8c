//! stat, top, edges, tap, version, identity and diagnostics of a mesh on Kubernetes: found through the API, read through
//! `pods/portforward`, merged. And the sentences where that fails.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use mesh_api::names::{ADMIN_PORT, SYSTEM_NAMESPACE};
use serde_json::json;

use crate::observers::{Stage, changed, command, mesh};

/// A cluster with two replicas that answer; `None` where there is none, or no port can be forwarded.
fn two_replicas() -> Option<Stage> {
    let stage = Stage::new()?;
    stage.namespace(SYSTEM_NAMESPACE, json!({}));
    for (pod, replica) in [("mesh-controller-a", 1), ("mesh-controller-b", 2)] {
        stage.controller(pod, true);
        if !stage.observer(pod, replica) {
            mesh_tests::skip("views", "this API server forwards no ports");
            return None;
        }
    }
    Some(stage)
}

#[test]
fn figures_of_all_replicas_are_added_up() {
    let Some(stage) = two_replicas() else { return };
    let stat = stage.mesh("stat -A -o json").json();
    let names: Vec<_> = stat["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].clone())
        .collect();
    assert_eq!(names, ["only-1", "only-2", "web"]);
    let web = &stat["rows"][2];
    assert_eq!((&web["success"], &web["failure"]), (&json!(27), &json!(3)));
    assert_eq!((&web["pods"], &web["tcp_open"]), (&json!(3), &json!(3)));

    let edges = stage.mesh("edges -A -o json").json();
    assert_eq!(edges.as_array().unwrap().len(), 1);
    assert_eq!(
        (&edges[0]["success"], &edges[0]["tcp_open"]),
        (&json!(27), &json!(3))
    );

    let top = stage.mesh("top -A -o json").json();
    assert_eq!(top["rows"].as_array().unwrap().len(), 1, "{top}");
    assert_eq!(top["rows"][0]["rps"], 3.0);
    assert_eq!(top["rows"][0]["rps_history"][29], 3.0);
}

#[test]
fn what_one_replica_does_not_know_another_one_does() {
    let Some(stage) = two_replicas() else { return };
    let stat = stage.mesh("stat deploy only-2 -n shop -o json").json();
    assert_eq!(stat["rows"].as_array().unwrap().len(), 1);
    let said = stage.mesh("stat deploy/wbe -n shop");
    assert!(
        !said.good && said.stderr.contains("did you mean \"web\"?"),
        "{said:?}"
    );
}

#[test]
fn a_replica_that_does_not_answer_is_named_and_the_rest_is_shown() {
    let Some(stage) = two_replicas() else { return };
    stage.controller("mesh-controller-c", true);
    let said = stage.mesh("stat -A -o json");
    assert!(said.stderr.contains("mesh-controller-c"), "{said:?}");
    assert_eq!(said.json()["rows"].as_array().unwrap().len(), 3);
}

#[test]
fn a_tap_hears_all_replicas() {
    let Some(stage) = two_replicas() else { return };
    let mut tap = command(stage.cluster.kubeconfig(), "tap -A -o json")
        .stdout(Stdio::piped())
        .spawn()
        .expect("mesh runs");
    let lines = BufReader::new(tap.stdout.take().expect("its output"))
        .lines()
        .take(2);
    let mut pods: Vec<String> = lines
        .map(|line| {
            let event: serde_json::Value =
                serde_json::from_str(&line.expect("a line")).expect("JSON");
            event["source_pod"].as_str().expect("a pod").to_owned()
        })
        .collect();
    tap.kill().expect("it runs still");
    tap.wait().expect("it ended");
    pods.sort();
    assert_eq!(pods, ["web-1", "web-2"]);
}

#[test]
fn labels_are_resolved_by_the_api_server() {
    let Some(stage) = two_replicas() else { return };
    stage.namespace("shop", json!({}));
    for (name, tier) in [("web", "front"), ("cart", "back")] {
        let labels = json!({"app": name});
        stage.create(("apps", "v1", "Deployment"), "shop", json!({
            "metadata": {"name": name, "labels": {"tier": tier}},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "app"}]}},
            },
        }));
    }
    let stat = stage
        .mesh("stat deploy -l tier=front -n shop -o json")
        .json();
    assert_eq!(stat["rows"].as_array().unwrap().len(), 1);
    assert_eq!(stat["rows"][0]["name"], "web");
    let said = stage.mesh("stat -l tier=middle -n shop");
    assert!(
        said.stderr.contains("has the labels tier=middle"),
        "{said:?}"
    );
    let said = stage.mesh("stat deploy/web -l tier=front -n shop");
    assert!(said.stderr.contains("take one of them"), "{said:?}");
}

#[test]
fn versions_and_their_skew() {
    let Some(stage) = two_replicas() else { return };
    let versions = stage.mesh("version -o json").json();
    assert_eq!(versions["controller"].as_object().unwrap().len(), 2);
    assert_eq!(versions["proxies"]["0.0.9"], 2);
    assert_eq!(versions["skew"], true);
}

#[test]
fn what_one_proxy_believes() {
    let Some(stage) = two_replicas() else { return };
    stage.namespace("shop", json!({}));
    stage.create(
        ("", "v1", "Pod"),
        "shop",
        json!({
            "metadata": {"name": "web-1"},
            "spec": {
                "nodeName": "node-1",
                "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "app"}],
            },
        }),
    );
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    let id = "spiffe://cluster.local/ns/shop/sa/web"
        .try_into()
        .expect("a URI");
    params.subject_alt_names = vec![rcgen::SanType::URI(id)];
    let certificate = params.self_signed(&key).expect("a certificate");
    let belief = json!({
        "namespace": "shop", "pod": "web-1", "ready": true,
        "certificate": {"identity": "spiffe://cluster.local/ns/shop/sa/web", "chain_pem": certificate.pem()},
        "inbound": {"workload": null, "zone": "", "ports": [{"port": 8080, "protocol": "http", "service": null}]},
        "destinations": [],
    });
    let address = stage.web(belief.to_string());
    stage
        .cluster
        .serve_pod_ports("shop", "web-1", [(ADMIN_PORT, address)]);

    let identity = stage.mesh("identity web-1 -n shop -o json").json();
    assert_eq!(
        identity["identity"],
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    // By the workload: the controller knows that web-1 is one of its pods.
    let identity = stage.mesh("identity deploy/web -n shop -o json").json();
    assert_eq!(identity["pod"], "shop/web-1");
    let policy = stage.mesh("diagnostics policy web-1 -n shop");
    assert!(policy.stdout.contains("8080  http"), "{policy:?}");
    assert_eq!(
        stage.mesh("diagnostics proxy-config web-1 -n shop").json(),
        belief
    );
    let said = stage.mesh("identity gone -n shop");
    assert!(!said.good && said.stderr.contains("not found"), "{said:?}");
}

#[test]
fn failures_say_what_to_do() {
    let said = mesh(Path::new("/nonexistent/kubeconfig"), "stat");
    assert!(
        said.stderr
            .contains("Can't read the kubeconfig /nonexistent/kubeconfig"),
        "{said:?}"
    );

    let Some(stage) = Stage::new() else { return };
    let said = stage.mesh("stat --context staging");
    assert!(said.stderr.contains("no context \"staging\""), "{said:?}");

    let nowhere = changed(stage.cluster.kubeconfig(), |kubeconfig| {
        kubeconfig["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    });
    let said = mesh(&nowhere, "stat");
    assert!(
        said.stderr.contains("Can't reach the cluster of context"),
        "{said:?}"
    );
    assert!(said.stderr.contains("refused"), "{said:?}");

    let stranger = changed(stage.cluster.kubeconfig(), |kubeconfig| {
        kubeconfig["users"][0]["user"] = json!({"token": "of nobody"});
    });
    let said = mesh(&stranger, "stat");
    assert!(
        said.stderr.contains("does not accept your credentials"),
        "{said:?}"
    );

    let said = stage.mesh("stat");
    assert!(
        said.stderr
            .contains("run mesh install | kubectl apply -f -"),
        "{said:?}"
    );

    stage.namespace(SYSTEM_NAMESPACE, json!({}));
    stage.controller("mesh-controller-a", false);
    let said = stage.mesh("stat");
    assert!(
        said.stderr
            .contains("mesh-controller-a is Pending (0/1 nodes are available)"),
        "{said:?}"
    );
    assert!(!said.good);
}
