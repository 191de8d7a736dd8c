//! mesh itself, with every default feature on, behind a real controller.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::Context as _;
use mesh_api::names;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{APP_H2_PORT, APP_PORT, PROXY_UID, Pair, Peer, ProxyProcess};
use crate::compare::topology::{NODE, Pod};

/// The Service's address: unlike the others, the mesh has to find the pod behind it.
const CLUSTER_IP: [u8; 4] = [10, 9, 96, 1];

/// The programs that are measured, as they are built for a release.
pub(in crate::compare) struct Binaries {
    proxy: String,
    controller: String,
}

impl Binaries {
    /// `mesh-proxy` and `mesh-controller` in a folder; None: where this program is.
    pub(in crate::compare) fn find(folder: Option<&Path>) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let folder = folder.or(own.parent()).unwrap_or(Path::new("."));
        let find = |name| {
            let path = folder.join(name);
            let path = path.canonicalize().with_context(|| {
                format!(
                    "{} is missing: run cargo build --release -p {name} first",
                    path.display()
                )
            });
            Ok::<_, anyhow::Error>(path?.to_string_lossy().into_owned())
        };
        Ok(Self {
            proxy: find("mesh-proxy")?,
            controller: find("mesh-controller")?,
        })
    }

    /// Writes and removes the redirection, for every peer alike.
    pub(in crate::compare) fn init(&self) -> Command {
        let mut command = Command::new(&self.proxy);
        command.args(["init", "--exclude-uid", &PROXY_UID.to_string()]);
        command
    }
}

/// Two pods and a Service in the controller's folder; certificates come from the controller.
pub(super) fn peer(mesh: &Binaries, workers: u8) -> Peer {
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
        &mesh.controller,
        "run",
        "--source=directory",
        "--directory={dir}/objects",
        "--state-dir={dir}/ca",
        &format!("--listen={NODE}:{}", names::CONTROLLER_PORT),
        &format!("--admin-listen={NODE}:{}", names::CONTROLLER_ADMIN_PORT),
        "--observe-listen=127.0.0.1:8086",
        "--bundle-file={dir}/bundle.pem",
    ];
    let proxy = |pod: Pod| {
        ProxyProcess::new([
            mesh.proxy.as_str(),
            "run",
            &format!("--controller-address={NODE}:{}", names::CONTROLLER_PORT),
            &format!("--token-file={{dir}}/{}.token", pod.name()),
            "--trust-bundle-file={dir}/bundle.pem",
            "--namespace=bench",
            &format!("--pod={}", pod.name()),
            &format!("--workers={workers}"),
            "--log-level=warn",
        ])
    };
    Peer {
        name: match workers {
            1 => "mesh".into(),
            _ => format!("mesh, {workers} workers"),
        },
        proxies: Some(Pair {
            client: proxy(Pod::Client),
            server: proxy(Pod::Server),
            outbound_port: names::OUTBOUND_PORT,
            inbound_port: names::INBOUND_PORT,
        }),
        files,
        node: vec![ProxyProcess::new(controller)],
        target: Some(CLUSTER_IP.into()),
        without: Vec::new(),
    }
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
