//! Merge, JSON and strategic merge patches; the status and scale subresources.

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v1::Scale};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Place, config_map, object, pod, refusal};

pub(super) fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
            },
        },
    })
}

#[tokio::test]
async fn a_merge_patch_sets_and_removes() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    maps.create(&Default::default(), &config_map("a", "1"))
        .await
        .expect("created");
    let patch =
        json!({ "data": { "key": null, "other": "2" }, "metadata": { "labels": { "a": "b" } } });
    let patched = maps
        .patch("a", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patched");
    assert_eq!(
        patched.data,
        Some([("other".to_owned(), "2".to_owned())].into())
    );
    let again = maps
        .patch("a", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("patched");
    assert_eq!(
        again.metadata.resource_version, patched.metadata.resource_version,
        "nothing changed"
    );
    let old = json!({ "metadata": { "resourceVersion": "1" }, "data": { "x": "y" } });
    let refused = refusal(
        maps.patch("a", &PatchParams::default(), &Patch::Merge(&old))
            .await,
    );
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    let missing = maps
        .patch("none", &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    assert_eq!(refusal(missing).code, 404);
}

#[tokio::test]
async fn a_json_patch_applies_as_a_whole_or_not() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    maps.create(&Default::default(), &config_map("a", "1"))
        .await
        .expect("created");
    let patch = |value: Value| Patch::Json::<()>(serde_json::from_value(value).expect("a patch"));
    let good = patch(json!([
        { "op": "test", "path": "/data/key", "value": "1" },
        { "op": "replace", "path": "/data/key", "value": "2" },
    ]));
    let patched = maps
        .patch("a", &PatchParams::default(), &good)
        .await
        .expect("patched");
    assert_eq!(
        patched.data,
        Some([("key".to_owned(), "2".to_owned())].into())
    );
    let refused = refusal(maps.patch("a", &PatchParams::default(), &good).await);
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (422, "Invalid"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn a_strategic_merge_patch_knows_containers_by_name() {
    let Some(place) = Place::new().await else {
        return;
    };
    let deployments: Api<Deployment> = Api::namespaced(place.client.clone(), &place.namespace);
    deployments
        .create(&Default::default(), &object(deployment("a")))
        .await
        .expect("created");
    let patch = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "more", "image": "more:1" }] } } } });
    let params = PatchParams::default();
    let patched = deployments
        .patch("a", &params, &Patch::Strategic(&patch))
        .await
        .expect("patched");
    let spec = patched.spec.template.spec.expect("a pod's spec");
    let mut names: Vec<_> = spec
        .containers
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["app", "more"]);
    assert_eq!(patched.metadata.generation, Some(2), "the spec changed");
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    let labelled = deployments
        .patch("a", &params, &Patch::Strategic(&label))
        .await
        .expect("patched");
    assert_eq!(
        labelled.metadata.generation,
        Some(2),
        "the spec did not change"
    );
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let Some(place) = Place::new().await else {
        return;
    };
    let pods = place.pods();
    let mut wanted = pod("a");
    wanted["status"] = json!({ "phase": "Running" });
    let created = pods
        .create(&Default::default(), &object(wanted))
        .await
        .expect("created");
    assert_eq!(
        created.status.and_then(|status| status.phase).as_deref(),
        Some("Pending")
    );
    let patch = json!({
        "metadata": { "labels": { "not": "this" } },
        "spec": { "nodeName": "not-this" },
        "status": { "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }] },
    });
    let params = PatchParams::default();
    let patched = pods
        .patch_status("a", &params, &Patch::Merge(&patch))
        .await
        .expect("patched");
    assert_eq!(
        patched.status.and_then(|status| status.pod_ip).as_deref(),
        Some("10.0.0.1")
    );
    assert_eq!(patched.spec.and_then(|spec| spec.node_name), None);
    let patch =
        json!({ "metadata": { "labels": { "this": "one" } }, "status": { "phase": "Failed" } });
    let patched = pods
        .patch("a", &params, &Patch::Merge(&patch))
        .await
        .expect("patched");
    assert_eq!(
        patched.status.and_then(|status| status.phase).as_deref(),
        Some("Running")
    );
    assert!(
        patched
            .metadata
            .labels
            .is_some_and(|labels| labels["this"] == "one")
    );
    assert_eq!(
        pods.get_status("a")
            .await
            .expect("it")
            .metadata
            .name
            .as_deref(),
        Some("a")
    );
}

#[tokio::test]
async fn a_deployment_is_scaled() {
    let Some(place) = Place::new().await else {
        return;
    };
    let deployments: Api<Deployment> = Api::namespaced(place.client.clone(), &place.namespace);
    deployments
        .create(&Default::default(), &object(deployment("a")))
        .await
        .expect("created");
    let scale: Scale = deployments.get_scale("a").await.expect("a scale");
    assert_eq!(scale.spec.and_then(|spec| spec.replicas), Some(2));
    assert_eq!(
        scale.status.and_then(|status| status.selector).as_deref(),
        Some("app=a")
    );
    let patch = json!({ "spec": { "replicas": 5 } });
    let params = PatchParams::default();
    let scaled = deployments
        .patch_scale("a", &params, &Patch::Merge(&patch))
        .await
        .expect("scaled");
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(5));
    let found = deployments.get("a").await.expect("it");
    assert_eq!(found.spec.replicas, Some(5));
    assert_eq!(found.metadata.generation, Some(2));
}
