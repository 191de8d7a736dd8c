//! The control plane.

use futures_util::future::join_all;
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration, apps::v1::Deployment,
    coordination::v1, core::v1::Pod,
};
use kube::{Api, ResourceExt, api::ListParams};
use mesh_api::{
    names::{CONTROLLER, LABEL_COMPONENT, SYSTEM_NAMESPACE, WEBHOOK},
    v1::{InventoryRequest, InventoryResponse, ProxyInfo},
};
use x509_parser::pem::Pem;

use super::{
    super::facts::{Control, Found, Lease, Replica, Root, Webhook},
    Asked, sentence, webhook,
};
use crate::{
    client::{call, merge},
    cluster::{Cluster, Controller, Controllers},
};

/// The control plane, and the proxies that it hears of.
pub(super) async fn facts(
    cluster: &Cluster,
    asked: Asked<'_>,
) -> (Control, Option<Vec<ProxyInfo>>) {
    let (deployment, pods, lease, configuration) = tokio::join!(
        deployment(cluster),
        pods(cluster),
        lease(cluster),
        configuration(cluster)
    );
    // Without the right to list pods, that is what the check says of the Deployment.
    let (deployment, pods) = match pods {
        Ok(pods) => (deployment, pods),
        Err(cause) => (deployment.and(Err(cause)), Vec::new()),
    };
    let ready = Controllers::of(&pods).ready;
    let inventories = join_all(ready.iter().map(|pod| inventory(cluster, pod)));
    let bundle = match &configuration {
        Ok(Some(webhook)) if !webhook.roots.is_empty() => Some(webhook.ca_bundle.as_str()),
        _ => None,
    };
    let served = join_all(ready.iter().map(|pod| async {
        match bundle {
            Some(bundle) => Some(webhook::handshake(cluster, &pod.pod, bundle).await),
            None => None,
        }
    }));
    let dry_run = async {
        match bundle {
            Some(_) => Some(webhook::dry_run(cluster, asked.namespace).await),
            None => None,
        }
    };
    let (inventories, served, dry_run) = tokio::join!(inventories, served, dry_run);

    let mut replicas: Vec<Replica> = pods.iter().map(replica).collect();
    for ((pod, inventory), served) in ready.iter().zip(&inventories).zip(served) {
        if let Some(replica) = replicas.iter_mut().find(|replica| replica.pod == pod.pod) {
            let version = inventory.as_ref().map(|all| all.controller_version.clone());
            replica.version = Some(version.map_err(Clone::clone));
            replica.webhook = served;
        }
    }
    let heard: Vec<InventoryResponse> = inventories.into_iter().flatten().collect();
    let proxies = (!heard.is_empty()).then(|| merge::inventory(heard).proxies);
    let control = Control {
        deployment,
        replicas,
        lease,
        webhook: configuration,
        dry_run,
    };
    (control, proxies)
}

async fn deployment(cluster: &Cluster) -> Found<Option<(i32, i32)>> {
    let api: Api<Deployment> = Api::namespaced(cluster.client(), SYSTEM_NAMESPACE);
    let what = "read the Deployment mesh-controller in mesh-system";
    let found = cluster.ask(what, api.get_opt(CONTROLLER)).await;
    let found = found.map_err(sentence)?;
    Ok(found.map(|deployment| {
        let wanted = deployment.spec.replicas;
        let ready = deployment.status.and_then(|status| status.ready_replicas);
        // The API server's own default.
        (wanted.unwrap_or(1), ready.unwrap_or_default())
    }))
}

async fn pods(cluster: &Cluster) -> Found<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(cluster.client(), SYSTEM_NAMESPACE);
    let params = ListParams::default().labels(&format!("{LABEL_COMPONENT}=controller"));
    let pods = cluster
        .ask("list pods in mesh-system", api.list(&params))
        .await;
    Ok(pods.map_err(sentence)?.items)
}

async fn lease(cluster: &Cluster) -> Found<Option<Lease>> {
    let api: Api<v1::Lease> = Api::namespaced(cluster.client(), SYSTEM_NAMESPACE);
    let what = "read the Lease mesh-controller in mesh-system";
    let found = cluster.ask(what, api.get_opt(CONTROLLER)).await;
    let found = found.map_err(sentence)?;
    Ok(found.and_then(|lease| {
        let spec = lease.spec?;
        Some(Lease {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty())?,
            renewed: spec.renew_time.map(|time| time.0),
            duration_s: spec.lease_duration_seconds.unwrap_or_default(),
        })
    }))
}

async fn configuration(cluster: &Cluster) -> Found<Option<Webhook>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let what = "read the MutatingWebhookConfiguration mesh-webhook";
    let found = cluster.ask(what, api.get_opt(WEBHOOK)).await;
    let found = found.map_err(sentence)?;
    Ok(found.map(|configuration| {
        let webhooks = configuration.webhooks.unwrap_or_default();
        let bundles: Vec<String> = webhooks
            .iter()
            .map(|webhook| {
                let bundle = webhook.client_config.ca_bundle.as_ref();
                bundle.map_or_else(String::new, |bytes| {
                    String::from_utf8_lossy(&bytes.0).into_owned()
                })
            })
            .collect();
        // The shortest one: of several webhooks, one without a bundle is what fails.
        let ca_bundle = bundles.into_iter().min_by_key(String::len);
        let ca_bundle = ca_bundle.unwrap_or_default();
        Webhook {
            roots: roots(&ca_bundle),
            ca_bundle,
            failure_policy: webhooks
                .first()
                .and_then(|webhook| webhook.failure_policy.clone())
                .unwrap_or_default(),
        }
    }))
}

/// What can be read of a bundle.
fn roots(bundle: &str) -> Vec<Root> {
    Pem::iter_from_buffer(bundle.as_bytes())
        .flatten()
        .filter_map(|pem| {
            let certificate = pem.parse_x509().ok()?;
            let time =
                |at: x509_parser::time::ASN1Time| jiff::Timestamp::from_second(at.timestamp()).ok();
            Some(Root {
                not_before: time(certificate.validity().not_before)?,
                not_after: time(certificate.validity().not_after)?,
            })
        })
        .collect()
}

fn replica(pod: &Pod) -> Replica {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let name = pod.name_any();
    let not_ready = Controllers::of(std::slice::from_ref(pod)).not_ready;
    Replica {
        not_ready: not_ready.into_iter().next().map(|words| {
            let words = words.strip_prefix(name.as_str()).unwrap_or(&words);
            words.trim_start().to_owned()
        }),
        restarts: statuses
            .into_iter()
            .flatten()
            .map(|s| s.restart_count)
            .sum(),
        pod: name,
        ..Replica::default()
    }
}

async fn inventory(cluster: &Cluster, pod: &Controller) -> Found<InventoryResponse> {
    let answer = async {
        let (mut client, complaint) = cluster.observe(pod).await?;
        call(client.inventory(InventoryRequest {}))
            .await
            .map_err(|error| match complaint.text() {
                Some(words) => anyhow::anyhow!("{words}"),
                None => error,
            })
    };
    answer.await.map_err(sentence)
}
