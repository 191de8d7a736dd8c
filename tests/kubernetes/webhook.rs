//! The injector, asked by the API server itself over TLS, with the bundle that the leader keeps there.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{Pod, Service},
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use mesh_api::names;
use mesh_tests::cluster::Cluster;
use serde_json::{Value, json};

use crate::replica::{Replica, cluster, namespace, pem_of_roots, pod, until};

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_opted_in_are_created_with_a_proxy() {
    let Some((cluster, client)) = cluster("pods_that_opted_in_are_created_with_a_proxy").await
    else {
        return;
    };
    let replica = Replica::start(&cluster, "a", &[]);
    replica.ready().await;
    install(&cluster, &client, &replica, "Fail").await;
    // Labelled a moment ago: the injector may not have heard of it.
    namespace(&client, "shop", Some("enabled")).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let created = create(&pods, &pod("web-1", json!({"labels": {"app": "web"}}))).await;
    let annotations = created.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(
        annotations.get(names::ANNOTATION_PROXY).map(String::as_str),
        Some("true")
    );
    let value = serde_json::to_value(&created).unwrap();
    let init = value["spec"]["initContainers"].as_array().unwrap();
    let named = |name: &str| init.iter().any(|container| container["name"] == name);
    assert!(
        named(names::INIT_CONTAINER) && named(names::PROXY_CONTAINER),
        "{value}"
    );
    assert_eq!(created.metadata.labels.unwrap()["app"], "web");

    let out = create(
        &pods,
        &pod("out", json!({"labels": {names::LABEL_INJECT: "disabled"}})),
    )
    .await;
    assert_eq!(out.metadata.annotations, None);
    // Only the pod asks.
    namespace(&client, "plain", None).await;
    let plain: Api<Pod> = Api::namespaced(client.clone(), "plain");
    let own = create(
        &plain,
        &pod("own", json!({"labels": {names::LABEL_INJECT: "enabled"}})),
    )
    .await;
    assert!(own.metadata.annotations.is_some());
    assert_eq!(
        create(&plain, &pod("none", json!({})))
            .await
            .metadata
            .annotations,
        None
    );

    // What can't be done is said to who asks for it.
    let mut host = pod("host", json!({}));
    host.spec.as_mut().unwrap().host_network = Some(true);
    assert_eq!(create(&pods, &host).await.metadata.annotations, None);
    let nonsense = json!({"annotations": {names::ANNOTATION_OPAQUE_PORTS: "many"}});
    let refused = pods
        .create(&PostParams::default(), &pod("nonsense", nonsense))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains(names::ANNOTATION_OPAQUE_PORTS),
        "{refused}"
    );
    assert!(replica.metric("mesh_controller_admissions_total").await >= 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_of_the_webhook_is_kept_right() {
    let Some((cluster, client)) = cluster("the_bundle_of_the_webhook_is_kept_right").await else {
        return;
    };
    let quick = ["--leaf-lifetime", "5s", "--root-lifetime", "50s"];
    let replica = Replica::start(&cluster, "a", &quick);
    replica.ready().await;
    install(&cluster, &client, &replica, "Fail").await;
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());

    let spoil = json!({"webhooks": webhooks(replica.webhook.port(), "Fail", Some("bm9uc2Vuc2U="))});
    api.patch(
        names::WEBHOOK,
        &PatchParams::default(),
        &Patch::Merge(spoil),
    )
    .await
    .unwrap();
    bundle_is_right(&client).await;
    api.delete(names::WEBHOOK, &DeleteParams::default())
        .await
        .unwrap();
    install(&cluster, &client, &replica, "Fail").await;

    // Through two rotations of the roots, and several certificates: no pod is refused.
    namespace(&client, "shop", Some("enabled")).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let first = pem_of_roots(&client).await;
    let mut number = 0;
    until("other roots", async || {
        number += 1;
        let created = pods
            .create(
                &PostParams::default(),
                &pod(&format!("p{number}"), json!({})),
            )
            .await
            .expect("it is admitted");
        assert!(created.metadata.annotations.is_some());
        let now = pem_of_roots(&client).await;
        let gone = first
            .split_inclusive("-----END CERTIFICATE-----")
            .all(|root| {
                let root = root.trim();
                root.is_empty() || !now.contains(root)
            });
        gone.then_some(())
    })
    .await;
    println!("    {number} pods created while the roots were replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_refuses_no_pod() {
    let Some((cluster, client)) = cluster("a_replica_that_ends_refuses_no_pod").await else {
        return;
    };
    let replica = Replica::start(&cluster, "a", &[]);
    replica.ready().await;
    install(&cluster, &client, &replica, "Fail").await;
    namespace(&client, "shop", Some("enabled")).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    replica.signal(nix::sys::signal::Signal::SIGTERM);
    // As long as API servers may not have heard that it ends.
    for number in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let created = create(&pods, &pod(&format!("p{number}"), json!({}))).await;
        assert!(created.metadata.annotations.is_some());
    }
    let (code, text) = replica.get("/ready").await.unwrap();
    assert_eq!((code, text.contains("stopping")), (503, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_are_read_again_when_they_change() {
    let Some((cluster, client)) = cluster("the_settings_are_read_again_when_they_change").await
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inject.json");
    std::fs::write(&file, r#"{"proxyImage": "one:1"}"#).unwrap();
    let settings = format!("--inject-settings={}", file.display());
    let replica = Replica::start(&cluster, "a", &[&settings]);
    replica.ready().await;
    install(&cluster, &client, &replica, "Fail").await;
    namespace(&client, "shop", Some("enabled")).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let image = |pod: &Pod| {
        serde_json::to_value(pod).unwrap()["spec"]["initContainers"][0]["image"].clone()
    };
    assert_eq!(
        image(&create(&pods, &pod("before", json!({}))).await),
        "one:1"
    );
    std::fs::write(&file, r#"{"proxyImage": "two:2"}"#).unwrap();
    let mut number = 0;
    until("the new image", async || {
        number += 1;
        let created = create(&pods, &pod(&format!("p{number}"), json!({}))).await;
        (image(&created) == "two:2").then_some(())
    })
    .await;
}

async fn create(pods: &Api<Pod>, pod: &Pod) -> Pod {
    let created = pods.create(&PostParams::default(), pod).await;
    created.expect("it is admitted")
}

/// Makes the API server ask `replica`, as the manifests of the mesh do, and waits until it can.
async fn install(cluster: &Cluster, client: &Client, replica: &Replica, policy: &str) {
    let params = PatchParams::apply("test").force();
    // The name leads to this machine. The certificate is for the name of the Service.
    let services: Api<Service> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": names::WEBHOOK},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    services
        .patch(names::WEBHOOK, &params, &Patch::Apply(service))
        .await
        .unwrap();
    // The in-memory one is told where that is.
    cluster.serve_service(names::SYSTEM_NAMESPACE, names::WEBHOOK, replica.webhook);
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = json!({
        "metadata": {"name": names::WEBHOOK},
        "webhooks": webhooks(replica.webhook.port(), policy, None),
    });
    let configuration = serde_json::from_value(configuration).unwrap();
    api.create(&PostParams::default(), &configuration)
        .await
        .unwrap();
    bundle_is_right(client).await;
    if cluster.is_real() {
        // Until a real API server has heard of what it stores itself.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn webhooks(port: u16, policy: &str, bundle: Option<&str>) -> Value {
    let selected = |name: &str, namespaces: &str, pods: Value| {
        json!({
            "name": format!("{name}.inject.mesh.internal"),
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": policy, "timeoutSeconds": 10,
            "clientConfig": {
                "service": {"namespace": names::SYSTEM_NAMESPACE, "name": names::WEBHOOK, "path": "/inject", "port": port},
                "caBundle": bundle,
            },
            "namespaceSelector": {"matchExpressions": [{"key": names::LABEL_INJECT, "operator": namespaces, "values": ["enabled"]}]},
            "objectSelector": {"matchExpressions": [pods]},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        })
    };
    let own = |operator: &str, value: &str| json!({"key": names::LABEL_INJECT, "operator": operator, "values": [value]});
    json!([
        selected("namespace", "In", own("NotIn", "disabled")),
        selected("pod", "NotIn", own("In", "enabled")),
    ])
}

async fn bundle_is_right(client: &Client) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    until("the webhook's bundle", async || {
        let webhooks = api
            .get(names::WEBHOOK)
            .await
            .unwrap()
            .webhooks
            .unwrap_or_default();
        let pem = pem_of_roots(client).await;
        let right =
            |bundle: &Option<ByteString>| bundle.as_ref().is_some_and(|b| b.0 == pem.as_bytes());
        (webhooks.len() == 2
            && webhooks
                .iter()
                .all(|hook| right(&hook.client_config.ca_bundle)))
        .then_some(())
    })
    .await;
}
