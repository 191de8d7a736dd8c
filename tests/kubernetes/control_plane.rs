//! A whole control plane of two real replicas, as local processes, and the command line that looks at it.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use mesh_api::names::{
    CONTROLLER, LABEL_INJECT, OBSERVE_PORT, SYSTEM_NAMESPACE, WEBHOOK, WEBHOOK_PORT,
};
use mesh_tests::ports::free_ports;
use serde_json::json;

use crate::observers::Stage;

/// A replica; dropped, it is killed.
pub(super) struct Replica {
    process: Child,
    observe: SocketAddr,
    pub(super) webhook: SocketAddr,
}

impl Replica {
    pub(super) fn start(kubeconfig: &Path, pod: &str) -> Self {
        let [listen, admin, observe, webhook] = free_ports();
        let process = Command::new(mesh_tests::binary::mesh())
            .args([
                "controller",
                "run",
                "--source=kubernetes",
                "--namespace",
                SYSTEM_NAMESPACE,
            ])
            .args(["--pod", pod, "--listen", &listen.to_string()])
            .args(["--admin-listen", &admin.to_string()])
            .args(["--observe-listen", &observe.to_string()])
            .args(["--webhook-listen", &webhook.to_string()])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the controller starts");
        Self {
            process,
            observe,
            webhook,
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn two_replicas_are_checked_and_read_as_one() {
    let Some(stage) = Stage::new() else { return };
    stage.namespace(SYSTEM_NAMESPACE, json!({}));
    stage.namespace("shop", json!({LABEL_INJECT: "enabled"}));
    let labels = json!({"mesh.internal/component": "controller"});
    stage.create(("apps", "v1", "Deployment"), SYSTEM_NAMESPACE, json!({
        "metadata": {"name": CONTROLLER},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": CONTROLLER, "image": "x"}]}},
        },
        "status": {"replicas": 2, "readyReplicas": 2},
    }));
    stage.create(("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"), "", json!({
        "metadata": {"name": WEBHOOK},
        "webhooks": [{
            "name": "namespace.inject.mesh.internal",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 5,
            "clientConfig": {"service": {"name": WEBHOOK, "namespace": SYSTEM_NAMESPACE, "path": "/inject"}},
            "namespaceSelector": {"matchLabels": {LABEL_INJECT: "enabled"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    }));
    let replicas = ["mesh-controller-a", "mesh-controller-b"].map(|pod| {
        let replica = Replica::start(stage.cluster.kubeconfig(), pod);
        stage.controller(pod, true);
        let ports = [
            (OBSERVE_PORT, replica.observe),
            (WEBHOOK_PORT, replica.webhook),
        ];
        (
            stage.cluster.serve_pod_ports(SYSTEM_NAMESPACE, pod, ports),
            replica,
        )
    });
    let forwarded = replicas.iter().all(|(forwarded, _)| *forwarded);
    let address = replicas[0].1.webhook;
    if !forwarded
        || !stage
            .cluster
            .serve_service(SYSTEM_NAMESPACE, WEBHOOK, address)
    {
        mesh_tests::skip(
            "webhook",
            "this API server reaches no sockets of this machine",
        );
        return;
    }

    // The leader writes caBundle and the trust bundle of the namespace in its own time.
    let said = stage.mesh("check --proxy --wait 60s -o json");
    let report = said.json();
    let bad: Vec<_> = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter(|check| check["result"] != "ok")
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");

    let versions = stage.mesh("version -o json").json();
    assert_eq!(
        versions["controller"].as_object().expect("replicas").len(),
        2
    );
    assert_eq!(versions["skew"], false);

    // The injector puts the proxy beside it; both replicas see the same pod, which is counted once.
    stage.create(
        ("", "v1", "Pod"),
        "shop",
        json!({
            "metadata": {"name": "web-1"},
            "spec": {"serviceAccountName": "default", "nodeName": "node-1", "containers": [{"name": "app", "image": "app"}]},
            "status": {"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}]},
        }),
    );
    let row = (0..50).find_map(|_| {
        let said = stage.mesh("stat po/web-1 -n shop -o json");
        said.good.then(|| said.json()["rows"][0].clone())
    });
    let row = row.expect("the replicas hear of the pod");
    assert_eq!(
        (&row["pods"], &row["meshed_pods"]),
        (&json!(1), &json!(1)),
        "{row}"
    );
}
