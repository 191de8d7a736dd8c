//! Roots that live for two minutes instead of a year: they rotate while requests flow.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Secret},
};
use mesh_api::names::{
    CA_SECRET, CONTROLLER, LABEL_COMPONENT, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, TRUST_KEY,
};
use mesh_tests::report::Load;
use serde_json::json;

use crate::{stage::Stage, workload::MESHED};

pub(crate) fn under_load(stage: &Stage) {
    let scale = |replicas: u32| {
        let change = json!({"spec": {"replicas": replicas}});
        stage.patch::<Deployment>(SYSTEM_NAMESPACE, CONTROLLER, &change);
        stage.rollout(SYSTEM_NAMESPACE, CONTROLLER);
    };
    // A root lives as long as was said when it was made: a new mesh, as it were, whose pods start with its first root.
    scale(0);
    stage.until("the controller's pod is gone", || {
        let pods: Vec<Pod> = stage.list(SYSTEM_NAMESPACE, &format!("{LABEL_COMPONENT}=controller"));
        pods.is_empty().then_some(())
    });
    let first = roots(stage);
    stage.delete::<Secret>(SYSTEM_NAMESPACE, CA_SECRET);
    let deployment: Deployment = stage
        .get(SYSTEM_NAMESPACE, CONTROLLER)
        .expect("it is there");
    let template = deployment.spec.template.spec;
    let mut arguments = template
        .and_then(|spec| spec.containers[0].args.clone())
        .expect("arguments");
    arguments.extend(["--leaf-lifetime=12s".into(), "--root-lifetime=120s".into()]);
    let container = json!({"name": CONTROLLER, "args": arguments});
    stage.strategic::<Deployment>(
        SYSTEM_NAMESPACE,
        CONTROLLER,
        &json!({"spec": {"template": {"spec": {"containers": [container]}}}}),
    );
    scale(1);
    stage.until("the new mesh's root", || {
        roots(stage).is_disjoint(&first).then_some(())
    });
    // Pods that start before the API server trusts its webhook start without a proxy.
    stage.mesh("check --wait 2m");
    for app in ["web", "client"] {
        let change = json!({"spec": {"template": {"metadata": {"annotations": {"mesh": "new"}}}}});
        stage.patch::<Deployment>(MESHED, app, &change);
        stage.rollout(MESHED, app);
    }

    let before = roots(stage);
    let load = stage.start(
        MESHED,
        "client",
        "load --url http://web/ --rate 20 --seconds 150",
    );
    stage.until("two roots overlap", || {
        let now = roots(stage);
        (now.len() > 1 && now.iter().any(|root| !before.contains(root))).then_some(())
    });
    stage.until("the first root is no longer trusted", || {
        roots(stage).is_disjoint(&before).then_some(())
    });
    let load: Load = stage.end(load).json();
    assert_eq!(load.failed, 0, "{:?}", load.errors);
    mesh_tests::figure!("{} requests, p99 {:.1} ms", load.ok, load.p99_ms);
}

/// What pods of the namespace trust.
fn roots(stage: &Stage) -> BTreeSet<String> {
    let bundle: ConfigMap = stage.get(MESHED, TRUST_CONFIG_MAP).expect("the bundle");
    let text = bundle
        .data
        .and_then(|mut data| data.remove(TRUST_KEY))
        .expect("roots");
    let end = "-----END CERTIFICATE-----";
    text.split_inclusive(end)
        .map(|root| root.trim().to_owned())
        .filter(|root| root.ends_with(end))
        .collect()
}
