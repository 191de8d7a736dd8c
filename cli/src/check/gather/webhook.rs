//! Whether the injector can be reached as the API server reaches it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use mesh_api::names::{ANNOTATION_PROXY, LABEL_INJECT, SYSTEM_NAMESPACE, WEBHOOK, WEBHOOK_PORT};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use tokio_rustls::TlsConnector;

use super::{super::facts::Found, sentence};
use crate::cluster::Cluster;

/// The API server waits about as long for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a replica shows a certificate that the bundle vouches for.
pub(super) async fn handshake(cluster: &Cluster, pod: &str, bundle: &str) -> Found<()> {
    let attempt = async {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.context("caBundle can't be read")?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(format!("{WEBHOOK}.{SYSTEM_NAMESPACE}.svc"))?;
        let (stream, complaint) = cluster.forward(SYSTEM_NAMESPACE, pod, WEBHOOK_PORT).await?;
        let connector = TlsConnector::from(Arc::new(config));
        match tokio::time::timeout(PATIENCE, connector.connect(name, stream)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match complaint.text() {
                Some(words) => bail!("{words}"),
                None => bail!("its certificate is refused: {error}"),
            },
            Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
        }
    };
    attempt.await.map_err(sentence)
}

/// Whether the API server has a pod injected that asks for it. Nothing is stored.
pub(super) async fn dry_run(cluster: &Cluster, namespace: Option<&str>) -> Found<bool> {
    let namespace = match namespace {
        Some(namespace) => namespace.to_owned(),
        None => opted_in(cluster).await,
    };
    let attempt = async {
        let api: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
        let what = format!("create a pod in {namespace} (with dryRun, so that nothing is stored)");
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let pod = pod()?;
        let answer = cluster.ask(&what, api.create(&params, &pod)).await?;
        anyhow::Ok(answer.annotations().contains_key(ANNOTATION_PROXY))
    };
    attempt.await.map_err(sentence)
}

/// A namespace that opted in, or the one that every cluster has.
async fn opted_in(cluster: &Cluster) -> String {
    let api: Api<Namespace> = Api::all(cluster.client());
    let params = ListParams::default().labels(&format!("{LABEL_INJECT}=enabled"));
    let found = cluster.ask("list namespaces", api.list(&params)).await;
    let mut names = found
        .map(|list| list.items)
        .unwrap_or_default()
        .into_iter()
        .map(|namespace| namespace.name_any())
        .filter(|name| name != "kube-system" && name != SYSTEM_NAMESPACE);
    names.next().unwrap_or_else(|| "default".into())
}

/// As harmless as a pod can be, so that no other admission refuses it.
fn pod() -> Result<Pod> {
    let pod = json!({
        "metadata": {"generateName": "mesh-check-", "labels": {LABEL_INJECT: "enabled"}},
        "spec": {
            "serviceAccountName": "default",
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "check",
                "image": "mesh-check",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
            }],
        },
    });
    Ok(serde_json::from_value(pod)?)
}
