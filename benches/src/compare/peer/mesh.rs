//! mesh itself, with every default feature on, behind a real controller.

use std::{collections::BTreeMap, path::Path};

use mesh_api::names;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{APP_H2_PORT, APP_PORT, Pair, Peer, ProxyProcess};
use crate::compare::topology::{NODE, Pod};

/// The Service's address: unlike the others, the mesh has to find the pod behind it.
const CLUSTER_IP: [u8; 4] = [10, 9, 96, 1];

/// Two pods and a Service in the controller's folder; certificates come from the controller.
pub(super) fn peer(mesh: &Path) -> anyhow::Result<Peer> {
    let mesh = mesh.to_string_lossy().into_owned();
    let mut files = BTreeMap::new();
    for pod in [Pod::Client, Pod::Server] {
        let name = pod.name();
        let token = format!("token-of-{name}");
        let digest: String = Sha256::digest(&token)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let holder = json!({"namespace": "bench", "serviceAccount": name, "pod": name});
        files.insert(format!("objects/tokens/{digest}.json"), holder.to_string());
        files.insert(format!("{name}.token"), token);
        files.insert(
            format!("objects/pods/bench.{name}.json"),
            pod_object(pod).to_string(),
        );
    }
    let port = |name, port| json!({"name": name, "port": port, "targetPort": port});
    let address = CLUSTER_IP.map(|byte| byte.to_string()).join(".");
    files.insert(
        "objects/services/bench.server.json".into(),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "server", "namespace": "bench"},
            "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [port("http", APP_PORT), port("h2", APP_H2_PORT)]},
        })
        .to_string(),
    );
    files.insert(
        "objects/endpointslices/bench.server.json".into(),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "server", "namespace": "bench",
                "labels": {"kubernetes.io/service-name": "server"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": APP_PORT, "protocol": "TCP"},
                {"name": "h2", "port": APP_H2_PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [Pod::Server.ip().to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "bench", "name": "server"}}],
        })
        .to_string(),
    );
    let controller = [
        &mesh,
        "controller",
        "run",
        "--source",
        "directory",
        "--directory",
        "{dir}/objects",
        "--state-dir",
        "{dir}/ca",
        "--listen",
        &format!("{NODE}:{}", names::CONTROLLER_PORT),
        "--admin-listen",
        &format!("{NODE}:{}", names::CONTROLLER_ADMIN_PORT),
        "--observe-listen",
        "127.0.0.1:8086",
        "--bundle-file",
        "{dir}/bundle.pem",
    ];
    let controller = controller.map(str::to_owned).to_vec();
    let proxy = |pod: Pod| {
        let name = pod.name();
        let command = [
            &mesh,
            "proxy",
            "run",
            "--controller-address",
            &format!("{NODE}:{}", names::CONTROLLER_PORT),
            "--token-file",
            &format!("{{dir}}/{name}.token"),
            "--trust-bundle-file",
            "{dir}/bundle.pem",
            "--namespace",
            "bench",
            "--pod",
            name,
            "--log-level",
            "warn",
        ];
        ProxyProcess {
            command: command.map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
        }
    };
    Ok(Peer {
        name: "mesh".into(),
        proxies: Some(Pair {
            client: proxy(Pod::Client),
            server: proxy(Pod::Server),
            outbound_port: names::OUTBOUND_PORT,
            inbound_port: names::INBOUND_PORT,
        }),
        files,
        node: vec![ProxyProcess {
            command: controller,
            env: BTreeMap::new(),
        }],
        target: Some(CLUSTER_IP.into()),
    })
}

fn pod_object(pod: Pod) -> Value {
    let (name, ip) = (pod.name(), pod.ip().to_string());
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "bench", "uid": name,
            "labels": {names::LABEL_INJECT: "enabled"},
            "annotations": {names::ANNOTATION_PROXY: "true"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": name}],
        },
        "spec": {"serviceAccountName": name, "containers": [{"name": "app",
            "ports": [{"containerPort": APP_PORT}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
