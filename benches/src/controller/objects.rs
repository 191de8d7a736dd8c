//! A cluster as files for the `directory` source.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use mesh_api::names;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const NAMESPACE: &str = "bench";
/// Of each service.
const PODS: usize = 10;

/// Services of ten pods each.
pub(super) struct Objects {
    pub(super) folder: PathBuf,
    pub(super) services: usize,
}

/// A pod, as its proxy knows it.
pub(super) struct Pod {
    pub(super) namespace: &'static str,
    pub(super) name: String,
    pub(super) token: String,
}

impl Objects {
    /// Everything that there is at the beginning.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        for folder in ["pods", "services", "endpointslices", "tokens"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        for service in 0..self.services {
            let name = format!("s{service}");
            self.put("services", &name, &json!({
                "metadata": {"namespace": NAMESPACE, "name": name},
                "spec": {"clusterIPs": [cluster_ip(service)], "ports": [{"name": "http", "port": 80}]},
            }))?;
            for n in 0..PODS {
                self.write_pod(service, n)?;
            }
            self.write_slice(service, true)?;
        }
        Ok(())
    }

    pub(super) fn pods(&self) -> usize {
        self.services * PODS
    }

    /// The pod of the `n`th proxy. More proxies than pods share pods, which the controller allows (a restart).
    pub(super) fn pod(&self, n: usize) -> Pod {
        let (service, n) = (n / PODS % self.services, n % PODS);
        Pod {
            namespace: NAMESPACE,
            name: pod_name(service, n),
            token: token(service, n),
        }
    }

    pub(super) fn destination(&self, service: usize) -> SocketAddr {
        SocketAddr::from((cluster_ip(service % self.services), 80))
    }

    /// A Service's endpoints, of which the first is ready or not.
    pub(super) fn write_slice(&self, service: usize, ready: bool) -> anyhow::Result<()> {
        let endpoints: Vec<Value> = (0..PODS)
            .map(|n| {
                json!({
                    "addresses": [pod_ip(service, n)], "conditions": {"ready": n > 0 || ready},
                    "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod_name(service, n)},
                })
            })
            .collect();
        let name = format!("s{service}");
        self.put("endpointslices", &name, &json!({
            "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        }))
    }

    fn write_pod(&self, service: usize, n: usize) -> anyhow::Result<()> {
        let (name, account, ip) = (
            pod_name(service, n),
            format!("s{service}"),
            pod_ip(service, n),
        );
        self.put("pods", &name, &json!({
            "metadata": {
                "namespace": NAMESPACE, "name": name, "labels": {"app": account, "pod-template-hash": "5d4f"},
                "annotations": {names::ANNOTATION_PROXY: "true"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{account}-5d4f"), "uid": "1", "controller": true}],
            },
            "spec": {"serviceAccountName": account, "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        }))?;
        let digest = Sha256::digest(token(service, n));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let holder = json!({"namespace": NAMESPACE, "serviceAccount": account, "pod": name});
        let path = self.folder.join("tokens").join(format!("{digest}.json"));
        Ok(fs::write(path, holder.to_string())?)
    }

    fn put(&self, plural: &str, name: &str, object: &Value) -> anyhow::Result<()> {
        let folder = self.folder.join(plural);
        replace(&folder.join(format!("{NAMESPACE}.{name}.json")), object)
    }
}

/// Readers see the old file or the new one.
fn replace(path: &Path, object: &Value) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, object.to_string())?;
    Ok(fs::rename(temporary, path)?)
}

fn pod_name(service: usize, n: usize) -> String {
    format!("s{service}-5d4f-{n}")
}

fn token(service: usize, n: usize) -> String {
    format!("token-{service}-{n}")
}

fn pod_ip(service: usize, n: usize) -> Ipv4Addr {
    Ipv4Addr::new(
        10,
        100 + n as u8,
        (service / 250) as u8,
        1 + (service % 250) as u8,
    )
}

fn cluster_ip(service: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, (service / 250) as u8, 1 + (service % 250) as u8)
}
